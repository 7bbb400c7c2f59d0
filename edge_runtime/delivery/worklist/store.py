"""What is known of orders and of the scans that answer them, kept so that neither a crash nor a week without network loses it.

One SQLite file (WAL, synchronous=FULL), readable by its owner alone, as it names patients. Several processes may use it at
once: the server and the commands of an operator.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime.delivery.worklist.order import Order
from edge_runtime.errors import WorklistError

log = logging.getLogger(__name__)

VERSION = 3

BUSY_S = 10.0
"""How long one process waits for another's write."""

MOST_KEPT = 5000
"""Orders; those that were last seen the longest ago go first. What a scan was bound to is kept with the scan."""

LEAST_PREFIX = 6
"""Letters of a key's beginning that stand for the whole; an order is named by a person in a hurry."""

CHOICE_LASTS_S = 8 * 3600.0
"""For how long what was chosen for the next scan counts: not for the first scan of another day."""

How = Literal["operator", "header", "reconciled", "unscheduled", "emergency", "contradicted"]
"""How a scan came by its order, or that it has none; ``contradicted``: what it said of an order was not believed."""

_TABLES = """
CREATE TABLE orders (key TEXT PRIMARY KEY, document TEXT NOT NULL, seen_at REAL NOT NULL);
CREATE TABLE queries (asked_at REAL NOT NULL, peer TEXT NOT NULL, found INTEGER NOT NULL, refused INTEGER NOT NULL);

-- What an operator chose for the next scan: at most one row.
CREATE TABLE next_scan (key TEXT, emergency INTEGER NOT NULL, chosen_at REAL NOT NULL);
CREATE TABLE chosen (scan_id TEXT PRIMARY KEY, key TEXT, emergency INTEGER NOT NULL, chosen_at REAL NOT NULL);

-- A scan's newest row counts, the earlier ones say what it was before it was reconciled.
CREATE TABLE bindings (
    id INTEGER PRIMARY KEY, scan_id TEXT NOT NULL, how TEXT NOT NULL, document TEXT, study_uid TEXT NOT NULL,
    patient_id TEXT NOT NULL, performed_uid TEXT NOT NULL, started_date TEXT NOT NULL, started_time TEXT NOT NULL,
    remark TEXT NOT NULL, bound_at REAL NOT NULL, ended TEXT NOT NULL DEFAULT ''
);
CREATE INDEX bindings_by_scan ON bindings (scan_id, id);
CREATE INDEX bindings_by_study ON bindings (study_uid, id);
"""


# By the version that they start from.
_CHANGES = {
    1: """
-- What the hospital is still to be told of performed steps, in the order in which it happened.
CREATE TABLE performed (
    id INTEGER PRIMARY KEY, step_uid TEXT NOT NULL, kind TEXT NOT NULL, document TEXT NOT NULL, queued_at REAL NOT NULL,
    told_at REAL, refused TEXT NOT NULL DEFAULT ''
);
""",
    2: "ALTER TABLE performed ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",
}


@dataclass(frozen=True, slots=True)
class Cached:
    """An order as it was last seen.

    Attributes:
        seen_at: seconds since the epoch by the clock of then; who shows it says how old it is.
    """

    order: Order
    seen_at: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What an operator wants a scan to be: the order of a key, or nobody's, as an emergency."""

    key: str | None
    emergency: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """A scan and what it was bound to.

    Attributes:
        order: ``None`` where it is unscheduled.
        remark: why, in plain words; without values that name a patient.
        ended: ``COMPLETED`` or ``DISCONTINUED``; empty while it goes on.
    """

    scan_id: str
    how: How
    order: Order | None
    study_uid: str
    patient_id: str
    performed_uid: str
    started_date: str
    started_time: str
    remark: str
    bound_at: float
    ended: str = ""


