"""The XML header: what consoles write, what they leave out, and what an attacker may write."""

from __future__ import annotations

import dataclasses
import re

import ismrmrd.xsd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import HeaderError, UnsupportedScan
from edge_runtime.links.mrd_header import (
    LIMIT_NAMES,
    MAX_HEADER_BYTES,
    MAX_NOTE,
    MAX_NOTES,
    format_header,
    parse_header,
)
from edge_runtime.scan import EncodingSpace, Limit, MriEncoding, Patient, ScanHeader, Scanner, Sequence, Study

FULL = """<?xml version="1.0" encoding="UTF-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <version>2</version>
  <subjectInformation>
    <patientName>Doe^J\u00e4n</patientName><patientWeight_kg>72.5</patientWeight_kg><patientID>P1</patientID>
    <patientBirthdate>1980-02-29</patientBirthdate><patientGender>F</patientGender>
  </subjectInformation>
  <studyInformation>
    <studyDate>2024-05-01</studyDate><studyTime>12:34:56.789</studyTime><studyID>S1</studyID>
    <accessionNumber>123</accessionNumber><referringPhysicianName>Roe^R</referringPhysicianName>
    <studyDescription>Head</studyDescription><studyInstanceUID>1.2.3</studyInstanceUID>
    <bodyPartExamined>BRAIN</bodyPartExamined>
  </studyInformation>
  <measurementInformation>
    <measurementID>M1</measurementID><patientPosition>HFS</patientPosition><protocolName>t1</protocolName>
    <seriesDescription>T1 axial</seriesDescription><frameOfReferenceUID>1.2.3.4</frameOfReferenceUID>
  </measurementInformation>
  <acquisitionSystemInformation>
    <systemVendor>ACME</systemVendor><systemModel>Wheels</systemModel>
    <systemFieldStrength_T>0.055</systemFieldStrength_T><receiverChannels>8</receiverChannels>
    <institutionName>Clinic</institutionName><stationName>Cart</stationName>
    <deviceSerialNumber>SN7</deviceSerialNumber>
  </acquisitionSystemInformation>
  <experimentalConditions><H1resonanceFrequency_Hz>2341735</H1resonanceFrequency_Hz></experimentalConditions>
  <encoding>
    <encodedSpace>
      <matrixSize><x>256</x><y>128</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>480</x><y>240</y><z>5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>128</x><y>128</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>240</x><y>240</y><z>5</z></fieldOfView_mm>
    </reconSpace>
    <encodingLimits>
      <kspace_encoding_step_0><minimum>0</minimum><maximum>255</maximum><center>128</center></kspace_encoding_step_0>
      <kspace_encoding_step_1><minimum>0</minimum><maximum>127</maximum><center>64</center></kspace_encoding_step_1>
      <kspace_encoding_step_2><minimum>0</minimum><maximum>0</maximum><center>0</center></kspace_encoding_step_2>
      <slice><minimum>0</minimum><maximum>10</maximum><center>5</center></slice>
    </encodingLimits>
    <trajectory>cartesian</trajectory>
    <parallelImaging>
      <accelerationFactor>
        <kspace_encoding_step_1>2</kspace_encoding_step_1><kspace_encoding_step_2>1</kspace_encoding_step_2>
      </accelerationFactor>
    </parallelImaging>
  </encoding>
  <sequenceParameters>
    <TR>500</TR><TE>10</TE><TE>20.5</TE><TI>100</TI><flipAngle_deg>15</flipAngle_deg>
    <sequence_type>Flash</sequence_type>
  </sequenceParameters>
  <userParameters>
    <userParameterLong><name>edge_simulated</name><value>1</value></userParameterLong>
    <userParameterLong><name>n</name><value>3</value></userParameterLong>
    <userParameterDouble><name>d</name><value>0.5</value></userParameterDouble>
    <userParameterString><name>s</name><value>a &lt; b</value></userParameterString>
  </userParameters>
</ismrmrdHeader>
"""

