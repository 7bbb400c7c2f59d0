"""ISMRMRD v1 socket messages: bytes to values. `edge_runtime.links.mrd_pack` has the way back.

Every message is a little-endian ``u16`` id and a body. Sources: ``ismrmrd.h``, ``waveform.h`` and ``doc/mrd_messages.md`` of
https://github.com/ismrmrd/ismrmrd. Everything that comes from the network is checked against `WireLimits` before memory is
allocated for it; what does not pass raises a subclass of `edge_runtime.errors.ScanRefused`.

The bytes are taken apart and checked by a native parser (``kernels/cpu/mrd_stream.hpp``), which hands on runs of equally sized
readouts where they lie in its receive buffer. Here those become `edge_runtime.scan.ReadoutBatch`, rare messages become values of
their own, and a check that failed becomes a text.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime._kernels import Body, Check, Fault, MrdStream, NeedMore, Readouts
from edge_runtime.errors import BudgetExceeded, ProtocolError, ReadoutError, ScanRefused, Truncated
from edge_runtime.scan import COUNTERS, NOT_AN_IMAGE_LINE, ReadoutBatch

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

MAX_COILS = 1024
"""The bits of a channel mask."""

MAX_SAMPLES = 65535
"""What the u16 ``number_of_samples`` can say."""

_ID_BYTES = 2
_TEXT_LENGTH_BYTES = 4
_ATTRIBUTE_LENGTH_BYTES = 8
SAMPLE_BYTES = 8  # complex64

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

# ----------------------------------------------------------------------------------------------------- what is refused


class _Refusal(NamedTuple):
    """What is said where a check fails; the texts are formats for what `_refused` puts in."""

    error: type[ScanRefused]
    field: str
    value: str
    expected: str


_GEOMETRY_FIELDS = "sample_time_us, position, read_dir, phase_dir, slice_dir"
_KNOWN_IDS = ", ".join(str(known.value) for known in MessageId)

_REFUSALS: Mapping[Check, _Refusal] = {
    Check.MESSAGE_ID: _Refusal(ProtocolError, "message id", "{0}", f"one of {_KNOWN_IDS}"),
    Check.END: _Refusal(
        Truncated,
        "message {name}",
        "the stream ended after {0} bytes",
        "at least {1} bytes; send it again from its start",
    ),
    Check.TEXT_LENGTH: _Refusal(ProtocolError, "length of message {name}", "{0}", "at most {1} bytes of text"),
    Check.TEXT_SIZE: _Refusal(
        BudgetExceeded, "length of message {name}", "{0}", "a message of {1} bytes; at most {2} are accepted"
    ),
    Check.READOUT_VERSION: _Refusal(
        ProtocolError,
        "version",
        "{0}",
        f"an acquisition header of ISMRMRD version 0 to {NEWEST_VERSION}; this one has an unknown layout",
    ),
    Check.TRAJECTORY_DIMENSIONS: _Refusal(ProtocolError, "trajectory_dimensions", "{0}", "0 to 3"),
    Check.SAMPLES: _Refusal(ReadoutError, "number_of_samples", "{0}", "1 to {1} samples a readout"),
    Check.COILS: _Refusal(ReadoutError, "active_channels", "{0}", "1 to {1} coils"),
    Check.AVAILABLE_COILS: _Refusal(
        ReadoutError,
        "active_channels",
        "{0} of {1}",
        "no more than available_channels (or available_channels 0 where the scanner does not say)",
    ),
    Check.DISCARD: _Refusal(
        ReadoutError, "discard_pre + discard_post", "{0} + {1}", "fewer samples discarded than number_of_samples"
    ),
    Check.GEOMETRY: _Refusal(ReadoutError, _GEOMETRY_FIELDS, "{floats}", "finite numbers"),
    Check.READOUT_SIZE: _Refusal(
        BudgetExceeded,
        "active_channels x number_of_samples",
        "{0} x {1}",
        "a message of {2} bytes; at most {3} are accepted",
    ),
    Check.HEADER_VERSION: _Refusal(
        ProtocolError, "version", "{0}", f"a header of ISMRMRD version 0 to {NEWEST_VERSION}"
    ),
    Check.PIXEL_TYPE: _Refusal(ProtocolError, "data_type", "{0}", "an image of type 1 to 8"),
    Check.ATTRIBUTE_LENGTH: _Refusal(
        ProtocolError, "attribute length of message {name}", "{0}", "at most {1} bytes of text"
    ),
    Check.NO_PIXELS: _Refusal(ProtocolError, "channels x matrix_size", "{0} x {1} x {2} x {3}", "at least one pixel"),
    Check.IMAGE_SIZE: _Refusal(
        BudgetExceeded,
        "channels x matrix_size",
        "{0} x {1} x {2} x {3}",
        "a message of {image_bytes} bytes; at most {6} are accepted",
    ),
    Check.WAVEFORM_SIZE: _Refusal(
        BudgetExceeded,
        "waveform channels x number_of_samples",
        "{0} x {1}",
        "a message of {2} bytes; at most {3} are accepted",
    ),
}
"""What each number is, ``kernels/cpu/mrd_stream.hpp`` says. `Check.FINITE` is told by `ReadoutError.not_finite`."""


def _refused(fault: Fault) -> ScanRefused:
    if fault.check is Check.FINITE:
        coil, sample, scan_counter = fault.numbers[:3]
        value = np.complex64(complex(*fault.floats[:2]))
        return ReadoutError.not_finite(value, coil=coil, sample=sample, scan_counter=scan_counter)
    error, *texts = _REFUSALS[fault.check]
    words = {
        "name": next((known.name for known in MessageId if known == fault.message_id), "?"),
        "floats": list(fault.floats),
        "image_bytes": fault.numbers[5] + math.prod(fault.numbers[:5]),  # may be more than 64 bits hold
    }
    return error(*(text.format(*fault.numbers, **words) for text in texts))


# ---------------------------------------------------------------------------------------------------------- reading


class MessageReader:
    """Messages from a byte stream, in the order they were sent.

    Iterating yields a `Message` as soon as it is complete; a batch never waits for more readouts than have arrived. Bytes are
    read into one buffer that is used again and again: **a yielded ReadoutBatch is valid only until the next message is asked
    for** (copy what must live longer). Its header and its samples are read-only views of the buffer, the header with the fields
    of `ACQUISITION_HEADER`, the samples at whatever address the wire brought them to. Trajectories are skipped. All other
    messages own their data. While bytes are parsed the GIL is released.

    A timeout or another `OSError` of ``receive_into`` passes through and loses nothing: a new iteration goes on where it was.

    Args:
        receive_into: fills the start of a buffer and returns how many bytes it wrote, 0 at the end of the stream, as
            `socket.socket.recv_into` does.
        limits: what is accepted from the peer.
        check_image_lines: whether the samples of image lines are looked at too; `IngestPlan.place` does that in passing.

    Attributes:
        closed_cleanly: a CLOSE was received. False at the end of iteration: the stream ended between two messages.
        wire: the bytes of what was yielded last, in pieces, as they came; valid as long as a batch is.

    Raises:
        ProtocolError: (while iterating) bytes that are no message, or the stream ended within one.
        ReadoutError: a readout that contradicts itself or the limits, or holds samples that are not finite. The sound readouts
            before it have been yielded.
        BudgetExceeded: a message larger than the limits.
    """

    def __init__(
        self,
        receive_into: Callable[[memoryview], int],
        limits: WireLimits = WireLimits(),
        *,
        check_image_lines: bool = True,
    ) -> None:
        self.closed_cleanly = False
        self.wire: tuple[bytes | memoryview, ...] = ()
        self._receive_into = receive_into
        self._stream = MrdStream(limits.buffer_bytes, None if check_image_lines else int(NOT_AN_IMAGE_LINE))
        self.accept(limits)

    def accept(self, limits: WireLimits) -> None:
        """From here on, other limits hold: a peer may send more once its header has been taken. The buffer is the one there is."""
        self._stream.accept(
            text_bytes=limits.max_text_bytes,
            coils=limits.max_coils,
            samples=limits.max_samples,
            message_bytes=limits.max_message_bytes,
        )

    @property
    def holds_more(self) -> bool:
        """Whether bytes have been received that belong to no message yielded so far."""
        return self._stream.held > 0

    def __iter__(self) -> Iterator[Message]:
        while True:
            item = self._stream.next()
            if isinstance(item, Readouts):
                self.wire = (item.data.data,)
                yield _batch(item)
            elif isinstance(item, NeedMore):
                self._stream.received(self._receive_into(self._stream.room().data))
            elif isinstance(item, Body):
                self.closed_cleanly = item.message_id == MessageId.CLOSE
                self.wire = (item.message_id.to_bytes(_ID_BYTES, "little"), item.data)
                yield _message(item)
            elif isinstance(item, Fault):
                raise _refused(item)
            else:
                return


def _batch(run: Readouts) -> ReadoutBatch:
    """Views of readouts where they lie; they keep the receive buffer that they lie in."""
    payload = SAMPLE_BYTES * run.coils * run.samples
    header: Records = np.ndarray((run.count,), ACQUISITION_HEADER, run.data, _ID_BYTES, (run.stride,))
    strides = (run.stride, SAMPLE_BYTES * run.samples, SAMPLE_BYTES)
    shape = (run.count, run.coils, run.samples)
    samples: Samples = np.ndarray(shape, np.complex64, run.data, run.stride - payload, strides)
    return ReadoutBatch(header, samples)


def _message(message: Body) -> Message:
    """A message whose lengths are sound; what its texts say is checked here."""
    message_id, body = MessageId(message.message_id), message.data
    if message_id is MessageId.CLOSE:
        return Close()
    if message_id is MessageId.CONFIG_FILE:
        return ConfigFile(_decode(body.split(b"\0", 1)[0], "name of message CONFIG_FILE"))
    if message_id is MessageId.IMAGE:
        return _image_message(body)
    if message_id is MessageId.WAVEFORM:
        return _waveform(body)
    text = body[_TEXT_LENGTH_BYTES:]
    if message_id is MessageId.HEADER:
        return HeaderText(text)
    text = text.rstrip(b"\0")  # clients written in C count the terminator
    if message_id is MessageId.CONFIG_TEXT:
        return ConfigText(_decode(text, "body of message CONFIG_TEXT"))
    return Text(_decode(text, "body of message TEXT"))


def _decode(text: bytes, field: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(field, text[:40], f"UTF-8; byte {error.start} is not") from None


def _image_message(body: bytes) -> ImageMessage:
    header: np.void = np.frombuffer(body, IMAGE_HEADER, 1)[0]
    text_start = IMAGE_HEADER.itemsize + _ATTRIBUTE_LENGTH_BYTES
    text_end = text_start + int.from_bytes(body[IMAGE_HEADER.itemsize : text_start], "little")
    attributes = _decode(body[text_start:text_end].rstrip(b"\0"), "attributes of message IMAGE")
    x, y, z = header["matrix"].tolist()
    pixels = np.frombuffer(body, PIXEL_TYPES[int(header["data_type"])], offset=text_end)
    return ImageMessage(header, attributes, pixels.reshape(int(header["channels"]), z, y, x))


def _waveform(body: bytes) -> Waveform:
    header: np.void = np.frombuffer(body, WAVEFORM_HEADER, 1)[0]
    samples: npt.NDArray[np.uint32] = np.frombuffer(body, "<u4", offset=WAVEFORM_HEADER.itemsize)
    return Waveform(header, samples.reshape(int(header["channels"]), int(header["samples"])))
