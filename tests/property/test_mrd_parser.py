"""Whatever arrives, in whatever pieces: the same messages, or a refusal; never a hang and never memory beyond the limits."""

from __future__ import annotations

import gc
import io
import struct
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, repeat

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mrd_reference import read_by_the_rules

from edge_runtime.errors import BudgetExceeded, ScanRefused
from edge_runtime.links.mrd_header import parse_header
from edge_runtime.links.mrd_messages import (
    ACQUISITION_HEADER,
    WAVEFORM_HEADER,
    Close,
    HeaderText,
    ImageMessage,
    Message,
    MessageReader,
    Waveform,
    WireLimits,
)
from edge_runtime.links.mrd_pack import (
    pack_close,
    pack_config_file,
    pack_config_text,
    pack_header,
    pack_image,
    pack_readouts,
    pack_text,
    parse_meta_attributes,
)
from edge_runtime.scan import READOUT_DTYPE, ReadoutBatch

XML = (
    b'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace><matrixSize><x>8</x><y>8</y><z>1</z>'
    b"</matrixSize><fieldOfView_mm><x>240</x><y>240</y><z>5</z></fieldOfView_mm></encodedSpace><encodingLimits>"
    b"<kspace_encoding_step_1><minimum>0</minimum><maximum>7</maximum><center>4</center></kspace_encoding_step_1>"
    b"</encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
)
SMALL = WireLimits(max_text_bytes=4096, max_message_bytes=32 << 10, buffer_bytes=256)
META = "<ismrmrdMeta><meta><name>n</name><value>v</value></meta></ismrmrdMeta>"


def _readouts(count: int, coils: int, samples: int) -> bytes:
    header = np.zeros(count, READOUT_DTYPE)
    header["scan_counter"] = np.arange(count)
    data = np.arange(count * coils * samples).reshape(count, coils, samples).astype(np.complex64)
    return pack_readouts(ReadoutBatch(header, data))


SESSION = b"".join(
    [
        pack_config_file("default"),
        pack_config_text("<config/>"),
        pack_header(XML),
        pack_text("hello"),
        _readouts(9, 2, 5),
        _readouts(4, 1, 7),
        pack_image(np.arange(6, dtype=np.int16).reshape(1, 1, 2, 3), {}, META),
        _readouts(1, 2, 5),
        pack_close(),
    ]
)


class _Chunks:
    """A socket that delivers a stream in chunks of given sizes, then in one piece; counts what it is asked."""

    def __init__(self, stream: bytes, sizes: Iterable[int]) -> None:
        self._source = io.BytesIO(stream)
        self._sizes: Iterator[int] = iter(sizes)
        self.largest_request = 0

    def __call__(self, buffer: memoryview) -> int:
        assert len(buffer) > 0, "a full buffer would look like the end of the stream"
        self.largest_request = max(self.largest_request, len(buffer))
        return self._source.readinto(buffer[: next(self._sizes, len(buffer))])


def _plain(messages: Iterable[Message]) -> list[object]:
    """Comparable values as `read_by_the_rules` has them, one a readout, so that batches of any size are equal."""
    plain: list[object] = []
    for message in messages:
        if isinstance(message, ReadoutBatch):
            assert message.header.dtype == ACQUISITION_HEADER and np.isfinite(message.samples).all()
            plain.extend(
                (header.tobytes(), data.shape, data.tobytes())
                for header, data in zip(message.header, message.samples, strict=True)
            )
        elif isinstance(message, ImageMessage):
            pixels = message.pixels
            plain.append((message.header.tobytes(), message.attributes, pixels.shape, pixels.tobytes()))
        elif isinstance(message, Waveform):
            plain.append((message.header.tobytes(), message.samples.tobytes()))
        else:
            plain.append(message)
    return plain


