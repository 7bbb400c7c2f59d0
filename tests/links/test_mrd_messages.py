"""ISMRMRD messages against golden bytes, against the `ismrmrd` package, and against what a hostile peer may send."""

from __future__ import annotations

import ctypes
import io
import struct
import tracemalloc
from collections.abc import Callable, Iterator

import ismrmrd
import ismrmrd.serialization
import numpy as np
import pytest

from edge_runtime.errors import BudgetExceeded, ProtocolError, ReadoutError, ScanRefused
from edge_runtime.links.mrd_messages import (
    ACQUISITION_HEADER,
    IMAGE_HEADER,
    WAVEFORM_HEADER,
    Close,
    ConfigFile,
    ConfigText,
    HeaderText,
    ImageMessage,
    Message,
    MessageReader,
    Text,
    Waveform,
    WireLimits,
)
from edge_runtime.links.mrd_pack import (
    format_meta_attributes,
    pack_close,
    pack_config_file,
    pack_config_text,
    pack_header,
    pack_image,
    pack_magnitude_image,
    pack_readouts,
    pack_text,
    parse_meta_attributes,
)
from edge_runtime.scan import (
    READOUT_DTYPE,
    Completeness,
    Geometry,
    Image,
    Method,
    Provenance,
    ReadoutBatch,
    ReadoutFlag,
    SliceKey,
)

ACQUISITION_FIELDS = {
    "version": "version",
    "flags": "flags",
    "measurement_uid": "measurement_uid",
    "scan_counter": "scan_counter",
    "time_stamp": "acquisition_time_stamp",
    "physiology": "physiology_time_stamp",
    "samples": "number_of_samples",
    "available_coils": "available_channels",
    "active_coils": "active_channels",
    "coil_mask": "channel_mask",
    "discard_pre": "discard_pre",
    "discard_post": "discard_post",
    "centre_sample": "center_sample",
    "encoding_space": "encoding_space_ref",
    "trajectory_dimensions": "trajectory_dimensions",
    "sample_time_us": "sample_time_us",
    "position": "position",
    "read_direction": "read_dir",
    "phase_direction": "phase_dir",
    "slice_direction": "slice_dir",
    "table_position": "patient_table_position",
    "user_int": "user_int",
    "user_float": "user_float",
}
COUNTER_FIELDS = {
    "phase_encode": "kspace_encode_step_1",
    "partition": "kspace_encode_step_2",
    "average": "average",
    "slice": "slice",
    "contrast": "contrast",
    "phase": "phase",
    "repetition": "repetition",
    "set": "set",
    "segment": "segment",
    "user_counters": "user",
}
IMAGE_FIELDS = {
    "version": "version",
    "data_type": "data_type",
    "flags": "flags",
    "measurement_uid": "measurement_uid",
    "matrix": "matrix_size",
    "field_of_view_mm": "field_of_view",
    "channels": "channels",
    "position": "position",
    "read_direction": "read_dir",
    "phase_direction": "phase_dir",
    "slice_direction": "slice_dir",
    "table_position": "patient_table_position",
    "average": "average",
    "slice": "slice",
    "contrast": "contrast",
    "phase": "phase",
    "repetition": "repetition",
    "set": "set",
    "time_stamp": "acquisition_time_stamp",
    "physiology": "physiology_time_stamp",
    "image_type": "image_type",
    "image_index": "image_index",
    "image_series": "image_series_index",
    "user_int": "user_int",
    "user_float": "user_float",
    "attribute_length": "attribute_string_len",
}

