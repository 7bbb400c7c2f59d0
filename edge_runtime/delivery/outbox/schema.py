"""The tables of an outbox; `PRAGMA user_version` says which."""

from __future__ import annotations

from edge_runtime.delivery.outbox.states import TRANSITIONS

VERSION = 2

TABLES = """
CREATE TABLE device_time (boot TEXT NOT NULL, offset_s REAL NOT NULL, seen_s REAL NOT NULL);

-- An object keeps its row when its file has gone, so that what was delivered is not delivered again.
CREATE TABLE objects (
    id INTEGER PRIMARY KEY,
    sop_instance_uid TEXT NOT NULL UNIQUE,
    sop_class_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    study_uid TEXT NOT NULL,
    series_uid TEXT NOT NULL,
    label TEXT NOT NULL,
    scan_id TEXT NOT NULL DEFAULT '',
    sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    file TEXT,
    source TEXT,
    added_s REAL NOT NULL,
    added_local TEXT NOT NULL
);

CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY,
    object INTEGER NOT NULL REFERENCES objects (id),
    destination TEXT NOT NULL,
    state TEXT NOT NULL,
    urgency INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before_s REAL NOT NULL DEFAULT 0,
    owner TEXT,
    lease_until_s REAL,
    lost_at_success INTEGER NOT NULL DEFAULT -1,
    reason TEXT NOT NULL DEFAULT '',
    changed_s REAL NOT NULL,
    changed_local TEXT NOT NULL,
    UNIQUE (object, destination)
);
CREATE INDEX deliveries_by_turn ON deliveries (destination, state, urgency DESC, id);
CREATE INDEX deliveries_by_object ON deliveries (object);

CREATE TABLE destinations (
    name TEXT PRIMARY KEY,
    failures INTEGER NOT NULL DEFAULT 0,
    not_before_s REAL NOT NULL DEFAULT 0,
    successes INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT ''
);

-- Requests for storage commitment that no report has answered yet.
CREATE TABLE commitments (
    transaction_uid TEXT PRIMARY KEY, destination TEXT NOT NULL, owner TEXT NOT NULL, requested_s REAL NOT NULL
);
CREATE TABLE commitment_items (
    transaction_uid TEXT NOT NULL REFERENCES commitments (transaction_uid) ON DELETE CASCADE,
    delivery INTEGER NOT NULL REFERENCES deliveries (id),
    PRIMARY KEY (transaction_uid, delivery)
) WITHOUT ROWID;
CREATE INDEX items_by_delivery ON commitment_items (delivery);
"""

# By the version that they start from.
CHANGES = {
    1: """
    ALTER TABLE objects ADD COLUMN scan_id TEXT NOT NULL DEFAULT '';
    UPDATE deliveries SET state = 'withdrawn' WHERE state = 'dead' AND reason = 'purged by an operator';
    """
}


def transitions_trigger() -> str:
    """Makes a connection refuse every change of state that is not in the table of `states`."""
    allowed = " OR ".join(
        f"(OLD.state = '{source.value}' AND NEW.state = '{target.value}')"
        for source, targets in TRANSITIONS.items()
        for target in sorted(targets, key=lambda state: state.value)
    )
    return (
        "CREATE TEMP TRIGGER transitions BEFORE UPDATE OF state ON main.deliveries "
        f"WHEN OLD.state != NEW.state AND NOT ({allowed}) "
        "BEGIN SELECT RAISE(ABORT, 'no such transition'); END"
    )
