"""Orders from a real worklist: asked for, kept for when the network is down, and found again by what a header says."""

from __future__ import annotations

import dataclasses
import struct
import time
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pacs_fixtures import StartOrthanc
from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode, encode

from benchmarks.peers.pacs import EDGE_AE
from edge_runtime.delivery.configuration import DicomPeer
from edge_runtime.delivery.worklist.binder import Binder
from edge_runtime.delivery.worklist.binding import match, unscheduled_header
from edge_runtime.delivery.worklist.order import Order, parse_order
from edge_runtime.delivery.worklist.query import Matching, query
from edge_runtime.delivery.worklist.store import CHOICE_LASTS_S, Bound, Choice, WorklistStore
from edge_runtime.errors import DestinationError, ResponseRefused, Unreachable, WorklistError
from edge_runtime.scan import EncodingSpace, MriEncoding, Patient, Request, ScanHeader, Study

pytest_plugins = ["pacs_fixtures"]  # real PACS, for the tests of delivery alone

SPACE = EncodingSpace((8, 8, 1), (80.0, 80.0, 5.0))
HEADER = ScanHeader(encoding=MriEncoding(SPACE, SPACE, "cartesian", {}))


def entry(**values: str) -> Dataset:
    """An answer of a worklist."""
    step = Dataset()
    step.Modality = "MR"
    step.ScheduledStationAETitle = "EDGE1"
    step.ScheduledProcedureStepStartDate = "20261127"
    step.ScheduledProcedureStepStartTime = "101500"
    step.ScheduledProcedureStepID = values.pop("step_id", "S1")
    step.ScheduledProcedureStepDescription = values.pop("step_description", "T2 axial")
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Doe^Jane"
    dataset.PatientID = "P-1"
    dataset.PatientBirthDate = "19800229"
    dataset.StudyInstanceUID = "1.2.3.4"
    dataset.AccessionNumber = "ACC-1"
    dataset.RequestedProcedureID = "R-1"
    dataset.ScheduledProcedureStepSequence = [step]
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def order(**values: str) -> Order:
    return parse_order(entry(**values))


