"""What a simulated acquisition is made of: one flat, typed, frozen configuration, from a TOML file, from flags, or from both.

The same configuration, seed and source give the same file, byte for byte, on one machine and one version of the code.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from export.config import SEEDS, ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PARAMETER_PREFIX = "edge_simulation_"
"""Of the MRD header's user parameters that carry the configuration, one a key."""


def _number(default: float, least: float, most: float, group: str, text: str) -> Any:
    """A field whose value lies between two bounds, both included."""
    return field(default=default, metadata={"within": (least, most), "group": group, "help": text})


def _choice(default: str, choices: tuple[str, ...], group: str, text: str) -> Any:
    return field(default=default, metadata={"choices": choices, "group": group, "help": text})


def _switch(group: str, text: str) -> Any:
    return field(default=False, metadata={"group": group, "help": text})


SOURCE, GEOMETRY, CONTRAST, RECEIVE, FIELD, MOTION, SAMPLING = (
    "source volume",
    "geometry",
    "sequence and contrast",
    "coils, phase and noise",
    "off-resonance",
    "motion",
    "sampling",
)


@dataclass(frozen=True)
class AcquisitionConfig:
    """The whole file. Every key has a default; ``docs/simulate.md`` defines each quantity."""

    seed: int = _number(0, *SEEDS, SOURCE, "seed of everything random")
    orientation: str = field(
        default="",
        metadata={
            "group": SOURCE,
            "help": "where a volume's three axes point, such as RAS or LPS; '': as its file says",
        },
    )
    voxel_mm: tuple[float, float, float] = field(
        default=(0.0, 0.0, 0.0),
        metadata={
            "within": (0, 100),
            "group": SOURCE,
            "help": "size of a voxel along its axes; 0 0 0: as its file says",
        },
    )

    plane: str = _choice("axial", ("axial", "coronal", "sagittal"), GEOMETRY, "of the slices")
    swap_axes: bool = _switch(GEOMETRY, "read out along the image's usual rows, encode the phase along its columns")
    slices: int = _number(1, 1, 256, GEOMETRY, "how many")
    slice_thickness_mm: float = _number(5.0, 0.1, 100, GEOMETRY, "over which the volume is averaged")
    slice_spacing_mm: float = _number(5.0, 0.1, 200, GEOMETRY, "between the centres of slices")
    slice_offset_mm: float = _number(0.0, -500, 500, GEOMETRY, "of the middle of all slices from the volume's centre")
    columns: int = _number(192, 16, 1024, GEOMETRY, "matrix along the readout")
    phase_encodes: int = _number(192, 16, 1024, GEOMETRY, "matrix along the phase encode")
    read_mm: float = _number(230.0, 10, 1000, GEOMETRY, "field of view along the readout")
    phase_mm: float = _number(230.0, 10, 1000, GEOMETRY, "field of view along the phase encode")
    readout_oversampling: int = _number(2, 1, 4, GEOMETRY, "samples of a readout over columns")

    field_strength_t: float = _number(1.5, 0.01, 10.5, CONTRAST, "of the scanner")
    sequence: str = _choice("gradient_echo", ("gradient_echo", "spin_echo"), CONTRAST, "kind of echo")
    repetition_time_ms: float = _number(500.0, 1, 20000, CONTRAST, "TR")
    echo_time_ms: float = _number(5.0, 0.1, 500, CONTRAST, "TE")
    flip_angle_deg: float = _number(90.0, 1, 180, CONTRAST, "of the excitation")
    source_weighting: str = _choice(
        "keep",
        ("keep", "t1", "t2"),
        CONTRAST,
        "weighting of the volume; t1 or t2 recolours it for this field strength and sequence, keep leaves it as it is",
    )

    coils: int = _number(8, 1, 128, RECEIVE, "receive coils")
    coil_family: str = _choice(
        "loops", ("loops", "gaussian", "volume", "uniform"), RECEIVE, "generator of the sensitivities"
    )
    phase: str = _choice("smooth", ("none", "smooth", "tissue"), RECEIVE, "of the object")
    phase_rad: float = _number(1.0, 0, 20, RECEIVE, "largest deviation of the smooth phase over the object")
    snr: float = _number(30.0, 0, 1e6, RECEIVE, "brightness over the noise of a sample; 0: no noise at all")
    noise_correlation: float = _number(0.15, 0, 0.95, RECEIVE, "magnitude between neighbouring coils")
    noise_spread: float = _number(1.4, 1, 100, RECEIVE, "noise of the loudest over that of the quietest coil")
    noise_readouts: int = _number(16, 0, 4096, RECEIVE, "of the noise scan before the first slice; none without noise")
    filter_edge: float = _number(
        1.0, 0.01, 1, RECEIVE, "gain of the receiver's filter at the ends of the readout's field of view; 1: no filter"
    )

    off_resonance_hz: float = _number(0.0, -100_000, 100_000, FIELD, "largest deviation over the object; 0: none")
    off_resonance_shape: str = _choice("smooth", ("smooth", "constant"), FIELD, "of the map over the object")
    bandwidth_per_pixel_hz: float = _number(260.0, 1, 100_000, FIELD, "of a column of the image")

    motion_mm: float = _number(0.0, 0, 200, MOTION, "largest translation within the plane")
    motion_deg: float = _number(0.0, 0, 180, MOTION, "largest rotation within the plane")
    motion_pattern: str = _choice("walk", ("walk", "step"), MOTION, "random walk, or one sudden movement")
    lines_per_shot: int = _number(8, 1, 1024, MOTION, "phase encodes between which the head lies still")

    mask: str = _choice("full", ("full", "variable_density", "uniform"), SAMPLING, "which phase encodes are measured")
    acceleration: float = _number(4.0, 1, 64, SAMPLING, "of masks other than full")
    acs_fraction: float = _number(
        0.08, 0, 1, SAMPLING, "share of the phase encodes that are calibration lines, full masks aside"
    )
    partial_fourier: float = _number(1.0, 0.5, 1, SAMPLING, "share of k-space along the phase encode that is reached")
    partial_echo: float = _number(1.0, 0.5, 1, SAMPLING, "share of a readout that is measured; the start is missing")
    line_order: str = _choice(
        "centre_out", ("centre_out", "linear", "interleaved"), SAMPLING, "order in time of a slice's phase encodes"
    )
    slice_order: str = _choice(
        "sequential", ("sequential", "interleaved"), SAMPLING, "slice after slice, or a line of each slice in turn"
    )
    dropout_share: float = _number(0.0, 0, 0.95, SAMPLING, "of the readouts that never arrive, at random")
    stop_after_share: float = _number(1.0, 0.001, 1, SAMPLING, "of the readouts after which the scan is stopped")


