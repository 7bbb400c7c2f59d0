"""The queue: what is in it stays in it, and goes the ways that the table of `states` allows, in the order that it should."""

from __future__ import annotations

import dataclasses
import datetime
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from delivery_objects import MadeClock, add_images, settings_of, write_images
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydicom import dcmread

from edge_runtime.delivery.handover import identity_of
from edge_runtime.delivery.outbox.backoff import Patience
from edge_runtime.delivery.outbox.processes import is_running, this_process
from edge_runtime.delivery.outbox.retention import purge
from edge_runtime.delivery.outbox.states import TRANSITIONS, State, Urgency
from edge_runtime.delivery.outbox.store import Failed, Lost, ObjectIdentity, Outbox, Sent, Untried, Wanted
from edge_runtime.errors import NotPossible, OutboxConflict, OutboxError, OutboxFull

OWNER = f"{this_process()}/test"
PATIENCE = Patience(10, 5.0, 900.0)
ROUTINE = Urgency.ROUTINE


@pytest.fixture
def clock() -> MadeClock:
    return MadeClock()


@pytest.fixture
def outbox(tmp_path: Path, clock: MadeClock) -> Outbox:
    return Outbox(tmp_path / "outbox", clock=clock)


def claim(outbox: Outbox, most: int = 100, owner: str = OWNER, least: Urgency = ROUTINE) -> list[int]:
    return [one.id for one in outbox.claim("pacs", owner, most=most, lease_s=60, least=least)]


def states(outbox: Outbox) -> list[State]:
    return [one.state for one in outbox.deliveries()]


def test_an_object_goes_from_queued_to_committed(outbox: Outbox, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "images", 1)
    (uid,) = add_images(outbox, [path])
    path.unlink()  # it is the outbox's now
    (delivery,) = outbox.claim("pacs", OWNER, most=10, lease_s=60, least=ROUTINE)
    assert delivery.path is not None and outbox.objects.digest(delivery.path.name) == delivery.sha256
    outbox.settle(OWNER, {delivery.id: Sent()}, 10)
    outbox.open_commitment("1.2.3", "pacs", this_process(), [delivery.id])
    assert outbox.unconfirmed("pacs", most=10, again_after_s=60) == []
    assert outbox.report_commitment("1.2.3", {uid}, {}, PATIENCE)
    assert states(outbox) == [State.COMMITTED]
    assert not outbox.report_commitment("1.2.3", set(), {uid: "gone"}, PATIENCE), "a report counts once"
    assert states(outbox) == [State.COMMITTED]


def test_what_a_sender_that_is_gone_has_asked_for_is_asked_for_anew(outbox: Outbox, tmp_path: Path) -> None:
    (uid,) = add_images(outbox, write_images(tmp_path / "images", 1))
    (number,) = claim(outbox)
    outbox.settle(OWNER, {number: Sent()}, 10)
    code = "from edge_runtime.delivery.outbox.processes import this_process; print(this_process(), flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:  # type: ignore[call-overload]
        outbox.open_commitment("1.2.3", "pacs", process.stdout.readline().strip(), [number])
        outbox.recover()
        assert outbox.unconfirmed("pacs", most=10, again_after_s=3600) == []
        process.kill()
    outbox.recover()
    assert [one.id for one in outbox.unconfirmed("pacs", most=10, again_after_s=3600)] == [number]
    assert not outbox.report_commitment("1.2.3", {uid}, {}, PATIENCE), "it does not wait for that report any more"


def test_the_most_urgent_goes_first_then_in_order(outbox: Outbox, tmp_path: Path) -> None:
    paths = write_images(tmp_path, 6)
    for path, urgency in zip(paths, (0, 1, 0, 2, 1, 2)):
        add_images(outbox, [path], urgency=Urgency(urgency))
    assert claim(outbox, 4) == [4, 6, 2, 5]
    assert outbox.more_urgent("pacs", Urgency.ROUTINE) is False
    add_images(outbox, write_images(tmp_path, 1, seed=9), urgency=Urgency.EMERGENCY)
    assert outbox.more_urgent("pacs", Urgency.URGENT)
    assert claim(outbox, least=Urgency.EMERGENCY) == [7]


