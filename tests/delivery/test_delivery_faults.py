"""What goes wrong between a scanner and a PACS, done for real; afterwards exactly the expected objects are there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from delivery_objects import DIMSE, MadeClock, add_images, settings_of, settings_text, write_images
from delivery_parts import DAY, Authority, Link, Receiver, all_are, drawn_cuts, sending, until
from pacs_fixtures import StartOrthanc

from benchmarks.peers.pacs import EDGE_PORT, NOBODY, PACS_AE, PACS_PORT, Orthanc, running_orthanc
from edge_runtime.delivery.configuration import Callback, load_delivery
from edge_runtime.delivery.destinations.callback import listening
from edge_runtime.delivery.destinations.ways import courier_for
from edge_runtime.delivery.outbox.sender import Sender, Tally, _Lane
from edge_runtime.delivery.outbox.states import State, Urgency
from edge_runtime.delivery.outbox.store import Outbox
from edge_runtime.errors import OutboxError

pytest_plugins = ["pacs_fixtures"]  # real PACS, for the tests of delivery alone

pytestmark = pytest.mark.full

CALLBACK = Callback("127.0.0.1", EDGE_PORT, frozenset({PACS_AE}))
WEEK_S = 7 * 86400
RECEIVER = DIMSE.replace(str(PACS_PORT), "14300").replace("TESTPACS", "RECEIVER") + "associations = 1\n"


def test_a_pacs_that_is_down_for_a_week(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    clock = MadeClock()
    text = DIMSE.replace("first_retry_s = 0.1", "first_retry_s = 5").replace(
        "longest_retry_s = 0.5", "longest_retry_s = 7200"
    )
    settings = settings_of(tmp_path, text + 'confirm = "none"\n')
    with Outbox(settings.outbox.folder, clock=clock) as outbox:
        sender = Sender(settings, outbox, seed=1)
        (destination,) = settings.destinations
        lane = _Lane(
            outbox,
            destination,
            courier_for(settings.device, destination, outbox),
            0,
            random.Random(1),
            sender._stop,
            Tally(),
        )
        uids = add_images(outbox, write_images(tmp_path / "a", 3))
        attempts = 0
        while clock.elapsed_s < WEEK_S:
            lane.round()
            attempts += 1
            if attempts == 20:
                uids += add_images(outbox, write_images(tmp_path / "b", 3, seed=2))
            if attempts == 40:
                clock.reboot()
                outbox.time.__init__(clock, outbox._database)  # type: ignore[misc]
            clock.pass_s(max(1.0, outbox.line("pacs").not_before_s - outbox.time.now_s()))
        assert 80 < attempts < 250, "every two hours, or twice as often"
        assert {one.state for one in outbox.deliveries()} == {State.QUEUED}
        assert {one.attempts for one in outbox.deliveries()} == {0}
        assert "connection refused" in outbox.line("pacs").reason
        with start_orthanc() as orthanc:
            lane.round()
            assert orthanc.instances() == set(uids)
        assert {one.state for one in outbox.deliveries()} == {State.SENT}


def test_a_server_that_hangs(orthanc: Orthanc, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, DIMSE.replace("timeout_s = 5", "timeout_s = 1") + 'confirm = "none"\n')
    with Outbox(settings.outbox.folder) as outbox:
        orthanc.pause()
        uids = add_images(outbox, write_images(tmp_path / "images", 4, side=256))
        with sending(settings, outbox):
            until(lambda: outbox.line("pacs").failures >= 2)
            assert "hang" in outbox.line("pacs").reason, outbox.line("pacs").reason
            assert State.DEAD not in {one.state for one in outbox.deliveries()}
            orthanc.resume()
            until(all_are(outbox, State.SENT))
        assert orthanc.instances() == set(uids)


def test_a_server_that_hangs_midway(loopback: None, tmp_path: Path) -> None:
    def store(_uid: str, before: int) -> int:
        if before == 2:
            time.sleep(4)
        return 0x0000

    receiver = Receiver(14300, store=store)
    settings = settings_of(tmp_path, RECEIVER.replace("timeout_s = 5", "timeout_s = 1") + 'confirm = "none"\n')
    with receiver.running(), Outbox(settings.outbox.folder) as outbox:
        uids = add_images(outbox, write_images(tmp_path / "images", 5))
        with sending(settings, outbox):
            until(all_are(outbox, State.SENT))
        assert receiver.kept == set(uids)
        assert receiver.received.count(uids[0]) == 1 and receiver.received.count(uids[2]) == 2


def test_an_association_that_is_aborted_at_object_57_of_100(loopback: None, tmp_path: Path) -> None:
    """In the midst of it: of the 131 kB of its pixels a part has arrived."""
    receiver = Receiver(14300, abort_within=56)
    settings = settings_of(tmp_path, RECEIVER)
    with receiver.running(), Outbox(settings.outbox.folder) as outbox:
        uids = add_images(outbox, write_images(tmp_path / "images", 100, side=256))
        with sending(settings, outbox):
            until(lambda: any("broke" in one.reason or "ended" in one.reason for one in outbox.deliveries()))
            assert len(receiver.received) == 56
            until(all_are(outbox, State.COMMITTED))
    assert receiver.abort_within is None
    assert receiver.kept == set(uids)
    assert sorted(receiver.received) == sorted(uids), "those that were answered are not sent again"


def test_an_association_that_is_aborted_when_an_object_has_arrived_and_is_not_answered(
    loopback: None, tmp_path: Path
) -> None:
    receiver = Receiver(14300, store=lambda _uid, before: None if before == 56 else 0x0000)
    settings = settings_of(tmp_path, RECEIVER)
    with receiver.running(), Outbox(settings.outbox.folder) as outbox:
        uids = add_images(outbox, write_images(tmp_path / "images", 100, side=8))
        with sending(settings, outbox):
            until(all_are(outbox, State.COMMITTED))
    assert receiver.kept == set(uids)
    twice = [uid for uid in uids if receiver.received.count(uid) > 1]
    assert twice == [uids[56]]


def test_nothing_that_is_committed_is_sent_again_over_a_link_that_is_cut(loopback: None, tmp_path: Path) -> None:
    again: list[str] = []
    outboxes: list[Outbox] = []

    def store(uid: str, _before: int) -> int:
        kept = {one.identity.sop_instance_uid for one in outboxes[0].deliveries(states=[State.COMMITTED])}
        again.extend([uid] if uid in kept else [])
        return 0x0000

    receiver = Receiver(14300, store=store)
    settings = settings_of(tmp_path, RECEIVER.replace("14300", "14301") + "confirm_timeout_s = 1\n")
    with (
        receiver.running(),
        Link(14301, 14300, bytes_per_s=2e6, cut_after=drawn_cuts(7, 50_000, 400_000)) as link,
        Outbox(settings.outbox.folder) as outbox,
    ):
        outboxes.append(outbox)
        uids = add_images(outbox, write_images(tmp_path / "images", 40, side=64))
        with sending(settings, outbox):
            until(all_are(outbox, State.COMMITTED))
        assert link.cuts > 0
    assert receiver.kept == set(uids)
    assert not again


@pytest.fixture(scope="module")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """The environment of a process whose time of day is wrong by so many days."""
    library = tmp_path_factory.mktemp("clock") / "wrong_clock.so"
    source = Path(__file__).parents[1] / "wrong_clock.c"
    subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-fPIC", "-shared", str(source), "-o", str(library)], check=True)
    return lambda days: {**os.environ, "LD_PRELOAD": str(library), "WRONG_CLOCK_S": str(days * 86400)}


@pytest.mark.parametrize("days", [-366, 366])
def test_a_clock_that_is_wrong_by_a_year(orthanc: Orthanc, tmp_path: Path, wrong_clock, days: int) -> None:
    """Of the sender's whole process: objects leave and are confirmed as ever."""
    configuration = tmp_path / "delivery.toml"
    configuration.write_text(settings_text(DIMSE, callback=True))
    settings = load_delivery(configuration)
    deliver = [sys.executable, "-m", "edge_runtime.cli", "outbox", "deliver", "--watch", "--config", str(configuration)]
    with Outbox(settings.outbox.folder) as outbox:
        uids = add_images(outbox, write_images(tmp_path / "images", 5))
        with subprocess.Popen(deliver, env=wrong_clock(days)) as process:
            until(all_are(outbox, State.COMMITTED))
            process.send_signal(signal.SIGTERM)
        year = time.gmtime(time.time() + days * 86400).tm_year
        assert {one.changed_local[:4] for one in outbox.deliveries()} == {str(year)}, "the clock was wrong"
    assert orthanc.instances() == set(uids)


