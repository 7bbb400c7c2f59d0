"""fastMRI's own models, seeded, against their split programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imported_models import (
    agrees,
    agrees_on_measured_data,
    departs,
    imported,
    saved,
    with_broken_graph,
    with_broken_stage,
)
from realdata import needs_recorded_scans
from simulated import coil_maps, header_of, kspace_of, object_image, readouts_of, scan_bytes

from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.fourier import centre_slice, to_image
from edge_runtime.modalities.mri.given import Acquisition
from export.adapters.inputs import Case
from export.adapters.program import interpreter_of

pytestmark = pytest.mark.imports

UNET = '[model]\nkind = "Unet"\nin_chans = 1\nout_chans = 1\nchans = 4\nnum_pool_layers = 3\n'
VARNET = '[model]\nkind = "VarNet"\nnum_cascades = 3\nsens_chans = 3\nsens_pools = 2\nchans = 4\npools = {pools}\n'


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import torch
    from fastmri.models import Unet

    from export.adapters import fastmri

    torch.manual_seed(1)
    model = Unet(1, 1, chans=4, num_pool_layers=3)
    return imported(fastmri, saved(tmp_path_factory.mktemp("unet"), model, UNET))


def varnet_files(folder: Path, mapping: str = "", pools: int = 2, **options: Any) -> tuple[Path, Path]:
    import torch
    from fastmri.models import VarNet

    torch.manual_seed(2)
    model = VarNet(num_cascades=3, sens_chans=3, sens_pools=2, chans=4, pools=pools, **options)
    for number, cascade in enumerate(model.cascades):
        torch.nn.init.constant_(cascade.dc_weight, 0.6 + 0.3 * number)
    return saved(folder, model, VARNET.format(pools=pools) + mapping)


@pytest.fixture(scope="module")
def varnet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from export.adapters import fastmri

    return imported(fastmri, varnet_files(tmp_path_factory.mktemp("varnet")))


def test_a_unet_of_any_size(unet: Any) -> None:
    reports = agrees(unet)
    assert [report.case for report in reports][1] == "random, batch 2, 37 x 45"
    assert not any("Fourier" in node or "DFT" in node for node in unet.program.files)


@needs_recorded_scans
def test_models_on_measured_data(unet: Any, varnet: Any) -> None:
    agrees_on_measured_data(unet)
    agrees_on_measured_data(varnet)


def test_a_varnet_with_several_coils_batches_and_odd_sizes(varnet: Any) -> None:
    reports = agrees(varnet)
    assert [report.case for report in reports] == [
        "random, batch 1, 4 coils, 48 x 40",
        "random, batch 2, 3 coils, 37 x 45",
        "random, batch 3, 1 coils, 64 x 33",
        "random, batch 1, 2 coils, 40 x 56, times 0.01",
        "random, batch 1, 2 coils, 288 x 256, times 100",
    ]
    assert len(reports[0].stages) == 1 + 3 * 3 + 1


def test_more_coils_than_it_was_ever_compared_with(varnet: Any) -> None:
    rng = np.random.default_rng(5)
    hybrid = (rng.standard_normal((1, 17, 33, 21)) + 1j * rng.standard_normal((1, 17, 33, 21))).astype(np.complex64)
    mask = np.arange(33) % 3 == 0
    mask[13:20] = True
    agrees(varnet, [Case("17 coils", "random", Acquisition(hybrid, mask))])


def test_unmeasured_samples_are_not_looked_at(varnet: Any) -> None:
    rng = np.random.default_rng(6)
    hybrid = (rng.standard_normal((1, 2, 32, 32)) + 1j * rng.standard_normal((1, 2, 32, 32))).astype(np.complex64)
    mask = np.arange(32) % 2 == 0
    mask[12:20] = True
    interpreter, plans = interpreter_of(varnet.program, OnnxRuntimeEngine()), Plans(Workers(1))
    clean = interpreter.run(Acquisition(hybrid, mask), plans)
    hybrid[:, :, ~mask] = 1e6
    assert np.array_equal(interpreter.run(Acquisition(hybrid, mask), plans), clean)


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("sensitivities", {"lines": 5}),
        ("cascade 2, data consistency", {"step": 0.91}),
        ("cascade 3, regulariser", {"shaping": None}),
    ],
)
def test_a_broken_step_is_named(varnet: Any, stage: str, changes: dict[str, Any]) -> None:
    if "shaping" in changes:
        from dataclasses import replace

        from export.adapters.fastmri import NORM_UNET

        changes = {"shaping": replace(NORM_UNET, normalise="population")}
    departs(varnet, with_broken_stage(varnet.program, stage, **changes), stage)


@pytest.mark.parametrize("cascade", [1, 3])
def test_a_broken_regulariser_is_named(varnet: Any, cascade: int) -> None:
    broken = with_broken_graph(varnet.program, f"regulariser-{cascade:02d}.onnx")
    departs(varnet, broken, f"cascade {cascade}, regulariser")


@pytest.mark.parametrize(
    ("mapping", "options", "lines"),
    [("[acquisition]\nacs_lines = 6\n", {}, 6), ("", {"mask_center": False}, "all"), ("", {}, "symmetric")],
)
def test_calibration_lines_as_the_model_takes_them(
    tmp_path: Path, mapping: str, options: dict[str, Any], lines: str | int
) -> None:
    from export.adapters import fastmri

    if options:
        mapping = "mask_center = false\n" + mapping
    found = imported(fastmri, varnet_files(tmp_path, mapping, **options))
    assert found.program.stages[0].lines == lines
    agrees(found)


def test_a_varnet_deeper_than_its_padding(tmp_path: Path) -> None:
    from export.adapters import fastmri

    agrees(imported(fastmri, varnet_files(tmp_path, pools=5)))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from export.adapters.storage import read_program
    from export.cli import main

    checkpoint, mapping = varnet_files(tmp_path)
    arguments = ["import", "fastmri", "--checkpoint", str(checkpoint), "--mapping", str(mapping)]
    out = tmp_path / "varnet.edgeprogram"
    assert main([*arguments, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == "fastmri.models.VarNet" and len(told["graphs"]) == 4
    program = read_program(out)
    assert program.origin.package.startswith("fastmri 0.3") and program.origin.checkpoint == "model.pt"
    assert main([*arguments, "--out", str(tmp_path / "strict"), "--tolerance", "1e-9"]) == 1
    assert "departs from the original by" in capsys.readouterr().err
    assert not (tmp_path / "strict").exists()


def test_the_device_makes_the_originals_image(
    tmp_path: Path, signing_key: Any, serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the checkpoint by `import` and a bundle to an image on the wire, against PyTorch's forward pass of the same k-space."""
    from export.adapters import end_to_end, fastmri
    from export.cli import main
    from export.programs.bundle import make_program_bundle
    from export.programs.config import load_program_config

    files = varnet_files(tmp_path)
    arguments = ["import", "fastmri", "--checkpoint", str(files[0]), "--mapping", str(files[1])]
    assert main([*arguments, "--out", str(tmp_path / "varnet.edgeprogram")]) == 0
    config, bundle = tmp_path / "device.toml", tmp_path / "varnet.edgebundle"
    config.write_text('program = "varnet.edgeprogram"\nlicence = "MIT"\n')
    make_program_bundle(load_program_config(config), config, None, bundle, signing_key, override="seeded weights")

    lines, columns, coils = 48, 40, 3
    kspace = kspace_of(object_image(lines, columns), coil_maps(coils, lines, columns), 2 * columns, noise=0.01)
    measured = np.array([2, 9, 15, *range(18, 31), 35, 44])  # so few outside the centre that none is held out
    scan = scan_bytes(
        readouts_of(kspace, measured),
        header=header_of(lines, columns, 2 * columns, coils=coils),
        configuration="edge",
    )
    replies = serve(bundle=bundle).exchange(scan)
    assert replies.kinds() == [("learned", "final"), ("classical", "final")]
    hybrid = to_image(kspace, axis=2)[:, :, centre_slice(2 * columns, columns)]
    given = Acquisition(hybrid[None], np.isin(np.arange(lines), measured))
    original = imported(fastmri, files).original.stages(given)[end_to_end.RESULT][0]
    sent = replies.images[0].pixels[0, 0]
    assert np.linalg.norm(sent - original) < 1e-4 * np.linalg.norm(original)