def test_an_object_that_is_there_already_is_not_taken_twice(outbox: Outbox, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    add_images(outbox, [path])
    assert not outbox.add(path, identity_of(path, "x"), [Wanted("pacs")])
    assert outbox.add(path, identity_of(path, "x"), [Wanted("pacs"), Wanted("other")])
    assert [one.destination for one in outbox.deliveries()] == ["pacs", "other"]
    path.write_bytes(path.read_bytes() + b"\0\0")
    with pytest.raises(OutboxConflict, match="other content"):
        outbox.add(path, identity_of(path, "x"), [Wanted("third")])
    assert len(list(outbox.objects.folder.iterdir())) == 1


def test_what_was_delivered_and_purged_is_not_delivered_again(outbox: Outbox, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "in", 1)
    (uid,) = add_images(outbox, [path])
    (number,) = claim(outbox)
    outbox.settle(OWNER, {number: Sent(kept=True)}, 10)
    assert purge(outbox, settings_of(tmp_path, DESTINATION)) == 0, "it is kept for a day"
    outbox.time.clock.wait(NEVER, 86401)
    assert purge(outbox, settings_of(tmp_path, DESTINATION)) == 1
    assert not list(outbox.objects.folder.iterdir())
    add_images(outbox, [path])
    assert claim(outbox) == []
    assert states(outbox) == [State.COMMITTED] and uid


def test_nothing_is_purged_before_it_is_confirmed(outbox: Outbox, tmp_path: Path, clock: MadeClock) -> None:
    settings = settings_of(tmp_path, DESTINATION)
    add_images(outbox, write_images(tmp_path / "in", 2))
    numbers = claim(outbox)
    outbox.settle(OWNER, {numbers[0]: Sent()}, 10)
    clock.pass_s(1e9)
    clock.set_local(datetime.datetime(2190, 1, 1, tzinfo=datetime.timezone.utc))
    assert purge(outbox, settings) == 0
    unconfirming = settings_of(tmp_path, DESTINATION.replace('"commitment"', '"none"'))
    assert purge(outbox, unconfirming) == 0, "without a policy it stays"
    outbox_policy = dataclasses.replace(unconfirming.outbox, keep_unconfirmed_s=86400.0)
    assert purge(outbox, dataclasses.replace(unconfirming, outbox=outbox_policy)) == 1
    assert [one.path is None for one in outbox.deliveries()] == [True, False]


def test_confirmed_objects_go_at_once_where_room_runs_short(outbox: Outbox, tmp_path: Path) -> None:
    add_images(outbox, write_images(tmp_path / "in", 1))
    outbox.settle(OWNER, {claim(outbox)[0]: Sent(kept=True)}, 10)
    scarce = settings_of(tmp_path, DESTINATION)
    assert purge(outbox, scarce) == 0
    low = dataclasses.replace(scarce, outbox=dataclasses.replace(scarce.outbox, purge_below_bytes=1 << 60))
    assert purge(outbox, low) == 1


def test_the_reserve_of_the_disk_is_left_alone(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 1)
    with Outbox(tmp_path / "outbox", stop_below_bytes=1 << 60) as outbox:
        with pytest.raises(OutboxFull, match="MB free"):
            add_images(outbox, paths)
        assert not outbox.deliveries() and not list(outbox.objects.folder.iterdir())


def test_leases_of_the_living_hold_until_they_run_out(outbox: Outbox, tmp_path: Path, clock: MadeClock) -> None:
    add_images(outbox, write_images(tmp_path / "in", 1))
    (number,) = claim(outbox)
    clock.pass_s(59)
    assert outbox.recover() == 0
    outbox.renew(OWNER, 60)
    clock.pass_s(59)
    assert outbox.recover() == 0
    clock.pass_s(2)
    assert outbox.recover() == 1
    assert claim(outbox, owner=f"{this_process()}/other") == [number]
    outbox.settle(OWNER, {number: Sent()}, 10)  # too late: it is another's
    assert states(outbox) == [State.SENDING]


def test_leases_of_the_dead_end_at_once(outbox: Outbox, tmp_path: Path) -> None:
    add_images(outbox, write_images(tmp_path / "in", 1))
    code = (
        "import sys; from pathlib import Path; from edge_runtime.delivery.outbox.store import Outbox\n"
        "from edge_runtime.delivery.outbox.processes import this_process\n"
        "from edge_runtime.delivery.outbox.states import Urgency\n"
        "print(len(Outbox(Path(sys.argv[1])).claim('pacs', this_process() + '/x', most=9, lease_s=1e9, "
        "least=Urgency.ROUTINE)), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(outbox.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"1\n"
        assert outbox.recover() == 0 and claim(outbox) == []
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert outbox.recover() == 1 and claim(outbox) == [1]


def test_a_process_is_known_by_more_than_its_number() -> None:
    assert is_running(this_process())
    number, started, boot = this_process().split("_")
    assert not is_running(f"{number}_{int(started) - 1}_{boot}")
    assert not is_running("") and not is_running("x") and number == str(os.getpid())


def test_waits_do_not_end_because_somebody_sets_the_clock(outbox: Outbox, tmp_path: Path, clock: MadeClock) -> None:
    add_images(outbox, write_images(tmp_path / "in", 1))
    (number,) = claim(outbox)
    outbox.settle(OWNER, {number: Failed("busy", 100)}, 10)
    for year in (2025, 2027, 1970):
        clock.set_local(datetime.datetime(year, 1, 1, tzinfo=datetime.timezone.utc))
        assert claim(outbox) == []
    clock.pass_s(101)
    assert claim(outbox) == [number]


def test_device_time_goes_on_after_a_boot(tmp_path: Path, clock: MadeClock) -> None:
    with Outbox(tmp_path / "outbox", clock=clock) as outbox:
        add_images(outbox, write_images(tmp_path / "in", 1))
        (number,) = claim(outbox)
        outbox.settle(OWNER, {number: Failed("busy", 100)}, 10)
        before = outbox.time.now_s()
    clock.reboot()
    with Outbox(tmp_path / "outbox", clock=clock) as outbox:
        assert outbox.time.now_s() == pytest.approx(before)
        assert claim(outbox) == []
        clock.pass_s(101)
        assert claim(outbox) == [number]


def test_an_object_that_fails_too_often_is_a_dead_letter_until_it_is_tried_again(
    outbox: Outbox, tmp_path: Path
) -> None:
    add_images(outbox, write_images(tmp_path / "in", 2))
    for attempt in range(3):
        assert claim(outbox) == ([1, 2] if attempt == 0 else [1])
        outbox.settle(
            OWNER, {1: Failed(f"refused {attempt}"), **({2: Failed("never", final=True)} if not attempt else {})}, 3
        )
    assert [(one.state, one.attempts, one.reason) for one in outbox.deliveries()] == [
        (State.DEAD, 3, "refused 2"),
        (State.DEAD, 1, "never"),
    ]
    assert outbox.retry([2], None) == 1
    assert outbox.deliveries()[1].attempts == 0 and claim(outbox) == [2]


def test_an_object_is_not_blamed_for_a_link_that_is_down(outbox: Outbox, tmp_path: Path) -> None:
    add_images(outbox, write_images(tmp_path / "in", 2))
    for _ in range(20):
        numbers = claim(outbox)
        outbox.settle(OWNER, {numbers[0]: Lost("broke"), **{n: Untried() for n in numbers[1:]}}, 3)
    assert states(outbox) == [State.QUEUED, State.QUEUED]


def test_an_object_that_breaks_every_connection_is_found_out(outbox: Outbox, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 8)
    add_images(outbox, paths)
    for good in range(2, 8):
        outbox.claim("pacs", OWNER, most=good, lease_s=60, least=ROUTINE)
        outbox.settle(OWNER, {1: Lost("broke"), good: Sent(), **{n: Untried() for n in range(good + 1, 9)}}, 3)
        if outbox.deliveries()[0].state is State.DEAD:
            break
    assert outbox.deliveries()[0].state is State.DEAD
    assert State.DEAD not in states(outbox)[1:]


def test_operators_hold_release_and_purge(outbox: Outbox, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "in", 3)
    add_images(outbox, paths[:2], state=State.HELD)
    add_images(outbox, paths[2:])
    assert claim(outbox) == [3]
    outbox.settle(OWNER, {3: Untried()}, 3)
    with pytest.raises(NotPossible, match="delivery 3 is queued"):
        outbox.release([1, 3], None)
    assert states(outbox)[0] is State.HELD, "all or none"
    assert outbox.release(None, "pacs") == 2
    assert outbox.hold([2], None) == 1
    with pytest.raises(NotPossible, match="delivery 99 does not exist"):
        outbox.hold([99], None)
    outbox.set_urgency([3], Urgency.EMERGENCY)
    assert claim(outbox) == [3, 1]
    with pytest.raises(NotPossible, match="being sent"):
        outbox.remove([1])
    assert outbox.remove([2]) == 1
    assert outbox.deliveries()[1].state is State.WITHDRAWN and outbox.deliveries()[1].path is None


def test_what_was_taken_back_never_leaves(outbox: Outbox, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "in", 1)
    outbox.add(path, identity_of(path, "x"), [Wanted("pacs"), Wanted("usb")])
    assert claim(outbox) == [1]
    outbox.settle(OWNER, {1: Sent()}, 3)
    assert outbox.remove([2]) == 0, "the first still needs the file, should the PACS not have it"
    assert outbox.retry(None, None) == 0
    with pytest.raises(NotPossible, match="delivery 2 is withdrawn"):
        outbox.retry([2], None)
    assert not outbox.add(path, identity_of(path, "x"), [Wanted("usb")])
    assert outbox.withdraw([1], "corrected") == {1: State.SENT}
    assert outbox.deliveries()[0].reason == "had been sent; corrected"
    outbox.confirm({1: False}, "not there", PATIENCE)
    assert [one.state for one in outbox.deliveries()] == [State.WITHDRAWN] * 2
    assert [one.path for one in outbox.deliveries()] == [None] * 2


def test_an_outbox_of_the_first_version_goes_on(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox") as outbox:
        add_images(outbox, write_images(tmp_path / "in", 2))
    with sqlite3.connect(tmp_path / "outbox" / "queue.sqlite") as database:
        database.execute("ALTER TABLE objects DROP COLUMN scan_id")
        database.execute("UPDATE deliveries SET state = 'dead', reason = 'purged by an operator' WHERE id = 1")
        database.execute("PRAGMA user_version = 1")
    database.close()
    with Outbox(tmp_path / "outbox") as outbox:
        assert states(outbox) == [State.WITHDRAWN, State.QUEUED]
        assert claim(outbox) == [2]


def test_what_a_crash_left_behind_goes(outbox: Outbox, tmp_path: Path) -> None:
    add_images(outbox, write_images(tmp_path / "in", 1))
    folder = outbox.objects.folder
    (folder / "1.2.3.dcm").write_bytes(b"without a row")
    (folder / ".99999999_1_x-00.partial").write_bytes(b"of a process that is gone")
    (folder / f".{this_process()}-00.partial").write_bytes(b"of one that is there")
    assert outbox.sweep() == 2
    assert len(list(folder.iterdir())) == 2


def test_identifiers_from_outside_never_become_paths(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    dataset = dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "../../evil"
    dataset.save_as(path)
    with pytest.raises(OutboxError, match="a valid UID is expected"):
        identity_of(path, "x")
    path.write_bytes(b"no DICOM at all")
    with pytest.raises(OutboxError, match="not a DICOM file"):
        identity_of(path, "x")


def test_a_folder_of_another_version_or_of_something_else_is_refused(tmp_path: Path) -> None:
    Outbox(tmp_path / "a").close()
    database = sqlite3.connect(tmp_path / "a" / "queue.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(OutboxError, match="another version"):
        Outbox(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "queue.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(OutboxError, match="not an outbox"):
        Outbox(tmp_path / "b")
    (tmp_path / "c").write_bytes(b"")
    with pytest.raises(OutboxError, match="can't be opened"):
        Outbox(tmp_path / "c")


def test_the_database_refuses_what_the_table_does_not_allow(outbox: Outbox, tmp_path: Path) -> None:
    for number, source in enumerate(State):
        for target in State:
            identity = ObjectIdentity(f"1.2.{number}.{list(State).index(target)}", "1.1", "1.1", "1.1", "1.1", "x")
            (path,) = write_images(tmp_path / "in", 1)
            outbox.add(path, identity, [Wanted("pacs")])
            database = outbox._database
            row = database.execute("SELECT MAX(id) FROM deliveries").fetchone()[0]
            for step in _way_to(source):
                database.execute("UPDATE deliveries SET state = ? WHERE id = ?", (step.value, row))
            if target in TRANSITIONS[source] or target is source:
                database.execute("UPDATE deliveries SET state = ? WHERE id = ?", (target.value, row))
            else:
                with pytest.raises(sqlite3.IntegrityError, match="no such transition"):
                    database.execute("UPDATE deliveries SET state = ? WHERE id = ?", (target.value, row))


def _way_to(state: State) -> list[State]:
    ways: dict[State, list[State]] = {State.QUEUED: []}
    while state not in ways:
        for source, way in list(ways.items()):
            for target in TRANSITIONS[source]:
                ways.setdefault(target, [*way, target])
    return ways[state]


DESTINATION = """
[[destination]]
name = "pacs"
kind = "dimse"
host = "127.0.0.1"
port = 1
ae_title = "X"
plain = true
confirm = "commitment"
"""

NEVER = threading.Event()


class Life(RuleBasedStateMachine):
    """Whatever senders, receivers, operators, crashes and clocks do: what is committed stays so, and nothing gets lost."""

    def __init__(self) -> None:
        super().__init__()
        self.holder = tempfile.TemporaryDirectory()
        self.clock = MadeClock()
        self.folder = Path(self.holder.name)
        self.outbox = Outbox(self.folder / "outbox", clock=self.clock)
        self.paths = write_images(self.folder / "in", 4, side=2)
        self.added: set[str] = set()
        self.committed: set[int] = set()
        self.claimed: list[int] = []
        self.sent_after_commit = False

    def teardown(self) -> None:
        self.outbox.close()
        self.holder.cleanup()

    @rule(which=st.integers(0, 3), held=st.booleans(), urgency=st.sampled_from(Urgency))
    def add(self, which: int, held: bool, urgency: Urgency) -> None:
        self.added.update(
            add_images(self.outbox, [self.paths[which]], state=State.HELD if held else State.QUEUED, urgency=urgency)
        )

    @rule(most=st.integers(1, 4))
    def claim(self, most: int) -> None:
        taken = claim(self.outbox, most)
        self.sent_after_commit |= bool(self.committed & set(taken))
        self.claimed += taken

    @precondition(lambda self: self.claimed)
    @rule(
        outcome=st.sampled_from(
            [Sent(), Sent(kept=True), Failed("no"), Failed("never", final=True), Lost("broke"), Untried()]
        )
    )
    def settle(self, outcome: object) -> None:
        self.outbox.settle(OWNER, {self.claimed.pop(): outcome}, 3)  # type: ignore[dict-item]

    @rule(kept=st.booleans())
    def confirm(self, kept: bool) -> None:
        waiting = self.outbox.unconfirmed("pacs", most=2, again_after_s=0)
        self.outbox.confirm({one.id: kept for one in waiting}, "missing", Patience(3))

    @rule(wish=st.sampled_from(["hold", "release", "retry"]))
    def wish(self, wish: str) -> None:
        getattr(self.outbox, wish)(None, "pacs")

    @rule(seconds=st.floats(0, 1000), year=st.integers(1971, 2100))
    def time_passes(self, seconds: float, year: int) -> None:
        self.clock.pass_s(seconds)
        self.clock.set_local(datetime.datetime(year, 1, 1, tzinfo=datetime.timezone.utc))
        self.outbox.recover()

    @rule()
    def crash(self) -> None:
        """Without a word: the connection is dropped, and another process takes over after a boot."""
        self.outbox.close()
        self.clock.reboot()
        self.outbox = Outbox(self.folder / "outbox", clock=self.clock)
        self.outbox.sweep()

    @rule()
    def purge(self) -> None:
        self.outbox.purge(committed_before_s=self.outbox.time.now_s(), unconfirmed_before_s=None, unconfirming=[])

    @invariant()
    def committed_is_for_ever(self) -> None:
        now = {one.id for one in self.outbox.deliveries(states=[State.COMMITTED])}
        assert self.committed <= now and not self.sent_after_commit
        self.committed = now

    @invariant()
    def nothing_is_lost(self) -> None:
        rows = self.outbox.deliveries()
        assert {one.identity.sop_instance_uid for one in rows} == self.added
        for one in rows:
            if one.state is not State.COMMITTED:
                assert one.path is not None and self.outbox.objects.digest(one.path.name) == one.sha256


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