GOLDEN_READOUT = b"".join(
    [
        struct.pack("<H", 1008),  # message id
        struct.pack("<H", 1),  # version @0
        struct.pack("<Q", 1 << 7 | 1 << 18),  # flags @2: LAST_IN_SLICE, IS_NOISE_MEASUREMENT
        struct.pack("<I", 11),  # measurement_uid @10
        struct.pack("<I", 12),  # scan_counter @14
        struct.pack("<I", 13),  # acquisition_time_stamp @18
        struct.pack("<3I", 14, 15, 16),  # physiology_time_stamp @22
        struct.pack("<H", 3),  # number_of_samples @34
        struct.pack("<H", 4),  # available_channels @36
        struct.pack("<H", 2),  # active_channels @38
        struct.pack("<16Q", 0b1010, *[0] * 15),  # channel_mask @40
        struct.pack("<H", 1),  # discard_pre @168
        struct.pack("<H", 0),  # discard_post @170
        struct.pack("<H", 2),  # center_sample @172
        struct.pack("<H", 0),  # encoding_space_ref @174
        struct.pack("<H", 2),  # trajectory_dimensions @176
        struct.pack("<f", 2.5),  # sample_time_us @178
        struct.pack("<3f", 10.0, 20.0, 30.0),  # position @182
        struct.pack("<3f", 1.0, 0.0, 0.0),  # read_dir @194
        struct.pack("<3f", 0.0, 1.0, 0.0),  # phase_dir @206
        struct.pack("<3f", 0.0, 0.0, 1.0),  # slice_dir @218
        struct.pack("<3f", 0.0, 0.0, -7.0),  # patient_table_position @230
        struct.pack("<9H", 21, 22, 23, 24, 25, 26, 27, 28, 29),  # idx @242: step 1, step 2, average … segment
        struct.pack("<8H", 1, 2, 3, 4, 5, 6, 7, 8),  # idx.user @260
        struct.pack("<8i", -1, 2, -3, 4, -5, 6, -7, 8),  # user_int @276
        struct.pack("<8f", 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5),  # user_float @308
        struct.pack("<6f", *[0.25] * 6),  # trajectory[samples][dimensions] @340
        struct.pack("<6f", 1, -1, 2, -2, 3, -3),  # coil 0, (re, im) of three samples
        struct.pack("<6f", 4, -4, 5, -5, 6, -6),  # coil 1
    ]
)


DEFAULT = WireLimits()


def feed(stream: bytes, chunk: int | None = None) -> Callable[[memoryview], int]:
    """A socket's recv_into that delivers ``stream`` in chunks, then its end."""
    source = io.BytesIO(stream)

    def receive_into(buffer: memoryview) -> int:
        return source.readinto(buffer[:chunk] if chunk else buffer)

    return receive_into


def read(stream: bytes, limits: WireLimits = DEFAULT) -> list[Message]:
    """All messages; batches copied, so that they outlive the next."""
    return [own(message) for message in MessageReader(feed(stream), limits)]


def own(message: Message) -> Message:
    if isinstance(message, ReadoutBatch):
        return ReadoutBatch(message.header.copy(), message.samples.copy())
    return message


def read_batch(stream: bytes) -> ReadoutBatch:
    (message,) = read(stream)
    assert isinstance(message, ReadoutBatch)
    return message


def batch_of(readouts: int, coils: int = 2, samples: int = 8, first: int = 0) -> ReadoutBatch:
    """Readouts that differ from each other."""
    header = np.zeros(readouts, READOUT_DTYPE)
    header["scan_counter"] = header["phase_encode"] = first + np.arange(readouts)
    header["centre_sample"] = samples // 2
    random = np.random.default_rng(first)
    data = random.standard_normal((readouts, coils, samples, 2), np.float32).view(np.complex64)[..., 0]
    return ReadoutBatch(header, data)


def patched(message: bytes, offset: int, format: str, *values: float) -> bytes:
    """A message with other values at an offset of its header."""
    changed = bytearray(message)
    struct.pack_into("<" + format, changed, 2 + offset, *values)
    return bytes(changed)


def refusal(stream: bytes, limits: WireLimits = DEFAULT) -> ScanRefused:
    with pytest.raises(ScanRefused) as caught:
        read(stream, limits)
    return caught.value


# ----------------------------------------------------------------------------------------------------------- layouts


