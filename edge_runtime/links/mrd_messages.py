"""ISMRMRD v1 socket messages: bytes to values and back.

Every message is a little-endian ``u16`` id and a body. Sources: ``ismrmrd.h``, ``waveform.h`` and ``doc/mrd_messages.md`` of
https://github.com/ismrmrd/ismrmrd. Everything that comes from the network is checked against `WireLimits` before memory is
allocated for it; what does not pass raises a subclass of `edge_runtime.errors.ScanRefused`.

Readouts are the hot path. `MessageReader` receives in large chunks, looks at a run of equally sized acquisition messages as one
strided structured array, checks the run at once and hands it on as one `edge_runtime.scan.ReadoutBatch`.
"""

from __future__ import annotations

import enum
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple, TypeAlias, cast
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import BudgetExceeded, ProtocolError, ReadoutError, ScanRefused
from edge_runtime.kernels import count_leading_finite
from edge_runtime.scan import COUNTERS, READOUT_DTYPE, Image, ReadoutBatch

Bools: TypeAlias = npt.NDArray[np.bool_]
Records: TypeAlias = npt.NDArray[np.void]
Samples: TypeAlias = npt.NDArray[np.complex64]


class MessageId(enum.IntEnum):
    """The id that every message begins with."""

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    ACQUISITION = 1008
    IMAGE = 1022
    WAVEFORM = 1026


ACQUISITION_HEADER = np.dtype(
    [
        ("version", "<u2"),  # @0
        ("flags", "<u8"),  # @2
        ("measurement_uid", "<u4"),  # @10
        ("scan_counter", "<u4"),  # @14
        ("time_stamp", "<u4"),  # @18
        ("physiology", "<u4", (3,)),  # @22
        ("samples", "<u2"),  # @34
        ("available_coils", "<u2"),  # @36
        ("active_coils", "<u2"),  # @38
        ("coil_mask", "<u8", (16,)),  # @40
        ("discard_pre", "<u2"),  # @168
        ("discard_post", "<u2"),  # @170
        ("centre_sample", "<u2"),  # @172
        ("encoding_space", "<u2"),  # @174
        ("trajectory_dimensions", "<u2"),  # @176
        ("sample_time_us", "<f4"),  # @178
        ("position", "<f4", (3,)),  # @182
        ("read_direction", "<f4", (3,)),  # @194
        ("phase_direction", "<f4", (3,)),  # @206
        ("slice_direction", "<f4", (3,)),  # @218
        ("table_position", "<f4", (3,)),  # @230
        *((name, "<u2") for name in COUNTERS),  # @242
        ("user_counters", "<u2", (8,)),  # @260
        ("user_int", "<i4", (8,)),  # @276
        ("user_float", "<f4", (8,)),  # @308
    ]
)
"""``ISMRMRD_AcquisitionHeader``, 340 bytes, packed to 2; a superset of `edge_runtime.scan.READOUT_DTYPE`."""

IMAGE_HEADER = np.dtype(
    [
        ("version", "<u2"),  # @0
        ("data_type", "<u2"),  # @2
        ("flags", "<u8"),  # @4
        ("measurement_uid", "<u4"),  # @12
        ("matrix", "<u2", (3,)),  # @16, x y z
        ("field_of_view_mm", "<f4", (3,)),  # @22, x y z
        ("channels", "<u2"),  # @34
        ("position", "<f4", (3,)),  # @36
        ("read_direction", "<f4", (3,)),  # @48
        ("phase_direction", "<f4", (3,)),  # @60
        ("slice_direction", "<f4", (3,)),  # @72
        ("table_position", "<f4", (3,)),  # @84
        ("average", "<u2"),  # @96
        ("slice", "<u2"),  # @98
        ("contrast", "<u2"),  # @100
        ("phase", "<u2"),  # @102
        ("repetition", "<u2"),  # @104
        ("set", "<u2"),  # @106
        ("time_stamp", "<u4"),  # @108
        ("physiology", "<u4", (3,)),  # @112
        ("image_type", "<u2"),  # @124
        ("image_index", "<u2"),  # @126
        ("image_series", "<u2"),  # @128
        ("user_int", "<i4", (8,)),  # @130
        ("user_float", "<f4", (8,)),  # @162
        ("attribute_length", "<u4"),  # @194
    ]
)
"""``ISMRMRD_ImageHeader``, 198 bytes, packed to 2."""

