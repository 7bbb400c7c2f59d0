"""The one artefact a device runs: graphs, their golden inputs and outputs, and what is needed to use and to trust them.

A bundle is a ZIP file of plain members (no code, no pickle) with a `manifest.json` that lists every other member with its size
and SHA-256. Everything is checked before a graph is handed to an engine, and the golden outputs are reproduced before it is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.engines import Session, Tensor
from edge_runtime.errors import BundleError

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MEMBERS = 64
MAX_MEMBER_BYTES = 64 << 20
MAX_COMPRESSION_RATIO = 200
DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "brain2d.edgebundle"


@dataclass(frozen=True, slots=True)
class UnrolledSettings:
    """How the device runs the unrolled family (see `edge_runtime.modalities.mri.learned`).

    Attributes:
        iterations: regulariser runs.
        cg_steps: conjugate-gradient steps of each data-consistency solve.
        log_weights: logarithm of λ of every iteration, as intercept and slope over the noise condition
            (`edge_runtime.modalities.mri.learned.condition_of_noise`); one pair an iteration.
        multiple: the graph takes rows and columns that are multiples of this.
    """

    iterations: int
    cg_steps: int
    log_weights: tuple[tuple[float, float], ...]
    multiple: int


@dataclass(frozen=True, slots=True)
class Form:
    """One precision of the regulariser."""

    precision: str
    onnx: bytes
    golden_output: Tensor
    tolerance: float


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        digest: SHA-256 of the whole file, hexadecimal.
        forms: by precision.
        golden_input: ``(1, 6, rows, columns)``.
        manifest: the manifest as it stands in the file, for provenance.
    """

    name: str
    version: str
    digest: str
    settings: UnrolledSettings
    forms: Mapping[str, Form]
    golden_input: Tensor
    manifest: Mapping[str, Any]

    def check_golden(self, session: Session, form: Form) -> None:
        """Runs the golden input.

        Raises:
            BundleError: the outputs are farther from the golden ones than the bundle tolerates.
        """
        output = session.run(self.golden_input)
        if output.shape != form.golden_output.shape:
            raise BundleError(
                f"bundle {self.name} {form.precision}: golden output has shape {output.shape}, not {form.golden_output.shape}"
            )
        error = float(np.linalg.norm(output - form.golden_output) / np.linalg.norm(form.golden_output))
        if not error <= form.tolerance:
            raise BundleError(
                f"bundle {self.name} {form.precision}: golden outputs differ by {error:.2e} (relative), at most "
                f"{form.tolerance:.0e} is tolerated; this engine does not compute what was qualified"
            )


def load_bundle(path: Path) -> Bundle:
    """Reads and verifies a bundle.

    Raises:
        BundleError: the file is missing, malformed, oversized or altered; says which check failed.
    """
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _read_members(path, archive)
    except FileNotFoundError:
        raise BundleError(f"{path}: no such bundle") from None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        # RuntimeError: an encrypted member; ValueError: offsets that lie outside the file.
        raise BundleError(f"{path}: not a readable bundle: {error}") from error
    try:
        return _parse(hashlib.sha256(content).hexdigest(), members)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path}: the manifest or a golden array is malformed: {error!r}") from error


def _read_members(path: Path, archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Members whose size and SHA-256 agree with the manifest, under bounds that stand before any is unpacked."""
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        raise BundleError(f"{path}: {len(entries)} members, at most {MAX_MEMBERS} are allowed")
    for entry in entries:
        if entry.file_size > MAX_MEMBER_BYTES or entry.file_size > MAX_COMPRESSION_RATIO * max(1, entry.compress_size):
            raise BundleError(
                f"{path}: member {entry.filename} unpacks to {entry.file_size} bytes from {entry.compress_size}"
            )
    names = [entry.filename for entry in entries]
    if MANIFEST not in names or len(set(names)) != len(names):
        raise BundleError(f"{path}: {MANIFEST} is missing or a member stands twice")
    members = {entry.filename: _read_member(archive, entry) for entry in entries}
    try:
        listed = {str(name): str(digest) for name, digest in json.loads(members[MANIFEST])["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: {MANIFEST} does not list the files: {error!r}") from error
    if set(listed) != set(names) - {MANIFEST}:
        raise BundleError(f"{path}: members and manifest differ: {sorted(set(listed) ^ (set(names) - {MANIFEST}))}")
    for name, digest in listed.items():
        if hashlib.sha256(members[name]).hexdigest() != digest:
            raise BundleError(
                f"{path}: SHA-256 of {name} is not what the manifest says; the bundle was altered or damaged"
            )
    return members


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """A member, without unpacking more than its declared size."""
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def _parse(digest: str, members: Mapping[str, bytes]) -> Bundle:
    manifest = json.loads(members[MANIFEST])
    if manifest["format"] != FORMAT:
        raise BundleError(f"bundle format {manifest['format']}: this runtime reads format {FORMAT}")
    settings = manifest["settings"]
    weights = tuple((float(intercept), float(slope)) for intercept, slope in settings["log_weights"])
    parsed = UnrolledSettings(
        int(settings["iterations"]), int(settings["cg_steps"]), weights, int(settings["multiple"])
    )
    if len(weights) != parsed.iterations or not 1 <= parsed.iterations <= 64 or not 1 <= parsed.cg_steps <= 64:
        raise ValueError(f"{len(weights)} weights for {parsed.iterations} iterations of {parsed.cg_steps} steps")
    if not 1 <= parsed.multiple <= 256 or not all(math.isfinite(value) for pair in weights for value in pair):
        raise ValueError(f"sizes in multiples of {parsed.multiple}, weights {weights}")
    forms = {
        precision: Form(
            precision, members[form["onnx"]], _array(members[form["golden_output"]]), float(form["tolerance"])
        )
        for precision, form in manifest["forms"].items()
    }
    return Bundle(
        str(manifest["name"]),
        str(manifest["version"]),
        digest,
        parsed,
        forms,
        _array(members[manifest["golden_input"]]),
        manifest,
    )


def _array(content: bytes) -> Tensor:
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False), dtype=np.float32)
