"""Performed procedure steps: from a real server through its sender to a hospital that listens, or does not for a while.

No packaged program takes these messages (neither Orthanc nor dcmtk), so the other side is pynetdicom's, with the checks of PS3.4
table F.7.2-1 written down here.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, RunningServer, profile_of
from delivery_objects import HEAD
from pydicom import dcmread
from pydicom.dataset import Dataset
from simulated import header_of, readouts_of, scan_bytes, usual_kspace
from test_worklist import order

from edge_runtime.cli import main
from edge_runtime.delivery.configuration import DicomPeer
from edge_runtime.delivery.handover import open_handover
from edge_runtime.delivery.worklist.performed import ended
from edge_runtime.delivery.worklist.store import WorklistStore
from edge_runtime.delivery.worklist.teller import MOST_ATTEMPTS, PATIENCE, tell_all
from edge_runtime.errors import Unreachable
from edge_runtime.runtime import open_runtime

pytestmark = pytest.mark.full
pytest_plugins = ["pacs_fixtures"]

PORT, AE_TITLE = 11120, "RIS"
PEER = DicomPeer("127.0.0.1", PORT, AE_TITLE, timeout_s=2)
CONFIGURATION = (
    HEAD.format(ae_title="EDGE1")
    + f"""
[mpps]
host = "127.0.0.1"
port = {PORT}
ae_title = "{AE_TITLE}"
plain = true
[[destination]]
name = "usb"
kind = "folder"
path = "usb"
"""
)
READOUTS = readouts_of(usual_kspace())
STEP_CLASS = "1.2.840.10008.3.1.2.3.3"
MUST_HAVE_VALUES = (
    "Modality", "PerformedProcedureStepID", "PerformedStationAETitle", "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime", "PerformedProcedureStepStatus", "ScheduledStepAttributesSequence",
)  # fmt: skip
MUST_BE_THERE = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferencedPatientSequence", "PerformedStationName",
    "PerformedLocation", "PerformedProcedureStepDescription", "PerformedProcedureTypeDescription", "ProcedureCodeSequence",
    "PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", "StudyID", "PerformedProtocolCodeSequence",
    "PerformedSeriesSequence",
)  # fmt: skip


class Hospital:
    """Takes performed steps; holds them against the standard's table."""

    def __init__(self) -> None:
        self.steps: dict[str, Dataset] = {}
        self.created = 0
        self.lose_answers = False
        self.busy = 0
        """So many times more it can't take the end of a step."""
        self.changed = threading.Condition()

    def create(self, event: Any) -> tuple[int, Dataset | None]:
        dataset, uid = event.attribute_list, str(event.request.AffectedSOPInstanceUID)
        lacking = [keyword for keyword in MUST_HAVE_VALUES if not dataset.get(keyword)]
        lacking += [keyword for keyword in MUST_BE_THERE if keyword not in dataset]
        study = dataset.ScheduledStepAttributesSequence[0]
        if lacking or not study.StudyInstanceUID or dataset.PerformedProcedureStepStatus != "IN PROGRESS":
            return 0x0120, None
        with self.changed:
            self.created += 1
            known = uid in self.steps
            self.steps[uid] = dataset
            self.changed.notify_all()
        if self.lose_answers:
            event.assoc.abort()
        return (0x0111 if known else 0x0000), dataset

    def set(self, event: Any) -> tuple[int | Dataset, Dataset | None]:
        changes, uid = event.modification_list, str(event.request.RequestedSOPInstanceUID)
        with self.changed:
            if uid not in self.steps:
                return 0x0112, None
            if self.steps[uid].PerformedProcedureStepStatus != "IN PROGRESS":
                closed = Dataset()
                closed.Status, closed.ErrorID = 0x0110, 0xA710
                return closed, None
            if self.busy:
                self.busy -= 1
                return 0x0213, None
            if not changes.PerformedSeriesSequence:
                return 0x0121, None
            for series in changes.PerformedSeriesSequence:
                if not series.SeriesInstanceUID or not series.ProtocolName:
                    return 0x0121, None
            self.steps[uid].update(changes)
            self.changed.notify_all()
        if self.lose_answers:
            event.assoc.abort()
        return 0x0000, changes

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S)

    def statuses(self) -> list[str]:
        return sorted(str(step.PerformedProcedureStepStatus) for step in self.steps.values())


