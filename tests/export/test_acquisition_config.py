"""The configuration of a simulated scan: what is wrong is named by key, value and mend; what is right survives every form."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.config import ConfigError
from export.simulate.settings import (
    AcquisitionConfig,
    checked,
    from_parameters,
    load_acquisition_config,
    to_parameters,
    to_toml,
)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"snr": -1.0}, "snr = -1.0: a number from 0 to 1e+06 is expected"),
        ({"snr": "high"}, "snr = 'high': a number"),
        ({"snr": float("nan")}, "snr = nan: a number"),
        ({"slices": 2.5}, "slices = 2.5: a whole number from 1 to 256"),
        ({"slices": True}, "slices = True: a whole number"),
        ({"plane": "oblique"}, "plane = 'oblique': one of axial, coronal, sagittal"),
        ({"swap_axes": 1}, "swap_axes = 1: true or false"),
        ({"orientation": "RLS"}, "orientation = 'RLS': three letters"),
        (
            {"voxel_mm": [1.0, 0.0, 1.0]},
            "voxel_mm = [1.0, 0.0, 1.0]: three numbers from 0 to 100, all or none of them 0,",
        ),
        ({"voxel_mm": [1.0, 1.0]}, "voxel_mm = [1.0, 1.0]: three numbers"),
        ({"colour": "red"}, "colour: no such key; known are seed, "),
        (
            {"mask": "uniform", "acceleration": 2.5},
            "acceleration = 2.5: with mask = 'uniform' a whole number is expected",
        ),
        ({"echo_time_ms": 400.0, "repetition_time_ms": 300.0}, "less than repetition_time_ms = 300.0 is expected"),
        ({"coils": 4, "coil_family": "uniform"}, "coils = 4: 1 is expected with coil_family = 'uniform'"),
        ({"coils": 128, "columns": 16, "noise_readouts": 3}, "noise_readouts = 3: 0 or at least 32 is expected"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_a_wrong_value_is_named(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked(AcquisitionConfig(), values, "scan.toml: ")
    assert str(refused.value).startswith("scan.toml: ")
    assert complaint in str(refused.value)


def test_flags_come_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.toml"
    path.write_text("snr = 12\nslices = 3\n")
    config = load_acquisition_config(path, {"slices": 5})
    assert (config.snr, config.slices, config.coils) == (12.0, 5, 8)
    assert isinstance(config.snr, float)


def test_wrong_flags_and_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--off-resonance-hz = 'x': a number"):
        load_acquisition_config(None, {"off_resonance_hz": "x"})
    path = tmp_path / "scan.toml"
    path.write_text("snr = 12\nsnr = 13\n")
    with pytest.raises(ConfigError, match=r"scan\.toml: .*line 2"):
        load_acquisition_config(path, {})
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_acquisition_config(tmp_path / "absent.toml", {})


def test_the_configuration_survives_the_header_and_a_file(tmp_path: Path) -> None:
    config = checked(
        AcquisitionConfig(),
        {
            "seed": 7,
            "orientation": "PLS",
            "voxel_mm": [0.9, 0.9, 4.5],
            "swap_axes": True,
            "snr": 8.25,
            "mask": "uniform",
        },
        "",
    )
    assert from_parameters(to_parameters(config)) == config
    path = tmp_path / "scan.toml"
    path.write_text(to_toml(config))
    assert load_acquisition_config(path, {}) == config


def test_a_header_that_nobody_simulated_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"edge_simulation_seed is missing"):
        from_parameters({})
    with pytest.raises(ConfigError, match=r"snr = 'loud': a number"):
        from_parameters({**to_parameters(AcquisitionConfig()), "edge_simulation_snr": "loud"})
