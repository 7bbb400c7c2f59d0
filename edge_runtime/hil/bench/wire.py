"""The MRD (ISMRMRD v1) wire as a scanner knows it, written from the format's description and from nothing of
the runtime's own code.

What the runtime receives was cut here, and what it answers is read here: a misreading in
`edge_runtime.links` can't be hidden by the same
misreading on this side. A test imports this module and `edge_runtime.hil.bench.scanner` and finds nothing of `edge_runtime.links`
behind them. Source: ``ismrmrd.h`` and ``doc/mrd_messages.md`` of the ISMRMRD project.

Every message is a little-endian ``u16`` id and a body:

==== =============== ====================================================================================
id   what            body
==== =============== ====================================================================================
1    configuration   char[1024], padded with NUL
2    configuration   u32 length, text
3    header          u32 length, XML
4    close           nothing
5    text            u32 length, text
1008 readout         340 bytes; f32 trajectory[samples][dimensions]; complex64 samples[coils][samples]
1022 image           198 bytes; u64 length of attributes; XML; pixels[channels][z][y][x]
1026 waveform        40 bytes; u32 samples[channels][samples]
==== =============== ====================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

CONFIG_FILE, CONFIG_TEXT, HEADER, CLOSE, TEXT, READOUT, IMAGE, WAVEFORM = 1, 2, 3, 4, 5, 1008, 1022, 1026

CONFIG_BYTES = 1024
READOUT_HEADER_BYTES, IMAGE_HEADER_BYTES, WAVEFORM_HEADER_BYTES = 340, 198, 40

MOST_TEXT_BYTES = 1 << 24
MOST_IMAGE_BYTES = 1 << 29
"""What a server may claim of one message; beyond, it does not speak MRD."""

MOST_RECORDING_BYTES = 1 << 33

NO_IMAGE_LINE = sum(1 << (flag - 1) for flag in (19, 20, 23, 24, 26, 27, 28, 29, 30, 31))
"""Flags of readouts that are no lines of an image: noise, separate calibration, navigators, phase correction, feedback, dummies,
surface coil correction, phase stabilisation."""

PIXEL_TYPES = {1: "<u2", 2: "<i2", 3: "<u4", 4: "<i4", 5: "<f4", 6: "<f8", 7: "<c8", 8: "<c16"}
"""By the image header's data_type: the pixels' type as numpy names it; its last digits are its bytes."""


class WireError(Exception):
    """Bytes that are no MRD: from a server, or in a recording. Says where and why."""


class Key(NamedTuple):
    """Which image a readout belongs to: counters of the readout's and of the image's header."""

    slice: int
    contrast: int
    phase: int
    repetition: int
    set: int

    def __str__(self) -> str:
        return " ".join(f"{name} {value}" for name, value in self._asdict().items() if value or name == "slice")


@dataclass(frozen=True, slots=True)
class Readout:
    """One acquisition as it stands on the wire.

    Attributes:
        message: all of its bytes, id included.
        key: None where it is no line of an image.
    """

    message: bytes
    key: Key | None


@dataclass(frozen=True, slots=True)
class Script:
    """What a scanner says in one scan.

    Attributes:
        header: the XML message, id included.
        readouts: in order.
    """

    header: bytes
    readouts: tuple[Readout, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        """Images that may be expected, in the order in which their last readouts come."""
        last = {one.key: number for number, one in enumerate(self.readouts) if one.key is not None}
        return tuple(sorted(last, key=last.__getitem__))

    @property
    def size_bytes(self) -> int:
        return len(self.header) + sum(len(one.message) for one in self.readouts)


@dataclass(frozen=True, slots=True)
class TextMessage:
    text: str


@dataclass(frozen=True, slots=True)
class CloseMessage:
    pass


@dataclass(frozen=True, slots=True)
class ImageMessage:
    """Attributes:
    shape: ``(channels, z, y, x)``.
    pixel_type: as numpy names it.
    """

    key: Key
    shape: tuple[int, int, int, int]
    pixel_type: str
    attributes: bytes
    pixels: bytes


Answer = TextMessage | CloseMessage | ImageMessage


def pack_config(name: str) -> bytes:
    """The message that asks for a configuration.

    Raises:
        WireError: longer than MRD has room for.
    """
    body = name.encode()
    if len(body) >= CONFIG_BYTES:
        raise WireError(f"a configuration's name of {len(body)} bytes: MRD has {CONFIG_BYTES - 1}")
    return struct.pack("<H1024s", CONFIG_FILE, body)


def pack_close() -> bytes:
    """The scanner's last message."""
    return struct.pack("<H", CLOSE)


def read_script(path: Path) -> Script:
    """A recorded MRD stream: configuration, header, readouts, CLOSE. Its configuration is left out, a scan asks for its own.

    Raises:
        WireError: no such file, or no complete stream.
    """
    try:
        size = path.stat().st_size
        if size > MOST_RECORDING_BYTES:
            raise WireError(f"{path}: {size} bytes, at most {MOST_RECORDING_BYTES} are read")
        data = path.read_bytes()
    except OSError as error:
        raise WireError(f"{path}: {error.strerror or error}") from None
    header, readouts, closed = b"", [], False
    try:
        for message_id, first, last in _spans(data):
            if closed:
                raise WireError(f"byte {first}: something follows CLOSE")
            if message_id == HEADER:
                if header:
                    raise WireError(f"byte {first}: a second header; one recording is one scan")
                header = data[first:last]
            elif message_id == READOUT:
                readouts.append(Readout(data[first:last], _key_of_readout(data, first + 2)))
            closed = message_id == CLOSE
    except WireError as error:
        raise WireError(f"{path}: no MRD stream: {error}") from None
    if not header or not readouts or not closed:
        missing = "header" if not header else "readouts" if not readouts else "CLOSE: it is truncated"
        raise WireError(f"{path}: an MRD stream without {missing}")
    return Script(header, tuple(readouts))