def test_layouts_have_the_offsets_of_the_reference_implementation() -> None:
    acquisition, image, waveform = ismrmrd.AcquisitionHeader, ismrmrd.ImageHeader, ismrmrd.WaveformHeader
    assert ACQUISITION_HEADER.itemsize == ctypes.sizeof(acquisition) == 340
    assert IMAGE_HEADER.itemsize == ctypes.sizeof(image) == 198
    assert WAVEFORM_HEADER.itemsize == ctypes.sizeof(waveform) == 40
    assert ACQUISITION_HEADER.fields is not None and IMAGE_HEADER.fields is not None
    assert WAVEFORM_HEADER.fields is not None
    counters = type(acquisition().idx)
    for ours, theirs in ACQUISITION_FIELDS.items():
        assert ACQUISITION_HEADER.fields[ours][1] == getattr(acquisition, theirs).offset, ours
    for ours, theirs in COUNTER_FIELDS.items():
        expected = acquisition.idx.offset + getattr(counters, theirs).offset
        assert ACQUISITION_HEADER.fields[ours][1] == expected, ours
    for ours, theirs in IMAGE_FIELDS.items():
        assert IMAGE_HEADER.fields[ours][1] == getattr(image, theirs).offset, ours
    assert ACQUISITION_HEADER.names is not None
    assert set(ACQUISITION_HEADER.names) == {*ACQUISITION_FIELDS, *COUNTER_FIELDS}
    theirs_in_order = [name for name, _ in waveform._fields_]
    assert [WAVEFORM_HEADER.fields[name][1] for name in WAVEFORM_HEADER.names or ()] == [
        getattr(waveform, name).offset for name in theirs_in_order
    ]


def test_a_wire_header_can_be_viewed_as_the_header_of_a_batch() -> None:
    for name in READOUT_DTYPE.names or ():
        assert ACQUISITION_HEADER[name] == READOUT_DTYPE[name], name


# ---------------------------------------------------------------------------------------------------------- readouts


def test_golden_readout_is_read_field_by_field() -> None:
    batch = read_batch(GOLDEN_READOUT)
    header = batch.header[0]
    assert header["flags"] == ReadoutFlag.LAST_IN_SLICE | ReadoutFlag.IS_NOISE_MEASUREMENT
    assert (header["version"], header["measurement_uid"], header["scan_counter"]) == (1, 11, 12)
    assert header["time_stamp"] == 13
    assert header["physiology"].tolist() == [14, 15, 16]
    assert (header["samples"], header["available_coils"], header["active_coils"]) == (3, 4, 2)
    assert header["coil_mask"].tolist() == [10] + [0] * 15
    assert (header["discard_pre"], header["discard_post"], header["centre_sample"]) == (1, 0, 2)
    assert (header["encoding_space"], header["trajectory_dimensions"], header["sample_time_us"]) == (0, 2, 2.5)
    assert header["position"].tolist() == [10, 20, 30]
    assert header["read_direction"].tolist() == [1, 0, 0]
    assert header["phase_direction"].tolist() == [0, 1, 0]
    assert header["slice_direction"].tolist() == [0, 0, 1]
    assert header["table_position"].tolist() == [0, 0, -7]
    names = ("phase_encode", "partition", "average", "slice", "contrast", "phase", "repetition", "set", "segment")
    assert [int(header[name]) for name in names] == list(range(21, 30))
    assert header["user_counters"].tolist() == list(range(1, 9))
    assert header["user_int"].tolist() == [-1, 2, -3, 4, -5, 6, -7, 8]
    assert header["user_float"].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
    assert batch.samples.tolist() == [[[1 - 1j, 2 - 2j, 3 - 3j], [4 - 4j, 5 - 5j, 6 - 6j]]]
    assert batch.samples.flags.aligned


def test_readouts_written_by_the_reference_are_read() -> None:
    stream = io.BytesIO()
    serializer = ismrmrd.serialization.ProtocolSerializer(stream)
    expected = batch_of(3)
    for index in range(3):
        acquisition = ismrmrd.Acquisition.from_array(expected.samples[index], scan_counter=index)
        acquisition.idx.kspace_encode_step_1 = 40 + index
        acquisition.setFlag(ismrmrd.ACQ_LAST_IN_SLICE)
        serializer.serialize(acquisition)
    batch = read_batch(stream.getvalue())
    np.testing.assert_array_equal(batch.samples, expected.samples)
    assert batch.header["phase_encode"].tolist() == [40, 41, 42]
    assert batch.header["scan_counter"].tolist() == [0, 1, 2]
    assert set(batch.header["flags"]) == {ReadoutFlag.LAST_IN_SLICE}