EXPECTED = ScanHeader(
    encoding=MriEncoding(
        encoded=EncodingSpace((256, 128, 1), (480.0, 240.0, 5.0)),
        recon=EncodingSpace((128, 128, 1), (240.0, 240.0, 5.0)),
        trajectory="cartesian",
        limits={
            "kspace_encoding_step_1": Limit(0, 127, 64),
            "kspace_encoding_step_2": Limit(0, 0, 0),
            "slice": Limit(0, 10, 5),
        },
        acceleration=(2, 1),
    ),
    scanner=Scanner("ACME", "Wheels", "Clinic", "Cart", "SN7", 0.055, 8, 2341735),
    patient=Patient("P1", "Doe^J\u00e4n", "19800229", "F", 72.5),
    study=Study("1.2.3", "S1", "Head", "123", "20240501", "123456.789", "Roe^R"),
    sequence=Sequence((500.0,), (10.0, 20.5), (100.0,), (15.0,), "Flash"),
    measurement_id="M1",
    protocol_name="t1",
    series_description="T1 axial",
    body_part="BRAIN",
    patient_position="HFS",
    frame_of_reference_uid="1.2.3.4",
    parameters={"n": "3", "d": "0.5", "s": "a < b"},
    simulated=True,
)


def changed(pattern: str, replacement: str) -> bytes:
    """`FULL` with one thing changed."""
    text, count = re.subn(pattern, replacement, FULL, count=1, flags=re.DOTALL)
    assert count == 1
    return text.encode()


def test_a_full_header_is_read() -> None:
    assert ismrmrd.xsd.CreateFromDocument(FULL.encode()) is not None  # the reference reads it too
    assert parse_header(FULL.encode()) == EXPECTED


def test_a_full_header_is_written_and_validates() -> None:
    text = format_header(EXPECTED)
    assert parse_header(text.encode()) == EXPECTED
    theirs = ismrmrd.xsd.CreateFromDocument(text.encode())
    assert theirs.encoding[0].encodedSpace.matrixSize.x == 256
    assert theirs.encoding[0].encodingLimits.slice.center == 5
    assert theirs.encoding[0].parallelImaging.accelerationFactor.kspace_encoding_step_1 == 2
    assert theirs.subjectInformation.patientBirthdate.year == 1980
    assert theirs.studyInformation.studyTime.second == 56
    assert theirs.sequenceParameters.TE == [10.0, 20.5]
    assert theirs.userParameters.userParameterLong[0].name == "edge_simulated"


def test_a_header_with_nothing_but_an_encoding_is_written_and_validates() -> None:
    header = ScanHeader(encoding=EXPECTED.encoding)
    text = format_header(header)
    ismrmrd.xsd.CreateFromDocument(text.encode())
    assert parse_header(text.encode()) == header


def test_what_the_schema_has_no_room_for_survives_in_user_parameters() -> None:
    header = dataclasses.replace(
        EXPECTED, patient_position="", study=dataclasses.replace(EXPECTED.study, accession_number="A-17")
    )
    text = format_header(header)
    theirs = ismrmrd.xsd.CreateFromDocument(text.encode())
    assert theirs.measurementInformation is None and theirs.studyInformation.accessionNumber is None
    assert parse_header(text.encode()) == header


def test_notes_travel_with_the_header() -> None:
    header = dataclasses.replace(EXPECTED, notes=("1 mm a voxel is written", "axes < swapped"))
    text = format_header(header)
    ismrmrd.xsd.CreateFromDocument(text.encode())
    assert parse_header(text.encode()) == header


def test_notes_of_both_sides_are_kept_in_their_order() -> None:
    text = format_header(dataclasses.replace(EXPECTED, notes=("theirs",))).replace("<z>1</z>", "", 1)
    assert parse_header(text.encode()).notes == (
        "theirs",
        "encoding.encodedSpace.matrixSize.z is missing: taken to be 1, a two-dimensional scan",
    )


def test_notes_of_a_sender_are_bounded() -> None:
    many = tuple(f"note {number} " + "x" * 10_000 for number in range(1, 101))
    notes = parse_header(format_header(dataclasses.replace(EXPECTED, notes=many)).encode()).notes
    assert [note.partition(" x")[0] for note in notes[:MAX_NOTES]] == [
        f"note {number}" for number in range(1, MAX_NOTES + 1)
    ]
    assert max(map(len, notes)) == MAX_NOTE
    assert notes[MAX_NOTES:] == (f"{100 - MAX_NOTES} more notes of the sender were left out",)


def test_notes_on_a_header_are_bounded_and_said_once() -> None:
    times = "".join(f"<TE>x{number % 50}</TE>" for number in range(10_000))
    text = format_header(EXPECTED).replace("</sequenceParameters>", times + "</sequenceParameters>", 1)
    notes = parse_header(text.encode()).notes
    assert len(set(notes)) == len(notes) == MAX_NOTES + 1
    assert notes[MAX_NOTES] == f"{50 - MAX_NOTES} more notes on the header were left out"


