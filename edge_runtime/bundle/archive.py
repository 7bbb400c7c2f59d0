"""The file of a bundle: a ZIP archive in one canonical form, so that every one of its bytes is accounted for.

Members are stored, not compressed, in the order of their names, with fixed stamps and nothing between, before or behind them. An
archive is read by laying its members out anew: a file that differs in one byte from that is refused. There is then nothing that a
signature does not cover (comments, extra fields, gaps, overlapping members), no ratio of compression to bound, and the bytes depend
on no version of zlib. Weights hardly compress: the shipped bundle would be a tenth smaller.

Any ZIP program opens it. Layout: PKWARE APPNOTE 4.3.7 (local header), 4.3.12 (central header), 4.3.16 (end).
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from edge_runtime.errors import BundleMalformed, BundleMissing

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
SBOM = "sbom.cdx.json"
QUALITY = "quality.json"
LICENCE = "LICENSE"

MAX_MEMBERS = 512
"""Three precisions of `edge_runtime.program.document.MOST_GRAPHS` graphs, their golden outputs, and the rest."""

MAX_MEMBER_BYTES = 256 << 20
"""A graph of 67 million weights in single precision; DRUNet has 33 million."""

MAX_BUNDLE_BYTES = 1 << 30
"""Whoever loads a bundle holds it twice for a while, as file and as members: so much memory may the largest take, no more."""

MAX_TEXT_BYTES = 4 << 20
"""A member in JSON or plain text; everything but graphs and arrays."""

MEMBER = re.compile(
    rf"{MANIFEST}|{SIGNATURE}|{SBOM}|{QUALITY}|{LICENCE}|forms/[a-z0-9][a-z0-9._-]{{0,63}}\.onnx|golden/[a-z0-9][a-z0-9._-]{{0,63}}\.npy",
    re.ASCII,
)
"""What may be in a bundle. No other name, so neither code nor pickles, and no path that leads elsewhere."""

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_ZIP_2_0, _UNIX, _STORED = 20, 3, 0
_MIDNIGHT, _NEW_YEAR_1980 = 0, 0x21
_ATTRIBUTES = (stat.S_IFREG | 0o644) << 16


def write_archive(members: Mapping[str, bytes]) -> bytes:
    """The canonical archive of members by name.

    Raises:
        BundleMalformed: a name, size or number that no bundle may have.
    """
    headers, directory = _layout(members)
    body = [part for name, _, local in headers for part in (local, members[name])]
    return b"".join([*body, directory])


def _layout(members: Mapping[str, bytes]) -> tuple[list[tuple[str, int, bytes]], bytes]:
    """All of the canonical archive but the members' content: name, offset and local header of each, and what follows the last."""
    check_bounds({name: len(content) for name, content in members.items()})
    headers, directory, offset = [], [], 0
    for name, content in sorted(members.items()):
        encoded = name.encode("ascii")
        fields = (_STORED, _MIDNIGHT, _NEW_YEAR_1980, zlib.crc32(content), len(content), len(content), len(encoded), 0)
        local = _LOCAL.pack(b"PK\x03\x04", _ZIP_2_0, 0, *fields) + encoded
        headers.append((name, offset, local))
        made_by = _UNIX << 8 | _ZIP_2_0
        central = _CENTRAL.pack(b"PK\x01\x02", made_by, _ZIP_2_0, 0, *fields, 0, 0, 0, _ATTRIBUTES, offset)
        directory.append(central + encoded)
        offset += len(local) + len(content)
    entries = b"".join(directory)
    count = len(directory)
    return headers, entries + _END.pack(b"PK\x05\x06", 0, 0, count, count, len(entries), offset, 0)