def test_a_clock_that_is_wrong_by_a_year_makes_certificates_expire_and_that_is_said(
    start_orthanc: StartOrthanc, wrong_clock, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    holder = tempfile.TemporaryDirectory(prefix="edge-tls-")  # as in `test_certificates`
    request.addfinalizer(holder.cleanup)
    shared = Path(holder.name)
    authority = Authority(shared)
    theirs, ours = authority.issue("pacs"), authority.issue("edge")
    for path in (*shared.rglob("*"), shared):
        os.chown(path, NOBODY, NOBODY)
    configuration = tmp_path / "delivery.toml"
    configuration.write_text(settings_text(tls_text(authority.path, *ours)))
    options = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(theirs[0]),
        "DicomTlsPrivateKey": str(theirs[1]),
        "DicomTlsTrustedCertificates": str(authority.path),
    }
    check = [sys.executable, "-m", "edge_runtime.cli", "pacs", "check", "pacs", "--config", str(configuration)]
    with start_orthanc(options):
        right, wrong = (
            subprocess.run(check, env=wrong_clock(days), capture_output=True, text=True, check=False)
            for days in (0, 366)
        )
    assert right.returncode == 0, right.stdout
    assert wrong.returncode == 1
    assert "is this device's clock wrong?" in wrong.stdout