def test_readouts_are_written_as_the_reference_reads_them() -> None:
    batch = batch_of(3, coils=70)
    batch.header["flags"] = ReadoutFlag.IS_REVERSE
    batch.header["position"] = (1, 2, 3)
    batch.header["segment"] = 9
    stream = io.BytesIO(pack_readouts(batch) + pack_close())
    acquisitions = list(ismrmrd.serialization.ProtocolDeserializer(stream).deserialize())
    assert len(acquisitions) == 3
    for index, acquisition in enumerate(acquisitions):
        assert isinstance(acquisition, ismrmrd.Acquisition)
        np.testing.assert_array_equal(acquisition.data, batch.samples[index])
        assert (acquisition.version, acquisition.available_channels, acquisition.active_channels) == (1, 70, 70)
        assert acquisition.scan_counter == acquisition.idx.kspace_encode_step_1 == index
        assert acquisition.idx.segment == 9
        assert list(acquisition.position) == [1, 2, 3]
        assert acquisition.isFlagSet(ismrmrd.ACQ_IS_REVERSE)
        assert acquisition.isChannelActive(69) and not acquisition.isChannelActive(70)


def test_what_was_read_is_written_back_without_its_trajectory() -> None:
    written = pack_readouts(read_batch(GOLDEN_READOUT))
    flat = patched(GOLDEN_READOUT, 176, "H", 0)
    assert written == flat[:342] + flat[366:]


def test_readouts_too_large_for_the_format_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        pack_readouts(ReadoutBatch(np.zeros(1, READOUT_DTYPE), np.zeros((1, 1025, 1), np.complex64)))


def test_a_run_of_equal_readouts_is_one_batch_and_a_change_begins_another() -> None:
    stream = (
        pack_readouts(batch_of(5)) + pack_readouts(batch_of(4, coils=3)) + pack_text("x") + pack_readouts(batch_of(2))
    )
    lengths = [len(message) if isinstance(message, ReadoutBatch) else message for message in read(stream)]
    assert lengths == [5, 4, Text("x"), 2]


def test_batches_are_bounded() -> None:
    batches = read(pack_readouts(batch_of(3000, coils=1, samples=1)))
    assert sum(len(batch) for batch in batches if isinstance(batch, ReadoutBatch)) == 3000
    assert len(batches) == 3


def test_a_complete_readout_is_yielded_without_waiting_for_the_next() -> None:
    one = pack_readouts(batch_of(1))
    chunks = iter([one + one[:100]])

    def receive_into(buffer: memoryview) -> int:
        chunk = next(chunks, None)
        if chunk is None:
            raise TimeoutError
        buffer[: len(chunk)] = chunk
        return len(chunk)

    reader = MessageReader(receive_into)
    messages = iter(reader)
    first = next(messages)
    assert isinstance(first, ReadoutBatch) and len(first) == 1
    with pytest.raises(TimeoutError):
        next(messages)
    chunks = iter([one[100:]])  # a new iteration goes on where the old one was
    second = next(iter(reader))
    assert isinstance(second, ReadoutBatch) and second.header["scan_counter"] == 0


def test_readouts_larger_than_the_buffer_grow_it() -> None:
    batch = batch_of(3, coils=4, samples=500)
    reader = MessageReader(feed(pack_readouts(batch), 777), WireLimits(buffer_bytes=64))
    samples = np.concatenate([message.samples.copy() for message in reader if isinstance(message, ReadoutBatch)])
    np.testing.assert_array_equal(samples, batch.samples)


def test_a_batch_cannot_be_written_to_through_its_header() -> None:
    batch = next(iter(MessageReader(feed(pack_readouts(batch_of(2))))))
    assert isinstance(batch, ReadoutBatch)
    with pytest.raises(ValueError, match="read-only"):
        batch.header["flags"] = 1


@pytest.mark.parametrize(
    ("offset", "format", "value", "field", "error"),
    [
        (0, "H", 2, "version", ProtocolError),
        (34, "H", 0, "number_of_samples", ReadoutError),
        (38, "H", 0, "active_channels", ReadoutError),
        (38, "H", 1025, "active_channels", ReadoutError),
        (36, "H", 1, "active_channels", ReadoutError),  # 2 active of 1 available
        (168, "H", 8, "discard_pre + discard_post", ReadoutError),
        (170, "H", 65535, "discard_pre + discard_post", ReadoutError),
        (176, "H", 4, "trajectory_dimensions", ProtocolError),
        (178, "f", float("nan"), "sample_time_us, position, read_dir, phase_dir, slice_dir", ReadoutError),
        (186, "f", float("inf"), "sample_time_us, position, read_dir, phase_dir, slice_dir", ReadoutError),
        (226, "f", float("-inf"), "sample_time_us, position, read_dir, phase_dir, slice_dir", ReadoutError),
        (344, "f", float("nan"), "data", ReadoutError),
    ],
)
def test_a_bad_readout_is_refused_after_the_sound_ones_before_it(
    offset: int, format: str, value: float, field: str, error: type[ScanRefused]
) -> None:
    one = pack_readouts(batch_of(1))
    stream = one * 3 + patched(one, offset, format, value) + one
    got = 0
    with pytest.raises(error) as caught:
        for message in MessageReader(feed(stream)):
            assert isinstance(message, ReadoutBatch)
            got += len(message)
    assert caught.value.field == field
    assert got == 3


