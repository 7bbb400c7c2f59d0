"""What a report must have judged before a bundle is packed or signed with it.

Limits bound figures; this bounds what the figures are of. Without it a report of another form, of a single slice or of the volumes
that the model was trained on would keep every limit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edge_runtime.bundle.quality import Judged
from edge_runtime.lineup import BITS

LEAST_DRAWS, LEAST_OFF_DRAWS, LEAST_RECORDED_SLICES = 12, 4, 1


def missed_requirements(forms: Collection[str], provenance: object, judged: Judged | None) -> tuple[str, ...]:
    """What a report lacks; empty where it lacks nothing.

    Args:
        forms: precisions that the bundle holds. The one of fewest bits must have been judged: any device may come down to it.
        provenance: the bundle's. ``training_data`` counts, with ``voxels``, SHA-256 by name (`export.digest.array_digest`), or at
            least ``volumes``, their names; and ``calibration``, whose ``recordings`` have a ``sha256`` each. Of models that were
            trained elsewhere neither is known.
    """
    if judged is None:
        return ("the report does not say on what it judged: qualify anew",)
    missed = []
    runs = fewest_bits(forms)
    if judged.form != runs:
        missed.append(f"{judged.form} was judged, {runs} may run")
    for found, least, what in (
        (judged.draws, LEAST_DRAWS, "simulated slices"),
        (judged.off_draws, LEAST_OFF_DRAWS, "slices of every kind that it was not trained for"),
        (judged.recorded_slices, LEAST_RECORDED_SLICES, "slices of recorded scans"),
    ):
        if found < least:
            missed.append(f"{what} judged: {found}, at least {least} required")
    if seen := _seen_in_training(_table(provenance, "training_data"), judged.volumes):
        missed.append(f"it was trained on volumes that were judged: {', '.join(seen)}")
    if seen := _seen_in_calibration(_table(provenance, "calibration"), judged.recordings):
        missed.append(f"it was calibrated on recordings that were judged: {', '.join(seen)}")
    return tuple(missed)


def fewest_bits(forms: Collection[str]) -> str:
    """The form of fewest bits of those that a bundle holds, by precision."""
    return min(forms, key=lambda form: BITS.get(form, 0))


def _table(provenance: object, name: str) -> Mapping[str, object]:
    """A table of what anybody may have written."""
    table = provenance.get(name) if isinstance(provenance, Mapping) else None
    return table if isinstance(table, Mapping) else {}


def _seen_in_calibration(table: Mapping[str, object], recordings: Mapping[str, str]) -> list[str]:
    entries = table.get("recordings")
    known = [one.get("sha256") for one in entries if isinstance(one, Mapping)] if isinstance(entries, list) else []
    return sorted(name for name, digest in recordings.items() if digest in known)


def _seen_in_training(table: Mapping[str, object], volumes: Mapping[str, str]) -> list[str]:
    voxels, names = table.get("voxels"), table.get("volumes")
    if isinstance(voxels, Mapping):
        known = list(voxels.values())
        return sorted(name for name, digest in volumes.items() if digest in known)
    return sorted(name for name in volumes if name in names) if isinstance(names, list) else []
