"""Worklists that nobody here wrote: dcmtk's, and some that no one should write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from test_worklist import entry

from benchmarks.peers.pacs import EDGE_AE, Pacs
from edge_runtime.delivery.configuration import DicomPeer
from edge_runtime.delivery.worklist.query import MOST_BYTES, MOST_ORDERS, Matching, query
from edge_runtime.errors import DestinationError, NotTaken, Unreachable

pytestmark = pytest.mark.full
pytest_plugins = ["pacs_fixtures"]

PORT, AE_TITLE = 11119, "HOSTILE"
PENDING, SUCCESS, FAILED = 0xFF00, 0x0000, 0xC001

Answers = Callable[[threading.Event], Iterator[tuple[int, Dataset | None]]]


def test_dcmtks_worklist_is_asked(wlmscpfs: Pacs) -> None:
    for number in range(3):
        dataset = entry(PatientID=f"P-{number}", AccessionNumber=f"ACC-{number}", RequestedProcedureDescription="Head")
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.PatientName = f"Müller^Jörg {number}"
        step = dataset.ScheduledProcedureStepSequence[0]
        step.ScheduledPerformingPhysicianName = ""
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        dataset.file_meta.MediaStorageSOPClassUID = "1.2.276.0.7230010.3.1.0.1"
        dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        path = wlmscpfs.folder / f"{number}.wl"
        dataset.save_as(path, enforce_file_format=True)
        path.chmod(0o644)
    peer = DicomPeer("127.0.0.1", wlmscpfs.port, wlmscpfs.ae_title)
    answer = query(EDGE_AE, peer, Matching())
    assert {one.patient.name for one in answer.orders} == {f"Müller^Jörg {number}" for number in range(3)}
    assert not answer.refused
    (only,) = query(EDGE_AE, peer, Matching(accession_number="ACC-1")).orders
    assert (only.patient.identifier, only.step_description) == ("P-1", "T2 axial")
    assert not query(EDGE_AE, peer, Matching(dates="19990101")).orders


@pytest.fixture
def worklist(loopback: None) -> Iterator[Callable[[Answers], DicomPeer]]:
    """Starts a worklist that answers as it is told; its second argument is set when the test is over."""
    from pynetdicom import AE, evt

    over, servers = threading.Event(), []

    def start(answers: Answers) -> DicomPeer:
        from pynetdicom.sop_class import ModalityWorklistInformationFind  # type: ignore[attr-defined]

        entity = AE(ae_title=AE_TITLE)
        entity.add_supported_context(ModalityWorklistInformationFind)
        entity.maximum_pdu_size = 0

        def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
            yield from answers(over)

        servers.append(entity.start_server(("127.0.0.1", PORT), block=False, evt_handlers=[(evt.EVT_C_FIND, find)]))
        return DicomPeer("127.0.0.1", PORT, AE_TITLE, timeout_s=2)

    yield start
    over.set()
    for server in servers:
        server.shutdown()


def test_a_worklist_without_end_is_cut_off(worklist) -> None:
    def endless(over: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
        number = 0
        while not over.is_set():
            number += 1
            yield PENDING, entry(AccessionNumber=f"A{number}", StudyInstanceUID=f"1.2.{number}")

    answer = query(EDGE_AE, worklist(endless), Matching())
    assert answer.truncated
    assert len(answer.orders) == MOST_ORDERS


def test_an_answer_of_gigabytes_is_cut_off(worklist) -> None:
    def large(over: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
        dataset = entry()
        dataset.add_new(0x00091001, "OB", bytes(MOST_BYTES // 4))
        dataset.add_new(0x00090010, "LO", "ANYBODY")
        for _ in range(100):
            if over.is_set():
                return
            yield PENDING, dataset

    with pytest.raises(NotTaken, match="larger than 32 MB"):
        query(EDGE_AE, worklist(large), Matching())


def test_entries_that_could_be_somebody_elses_are_left_out_and_the_others_taken(worklist) -> None:
    def mixed(over: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield PENDING, entry(PatientID="")
        without_steps = entry()
        del without_steps.ScheduledProcedureStepSequence
        yield PENDING, without_steps
        hardly_anything = Dataset()
        hardly_anything.InstitutionName = "Doe Clinic"
        yield PENDING, hardly_anything
        yield PENDING, entry(AccessionNumber="GOOD")
        yield SUCCESS, None

    answer = query(EDGE_AE, worklist(mixed), Matching())
    assert [one.accession_number for one in answer.orders] == ["GOOD"]
    assert len(answer.refused) == 3
    assert not any("P-1" in reason or "Doe" in reason for reason in answer.refused)


def test_a_worklist_that_hangs_is_given_up(worklist) -> None:
    def hangs(over: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield PENDING, entry()
        over.wait()

    with pytest.raises(Unreachable):
        query(EDGE_AE, worklist(hangs), Matching())


def test_a_worklist_that_refuses_says_why(worklist) -> None:
    def refuses(over: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield FAILED, None

    with pytest.raises(DestinationError, match="0xC001"):
        query(EDGE_AE, worklist(refuses), Matching())