WAVEFORM_HEADER = np.dtype(
    {
        "names": [
            "version",
            "flags",
            "measurement_uid",
            "scan_counter",
            "time_stamp",
            "samples",
            "channels",
            "sample_time_us",
            "waveform_id",
        ],
        "formats": ["<u2", "<u8", "<u4", "<u4", "<u4", "<u2", "<u2", "<f4", "<u2"],
        "offsets": [0, 8, 16, 20, 24, 28, 30, 32, 36],
        "itemsize": 40,
    }
)
"""``ISMRMRD_WaveformHeader``, 40 bytes, naturally aligned: 6 bytes of padding after the version, 2 at the end."""

PIXEL_TYPES: Mapping[int, np.dtype[Any]] = {
    1: np.dtype("<u2"),
    2: np.dtype("<i2"),
    3: np.dtype("<u4"),
    4: np.dtype("<i4"),
    5: np.dtype("<f4"),
    6: np.dtype("<f8"),
    7: np.dtype("<c8"),
    8: np.dtype("<c16"),
}
"""``ISMRMRD_DataTypes``: the image header's ``data_type``."""

CONFIG_FILE_BYTES = 1024
"""The body of a config file message is a ``char[1024]``, NUL padded."""

NEWEST_VERSION = 1
"""``ISMRMRD_VERSION_MAJOR`` of the layouts above. Real files say 0 or 1, with the same layout."""

MAX_TRAJECTORY_DIMENSIONS = 3
"""kx, ky, kz; no sequence has more."""

MAX_COILS = 1024
"""The bits of a channel mask."""

MAX_SAMPLES = 65535
"""What the u16 ``number_of_samples`` can say."""

IMAGE_TYPE_MAGNITUDE = 1

_ID_BYTES = 2
_FRAME_BYTES = _ID_BYTES + ACQUISITION_HEADER.itemsize
_SAMPLE_BYTES = 8  # complex64
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

_BATCH_READOUTS = 1024
"""Bounds a batch of tiny readouts, so that the work on one batch stays short."""

_BATCH_BYTES = 2 << 20
"""Bounds a batch of ordinary readouts: small enough to be still in cache when its consumer reads it."""

# ----------------------------------------------------------------------------------------------------------- limits


@dataclass(frozen=True, slots=True)
class WireLimits:
    """What is accepted from a peer that has proved nothing yet.

    Attributes:
        max_text_bytes: of one text, XML header, configuration or image attribute string.
        max_coils: of one readout.
        max_samples: of one readout.
        max_message_bytes: of one message as a whole; no buffer grows beyond it.
        buffer_bytes: of the receive buffer at first.
    """

    max_text_bytes: int = 4 << 20  # headers of converted vendor data reach some 100 kB
    max_coils: int = MAX_COILS
    max_samples: int = MAX_SAMPLES
    max_message_bytes: int = 64 << 20  # 128 coils of 65535 samples, or a float32 volume of 256 x 256 x 255
    buffer_bytes: int = 4 << 20  # 250 readouts of 8 coils x 256 samples; larger ones fall out of the cache


# --------------------------------------------------------------------------------------------------------- messages


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The name of a reconstruction that the scanner asks for."""

    name: str


@dataclass(frozen=True, slots=True)
class ConfigText:
    """A configuration sent in full."""

    text: str


@dataclass(frozen=True, slots=True)
class HeaderText:
    """The XML header, as bytes because it declares its own encoding; not parsed, not trusted."""

    xml: bytes


@dataclass(frozen=True, slots=True)
class Text:
    """Free text."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Waveform:
    """Physiological or other signals beside the readouts.

    Attributes:
        header: one record of `WAVEFORM_HEADER`.
        samples: uint32 ``(channels, samples)``.
    """

    header: np.void
    samples: npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class ImageMessage:
    """An image on the wire.

    Attributes:
        header: one record of `IMAGE_HEADER`.
        attributes: XML of the meta attributes, see `parse_meta_attributes`; not parsed, may be empty.
        pixels: ``(channels, z, y, x)`` of a type in `PIXEL_TYPES`.
    """

    header: np.void
    attributes: str
    pixels: npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Close:
    """The peer will send nothing more."""


