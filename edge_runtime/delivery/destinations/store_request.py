"""C-STORE requests of files as they lie on the disk (PS3.7 9.3.1), encoded here.

`pynetdicom.Association.send_c_store` makes datasets of every request, which is most of what sending takes. Here a request is a few
`struct.pack`, and what follows are the file's bytes. The association, its PDUs and the answers are pynetdicom's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import DeliveryError

if TYPE_CHECKING:
    from pynetdicom.association import Association as Pynetdicom

LARGEST_FRAGMENT_BYTES = 1 << 20
"""Where the receiver sets no limit to PDUs."""

_PDV_HEAD_BYTES = 6
"""Length, context and control header of a fragment in its PDU (PS3.8 9.3.5.1, annex E)."""

_C_STORE_RQ, _WITH_DATASET = 0x0001, 0x0001
_COMMAND_LAST, _DATA, _DATA_LAST = b"\x03", b"\x00", b"\x02"
_LARGEST_META_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver answered.

    Attributes:
        status: ``None`` where the association broke, or what came is no answer to the request.
        comment: in the receiver's words.
    """

    status: int | None
    comment: str = ""


def store(
    association: Pynetdicom,
    context_id: int,
    path: Path,
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    number: int,
    priority: int,
) -> Answer:
    """Sends a file and waits for the answer; only while the association is `undisturbed`.

    Args:
        context_id: of a presentation context in whose transfer syntax the file is.
        number: Message ID, another for each request.

    Raises:
        DeliveryError: it is no DICOM file.
        RuntimeError: the association is gone, and nothing was sent.
    """
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.pdu_primitives import P_DATA

    if not association.is_established:
        raise RuntimeError("no association")
    start = _dataset_start(path)
    largest = association.dimse.maximum_pdu_size or LARGEST_FRAGMENT_BYTES
    command = _command(sop_class_uid, sop_instance_uid, number, priority)
    for fragment in _fragments(command, path, start, max(1, largest - _PDV_HEAD_BYTES)):
        data = P_DATA()
        data.presentation_data_value_list.append((context_id, fragment))
        association.dul.send_pdu(data)
    _, answer = association.dimse.get_msg(block=True)
    if answer is None:
        return Answer(None)
    if not isinstance(answer, C_STORE) or answer.MessageIDBeingRespondedTo != number or answer.Status is None:
        association.abort()
        return Answer(None)
    return Answer(int(answer.Status), str(getattr(answer, "ErrorComment", None) or ""))


def _command(sop_class_uid: str, sop_instance_uid: str, number: int, priority: int) -> bytes:
    """The command set, implicit VR little endian (PS3.7 6.3.1)."""
    group = b"".join(
        (
            _element(0x0002, _uid(sop_class_uid)),
            _element(0x0100, struct.pack("<H", _C_STORE_RQ)),
            _element(0x0110, struct.pack("<H", number)),
            _element(0x0700, struct.pack("<H", priority)),
            _element(0x0800, struct.pack("<H", _WITH_DATASET)),
            _element(0x1000, _uid(sop_instance_uid)),
        )
    )
    return _element(0x0000, struct.pack("<L", len(group))) + group


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0x0000, number, len(value)) + value


def _uid(uid: str) -> bytes:
    encoded = uid.encode("ascii")
    return encoded + b"\0" * (len(encoded) % 2)


def _fragments(command: bytes, path: Path, start: int, most: int) -> Iterator[bytes]:
    """Fragments with their control headers (PS3.8 annex E). A command fits one of any PDU that the standard allows."""
    yield _COMMAND_LAST + command
    with path.open("rb") as file:
        left = file.seek(0, 2) - start
        file.seek(start)
        while left > 0:
            data = file.read(min(most, left))
            if not data:
                raise DeliveryError(f"{path}: became shorter while it was sent")
            left -= len(data)
            yield (_DATA if left else _DATA_LAST) + data


def _dataset_start(path: Path) -> int:
    """Where the dataset begins: behind the file meta information, whose length its first element says (PS3.10 7.1).

    Raises:
        DeliveryError: it does not say so.
    """
    with path.open("rb") as file:
        head = file.read(144)
    if len(head) == 144 and head[128:140] == b"DICM\x02\x00\x00\x00UL\x04\x00":
        (length,) = struct.unpack("<L", head[140:])
        if length <= _LARGEST_META_BYTES:
            return 144 + int(length)
    raise DeliveryError(f"{path.name}: not a DICOM file with file meta information")
