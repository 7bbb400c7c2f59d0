"""One TOML file decides a model: pool, network, training, quantization."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from edge_runtime.errors import EdgeRuntimeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(EdgeRuntimeError):
    """A configuration file that is missing or wrong."""


@dataclass(frozen=True)
class PoolConfig:
    """The simulated acquisitions that training draws from."""

    count: int
    seed: int
    phantom_share: float


@dataclass(frozen=True)
class NetworkConfig:
    """What decides the network's shape and cost."""

    iterations: int
    cg_steps: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class TrainingConfig:
    """How long and on what; together with the network's configuration and the pool's seed it reproduces a model."""

    seed: int
    steps: int
    batch: int
    columns: int
    learning_rate: float
    warmup_steps: int
    full_precision_steps: int


@dataclass(frozen=True)
class QuantizeConfig:
    """What INT8 is calibrated on."""

    calibration_scans: int
    seed: int


@dataclass(frozen=True)
class ModelConfig:
    """The whole file."""

    name: str
    version: str
    simulate: PoolConfig
    network: NetworkConfig
    train: TrainingConfig
    quantize: QuantizeConfig


Table = TypeVar("Table")


def load_config(path: Path) -> ModelConfig:
    """Reads and checks a configuration.

    Raises:
        ConfigError: names the file, the key and what is expected.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    network = _table(path, document, "network", NetworkConfig)
    return ModelConfig(
        name=str(document.get("name", path.stem)),
        version=str(document.get("version", "0")),
        simulate=_table(path, document, "simulate", PoolConfig),
        network=NetworkConfig(network.iterations, network.cg_steps, tuple(network.widths)),
        train=_table(path, document, "train", TrainingConfig),
        quantize=_table(path, document, "quantize", QuantizeConfig),
    )


def _table(path: Path, document: dict[str, Any], name: str, kind: type[Table]) -> Table:
    table = document.get(name)
    wanted = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # kind is always one of the dataclasses above
    if not isinstance(table, dict) or set(table) != wanted:
        found = set(table) if isinstance(table, dict) else set()
        raise ConfigError(
            f"{path}: [{name}] differs in {sorted(wanted ^ found)}; exactly {sorted(wanted)} are expected"
        )
    return kind(**table)
