"""TOML documents read strictly: every value has a type and bounds, and a key that nobody asked for is an error."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.errors import EdgeRuntimeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(text: str, where: str, error: type[EdgeRuntimeError]) -> TomlTable:
    """The table of a document's text.

    Raises:
        EdgeRuntimeError: of the type ``error``; not TOML.
    """
    try:
        return TomlTable(where, tomllib.loads(text), error)
    except tomllib.TOMLDecodeError as problem:
        raise error(f"{where}: not valid TOML: {problem}") from problem


class TomlTable:
    """Reads typed values out of a nested table by dotted key, and remembers which were asked for.

    Args:
        where: what messages call it, such as a path.
        document: as tomllib makes it.
        error: what is raised where a value is missing or wrong.
    """

    def __init__(self, where: str, document: Mapping[str, Any], error: type[EdgeRuntimeError]) -> None:
        self._where = where
        self._error = error
        self._values = dict(_flatten(document))
        self._read: set[str] = set()

    def has_section(self, section: str) -> bool:
        """Whether there is anything of a section."""
        return any(key.startswith(f"{section}.") for key in self._values)

    def text(self, key: str) -> str:
        value = self._value(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, value, "a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._value(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, value, "a list of texts with at least one entry")
        return tuple(value)

    def texts_or(self, key: str) -> tuple[str, ...]:
        """Texts that may be left out."""
        return self.texts(key) if self.has(key) else ()

    def text_or(self, key: str) -> str:
        """A text that may be left out."""
        return self.text(key) if self.has(key) else ""

    def choices(self, key: str, known: tuple[str, ...], otherwise: tuple[str, ...]) -> tuple[str, ...]:
        """Some of those that are known, in order; may be left out."""
        self._read.add(key)
        if key not in self._values:
            return otherwise
        chosen = self.texts(key)
        if len(set(chosen)) != len(chosen) or not set(chosen) <= set(known):
            raise self.wrong(key, list(chosen), f"some of {', '.join(known)}, each once")
        return chosen

    def path(self, key: str) -> Path | None:
        """A path that may be left out."""
        return Path(self.text(key)) if self.has(key) else None

    def has(self, key: str) -> bool:
        """Whether a key that may be left out is there."""
        self._read.add(key)
        return key in self._values

    def choice(self, key: str, known: tuple[str, ...], default: str | None = None) -> str:
        """One of those that are known."""
        if default is not None and not self.has(key):
            return default
        value = self._value(key)
        if value not in known:
            raise self.wrong(key, value, f"one of {', '.join(known)}")
        return str(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; may be left out."""
        value = self._value(key) if self.has(key) else default
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def tables(self, key: str) -> list[TomlTable]:
        """The tables of an array of tables; may be left out."""
        value = self._value(key) if self.has(key) else []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(key, value, f"tables, each under [[{key}]]")
        return [TomlTable(f"{self._where}: {key} {i + 1}", item, self._error) for i, item in enumerate(value)]

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        if default is not None and not self.has(key):
            return default
        value = self._value(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(key, value, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        if default is not None and not self.has(key):
            return default
        value = self._value(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not (math.isfinite(value) and low <= value <= high)
        ):
            raise self.wrong(key, value, f"a number from {low} to {high}")
        return float(value)

    def refuse_unknown(self) -> None:
        unknown = sorted(set(self._values) - self._read)
        if unknown:
            raise self._error(f"{self._where}: unknown key {unknown[0]}; known are {', '.join(sorted(self._read))}")

    def _value(self, key: str) -> Any:
        self._read.add(key)
        if key not in self._values:
            raise self._error(f"{self._where}: {key} is missing")
        return self._values[key]

    def wrong(self, key: str, value: object, expected: str) -> EdgeRuntimeError:
        """What is to be raised for a value."""
        return self._error(f"{self._where}: {key} = {value!r}: expected {expected}")


def _flatten(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in document.items():
        flat.extend(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)])
    return flat
