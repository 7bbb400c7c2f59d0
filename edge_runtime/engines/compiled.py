"""What an engine compiled on this device, kept in a folder.

A file of this kind is of one device: of one GPU, driver and version of the compiler. It says so in front of what was compiled, and
whoever reads it holds every line of that against the device at hand. Nobody signs these files: they are made here from a signed
bundle, in a folder that only this user writes, and whoever can change them can change the program too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edge_runtime.errors import EngineError, EngineFileRefused

MAGIC = b"EDGENGN1"
MAX_HEADER_BYTES = 64 << 10
MAX_COMPILED_BYTES = 1 << 30
"""An engine, or the compiler's measurements. Ours have a few MB."""

_FRONT = struct.Struct("<8sI")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a compiled engine is of. One is used only where every line agrees.

    Attributes:
        bundle: SHA-256 of the bundle's file, hexadecimal.
        precision: the bundle's form.
        graph: SHA-256 of the ONNX graph, hexadecimal.
        compiler: name and version.
        gpu: as the driver calls it, with its multiprocessors and memory.
        capability: compute capability, such as ``8.7``.
        driver: the newest CUDA that the driver serves, such as ``12.6``.
        profile: sizes, memory and accelerator, as the hardware profile and the bundle have it.
    """

    bundle: str
    precision: str
    graph: str
    compiler: str
    gpu: str
    capability: str
    driver: str
    profile: str

    @property
    def name(self) -> str:
        """Of files: one engine is kept for each form of a bundle."""
        return f"{self.bundle[:16]}-{self.precision}"

    def differences(self, other: Identity) -> list[str]:
        """What another one has otherwise, in words."""
        return [
            f"{field.name} {getattr(other, field.name)!r} instead of {getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(other, field.name) != getattr(self, field.name)
        ]


@dataclass(frozen=True)
class CompiledFolder:
    """Engine files, and what the compiler has measured, in one folder.

    Raises:
        EngineError: the folder can't be read or written.
    """

    path: Path

    @classmethod
    def at(cls, path: Path) -> CompiledFolder:
        """The folder of a path that may begin with ``~``."""
        try:
            return cls(path.expanduser())
        except RuntimeError as error:  # who runs this has no home
            raise EngineError(f"{path}: {error}; compile.cache of the hardware profile names another folder") from error

    def engine_file(self, identity: Identity) -> Path:
        """Where the engine is kept."""
        return self.path / f"{identity.name}.engine"

    def _timing_file(self, identity: Identity) -> Path:
        device = f"{identity.compiler} {identity.gpu} {identity.capability} {identity.driver}"
        return self.path / f"timing-{hashlib.sha256(device.encode()).hexdigest()[:16]}.cache"

    def engine(self, identity: Identity) -> bytes | None:
        """What was compiled; ``None`` where nothing was.

        Raises:
            EngineFileRefused: the file is damaged, or of another device, version, bundle or profile.
        """
        path = self.engine_file(identity)
        content = self._read(path, _FRONT.size + MAX_HEADER_BYTES + MAX_COMPILED_BYTES)
        if content is None:
            return None
        found, compiled = _parse(path, content)
        if differences := identity.differences(found):
            raise EngineFileRefused(f"{path} is of another device, version or bundle: it has {'; '.join(differences)}")
        return compiled

    def keep_engine(self, identity: Identity, compiled: bytes) -> Path:
        """Writes the file of an engine in place of the one before."""
        header = json.dumps(
            {**asdict(identity), "bytes": len(compiled), "sha256": hashlib.sha256(compiled).hexdigest()},
            sort_keys=True,
        ).encode()
        path = self.engine_file(identity)
        self._write(path, _FRONT.pack(MAGIC, len(header)) + header + compiled)
        return path

    def timing(self, identity: Identity) -> bytes:
        """What the compiler has measured on this device; empty where nothing is known."""
        return self._read(self._timing_file(identity), MAX_COMPILED_BYTES) or b""

    def keep_timing(self, identity: Identity, timing: bytes) -> None:
        """Writes down what the compiler has measured."""
        self._write(self._timing_file(identity), timing)

    def keep_record(self, bundle: str, record: Mapping[str, Any]) -> Path:
        """Writes down which forms of a bundle ran here, and how fast.

        Args:
            bundle: SHA-256 of its file, hexadecimal.
            record: plain values.
        """
        path = self.path / f"{bundle[:16]}.measured.json"
        self._write(path, (json.dumps(record, indent=1) + "\n").encode())
        return path

    def discard(self, identity: Identity) -> None:
        """The engine goes; one that can't be removed is refused or fails again."""
        with contextlib.suppress(OSError):
            self.engine_file(identity).unlink(missing_ok=True)

    def _read(self, path: Path, most: int) -> bytes | None:
        try:
            with path.open("rb") as file:
                content = file.read(most + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EngineError(f"{path}: can't be read: {error.strerror or error}") from error
        if len(content) > most:
            raise EngineFileRefused(f"{path} is larger than {most} bytes, the most that it may have")
        return content

    def _write(self, path: Path, content: bytes) -> None:
        """Whole or not at all: several processes may compile at once."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, partial = tempfile.mkstemp(prefix=path.name, suffix=".partial", dir=self.path)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                os.replace(partial, path)
            except OSError:
                os.unlink(partial)
                raise
        except OSError as error:
            raise EngineError(
                f"{path}: can't be written: {error.strerror or error}; compile.cache of the hardware profile names another folder"
            ) from error


def _parse(path: Path, content: bytes) -> tuple[Identity, bytes]:
    """What stands in front, and what was compiled.

    Raises:
        EngineFileRefused: the file is no engine file, or damaged.
    """
    try:
        magic, length = _FRONT.unpack_from(content)
        if magic != MAGIC or length > MAX_HEADER_BYTES:
            raise ValueError("it does not begin as one")
        document = json.loads(content[_FRONT.size : _FRONT.size + length])
        compiled = content[_FRONT.size + length :]
        if document.pop("bytes") != len(compiled):
            raise ValueError("it is cut short")
        if document.pop("sha256") != hashlib.sha256(compiled).hexdigest():
            raise ValueError("its SHA-256 is not what it says")
        return Identity(**document), compiled
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise EngineFileRefused(f"{path} is no engine file, or damaged: {str(error)[:200]}") from error