@pytest.mark.parametrize("version", [0, 1])
def test_old_versions_and_unknown_available_channels_are_accepted(version: int) -> None:
    message = patched(patched(GOLDEN_READOUT, 0, "H", version), 36, "H", 0)
    assert len(read_batch(message)) == 1


def test_non_finite_samples_are_named() -> None:
    batch = batch_of(4, coils=2, samples=8, first=100)
    batch.samples[2, 1, 5] = complex(0, np.nan)
    error = refusal(pack_readouts(batch))
    assert error.field == "data"
    assert "coil 1, sample 5 of the readout with scan_counter 102" in error.expected


@pytest.mark.parametrize(
    ("changes", "looked_at"),
    [
        ({}, False),
        ({"flags": int(ReadoutFlag.LAST_IN_SLICE | ReadoutFlag.IS_PARALLEL_CALIBRATION_AND_IMAGING)}, False),
        ({"flags": int(ReadoutFlag.IS_NOISE_MEASUREMENT)}, True),
        ({"flags": int(ReadoutFlag.IS_PARALLEL_CALIBRATION)}, True),
        ({"flags": int(ReadoutFlag.IS_NAVIGATION_DATA)}, True),
        ({"encoding_space": 1}, True),
    ],
)
def test_samples_of_image_lines_can_be_left_to_who_transforms_them(changes: dict[str, int], looked_at: bool) -> None:
    batch = batch_of(3, coils=2, samples=8)
    batch.samples[2, 1, 5] = complex(0, np.nan)
    for name, value in changes.items():
        batch.header[name] = value
    messages = iter(MessageReader(feed(pack_readouts(batch)), check_image_lines=False))
    first = next(messages)
    assert isinstance(first, ReadoutBatch)
    assert len(first) == (2 if looked_at else 3)
    if looked_at:
        with pytest.raises(ReadoutError, match="not at coil 1, sample 5"):
            next(messages)


def test_huge_finite_samples_are_accepted() -> None:
    batch = batch_of(1)
    batch.samples[:] = np.finfo(np.float32).max
    np.testing.assert_array_equal(read_batch(pack_readouts(batch)).samples, batch.samples)


def test_a_claim_of_65535_squared_is_refused_before_memory_is_taken() -> None:
    claim = patched(patched(GOLDEN_READOUT, 34, "2H", 65535, 65535), 38, "H", 65535)
    tracemalloc.start()
    try:
        assert isinstance(refusal(claim), ReadoutError)
        assert isinstance(refusal(patched(claim, 38, "H", 1024)), BudgetExceeded)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20  # the buffers, which are made for every reader
    finally:
        tracemalloc.stop()


def test_more_is_accepted_once_the_limits_are_raised() -> None:
    limits = WireLimits(max_message_bytes=1000)
    stream = pack_text("header") + pack_readouts(batch_of(1, coils=3, samples=1000))
    for raised in (False, True):
        reader = MessageReader(feed(stream), limits)
        messages = iter(reader)
        assert next(messages) == Text("header")
        if raised:
            reader.accept(WireLimits())
            assert isinstance(next(messages), ReadoutBatch)
        else:
            with pytest.raises(BudgetExceeded, match="at most 1000 are accepted"):
                next(messages)


def test_what_was_received_and_not_yielded_is_known() -> None:
    reader = MessageReader(feed(pack_close() + b"more"))
    assert [*reader] == [Close()]
    assert reader.holds_more
    reader = MessageReader(feed(pack_close()))
    assert [*reader] == [Close()]
    assert not reader.holds_more


# ----------------------------------------------------------------------------------------------------- other messages


