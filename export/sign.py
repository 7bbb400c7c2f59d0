"""Signs a bundle anew: with another key, with a quality report, or brought to this format. Its model stays as it was."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.bundle.archive import MANIFEST, MAX_MEMBER_BYTES, MAX_MEMBERS, SIGNATURE, read_archive, read_file
from edge_runtime.bundle.load import check_members
from edge_runtime.bundle.manifest import UnrolledSettings, parse_manifest
from edge_runtime.errors import BundleError, BundleMalformed
from export.keys import SigningKey
from export.pack import UNSTATED_LICENCE, GoldenOutputs, with_quality, write_bundle
from export.seal import seal, write_whole


def sign_bundle(source: Path, out: Path, key: SigningKey, *, quality: bytes | None = None, override: str = "") -> str:
    """Writes ``source`` signed with ``key`` and returns the SHA-256 of the file; who signed it before does not matter.

    Whoever signs answers for the content: `edge-export verify` tells who did before, and whether it is what they signed. Here
    members are only held against the manifest.

    Args:
        quality: a report that takes the place of the bundle's.
        override: takes the place of the bundle's; that one stays where this is empty and limits are missed.

    Raises:
        BundleError: it is no bundle, members are not what its manifest says, or it misses its limits and nobody overrides them.
    """
    content = read_file(source)
    try:
        if _is_format_1(content):
            return _from_format_1(content, out, key, quality=quality, override=override)
        members = read_archive(content)
        if MANIFEST not in members:
            raise BundleMalformed(f"{MANIFEST} is missing: this archive is no bundle")
        manifest = parse_manifest(members[MANIFEST])
        check_members(members, manifest)  # or else a new signature would cover up what was altered
    except BundleError as error:
        raise type(error)(f"{source}: {error}") from error
    kept = manifest.override.reason if manifest.override is not None else ""
    document = {name: value for name, value in manifest.document.items() if name != "files"}
    rest = {name: member for name, member in members.items() if name not in (MANIFEST, SIGNATURE)}
    return write_whole(out, seal(*with_quality(document, rest, quality, override or kept), key))


UNREADABLE = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
)
"""What reading an archive or its manifest may raise."""


def _is_format_1(content: bytes) -> bool:
    """Whether it is an archive of before signatures, whose members were compressed."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            compressed = archive.getinfo(MANIFEST).compress_type != zipfile.ZIP_STORED
            return compressed and json.loads(_read(archive, MANIFEST))["format"] == 1
    except UNREADABLE:
        return False


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member of an archive of format 1, no longer than any may be."""
    with archive.open(name) as file:
        content = file.read(MAX_MEMBER_BYTES + 1)
    if len(content) > MAX_MEMBER_BYTES:
        raise BundleMalformed(f"member {name} has more than {MAX_MEMBER_BYTES} bytes")
    return content


def _from_format_1(content: bytes, out: Path, key: SigningKey, *, quality: bytes | None, override: str) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if len(archive.namelist()) > MAX_MEMBERS:
                raise BundleMalformed(f"more than {MAX_MEMBERS} members")
            members = {name: _read(archive, name) for name in archive.namelist()}
        manifest: dict[str, Any] = json.loads(members[MANIFEST])
        settings = manifest["settings"]
        forms = {precision: members[form["onnx"]] for precision, form in manifest["forms"].items()}
        outputs = {precision: _array(members[form["golden_output"]]) for precision, form in manifest["forms"].items()}
        unrolled = UnrolledSettings(
            settings["iterations"],
            settings["cg_steps"],
            tuple((a, b) for a, b in settings["log_weights"]),
            settings["multiple"],
        )
        golden = GoldenOutputs(manifest["golden_made_by"], outputs)
        golden_input = _array(members[manifest["golden_input"]])
        licence = "Apache-2.0" if members.get("LICENSE", b"").startswith(b"Apache-2.0") else UNSTATED_LICENCE
        name, version, provenance = manifest["name"], manifest["version"], manifest["provenance"]
    except UNREADABLE as error:
        raise BundleMalformed(f"a bundle of format 1 that can't be read: {error!r}") from error
    return write_bundle(
        out,
        name=name,
        version=version,
        settings=unrolled,
        forms=forms,
        golden_input=golden_input,
        provenance=provenance,
        key=key,
        licence=licence,
        quality=quality,
        override=override,
        golden=golden,
    )


def _array(content: bytes) -> Any:
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False), dtype=np.float32)