KEYS = tuple(one.name for one in fields(AcquisitionConfig))
_KINDS = get_type_hints(AcquisitionConfig)
_AXES = ({"R", "L"}, {"A", "P"}, {"S", "I"})


def load_acquisition_config(path: Path | None, overrides: Mapping[str, object]) -> AcquisitionConfig:
    """Reads a file, if one is given, and lets ``overrides`` replace what it says.

    Raises:
        ConfigError: names the file (or the flag), the key, its value and what is expected.
    """
    document: dict[str, Any] = {}
    if path is not None:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
    return checked(checked(AcquisitionConfig(), document, f"{path}: "), overrides, "--")


def checked(base: AcquisitionConfig, values: Mapping[str, object], where: str) -> AcquisitionConfig:
    """``base`` with other values.

    Raises:
        ConfigError: an unknown key, a value of the wrong kind or out of range, or values that contradict each other.
    """
    unknown = sorted(set(values) - set(KEYS))
    if unknown:
        raise ConfigError(f"{where}{', '.join(unknown)}: no such key; known are {', '.join(KEYS)}")
    taken: dict[str, Any] = {}
    for one in fields(base):
        if one.name in values:
            value = values[one.name]
            expected = _expected(value, _KINDS[one.name], one.metadata)
            if expected:
                name = one.name.replace("_", "-") if where == "--" else one.name
                raise ConfigError(f"{where}{name} = {value!r}: {expected} is expected")
            taken[one.name] = _as_kind(value, _KINDS[one.name])
    config = replace(base, **taken)
    contradiction = _contradiction(config)
    if contradiction:
        raise ConfigError(where.removesuffix("--") + contradiction)
    return config


