"""deepinv's own denoisers and unrolled models, seeded, against their split programs."""

from __future__ import annotations

from collections.abc import Callable
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

from export.adapters.errors import ImportRefused
from export.config import ConfigError

pytestmark = pytest.mark.imports

DNCNN = 'kind = "DnCNN"\nin_channels = 2\nout_channels = 2\ndepth = 4\nnf = 6\n'
UNET = 'kind = "UNet"\nin_channels = 2\nout_channels = 2\nchannels_per_scale = [4, 6, 6]\n'
DRUNET = 'kind = "DRUNet"\nin_channels = {planes}\nout_channels = {planes}\nnc = [4, 4, 6, 6]\nnb = 1\n'


@pytest.fixture(scope="module", autouse=True)
def _deepinv() -> None:
    """deepinv imports torchvision, whose compiled operators don't load beside this torch."""
    from export.adapters.torchvision_operators import declare_operators

    declare_operators()
    declare_operators()  # a second time nothing happens
    import deepinv  # noqa: F401


def dncnn() -> Any:
    import torch
    from deepinv.models import DnCNN

    torch.manual_seed(6)
    return DnCNN(2, 2, depth=4, nf=6, pretrained=None)


def unet() -> Any:
    import torch
    from deepinv.models import UNet

    torch.manual_seed(7)
    model = UNet(2, 2, channels_per_scale=[4, 6, 6])
    model.train()
    model(torch.randn(2, 2, 16, 16))  # statistics of its own in the normalisation
    return model.eval()


def drunet(planes: int) -> Any:
    import torch
    from deepinv.models import DRUNet

    torch.manual_seed(8)
    return DRUNet(planes, planes, nc=[4, 4, 6, 6], nb=1, pretrained=None)


def modl(denoiser: Any) -> Any:
    import torch
    from deepinv.models.modl import MoDL

    model = MoDL(denoiser, num_iter=2)
    for key, values in (("stepsize", (0.8, 2.0)), ("g_param", (0.1, 0.03))):
        for parameter, value in zip(model.params_algo[key], values, strict=True):
            torch.nn.init.constant_(parameter, value)
    return model


def varnet(denoiser: Any) -> Any:
    import torch
    from deepinv.models import VarNet

    model = VarNet(denoiser, num_cascades=2)
    for number, cascade in enumerate(model.backbone_net):
        torch.nn.init.constant_(cascade.dc_weight, 0.5 + 0.4 * number)
    return model


def pgd(denoiser: Any) -> Any:
    from deepinv.optim import L2, PGD, PnP

    return PGD(
        data_fidelity=L2(),
        prior=PnP(denoiser=denoiser),
        stepsize=[0.5, 0.9],
        sigma_denoiser=[0.05, 0.02],
        max_iter=2,
        unfold=True,
        trainable_params=["stepsize", "sigma_denoiser"],
    )


def taken(folder: Path, model: Any, mapping: str) -> Any:
    from export.adapters import deepinv

    return imported(deepinv, saved(folder, model, mapping))


def unrolled(kind: str, count: str, denoiser: str) -> str:
    return f'[model]\nkind = "{kind}"\n{count} = 2\n[model.denoiser]\n{denoiser}'


@pytest.mark.parametrize(
    ("make", "mapping", "second"),
    [
        (dncnn, f"[model]\n{DNCNN}", "37 x 45"),
        (unet, f"[model]\n{UNET}", "37 x 45"),
        (lambda: drunet(1), f"sigma = 0.05\n[model]\n{DRUNET.format(planes=1)}", "40 x 48"),
    ],
)
def test_denoisers(tmp_path: Path, make: Callable[[], Any], mapping: str, second: str) -> None:
    found = taken(tmp_path, make(), mapping)
    assert [report.case for report in agrees(found)][1] == f"random, batch 2, {second}"


UNROLLED = {
    "MoDL": (lambda: modl(dncnn()), unrolled("MoDL", "num_iter", DNCNN)),
    "VarNet": (
        lambda: varnet(unet()),
        '[acquisition]\nphase_encodes = "rows"\n' + unrolled("VarNet", "num_cascades", UNET),
    ),
    "PGD": (lambda: pgd(drunet(2)), unrolled("PGD", "max_iter", DRUNET.format(planes=2))),
}


@pytest.mark.parametrize("kind", UNROLLED)
def test_unrolled_models(tmp_path: Path, kind: str) -> None:
    make, mapping = UNROLLED[kind]
    found = taken(tmp_path, make(), mapping)
    agrees(found)
    assert len(found.program.graphs) == 1  # one denoiser, shared by all iterations
    assert len(found.program.stages) == 5


@needs_recorded_scans
def test_models_on_measured_data(tmp_path: Path) -> None:
    for kind, (make, mapping) in UNROLLED.items():
        folder = tmp_path / kind
        folder.mkdir()
        agrees_on_measured_data(taken(folder, make(), mapping))


def test_what_is_broken_is_named(tmp_path: Path) -> None:
    found = taken(tmp_path, modl(dncnn()), UNROLLED["MoDL"][1])
    stage = "iteration 2, data consistency"
    departs(found, with_broken_stage(found.program, stage, weight=0.51), stage)
    departs(found, with_broken_graph(found.program, "regulariser-01.onnx"), "iteration 1, regulariser")


def test_a_noise_level_is_a_plane_of_the_graph(tmp_path: Path) -> None:
    found = taken(tmp_path, pgd(drunet(2)), UNROLLED["PGD"][1])
    assert found.program.graphs[0].input_channels == 3
    planes = [stage.shaping.planes for stage in found.program.stages if hasattr(stage, "shaping")]
    assert np.allclose(planes, [[0.05], [0.02]])


@pytest.mark.parametrize(
    ("make", "mapping", "error", "match"),
    [
        (dncnn, f'[model]\n{DNCNN}pretrained = "download"\n', ConfigError, "has pretrained"),
        (lambda: varnet(dncnn()), unrolled("VarNet", "num_cascades", DNCNN) + 'mode = "x"\n', ConfigError, "has mode"),
        (
            lambda: varnet(drunet(2)),
            unrolled("VarNet", "num_cascades", DRUNET.format(planes=2)),
            ImportRefused,
            "gives its denoiser no noise level",
        ),
        (dncnn, f"[model]\n{DNCNN.replace('DnCNN', 'SwinIR')}", ConfigError, "kind = 'SwinIR': one of DnCNN, UNet"),
    ],
)
def test_models_that_are_not_taken(
    tmp_path: Path, make: Callable[[], Any], mapping: str, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        taken(tmp_path, make(), mapping)


def test_an_algorithm_that_is_not_taken(tmp_path: Path) -> None:
    """Only what `adapt` can build reaches the split from outside; the split itself refuses other algorithms too."""
    from deepinv.optim import L2, PGD, PnP

    from export.adapters.deepinv import Solver, _splitting
    from export.adapters.original import KSpaceAxes

    parameters = {"lambda": 1.0, "stepsize": 0.5, "g_param": 0.05, "beta": 0.5}
    relaxed = PGD(data_fidelity=L2(), prior=PnP(denoiser=dncnn()), params_algo=parameters, max_iter=2, unfold=True)
    axes, solver = KSpaceAxes("columns, phase_encodes"), Solver(10, 1e-6)
    with pytest.raises(ImportRefused, match="relaxation"):
        _splitting("made", "1", relaxed, axes, solver, None)  # type: ignore[arg-type]