@pytest.fixture
def listen(loopback: None) -> Iterator[Callable[[Hospital], None]]:
    from pynetdicom import AE, evt

    with ExitStack() as stack:

        def start(hospital: Hospital) -> None:
            entity = AE(ae_title=AE_TITLE)
            entity.add_supported_context(STEP_CLASS)
            handlers = [(evt.EVT_N_CREATE, hospital.create), (evt.EVT_N_SET, hospital.set)]
            server = entity.start_server(("127.0.0.1", PORT), block=False, evt_handlers=handlers)
            stack.callback(server.shutdown)

        yield start


@pytest.fixture
def server(loopback: None, tmp_path: Path) -> Iterator[RunningServer]:
    configuration = tmp_path / "delivery.toml"
    configuration.write_text(CONFIGURATION)
    (tmp_path / "usb").mkdir()
    with WorklistStore(tmp_path / "outbox" / "worklist") as store:
        store.keep([order()], "RIS", 0)
    with ExitStack() as stack:
        handover = stack.enter_context(open_handover(configuration))
        runtime = open_runtime(profile_of(), bundle=None, output=tmp_path / "out", handover=handover)
        running = RunningServer(stack.enter_context(runtime))
        stack.callback(running.stop)
        yield running


def test_a_scan_is_told_when_it_begins_and_with_its_images_when_it_ends(listen, server) -> None:
    hospital = Hospital()
    listen(hospital)
    header = header_of(parameters={"edge_order": order().key})
    with server.connect() as client:
        client.send(scan_bytes(READOUTS, header=header, close=False))
        hospital.wait(lambda: hospital.statuses() == ["IN PROGRESS"])
        client.send(b"\x04\x00")  # CLOSE
        client.replies()
    hospital.wait(lambda: hospital.statuses() == ["COMPLETED"])
    ((uid, step),) = hospital.steps.items()
    study = step.ScheduledStepAttributesSequence[0]
    assert (study.AccessionNumber, study.RequestedProcedureID) == ("ACC-1", "R-1")
    assert (step.PatientID, study.StudyInstanceUID) == ("P-1", "1.2.3.4")
    told = {
        str(image.ReferencedSOPInstanceUID)
        for series in step.PerformedSeriesSequence
        for image in series.ReferencedImageSequence
    }
    files = [dcmread(path) for path in server.files("*/*/*.dcm")]
    assert told == {str(image.SOPInstanceUID) for image in files} != set()
    for image in files:
        assert image.ReferencedPerformedProcedureStepSequence[0].ReferencedSOPInstanceUID == uid


def test_a_scan_that_ends_early_is_told_as_discontinued(listen, server) -> None:
    hospital = Hospital()
    listen(hospital)
    with server.connect() as client:
        client.send(scan_bytes(READOUTS, close=False))
        hospital.wait(lambda: bool(hospital.steps))
        client.vanish()
    hospital.wait(lambda: hospital.statuses() == ["DISCONTINUED"])
    (step,) = hospital.steps.values()
    assert step.PatientID.startswith("UNSCHEDULED-")
    assert not any(series.ReferencedImageSequence for series in step.PerformedSeriesSequence) or server.files(
        "*/*/*.dcm"
    )


def test_what_happened_while_nobody_listened_is_told_later_in_order(listen, server) -> None:
    for _ in range(3):
        server.exchange(scan_bytes(READOUTS))
    hospital = Hospital()
    listen(hospital)
    hospital.wait(lambda: hospital.statuses() == ["COMPLETED"] * 3)
    assert hospital.created == 3


def test_a_lost_answer_makes_no_second_step(listen, tmp_path: Path) -> None:
    hospital = Hospital()
    hospital.lose_answers = True
    listen(hospital)
    configured = tmp_path / "worklist"
    with WorklistStore(configured) as store:
        store.tell("1.2.3", "begun", _in_progress().to_json())
        with pytest.raises(Unreachable):
            tell_all(store, "EDGE1", PEER)
        hospital.lose_answers = False
        assert tell_all(store, "EDGE1", PEER).taken == 1
        assert store.performed() == {"waiting": 0, "told": 1, "refused": 0}
        store.tell("1.2.3", "ended", ended("1.2.3", [], "20261127", "101500", whole=False).to_json())
        hospital.lose_answers = True
        with pytest.raises(Unreachable):
            tell_all(store, "EDGE1", PEER)
        assert tell_all(store, "EDGE1", PEER).taken == 1
        assert store.performed() == {"waiting": 0, "told": 2, "refused": 0}
    assert (hospital.created, list(hospital.steps)) == (2, ["1.2.3"])
    assert hospital.statuses() == ["DISCONTINUED"]


