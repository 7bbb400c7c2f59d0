"""The declared mapping: a TOML file that says what a checkpoint is, read key by key; what isn't asked for is refused."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from export.config import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_CHANNELS = 1024


class Table:
    """A table of a mapping. Whoever reads it takes its keys one by one and then says `done`.

    Raises, all of it: `ConfigError`, naming file, key, value and what is expected.
    """

    def __init__(self, path: Path, name: str, content: dict[str, Any]) -> None:
        self.path, self.name = path, name
        self._left = dict(content)
        self._asked: list[str] = []

    def text(self, key: str, default: str | None = None, among: Sequence[str] = ()) -> str:
        """A text; one of ``among`` where that is given."""
        value = self._take(key, default)
        if (
            not isinstance(value, str)
            or (among and value not in among)
            or (not among and not value and default is None)
        ):
            raise self.wrong(key, value, f"one of {', '.join(among)}" if among else "a text")
        return value

    def whole(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """A whole number, bounds included."""
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, value, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, least: float, most: float, default: float | None = None) -> float:
        """A number, bounds included."""
        value = self._take(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, value, f"a number from {least} to {most}")
        return float(value)

    def table(self, key: str, *, needed: bool = True) -> Table:
        """A table within; an empty one where it is not needed and not there."""
        value = self._take(key, None if needed else {})
        if not isinstance(value, dict):
            raise self.wrong(key, value, "a table")
        return Table(self.path, f"{self.name}.{key}" if self.name else key, value)

    def has(self, key: str) -> bool:
        """Whether the key is there and not taken yet."""
        return key in self._left

    def rest(self) -> dict[str, Any]:
        """All keys that nobody took."""
        rest, self._left = self._left, {}
        return rest

    def done(self) -> None:
        """Refuses keys that nobody took."""
        if self._left:
            raise ConfigError(
                f"{self._where()} has {', '.join(sorted(self._left))}; known here are {', '.join(sorted(set(self._asked)))}"
            )

    def wrong(self, key: str, value: object, expected: str) -> ConfigError:
        """The error of a value that can't be used."""
        return ConfigError(f"{self._where()}{' ' if self.name else ''}{key} = {value!r}: {expected} is expected")

    def _where(self) -> str:
        return f"{self.path}: [{self.name}]" if self.name else f"{self.path}: "

    def _take(self, key: str, default: object) -> object:
        self._asked.append(key)
        if key in self._left:
            return self._left.pop(key)
        if default is None:
            raise ConfigError(f"{self._where()}{' ' if self.name else ''}{key} is missing")
        return default


def read_mapping(path: Path) -> Table:
    """The whole file as a table.

    Raises:
        ConfigError: it can't be read, or isn't TOML.
    """
    try:
        return Table(path, "", tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def checkpoint_entry(mapping: Table) -> tuple[str, str]:
    """Key and name prefix of the weights in a checkpoint, as the table ``checkpoint`` says; both empty by default.

    Raises:
        ConfigError: the table holds something else.
    """
    table = mapping.table("checkpoint", needed=False)
    key, prefix = table.text("key", ""), table.text("prefix", "")
    table.done()
    return key, prefix


def package(name: str, what: str) -> Any:
    """A module of a package that not every installation has.

    Raises:
        ConfigError: it can't be imported; with the reason and what to install.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, AttributeError) as error:  # torchvision beside another torch raises RuntimeError
        raise ConfigError(
            f"{name}: {what} can't be imported ({error}); `make .venv-import/.ready` makes an environment that can, "
            "requirements/import.txt says what is in it"
        ) from error


def build(make: Callable[..., Any], table: Table, given: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
    """Calls a class with the arguments of a table, which are checked by name before.

    Args:
        given: parameters that a mapping may not set.

    Returns:
        the object, and the arguments as they were given.

    Raises:
        ConfigError: an argument that the class does not have, or whose value it refuses.
    """
    arguments = table.rest()
    parameters = inspect.signature(make).parameters
    known = [name for name in parameters if name not in given]
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = sorted(name for name in arguments if name in given or (name not in parameters and not anything))
    if unknown:
        raise ConfigError(
            f"{table.path}: [{table.name}] has {', '.join(unknown)}; {make.__name__} takes {', '.join(known)}"
        )
    try:
        return make(**{name: _tuples(value) for name, value in arguments.items()}), arguments
    except Exception as error:  # code of others runs here, and may raise anything
        told = json.dumps(arguments, default=str)
        reason = str(error) or type(error).__name__
        raise ConfigError(f"{table.path}: [{table.name}]: {make.__name__} refuses {told}: {reason}") from error


def _tuples(value: object) -> object:
    """Lists as tuples, as Python's signatures mean them."""
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