def read_file(path: Path) -> bytes:
    """The bytes of a bundle's file.

    Raises:
        BundleMissing: it is not there, or can't be read.
        BundleMalformed: it is larger than any bundle may be.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BUNDLE_BYTES + 1)
    except FileNotFoundError:
        raise BundleMissing(f"{path}: no such bundle") from None
    except OSError as error:
        raise BundleMissing(f"{path}: can't be read: {error.strerror or error}") from error
    if len(content) > MAX_BUNDLE_BYTES:
        raise BundleMalformed(f"{path}: larger than {MAX_BUNDLE_BYTES} bytes, the most that a bundle may have")
    return content


def read_archive(content: bytes) -> dict[str, bytes]:
    """The members of a canonical archive, by name.

    Raises:
        BundleMalformed: says in what the archive is no bundle.
    """
    members: dict[str, bytes] = {}
    entries = _directory(content)
    for name, size, offset in entries:
        start = offset + _LOCAL.size + len(name)
        member = content[start : start + size]
        if len(member) != size:
            raise BundleMalformed(f"member {name} ends outside the file, which is cut short or damaged: copy it again")
        members[name] = member
    headers, directory = _layout(members)
    laid_out = [(name, len(members[name]), offset) for name, offset, _ in headers] == entries
    same = laid_out and all(content.startswith(local, offset) for _, offset, local in headers)
    if not same or not content.endswith(directory):  # which says where it begins
        raise BundleMalformed(
            "bytes of the archive differ from its canonical form: it was damaged, or packed by another program than edge-export"
        )
    return members


def _directory(content: bytes) -> list[tuple[str, int, int]]:
    """Name, size and offset of every member, within bounds."""
    if content[-_END.size :][:4] != b"PK\x05\x06" or len(content) < _END.size:
        raise BundleMalformed("no archive, or one that is cut short or has bytes behind its end: copy it again")
    _, _, _, _, count, length, at, _ = _END.unpack(content[-_END.size :])
    if count > MAX_MEMBERS:
        raise BundleMalformed(f"{count} members, at most {MAX_MEMBERS} are allowed")
    if at + length + _END.size != len(content):
        raise BundleMalformed("the directory of the archive does not lie at its end: the file is cut short or damaged")
    entries: list[tuple[str, int, int]] = []
    sizes: dict[str, int] = {}
    for _ in range(count):
        fixed = content[at : at + _CENTRAL.size]
        if len(fixed) < _CENTRAL.size or fixed[:4] != b"PK\x01\x02":
            raise BundleMalformed(f"the directory of the archive ends after {len(entries)} of {count} members")
        _, _, _, flags, method, _, _, _, packed, size, length, extra, comment, _, _, mode, offset = _CENTRAL.unpack(
            fixed
        )
        encoded = content[at + _CENTRAL.size : at + _CENTRAL.size + length]
        name = encoded.decode("ascii", "backslashreplace")
        _check_name(name)  # first: what follows shows it
        if name in sizes:
            raise BundleMalformed(f"member {name} stands twice")
        if flags & 1:
            raise BundleMalformed(f"member {name} is encrypted, which no member of a bundle is")
        if method != _STORED or packed != size:
            raise BundleMalformed(
                f"member {name} is compressed ({packed} bytes for {size}), which no member of a bundle is since format 2: "
                "pack the model anew"
            )
        if stat.S_ISLNK(mode >> 16):
            raise BundleMalformed(f"member {name} is a symbolic link")
        sizes[name] = size
        entries.append((name, size, offset))
        at += _CENTRAL.size + length + extra + comment
    check_bounds(sizes)
    return entries


def check_bounds(sizes: Mapping[str, int]) -> None:
    """That a bundle may have members of these names and sizes.

    Raises:
        BundleMalformed: names what is too much.
    """
    if len(sizes) > MAX_MEMBERS:
        raise BundleMalformed(f"{len(sizes)} members, at most {MAX_MEMBERS} are allowed")
    for name, size in sizes.items():
        _check_name(name)
        most = MAX_MEMBER_BYTES if "/" in name else MAX_TEXT_BYTES
        if size > most:
            raise BundleMalformed(f"member {name} has {size} bytes, at most {most} are allowed")
    if sum(sizes.values()) > MAX_BUNDLE_BYTES:
        raise BundleMalformed(
            f"members have {sum(sizes.values())} bytes, at most {MAX_BUNDLE_BYTES} are allowed in all"
        )


def _check_name(name: str) -> None:
    if MEMBER.fullmatch(name):
        return
    parts = name.replace("\\", "/").split("/")
    why = (
        "leads outside the bundle"
        if parts[0] in ("", "..") or ".." in parts or ":" in parts[0]
        else "has no place in it"
    )
    raise BundleMalformed(
        f"member {name[:100]!r} {why}: a bundle holds {MANIFEST}, {SIGNATURE}, {SBOM}, {QUALITY}, {LICENCE}, "
        "forms/*.onnx and golden/*.npy, neither code nor pickles"
    )