def test_one_object_that_breaks_every_association(loopback: None, tmp_path: Path) -> None:
    poison: list[str] = []
    receiver = Receiver(14300, store=lambda uid, _: None if uid in poison else 0x0000)
    settings = settings_of(tmp_path, RECEIVER + "attempts = 2\nbatch = 4\n")
    with receiver.running(), Outbox(settings.outbox.folder) as outbox:
        uids = add_images(outbox, write_images(tmp_path / "images", 20, side=8))
        poison.append(uids[0])
        with sending(settings, outbox):
            until(lambda: receiver.kept == set(uids[1:]))
            for seed in range(2, 6):  # more that get through show that the link is not to blame
                add_images(outbox, write_images(tmp_path / str(seed), 2, side=8, seed=seed))
                until(lambda: not [d for d in outbox.deliveries(states=[State.QUEUED, State.SENDING]) if d.id != 1])
            until(lambda: outbox.deliveries()[0].state is State.DEAD)
        assert "association broke" in outbox.deliveries()[0].reason


@pytest.mark.parametrize("report", ["same", "back"])
def test_success_that_is_a_lie_is_found_out_by_commitment(loopback: None, tmp_path: Path, report: str) -> None:
    lies = {"left": 3}

    def keeps(_uid: str) -> bool:
        lies["left"] -= 1
        return lies["left"] < 0

    receiver = Receiver(14300, keeps=keeps, report=report, callback_port=EDGE_PORT)
    settings = settings_of(tmp_path, RECEIVER, callback=True, caller="RECEIVER")
    assert settings.device.callback is not None
    with (
        receiver.running(),
        Outbox(settings.outbox.folder) as outbox,
        listening(settings, settings.device.callback, outbox),
    ):
        uids = add_images(outbox, write_images(tmp_path / "images", 6))
        with sending(settings, outbox):
            until(all_are(outbox, State.COMMITTED))
        assert receiver.kept == set(uids)
        counts = [receiver.received.count(uid) for uid in uids]
        assert counts == [2, 2, 2, 1, 1, 1], "only what was missing is sent again"


def test_a_receiver_that_never_keeps_anything_ends_in_dead_letters(loopback: None, tmp_path: Path) -> None:
    receiver = Receiver(14300, keeps=lambda _: False)
    settings = settings_of(tmp_path, RECEIVER + "attempts = 2\n")
    with receiver.running(), Outbox(settings.outbox.folder) as outbox:
        add_images(outbox, write_images(tmp_path / "images", 2))
        with sending(settings, outbox):
            until(all_are(outbox, State.DEAD))
        assert "storage commitment says: it does not have it" in outbox.deliveries()[0].reason


