"""An imported program: a split program with its name, its graphs and where it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from edge_runtime.engines import Engine
from edge_runtime.modalities.mri.interpret import Interpreter
from edge_runtime.program.stages import Program


@dataclass(frozen=True)
class Origin:
    """Where a program comes from.

    Attributes:
        source: the adapter.
        model: class or file.
        package: name and version of what the model's code came in.
        arguments: what the model was made with, as JSON.
        checkpoint: name of the file with the weights.
        checkpoint_sha256: of that file.
        mapping_sha256: of the mapping.
    """

    source: str
    model: str
    package: str
    arguments: str
    checkpoint: str
    checkpoint_sha256: str
    mapping_sha256: str


@dataclass(frozen=True)
class SplitProgram(Program):
    """A program as an import makes it.

    Attributes:
        files: content of every graph by its file name; not part of the stored description.
    """

    name: str
    version: str
    origin: Origin
    files: Mapping[str, bytes]

    def steps(self) -> Program:
        """What a device needs of it."""
        return Program(**{one.name: getattr(self, one.name) for one in fields(Program)})


def interpreter_of(program: SplitProgram, engine: Engine, threads: int = 1) -> Interpreter:
    """The program made ready to run.

    Raises:
        EngineError: a graph can't be planned.
    """
    return Interpreter(program, {file: engine.plan(content, threads) for file, content in program.files.items()})


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
