"""One TOML file decides a model: pool, network, training, quantization, and the limits that its quality must keep."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from edge_runtime.bundle.quality import parse_limits
from edge_runtime.bundle.versions import is_version
from edge_runtime.errors import EdgeRuntimeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(EdgeRuntimeError):
    """A configuration file that is missing or wrong."""


def _within(least: float, most: float) -> Any:
    """A field whose numbers lie between two bounds, both included."""
    return field(metadata={"within": (least, most)})


SEEDS = (0, (1 << 63) - 1)
MOST_WIDTHS = 8


@dataclass(frozen=True)
class PoolConfig:
    """The simulated acquisitions that training draws from."""

    count: int = _within(1, 1_000_000)
    seed: int = _within(*SEEDS)
    phantom_share: float = _within(0, 1)


@dataclass(frozen=True)
class NetworkConfig:
    """What decides the network's shape and cost."""

    iterations: int = _within(1, 100)
    cg_steps: int = _within(1, 100)
    widths: tuple[int, ...] = _within(1, 1024)


@dataclass(frozen=True)
class TrainingConfig:
    """How long and on what; together with the network's configuration and the pool's seed it reproduces a model.

    The scans of a batch have one number of phase encodes and ``columns`` readout columns. The learning rate rises over the
    ``warmup_steps`` and then falls to a hundredth.
    """

    seed: int = _within(*SEEDS)
    steps: int = _within(1, 10_000_000)
    batch: int = _within(1, 1024)
    columns: int = _within(1, 4096)
    learning_rate: float = _within(1e-8, 1)
    warmup_steps: int = _within(0, 10_000_000)


@dataclass(frozen=True)
class QuantizeConfig:
    """On how many simulated scans the ranges of INT8 are gathered, and on how many unseen ones its images are measured.

    Attributes:
        symmetric_activations: signed ones around zero, which TensorRT asks for; may be left out. Else unsigned ones with a zero
            point, which processors run faster and whose codes are all in use after a ReLU.
    """

    calibration_scans: int = _within(1, 100_000)
    validation_scans: int = _within(1, 10_000)
    seed: int = _within(*SEEDS)
    symmetric_activations: bool = field(default=False, metadata={"within": (0, 1)})


@dataclass(frozen=True)
class ModelConfig:
    """The whole file.

    Attributes:
        version: whole numbers with dots between; rises with every bundle that is given away, so that devices can refuse older ones.
        licence: SPDX identifier of the model's; may be left out.
        limits: bounds of figures of the quality report (`edge_runtime.bundle.quality`); may be left out.
        refine: of a second training that goes on from the first one's weights, on what a device shows the network; may be left out.
    """

    name: str
    version: str
    simulate: PoolConfig
    network: NetworkConfig
    train: TrainingConfig
    quantize: QuantizeConfig
    licence: str = "NOASSERTION"
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    refine: TrainingConfig | None = None


Table = TypeVar("Table")


def load_config(path: Path) -> ModelConfig:
    """Reads and checks a configuration.

    Raises:
        ConfigError: names the file, the key, its value and what is expected.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    _check_keys(f"{path}: the file", document, ModelConfig)
    licence, limits = document.get("licence", "NOASSERTION"), document.get("limits", {})
    for key, value in (("name", document["name"]), ("licence", licence)):
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ConfigError(f"{path}: {key} = {value!r}: a text is expected")
    if not is_version(document["version"]):
        raise ConfigError(
            f"{path}: version = {document['version']!r}: whole numbers with dots are expected, such as '1.2.0'"
        )
    try:
        parse_limits(limits)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    config = ModelConfig(
        name=document["name"],
        version=document["version"],
        simulate=_table(path, document, "simulate", PoolConfig),
        network=_table(path, document, "network", NetworkConfig),
        train=_table(path, document, "train", TrainingConfig),
        quantize=_table(path, document, "quantize", QuantizeConfig),
        licence=licence,
        limits=limits,
        refine=_table(path, document, "refine", TrainingConfig) if "refine" in document else None,
    )
    for name, of in (("train", config.train), ("refine", config.refine)):
        if of is not None and of.warmup_steps > of.steps:
            raise ConfigError(
                f"{path}: [{name}] warmup_steps = {of.warmup_steps}: at most {of.steps}, all steps, is expected"
            )
    return config


def _table(path: Path, document: dict[str, Any], name: str, kind: type[Table]) -> Table:
    _check_keys(f"{path}: [{name}]", document[name], kind)
    kinds = get_type_hints(kind)
    values = {}
    for one in fields(kind):  # type: ignore[arg-type]  # kind is always one of the dataclasses above
        if one.name not in document[name]:  # what must be there is
            continue
        value = document[name][one.name]
        expected = _expected(value, kinds[one.name], *one.metadata["within"])
        if expected:
            raise ConfigError(f"{path}: [{name}] {one.name} = {value!r}: {expected} is expected")
        values[one.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _check_keys(where: str, table: object, kind: type[Any]) -> None:
    known = {one.name for one in fields(kind)}
    wanted = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    found = set(table) if isinstance(table, dict) else set()
    if differing := (found - known) | (wanted - found):
        left_out = f", {sorted(known - wanted)} may be" if known != wanted else ""
        raise ConfigError(f"{where} differs in {sorted(differing)}; exactly {sorted(wanted)} are expected{left_out}")


def _expected(value: object, kind: object, least: float, most: float) -> str:
    """What a value of this kind should have been; empty where it is."""
    bounds = f"from {least} to {most}"
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind is int:
        return "" if _is_whole(value, least, most) else f"a whole number {bounds}"
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
        return "" if number else f"a number {bounds}"
    numbers = value if isinstance(value, list) else []
    sound = 1 <= len(numbers) <= MOST_WIDTHS and all(_is_whole(number, least, most) for number in numbers)
    return "" if sound else f"1 to {MOST_WIDTHS} whole numbers {bounds}"


def _is_whole(value: object, least: float, most: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
