"""Closes a bundle: lists its members, signs the list, lays out the file and reads it. The same inputs give the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.bundle.archive import MANIFEST, SIGNATURE, write_archive
from edge_runtime.bundle.load import read_bundle
from edge_runtime.bundle.signature import format_signature
from edge_runtime.bundle.trust_store import TrustStore
from edge_runtime.errors import BundleError
from export.keys import SigningKey


def seal(document: Mapping[str, Any], members: Mapping[str, bytes], key: SigningKey) -> bytes:
    """The bytes of a signed bundle.

    Args:
        document: the manifest but for its list of files.
        members: everything but manifest and signature.

    Raises:
        BundleMalformed: a name or size that no bundle may have.
    """
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(members.items())
    }
    text = json.dumps({**document, "files": files}, indent=2, sort_keys=True, allow_nan=False)
    manifest = (text + "\n").encode()
    signature = format_signature(key.sign(manifest))
    return write_archive({**members, MANIFEST: manifest, SIGNATURE: signature})


def write_sealed(path: Path, document: Mapping[str, Any], members: Mapping[str, bytes], key: SigningKey) -> str:
    """Seals a bundle and writes it where the device's reader takes it; returns the file's SHA-256.

    What was at ``path`` before stays there where it does not.

    Args:
        document, members: see `seal`.

    Raises:
        BundleError: what a device that trusts the key would refuse the bundle with.
    """
    content, public = seal(document, members, key), key.public
    trust = TrustStore(path.parent, {public.id: public}, {public.id: "the key that signs"}, {}, {}, {})
    try:
        read_bundle(content, trust)
    except BundleError as error:
        raise type(error)(f"{path}: not written, no device would take it: {error}") from error
    return _write_whole(path, content)


def _write_whole(path: Path, content: bytes) -> str:
    """Writes a file that is there in full or not at all; returns its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return hashlib.sha256(content).hexdigest()