@dataclass(frozen=True, slots=True)
class Untold:
    """Something of a performed step that the hospital is still to be told.

    Attributes:
        document: DICOM as JSON (PS3.18 annex F).
        attempts: how often the hospital could not take it, though it answered.
    """

    number: int
    step_uid: str
    kind: Literal["begun", "ended"]
    document: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one thing that the hospital is to be told of a performed step.

    Attributes:
        refused: why it was not taken and is not told again by itself; empty where it was, or still may be.
    """

    number: int
    step_uid: str
    kind: Literal["begun", "ended"]
    queued_at: float
    told_at: float | None
    refused: str
    attempts: int


class WorklistStore:
    """See the module's text. Methods may be called from several threads.

    Args:
        folder: is made where it is missing.
        clock: seconds since the epoch.

    Raises:
        WorklistError: the folder or the file can't be used.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = folder / "worklist.sqlite"
        self._clock = clock
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise WorklistError(f"{self.path}: {error.strerror or error}") from error
        with self._translated():
            self._database = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
        with self._transaction() as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if not 0 <= version <= VERSION:
                raise WorklistError(f"{self.path}: of version {version}; this program knows {VERSION}")
            if version < VERSION:
                tables = [_TABLES] if version == 0 else []
                tables += [_CHANGES[number] for number in range(max(1, version), VERSION)]
                for statement in ";".join(tables).split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> WorklistStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Orders

    def keep(self, orders: Sequence[Order], peer: str, refused: int) -> None:
        """Takes in what a worklist answered; what it no longer names stays, as the scan may already be under way."""
        now = self._clock()
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO orders VALUES (?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET document = excluded.document, seen_at = excluded.seen_at",
                [(order.key, json.dumps(order.document()), now) for order in orders],
            )
            database.execute("INSERT INTO queries VALUES (?, ?, ?, ?)", (now, peer, len(orders), refused))
            database.execute(
                "DELETE FROM queries WHERE rowid NOT IN (SELECT rowid FROM queries ORDER BY rowid DESC LIMIT 100)"
            )
            database.execute(
                "DELETE FROM orders WHERE key NOT IN (SELECT key FROM orders ORDER BY seen_at DESC, rowid DESC LIMIT ?)",
                (MOST_KEPT,),
            )

    def orders(self) -> list[Cached]:
        """All that are kept, in the order of their schedule."""
        rows = self._rows("SELECT document, seen_at FROM orders")
        cached = [Cached(Order.of_document(json.loads(document)), seen_at) for document, seen_at in rows]
        return sorted(cached, key=lambda one: (one.order.start_date, one.order.start_time, one.order.key))

    def order(self, key: str) -> Order:
        """The order of a key or its beginning (`LEAST_PREFIX`), or the only one of an accession number, which goes first.

        Raises:
            WorklistError: none or several; says what there is.
        """
        known = [one.order for one in self.orders()]
        found = [one for one in known if key and one.accession_number == key]
        if not found and len(key) >= LEAST_PREFIX:
            found = [one for one in known if one.key.startswith(key)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise WorklistError(
                f"order {key!r}: no such key or accession number among the {len(known)} orders that are kept here"
            )
        keys = ", ".join(one.key for one in found[:8])
        raise WorklistError(f"order {key!r}: {len(found)} orders answer to that; give the key of one of them: {keys}")

    def last_query(self) -> tuple[float, str, int, int] | None:
        """When a worklist was asked last, which, how many orders came and how many entries were refused."""
        rows = self._rows("SELECT asked_at, peer, found, refused FROM queries ORDER BY rowid DESC LIMIT 1")
        return None if not rows else (float(rows[0][0]), str(rows[0][1]), int(rows[0][2]), int(rows[0][3]))

    # What the operator chose

    def choose(self, choice: Choice | None, scan_id: str = "") -> None:
        """For the next scan that begins, or for one by its id; ``None`` takes a choice back."""
        with self._transaction() as database:
            if scan_id:
                database.execute("DELETE FROM chosen WHERE scan_id = ?", (scan_id,))
            else:
                database.execute("DELETE FROM next_scan")
            if choice is None:
                return
            values = (choice.key, int(choice.emergency), self._clock())
            if scan_id:
                database.execute("INSERT INTO chosen VALUES (?, ?, ?, ?)", (scan_id, *values))
            else:
                database.execute("INSERT INTO next_scan VALUES (?, ?, ?)", values)

    def choice(self) -> tuple[Choice, float] | None:
        """What the next scan will be, and since when that is chosen."""
        rows = self._rows("SELECT key, emergency, chosen_at FROM next_scan")
        return (Choice(rows[0][0], bool(rows[0][1])), float(rows[0][2])) if rows else None

    def take_choice(self, scan_id: str) -> Choice | None:
        """What was chosen for a scan, its own before the next one's; the latter is used up by that."""
        with self._transaction() as database:
            row = database.execute("SELECT key, emergency FROM chosen WHERE scan_id = ?", (scan_id,)).fetchone()
            if row is None:
                row = database.execute("SELECT key, emergency, chosen_at FROM next_scan").fetchone()
                database.execute("DELETE FROM next_scan")
                if row is not None and abs(self._clock() - row[2]) > CHOICE_LASTS_S:
                    log.warning("scan %s: what was chosen for the next scan is too old, and is forgotten", scan_id)
                    row = None
                if row is not None:  # a scan that goes on after a crash finds its choice again
                    database.execute("INSERT INTO chosen VALUES (?, ?, ?, ?)", (scan_id, row[0], row[1], self._clock()))
        return None if row is None else Choice(row[0], bool(row[1]))

    # Scans

    def bind(self, bound: Bound, told: str = "") -> None:
        """Writes down what a scan is bound to; what it was before stays in the record.

        Args:
            told: what the hospital is to be told of the step that begins, see `Untold`; empty for nothing.
        """
        document = None if bound.order is None else json.dumps(bound.order.document())
        with self._transaction() as database:
            database.execute(
                "INSERT INTO bindings (scan_id, how, document, study_uid, patient_id, performed_uid, started_date, started_time, "
                "remark, bound_at, ended) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    bound.scan_id, bound.how, document, bound.study_uid, bound.patient_id, bound.performed_uid,
                    bound.started_date, bound.started_time, bound.remark, bound.bound_at, bound.ended,
                ),
            )  # fmt: skip
            if told:
                self._tell(database, bound.performed_uid, "begun", told)

    def ended(self, scan_id: str, how: str, step_uid: str = "", told: str = "") -> None:
        """That a scan is over, and what the hospital is to be told of its step."""
        with self._transaction() as database:
            database.execute(
                "UPDATE bindings SET ended = ? WHERE id = (SELECT MAX(id) FROM bindings WHERE scan_id = ?)",
                (how, scan_id),
            )
            if told:
                self._tell(database, step_uid, "ended", told)

    def bound(self, scan_id: str) -> Bound | None:
        """What a scan is bound to now; ``None`` where no such scan is known."""
        rows = self._rows(f"SELECT {_BOUND} FROM bindings WHERE scan_id = ? ORDER BY id DESC LIMIT 1", (scan_id,))
        return _bound(rows[0]) if rows else None

    def first_bound(self, scan_id: str) -> Bound | None:
        """What a scan was bound to when it began."""
        rows = self._rows(f"SELECT {_BOUND} FROM bindings WHERE scan_id = ? ORDER BY id LIMIT 1", (scan_id,))
        return _bound(rows[0]) if rows else None

    def scans_of(self, study_uid: str) -> list[str]:
        """Scans that were ever of a study."""
        return [
            str(row[0]) for row in self._rows("SELECT DISTINCT scan_id FROM bindings WHERE study_uid = ?", (study_uid,))
        ]

    def history(self, *, most: int = 200) -> list[Bound]:
        """The newest bindings, oldest first."""
        rows = self._rows(f"SELECT {_BOUND} FROM bindings ORDER BY id DESC LIMIT ?", (most,))
        return [_bound(row) for row in reversed(rows)]

    def study_began(self, study_uid: str) -> tuple[str, str] | None:
        """Date and time of the first scan of a study."""
        rows = self._rows(
            "SELECT started_date, started_time FROM bindings WHERE study_uid = ? ORDER BY id LIMIT 1", (study_uid,)
        )
        return (str(rows[0][0]), str(rows[0][1])) if rows else None

    # What the hospital is told of performed steps

    def tell(self, step_uid: str, kind: Literal["begun", "ended"], document: str) -> None:
        """Something that the hospital is to be told."""
        with self._transaction() as database:
            self._tell(database, step_uid, kind, document)

    def _tell(self, database: sqlite3.Connection, step_uid: str, kind: str, document: str) -> None:
        database.execute(
            "INSERT INTO performed (step_uid, kind, document, queued_at) VALUES (?, ?, ?, ?)",
            (step_uid, kind, document, self._clock()),
        )

    def untold(self, without: Collection[str] = ()) -> Untold | None:
        """What is to be told next.

        Args:
            without: steps that are not looked at.
        """
        marks = ",".join("?" * len(without))
        rows = self._rows(
            "SELECT id, step_uid, kind, document, attempts FROM performed WHERE told_at IS NULL AND refused = '' "
            f"AND step_uid NOT IN ({marks}) ORDER BY id LIMIT 1",
            tuple(without),
        )
        return Untold(*rows[0]) if rows else None

    def put_off(self, number: int) -> None:
        """The hospital could not take it now."""
        with self._transaction() as database:
            database.execute("UPDATE performed SET attempts = attempts + 1 WHERE id = ?", (number,))

    def told(self, number: int) -> None:
        """It was taken."""
        with self._transaction() as database:
            database.execute("UPDATE performed SET told_at = ? WHERE id = ?", (self._clock(), number))

    def refused(self, step_uid: str, reason: str) -> None:
        """It was not, and would not be; nothing more is told of that step."""
        with self._transaction() as database:
            database.execute(
                "UPDATE performed SET refused = ? WHERE step_uid = ? AND told_at IS NULL", (reason, step_uid)
            )

    def retry(self) -> int:
        """Makes what was refused wait to be told again; how many messages that are."""
        with self._transaction() as database:
            return database.execute(
                "UPDATE performed SET refused = '', attempts = 0 WHERE refused != '' AND told_at IS NULL"
            ).rowcount

    def steps(self, *, most: int = 200) -> list[Step]:
        """The newest messages, oldest first."""
        rows = self._rows(
            "SELECT id, step_uid, kind, queued_at, told_at, refused, attempts FROM performed ORDER BY id DESC LIMIT ?",
            (most,),
        )
        return [Step(*row) for row in reversed(rows)]

    def performed(self) -> dict[str, int]:
        """How many messages wait, were taken, were refused."""
        ((waiting, told, refused),) = self._rows(
            "SELECT COUNT(*) FILTER (WHERE told_at IS NULL AND refused = ''), COUNT(told_at), "
            "COUNT(*) FILTER (WHERE refused != '') FROM performed"
        )
        return {"waiting": int(waiting), "told": int(told), "refused": int(refused)}

    # SQLite

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._translated(), self._lock:
            return self._database.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated(), self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise WorklistError(f"{self.path}: {error}") from error


_BOUND = (
    "scan_id, how, document, study_uid, patient_id, performed_uid, started_date, started_time, remark, bound_at, ended"
)


def _bound(row: Sequence[Any]) -> Bound:
    scan_id, how, document, *rest = row
    return Bound(scan_id, how, None if document is None else Order.of_document(json.loads(document)), *rest)
