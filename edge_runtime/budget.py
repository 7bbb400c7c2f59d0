"""What is asked of a device while it works: the table ``budget`` of a hardware profile and of a bench's protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_runtime.toml_table import TomlTable


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run is held against, line by line; the attributes are the keys of the table ``budget``, each optional.

    Attributes:
        image_p90_ms, image_p99_ms: last readout to image.
        preview_ms: first readout to first preview, median.
        miss_share: of images that come after their scan's deadline, or never.
        nrmse: of an image under load against the golden one.
        resident_mb: of the server, at most.
        temperature_c: of any sensor, at most.
        lateness_p99_ms: of the simulated scanner itself: beyond, the run says nothing about the server.
    """

    image_p90_ms: float | None = None
    image_p99_ms: float | None = None
    preview_ms: float | None = None
    miss_share: float | None = None
    nrmse: float | None = None
    resident_mb: float | None = None
    temperature_c: float | None = None
    lateness_p99_ms: float | None = None

    def over(self, usual: Budget) -> Budget:
        """This one, and where it says nothing the usual one."""
        mine = {name: getattr(self, name) for name in BUDGET_KEYS if getattr(self, name) is not None}
        return replace(usual, **mine)


BUDGET_KEYS = {
    "image_p90_ms": 1e7, "image_p99_ms": 1e7, "preview_ms": 1e7, "miss_share": 1.0, "nrmse": 10.0,
    "resident_mb": 1e7, "temperature_c": 200.0, "lateness_p99_ms": 1e6,
}  # fmt: skip
"""With the most that each may be."""


def budget_of(table: TomlTable) -> Budget:
    """The table ``budget`` of a document."""
    keys = {name: f"budget.{name}" for name in BUDGET_KEYS}
    return Budget(**{name: table.number(key, 0, BUDGET_KEYS[name]) for name, key in keys.items() if table.has(key)})
