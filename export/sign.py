"""Signs a bundle anew: with another key, a quality report or an override. Its model stays as it was."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.bundle.archive import MANIFEST, SIGNATURE, read_archive, read_file
from edge_runtime.bundle.load import check_members
from edge_runtime.bundle.manifest import parse_manifest
from edge_runtime.errors import BundleError, BundleMalformed
from export.keys import SigningKey
from export.pack import with_quality
from export.seal import write_sealed


def sign_bundle(source: Path, out: Path, key: SigningKey, *, quality: bytes | None = None, override: str = "") -> str:
    """Writes ``source`` signed with ``key`` and returns the SHA-256 of the file; who signed it before does not matter.

    Whoever signs answers for the content: `edge-export verify` tells who did before, and whether it is what they signed. Here
    members are only held against the manifest.

    Args:
        quality: a report that takes the place of the bundle's.
        override: takes the place of the bundle's; that one stays where this is empty and limits are missed.

    Raises:
        BundleError: it is no bundle, members are not what its manifest says, it misses its limits and nobody overrides them, or no
            device would take what is signed.
    """
    content = read_file(source)
    try:
        members = read_archive(content)
        if MANIFEST not in members:
            raise BundleMalformed(f"{MANIFEST} is missing: this archive is no bundle")
        manifest = parse_manifest(members[MANIFEST])
        check_members(members, manifest)  # or else a new signature would cover up what was altered
    except BundleError as error:
        raise type(error)(f"{source}: {error}") from error
    document = {name: value for name, value in manifest.document.items() if name != "files"}
    rest = {name: member for name, member in members.items() if name not in (MANIFEST, SIGNATURE)}
    kept = manifest.override.reason if manifest.override is not None else ""
    if (
        quality is not None or override or not kept
    ):  # else somebody answers for this very report: a new key changes nothing
        document, rest = with_quality(document, rest, quality, override or kept)
    return write_sealed(out, document, rest, key)
