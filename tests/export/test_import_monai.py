"""MONAI's own models, seeded, against their split programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

FEATURES = (3, 3, 4, 4, 5, 3)
VARNET = f"""[model]
kind = "VariationalNetworkModel"
num_cascades = 2
[model.sensitivities]
features = {list(FEATURES)}
[model.refinement]
features = {list(FEATURES)}
"""
UNET = f'[model]\nkind = "ComplexUnet"\nfeatures = {list(FEATURES)}\n'


def complex_unet(**options: Any) -> Any:
    import torch
    from monai.apps.reconstruction.networks.nets.complex_unet import ComplexUnet

    torch.manual_seed(3)
    return ComplexUnet(features=FEATURES, **options)


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from export.adapters import monai

    return imported(monai, saved(tmp_path_factory.mktemp("unet"), complex_unet(), UNET))


@pytest.fixture(scope="module")
def varnet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import torch
    from monai.apps.reconstruction.networks.nets.coil_sensitivity_model import CoilSensitivityModel
    from monai.apps.reconstruction.networks.nets.varnet import VariationalNetworkModel

    from export.adapters import monai

    torch.manual_seed(4)
    model = VariationalNetworkModel(CoilSensitivityModel(features=FEATURES), complex_unet(), num_cascades=2)
    for number, cascade in enumerate(model.cascades):
        torch.nn.init.constant_(cascade.dc_weight, 0.7 + 0.5 * number)
        for weight in cascade.model.parameters():  # MONAI copies one refinement; trained ones differ
            weight.data.mul_(1 + 0.1 * number)
    return imported(monai, saved(tmp_path_factory.mktemp("varnet"), model, VARNET))


def test_a_complex_unet_with_batches_and_odd_sizes(unet: Any) -> None:
    assert [report.case for report in agrees(unet)][1] == "random, batch 2, 37 x 45"


def test_a_variational_network_with_several_coils_batches_and_odd_sizes(varnet: Any) -> None:
    assert [report.case for report in agrees(varnet)][1:] == [
        "random, batch 2, 3 coils, 37 x 45",
        "random, batch 3, 1 coils, 64 x 33",
        "random, batch 1, 2 coils, 40 x 56, times 0.01",
        "random, batch 1, 2 coils, 288 x 256, times 100",
    ]


@needs_recorded_scans
def test_models_on_measured_data(unet: Any, varnet: Any) -> None:
    agrees_on_measured_data(unet)
    agrees_on_measured_data(varnet)


def test_what_is_broken_is_named(varnet: Any) -> None:
    program = varnet.program
    departs(varnet, with_broken_stage(program, "sensitivities", divide="magnitude"), "sensitivities")
    # the first cascade's step multiplies nothing: its k-space still is what was measured
    departs(varnet, with_broken_stage(program, "cascade 2, data consistency", step=1.21), "cascade 2, data consistency")
    departs(varnet, with_broken_graph(program, "regulariser-02.onnx"), "cascade 2, regulariser")


@pytest.mark.parametrize(
    ("mapping", "options", "error", "match"),
    [
        (UNET + "spatial_dims = 3\n", {"spatial_dims": 3}, ConfigError, "volumes are not taken yet"),
        (UNET + "pad_factor = 8\n", {"pad_factor": 8}, ImportRefused, "pad_factor = 8: a multiple of 16"),
        (UNET + "conv_net = 1\n", {}, ConfigError, "has conv_net"),
        (UNET + 'upsample = "magic"\n', {}, ConfigError, "ComplexUnet refuses"),
    ],
)
def test_models_that_are_not_taken(
    tmp_path: Path, mapping: str, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    from export.adapters import monai

    files = saved(tmp_path, complex_unet(**options), mapping)
    with pytest.raises(error, match=match):
        imported(monai, files)
