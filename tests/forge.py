"""Bundles as a forger, a careless packer or a bad disk would make them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.bundle.archive import MANIFEST, SIGNATURE, read_archive, write_archive
from edge_runtime.bundle.signature import format_signature
from export.keys import SigningKey

Members = dict[str, bytes]
Change = Callable[[Members], None]


def rewritten(
    source: Path, target: Path, change: Change, *, relist: bool = False, key: SigningKey | None = None
) -> Path:
    """A copy of a bundle with changed members.

    Args:
        relist: makes the manifest agree with the members.
        key: signs the changed manifest.
    """
    members = read_archive(source.read_bytes())
    change(members)
    if relist:
        manifest = json.loads(members[MANIFEST])
        manifest["files"] = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
            if name not in (MANIFEST, SIGNATURE)
        }
        members[MANIFEST] = json.dumps(manifest).encode()
    if key is not None:
        members[SIGNATURE] = format_signature(key.sign(members[MANIFEST]))
    target.write_bytes(write_archive(members))
    return target


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), version=version)
    return buffer.getvalue()


def in_manifest(**changes: Any) -> Change:
    """Sets values of the manifest; ``None`` takes one out."""

    def change(members: Members) -> None:
        manifest = {**json.loads(members[MANIFEST]), **changes}
        kept = {name: value for name, value in manifest.items() if value is not None}
        members[MANIFEST] = json.dumps(kept).encode()

    return change


def in_settings(**changes: Any) -> Change:
    def change(members: Members) -> None:
        manifest = json.loads(members[MANIFEST])
        manifest["settings"].update(changes)
        members[MANIFEST] = json.dumps(manifest).encode()

    return change


def in_form(table: str, **changes: Any) -> Change:
    """Sets values of the first entry of a list of the single-precision form."""

    def change(members: Members) -> None:
        manifest = json.loads(members[MANIFEST])
        manifest["forms"]["fp32"][table][0].update(changes)
        members[MANIFEST] = json.dumps(manifest).encode()

    return change


def set_member(name: str, content: bytes) -> Change:
    return lambda members: members.__setitem__(name, content)


def without(name: str) -> Change:
    return lambda members: members.__delitem__(name)