def _outcome(stream: bytes, sizes: Iterable[int], limits: WireLimits) -> tuple[list[object], str]:
    """What is yielded, and the refusal or end that follows."""
    yielded: list[object] = []
    reader = MessageReader(_Chunks(stream, sizes), limits)
    try:
        for message in reader:
            yielded.extend(_plain([message]))
    except ScanRefused as error:
        return yielded, f"{type(error).__name__}: {error}"
    return yielded, f"end, clean {reader.closed_cleanly}"


WHOLE = _outcome(SESSION, [], WireLimits())


def _waveform(channels: int, samples: int) -> bytes:
    header = np.zeros((), WAVEFORM_HEADER)
    header["channels"], header["samples"] = channels, samples
    return struct.pack("<H", 1026) + header.tobytes() + bytes(range(4 * channels * samples))


def _with_trajectory(coils: int, samples: int, dimensions: int) -> bytes:
    message = bytearray(_readouts(1, coils, samples))
    struct.pack_into("<H", message, 178, dimensions)
    message[342:342] = bytes(4 * samples * dimensions)
    return bytes(message)


VARIED = _with_trajectory(2, 5, 2) * 2 + _waveform(2, 3) + _with_trajectory(2, 5, 3) + _waveform(1, 0) + SESSION
"""Also what a scanner seldom sends."""


def test_the_session_is_read() -> None:
    assert len(WHOLE[0]) == 4 + 9 + 4 + 1 + 1 + 1
    assert WHOLE[0][-1] == Close()
    assert WHOLE[1] == "end, clean True"


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 2000), max_size=200))
@example(sizes=[1] * len(SESSION))
def test_any_split_gives_the_same_messages(sizes: list[int]) -> None:
    assert _outcome(SESSION, sizes, SMALL) == WHOLE


def test_the_session_is_read_as_the_rules_say() -> None:
    for stream in (SESSION, VARIED):
        assert read_by_the_rules(stream, WireLimits()) == _outcome(stream, [], WireLimits())


@pytest.mark.parametrize("limits", [WireLimits(), SMALL, WireLimits(buffer_bytes=0)])
def test_bytes_that_come_one_by_one_give_the_same_messages(limits: WireLimits) -> None:
    assert _outcome(VARIED, repeat(1), limits) == _outcome(VARIED, [], limits)


def test_a_split_at_any_byte_gives_the_same_messages() -> None:
    whole = _outcome(VARIED, [], SMALL)
    for position in range(1, len(VARIED)):
        assert _outcome(VARIED, [position], SMALL) == whole, position


def test_a_stream_that_ends_at_any_byte_is_read_as_the_rules_say() -> None:
    for end in range(len(VARIED)):
        items, refusal = read_by_the_rules(VARIED[:end], SMALL)
        got = _outcome(VARIED[:end], [], SMALL)
        assert got[0] == items and got[1].startswith(refusal), end


def _numbers() -> st.SearchStrategy[bytes]:
    """What could stand in a field: numbers of 16, 32 and 64 bits near the ends of their range, and floats."""
    telling = [0, 1, 2, 3, 4, 5, 8, 1008, 1022, 1026, 0x7FFF, 0x8000, 0xFFFF]
    return st.one_of(
        st.binary(min_size=1, max_size=2),
        st.sampled_from(telling).map(lambda number: struct.pack("<H", number)),
        st.sampled_from([0, 4096, 4097, 1 << 31, (1 << 32) - 1]).map(lambda number: struct.pack("<I", number)),
        st.sampled_from([1 << 32, 1 << 63, (1 << 64) - 1]).map(lambda number: struct.pack("<Q", number)),
        st.floats(width=32).map(lambda number: struct.pack("<f", number)),
    )