Message: TypeAlias = ConfigFile | ConfigText | HeaderText | Text | Waveform | ImageMessage | Close | ReadoutBatch

# ----------------------------------------------------------------------------------------------------- what is sound

_FRAME = np.dtype(
    {
        "names": ["id", "version", "samples", "available", "coils", "discard", "dimensions", "geometry"],
        "formats": ["<u2", "<u2", "<u2", "<u2", "<u2", ("<u2", (2,)), "<u2", ("<f4", (13,))],
        "offsets": [0, 2, 36, 38, 40, 170, 178, 180],
        "itemsize": _FRAME_BYTES,
    }
)
"""An acquisition message up to its trajectory, seen through the fields that are checked. ``geometry`` is the sample time, the
position and the three directions, which lie side by side."""


class _Check(NamedTuple):
    """A condition on readouts: what holds for ``(frames, limits)``, and what to say of the first that does not."""

    field: str
    holds: Callable[[Records, WireLimits], Bools]
    value: Callable[[np.void], object]
    expected: str
    error: type[ScanRefused] = ReadoutError


_GEOMETRY_FIELDS = "sample_time_us, position, read_dir, phase_dir, slice_dir"

_READOUT_CHECKS = (
    _Check(
        "version",
        lambda frames, limits: frames["version"] <= NEWEST_VERSION,
        lambda frame: frame["version"],
        f"an acquisition header of ISMRMRD version 0 to {NEWEST_VERSION}; this one has an unknown layout",
        ProtocolError,
    ),
    _Check(
        "trajectory_dimensions",
        lambda frames, limits: frames["dimensions"] <= MAX_TRAJECTORY_DIMENSIONS,
        lambda frame: frame["dimensions"],
        f"0 to {MAX_TRAJECTORY_DIMENSIONS}",
        ProtocolError,
    ),
    _Check(
        "number_of_samples",
        lambda frames, limits: (frames["samples"] >= 1) & (frames["samples"] <= limits.max_samples),
        lambda frame: frame["samples"],
        "1 to {max_samples} samples a readout",
    ),
    _Check(
        "active_channels",
        lambda frames, limits: (frames["coils"] >= 1) & (frames["coils"] <= limits.max_coils),
        lambda frame: frame["coils"],
        "1 to {max_coils} coils",
    ),
    _Check(
        "active_channels",
        lambda frames, limits: (frames["available"] == 0) | (frames["coils"] <= frames["available"]),
        lambda frame: f"{frame['coils']} of {frame['available']}",
        "no more than available_channels (or available_channels 0 where the scanner does not say)",
    ),
    _Check(
        "discard_pre + discard_post",
        lambda frames, limits: frames["discard"].sum(axis=1, dtype=np.uint32) < frames["samples"],
        lambda frame: f"{frame['discard'][0]} + {frame['discard'][1]}",
        "fewer samples discarded than number_of_samples",
    ),
    _Check(
        _GEOMETRY_FIELDS,
        lambda frames, limits: np.isfinite(frames["geometry"]).all(axis=1),
        lambda frame: frame["geometry"].tolist(),
        "finite numbers",
    ),
)
"""In the order in which they are reported. They say nothing of the samples, which may not have arrived yet."""


def _sound_headers(frames: Records, limits: WireLimits) -> Bools:
    """Which of ``frames`` (of `_FRAME`) pass every check on headers."""
    sound = _READOUT_CHECKS[0].holds(frames, limits)
    for check in _READOUT_CHECKS[1:]:
        sound &= check.holds(frames, limits)
    return sound


