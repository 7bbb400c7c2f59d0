"""The archive: one canonical form, bytes that never change, and bounds that stand before anything is unpacked."""

from __future__ import annotations

import io
import stat
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import pytest

from edge_runtime.bundle import archive as module
from edge_runtime.bundle.archive import (
    MAX_BUNDLE_BYTES,
    MAX_MEMBER_BYTES,
    MAX_MEMBERS,
    MAX_TEXT_BYTES,
    check_bounds,
    read_archive,
    read_file,
    write_archive,
)
from edge_runtime.errors import BundleMalformed
from edge_runtime.program.document import MOST_GRAPHS

GOLDEN = bytes.fromhex(
    # local header: signature, version 2.0, no flags, stored, 1980-01-01 00:00
    "504b0304 1400 0000 0000 0000 2100"
    # CRC-32, packed size, size, length of the name, no extra field; name; content
    "83da0e0b 02000000 02000000 0700 0000" + b"LICENSE".hex() + b"MI".hex() +
    # the second member
    "504b0304 1400 0000 0000 0000 2100"
    "43bfa6a3 02000000 02000000 0d00 0000" + b"manifest.json".hex() + b"{}".hex() +
    # directory: signature, made by 2.0 on Unix, needs 2.0, then as above; no comment, disk 0; mode 0100644; offset
    "504b0102 1403 1400 0000 0000 0000 2100"
    "83da0e0b 02000000 02000000 0700 0000 0000 0000 0000 0000a481 00000000" + b"LICENSE".hex() +
    "504b0102 1403 1400 0000 0000 0000 2100"
    "43bfa6a3 02000000 02000000 0d00 0000 0000 0000 0000 0000a481 27000000" + b"manifest.json".hex() +
    # end: disk 0, 2 members, bytes of the directory, its offset, no comment
    "504b0506 0000 0000 0200 0200 70000000 54000000 0000"
)  # fmt: skip
Stamp = tuple[int, int, int, int, int, int]
EPOCH = (1980, 1, 1, 0, 0, 0)
MEMBERS = {"manifest.json": b"{}", "LICENSE": b"MI"}


def test_the_bytes_of_an_archive_never_change() -> None:
    assert write_archive(MEMBERS) == GOLDEN
    assert read_archive(GOLDEN) == MEMBERS


def test_other_zip_programs_read_it() -> None:
    with zipfile.ZipFile(io.BytesIO(GOLDEN)) as peer:
        assert peer.testzip() is None
        assert {name: peer.read(name) for name in peer.namelist()} == MEMBERS
        assert [stat.filemode(entry.external_attr >> 16) for entry in peer.infolist()] == ["-rw-r--r--"] * 2


def zipped(
    name: str, content: bytes = b"{}", *, method: int = zipfile.ZIP_STORED, mode: int = 0o100644, stamp: Stamp = EPOCH
) -> bytes:
    """A ZIP of another program, with one member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as peer:
        entry = zipfile.ZipInfo(name, stamp)
        entry.external_attr, entry.compress_type = mode << 16, method
        peer.writestr(entry, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/etc/passwd", "leads outside the bundle"),
        ("../manifest.json", "leads outside the bundle"),
        ("forms/../../x.onnx", "leads outside the bundle"),
        ("C:/x.onnx", "leads outside the bundle"),
        ("..\\x.onnx", "leads outside the bundle"),
        ("code.py", "has no place in it"),
        ("model.pkl", "has no place in it"),
        ("forms/lib.so", "has no place in it"),
        ("forms/a/b.onnx", "has no place in it"),
        ("forms/.onnx", "has no place in it"),
        ("forms/é.onnx", "has no place in it"),
        ("manifest.json\n", "has no place in it"),
        ("", "leads outside the bundle"),
    ],
)
def test_a_name_that_no_bundle_has_is_refused(name: str, words: str) -> None:
    with pytest.raises(BundleMalformed, match=words):
        read_archive(zipped(name) if name else GOLDEN.replace(b"LICENSE", b"/ICENSE"))
    with pytest.raises(BundleMalformed):
        write_archive({name or "/": b""})


def test_a_symbolic_link_is_refused() -> None:
    with pytest.raises(BundleMalformed, match="LICENSE is a symbolic link"):
        read_archive(zipped("LICENSE", b"/etc/passwd", mode=stat.S_IFLNK | 0o777))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_is_refused_before_it_is_unpacked(method: int) -> None:
    bomb = zipped("forms/fp32.onnx", bytes(32 << 20), method=method)
    assert len(bomb) < 1 << 20
    with pytest.raises(BundleMalformed, match=r"forms/fp32\.onnx is compressed \(\d+ bytes for 33554432\)"):
        read_archive(bomb)


def test_a_size_that_lies_allocates_nothing() -> None:
    content = bytearray(GOLDEN)
    at = content.index(b"PK\x01\x02")
    content[at + 20 : at + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    with pytest.raises(BundleMalformed, match="LICENSE has 4294967280 bytes, at most"):
        read_archive(bytes(content))


def test_members_that_overlap_are_refused() -> None:
    """A quine's trick: every entry of the directory points at the same bytes."""
    content = bytearray(GOLDEN)
    at = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", at + 1)
    content[second + 42 : second + 46] = bytes(4)
    with pytest.raises(BundleMalformed, match="canonical form"):
        read_archive(bytes(content))


