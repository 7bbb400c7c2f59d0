"""How an image's contrast came about, as far as the header says (MR Image module, PS3.3 C.8.3.1)."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from edge_runtime.delivery.codes import add_known
from edge_runtime.delivery.fit import SH, Fit
from edge_runtime.scan import Limit, ScanHeader, Sequence

# ScanningSequence and SequenceVariant (PS3.3 C.8.3.1) by what headers call a sequence. Anything else is RM, "research
# mode", and NONE: nothing is claimed that the scanner did not say.
_SPIN_ECHO = ("SE", "NONE")
_TURBO_SPIN_ECHO = ("SE", "SK")
_GRADIENT_ECHO = ("GR", "NONE")
_SPOILED_GRADIENT_ECHO = ("GR", "SP")
_SEQUENCES = {
    "SE": _SPIN_ECHO,
    "SPINECHO": _SPIN_ECHO,
    "TSE": _TURBO_SPIN_ECHO,
    "FSE": _TURBO_SPIN_ECHO,
    "RARE": _TURBO_SPIN_ECHO,
    "TURBOSPINECHO": _TURBO_SPIN_ECHO,
    "FASTSPINECHO": _TURBO_SPIN_ECHO,
    "GR": _GRADIENT_ECHO,
    "GRE": _GRADIENT_ECHO,
    "GRADIENTECHO": _GRADIENT_ECHO,
    "FLASH": _SPOILED_GRADIENT_ECHO,
    "SPGR": _SPOILED_GRADIENT_ECHO,
}


def add_contrast(dataset: Dataset, header: ScanHeader, contrast: int, fit: Fit) -> None:
    """MR Image module (PS3.3 C.8.3.1): how a contrast of the scan came about, as far as the header says."""
    sequence = header.sequence
    scanning, variant = _scanning_sequence(sequence)
    # Zero is how headers say "no inversion pulse".
    inversion_time = fit.decimal("Inversion time", _of_contrast(sequence.inversion_time_ms, contrast) or None)
    dataset.ScanningSequence = [scanning, "IR"] if inversion_time else scanning
    add_known(dataset, "InversionTime", inversion_time)
    dataset.SequenceVariant = variant
    dataset.ScanOptions = None
    partitions = header.encoding.limits.get("kspace_encoding_step_2", Limit())
    dataset.MRAcquisitionType = "3D" if partitions.maximum > 0 else "2D"
    dataset.RepetitionTime = fit.decimal("Repetition time", _of_contrast(sequence.repetition_time_ms, contrast))
    dataset.EchoTime = fit.decimal("Echo time", _of_contrast(sequence.echo_time_ms, contrast))
    dataset.EchoTrainLength = None
    dataset.EchoNumbers = contrast + 1
    add_known(dataset, "FlipAngle", fit.decimal("Flip angle", _of_contrast(sequence.flip_angle_deg, contrast)))
    add_known(dataset, "SequenceName", fit.text("Sequence type", sequence.sequence_type, SH))
    add_known(dataset, "MagneticFieldStrength", fit.decimal("Field strength", header.scanner.field_strength_t))
    frequency_hz = header.scanner.resonance_frequency_hz
    frequency_mhz = None if frequency_hz is None else frequency_hz / 1e6
    add_known(dataset, "ImagingFrequency", fit.decimal("Resonance frequency", frequency_mhz))
    dataset.InPlanePhaseEncodingDirection = "COL"  # rows are phase encodes, so phase encoding runs along columns


def _scanning_sequence(sequence: Sequence) -> tuple[str, str]:
    name = re.sub(r"[^A-Z]", "", sequence.sequence_type.upper())
    return _SEQUENCES.get(name, ("RM", "NONE"))


def _of_contrast(values: tuple[float, ...], contrast: int) -> float | None:
    """The value of a contrast; a single value holds for all of them."""
    if len(values) == 1:
        return values[0]
    return values[contrast] if contrast < len(values) else None
