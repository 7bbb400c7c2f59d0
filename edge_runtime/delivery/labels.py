"""What a person reads on an image: its series' description and its comments, which can't be mistaken for something else."""

from __future__ import annotations

import math

from edge_runtime.delivery.equipment import RUNTIME_NAME, model_identity
from edge_runtime.delivery.fit import LO, LT, Fit, printable
from edge_runtime.delivery.kind import Kind
from edge_runtime.delivery.plane import Plane
from edge_runtime.scan import Completeness, Evidence, Image, Method, ScanHeader

_METHODS = {
    Method.LEARNED: "AI image: a trained neural network estimated what was not measured",
    Method.CLASSICAL: "Classical image: reconstructed without a trained network",
    Method.ZERO_FILLED: "Zero-filled image: what was not measured is taken as zero",
}


def series_description(header: ScanHeader, kind: Kind, fit: Fit) -> str:
    """Labels, then the scanner's own description as far as there is room: a label is never cut."""
    labels = ["SIMULATED"] if header.simulated else []
    labels.append(kind.method.label)
    if kind.completeness is not Completeness.FINAL:
        labels.append(kind.completeness.value.upper())
    if not kind.placed:
        labels.append("GEOMETRY UNKNOWN")
    label = " ".join(labels)
    description = fit.text("Series description", header.series_description, LO - len(label) - 2)
    return f"{label}: {description}" if description else label


def comments_of(header: ScanHeader, image: Image, plane: Plane, notes: list[str]) -> str:
    """ImageComments, the most important first; what does not fit is not dropped in silence."""
    provenance = image.provenance
    lines = ["RESEARCH: not for clinical use"]
    if header.simulated:
        lines.append("SIMULATED DATA: no patient was measured")
    if not plane.known:
        lines.append("GEOMETRY UNKNOWN: position, orientation and sides of this image are not those of the patient")
    lines.append(_METHODS[image.method])
    measured = f"{math.floor(100 * image.measured_share + 1e-6)} % of phase encodes measured"  # 99.9 % is not 100 %
    lines.append(
        {
            Completeness.PREVIEW: f"PARTIAL PREVIEW: {measured}; the scan was still running",
            Completeness.INCOMPLETE: f"INCOMPLETE SCAN: {measured}; the scan ended early",
            Completeness.FINAL: f"Complete scan: {measured}",
        }[image.completeness]
        + f"; acceleration {image.acceleration:.3g}"
    )
    lines.append(_evidence_line(image.evidence))
    lines.append(f"Made by {RUNTIME_NAME} {provenance.runtime_version}".rstrip())
    if image.method is Method.LEARNED:
        lines[-1] += f"; {model_identity(provenance)}"
    already_said = image.evidence.unconfirmed if image.evidence else ""
    lines += [f"Note: {note}" for note in notes if note != already_said]

    lines = [printable(line) for line in lines]
    comments = "\r\n".join(lines)
    if len(comments) <= LT:
        return comments
    ending = " ...\r\nThe rest did not fit; all notes are in private element EDGE RUNTIME 10"
    return comments[: LT - len(ending)] + ending


def _evidence_line(evidence: Evidence | None) -> str:
    if evidence is None:
        return "EVIDENCE: none; how well this image agrees with the measurement was not determined"
    parts = []
    if evidence.held_out_residual is None and not evidence.unconfirmed:
        parts.append("no samples held out")
    elif evidence.held_out_residual is not None:
        ratio = evidence.held_out_ratio
        in_noise = "" if ratio is None else f" = {ratio:.2f} x noise"
        empty = "" if evidence.held_out_rms is None else f" (an empty image: {evidence.held_out_rms:.4g})"
        parts.append(
            f"held-out residual {evidence.held_out_residual:.4g}{in_noise}{empty} over {evidence.held_out_samples} samples "
            "that the network did not see"
        )
    if evidence.unconfirmed:
        parts.append(evidence.unconfirmed)
    elif evidence.learned_share is not None:
        parts.append(f"{evidence.learned_share:.0%} of the network's correction applied, as they chose")
    parts.append(f"fitted residual {evidence.fitted_residual:.4g} over {evidence.fitted_samples} samples")
    floor = "unknown" if evidence.noise_floor is None else f"{evidence.noise_floor:.4g}"
    parts.append(f"noise floor {floor} ({evidence.noise_source})" if evidence.noise_source else f"noise floor {floor}")
    return "EVIDENCE: " + "; ".join(parts)