def test_a_long_note_on_a_header_is_cut() -> None:
    text = format_header(EXPECTED).replace("</sequenceParameters>", f"<TE>{'x' * 10_000}</TE></sequenceParameters>", 1)
    assert max(map(len, parse_header(text.encode()).notes)) <= MAX_NOTE


words = st.text(st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="\r"), max_size=12).map(
    str.strip
)
positive = st.floats(1e-3, 1e4)
limit = st.tuples(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 65535)).map(
    lambda numbers: Limit(min(numbers[:2]), max(numbers[:2]) or 1, numbers[2])
)
axes = st.integers(1, 4096)
space = st.builds(EncodingSpace, st.tuples(axes, axes, axes), st.tuples(positive, positive, positive))
steps = ("kspace_encoding_step_1", "kspace_encoding_step_2")
encoding = st.builds(
    MriEncoding,
    encoded=space,
    recon=space,
    trajectory=st.sampled_from(["cartesian", "epi", "radial", "goldenangle", "spiral", "other"]),
    limits=st.fixed_dictionaries(
        dict.fromkeys(steps, limit), optional={name: limit for name in LIMIT_NAMES if name not in steps}
    ),
    acceleration=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
dates = st.dates().map(lambda date: date.isoformat().replace("-", ""))
header = st.builds(
    ScanHeader,
    encoding=encoding,
    scanner=st.builds(
        Scanner, words, words, words, words, words, positive, st.integers(1, 64), st.integers(1, 10**9) | st.none()
    ),
    patient=st.builds(Patient, words, words, dates, st.sampled_from(["", "M", "F", "O"]), positive | st.none()),
    study=st.builds(Study, words, words, words, words, dates, st.just("235959.123456"), words),
    sequence=st.builds(Sequence, *[st.lists(positive, max_size=3).map(tuple)] * 4, words),
    measurement_id=words,
    protocol_name=words,
    series_description=words,
    body_part=words,
    patient_position=st.sampled_from(["", "HFS", "FFP"]),
    frame_of_reference_uid=words,
    parameters=st.dictionaries(words.filter(lambda name: name and not name.startswith("edge_")), words, max_size=3),
    simulated=st.booleans(),
    notes=st.lists(words.filter(bool), max_size=12).map(tuple),
)


@settings(max_examples=100, deadline=None)
@given(header)
def test_every_header_survives_writing_and_reading(header: ScanHeader) -> None:
    text = format_header(header)
    assert parse_header(text.encode()) == header
    ismrmrd.xsd.CreateFromDocument(text.encode())


# ------------------------------------------------------------------------------------------------ what consoles write


def test_a_nul_terminator_is_ignored() -> None:
    assert parse_header(FULL.encode() + b"\0") == EXPECTED


def test_a_missing_namespace_is_noted() -> None:
    header = parse_header(changed(' xmlns="http://www.ismrm.org/ISMRMRD"', ""))
    assert dataclasses.replace(header, notes=()) == EXPECTED
    assert header.notes == ("the header declares no namespace: read as ISMRMRD's",)


def test_a_namespace_prefix_is_read() -> None:
    prefixed = re.sub(r"<(/?)(\w)", r"<\1m:\2", FULL).replace("xmlns=", "xmlns:m=")
    assert parse_header(prefixed.encode()) == EXPECTED


@pytest.mark.parametrize("text", ["256.0", " 256 ", "2.56e2", "\n256\n"])
def test_matrix_sizes_that_are_no_plain_integers_are_read_and_noted(text: str) -> None:
    header = parse_header(changed("<x>256</x>", f"<x>{text}</x>"))
    assert dataclasses.replace(header, notes=()) == EXPECTED
    assert header.notes == (f"encoding.encodedSpace.matrixSize.x was written as {text!r} and read as 256",)


def test_missing_limits_are_taken_from_the_matrix() -> None:
    header = parse_header(changed("<encodingLimits>.*</encodingLimits>", ""))
    assert header.encoding.limits == {
        "kspace_encoding_step_1": Limit(0, 127, 64),
        "kspace_encoding_step_2": Limit(0, 0, 0),
    }
    assert header.notes == (
        "encoding.encodingLimits.kspace_encoding_step_1 is missing: 0 to 127 with the centre 64 taken from the matrix",
    )


def test_limits_that_were_not_filled_in_are_taken_from_the_matrix() -> None:
    header = parse_header(changed("<maximum>127</maximum><center>64", "<maximum>0</maximum><center>0"))
    assert header.encoding.limits["kspace_encoding_step_1"] == Limit(0, 127, 64)
    assert "taken as not filled in" in header.notes[0]


def test_a_missing_centre_is_the_middle() -> None:
    header = parse_header(changed("<center>64</center>", ""))
    assert header.encoding.limits["kspace_encoding_step_1"] == Limit(0, 127, 64)
    assert "center is missing: 64" in header.notes[0]


def test_a_limit_without_a_maximum_is_no_limit() -> None:
    header = parse_header(changed("<maximum>10</maximum>", ""))
    assert "slice" not in header.encoding.limits


def test_a_matrix_without_z_is_two_dimensional() -> None:
    header = parse_header(changed("<z>1</z>", ""))
    assert header.encoding == EXPECTED.encoding
    assert header.notes == ("encoding.encodedSpace.matrixSize.z is missing: taken to be 1, a two-dimensional scan",)


def test_a_missing_recon_space_is_taken_from_the_encoded_one() -> None:
    header = parse_header(changed("<reconSpace>.*</reconSpace>", ""))
    assert header.encoding.recon == header.encoding.encoded
    assert len(header.notes) == 4  # the matrix and three lengths


@pytest.mark.parametrize("space", ["encodedSpace", "reconSpace"])
def test_a_missing_field_of_view_is_taken_from_the_other_space(space: str) -> None:
    header = parse_header(changed(f"(<{space}>.*?)<fieldOfView_mm>.*?</fieldOfView_mm>", r"\1"))
    assert header.encoding == EXPECTED.encoding  # oversampling is known from the matrices
    assert len(header.notes) == 3


def test_a_field_of_view_that_nobody_knows_is_said_to_be_assumed() -> None:
    xml = re.sub("<fieldOfView_mm>.*?</fieldOfView_mm>", "", FULL, flags=re.DOTALL)
    header = parse_header(xml.encode())
    assert header.encoding.encoded.field_of_view_mm == (256.0, 128.0, 1.0)
    assert header.encoding.recon.field_of_view_mm == (128.0, 128.0, 1.0)
    assert "do not measure distances" in header.notes[0]


def test_a_missing_trajectory_is_cartesian() -> None:
    header = parse_header(changed("<trajectory>cartesian</trajectory>", ""))
    assert header.encoding.trajectory == "cartesian"
    assert header.notes == ("encoding.trajectory is missing: taken to be cartesian",)


def test_other_trajectories_are_read() -> None:
    assert parse_header(changed(">cartesian<", "> Spiral <")).encoding.trajectory == "spiral"


def test_the_first_of_several_encodings_is_used() -> None:
    header = parse_header(changed("</encoding>", "</encoding><encoding><trajectory>cartesian</trajectory></encoding>"))
    assert header.encoding == EXPECTED.encoding
    assert header.notes == ("encoding occurs 2 times: the first is used",)


def test_encodings_with_different_trajectories_are_not_supported() -> None:
    with pytest.raises(UnsupportedScan, match="cartesian, spiral"):
        parse_header(changed("</encoding>", "</encoding><encoding><trajectory>spiral</trajectory></encoding>"))


@pytest.mark.parametrize(
    ("pattern", "replacement", "note"),
    [
        ("1980-02-29", "1981-02-29", "patientBirthdate is no date"),
        ("12:34:56.789", "25:00:00", "studyTime is no time"),
        (">F<", ">female<", "patientGender is none of M, F, O"),
        (">72.5<", ">heavy<", "patientWeight_kg is no positive number"),
        (">0.055<", ">-1<", "systemFieldStrength_T is no positive number"),
        (">500<", ">NaN<", "TR is no number"),
    ],
)
def test_what_an_image_can_do_without_is_left_out_and_noted(pattern: str, replacement: str, note: str) -> None:
    header = parse_header(changed(pattern, replacement))
    assert len(header.notes) == 1
    assert note in header.notes[0]


def test_time_zones_and_long_fractions_are_cut() -> None:
    header = parse_header(changed("2024-05-01(.*)12:34:56.789", r"2024-05-01Z\g<1>12:34:56.12345678+02:00"))
    assert (header.study.date, header.study.time) == ("20240501", "123456.123456")


@pytest.mark.parametrize(
    ("value", "simulated"), [("1", True), ("true", True), ("TRUE", True), ("0", False), ("2", False)]
)
def test_simulated_scans_say_so(value: str, simulated: bool) -> None:
    xml = changed(r"<userParameterLong><name>edge_simulated.*?</userParameterLong>", "")
    text = f"<userParameterString><name>edge_simulated</name><value>{value}</value></userParameterString>"
    header = parse_header(xml.replace(b"</userParameters>", text.encode() + b"</userParameters>"))
    assert header.simulated is simulated
    assert parse_header(xml).simulated is False


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("pattern", "replacement", "field"),
    [
        ("<encoding>.*</encoding>", "", "encoding"),
        ("<encodedSpace>.*</encodedSpace>", "", "encoding.encodedSpace.matrixSize.x"),
        ("<x>256</x>", "", "encoding.encodedSpace.matrixSize.x"),
        ("<x>256</x>", "<x/>", "encoding.encodedSpace.matrixSize.x"),
        ("<x>256</x>", "<x>0</x>", "encoding.encodedSpace.matrixSize.x"),
        ("<x>256</x>", "<x>-256</x>", "encoding.encodedSpace.matrixSize.x"),
        ("<x>256</x>", "<x>4097</x>", "encoding.encodedSpace.matrixSize.x"),
        ("<x>256</x>", "<x>256.5</x>", "encoding.encodedSpace.matrixSize.x"),
        ("<x>256</x>", "<x>many</x>", "encoding.encodedSpace.matrixSize.x"),
        ("<x>256</x>", "<x>1e999</x>", "encoding.encodedSpace.matrixSize.x"),
        ("<x>256</x>", "<x>" + "9" * 5000 + "</x>", "encoding.encodedSpace.matrixSize.x"),
        ("<z>1</z>", "<z>0</z>", "encoding.encodedSpace.matrixSize.z"),
        ("<x>480</x>", "<x>NaN</x>", "encoding.encodedSpace.fieldOfView_mm.x"),
        ("<x>480</x>", "<x>-480</x>", "encoding.encodedSpace.fieldOfView_mm.x"),
        ("<x>480</x>", "<x>1e9</x>", "encoding.encodedSpace.fieldOfView_mm.x"),
        ("<maximum>127", "<maximum>65536", "encoding.encodingLimits.kspace_encoding_step_1.maximum"),
        (
            "<minimum>0</minimum><maximum>127",
            "<minimum>9</minimum><maximum>7",
            "encoding.encodingLimits.kspace_encoding_step_1",
        ),
    ],
)
def test_what_no_image_can_be_made_of_is_refused_by_name(pattern: str, replacement: str, field: str) -> None:
    with pytest.raises(HeaderError) as caught:
        parse_header(changed(pattern, replacement))
    assert caught.value.field == field


