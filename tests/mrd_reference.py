"""What the MRD stream's rules make of bytes: slow, one message at a time, written from the format and not from the parser."""

from __future__ import annotations

import math
import struct

from edge_runtime.links.mrd_messages import Close, ConfigFile, ConfigText, HeaderText, Text, WireLimits

NAMES = {
    1: "CONFIG_FILE",
    2: "CONFIG_TEXT",
    3: "HEADER",
    4: "CLOSE",
    5: "TEXT",
    1008: "ACQUISITION",
    1022: "IMAGE",
    1026: "WAVEFORM",
}
PIXEL_BYTES = {1: 2, 2: 2, 3: 4, 4: 4, 5: 4, 6: 8, 7: 8, 8: 16}


class _Refused(Exception):
    """A rule is broken: the class of the error, and the field it names."""

    def __init__(self, error: str, field: str) -> None:
        super().__init__(f"{error}: {field} = ")


def _ensure(holds: bool, error: str, field: str) -> None:
    if not holds:
        raise _Refused(error, field)


class _Bytes:
    """One message at the start of a stream, which may end too early."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.name = "?"

    def numbers(self, format: str, offset: int) -> tuple[int, ...]:
        return struct.unpack("<" + format, self.part(offset, struct.calcsize("<" + format)))

    def part(self, offset: int, size: int) -> bytes:
        _ensure(offset + size <= len(self.stream), "Truncated", f"message {self.name}")
        return self.stream[offset : offset + size]


def read_by_the_rules(stream: bytes, limits: WireLimits) -> tuple[list[object], str]:
    """Every message until the end or the first broken rule, and how the description of what follows begins.

    A readout is ``(header, (coils, samples), data)``, an image ``(header, attributes, channels and matrix, pixels)``, a waveform
    ``(header, samples)``, all as bytes; other messages are what `MessageReader` yields.
    """
    items: list[object] = []
    while stream:
        message = _Bytes(stream)
        try:
            item, size = _first(message, limits)
        except _Refused as refusal:
            return items, str(refusal)
        items.append(item)
        if isinstance(item, Close):
            return items, "end, clean True"
        stream = stream[size:]
    return items, "end, clean False"


def _first(message: _Bytes, limits: WireLimits) -> tuple[object, int]:
    (number,) = message.numbers("H", 0)
    _ensure(number in NAMES, "ProtocolError", "message id")
    message.name = NAMES[number]
    if number == 4:
        return Close(), 2
    if number == 1:
        name, _, _ = message.part(2, 1024).partition(b"\0")
        return ConfigFile(_text(name, "name of message CONFIG_FILE")), 1026
    if number == 1008:
        return _readout(message, limits)
    if number == 1022:
        return _image(message, limits)
    if number == 1026:
        return _waveform(message, limits)
    (length,) = message.numbers("I", 2)
    _ensure(length <= limits.max_text_bytes, "ProtocolError", f"length of message {message.name}")
    _ensure(6 + length <= limits.max_message_bytes, "BudgetExceeded", f"length of message {message.name}")
    text = message.part(6, length)
    if number == 3:
        return HeaderText(text), 6 + length  # declares its own encoding, in which NULs may mean something
    text = text.rstrip(b"\0")
    kind = ConfigText if number == 2 else Text
    return kind(_text(text, f"body of message {message.name}")), 6 + length


def _text(text: bytes, field: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise _Refused("ProtocolError", field) from None


def _finite(floats: bytes) -> bool:
    return all(math.isfinite(value) for (value,) in struct.iter_unpack("<f", floats))


def _readout(message: _Bytes, limits: WireLimits) -> tuple[object, int]:
    header = message.part(2, 340)
    (version,) = struct.unpack_from("<H", header, 0)
    samples, available, coils = struct.unpack_from("<3H", header, 34)
    before, after = struct.unpack_from("<2H", header, 168)
    (dimensions,) = struct.unpack_from("<H", header, 176)
    _ensure(version <= 1, "ProtocolError", "version")
    _ensure(dimensions <= 3, "ProtocolError", "trajectory_dimensions")
    _ensure(1 <= samples <= limits.max_samples, "ReadoutError", "number_of_samples")
    _ensure(1 <= coils <= limits.max_coils, "ReadoutError", "active_channels")
    _ensure(available == 0 or coils <= available, "ReadoutError", "active_channels")
    _ensure(before + after < samples, "ReadoutError", "discard_pre + discard_post")
    # sample time, position, and the directions of readout, phase encode and slice
    geometry = header[178:230]
    _ensure(_finite(geometry), "ReadoutError", "sample_time_us, position, read_dir, phase_dir, slice_dir")
    size = 342 + 4 * samples * dimensions + 8 * samples * coils
    _ensure(size <= limits.max_message_bytes, "BudgetExceeded", "active_channels x number_of_samples")
    data = message.part(342 + 4 * samples * dimensions, 8 * samples * coils)
    _ensure(_finite(data), "ReadoutError", "data")
    return (header, (coils, samples), data), size


def _image(message: _Bytes, limits: WireLimits) -> tuple[object, int]:
    header = message.part(2, 198)
    (attribute_bytes,) = message.numbers("Q", 200)
    version, pixel_type = struct.unpack_from("<2H", header, 0)
    x, y, z = struct.unpack_from("<3H", header, 16)
    (channels,) = struct.unpack_from("<H", header, 34)
    _ensure(version <= 1, "ProtocolError", "version")
    _ensure(pixel_type in PIXEL_BYTES, "ProtocolError", "data_type")
    _ensure(attribute_bytes <= limits.max_text_bytes, "ProtocolError", "attribute length of message IMAGE")
    pixel_bytes = channels * x * y * z * PIXEL_BYTES[pixel_type]
    _ensure(pixel_bytes > 0, "ProtocolError", "channels x matrix_size")
    size = 208 + attribute_bytes + pixel_bytes
    _ensure(size <= limits.max_message_bytes, "BudgetExceeded", "channels x matrix_size")
    pixels = message.part(208 + attribute_bytes, pixel_bytes)
    attributes = _text(message.part(208, attribute_bytes).rstrip(b"\0"), "attributes of message IMAGE")
    return (header, attributes, (channels, z, y, x), pixels), size


def _waveform(message: _Bytes, limits: WireLimits) -> tuple[object, int]:
    header = message.part(2, 40)
    (version,) = struct.unpack_from("<H", header, 0)
    samples, channels = struct.unpack_from("<2H", header, 28)
    _ensure(version <= 1, "ProtocolError", "version")
    size = 42 + 4 * samples * channels
    _ensure(size <= limits.max_message_bytes, "BudgetExceeded", "waveform channels x number_of_samples")
    return (header, message.part(42, 4 * samples * channels)), size
