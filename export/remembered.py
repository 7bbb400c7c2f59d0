"""Results of long work, kept as they come, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_runtime.errors import EdgeRuntimeError
from export.digest import file_digest

SHOWN = 16
"""Characters of a digest or version in what is said of it."""


class OtherInputs(EdgeRuntimeError):
    """Long work is to go on in a folder where it was begun with other inputs."""


def differences(before: object, now: Mapping[str, str], when: tuple[str, str] = ("before", "now")) -> str:
    """In words, in which parts of an identity two differ, and how these are ``when`` they are the one and the other."""
    known = before if isinstance(before, Mapping) else {}
    return ", ".join(
        f"{name} ({str(known.get(name, 'none'))[:SHOWN]} {when[0]}, {str(now.get(name, 'none'))[:SHOWN]} {when[1]})"
        for name in {**now, **known}
        if known.get(name) != now.get(name)
    )


class Remembered:
    """Measurements by name, in a file of one JSON line each; those of another identity are passed over.

    Args:
        identity: all that measurements hang on, by what it is: digests of inputs and code, versions of libraries.
    """

    def __init__(self, path: Path, identity: Mapping[str, str]) -> None:
        self._path, self._identity = path, dict(identity)
        self._known: dict[str, Any] = {}
        self._other: object = None
        if not path.exists():
            return
        lines = path.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if _record(line) is not None]
        if len(whole) < len(lines):  # power was lost while a line was written
            partial = path.with_name(f"{path.name}.partial")
            partial.write_bytes(b"".join(whole))
            partial.replace(path)
        for record in filter(None, map(_record, whole)):
            if record["identity"] == self._identity:
                self._known[record["name"]] = record["value"]
            else:
                self._other = record["identity"]

    def beginning(self) -> str:
        """What a run begins with, in words; empty where the file holds nothing."""
        if self._known:
            return f"{self._path}: goes on with {len(self._known)} results of an earlier run"
        if self._other is None:
            return ""
        changed = differences(self._other, self._identity)
        return f"{self._path}: begins anew, since its results are of another {changed}"

    def remembered(self, name: str, measure: Callable[[], object]) -> Any:
        """The value that is known, or a new one, which is kept."""
        if not self.has(name):
            self.keep(name, measure())
        return self.value(name)

    def has(self, name: str) -> bool:
        """Whether a value is known."""
        return name in self._known

    def value(self, name: str) -> Any:
        """The value that is known."""
        return self._known[name]

    def keep(self, name: str, value: object) -> None:
        """Remembers a value from now on."""
        self._known[name] = value
        line = {"identity": self._identity, "name": name, "value": value}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line of the file says; None of one that is not whole."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and record.keys() == {"identity", "name", "value"} and line.endswith(b"\n")
    return record if whole else None


def made_once(
    path: Path, identity: Mapping[str, str], make: Callable[[Path], None], report: Callable[[str], None]
) -> Path:
    """A file that is made where it is missing, was changed, or was made of something else; what of is kept in a file beside it.

    Args:
        identity: see `Remembered`.
        make: writes the file to the path it is given.
        report: told in words why it is made anew.
    """
    known = Remembered(path.with_suffix(".jsonl"), identity)
    if known.has(path.name) and path.exists() and known.value(path.name) == file_digest(path):
        return path
    if not known.has(path.name) and (said := known.beginning()):
        report(said)
    partial = path.with_suffix(".partial")
    make(partial)
    partial.rename(path)
    known.keep(path.name, file_digest(path))
    return path
