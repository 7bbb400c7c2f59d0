"""Results of long work, kept as they come, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Remembered:
    """Measurements by name, in a file of one JSON line each; those of another identity are passed over."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self._known = {}
        if path.exists():
            whole = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")  # a torn last line is dropped
            lines = [json.loads(line) for line in whole]
            self._known = {line["name"]: line["value"] for line in lines if line["identity"] == identity}

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
