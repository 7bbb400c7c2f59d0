"""ISMRMRD v1 socket messages: values to bytes, and the XML of meta attributes both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ProtocolError
from edge_runtime.links.mrd_messages import (
    ACQUISITION_HEADER,
    CONFIG_FILE_BYTES,
    IMAGE_HEADER,
    MAX_COILS,
    MAX_SAMPLES,
    NEWEST_VERSION,
    PIXEL_TYPES,
    MessageId,
)
from edge_runtime.scan import READOUT_DTYPE, Image, ReadoutBatch

IMAGE_TYPE_MAGNITUDE = 1


def _encode_id(message_id: MessageId) -> bytes:
    return int(message_id).to_bytes(2, "little")


def _pack_text(message_id: MessageId, text: bytes) -> bytes:
    return _encode_id(message_id) + len(text).to_bytes(4, "little") + text


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
    header = acquisition_headers(batch)
    readouts, coils, samples = batch.samples.shape
    dtype = np.dtype([("id", "<u2"), ("header", ACQUISITION_HEADER), ("data", "<c8", (coils, samples))])
    messages = np.zeros(readouts, dtype)
    messages["id"] = MessageId.ACQUISITION
    messages["header"] = header
    messages["data"] = batch.samples
    return messages.tobytes()


def acquisition_headers(batch: ReadoutBatch) -> npt.NDArray[np.void]:
    """The `ACQUISITION_HEADER` of every readout, as `pack_readouts` sends it.

    Raises:
        ValueError: sizes that the format can't hold.
    """
    readouts, coils, samples = batch.samples.shape
    if not (1 <= coils <= MAX_COILS and 1 <= samples <= MAX_SAMPLES):
        raise ValueError(f"{coils} coils x {samples} samples do not fit an acquisition header")
    header = np.zeros(readouts, ACQUISITION_HEADER)
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
    return header


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
    body = (
        header.tobytes() + len(text).to_bytes(8, "little") + text + pixels.astype(little_endian, copy=False).tobytes()
    )
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
