"""The queue itself: SQLite with a write-ahead log, every change on the disk before the call returns (synchronous=FULL).

Several processes may have one outbox open: the server that puts objects in, the sender, an operator at the command line. Every
method is one transaction. Changes follow `states`: each names the states that it starts from, so that a sender which has lost its
lease, or a report that comes twice, changes nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.delivery.outbox import schema
from edge_runtime.delivery.outbox.backoff import Patience
from edge_runtime.delivery.outbox.device_time import Clock, DeviceTime, SystemClock
from edge_runtime.delivery.outbox.objects import ObjectFolder, Taken
from edge_runtime.delivery.outbox.processes import is_running
from edge_runtime.delivery.outbox.states import FIRST, NOT_LEFT, State, Urgency
from edge_runtime.errors import NotPossible, OutboxConflict, OutboxError, OutboxFull

BUSY_TIMEOUT_S = 30.0
"""How long a transaction waits for those of other processes."""

LONGEST_REASON = 500

HAD_BEEN_SENT = "had been sent"
"""How the reason begins of what was withdrawn when a destination had taken it."""


@dataclass(frozen=True, slots=True)
class ObjectIdentity:
    """What an outbox knows of an object; nothing of the patient.

    Attributes:
        label: for people, such as ``learned final``.
        scan_id: of the scan that it was made of; empty where that is not known.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    label: str
    scan_id: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One destination of an object that is taken in."""

    destination: str
    state: State = State.QUEUED
    urgency: Urgency = Urgency.ROUTINE


@dataclass(frozen=True, slots=True)
class Delivery:
    """One object on its way to one destination.

    Attributes:
        path: of its file; ``None`` when that is gone.
        reason: why it is where it is; empty where that goes without saying.
        not_before_s: device time of the next attempt.
        changed_s: device time at which it came into its state.
        changed_local, added_local: time of day, as the device believed it to be.
    """

    id: int
    identity: ObjectIdentity
    destination: str
    state: State
    urgency: Urgency
    attempts: int
    not_before_s: float
    reason: str
    sha256: str
    size_bytes: int
    path: Path | None
    added_local: str
    changed_s: float
    changed_local: str


@dataclass(frozen=True, slots=True)
class Sent:
    """The destination has the object; ``kept`` where it was seen there already.

    Attributes:
        note: what the destination remarked.
    """

    note: str = ""
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed, and it was about this object.

    Attributes:
        wait_s: until the next attempt.
        final: another attempt would fail likewise.
        remark: the destination's own words; they may name a patient and are in no log.
    """

    reason: str
    wait_s: float = 0.0
    final: bool = False
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection broke while this object was on it; whether that was its fault shows when others get through."""

    reason: str
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Untried:
    """It was not its turn any more: the connection ended before it."""


Outcome = Sent | Failed | Lost | Untried


@dataclass(frozen=True, slots=True)
class Line:
    """What the outbox remembers of a destination.

    Attributes:
        failures: connections in a row that failed.
        not_before_s: device time of the next one.
        successes: objects that it took.
        reason: of the latest failure; empty after a success.
    """

    name: str
    failures: int = 0
    not_before_s: float = 0.0
    successes: int = 0
    reason: str = ""


_DELIVERY = (
    "SELECT d.id, o.sop_instance_uid, o.sop_class_uid, o.transfer_syntax_uid, o.study_uid, o.series_uid, o.label, o.scan_id, "
    "d.destination, d.state, d.urgency, d.attempts, d.not_before_s, d.reason, o.sha256, o.size_bytes, o.file, o.added_local, "
    "d.changed_s, d.changed_local "
    "FROM deliveries d JOIN objects o ON o.id = d.object "
)


class Outbox:
    """An outbox in a folder: ``queue.sqlite`` and ``objects``.

    Its methods may be called by several threads.

    Args:
        folder: is made where it is missing.
        clock: where time comes from.
        stop_below_bytes: free space that is left to the device.

    Raises:
        OutboxError: the folder can't be used, or holds something else.
    """

    def __init__(self, folder: Path, *, clock: Clock | None = None, stop_below_bytes: int = 0) -> None:
        self.folder = folder
        self._stop_below_bytes = stop_below_bytes
        self._one_at_a_time = threading.RLock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.objects = ObjectFolder(folder / "objects")
            self._database = sqlite3.connect(
                folder / "queue.sqlite", timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise OutboxError(f"outbox {folder}: can't be opened: {reason}") from error
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._database.execute(f"PRAGMA {pragma}")
            with self._transaction() as database:
                version = database.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, *schema.CHANGES, schema.VERSION):
                    raise OutboxError(
                        f"outbox {folder}: written by another version (schema {version}, this one reads {schema.VERSION}): "
                        "deliver what is in it with that version, or name another folder"
                    )
                if version != schema.VERSION:
                    changes = [schema.CHANGES[number] for number in range(version, schema.VERSION)] if version else []
                    for statement in ";".join(changes or [schema.TABLES]).split(";"):
                        database.execute(statement)
                    database.execute(f"PRAGMA user_version = {schema.VERSION}")
                self.time = DeviceTime(clock or SystemClock(), database)
            self._database.execute(schema.transitions_trigger())
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise OutboxError(f"outbox {folder}: {error}: not an outbox, or damaged") from error
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        with self._one_at_a_time:
            self._database.close()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Taking in

    def add(self, source: Path, identity: ObjectIdentity, wanted: Sequence[Wanted]) -> bool:
        """Takes an object in; when this returns, it will be delivered whatever happens to this process and to ``source``.

        Args:
            source: its DICOM file; nobody writes to it any more.
            wanted: the destinations; those that know the object already are left as they are.

        Returns:
            Whether there was something new in it.

        Raises:
            OutboxFull: less than the reserve would be left on the disk.
            OutboxConflict: this identifier stands for other content.
            OutboxError: the file could not be read or written.
        """
        for one in wanted:
            if one.state not in FIRST:
                raise NotPossible(f"{identity.sop_instance_uid}: an object can't begin as {one.state.value}")
        taken = self.objects.take(source)
        try:
            with self._transaction() as database:
                row = database.execute(
                    "SELECT id, sha256, file FROM objects WHERE sop_instance_uid = ?", (identity.sop_instance_uid,)
                ).fetchone()
                if row is not None and row[1] != taken.sha256:
                    raise OutboxConflict(
                        f"{identity.sop_instance_uid}: is in the outbox with other content (SHA-256 {row[1][:12]}…, "
                        f"now {taken.sha256[:12]}…): the first one is kept"
                    )
                number = row[0] if row is not None else self._insert(database, taken, identity, source)
                known = {
                    name
                    for (name,) in database.execute("SELECT destination FROM deliveries WHERE object = ?", (number,))
                }
                new = [one for one in wanted if one.destination not in known]
                if row is not None and row[2] is None and new:
                    self._name(taken, identity)
                    database.execute("UPDATE objects SET file = ? WHERE id = ?", (_file_name(identity), number))
                for one in new:
                    now, local = self._now()
                    database.execute(
                        "INSERT INTO deliveries (object, destination, state, urgency, changed_s, changed_local) "
                        "VALUES (?, ?, ?, ?, ?, ?)",
                        (number, one.destination, one.state.value, int(one.urgency), now, local),
                    )
            return bool(new)
        finally:
            self.objects.drop(taken)

    def _insert(self, database: sqlite3.Connection, taken: Taken, identity: ObjectIdentity, source: Path) -> int:
        self._name(taken, identity)
        now, local = self._now()
        cursor = database.execute(
            "INSERT INTO objects (sop_instance_uid, sop_class_uid, transfer_syntax_uid, study_uid, series_uid, label, scan_id, "
            "sha256, size_bytes, file, source, added_s, added_local) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                identity.sop_instance_uid,
                identity.sop_class_uid,
                identity.transfer_syntax_uid,
                identity.study_uid,
                identity.series_uid,
                identity.label,
                identity.scan_id,
                taken.sha256,
                taken.size_bytes,
                _file_name(identity),
                self._own(source),
                now,
                local,
            ),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _name(self, taken: Taken, identity: ObjectIdentity) -> None:
        free = self.objects.free_bytes()
        if free - taken.size_bytes < self._stop_below_bytes:
            raise OutboxFull(
                f"{self.folder}: {free >> 20} MB free, of which {self._stop_below_bytes >> 20} MB are left to the device: "
                "make room, or wait until objects are confirmed"
            )
        try:
            self.objects.name(taken, _file_name(identity))
        except OSError as error:
            raise OutboxError(f"{self.folder}: {error.strerror or error}") from error

    def _own(self, source: Path) -> str | None:
        """The path of a source that lies in the outbox's folder, and goes with the object."""
        with contextlib.suppress(ValueError):
            return str(source.absolute().relative_to(self.folder.absolute()))
        return None

    # Sending

    def recover(self) -> int:
        """Takes back what senders held that are gone, or whose leases have run out; how many objects that were.

        What a sender that is gone has asked for may have been reported while nobody listened: it is asked for anew.
        """
        with self._reading() as database:
            asked = [owner for (owner,) in database.execute("SELECT DISTINCT owner FROM commitments")]
            gone_asking = [owner for owner in asked if not is_running(owner)]
            sending = database.execute("SELECT 1 FROM deliveries WHERE state = 'sending' LIMIT 1").fetchone()
            if sending is None and not gone_asking:
                return 0
        with self._transaction() as database:
            database.executemany("DELETE FROM commitments WHERE owner = ?", [(owner,) for owner in gone_asking])
            now, local = self._now()
            owners = [
                owner for (owner,) in database.execute("SELECT DISTINCT owner FROM deliveries WHERE state = 'sending'")
            ]
            back = 0
            for owner in owners:
                gone = not is_running(owner.split("/")[0])
                back += database.execute(
                    "UPDATE deliveries SET state = 'queued', owner = NULL, lease_until_s = NULL, changed_s = ?, "
                    "changed_local = ?, reason = 'its sender did not finish' "
                    "WHERE state = 'sending' AND owner = ? AND (? OR lease_until_s <= ?)",
                    (now, local, owner, gone, now),
                ).rowcount
            return back

    def claim(self, destination: str, owner: str, *, most: int, lease_s: float, least: Urgency) -> list[Delivery]:
        """The next objects for a destination, the most urgent first and then in their order; they are the owner's for a while.

        Args:
            owner: the process (`processes.this_process`), a slash, and who in it.
            lease_s: for how long.
            least: of the urgency.
        """
        if not self.due(destination, least, most=1):
            return []  # nothing is written while there is nothing to do
        with self._transaction() as database:
            now, local = self._now()
            numbers = [
                number
                for (number,) in database.execute(
                    # What a connection broke at goes last until another object has got through: else it would block the rest.
                    "SELECT id FROM deliveries WHERE destination = ? AND state = 'queued' AND urgency >= ? AND not_before_s <= ? "
                    "ORDER BY lost_at_success = COALESCE((SELECT successes FROM destinations WHERE name = ?), 0), "
                    "urgency DESC, id LIMIT ?",
                    (destination, int(least), now, destination, most),
                )
            ]
            database.executemany(
                "UPDATE deliveries SET state = 'sending', owner = ?, lease_until_s = ?, changed_s = ?, changed_local = ? "
                "WHERE id = ?",
                [(owner, now + lease_s, now, local, number) for number in numbers],
            )
            return self._deliveries(database, numbers)

    def renew(self, owner: str, lease_s: float) -> None:
        """Makes an owner's leases last from now on."""
        with self._transaction() as database:
            database.execute(
                "UPDATE deliveries SET lease_until_s = ? WHERE state = 'sending' AND owner = ?",
                (self.time.now_s() + lease_s, owner),
            )

    def more_urgent(self, destination: str, than: Urgency) -> bool:
        """Whether something waits for a destination that goes before the rest."""
        with self._reading() as database:
            # What a connection broke at is no reason to end another one: `claim` has it last.
            row = database.execute(
                "SELECT 1 FROM deliveries WHERE destination = ? AND state = 'queued' AND urgency > ? AND not_before_s <= ? "
                "AND lost_at_success != COALESCE((SELECT successes FROM destinations WHERE name = ?), 0) LIMIT 1",
                (destination, int(than), self.time.now_s(), destination),
            ).fetchone()
        return row is not None

    def due(self, destination: str, least: Urgency, *, most: int) -> int:
        """How many objects could be claimed, counted no further than ``most``."""
        with self._reading() as database:
            (count,) = database.execute(
                "SELECT COUNT(*) FROM (SELECT 1 FROM deliveries WHERE destination = ? AND state = 'queued' AND urgency >= ? "
                "AND not_before_s <= ? LIMIT ?)",
                (destination, int(least), self.time.now_s(), most),
            ).fetchone()
        return int(count)

    def settle(self, owner: str, outcomes: Mapping[int, Outcome], most_attempts: int) -> None:
        """Writes down what became of objects that an owner had claimed; what is not its any more is left alone.

        Args:
            outcomes: by delivery.
            most_attempts: after so many failures of its own an object is dead.
        """
        with self._transaction() as database:
            now, local = self._now()
            for number, outcome in outcomes.items():
                row = database.execute(
                    "SELECT d.attempts, d.lost_at_success, d.destination, COALESCE(l.successes, 0) FROM deliveries d "
                    "LEFT JOIN destinations l ON l.name = d.destination WHERE d.id = ? AND d.state = 'sending' AND d.owner = ?",
                    (number, owner),
                ).fetchone()
                if row is None:
                    continue
                attempts, lost_at, destination, successes = row
                state, reason, wait_s = State.QUEUED, "", 0.0
                if isinstance(outcome, Sent):
                    state, reason = (State.COMMITTED if outcome.kept else State.SENT), outcome.note
                    self._worked(database, destination)
                elif isinstance(outcome, Failed):
                    attempts, wait_s = attempts + 1, outcome.wait_s
                    reason = f"{outcome.reason} ({outcome.remark})" if outcome.remark else outcome.reason
                    if outcome.final or attempts >= most_attempts:
                        state = State.DEAD
                elif isinstance(outcome, Lost):
                    # Others got through since it was last lost: then the connection is not to blame.
                    if lost_at >= 0 and successes > lost_at:
                        attempts += 1
                    lost_at, reason, wait_s = successes, outcome.reason, outcome.wait_s
                    if attempts >= most_attempts:
                        state = State.DEAD
                database.execute(
                    "UPDATE deliveries SET state = ?, attempts = ?, lost_at_success = ?, not_before_s = ?, reason = ?, "
                    "owner = NULL, lease_until_s = NULL, changed_s = ?, changed_local = ? WHERE id = ?",
                    (state.value, attempts, lost_at, now + wait_s, reason[:LONGEST_REASON], now, local, number),
                )

    def _worked(self, database: sqlite3.Connection, destination: str) -> None:
        database.execute(
            "INSERT INTO destinations (name, successes) VALUES (?, 1) "
            "ON CONFLICT (name) DO UPDATE SET successes = successes + 1, failures = 0, not_before_s = 0, reason = ''",
            (destination,),
        )

    def line(self, destination: str) -> Line:
        """What is known of a destination."""
        with self._reading() as database:
            row = database.execute(
                "SELECT name, failures, not_before_s, successes, reason FROM destinations WHERE name = ?",
                (destination,),
            ).fetchone()
        return Line(destination) if row is None else Line(*row)

    def line_failed(self, destination: str, reason: str, wait_s: float) -> None:
        """A connection to a destination failed: none is made for a while."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO destinations (name, failures, not_before_s, reason) VALUES (?, 1, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET failures = failures + 1, not_before_s = excluded.not_before_s, "
                "reason = excluded.reason",
                (destination, self.time.now_s() + wait_s, reason[:LONGEST_REASON]),
            )

    # Confirmation

    def unconfirmed(self, destination: str, *, most: int, again_after_s: float) -> list[Delivery]:
        """Objects that were sent and not yet asked for, or for so long that they are asked for again."""
        with self._reading() as database:
            now = self.time.now_s()
            numbers = [
                number
                for (number,) in database.execute(
                    "SELECT id FROM deliveries d WHERE destination = ? AND state = 'sent' AND not_before_s <= ? AND NOT EXISTS "
                    "(SELECT 1 FROM commitment_items i JOIN commitments c USING (transaction_uid) "
                    "WHERE i.delivery = d.id AND c.requested_s > ?) ORDER BY urgency DESC, id LIMIT ?",
                    (destination, now, now - again_after_s, most),
                )
            ]
            return self._deliveries(database, numbers)

    def open_commitment(self, transaction_uid: str, destination: str, owner: str, deliveries: Iterable[int]) -> None:
        """Writes down a request for storage commitment, before it is made: its report may come at any time."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO commitments VALUES (?, ?, ?, ?)", (transaction_uid, destination, owner, self.time.now_s())
            )
            database.executemany(
                "INSERT INTO commitment_items VALUES (?, ?)", [(transaction_uid, number) for number in deliveries]
            )

    def drop_commitment(self, transaction_uid: str) -> None:
        """Forgets a request that was not taken."""
        with self._transaction() as database:
            database.execute("DELETE FROM commitments WHERE transaction_uid = ?", (transaction_uid,))

    def commitment_destination(self, transaction_uid: str) -> str | None:
        """Whom a request was made to that waits for its report; ``None``: there is none."""
        with self._reading() as database:
            found = database.execute(
                "SELECT destination FROM commitments WHERE transaction_uid = ?", (transaction_uid,)
            ).fetchone()
        return None if found is None else str(found[0])

    def report_commitment(
        self, transaction_uid: str, kept: Collection[str], missing: Mapping[str, str], patience: Patience
    ) -> bool:
        """What a report of storage commitment says; one that was not asked for, or comes again, changes nothing.

        Args:
            kept: SOP Instance UIDs.
            missing: reasons by SOP Instance UID.

        Returns:
            Whether that request was open.
        """
        with self._transaction() as database:
            row = database.execute(
                "SELECT destination FROM commitments WHERE transaction_uid = ?", (transaction_uid,)
            ).fetchone()
            if row is None:
                return False
            asked = database.execute(
                "SELECT o.sop_instance_uid, d.id FROM commitment_items i JOIN deliveries d ON d.id = i.delivery "
                "JOIN objects o ON o.id = d.object WHERE i.transaction_uid = ?",
                (transaction_uid,),
            ).fetchall()
            self._confirm(database, {number: uid in kept for uid, number in asked if uid in kept or uid in missing},
                          {number: missing.get(uid, "") for uid, number in asked}, patience)  # fmt: skip
            # What the report does not mention is asked for again.
            database.execute("DELETE FROM commitments WHERE transaction_uid = ?", (transaction_uid,))
            return True

    def confirm(self, verdicts: Mapping[int, bool], reason: str, patience: Patience) -> None:
        """What asking for objects found: there, or not there and to be sent again."""
        with self._transaction() as database:
            self._confirm(database, verdicts, dict.fromkeys(verdicts, reason), patience)

    def ask_later(self, deliveries: Iterable[int], wait_s: float) -> None:
        """Objects that were sent are not asked for before then."""
        with self._transaction() as database:
            database.executemany(
                "UPDATE deliveries SET not_before_s = ? WHERE id = ? AND state = 'sent'",
                [(self.time.now_s() + wait_s, number) for number in deliveries],
            )

    def _confirm(
        self, database: sqlite3.Connection, verdicts: Mapping[int, bool], reasons: Mapping[int, str], patience: Patience
    ) -> None:
        now, local = self._now()
        for number, kept in verdicts.items():
            if kept:
                database.execute(
                    "UPDATE deliveries SET state = 'committed', reason = '', changed_s = ?, changed_local = ? "
                    "WHERE id = ? AND state = 'sent'",
                    (now, local, number),
                )
                continue
            row = database.execute(
                "SELECT attempts FROM deliveries WHERE id = ? AND state = 'sent'", (number,)
            ).fetchone()
            if row is None:
                continue
            failures = row[0] + 1
            state = State.DEAD if failures >= patience.attempts else State.QUEUED
            database.execute(
                "UPDATE deliveries SET state = ?, attempts = ?, not_before_s = ?, reason = ?, changed_s = ?, changed_local = ? "
                "WHERE id = ?",
                (
                    state.value, failures, now + patience.wait_s(failures), reasons.get(number, "")[:LONGEST_REASON], now,
                    local, number,
                ),
            )  # fmt: skip

    # Operators

    def hold(self, numbers: Collection[int] | None, destination: str | None) -> int:
        """Keeps deliveries from leaving until they are released.

        Args:
            numbers: of deliveries; ``None`` for all that wait.
            destination: only of that one, where it is named.

        Returns:
            How many were changed.

        Raises:
            NotPossible: one of the numbers does not exist or is in another state; none is changed.
        """
        sources = [State.QUEUED] if numbers is None else [State.QUEUED, State.DEAD]
        return self._wish(numbers, destination, sources, State.HELD, "held by an operator")

    def release(self, numbers: Collection[int] | None, destination: str | None) -> int:
        """Lets what is held go; see `hold`."""
        return self._wish(numbers, destination, [State.HELD], State.QUEUED, "")

    def retry(self, numbers: Collection[int] | None, destination: str | None) -> int:
        """Tries the dead again, and the waiting at once; see `hold`. The destinations are tried at once, too."""
        changed = self._wish(numbers, destination, [State.DEAD, State.QUEUED], State.QUEUED, "")
        with self._transaction() as database:
            database.execute(
                "UPDATE destinations SET not_before_s = 0, failures = 0 WHERE ? IS NULL OR name = ?",
                (destination, destination),
            )
        return changed

    def _wish(
        self, numbers: Collection[int] | None, destination: str | None, sources: list[State], to: State, reason: str
    ) -> int:
        with self._transaction() as database:
            now, local = self._now()
            marks = ",".join("?" * len(sources))
            if numbers is None:
                numbers = [
                    number
                    for (number,) in database.execute(
                        f"SELECT id FROM deliveries WHERE state IN ({marks}) AND (? IS NULL OR destination = ?)",
                        (*(state.value for state in sources), destination, destination),
                    )
                ]
            for number in numbers:
                changed = database.execute(
                    "UPDATE deliveries SET state = ?, not_before_s = 0, "
                    "attempts = CASE WHEN state = 'dead' THEN 0 ELSE attempts END, "
                    f"reason = ?, changed_s = ?, changed_local = ? WHERE id = ? AND state IN ({marks}) "
                    "AND (? IS NULL OR destination = ?)",
                    (to.value, reason, now, local, number, *(s.value for s in sources), destination, destination),
                ).rowcount
                if not changed:
                    found = self._deliveries(database, [number])
                    what = f"is {found[0].state.value}" if found else "does not exist"
                    if found and destination is not None and found[0].destination != destination:
                        what = f"is for {found[0].destination}"
                    expected = " or ".join(state.value for state in sources)
                    raise NotPossible(f"delivery {number} {what}: expected one that is {expected}")
            return len(numbers)

    def set_urgency(self, numbers: Collection[int], urgency: Urgency) -> None:
        """Changes the turn of deliveries that have not left.

        Raises:
            NotPossible: one of them does not exist, or has left; none is changed.
        """
        with self._transaction() as database:
            for number in numbers:
                changed = database.execute(
                    "UPDATE deliveries SET urgency = ? WHERE id = ? AND state IN ('held', 'queued', 'dead')",
                    (int(urgency), number),
                ).rowcount
                if not changed:
                    raise NotPossible(f"delivery {number}: does not exist, or has left")

    # Going

    def remove(self, numbers: Collection[int]) -> int:
        """Takes deliveries back that have not left, and removes the files that nobody else waits for; an operator's decision.

        Returns:
            How many files went.

        Raises:
            NotPossible: one of them is being sent; nothing is changed.
        """
        with self._transaction() as database:
            found = self._deliveries(database, list(numbers))
            for one in found:
                if one.state is State.SENDING:
                    raise NotPossible(f"delivery {one.id} is being sent: wait, or stop the sender")
            self._take_back(database, (one.id for one in found if one.state in NOT_LEFT), "purged by an operator")
            return self._let_go(database, [one.id for one in found])

    def withdraw(self, numbers: Collection[int], reason: str) -> dict[int, State]:
        """Takes deliveries back whose objects others have replaced: none leaves any more. What was sent and is not confirmed is not
        sent again either, whatever a destination says of it; that it was sent stays in the reason.

        Returns:
            The state that each was in; those that are being sent, or are confirmed, are left as they are.
        """
        with self._transaction() as database:
            found = {one.id: one.state for one in self._deliveries(database, list(numbers))}
            self._take_back(database, (number for number, state in found.items() if state in NOT_LEFT), reason)
            sent = (number for number, state in found.items() if state is State.SENT)
            self._take_back(database, sent, f"{HAD_BEEN_SENT}; {reason}")
            self._let_go(database, list(found))
            return found

    def _take_back(self, database: sqlite3.Connection, numbers: Iterable[int], reason: str) -> None:
        now, local = self._now()
        database.executemany(
            "UPDATE deliveries SET state = 'withdrawn', reason = ?, changed_s = ?, changed_local = ? WHERE id = ?",
            [(reason, now, local, number) for number in numbers],
        )

    def _let_go(self, database: sqlite3.Connection, numbers: Collection[int]) -> int:
        """Removes the files of objects that none but these deliveries wait for."""
        database.execute("CREATE TEMP TABLE IF NOT EXISTS going (id INTEGER PRIMARY KEY)")
        database.execute("DELETE FROM going")
        database.executemany("INSERT OR IGNORE INTO going VALUES (?)", [(number,) for number in numbers])
        objects = [
            number
            for (number,) in database.execute(
                """
                SELECT o.id FROM objects o WHERE o.file IS NOT NULL
                AND EXISTS (SELECT 1 FROM deliveries d JOIN going USING (id) WHERE d.object = o.id)
                AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.object = o.id AND (d.state = 'sending'
                    OR (d.id NOT IN (SELECT id FROM going) AND d.state NOT IN ('committed', 'withdrawn'))))
                """
            )
        ]
        return self._forget(database, objects)

    def purge(
        self,
        *,
        committed_before_s: float,
        unconfirmed_before_s: float | None,
        unconfirming: Collection[str],
        under_way: Collection[str] = (),
    ) -> int:
        """Removes the files of objects that are confirmed everywhere, and of those that went where nothing is confirmed.

        Args:
            committed_before_s: device time.
            unconfirmed_before_s: likewise; ``None``: those stay.
            unconfirming: destinations that confirm nothing.
            under_way: ids of scans of which nothing may go.

        Returns:
            How many files went.
        """
        with self._transaction() as database:
            marks = ",".join("?" * len(unconfirming))
            limit = -1.0 if unconfirmed_before_s is None else unconfirmed_before_s
            objects = [
                number
                for (number,) in database.execute(
                    f"""
                    SELECT o.id FROM objects o WHERE o.file IS NOT NULL
                    AND EXISTS (SELECT 1 FROM deliveries d WHERE d.object = o.id)
                    AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.object = o.id AND NOT (
                        d.state = 'withdrawn' OR (d.state = 'committed' AND d.changed_s <= ?)
                        OR (d.state = 'sent' AND d.destination IN ({marks}) AND d.changed_s <= ?)))
                    AND o.scan_id NOT IN ({",".join("?" * len(under_way))})
                    """,
                    (committed_before_s, *unconfirming, limit, *under_way),
                )
            ]
            return self._forget(database, objects)

    def _forget(self, database: sqlite3.Connection, objects: Collection[int]) -> int:
        for number in objects:
            file, source = database.execute("SELECT file, source FROM objects WHERE id = ?", (number,)).fetchone()
            self.objects.remove(file)
            if source is not None:
                (self.folder / source).unlink(missing_ok=True)
            database.execute("UPDATE objects SET file = NULL, source = NULL WHERE id = ?", (number,))
        return len(objects)

    def sweep(self) -> int:
        """Removes files that a crash left behind; how many."""
        with self._transaction() as database:  # while it is open nobody names files
            known = {name for (name,) in database.execute("SELECT file FROM objects WHERE file IS NOT NULL")}
            return self.objects.sweep(known)

    # Looking

    def deliveries(
        self, *, destination: str | None = None, states: Collection[State] = (), most: int = -1
    ) -> list[Delivery]:
        """What is in the outbox, in the order in which it came."""
        marks = ",".join("?" * len(states)) or "SELECT DISTINCT state FROM deliveries"
        with self._reading() as database:
            rows = database.execute(
                f"{_DELIVERY} WHERE (? IS NULL OR d.destination = ?) AND d.state IN ({marks}) ORDER BY d.id LIMIT ?",
                (destination, destination, *(state.value for state in states), most),
            ).fetchall()
        return [self._delivery(row) for row in rows]

    def counts(self) -> dict[str, dict[State, int]]:
        """How many deliveries there are, by destination and state."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT destination, state, COUNT(*) FROM deliveries GROUP BY destination, state ORDER BY destination"
            ).fetchall()
        counts: dict[str, dict[State, int]] = {}
        for destination, state, count in rows:
            counts.setdefault(destination, {})[State(state)] = count
        return counts

    def stored_bytes(self) -> int:
        """Of the objects whose files are here."""
        with self._reading() as database:
            return int(
                database.execute("SELECT COALESCE(SUM(size_bytes), 0) FROM objects WHERE file IS NOT NULL").fetchone()[
                    0
                ]
            )

    def _deliveries(self, database: sqlite3.Connection, numbers: Sequence[int]) -> list[Delivery]:
        return [
            self._delivery(database.execute(f"{_DELIVERY} WHERE d.id = ?", (number,)).fetchone())
            for number in numbers
            if database.execute("SELECT 1 FROM deliveries WHERE id = ?", (number,)).fetchone()
        ]

    def _delivery(self, row: Sequence[object]) -> Delivery:
        number, uid, sop_class, syntax, study, series, label, scan_id, destination, state, urgency = row[:11]
        attempts, not_before_s, reason, sha256, size, file, added, changed_s, changed = row[11:]
        return Delivery(
            id=int(str(number)),
            identity=ObjectIdentity(
                str(uid), str(sop_class), str(syntax), str(study), str(series), str(label), str(scan_id)
            ),
            destination=str(destination),
            state=State(state),
            urgency=Urgency(int(str(urgency))),
            attempts=int(str(attempts)),
            not_before_s=float(str(not_before_s)),
            reason=str(reason),
            sha256=str(sha256),
            size_bytes=int(str(size)),
            path=None if file is None else self.objects.path(str(file)),
            added_local=str(added),
            changed_s=float(str(changed_s)),
            changed_local=str(changed),
        )

    def _now(self) -> tuple[float, str]:
        return self.time.now_s(), self.time.clock.local().isoformat(timespec="seconds")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._one_at_a_time, self._translated():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                if hasattr(self, "time"):
                    self.time.keep(self._database)
                self._database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._one_at_a_time, self._translated():
            yield self._database

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # a defect of ours
        except sqlite3.DatabaseError as error:
            raise OutboxError(f"outbox {self.folder}: {error}") from error


def _file_name(identity: ObjectIdentity) -> str:
    return f"{identity.sop_instance_uid}.dcm"