def _spans(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Id, first byte and byte after the last of every message of a scanner."""
    first = 0
    while first < len(data):
        message_id = _unpack("<H", data, first)[0]
        body = first + 2
        if message_id == CONFIG_FILE:
            last = body + CONFIG_BYTES
        elif message_id in (CONFIG_TEXT, HEADER, TEXT):
            last = body + 4 + _unpack("<I", data, body)[0]
        elif message_id == CLOSE:
            last = body
        elif message_id == READOUT:
            samples, _, coils = _unpack("<3H", data, body + 34)
            dimensions = _unpack("<H", data, body + 176)[0]
            if not samples or not coils or dimensions > 3:
                raise WireError(f"byte {first}: a readout of {samples} samples, {coils} coils, {dimensions} dimensions")
            last = body + READOUT_HEADER_BYTES + 4 * samples * dimensions + 8 * samples * coils
        elif message_id == WAVEFORM:
            samples, channels = _unpack("<2H", data, body + 28)
            last = body + WAVEFORM_HEADER_BYTES + 4 * samples * channels
        else:
            raise WireError(f"byte {first}: message {message_id} is none that a scanner sends")
        if last > len(data):
            raise WireError(f"byte {first}: message {message_id} ends at {last}, the file at {len(data)}")
        yield message_id, first, last
        first = last


def _unpack(layout: str, data: bytes, offset: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, data, offset)
    except struct.error:
        raise WireError(f"byte {offset}: it ends within a message") from None


def _key_of_readout(data: bytes, header: int) -> Key | None:
    (flags,) = struct.unpack_from("<Q", data, header + 2)
    if flags & NO_IMAGE_LINE:
        return None
    # idx: step 1, step 2, average, slice, contrast, phase, repetition, set, segment
    slice_, contrast, phase, repetition, set_ = struct.unpack_from("<5H", data, header + 242 + 6)
    return Key(slice_, contrast, phase, repetition, set_)


class AnswerReader:
    """Cuts what a server sends into messages, however it comes in pieces."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._closed = False

    @property
    def holds_more(self) -> bool:
        """Whether bytes of an unfinished message are held."""
        return bool(self._held)

    def feed(self, data: bytes) -> Iterator[Answer]:
        """Messages that are complete with these bytes.

        Raises:
            WireError: what came is no MRD.
        """
        self._held += data
        while self._held:
            if self._closed:
                raise WireError("bytes after the server's CLOSE")
            taken = self._first()
            if taken is None:
                return
            answer, size = taken
            del self._held[:size]
            self._closed = isinstance(answer, CloseMessage)
            yield answer

    def _first(self) -> tuple[Answer, int] | None:
        held = self._held
        if len(held) < 2:
            return None
        (message_id,) = struct.unpack_from("<H", held)
        if message_id == CLOSE:
            return CloseMessage(), 2
        if message_id == TEXT:
            return self._text()
        if message_id == IMAGE:
            return self._image()
        raise WireError(f"message {message_id} is none that a server sends")

    def _text(self) -> tuple[Answer, int] | None:
        if len(self._held) < 6:
            return None
        (length,) = struct.unpack_from("<I", self._held, 2)
        if length > MOST_TEXT_BYTES:
            raise WireError(f"a text of {length} bytes, at most {MOST_TEXT_BYTES} are taken")
        if len(self._held) < 6 + length:
            return None
        try:
            return TextMessage(bytes(self._held[6 : 6 + length]).rstrip(b"\0").decode()), 6 + length
        except UnicodeDecodeError as error:
            raise WireError(f"a text that is not UTF-8: {error}") from None

    def _image(self) -> tuple[Answer, int] | None:
        held, fixed = self._held, 2 + IMAGE_HEADER_BYTES + 8
        if len(held) < fixed:
            return None
        version, type_number = struct.unpack_from("<2H", held, 2)
        x, y, z = struct.unpack_from("<3H", held, 2 + 16)
        (channels,) = struct.unpack_from("<H", held, 2 + 34)
        _, slice_, contrast, phase, repetition, set_ = struct.unpack_from("<6H", held, 2 + 96)
        (attribute_bytes,) = struct.unpack_from("<Q", held, 2 + IMAGE_HEADER_BYTES)
        if version > 1 or type_number not in PIXEL_TYPES:
            raise WireError(f"an image of version {version} and data_type {type_number}")
        pixel_type = PIXEL_TYPES[type_number]
        pixel_bytes = channels * z * y * x * int(pixel_type[2:])
        if not pixel_bytes or pixel_bytes > MOST_IMAGE_BYTES or attribute_bytes > MOST_TEXT_BYTES:
            raise WireError(
                f"an image of {channels} x {z} x {y} x {x} pixels with {attribute_bytes} bytes of attributes"
            )
        size = fixed + attribute_bytes + pixel_bytes
        if len(held) < size:
            return None
        attributes, pixels = bytes(held[fixed : fixed + attribute_bytes]), bytes(held[fixed + attribute_bytes : size])
        key = Key(slice_, contrast, phase, repetition, set_)
        return ImageMessage(key, (channels, z, y, x), pixel_type, attributes.rstrip(b"\0"), pixels), size