def test_golden_texts() -> None:
    golden = b"".join(
        [
            b"\x01\x00" + b"openrecon" + b"\0" * 1015,  # config file: char[1024]
            b"\x02\x00" + b"\x03\x00\x00\x00" + b"<c>",  # config text: u32 length, bytes
            b"\x03\x00" + b"\x04\x00\x00\x00" + b"<h/>",  # header
            b"\x05\x00" + b"\x05\x00\x00\x00" + "caf\u00e9".encode(),  # text
            b"\x04\x00",  # close
        ]
    )
    expected: list[Message] = [
        ConfigFile("openrecon"),
        ConfigText("<c>"),
        HeaderText(b"<h/>"),
        Text("caf\u00e9"),
        Close(),
    ]
    assert read(golden) == expected
    written = [
        pack_config_file("openrecon"),
        pack_config_text("<c>"),
        pack_header("<h/>"),
        pack_text("caf\u00e9"),
        pack_close(),
    ]
    assert b"".join(written) == golden


def test_nul_terminators_are_taken_off_texts_but_not_xml_which_may_be_utf16() -> None:
    stream = (
        pack_text("a\0") + pack_header(b"<h/>\0") + pack_config_text("c\0") + b"\x01\0" + b"n\0junk".ljust(1024, b"\0")
    )
    assert read(stream) == [Text("a"), HeaderText(b"<h/>\0"), ConfigText("c"), ConfigFile("n")]


def test_a_config_file_name_leaves_room_for_its_terminator() -> None:
    assert read(pack_config_file("n" * 1023)) == [ConfigFile("n" * 1023)]
    with pytest.raises(ValueError, match="1024 bytes"):
        pack_config_file("n" * 1024)


def test_error_texts_can_always_be_written() -> None:
    assert read(pack_text("\ud800")) == [Text("?")]


@pytest.mark.parametrize(
    ("stream", "field"),
    [
        (b"\x06\x00", "message id"),
        (b"\xff\xff", "message id"),
        (struct.pack("<HI", 5, 5 << 20), "length of message TEXT"),
        (struct.pack("<HI", 3, 0xFFFFFFFF), "length of message HEADER"),
        (pack_text("x")[:-1] + b"\xff", "body of message TEXT"),
        (b"\x01\0" + b"\xff" * 1024, "name of message CONFIG_FILE"),
    ],
)
def test_what_is_no_message_is_refused(stream: bytes, field: str) -> None:
    error = refusal(stream)
    assert isinstance(error, ProtocolError)
    assert error.field == field


def test_nothing_is_read_after_close() -> None:
    reader = MessageReader(feed(pack_close() + b"\xff\xff"))
    assert list(reader) == [Close()]
    assert reader.closed_cleanly
    assert list(reader) == []


