"""Identifiers of studies, series and images: derived, so that the same things always have the same ones and others never do."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets

from pydicom.uid import generate_uid

from edge_runtime.delivery.kind import Kind
from edge_runtime.scan import ScanHeader


@dataclasses.dataclass(frozen=True, slots=True)
class ScanUids:
    """The identifiers that all images of a scan share, and the seed of those they don't.

    Attributes:
        study: Study Instance UID.
        frame_of_reference: Frame of Reference UID of images whose place is known.
        seed: the scan's identity; series and images derive their UIDs from it.
        notes: what of the header's UIDs could not be used.
    """

    study: str
    frame_of_reference: str
    seed: str
    notes: tuple[str, ...] = ()


def scan_uids(header: ScanHeader, scan_id: str = "") -> ScanUids:
    """Identifiers of a scan: the header's where they are valid, else derived from what identifies the scan.

    A Study UID that the header does not give is shared with the examination's other scans only if patient and
    examination are named (patient ID with accession number, or with study ID and date). Otherwise every scan is a study
    of its own: images of two patients in one study would be worse than one examination in two.

    Args:
        header: of the scan.
        scan_id: see `SeriesWriter`. Where neither it nor the header tells this scan from others, it is drawn at random.
    """
    patient, study = header.patient, header.study
    notes = []
    if study.instance_uid and not is_uid(study.instance_uid):
        notes.append("Study Instance UID: not a valid UID; another was made")
    if header.frame_of_reference_uid and not is_uid(header.frame_of_reference_uid):
        notes.append("Frame of Reference UID: not a valid UID; another was made")
    if not scan_id and not (is_uid(study.instance_uid) and header.measurement_id):
        scan_id = secrets.token_hex(16)
    examination = [study.instance_uid, study.accession_number, study.identifier, study.date]
    person = [patient.identifier, patient.name, patient.birth_date]
    scan = [scan_id, header.measurement_id, header.protocol_name, study.time, header.scanner.device_serial_number]
    request = header.request
    order = [] if request is None else [request.procedure_id, request.step_id, request.performed_uid]
    seed = json.dumps([*scan, *examination, *person, *([patient.issuer] if patient.issuer else []), *order])
    if is_uid(study.instance_uid):
        study_uid = study.instance_uid
    elif patient.identifier and (study.accession_number or (study.identifier and study.date)):
        study_uid = derived_uid("study", header.scanner.institution, *examination, *person)
    else:
        study_uid = derived_uid("study", seed)
    frame = header.frame_of_reference_uid
    return ScanUids(study_uid, frame if is_uid(frame) else derived_uid("frame", seed), seed, tuple(notes))


def series_uid(uids: ScanUids, kind: Kind) -> str:
    """Series Instance UID: one for each method, completeness, contrast, set, model and known or unknown place."""
    return derived_uid(
        "series",
        uids.study,
        uids.seed,
        kind.method.value,
        kind.completeness.value,
        kind.contrast,
        kind.set,
        kind.provenance.bundle_digest,
        kind.placed,  # a series has one Frame of Reference (PS3.3 C.7.4.1)
    )


def is_uid(text: str) -> bool:
    """Whether a text is a UID."""
    # PS3.5 9.1. Not pydicom's own check, which lets a final newline pass and roots that can't be.
    return len(text) <= 64 and re.fullmatch(r"[012](\.(0|[1-9][0-9]*))+", text) is not None


def derived_uid(*identity: object) -> str:
    """A UID that the same identity always has and, but for a collision of SHA-512, no other."""
    # As JSON, so that ("ab", "c") and ("a", "bc") differ and any text, even a lone surrogate, can be hashed.
    return str(generate_uid(entropy_srcs=[json.dumps(identity)]))
