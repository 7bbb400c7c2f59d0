"""Digests of data and code, so that a bundle says what it was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def files_digest(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over the relative names and the contents of files, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(root)}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def code_digest() -> str:
    """Of the Python sources of `export` and of the reconstruction it imitates."""
    root = Path(__file__).parent.parent
    sources = [
        *root.glob("export/**/*.py"),
        *root.glob("edge_runtime/modalities/**/*.py"),
        *root.glob("edge_runtime/trust/**/*.py"),
    ]
    return files_digest(sources, root)
