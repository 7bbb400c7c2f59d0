"""The ranges of a graph's tensors over reconstruction states, gathered one state at a time."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator
from onnxruntime.quantization.calibrate import save_tensors_data

from export.quantization.histograms import BoundedHistograms

Tensor = npt.NDArray[np.float32]

QUANTIZED_OPERATORS = ("Conv", "Add", "Relu", "Resize")

PERCENTILE = 99.99
"""Ranges leave out the outermost 0.01 % of what the states hold: with the extremes, one unusual scan widens the steps of all the
others (0.10 dB lost on simulated scans in the mean, 0.25 dB at worst; with this 0.02 and 0.05 dB). Moving averages lost less
still on those, but twice as much on a measured phantom unlike them."""


class _OneState(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """A reader that ends after one state."""

    def __init__(self, name: str, state: Tensor) -> None:
        self._name = name
        self._state: Tensor | None = state

    def get_next(self) -> dict[str, Tensor] | None:
        state, self._state = self._state, None
        return None if state is None else {self._name: state}


def write_ranges(prepared: Path, states: Iterable[Tensor], out: Path, input_name: str = "image") -> None:
    """Writes the ranges that `forms.int8_form` takes.

    ONNX Runtime's calibrator keeps every tensor of all that one reader gives until the reader ends; a reader a state leaves it one
    state and the histograms, however many scans there are, and lets states differ in size. Those are bounded, however far apart
    the values of states are (`export.quantization.histograms`).

    Args:
        prepared: a graph of `forms.prepared`.
        states: its inputs ``(1, channels, rows, columns)``.
        input_name: the graph's name for them.

    Raises:
        ValueError: there are no states, or a tensor holds what is not finite; names it.
    """
    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            str(prepared),
            list(QUANTIZED_OPERATORS),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"percentile": PERCENTILE, "symmetric": False},
        )
        calibrator.collector = BoundedHistograms(PERCENTILE)
        for state in states:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints a line a call
                calibrator.collect_data(_OneState(input_name, state))
        if not calibrator.collector.get_histogram_dict():
            raise ValueError(f"{prepared}: no calibration states: ranges are gathered over at least one")
        with contextlib.redirect_stdout(io.StringIO()):
            save_tensors_data(calibrator.compute_data(), str(out))