def test_strangers_may_not_report_commitment(loopback: None, tmp_path: Path) -> None:
    receiver = Receiver(14300, report="back", callback_port=EDGE_PORT, title="RECEIVER")
    settings = settings_of(tmp_path, RECEIVER, callback=True, caller="SOMEBODY")
    assert settings.device.callback is not None
    with (
        receiver.running(),
        Outbox(settings.outbox.folder) as outbox,
        listening(settings, settings.device.callback, outbox),
    ):
        add_images(outbox, write_images(tmp_path / "images", 1))
        with sending(settings, outbox):
            until(lambda: receiver.asked >= 1)
            time.sleep(1)
        assert outbox.deliveries()[0].state is State.SENT


def test_a_pacs_that_loses_objects_is_found_out_by_qido(orthanc: Orthanc, tmp_path: Path) -> None:
    verify = '[destination.verify]\nurl = "http://127.0.0.1:18042/dicom-web"\n'
    settings = settings_of(tmp_path, DIMSE + 'confirm = "qido"\nconfirm_timeout_s = 1\n' + verify)
    sent_only = dataclasses.replace(
        settings, destinations=(dataclasses.replace(settings.destinations[0], confirm="none"),)
    )
    with Outbox(settings.outbox.folder) as outbox:
        uids = add_images(outbox, write_images(tmp_path / "images", 3))
        with sending(sent_only, outbox):
            until(all_are(outbox, State.SENT))
        orthanc.delete(uids[1])
        time.sleep(1)
        with sending(settings, outbox):
            until(all_are(outbox, State.COMMITTED))
        assert orthanc.instances() == set(uids)
        assert outbox.deliveries()[1].attempts == 1


def test_an_emergency_goes_before_what_is_being_sent(loopback: None, tmp_path: Path) -> None:
    receiver = Receiver(14300, store=lambda _uid, _before: time.sleep(0.05) or 0x0000)
    settings = settings_of(tmp_path, RECEIVER + 'confirm = "none"\n')
    with receiver.running(), Outbox(settings.outbox.folder) as outbox:
        add_images(outbox, write_images(tmp_path / "images", 60, side=8))
        with sending(settings, outbox):
            until(lambda: len(receiver.received) >= 3)
            (urgent,) = add_images(outbox, write_images(tmp_path / "urgent", 1, seed=5), urgency=Urgency.EMERGENCY)
            until(lambda: urgent in receiver.received)
            place = receiver.received.index(urgent)
            until(all_are(outbox, State.SENT))
    assert place < 40, f"it was number {place} of 61"
    assert len(set(receiver.received)) == len(receiver.received) == 61


def test_a_destination_is_left_alone_outside_its_hours(loopback: None, tmp_path: Path) -> None:
    receiver = Receiver(14300)
    clock = MadeClock()  # noon
    settings = settings_of(tmp_path, RECEIVER + 'confirm = "none"\nwindows = ["22:00-06:00"]\n')
    with receiver.running(), Outbox(settings.outbox.folder, clock=clock) as outbox:
        routine = add_images(outbox, write_images(tmp_path / "images", 2))
        urgent = add_images(outbox, write_images(tmp_path / "urgent", 1, seed=5), urgency=Urgency.EMERGENCY)
        (destination,) = settings.destinations
        sender = Sender(settings, outbox)
        courier = courier_for(settings.device, destination, outbox)
        lane = _Lane(outbox, destination, courier, 0, random.Random(1), sender._stop, Tally())
        lane.round()
        lane.round()
        assert receiver.received == urgent
        clock.pass_s(11 * 3600)
        lane.round()
        assert receiver.received == urgent + routine