def test_the_end_between_messages_is_no_clean_close() -> None:
    reader = MessageReader(feed(pack_text("x")))
    assert list(reader) == [Text("x")]
    assert not reader.closed_cleanly


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (b"\x05", r"message \? = the stream ended after 1 bytes: at least 2 bytes"),
        (pack_text("hello")[:9], "message TEXT = the stream ended after 9 bytes: at least 11 bytes"),
        (GOLDEN_READOUT[:300], "message ACQUISITION = the stream ended after 300 bytes: at least 342 bytes"),
        (GOLDEN_READOUT[:400], "message ACQUISITION = the stream ended after 400 bytes: at least 414 bytes"),
    ],
)
def test_the_end_within_a_message_says_what_is_missing(stream: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        read(pack_text("before") + stream)


def test_waveforms_written_by_the_reference_are_read() -> None:
    stream = io.BytesIO()
    data = np.arange(6, dtype=np.uint32).reshape(2, 3)
    waveform = ismrmrd.Waveform.from_array(data, waveform_id=4, time_stamp=77, sample_time_us=2.5)
    ismrmrd.serialization.ProtocolSerializer(stream).serialize(waveform)
    (message,) = read(stream.getvalue())
    assert isinstance(message, Waveform)
    np.testing.assert_array_equal(message.samples, data)
    assert (message.header["waveform_id"], message.header["time_stamp"]) == (4, 77)
    assert message.header["sample_time_us"] == 2.5


def test_golden_image() -> None:
    golden = b"".join(
        [
            struct.pack("<H", 1022),  # message id
            struct.pack("<H", 1),  # version @0
            struct.pack("<H", 2),  # data_type @2: int16
            struct.pack("<Q", 0),  # flags @4
            struct.pack("<I", 7),  # measurement_uid @12
            struct.pack("<3H", 3, 2, 1),  # matrix_size @16: x, y, z
            struct.pack("<3f", 30.0, 20.0, 5.0),  # field_of_view @22
            struct.pack("<H", 1),  # channels @34
            struct.pack("<3f", 1.0, 2.0, 3.0),  # position @36
            struct.pack("<3f", 1.0, 0.0, 0.0),  # read_dir @48
            struct.pack("<3f", 0.0, 1.0, 0.0),  # phase_dir @60
            struct.pack("<3f", 0.0, 0.0, 1.0),  # slice_dir @72
            struct.pack("<3f", 0.0, 0.0, 0.0),  # patient_table_position @84
            struct.pack("<6H", 1, 2, 3, 4, 5, 6),  # average, slice, contrast, phase, repetition, set @96
            struct.pack("<I", 99),  # acquisition_time_stamp @108
            struct.pack("<3I", 0, 0, 0),  # physiology_time_stamp @112
            struct.pack("<3H", 1, 8, 9),  # image_type, image_index, image_series_index @124
            struct.pack("<8i", *range(8)),  # user_int @130
            struct.pack("<8f", *[0.0] * 8),  # user_float @162
            struct.pack("<I", 4),  # attribute_string_len @194
            struct.pack("<Q", 4),  # the same again, which counts @198
            b"<m/>",  # attributes @206
            struct.pack("<6h", 1, 2, 3, -4, -5, -6),  # pixels: two rows of three
        ]
    )
    (message,) = read(golden)
    assert isinstance(message, ImageMessage)
    assert message.attributes == "<m/>"
    assert message.pixels.tolist() == [[[[1, 2, 3], [-4, -5, -6]]]]
    header = message.header
    assert (header["slice"], header["set"], header["image_index"], header["image_series"]) == (2, 6, 8, 9)
    fields = {name: header[name] for name in IMAGE_HEADER.names or ()}
    assert pack_image(message.pixels, fields, message.attributes) == golden
    # The second of the two lengths is obeyed.
    (message,) = read(patched(golden, 194, "I", 3))
    assert isinstance(message, ImageMessage) and message.attributes == "<m/>"


@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "f4", "f8", "c8", "c16"])
def test_images_of_every_type_agree_with_the_reference(dtype: str) -> None:
    pixels = np.arange(24).reshape(2, 1, 3, 4).astype(dtype)
    packed = pack_image(pixels, {"image_type": 1, "position": (1, 2, 3)}, format_meta_attributes({"a": "b"}))
    stream = io.BytesIO(packed + pack_close())
    (theirs,) = ismrmrd.serialization.ProtocolDeserializer(stream).deserialize()
    assert isinstance(theirs, ismrmrd.Image)
    np.testing.assert_array_equal(theirs.data, pixels)
    assert theirs.meta == {"a": "b"}
    assert list(theirs.position) == [1, 2, 3]
    written = io.BytesIO()
    ismrmrd.serialization.ProtocolSerializer(written).serialize(theirs)
    (ours,) = read(written.getvalue())
    assert isinstance(ours, ImageMessage)
    assert ours.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(ours.pixels, pixels)
    assert parse_meta_attributes(ours.attributes) == {"a": ["b"]}


@pytest.mark.parametrize(
    ("offset", "format", "values", "field", "error"),
    [
        (0, "H", [7], "version", ProtocolError),
        (2, "H", [0], "data_type", ProtocolError),
        (2, "H", [9], "data_type", ProtocolError),
        (16, "3H", [0, 1, 1], "channels x matrix_size", ProtocolError),
        (16, "3H", [65535, 65535, 65535], "channels x matrix_size", BudgetExceeded),
        (198, "Q", [2**64 - 1], "attribute length of message IMAGE", ProtocolError),
        (206, "B", [0xFF], "attributes of message IMAGE", ProtocolError),
    ],
)
def test_bad_images_are_refused(
    offset: int, format: str, values: list[float], field: str, error: type[ScanRefused]
) -> None:
    image = pack_image(np.zeros((1, 1, 2, 2), np.float32), {}, "<m/>")
    raised = refusal(patched(image, offset, format, *values))
    assert type(raised) is error
    assert raised.field == field