def to_parameters(config: AcquisitionConfig) -> dict[str, str]:
    """The configuration as user parameters of an MRD header, one a key."""
    return {PARAMETER_PREFIX + key: _text(getattr(config, key)) for key in KEYS}


def from_parameters(parameters: Mapping[str, str], where: str = "") -> AcquisitionConfig:
    """The configuration that a simulated scan's header carries: `to_parameters` undone.

    Raises:
        ConfigError: a key is missing, or not what this version writes.
    """
    values: dict[str, object] = {}
    for key in KEYS:
        text = parameters.get(PARAMETER_PREFIX + key)
        if text is None:
            raise ConfigError(f"{where}{PARAMETER_PREFIX + key} is missing: not a scan that this version simulated")
        values[key] = _parsed(text, _KINDS[key])
    return checked(AcquisitionConfig(), values, where)


def to_toml(config: AcquisitionConfig) -> str:
    """The configuration as a file that `load_acquisition_config` reads."""

    def literal(value: object) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, tuple):
            return "[" + ", ".join(repr(number) for number in value) + "]"
        return f'"{value}"' if isinstance(value, str) else repr(value)

    return "".join(f"{key} = {literal(getattr(config, key))}\n" for key in KEYS)


def _text(value: object) -> str:
    return " ".join(repr(number) for number in value) if isinstance(value, tuple) else str(value)


def _parsed(text: str, kind: object) -> object:
    try:
        if kind is bool:
            return {"True": True, "False": False}.get(text, text)
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
        if kind is str:
            return text
        return [float(number) for number in text.split()]
    except ValueError:
        return text  # which the check refuses by name


def _as_kind(value: Any, kind: object) -> object:
    if kind is float:
        return float(value)
    return tuple(float(number) for number in value) if isinstance(value, list | tuple) else value


def _expected(value: object, kind: object, metadata: Mapping[str, Any]) -> str:
    """What a value of this kind should have been; empty where it is."""
    if "choices" in metadata:
        choices = metadata["choices"]
        return "" if value in choices else f"one of {', '.join(choices)}"
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind is str:
        sound = isinstance(value, str) and (value == "" or _names_three_axes(value))
        return "" if sound else "three letters, one of each of R or L, A or P, S or I, such as RAS,"
    least, most = metadata["within"]
    bounds = f"from {least:g} to {most:g}"
    if kind is int:
        whole = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return "" if whole else f"a whole number {bounds}"
    if kind is float:
        return "" if _is_number(value, least, most) else f"a number {bounds}"
    numbers = value if isinstance(value, list | tuple) else ()
    sound = len(numbers) == 3 and all(_is_number(number, least, most) for number in numbers)
    sound = sound and (all(number > 0 for number in numbers) or not any(numbers))
    return "" if sound else f"three numbers {bounds}, all or none of them 0,"


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _names_three_axes(text: str) -> bool:
    return len(text) == 3 and all(any(letter in axis for letter in text) for axis in _AXES)


def _contradiction(config: AcquisitionConfig) -> str:
    """What two values together make impossible, with the mend; empty where nothing is."""
    if config.mask == "uniform" and config.acceleration != int(config.acceleration):
        return f"acceleration = {config.acceleration}: with mask = 'uniform' a whole number is expected"
    if config.echo_time_ms >= config.repetition_time_ms:
        return f"echo_time_ms = {config.echo_time_ms}: less than repetition_time_ms = {config.repetition_time_ms} is expected"
    samples = config.columns * config.readout_oversampling
    if 0 < config.noise_readouts * samples < 8 * config.coils:
        least = -(-8 * config.coils // samples)
        return f"noise_readouts = {config.noise_readouts}: 0 or at least {least} is expected for {config.coils} coils"
    if config.coil_family == "uniform" and config.coils > 1:
        return f"coils = {config.coils}: 1 is expected with coil_family = 'uniform', whose coils would all be the same"
    return ""
