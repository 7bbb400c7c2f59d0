"""Whatever arrives, in whatever pieces: the same messages, or a refusal; never a hang and never memory beyond the limits."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterable, Iterator

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ScanRefused
from edge_runtime.links.mrd_header import parse_header
from edge_runtime.links.mrd_messages import (
    ACQUISITION_HEADER,
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
    """Comparable values, one a readout, so that batches of any size are equal."""
    plain: list[object] = []
    for message in messages:
        if isinstance(message, ReadoutBatch):
            assert message.header.dtype == ACQUISITION_HEADER and np.isfinite(message.samples).all()
            plain.extend(
                (header.tobytes(), data.shape, data.tobytes())
                for header, data in zip(message.header, message.samples, strict=True)
            )
        elif isinstance(message, ImageMessage):
            plain.append((message.header.tobytes(), message.attributes, message.pixels.tolist()))
        elif isinstance(message, Waveform):
            plain.append((message.header.tobytes(), message.samples.tolist()))
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


def test_the_session_is_read() -> None:
    assert len(WHOLE[0]) == 4 + 9 + 4 + 1 + 1 + 1
    assert WHOLE[0][-1] == Close()
    assert WHOLE[1] == "end, clean True"


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 2000), max_size=200))
@example(sizes=[1] * len(SESSION))
def test_any_split_gives_the_same_messages(sizes: list[int]) -> None:
    assert _outcome(SESSION, sizes, SMALL) == WHOLE


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