def test_what_the_hospital_can_not_take_now_is_told_later_and_holds_up_no_other_step(listen, tmp_path: Path) -> None:
    hospital = Hospital()
    hospital.busy = 1
    listen(hospital)
    with WorklistStore(tmp_path / "worklist") as store:
        store.tell("1.2.3", "begun", _in_progress().to_json())
        store.tell("1.2.3", "ended", ended("1.2.3", [], "20261127", "101500", whole=True).to_json())
        store.tell("1.2.4", "begun", _in_progress().to_json())
        told = tell_all(store, "EDGE1", PEER)
        assert (told.taken, list(told.put_off)) == (2, ["1.2.3"])
        assert "0x0213" in told.put_off["1.2.3"].reason
        assert hospital.statuses() == ["IN PROGRESS"] * 2
        assert tell_all(store, "EDGE1", PEER, without=told.put_off).taken == 0
        assert tell_all(store, "EDGE1", PEER).taken == 1
    assert hospital.statuses() == ["COMPLETED", "IN PROGRESS"]


def test_what_was_refused_is_told_again_when_an_operator_says_so(listen, tmp_path: Path, capsys) -> None:
    hospital = Hospital()
    hospital.busy = MOST_ATTEMPTS
    listen(hospital)
    configuration = tmp_path / "delivery.toml"
    configuration.write_text(CONFIGURATION)
    with WorklistStore(tmp_path / "outbox" / "worklist") as store:
        store.tell("1.2.3", "begun", _in_progress().to_json())
        store.tell("1.2.3", "ended", ended("1.2.3", [], "20261127", "101500", whole=True).to_json())
        for attempt in range(1, MOST_ATTEMPTS):
            assert tell_all(store, "EDGE1", PEER).put_off["1.2.3"].attempts == attempt
        assert not tell_all(store, "EDGE1", PEER).put_off
        assert store.performed() == {"waiting": 0, "told": 1, "refused": 1}
        assert main(["worklist", "steps", "--retry", "--json", "--config", str(configuration)]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["retried"] == 1
        assert [(one["kind"], one["refused"], one["attempts"]) for one in shown["steps"]] == [
            ("begun", "", 0),
            ("ended", "", 0),
        ]
        assert tell_all(store, "EDGE1", PEER).taken == 1
    assert hospital.statuses() == ["COMPLETED"]


def test_what_the_hospital_refuses_does_not_hold_up_the_rest(listen, tmp_path: Path) -> None:
    hospital = Hospital()
    listen(hospital)
    with WorklistStore(tmp_path / "worklist") as store:
        wrong = _in_progress()
        wrong.Modality = ""
        store.tell("1.2.3", "begun", wrong.to_json())
        store.tell("1.2.4", "begun", _in_progress().to_json())
        assert tell_all(store, "EDGE1", PEER).taken == 1
        assert store.performed() == {"waiting": 0, "told": 1, "refused": 1}
    assert list(hospital.steps) == ["1.2.4"]


def test_what_is_put_off_is_waited_for_over_hours() -> None:
    waits = [PATIENCE.wait_s(attempt) for attempt in range(1, MOST_ATTEMPTS)]
    assert waits[0] <= 1.0
    assert 2 * 3600 < sum(waits) < 6 * 3600


def test_nobody_listening_is_no_reason_to_forget(loopback: None, tmp_path: Path) -> None:
    with WorklistStore(tmp_path / "worklist") as store:
        store.tell("1.2.3", "begun", _in_progress().to_json())
        with pytest.raises(Unreachable):
            tell_all(store, "EDGE1", PEER)
        assert store.performed()["waiting"] == 1


def _in_progress() -> Dataset:
    from edge_runtime.delivery.worklist.binding import ordered_header
    from edge_runtime.delivery.worklist.performed import begun
    from edge_runtime.scan import Request

    now = (time.strftime("%Y%m%d"), time.strftime("%H%M%S"))
    request = Request(performed_uid="1.2.3", performed_id="P1", started_date=now[0], started_time=now[1])
    return begun(ordered_header(header_of(), order(), request, now), "EDGE1")