@settings(max_examples=400, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(VARIED) - 1), _numbers()), max_size=5),
    limits=st.sampled_from([WireLimits(), SMALL, replace(SMALL, max_coils=1), replace(SMALL, max_samples=6)]),
    size=st.integers(1, 3000),
)
def test_what_is_damaged_is_read_as_the_rules_say(
    changes: list[tuple[int, bytes]], limits: WireLimits, size: int
) -> None:
    damaged = bytearray(VARIED)
    for position, number in changes:
        damaged[position : position + len(number)] = number
    items, refusal = read_by_the_rules(bytes(damaged), limits)
    for sizes in (repeat(1 << 30), repeat(size), chain([size], repeat(1))):
        got, end = _outcome(bytes(damaged), sizes, limits)
        assert got == items
        assert end.startswith(refusal)


mutations = st.lists(st.tuples(st.integers(0, len(SESSION) - 1), st.integers(0, 255)), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(changes=mutations, end=st.integers(0, len(SESSION)), size=st.integers(1, 3000))
def test_mutated_and_truncated_streams_are_read_or_refused_whatever_the_split(
    changes: list[tuple[int, int]], end: int, size: int
) -> None:
    stream = bytearray(SESSION)
    for position, value in changes:
        stream[position] = value
    whole = _outcome(bytes(stream), [], SMALL)
    assert _outcome(bytes(stream), [size] * (len(stream) // size + 1), SMALL) == whole
    cut = _outcome(bytes(stream[:end]), [], SMALL)
    assert cut[0] == whole[0][: len(cut[0])]


@settings(max_examples=200, deadline=None)
@given(stream=st.binary(max_size=600), message=st.sampled_from([1, 2, 3, 5, 1008, 1022, 1026]))
def test_noise_is_refused(stream: bytes, message: int) -> None:
    _outcome(message.to_bytes(2, "little") + stream, [], SMALL)


@settings(max_examples=100, deadline=None)
@given(body=st.binary(min_size=208, max_size=400), message=st.sampled_from([2, 3, 5, 1008, 1022, 1026]))
def test_no_claim_makes_the_buffer_grow_beyond_the_limit(body: bytes, message: int) -> None:
    stream = message.to_bytes(2, "little") + body + bytes(200)
    socket = _Chunks(stream, [])
    reader = MessageReader(socket, SMALL)
    try:
        for _ in reader:
            pass
    except ScanRefused:
        pass
    assert socket.largest_request <= SMALL.max_message_bytes


def test_the_buffer_grows_to_one_message_and_no_further() -> None:
    image = pack_image(np.zeros((1, 1, 50, 50), np.float32), {}, META)
    socket = _Chunks(_readouts(40, 2, 5) + image + _readouts(40, 2, 5), repeat(100))
    for _ in MessageReader(socket, SMALL):
        pass
    assert socket.largest_request == len(image)  # when the buffer was empty again


def test_a_text_is_no_larger_than_a_message_may_be() -> None:
    limits = WireLimits(max_text_bytes=1 << 20, max_message_bytes=2000, buffer_bytes=256)
    socket = _Chunks(pack_text("x" * 1994) + pack_text("x" * 1995), repeat(300))
    messages = iter(MessageReader(socket, limits))
    next(messages)
    with pytest.raises(
        BudgetExceeded, match="length of message TEXT = 1995: a message of 2001 bytes; at most 2000 are"
    ):
        next(messages)
    assert socket.largest_request <= 2000


def test_more_pixels_than_64_bits_can_count_are_refused() -> None:
    image = bytearray(pack_image(np.zeros((1, 1, 1, 1), np.complex128), {}))
    struct.pack_into("<3H", image, 2 + 16, 65535, 65535, 65535)
    struct.pack_into("<H", image, 2 + 34, 65535)
    with pytest.raises(BudgetExceeded, match=f"a message of {208 + 65535**4 * 16} bytes; at most"):
        list(MessageReader(_Chunks(bytes(image), [])))


def test_a_batch_holds_until_the_next_message_is_asked_for() -> None:
    stream = _readouts(30, 2, 5) + _readouts(30, 2, 6)
    expected = read_by_the_rules(stream, WireLimits())[0]
    seen: list[object] = []
    for message in MessageReader(_Chunks(stream, repeat(1500)), SMALL):
        gc.collect()
        seen.extend(_plain([message]))
    assert seen == expected


def test_a_batch_keeps_its_memory_when_the_reader_has_gone() -> None:
    reader = MessageReader(_Chunks(_readouts(3, 2, 5), []))
    batch = next(iter(reader))
    before = _plain([batch])
    del reader
    gc.collect()
    assert _plain([batch]) == before


def test_a_batch_keeps_its_memory_when_the_buffer_grows() -> None:
    stream = _readouts(1, 1, 1) + pack_text("x" * 4000)
    messages = iter(MessageReader(_Chunks(stream, repeat(400)), replace(SMALL, buffer_bytes=400)))
    batch = next(messages)  # with it came the length of a text that the buffer can't hold
    before = _plain([batch])
    next(messages)
    assert _plain([batch]) == before  # the stream has gone on to another buffer


def test_nothing_can_be_written_through_a_batch() -> None:
    (batch,) = MessageReader(_Chunks(_readouts(3, 2, 5), []))
    assert isinstance(batch, ReadoutBatch)
    for array in (batch.header, batch.samples):
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_a_socket_that_claims_more_than_there_was_room_for_is_not_believed() -> None:
    with pytest.raises(ValueError, match="more bytes than there was room for"):
        list(MessageReader(lambda buffer: len(buffer) + 1))


def test_a_timeout_loses_nothing_wherever_it_comes() -> None:
    source = io.BytesIO(VARIED)
    turns = iter(range(1 << 30))

    def receive_into(buffer: memoryview) -> int:
        if next(turns) % 2:
            raise TimeoutError
        return source.readinto(buffer[:7])

    reader = MessageReader(receive_into, SMALL)
    got: list[object] = []
    while not reader.closed_cleanly:
        try:
            for message in reader:
                got.extend(_plain([message]))
        except TimeoutError:
            continue
    assert got == read_by_the_rules(VARIED, SMALL)[0]


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(XML) - 1), junk=st.binary(max_size=12), drop=st.integers(0, 40))
def test_mutated_headers_are_read_or_refused(position: int, junk: bytes, drop: int) -> None:
    try:
        header = parse_header(XML[:position] + junk + XML[position + drop :])
    except ScanRefused:
        return
    assert all(1 <= count <= 4096 for count in header.encoding.encoded.matrix + header.encoding.recon.matrix)
    lengths = header.encoding.encoded.field_of_view_mm + header.encoding.recon.field_of_view_mm
    assert all(0 < length < 1e8 for length in lengths)


@settings(max_examples=200, deadline=None)
@given(
    number=st.one_of(st.text(max_size=12), st.floats().map(repr), st.integers().map(str)), tag=st.sampled_from("xyz")
)
def test_any_matrix_and_field_of_view_is_read_or_refused(number: str, tag: str) -> None:
    for digits in ("8", "240"):
        changed = XML.replace(f"<{tag}>{digits}<".encode(), f"<{tag}>{number}<".encode("utf-8", "replace"))
        try:
            parse_header(changed)
        except ScanRefused:
            continue


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, len(META)), junk=st.text(max_size=12), drop=st.integers(0, 20))
def test_mutated_meta_attributes_are_read_or_refused(position: int, junk: str, drop: int) -> None:
    try:
        parse_meta_attributes(META[:position] + junk + META[position + drop :])
    except ScanRefused:
        pass


def test_a_deeply_nested_header_is_refused_within_its_memory() -> None:
    tracemalloc.start()
    try:
        for xml in (b"<a>" * 1_000_000, b"<a>" * 49_000 + b"</a>" * 49_000):
            try:
                parse_header(xml)
            except ScanRefused:
                continue
            raise AssertionError("accepted")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_a_session_is_parsed_after_it_was_split() -> None:
    reader = MessageReader(_Chunks(SESSION, [7] * 400))
    (header,) = [message for message in reader if isinstance(message, HeaderText)]
    assert parse_header(header.xml).encoding.encoded.matrix == (8, 8, 1)