def test_a_full_disk(orthanc: Orthanc, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=True)
    try:
        settings = settings_of(disk, DIMSE + 'confirm = "none"\n')
        (filler := disk / "filler").touch()
        with Outbox(settings.outbox.folder) as outbox:
            taken, refused = [], list[str]()
            for path in write_images(tmp_path / "images", 40, side=256):
                try:
                    taken += add_images(outbox, [path])
                except OutboxError as error:
                    refused.append(str(error))
            assert taken and refused and all("No space" in one or "full" in one for one in refused)
            with pytest.raises(OSError, match="No space"), filler.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            with sending(settings, outbox):
                time.sleep(3)  # answers can't be written down; they are sent again
                filler.unlink()
                until(all_are(outbox, State.SENT))
            assert {one.identity.sop_instance_uid for one in outbox.deliveries()} == set(taken)
            assert orthanc.instances() == set(taken)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_fills_while_objects_are_sent(loopback: None, tmp_path: Path) -> None:
    """What was answered then is written down when there is room again, and not sent a second time."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=True)
    filler = disk / "filler"
    filler.touch()

    def store(_uid: str, before: int) -> int:
        if before == 4:
            with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        return 0x0000

    receiver = Receiver(14300, store=store)
    try:
        settings = settings_of(disk, RECEIVER + 'confirm = "none"\n')
        with receiver.running(), Outbox(settings.outbox.folder) as outbox:
            uids = add_images(outbox, write_images(tmp_path / "images", 8, side=8))
            with sending(settings, outbox):
                until(lambda: len(receiver.received) >= 8)
                time.sleep(1)
                filler.unlink()
                until(all_are(outbox, State.SENT))
        assert sorted(receiver.received) == sorted(uids)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def killed_sender(tmp_path: Path, kills: int, seed: int) -> None:
    """Kills senders at random moments while they work; the last one may finish."""
    draw = random.Random(seed)
    configuration = tmp_path / "delivery.toml"
    configuration.write_text(settings_text(DIMSE, callback=True))
    settings = load_delivery(configuration)
    command = [sys.executable, "-m", "edge_runtime.cli", "outbox", "deliver", "--watch", "--config", str(configuration)]
    with running_orthanc() as orthanc, Outbox(settings.outbox.folder) as outbox:
        uids: list[str] = []
        committed: set[int] = set()
        for round_ in range(kills + 1):
            uids += add_images(outbox, write_images(tmp_path / f"images{round_}", 10, side=32, seed=round_))
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
                if round_ < kills:
                    marks = sum(one.state is not State.QUEUED for one in outbox.deliveries())
                    until(lambda: sum(d.state is not State.QUEUED for d in outbox.deliveries()) > marks)  # noqa: B023
                    time.sleep(draw.uniform(0, 0.6))
                    process.send_signal(signal.SIGKILL)
                else:
                    until(all_are(outbox, State.COMMITTED))
                    process.send_signal(signal.SIGTERM)
            now = {one.id for one in outbox.deliveries(states=[State.COMMITTED])}
            assert committed <= now
            committed = now
        assert orthanc.instances() == set(uids)
        assert len(uids) == 10 * (kills + 1)


def test_senders_that_are_killed(loopback: None, start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    killed_sender(tmp_path, 5, seed=1)


@pytest.mark.soak
def test_senders_that_are_killed_two_hundred_times(loopback: None, start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    killed_sender(tmp_path, 200, seed=2)


def tls_text(authority: Path, certificate: Path, key: Path) -> str:
    files = f'[destination.tls]\nauthorities = "{authority}"\ncertificate = "{certificate}"\nkey = "{key}"\n'
    return DIMSE.replace("plain = true\n", "") + 'confirm = "none"\n' + files


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("none", ""),
        ("the pacs' has expired", "expired"),
        ("the pacs' is a rogue's", "not signed by an authority"),
        ("ours is a rogue's", "refuses this device's TLS certificate"),
        ("ours has expired", "refuses this device's TLS certificate"),
        ("ours is missing", "No such file"),
        ("the pacs speaks no TLS", "does not speak TLS"),
    ],
)
def test_certificates(
    start_orthanc: StartOrthanc, tmp_path: Path, request: pytest.FixtureRequest, trouble: str, said: str
) -> None:
    # Not below tmp_path, which only this user may enter, and Orthanc runs as another.
    holder = tempfile.TemporaryDirectory(prefix="edge-tls-")
    request.addfinalizer(holder.cleanup)
    shared = Path(holder.name)
    good, rogue = Authority(shared / "good"), Authority(shared / "rogue", "rogue")
    theirs = (rogue if trouble == "the pacs' is a rogue's" else good).issue(
        "pacs", **({"begins": -3 * DAY, "ends": -DAY} if "pacs' has expired" in trouble else {})
    )
    ours = (rogue if trouble == "ours is a rogue's" else good).issue(
        "edge", **({"begins": -3 * DAY, "ends": -DAY} if trouble == "ours has expired" else {})
    )
    for path in (*theirs, *shared.rglob("*"), shared):
        os.chown(path, NOBODY, NOBODY)
    if trouble == "ours is missing":
        ours[1].unlink()
    options = {
        "DicomTlsEnabled": trouble != "the pacs speaks no TLS",
        "DicomTlsCertificate": str(theirs[0]),
        "DicomTlsPrivateKey": str(theirs[1]),
        "DicomTlsTrustedCertificates": str(good.path),
    }
    settings = settings_of(tmp_path, tls_text(good.path, *ours))
    with start_orthanc(options) as orthanc, Outbox(settings.outbox.folder) as outbox:
        uids = add_images(outbox, write_images(tmp_path / "images", 2))
        with sending(settings, outbox):
            if not said:
                until(all_are(outbox, State.SENT))
                assert orthanc.instances() == set(uids)
                return
            until(lambda: outbox.line("pacs").failures)
        assert said in outbox.line("pacs").reason, outbox.line("pacs").reason
        assert orthanc.instances() == set()
        assert all(one.state is State.QUEUED for one in outbox.deliveries())


def test_a_slow_link_that_is_cut_again_and_again(orthanc: Orthanc, tmp_path: Path) -> None:
    """8 objects of 33 kB; a connection carries 20 to 200 kB until it breaks, so that some carry nothing whole."""
    settings = settings_of(tmp_path, DIMSE.replace(str(PACS_PORT), "14301") + 'confirm = "none"\n')
    with (
        Link(14301, PACS_PORT, bytes_per_s=400e3, cut_after=drawn_cuts(3, 20_000, 200_000)) as link,
        Outbox(settings.outbox.folder) as outbox,
    ):
        uids = add_images(outbox, write_images(tmp_path / "images", 8, side=128))
        with sending(settings, outbox):
            until(all_are(outbox, State.SENT))
        assert link.cuts > 0
        assert orthanc.instances() == set(uids)


def lossy_link(tmp_path: Path, count: int, side: int) -> None:
    """Two megabits a second, and every twentieth packet is dropped, by the kernel."""
    loss = "add table inet lossy; add chain inet lossy out { type filter hook output priority 0; };"
    loss += f"add rule inet lossy out tcp dport {PACS_PORT} numgen random mod 100 < 5 counter drop"
    settings = settings_of(tmp_path, DIMSE)
    settings = dataclasses.replace(settings, device=dataclasses.replace(settings.device, callback=CALLBACK))
    with running_orthanc() as orthanc, Outbox(settings.outbox.folder) as outbox, listening(settings, CALLBACK, outbox):
        subprocess.run(
            ["tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "2mbit", "burst", "70k", "limit", "256k"],
            check=True,
        )
        subprocess.run(["nft", loss], check=True)
        uids = add_images(outbox, write_images(tmp_path / "images", count, side=side))
        with sending(settings, outbox):
            until(all_are(outbox, State.COMMITTED), patience_s=600)
        dropped = subprocess.run(
            ["nft", "list", "table", "inet", "lossy"], capture_output=True, text=True, check=True
        ).stdout
        subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)
        subprocess.run(["nft", "delete table inet lossy"], check=True)
        assert "packets 0 " not in dropped
        assert orthanc.instances() == set(uids)


def test_a_slow_link_that_loses_packets(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    if shutil.which("nft") is None:
        pytest.skip("pacs: not installed: nft (Debian nftables)")
    lossy_link(tmp_path, 4, 32)


@pytest.mark.soak
def test_a_hundred_images_over_a_slow_link_that_loses_packets(start_orthanc: StartOrthanc, tmp_path: Path) -> None:
    lossy_link(tmp_path, 100, 256)


def test_duplicate_deliveries_leave_one_object(orthanc: Orthanc, tmp_path: Path) -> None:
    """The answer got lost between the receiver and our disk: the same bytes come again under the same identifier."""
    paths = write_images(tmp_path / "images", 2)
    for folder in ("first", "second"):
        settings = settings_of(tmp_path / folder, DIMSE + 'confirm = "none"\n')
        with Outbox(settings.outbox.folder) as outbox:
            uids = add_images(outbox, paths)
            with sending(settings, outbox):
                until(all_are(outbox, State.SENT))
    assert orthanc.instances() == set(uids)
