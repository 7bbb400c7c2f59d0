"""A receiver in plain C (``plain_receiver.c``): the least that taking in readouts costs, without a check, a transform or Python."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.modalities.mri.fourier import Complex

SOURCE = Path(__file__).with_suffix(".c")
COMPILE = ("cc", "-O2")
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Received:
    """What the program took in.

    Attributes:
        readouts: all of them.
        readouts_per_s: from the moment when the first had been taken in to the last.
        slice_sum: `slice_sum` of its slice at the end.
    """

    readouts: int
    readouts_per_s: float
    slice_sum: int


@contextlib.contextmanager
def compiled() -> Iterator[Path | None]:
    """The program; None where there is no C compiler.

    Raises:
        RuntimeError: it does not compile.
    """
    if shutil.which(COMPILE[0]) is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / SOURCE.stem
        done = subprocess.run([*COMPILE, "-o", str(program), str(SOURCE)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{SOURCE} does not compile: {done.stderr}")
        yield program


def receive(program: Path, connection: socket.socket, shape: tuple[int, int, int], buffer_bytes: int) -> Received:
    """Runs the program on a blocking connection until CLOSE.

    Args:
        program: see `compiled`.
        connection: from which a scan comes.
        shape: of its slices, ``(lines, coils, samples)``.
        buffer_bytes: that one call of ``recv`` may fill.

    Raises:
        RuntimeError: what came is no such scan; says what the program said.
    """
    descriptor = connection.fileno()
    command = [str(program), *map(str, (descriptor, *shape, buffer_bytes))]
    done = subprocess.run(command, pass_fds=[descriptor], capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    readouts, counted, seconds, found = done.stdout.split()
    return Received(int(readouts), int(counted) / float(seconds) if int(counted) else 0.0, int(found))


def slice_sum(lines: Complex) -> int:
    """What the program computes over its slice ``(lines, coils, samples)``: the sum of every 32-bit word times its place, counted
    from 1, modulo 2 to the 64."""
    words = np.ascontiguousarray(lines).view(np.uint32).ravel().astype(np.uint64)
    return int((words * np.arange(1, words.size + 1, dtype=np.uint64)).sum())