ENTITIES = '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "prologue",
    [
        "<!DOCTYPE ismrmrdHeader>",
        ENTITIES,
        '<!DOCTYPE x SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:9/"> %a;]>',
    ],
)
def test_attacks_on_the_parser_are_refused_and_called_so(prologue: str) -> None:
    with pytest.raises(HeaderError, match="refused as an attack"):
        parse_header(changed(r"(<\?xml.*?\?>)", r"\1" + prologue))


@pytest.mark.parametrize(
    "xml",
    [
        b"",
        b"\0",
        b"not xml",
        b"<ismrmrdHeader>",
        b"<other/>",
        b'<ismrmrdHeader xmlns="http://other"><encoding/></ismrmrdHeader>',
        b'<?xml version="1.0" encoding="no-such"?><ismrmrdHeader/>',
        b'<?xml version="1.0" encoding="utf-7"?><ismrmrdHeader/>',
        b'<?xml version="1.0" encoding="big5"?><ismrmrdHeader/>',
        b"<ismrmrdHeader>\xff</ismrmrdHeader>",
        b" " * (MAX_HEADER_BYTES + 1),
        b"<a>" * 200_000,
    ],
)
def test_what_is_no_header_is_refused(xml: bytes) -> None:
    with pytest.raises(HeaderError):
        parse_header(xml)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16"])
def test_a_header_in_utf16_is_read_to_its_last_character(encoding):
    text = FULL.replace("UTF-8", "UTF-16")
    text = text if encoding == "utf-16" else "\ufeff" + text
    assert parse_header(text.encode(encoding)) == parse_header(FULL.encode())


def test_white_space_before_the_header_and_a_terminator_are_ignored():
    assert parse_header(b"\r\n " + FULL.encode() + b"\0") == parse_header(FULL.encode())


def test_a_number_of_coils_that_is_none_is_noted_in_few_words():
    header = parse_header(re.sub("<receiverChannels>.*?<", "<receiverChannels>1e308<", FULL).encode())
    assert header.scanner.receiver_coils is None
    assert (
        "acquisitionSystemInformation.receiverChannels is 1e+308, more than 1024 coils, and was left out"
        in header.notes
    )