def test_an_encrypted_member_is_refused() -> None:
    content = bytearray(GOLDEN)
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(BundleMalformed, match="LICENSE is encrypted"):
        read_archive(bytes(content))


def test_a_member_that_stands_twice_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as peer, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.writestr("LICENSE", b"a")
        peer.writestr("LICENSE", b"b")
    with pytest.raises(BundleMalformed, match="LICENSE stands twice"):
        read_archive(buffer.getvalue())


def test_a_comment_or_a_time_stamp_is_refused() -> None:
    with pytest.raises(BundleMalformed, match="cut short or has bytes behind its end"):
        read_archive(GOLDEN[:-2] + b"\x05\x00hello")
    with pytest.raises(BundleMalformed, match="canonical form"):
        read_archive(zipped("LICENSE", stamp=(2026, 11, 25, 12, 0, 0)))


def test_a_bundle_has_room_for_the_largest_program() -> None:
    """Three precisions with a golden output each; golden input, manifest, signature, bill, report, licence."""
    assert 3 * (MOST_GRAPHS + 1) + 6 <= MAX_MEMBERS


def test_reading_takes_no_more_memory_than_the_members() -> None:
    """What the largest bundle takes is stated: the file and its members, no third copy."""
    content = write_archive({f"forms/{number}.onnx": bytes([number]) * (4 << 20) for number in range(4)})
    tracemalloc.start()
    try:
        members = read_archive(content)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < sum(map(len, members.values())) + (1 << 20)


def test_texts_and_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleMalformed, match=rf"LICENSE has {MAX_TEXT_BYTES + 1} bytes, at most {MAX_TEXT_BYTES}"):
        write_archive({"LICENSE": bytes(MAX_TEXT_BYTES + 1)})
    with pytest.raises(BundleMalformed, match=f"{MAX_MEMBERS + 1} members, at most {MAX_MEMBERS}"):
        write_archive({f"forms/{number}.onnx": b"" for number in range(MAX_MEMBERS + 1)})
    with pytest.raises(BundleMalformed, match=rf"forms/a\.onnx has {MAX_MEMBER_BYTES + 1} bytes"):
        check_bounds({"forms/a.onnx": MAX_MEMBER_BYTES + 1})
    most = {f"forms/{number}.onnx": MAX_MEMBER_BYTES for number in range(MAX_BUNDLE_BYTES // MAX_MEMBER_BYTES)}
    check_bounds(most)
    with pytest.raises(BundleMalformed, match=f"members have {MAX_BUNDLE_BYTES + 1} bytes"):
        check_bounds({**most, "LICENSE": 1})
    monkeypatch.setattr(module, "MAX_BUNDLE_BYTES", 100)
    path = tmp_path / "large"
    path.write_bytes(bytes(101))
    with pytest.raises(BundleMalformed, match="larger than 100 bytes"):
        read_file(path)
    with pytest.raises(BundleMalformed, match="members have 101 bytes, at most 100 are allowed in all"):
        write_archive({"LICENSE": bytes(101)})