def test_pixels_that_the_format_cannot_hold_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="pixels of bool"):
        pack_image(np.zeros((1, 1, 1, 1), np.bool_), {})
    with pytest.raises(ValueError, match="channels, z, y, x"):
        pack_image(np.zeros((4, 4), np.float32), {})


def magnitude_image(**directions: tuple[float, float, float] | None) -> Image:
    geometry = Geometry(
        centre_mm=(1.0, 2.0, 3.0),
        read_direction=directions.get("read", (1.0, 0.0, 0.0)),
        phase_direction=directions.get("phase", (0.0, 1.0, 0.0)),
        slice_direction=directions.get("slice", (0.0, 0.0, 1.0)),
        field_of_view_mm=(240.0, 180.0, 5.0),
    )
    return Image(
        pixels=np.arange(12, dtype=np.float32).reshape(3, 4),
        method=Method.CLASSICAL,
        completeness=Completeness.FINAL,
        key=SliceKey(slice=1, contrast=2, phase=3, repetition=4, set=5),
        geometry=geometry,
        provenance=Provenance("0"),
        measured_share=1.0,
        acceleration=1.0,
        acquired_at=0.0,
    )


def test_magnitude_images_are_read_by_the_reference() -> None:
    attributes: dict[str, str | list[str]] = {"ImageComment": ["a < b", "c & d"], "Method": "classical"}
    stream = io.BytesIO(pack_magnitude_image(magnitude_image(), 6, 7, attributes) + pack_close())
    (image,) = ismrmrd.serialization.ProtocolDeserializer(stream).deserialize()
    assert isinstance(image, ismrmrd.Image)
    assert image.data.dtype == np.float32 and image.image_type == ismrmrd.IMTYPE_MAGNITUDE
    np.testing.assert_array_equal(image.data[0, 0], magnitude_image().pixels)
    assert image.data.shape == (1, 1, 3, 4)
    assert list(image.field_of_view) == [240, 180, 5]
    assert (image.slice, image.contrast, image.phase, image.repetition, image.set) == (1, 2, 3, 4, 5)
    assert (image.image_series_index, image.image_index) == (6, 7)
    assert image.meta == {"ImageComment": ["a < b", "c & d"], "Method": "classical"}


def test_unknown_directions_are_written_as_zeros() -> None:
    (message,) = read(pack_magnitude_image(magnitude_image(read=None, phase=None, slice=None), 1, 1, {}))
    assert isinstance(message, ImageMessage)
    assert not any(message.header[f"{name}_direction"].any() for name in ("read", "phase", "slice"))


# --------------------------------------------------------------------------------------------------- meta attributes


def test_meta_attributes_round_trip() -> None:
    attributes: dict[str, str | list[str]] = {"a": "1", "b & c": ["<2>", "", "\u00fc\r\n"], "empty": []}
    expected = {"a": ["1"], "b & c": ["<2>", "", "\u00fc\r\n"], "empty": []}
    assert parse_meta_attributes(format_meta_attributes(attributes)) == expected


def test_meta_attributes_of_the_reference_are_read() -> None:
    meta = ismrmrd.Meta({"one": "1", "two": ["2", "3"]})
    assert parse_meta_attributes(meta.serialize()) == {"one": ["1"], "two": ["2", "3"]}
    assert parse_meta_attributes("") == {}


def test_characters_that_xml_cannot_hold_are_replaced() -> None:
    assert parse_meta_attributes(format_meta_attributes({"a": "x\0\x1b\ud800"})) == {"a": ["x\ufffd\ufffd\ufffd"]}


@pytest.mark.parametrize(
    "xml",
    [
        "<ismrmrdMeta>",
        "<other/>",
        "<ismrmrdMeta><meta><value>1</value></meta></ismrmrdMeta>",
        '<!DOCTYPE x [<!ENTITY a "aaaa">]><ismrmrdMeta>&a;</ismrmrdMeta>',
        "<ismrmrdMeta>\ud800</ismrmrdMeta>",
    ],
)
def test_bad_meta_attributes_are_refused(xml: str) -> None:
    with pytest.raises(ProtocolError):
        parse_meta_attributes(xml)


def test_iterating_is_lazy() -> None:
    calls: list[int] = []

    def receive_into(buffer: memoryview) -> int:
        calls.append(len(buffer))
        return 0

    messages: Iterator[Message] = iter(MessageReader(receive_into))
    assert not calls
    assert next(messages, None) is None
