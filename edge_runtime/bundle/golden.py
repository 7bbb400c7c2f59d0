"""Golden arrays: what a form must answer to the golden input, on every engine that may run it."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_runtime.bundle.manifest import REGULARISER, Tolerance
from edge_runtime.engines import Engine, Session, Tensor
from edge_runtime.errors import BundleMalformed, GoldenMismatch

RANK = 4

Graphs = Mapping[str, bytes]
"""ONNX graphs of one form, by name."""


@dataclass(frozen=True, slots=True)
class Form:
    """One precision of a model.

    Attributes:
        golden_output: ``(1, channels, rows, columns)``.
        tolerances: of the engines that the form was qualified for.
    """

    precision: str
    graphs: Graphs
    golden_output: Tensor
    tolerances: tuple[Tolerance, ...]

    @property
    def onnx(self) -> bytes:
        """The regulariser of the unrolled family."""
        return self.graphs[REGULARISER]

    def tolerance(self, engine: Engine) -> Tolerance:
        """What this engine may differ by.

        Raises:
            GoldenMismatch: the form was not qualified for the engine, or not for this version of its library.
        """
        version = engine.version().removeprefix(engine.name).strip()
        for one in self.tolerances:
            if one.covers(engine.name, version):
                return one
        known = ", ".join(f"{one.engine} from {one.first} to below {one.below}" for one in self.tolerances) or "none"
        raise GoldenMismatch(
            f"{self.precision} is not qualified for {engine.version()}, but for {known}: install one of these, or get a bundle "
            "that is qualified for this one"
        )


def check_golden(session: Session, form: Form, engine: Engine, golden_input: Tensor) -> float:
    """Runs the golden input and returns the relative error of what came out.

    Raises:
        GoldenMismatch: it is larger than the form tolerates, or the engine is none that it was qualified for.
        EngineError: the engine failed.
    """
    tolerance = form.tolerance(engine)
    output = session.run(golden_input)
    if output.shape != form.golden_output.shape:
        raise GoldenMismatch(
            f"{form.precision}: golden output has shape {output.shape}, not {form.golden_output.shape}"
        )
    error = float(np.linalg.norm(output - form.golden_output) / np.linalg.norm(form.golden_output))
    if not error <= tolerance.relative_error:
        raise GoldenMismatch(
            f"{form.precision}: golden outputs differ by {error:.2e} (relative), at most {tolerance.relative_error:.0e} is "
            f"tolerated; {engine.version()} does not compute what was qualified: use another version, precision or engine"
        )
    return error


def format_array(array: Tensor) -> bytes:
    """A member of ``golden/``, NPY version 1.0, float32."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array, "<f4"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def parse_array(name: str, content: bytes) -> Tensor:
    """A golden array ``(1, channels, rows, columns)``.

    Its size is held against the bytes that are there before anything is allocated: `numpy.load` believes what a header claims.

    Raises:
        BundleMalformed: it is none, or no array of float32.
    """
    buffer = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(buffer) != (1, 0):
            raise ValueError("NPY version 1.0 is expected")
        shape, transposed, dtype = np.lib.format.read_array_header_1_0(buffer)
    except (ValueError, MemoryError, RecursionError) as error:
        raise BundleMalformed(f"{name}: no array: {str(error)[:200]}") from error
    data = buffer.tell()
    size = len(content) - data
    if dtype.str != "<f4" or transposed or len(shape) != RANK or 4 * math.prod(shape) != size or min(shape) < 1:
        raise BundleMalformed(f"{name}: {dtype} of shape {shape} in {size} bytes: float32 with four axes is expected")
    array = np.frombuffer(content, "<f4", offset=data).reshape(shape)
    if not np.isfinite(array).all():
        raise BundleMalformed(f"{name}: values that are not finite")
    return array
