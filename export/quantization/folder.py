"""The folder that `edge-export quantize` writes into a work folder: what is in it, and its forms read back."""

from __future__ import annotations

from pathlib import Path

from export.config import ConfigError
from export.families.unrolled import UnrolledNetwork
from export.split import regulariser_onnx

FOLDER = "forms"
"""In the work folder: a graph a precision, ``quality.json``, `CALIBRATION` and the search's report."""

CALIBRATION = "calibration.json"
"""In that folder: what INT8 was calibrated on and which layers it leaves in floating point, as a bundle tells it."""

FULL = "fp32"
"""What other forms are held against."""

ALWAYS, WITHIN_BUDGET = (FULL, "int8"), ("fp16",)
"""Forms that there always are, and those that there are where they keep the budget of quality."""


def form_file(folder: Path, precision: str) -> Path:
    """Where the graph of a precision is."""
    return folder / f"{precision}.onnx"


def read_forms(work: Path, network: UnrolledNetwork, config_path: Path) -> dict[str, bytes]:
    """The graphs by precision.

    Args:
        network: the model in the work folder.
        config_path: for what is said where they are missing.

    Raises:
        ConfigError: there are none, or they are of another model than the folder's.
    """
    folder = work / FOLDER
    for path in (*(form_file(folder, precision) for precision in ALWAYS), folder / CALIBRATION):
        if not path.exists():
            raise ConfigError(f"{path}: there is none yet; run edge-export quantize {config_path} first")
    files = {precision: form_file(folder, precision) for precision in (*ALWAYS, *WITHIN_BUDGET)}
    forms = {precision: path.read_bytes() for precision, path in files.items() if path.exists()}
    if forms[FULL] != regulariser_onnx(network):
        raise ConfigError(f"{files[FULL]}: not of the model in {work}; run edge-export quantize {config_path} again")
    return forms
