"""Scans that answer an order: through a real server, from the orders that are kept, to the DICOM files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PATIENCE_S, RunningServer, profile_of
from delivery_objects import HEAD
from pydicom import dcmread
from pydicom.dataset import FileDataset
from simulated import header_of, readouts_of, scan_bytes, usual_kspace
from test_worklist import order

from edge_runtime.cli import main
from edge_runtime.delivery import under_way
from edge_runtime.delivery.evidence import record_of
from edge_runtime.delivery.handover import open_handover
from edge_runtime.delivery.outbox.states import State, Urgency
from edge_runtime.delivery.outbox.store import Outbox, Sent
from edge_runtime.delivery.worklist.reconcile import RECONCILED
from edge_runtime.delivery.worklist.store import WorklistStore
from edge_runtime.runtime import open_runtime
from edge_runtime.scan import Patient, ScanHeader, Study

READOUTS = readouts_of(usual_kspace())
CONFIGURATION = (
    HEAD.format(ae_title="EDGE")
    + """
[worklist]
host = "127.0.0.1"
port = 1
ae_title = "RIS"
plain = true
[[destination]]
name = "usb"
kind = "folder"
path = "usb"
"""
)

Scan = Callable[[ScanHeader], FileDataset]


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "delivery.toml"
    path.write_text(CONFIGURATION)
    (tmp_path / "usb").mkdir()
    with WorklistStore(tmp_path / "outbox" / "worklist") as store:
        store.keep([order(), order(PatientID="P-2", PatientName="Roe^Ann", AccessionNumber="ACC-2")], "RIS", 0)
    return path


@pytest.fixture
def scan(configuration: Path, tmp_path: Path) -> Iterator[Scan]:
    """Runs a scan through a server; returns one of its images."""
    with ExitStack() as stack:
        handover = stack.enter_context(open_handover(configuration))
        runtime = open_runtime(profile_of(), bundle=None, output=tmp_path / "out", handover=handover)
        server = RunningServer(stack.enter_context(runtime))
        stack.callback(server.stop)
        seen: set[Path] = set()

        def run(header: ScanHeader) -> FileDataset:
            server.exchange(scan_bytes(READOUTS, header=header))
            made = sorted(set(server.files("*/classical_final*/*.dcm")) - seen)
            seen.update(made)
            assert len(made) == 1
            return dcmread(made[0])

        yield run


def history(configuration: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    capsys.readouterr()
    assert main(["worklist", "scans", "--config", str(configuration), "--json"]) == 0
    scans: list[dict[str, str]] = json.loads(capsys.readouterr().out)["scans"]
    return scans


def test_a_scan_has_patient_and_study_of_the_order_that_its_header_names(scan, configuration, capsys) -> None:
    image = scan(header_of(parameters={"edge_order": order().key}))
    assert (image.PatientID, str(image.PatientName), image.PatientBirthDate) == ("P-1", "Doe^Jane", "19800229")
    assert (image.AccessionNumber, image.StudyInstanceUID) == ("ACC-1", "1.2.3.4")
    assert image.RequestAttributesSequence[0].RequestedProcedureID == "R-1"
    (kept,) = history(configuration, capsys)
    assert (kept["how"], kept["order"], kept["ended"]) == ("header", order().key, "COMPLETED")


def test_what_the_operator_chose_is_for_the_next_scan_alone(scan, configuration, capsys) -> None:
    assert main(["worklist", "bind", "ACC-2", "--config", str(configuration)]) == 0
    first, second = scan(header_of()), scan(header_of())
    assert (first.PatientID, first.AccessionNumber) == ("P-2", "ACC-2")
    assert second.PatientID.startswith("UNSCHEDULED-")
    assert "UNSCHEDULED" in str(second.get("ImageComments", ""))
    assert [kept["how"] for kept in history(configuration, capsys)] == ["operator", "unscheduled"]


def test_an_emergency_has_a_patient_that_no_hospital_has(scan, configuration, capsys) -> None:
    assert main(["worklist", "bind", "--emergency", "--config", str(configuration)]) == 0
    image = scan(header_of())
    assert image.PatientID.startswith("EMERGENCY-")
    assert not image.AccessionNumber
    assert [kept["how"] for kept in history(configuration, capsys)] == ["emergency"]
    with Outbox(configuration.parent / "outbox") as outbox:
        assert {one.urgency for one in outbox.deliveries()} == {Urgency.EMERGENCY}


@pytest.mark.parametrize("by", ["header", "operator"])
def test_a_scan_that_contradicts_its_order_is_bound_to_none(by, scan, configuration, capsys) -> None:
    header = replace(header_of(), patient=Patient("P-9", "Poe^Max"))
    if by == "operator":
        assert main(["worklist", "bind", "ACC-1", "--config", str(configuration)]) == 0
    else:
        header = replace(header, study=Study(accession_number="ACC-1"))
    image = scan(header)
    assert image.PatientID == "P-9"
    assert image.StudyInstanceUID != "1.2.3.4"
    assert not image.AccessionNumber
    (kept,) = history(configuration, capsys)
    assert (kept["how"], kept["order"]) == ("contradicted", None)
    assert "another's" in kept["remark"]


def test_a_choice_can_be_taken_back_and_an_unknown_order_is_named(scan, configuration, capsys) -> None:
    assert main(["worklist", "bind", "ACC-2", "--config", str(configuration)]) == 0
    assert main(["worklist", "bind", "--clear", "--config", str(configuration)]) == 0
    assert scan(header_of()).PatientID.startswith("UNSCHEDULED-")
    assert main(["worklist", "bind", "ACC-7", "--config", str(configuration)]) == 1
    assert "ACC-7" in capsys.readouterr().err


@pytest.mark.parametrize("left", [False, True], ids=["before it left", "after it left"])
def test_an_unscheduled_scan_gets_its_order_afterwards(left, configuration, tmp_path, capsys) -> None:
    if not left:
        configuration.write_text(configuration.read_text().replace('review = "none"', 'review = "all"'))
    with ExitStack() as stack:
        handover = stack.enter_context(open_handover(configuration))
        runtime = open_runtime(profile_of(), bundle=None, output=tmp_path / "scans", handover=handover)
        server = RunningServer(stack.enter_context(runtime))
        stack.callback(server.stop)
        server.exchange(scan_bytes(READOUTS))
        if left:
            server_usb = tmp_path / "usb"
            deadline = time.monotonic() + PATIENCE_S
            while not list(server_usb.rglob("*.dcm")) and time.monotonic() < deadline:
                time.sleep(0.05)
    (kept,) = history(configuration, capsys)
    old = [dcmread(path) for path in (tmp_path / "scans").glob("*/*/*.dcm")]
    assert main(["worklist", "reconcile", kept["scan"], "ACC-1", "--config", str(configuration), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["corrected"], done["withdrawn"]) == (1, 0 if left else 1)
    assert len(done["elsewhere"].get("usb", [])) == (1 if left else 0)
    made = [dcmread(path) for path in (tmp_path / "outbox" / "scans").glob("*/reconciled_*/*.dcm")]
    assert {image.SOPInstanceUID for image in made}.isdisjoint(image.SOPInstanceUID for image in old)
    for image in made:
        assert (image.PatientID, image.AccessionNumber, image.StudyInstanceUID) == ("P-1", "ACC-1", "1.2.3.4")
        assert "UNSCHEDULED" not in image.ImageComments
        before = image.OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
        (source,) = [one for one in old if one.SOPInstanceUID == before.SOPInstanceUID]
        assert image.PixelData == source.PixelData
        assert before.PatientID.startswith("UNSCHEDULED-")
        notes = record_of(image)["notes"]
        assert RECONCILED in notes
        assert not any(note.startswith(("UNSCHEDULED", "no order")) for note in notes)
        assert "no order" not in image.ImageComments
    assert history(configuration, capsys)[-1]["how"] == "reconciled"
    # Once more makes nothing new.
    assert main(["worklist", "reconcile", kept["scan"], "ACC-1", "--config", str(configuration)]) == 0
    again = [dcmread(path) for path in (tmp_path / "outbox" / "scans").glob("*/reconciled_*/*.dcm")]
    assert {image.SOPInstanceUID for image in again} == {image.SOPInstanceUID for image in made}
    assert main(["worklist", "reconcile", kept["scan"], "ACC-2", "--config", str(configuration)]) == 1
    assert "has an order already" in capsys.readouterr().err


def test_a_scan_of_another_patient_is_given_an_order_only_by_who_has_made_sure(scan, configuration, capsys) -> None:
    scan(replace(header_of(), patient=Patient("P-9", "Poe^Max"), study=Study(accession_number="ACC-1")))
    (kept,) = history(configuration, capsys)
    command = ["worklist", "reconcile", kept["scan"], "ACC-1", "--config", str(configuration)]
    assert main(command) == 1
    assert "another patient" in capsys.readouterr().err
    assert history(configuration, capsys)[-1]["how"] == "contradicted"
    assert main([*command, "--other-patient"]) == 0
    assert history(configuration, capsys)[-1]["how"] == "reconciled"


def test_scans_that_share_a_study_get_their_orders_one_by_one(scan, configuration, tmp_path, capsys) -> None:
    examination = replace(header_of(), patient=Patient("P-1"), study=Study(instance_uid="1.2.9"))
    images = [scan(replace(examination, protocol_name=name)) for name in ("T1", "T2")]
    assert {image.StudyInstanceUID for image in images} == {"1.2.9"}
    first, second = (kept["scan"] for kept in history(configuration, capsys))

    def corrected() -> dict[str, str]:
        found = [dcmread(path) for path in (tmp_path / "outbox" / "scans").glob("*/reconciled_*/*.dcm")]
        return {str(one.ProtocolName): str(one.StudyInstanceUID) for one in found}

    assert main(["worklist", "reconcile", second, "ACC-1", "--config", str(configuration)]) == 0
    assert corrected() == {"T2": "1.2.3.4"}
    assert main(["worklist", "reconcile", first, "ACC-1", "--config", str(configuration)]) == 0
    assert corrected() == {"T1": "1.2.3.4", "T2": "1.2.3.4"}


def test_a_scan_that_a_crash_has_ended_is_written_down_as_discontinued(configuration, monkeypatch, capsys) -> None:
    with open_handover(configuration) as handover:
        handover.scan_begins(handover.folder / "scan", header_of())
        handover.scan_begins(handover.folder / "other", header_of())
    assert [one["ended"] for one in history(configuration, capsys)] == ["", ""]
    monkeypatch.setattr(under_way, "is_running", lambda process: False)
    with open_handover(configuration, going_on=["other"]):
        pass
    assert {one["scan"]: one["ended"] for one in history(configuration, capsys)} == {
        "scan": "DISCONTINUED",
        "other": "",
    }


def test_nothing_is_reconciled_while_objects_of_a_scan_are_still_to_be_made(
    scan, configuration, tmp_path, capsys
) -> None:
    scan(header_of())
    (kept,) = history(configuration, capsys)
    notes = under_way.UnderWay(tmp_path / "outbox")
    notes.write(under_way.Note(tmp_path / "out" / kept["scan"], Urgency.ROUTINE))
    command = ["worklist", "reconcile", kept["scan"], "ACC-1", "--config", str(configuration)]
    assert main(command) == 1
    assert "still to be made" in capsys.readouterr().err
    notes.forget(kept["scan"])
    assert main(command) == 0


def test_what_had_been_sent_is_told_each_time_and_sent_no_more(configuration, tmp_path, capsys) -> None:
    with ExitStack() as stack:
        handover = stack.enter_context(open_handover(configuration))
        runtime = open_runtime(profile_of(), bundle=None, output=tmp_path / "scans", handover=handover)
        server = RunningServer(stack.enter_context(runtime))
        stack.callback(server.stop)
        (tmp_path / "usb").rmdir()  # nothing leaves by itself
        server.exchange(scan_bytes(READOUTS))
    with Outbox(tmp_path / "outbox") as outbox:
        outbox.retry(None, None)
        (one,) = outbox.claim("usb", "test/1", most=9, lease_s=60, least=Urgency.ROUTINE)
        outbox.settle("test/1", {one.id: Sent()}, 3)
    (kept,) = history(configuration, capsys)
    for _ in range(2):
        assert main(["worklist", "reconcile", kept["scan"], "ACC-1", "--config", str(configuration), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["elsewhere"] == {"usb": [one.identity.sop_instance_uid]}
    with Outbox(tmp_path / "outbox") as outbox:
        old, new = outbox.deliveries()
        assert (old.state, new.state) == (State.WITHDRAWN, State.QUEUED)


def test_a_scan_that_goes_on_is_not_reconciled(configuration, capsys) -> None:
    from edge_runtime.delivery.worklist.store import Bound

    with WorklistStore(configuration.parent / "outbox" / "worklist") as store:
        store.bind(Bound("scan", "unscheduled", None, "1.9", "UNSCHEDULED-1", "", "20261127", "101500", "", 1000.0))
    assert main(["worklist", "reconcile", "scan", "ACC-1", "--config", str(configuration)]) == 1
    assert "goes on" in capsys.readouterr().err