def _refuse_header(frame: Records, limits: WireLimits) -> None:
    """Raise for the first check that the single record in ``frame`` does not pass."""
    for check in _READOUT_CHECKS:
        if not check.holds(frame, limits)[0]:
            expected = check.expected.format(max_samples=limits.max_samples, max_coils=limits.max_coils)
            raise check.error(check.field, check.value(frame[0]), expected)


def _refuse_version(version: int) -> None:
    if version > NEWEST_VERSION:
        raise ProtocolError("version", version, f"a header of ISMRMRD version 0 to {NEWEST_VERSION}")


def _refuse_size(field: str, value: str, size: int, limits: WireLimits) -> None:
    if size > limits.max_message_bytes:
        raise BudgetExceeded(
            field, value, f"a message of {size} bytes; at most {limits.max_message_bytes} are accepted"
        )


# ---------------------------------------------------------------------------------------------------------- reading


class MessageReader:
    """Messages from a byte stream, in the order they were sent.

    Iterating yields a `Message` as soon as it is complete; a batch never waits for more readouts than have arrived. Bytes are
    read into one buffer that is used again and again: **a yielded ReadoutBatch is valid only until the next message is asked
    for** (copy what must live longer). Its header and its samples are views of the buffer, the header with the fields of
    `ACQUISITION_HEADER`, the samples at whatever address the wire brought them to. Trajectories are skipped. All other messages own
    their data.

    A timeout or another `OSError` of ``receive_into`` passes through and loses nothing: a new iteration goes on where it was.

    Args:
        receive_into: fills the start of a buffer and returns how many bytes it wrote, 0 at the end of the stream, as
            `socket.socket.recv_into` does.
        limits: what is accepted from the peer.

    Attributes:
        closed_cleanly: a CLOSE was received. False at the end of iteration: the stream ended between two messages.

    Raises:
        ProtocolError: (while iterating) bytes that are no message, or the stream ended within one.
        ReadoutError: a readout that contradicts itself or the limits, or holds samples that are not finite. The sound readouts
            before it have been yielded.
        BudgetExceeded: a message larger than the limits.
    """

    def __init__(self, receive_into: Callable[[memoryview], int], limits: WireLimits = WireLimits()) -> None:
        self.closed_cleanly = False
        self._receive_into = receive_into
        self._limits = limits
        self._buffer = _memory(limits.buffer_bytes)
        self._start = 0  # of the first message not yet yielded
        self._end = 0  # of what was received

    def accept(self, limits: WireLimits) -> None:
        """From here on, other limits hold: a peer may send more once its header has been taken."""
        self._limits = limits

    @property
    def holds_more(self) -> bool:
        """Whether bytes have been received that belong to no message yielded so far."""
        return self._end > self._start

    def __iter__(self) -> Iterator[Message]:
        while not self.closed_cleanly:
            needed = self._needed()
            if needed <= self._end - self._start:
                yield self._take(needed)
            elif not self._receive(needed):
                return

    def _receive(self, needed: int) -> bool:
        """Receive once, with room for a message of ``needed`` bytes; False at the end of the stream."""
        held = self._end - self._start
        if self._start:
            # Less than one message, so little is moved; and the next receive falls on memory that is still in cache.
            self._buffer[:held] = self._buffer[self._start : self._end]
            self._start, self._end = 0, held
        if needed > len(self._buffer):
            grown = _memory(needed)
            grown[:held] = self._buffer[:held]
            self._buffer = grown
        count = self._receive_into(self._buffer[held:])
        if count == 0 and held:
            name = self._message_id().name if held >= _ID_BYTES else "?"
            text = f"the stream ended after {held} bytes"
            raise ProtocolError(f"message {name}", text, f"at least {needed} bytes; send it again from its start")
        self._end += count
        return count > 0

    def _message_id(self) -> MessageId:
        number = int.from_bytes(self._buffer[self._start : self._start + _ID_BYTES], "little")
        try:
            return MessageId(number)
        except ValueError:
            known = ", ".join(str(known.value) for known in MessageId)
            raise ProtocolError("message id", number, f"one of {known}") from None

    def _record(self, dtype: np.dtype[np.void]) -> np.void:
        """The header right after the id of the first message, seen in the buffer."""
        return cast(np.void, np.ndarray((), dtype, self._buffer, self._start + _ID_BYTES)[()])

    def _needed(self) -> int:
        """Bytes that the first message needs, as far as what has arrived of it can tell; checked against the limits."""
        available = self._end - self._start
        if available < _ID_BYTES:
            return _ID_BYTES
        message_id = self._message_id()
        if message_id is MessageId.CLOSE:
            return _ID_BYTES
        if message_id is MessageId.CONFIG_FILE:
            return _ID_BYTES + CONFIG_FILE_BYTES
        if message_id is MessageId.ACQUISITION:
            return self._needed_by_readout() if available >= _FRAME_BYTES else _FRAME_BYTES
        if message_id is MessageId.IMAGE:
            fixed = _ID_BYTES + IMAGE_HEADER.itemsize + _U64.size
            return self._needed_by_image(fixed) if available >= fixed else fixed
        if message_id is MessageId.WAVEFORM:
            fixed = _ID_BYTES + WAVEFORM_HEADER.itemsize
            return self._needed_by_waveform(fixed) if available >= fixed else fixed
        if available < _ID_BYTES + _U32.size:
            return _ID_BYTES + _U32.size
        (length,) = _U32.unpack_from(self._buffer, self._start + _ID_BYTES)
        self._refuse_text(f"length of message {message_id.name}", length)
        return _ID_BYTES + _U32.size + int(length)

    def _refuse_text(self, field: str, length: int) -> None:
        if length > self._limits.max_text_bytes:
            raise ProtocolError(field, length, f"at most {self._limits.max_text_bytes} bytes of text")

    def _needed_by_readout(self) -> int:
        frame: Records = np.ndarray((1,), _FRAME, self._buffer, self._start)
        _refuse_header(frame, self._limits)
        samples, coils = int(frame["samples"][0]), int(frame["coils"][0])
        size = _FRAME_BYTES + 4 * samples * int(frame["dimensions"][0]) + _SAMPLE_BYTES * samples * coils
        _refuse_size("active_channels x number_of_samples", f"{coils} x {samples}", size, self._limits)
        return size

    def _needed_by_image(self, fixed: int) -> int:
        header = self._record(IMAGE_HEADER)
        _refuse_version(int(header["version"]))
        pixel_type = PIXEL_TYPES.get(int(header["data_type"]))
        if pixel_type is None:
            raise ProtocolError("data_type", int(header["data_type"]), "an image of type 1 to 8")
        # The length stands twice; readers of the reference implementation obey the second, so writers get that one right.
        (attribute_length,) = _U64.unpack_from(self._buffer, self._start + fixed - _U64.size)
        self._refuse_text("attribute length of message IMAGE", attribute_length)
        shape = (int(header["channels"]), *(int(count) for count in header["matrix"]))
        text = " x ".join(map(str, shape))
        if 0 in shape:
            raise ProtocolError("channels x matrix_size", text, "at least one pixel")
        size = fixed + int(attribute_length) + math.prod(shape) * pixel_type.itemsize
        _refuse_size("channels x matrix_size", text, size, self._limits)
        return size

    def _needed_by_waveform(self, fixed: int) -> int:
        header = self._record(WAVEFORM_HEADER)
        _refuse_version(int(header["version"]))
        channels, samples = int(header["channels"]), int(header["samples"])
        size = fixed + 4 * channels * samples
        _refuse_size("waveform channels x number_of_samples", f"{channels} x {samples}", size, self._limits)
        return size

    def _take(self, size: int) -> Message:
        """The first message, which is complete and has ``size`` bytes (a run of them for readouts)."""
        message_id = self._message_id()
        if message_id is MessageId.ACQUISITION:
            return self._take_readouts(size)
        begin, self._start = self._start, self._start + size
        body = bytes(self._buffer[begin + _ID_BYTES : begin + size])
        if message_id is MessageId.CLOSE:
            self.closed_cleanly = True
            return Close()
        if message_id is MessageId.CONFIG_FILE:
            return ConfigFile(_decode(body.split(b"\0", 1)[0], "name of message CONFIG_FILE"))
        if message_id is MessageId.IMAGE:
            return _image_message(body)
        if message_id is MessageId.WAVEFORM:
            return _waveform(body)
        text = body[_U32.size :].rstrip(b"\0")  # clients written in C count the terminator
        if message_id is MessageId.HEADER:
            return HeaderText(text)
        if message_id is MessageId.CONFIG_TEXT:
            return ConfigText(_decode(text, "body of message CONFIG_TEXT"))
        return Text(_decode(text, "body of message TEXT"))

    def _take_readouts(self, size: int) -> ReadoutBatch:
        """The run of sound readouts that begins with the first message, whose header has passed."""
        first: Records = np.ndarray((1,), _FRAME, self._buffer, self._start)
        samples, coils = int(first["samples"][0]), int(first["coils"][0])
        payload = _SAMPLE_BYTES * samples * coils
        complete = (self._end - self._start) // size
        count = min(complete, _BATCH_READOUTS, max(1, _BATCH_BYTES // payload))

        frames: Records = np.ndarray((count,), _FRAME, self._buffer, self._start, (size,))
        sound = frames["id"] == MessageId.ACQUISITION
        for name in ("samples", "coils", "dimensions"):
            sound &= frames[name] == first[name]
        sound &= _sound_headers(frames, self._limits)
        count = _leading(sound)

        begin = self._start + size - payload
        strides = (size, _SAMPLE_BYTES * samples, _SAMPLE_BYTES)
        data: Samples = np.ndarray((count, coils, samples), np.complex64, self._buffer, begin, strides)
        count = count_leading_finite(data)
        if count == 0:
            raise _not_finite(self._record(ACQUISITION_HEADER), data[0])

        header: Records = np.ndarray((count,), ACQUISITION_HEADER, self._buffer, self._start + _ID_BYTES, (size,))
        header.flags.writeable = data.flags.writeable = False
        self._start += count * size
        return ReadoutBatch(header, data[:count])


def _memory(count: int) -> memoryview:
    """``count`` bytes that cost nothing until they are written."""
    return np.empty(count, np.uint8).data


def _leading(flags: Bools) -> int:
    """How many elements come before the first False."""
    return len(flags) if flags.all() else int(flags.argmin())


def _not_finite(header: np.void, data: Samples) -> ReadoutError:
    coil, sample = np.argwhere(~np.isfinite(data))[0].tolist()
    where = f"coil {coil}, sample {sample} of the readout with scan_counter {header['scan_counter']}"
    return ReadoutError("data", data[coil, sample], f"finite samples, but not at {where}")


def _decode(text: bytes, field: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(field, text[:40], f"UTF-8; byte {error.start} is not") from None


def _image_message(body: bytes) -> ImageMessage:
    header: np.void = np.frombuffer(body, IMAGE_HEADER, 1)[0]
    (attribute_length,) = _U64.unpack_from(body, IMAGE_HEADER.itemsize)
    text_start = IMAGE_HEADER.itemsize + _U64.size
    text_end = text_start + attribute_length
    attributes = _decode(body[text_start:text_end].rstrip(b"\0"), "attributes of message IMAGE")
    x, y, z = header["matrix"].tolist()
    pixels = np.frombuffer(body, PIXEL_TYPES[int(header["data_type"])], offset=text_end)
    return ImageMessage(header, attributes, pixels.reshape(int(header["channels"]), z, y, x))


def _waveform(body: bytes) -> Waveform:
    header: np.void = np.frombuffer(body, WAVEFORM_HEADER, 1)[0]
    samples: npt.NDArray[np.uint32] = np.frombuffer(body, "<u4", offset=WAVEFORM_HEADER.itemsize)
    return Waveform(header, samples.reshape(int(header["channels"]), int(header["samples"])))


# ---------------------------------------------------------------------------------------------------------- writing


def _encode_id(message_id: MessageId) -> bytes:
    return int(message_id).to_bytes(_ID_BYTES, "little")


def _pack_text(message_id: MessageId, text: bytes) -> bytes:
    return _encode_id(message_id) + _U32.pack(len(text)) + text


def pack_config_file(name: str) -> bytes:
    """A config file message.

    Raises:
        ValueError: the name does not leave room for a NUL in 1024 bytes.
    """
    encoded = name.encode()
    if len(encoded) >= CONFIG_FILE_BYTES:
        raise ValueError(f"config file name has {len(encoded)} bytes; at most {CONFIG_FILE_BYTES - 1} fit")
    return _encode_id(MessageId.CONFIG_FILE) + encoded.ljust(CONFIG_FILE_BYTES, b"\0")


def pack_config_text(text: str) -> bytes:
    """A config text message."""
    return _pack_text(MessageId.CONFIG_TEXT, text.encode())


def pack_header(xml: str | bytes) -> bytes:
    """An XML header message."""
    return _pack_text(MessageId.HEADER, xml.encode() if isinstance(xml, str) else xml)


def pack_text(text: str) -> bytes:
    """A text message. What UTF-8 cannot say becomes ``?``: reports of errors must not fail themselves."""
    return _pack_text(MessageId.TEXT, text.encode("utf-8", "replace"))


def pack_close() -> bytes:
    """A close message."""
    return _encode_id(MessageId.CLOSE)


def pack_readouts(batch: ReadoutBatch) -> bytes:
    """One acquisition message a readout, without trajectories.

    Fields of `ACQUISITION_HEADER` that the batch's header has are kept; the rest is zero, but for what follows from the shape
    of the samples: sizes, coils and (unless given) version 1 and a mask of the first coils.

    Raises:
        ValueError: sizes that the format can't hold.
    """
    readouts, coils, samples = batch.samples.shape
    if not (1 <= coils <= MAX_COILS and 1 <= samples <= MAX_SAMPLES):
        raise ValueError(f"{coils} coils x {samples} samples do not fit an acquisition header")
    dtype = np.dtype([("id", "<u2"), ("header", ACQUISITION_HEADER), ("data", "<c8", (coils, samples))])
    messages = np.zeros(readouts, dtype)
    messages["id"] = MessageId.ACQUISITION
    header = messages["header"]
    header["version"] = NEWEST_VERSION
    header["available_coils"] = coils
    header["coil_mask"] = _first_coils(coils)
    given = set(batch.header.dtype.names or ())
    for name in READOUT_DTYPE.names or ():
        header[name] = batch.header[name]
    for name in given.intersection(ACQUISITION_HEADER.names or ()).difference(READOUT_DTYPE.names or ()):
        header[name] = batch.header[name]
    header["samples"] = samples
    header["active_coils"] = coils
    header["trajectory_dimensions"] = 0
    messages["data"] = batch.samples
    return messages.tobytes()


def _first_coils(coils: int) -> npt.NDArray[np.uint64]:
    """A channel mask ``(16,)`` with the bits of the first ``coils`` set."""
    return np.frombuffer(((1 << coils) - 1).to_bytes(128, "little"), "<u8")


def pack_image(pixels: npt.NDArray[Any], fields: Mapping[str, object], attributes: str = "") -> bytes:
    """An image message.

    Args:
        pixels: ``(channels, z, y, x)`` of a type in `PIXEL_TYPES`.
        fields: values of `IMAGE_HEADER` by name. Those that follow from the pixels and attributes are set here.
        attributes: XML, see `format_meta_attributes`.

    Raises:
        ValueError: pixels or fields that the format can't hold.
    """
    little_endian = pixels.dtype.newbyteorder("<")
    data_type = next((number for number, dtype in PIXEL_TYPES.items() if dtype == little_endian), None)
    if data_type is None:
        raise ValueError(f"pixels of {pixels.dtype}; an image message holds {[str(t) for t in PIXEL_TYPES.values()]}")
    if pixels.ndim != 4 or not all(1 <= count <= 0xFFFF for count in pixels.shape):
        raise ValueError(f"pixels of shape {pixels.shape}; an image message holds (channels, z, y, x), each 1 to 65535")
    channels, z, y, x = pixels.shape
    text = attributes.encode()
    header = np.zeros((), IMAGE_HEADER)
    header["version"] = NEWEST_VERSION
    for name, value in fields.items():
        header[name] = value
    header["data_type"] = data_type
    header["matrix"] = (x, y, z)
    header["channels"] = channels
    header["attribute_length"] = len(text)
    body = header.tobytes() + _U64.pack(len(text)) + text + pixels.astype(little_endian, copy=False).tobytes()
    return _encode_id(MessageId.IMAGE) + body


def pack_magnitude_image(image: Image, series: int, index: int, attributes: Mapping[str, str | list[str]]) -> bytes:
    """An image for the scanner: float32 magnitude, x along columns and y along rows.

    Directions that are unknown are written as zeros, which is how the format says so. Time stamps stay zero: they count ticks
    of the scanner's own clock.

    Args:
        series: number of the series, 0 to 65535.
        index: number of the image in its series, 0 to 65535.
        attributes: meta attributes by name, with one or several values.
    """
    geometry, key = image.geometry, image.key
    unknown = (0.0, 0.0, 0.0)
    fields = {
        "image_type": IMAGE_TYPE_MAGNITUDE,
        "image_series": series,
        "image_index": index,
        "field_of_view_mm": geometry.field_of_view_mm,
        "position": geometry.centre_mm,
        "read_direction": geometry.read_direction or unknown,
        "phase_direction": geometry.phase_direction or unknown,
        "slice_direction": geometry.slice_direction or unknown,
        "slice": key.slice,
        "contrast": key.contrast,
        "phase": key.phase,
        "repetition": key.repetition,
        "set": key.set,
    }
    pixels = np.asarray(image.pixels, np.float32)[np.newaxis, np.newaxis]
    return pack_image(pixels, fields, format_meta_attributes(attributes))


# -------------------------------------------------------------------------------------------------- meta attributes

_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold even as a character reference (https://www.w3.org/TR/xml/#charsets)."""


def format_meta_attributes(attributes: Mapping[str, str | list[str]]) -> str:
    """The XML of ISMRMRD meta attributes, names in the order given; characters that XML can't hold become U+FFFD."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<ismrmrdMeta>"]
    for name, given in attributes.items():
        values = [given] if isinstance(given, str) else given
        elements = "".join(f"<value>{_escape(value)}</value>" for value in values)
        lines.append(f"<meta><name>{_escape(name)}</name>{elements}</meta>")
    return "\n".join([*lines, "</ismrmrdMeta>"])


def legal_in_xml(text: str) -> str:
    """The text with U+FFFD in place of every character that no XML document can hold."""
    return _NOT_IN_XML.sub("\ufffd", text)


def _escape(text: str) -> str:
    # A parser reads a bare carriage return as a line feed.
    return escape(legal_in_xml(text), quote=False).replace("\r", "&#13;")


def parse_meta_attributes(xml: str) -> dict[str, list[str]]:
    """The values of each name in ISMRMRD meta attributes; a name that comes twice collects the values of both.

    Raises:
        ProtocolError: not the XML of meta attributes, or one that declares a document type.
    """
    if not xml.strip():
        return {}
    # Entities, the means of every attack on XML parsers, can only be declared in a document type.
    if "<!DOCTYPE" in xml:
        raise ProtocolError("attributes", "<!DOCTYPE …", "XML without a document type")
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError) as error:
        raise ProtocolError("attributes", xml[:40], f"well-formed XML; {error}") from None
    if root.tag != "ismrmrdMeta":
        raise ProtocolError("attributes", root.tag, "an element ismrmrdMeta")
    attributes: dict[str, list[str]] = {}
    for meta in root.iter("meta"):
        name = meta.findtext("name")
        if not name:
            raise ProtocolError("attributes", "meta", "a name in every element meta")
        attributes.setdefault(name, []).extend(value.text or "" for value in meta.findall("value"))
    return attributes