def test_names_in_three_scripts_come_through() -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    for character_set in ("ISO_IR 192", ["", "ISO 2022 IR 87"]):
        dataset = entry()
        dataset.SpecificCharacterSet = character_set
        dataset.PatientName = name
        assert parse_order(dataset).patient.name == name
    assert order(PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 100").patient.name == "Müller^Jörg"


@pytest.mark.parametrize(
    "values",
    [
        {"PatientID": ""}, {"PatientID": "P" * 65}, {"PatientID": "a\x1bb"}, {"PatientName": ""}, {"StudyInstanceUID": ""},
        {"StudyInstanceUID": "1.02"}, {"AccessionNumber": "A" * 17},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_entry_that_could_be_somebody_elses_is_refused_without_its_values(values: dict[str, str]) -> None:
    with pytest.raises(ResponseRefused) as refused:
        order(**values)
    assert not any(value and value in str(refused.value) for value in values.values())


def as_it_comes(
    character_set: str | None, name: bytes, step: bytes = b"T2 axial", identifier: bytes = b"P-1"
) -> Dataset:
    """An entry of a worklist that writes down bytes as it likes; as the network brings it, nothing of it decoded."""
    dataset = entry()
    del dataset.SpecificCharacterSet
    if character_set is not None:
        dataset.SpecificCharacterSet = character_set
    values = [raw + b" " * (len(raw) % 2) for raw in (name, step, identifier)]
    places = ["N" * len(values[0]), "S" * len(values[1]), "I" * len(values[2])]
    dataset.PatientName, dataset.PatientID = places[0], places[2]
    dataset.ScheduledProcedureStepSequence[0].ScheduledProcedureStepDescription = places[1]
    encoded = encode(dataset, is_implicit_vr=True, is_little_endian=True)
    assert encoded is not None
    for place, raw in zip(places, values, strict=True):
        header = struct.pack("<I", len(raw))
        assert not place or encoded.count(header + place.encode()) == 1
        encoded = encoded.replace(header + place.encode(), header + raw) if place else encoded
    return decode(BytesIO(encoded), is_implicit_vr=True, is_little_endian=True)


MUELLER = "Müller^Jörg"


@pytest.mark.parametrize(
    ("character_set", "raw", "read", "noted"),
    [
        (None, MUELLER.encode("latin-1"), MUELLER, "without a character set: read as Latin-1"),
        (None, MUELLER.encode(), MUELLER, "without a character set: read as UTF-8"),
        ("ISO_IR 6", MUELLER.encode(), MUELLER, "without a character set: read as UTF-8"),
        ("ISO_IR 100", MUELLER.encode("latin-1"), MUELLER, ""),
        ("ISO_IR 100", MUELLER.encode(), MUELLER.encode().decode("latin-1"), "declare ISO_IR 100 and look like UTF-8"),
        ("ISO_IR 192", MUELLER.encode("latin-1"), "M\ufffdller^J\ufffdrg", "do not follow their character set"),
        ("GREEK TO ME", MUELLER.encode("latin-1"), MUELLER, "that DICOM does not have"),
        ("ISO 2022 IR 100", MUELLER.encode(), MUELLER.encode().decode("latin-1"), "look like UTF-8"),
        ("ISO_IR 100\\ISO 2022 IR 87", MUELLER.encode(), MUELLER.encode().decode("latin-1"), "look like UTF-8"),
        (None, b"Mueller^Joerg", "Mueller^Joerg", ""),
    ],
)
def test_bytes_that_contradict_their_character_set_are_noted(character_set, raw, read, noted) -> None:
    made = parse_order(as_it_comes(character_set, raw))
    assert made.patient.name == read
    if noted:
        assert noted in " ".join(made.notes)
        assert not any(part in note for note in made.notes for part in ("ller", "rg"))
    else:
        assert not made.notes


def test_texts_deep_in_an_entry_count_too_and_identifiers_must_be_certain() -> None:
    made = parse_order(as_it_comes(None, b"Doe^Jane", step="Schädel".encode()))
    assert made.step_description == "Schädel"
    assert "read as UTF-8" in " ".join(made.notes)
    for character_set in (None, "GREEK TO ME", "ISO_IR 100"):
        with pytest.raises(ResponseRefused, match="identifier that is not ASCII"):
            parse_order(as_it_comes(character_set, b"Doe^Jane", identifier="ä-1".encode()))


@given(
    st.sampled_from([None, "ISO_IR 100", "ISO_IR 192", "ISO_IR 13", "GB18030", "\\ISO 2022 IR 87"]),
    st.binary(max_size=40),
)
@settings(deadline=None)
def test_whatever_the_bytes_an_entry_is_read_or_refused(character_set, raw) -> None:
    try:
        made = parse_order(as_it_comes(character_set, raw))
    except ResponseRefused:
        return
    assert made.patient.name


def test_orders_choices_and_bindings_outlast_the_process(tmp_path: Path) -> None:
    with WorklistStore(tmp_path, clock=lambda: 1000.0) as store:
        store.keep([order()], "RIS", 0)
        store.choose(Choice(order().key))
        store.bind(Bound("scan", "header", order(), "1.2.3.4", "P-1", "1.9", "20261127", "101500", "", 1000.0))
    with WorklistStore(tmp_path, clock=lambda: 2000.0) as store:
        assert [(one.order, one.seen_at) for one in store.orders()] == [(order(), 1000.0)]
        assert store.order("ACC-1") == store.order(order().key[:6]) == order()
        with pytest.raises(WorklistError, match="no such key"):
            store.order("ACC-2")
        assert store.take_choice("scan-1") == Choice(order().key)
        assert store.take_choice("scan-1") == Choice(order().key), "a scan that goes on after a crash finds it again"
        assert store.take_choice("scan-2") is None, "a choice is for one scan"
        bound = store.bound("scan")
        assert bound is not None and bound.order == order()
        assert store.study_began("1.2.3.4") == ("20261127", "101500")


def test_a_choice_is_not_for_the_first_scan_of_another_day(tmp_path: Path) -> None:
    now = 1000.0
    with WorklistStore(tmp_path, clock=lambda: now) as store:
        store.choose(Choice("3f1c22aa01"))
        now += CHOICE_LASTS_S + 1
        assert store.take_choice("scan-1") is None
        now -= CHOICE_LASTS_S
        assert store.take_choice("scan-2") is None, "it is forgotten, whatever the clock does"


def test_an_accession_number_goes_before_a_key_that_begins_like_it(tmp_path: Path) -> None:
    with WorklistStore(tmp_path) as store:
        key = order().key
        other = order(AccessionNumber=key[:6], PatientID="P-2", StudyInstanceUID="1.2.9")
        store.keep([order(), other], "RIS", 0)
        assert store.order(key[:6]) == other
        assert store.order(key[:7]) == order()
        with pytest.raises(WorklistError, match="no such key"):
            store.order(key[:2])


@pytest.mark.parametrize(("days", "bound"), [(0, True), (1, True), (3, False), (-30, False)])
def test_a_patient_alone_finds_no_order_of_another_day(tmp_path: Path, days: int, bound: bool) -> None:
    noon = time.mktime(time.strptime(f"{order().start_date}12", "%Y%m%d%H"))
    with WorklistStore(tmp_path, clock=lambda: noon) as store:
        store.keep([order()], "RIS", 0)
        binder = Binder(store, clock=lambda: noon + days * 86400)
        made = binder.header_of("scan", dataclasses.replace(HEADER, patient=Patient("P-1")))
        assert (made.study.accession_number == "ACC-1") is bound


def test_a_store_of_the_first_version_goes_on(tmp_path: Path) -> None:
    with WorklistStore(tmp_path) as store:
        store.keep([order()], "RIS", 0)
        store._database.execute("DROP TABLE performed")
        store._database.execute("PRAGMA user_version = 1")
    with WorklistStore(tmp_path) as store:
        store.tell("1.2.3", "begun", "{}")
        assert (len(store.orders()), store.performed()["waiting"]) == (1, 1)


def test_a_header_finds_its_order_and_its_step() -> None:
    orders = [
        order(),
        order(step_id="S2", step_description="T1 sagittal"),
        order(PatientID="P-2", AccessionNumber="ACC-2"),
    ]
    by_accession = dataclasses.replace(HEADER, study=Study(accession_number="ACC-1"), protocol_name="t1 SAGITTAL")
    assert match(by_accession, orders).order == orders[1]
    whole = match(dataclasses.replace(by_accession, protocol_name="other"), orders)
    assert whole.order is not None and whole.order.step_id == "" and "not known" in whole.remark
    by_key = dataclasses.replace(HEADER, parameters={"edge_order": orders[2].key})
    assert match(by_key, orders).order == orders[2]
    assert match(HEADER, orders).order is None


def test_a_header_that_names_another_patient_than_its_order_is_not_bound() -> None:
    header = dataclasses.replace(HEADER, patient=Patient("P-9"), study=Study(accession_number="ACC-1"))
    found = match(header, [order()])
    assert found.order is None and found.contradicts
    made = unscheduled_header(header, "scan", Request(), ("20261127", "101500"), emergency=False, believed=False)
    assert made.study.accession_number == "" and made.study.instance_uid != "1.2.3.4"


@given(st.text(max_size=40), st.text(max_size=40))
def test_unscheduled_scans_never_share_a_patient_or_a_study(one: str, other: str) -> None:
    first, second = (
        unscheduled_header(HEADER, scan, Request(), ("20261127", "101500"), emergency=True) for scan in (one, other)
    )
    assert first.notes[0].startswith("UNSCHEDULED") and first.patient.identifier.startswith("EMERGENCY-")
    assert (first.patient == second.patient and first.study == second.study) == (one == other)


@pytest.mark.full
def test_a_real_worklist_is_asked(start_orthanc: StartOrthanc) -> None:
    with start_orthanc({"DefaultEncoding": "Utf8"}) as orthanc:  # it answers in that, and drops what does not fit
        for number, name in enumerate(("Doe^Jane", "Yamada^Tarou=山田^太郎")):
            dataset = entry(PatientName=name, PatientID=f"P-{number}", AccessionNumber=f"ACC-{number}")
            dataset.ensure_file_meta()
            dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
            dataset.file_meta.MediaStorageSOPClassUID = "1.2.276.0.7230010.3.1.0.1"
            dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
            dataset.save_as(orthanc.worklists / f"{number}.wl", enforce_file_format=True)
            (orthanc.worklists / f"{number}.wl").chmod(0o644)
        peer = DicomPeer("127.0.0.1", orthanc.port, orthanc.ae_title)
        answer = query(EDGE_AE, peer, Matching())
        assert {one.patient.identifier for one in answer.orders} == {"P-0", "P-1"}
        assert {one.patient.name for one in answer.orders} == {"Doe^Jane", "Yamada^Tarou=山田^太郎"}
        (only,) = query(EDGE_AE, peer, Matching(accession_number="ACC-1")).orders
        assert only.accession_number == "ACC-1"
        assert query(EDGE_AE, peer, Matching(), most=1).truncated
        with pytest.raises(DestinationError, match="AE title"):
            query("NOBODY", peer, Matching())


@pytest.mark.full
def test_a_worklist_that_is_not_there_says_so(loopback: None) -> None:
    with pytest.raises(Unreachable):
        query(EDGE_AE, DicomPeer("127.0.0.1", 14243, "RIS", timeout_s=2), Matching())
