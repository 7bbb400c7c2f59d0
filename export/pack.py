"""Writes the bundle: one deterministic file, the same bytes for the same inputs."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import FORMAT, MANIFEST, UnrolledSettings
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine

Tensor = npt.NDArray[np.float32]

EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time stamp of every member, so that packing twice gives the same bytes."""

TOLERANCE = {"fp32": 2e-3, "int8": 5e-2}
"""Relative error of the golden outputs that other machines and library versions may show."""


def write_bundle(
    path: Path,
    *,
    name: str,
    version: str,
    settings: UnrolledSettings,
    forms: Mapping[str, bytes],
    golden_input: Tensor,
    provenance: Mapping[str, Any],
) -> str:
    """Writes a bundle with golden outputs computed here by ONNX Runtime; returns its SHA-256.

    Args:
        forms: ONNX graphs by precision.
        golden_input: ``(1, 6, rows, columns)``.
        provenance: training data digests, configuration, code version; becomes part of the manifest.
    """
    engine = OnnxRuntimeEngine()
    members = {
        "golden/input.npy": _npy(golden_input),
        "LICENSE": b"Apache-2.0; weights trained on data listed in the manifest\n",
    }
    form_entries = {}
    for precision, onnx in sorted(forms.items()):
        members[f"forms/{precision}.onnx"] = onnx
        members[f"golden/{precision}.npy"] = _npy(engine.plan(onnx, threads=1).run(golden_input))
        form_entries[precision] = {
            "onnx": f"forms/{precision}.onnx",
            "golden_output": f"golden/{precision}.npy",
            "tolerance": TOLERANCE[precision],
        }
    manifest = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "family": "unrolled-cg",
        "settings": {
            "iterations": settings.iterations,
            "cg_steps": settings.cg_steps,
            "log_weights": [[round(value, 7) for value in pair] for pair in settings.log_weights],
            "multiple": settings.multiple,
        },
        "golden_input": "golden/input.npy",
        "golden_made_by": engine.version(),
        "forms": form_entries,
        "provenance": dict(provenance),
        "files": {member: hashlib.sha256(content).hexdigest() for member, content in sorted(members.items())},
    }
    members[MANIFEST] = (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for member, content in sorted(members.items()):
            entry = zipfile.ZipInfo(member, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _npy(array: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array, np.float32), allow_pickle=False)
    return buffer.getvalue()
