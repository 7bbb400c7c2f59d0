"""Packs a bundle out of graphs: golden outputs, manifest, bill of materials, signature. The same inputs give the same bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.archive import LICENCE, QUALITY, SBOM
from edge_runtime.bundle.golden import Graphs, format_array
from edge_runtime.bundle.graph import check_graph
from edge_runtime.bundle.manifest import (
    FORMAT,
    REGULARISER,
    Settings,
    Tolerance,
    UnrolledSettings,
    form_graphs,
    settings_document,
)
from edge_runtime.bundle.quality import MAX_REASON, form_digest, missed_limits, parse_limits, parse_report
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import BundleUnqualified
from edge_runtime.modalities.mri.families import made_ready
from export.config import ConfigError
from export.keys import SigningKey
from export.members import GOLDEN_INPUT, golden_output, graph_label, graph_members
from export.sbom import installed_makers, make_sbom
from export.seal import write_sealed

Tensor = npt.NDArray[np.float32]

Bounds = Mapping[str, Mapping[str, float]]
"""Limits by figure, as in the configuration: ``{"int8_loss_db": {"at_most": 0.1}}``."""

TOLERANCES = {
    "fp32": (
        Tolerance("onnxruntime", "1.20", "2", 2e-3),
        Tolerance("openvino", "2024.4", "2027", 2e-3),
        Tolerance("tensorrt", "10.3", "12", 2e-3),
        Tolerance("onnxruntime-cuda", "1.20", "2", 2e-3),
        Tolerance("onnxruntime-tensorrt", "1.20", "2", 2e-3),
    ),
    "fp16": (
        Tolerance("onnxruntime", "1.20", "2", 1e-2),
        Tolerance("openvino", "2024.4", "2027", 1e-2),
        Tolerance("tensorrt", "10.3", "12", 1e-2),
        Tolerance("onnxruntime-cuda", "1.20", "2", 1e-2),
        Tolerance("onnxruntime-tensorrt", "1.20", "2", 1e-2),
    ),
    "int8": (
        Tolerance("onnxruntime", "1.20", "2", 5e-2),
        Tolerance("openvino", "2024.4", "2027", 1e-1),
        Tolerance("tensorrt", "10.3", "12", 1e-1),
        Tolerance("onnxruntime-tensorrt", "1.20", "2", 1e-1),
    ),
}
"""Relative error of the golden outputs that other machines and versions of an engine may show, by precision.

The outputs are ONNX Runtime's. In INT8 OpenVINO fuses and rounds otherwise: with the first shipped bundle both lay 0.06 from the
FP32 graph's output, and 0.054 from each other (AVX2 without VNNI). In FP16 they lay 0.0004 from each other, both with
sums in single precision; processors that sum in half round by 0.0005 an operation. TensorRT's are not measured, since no device has
run it: they are OpenVINO's."""

UNSTATED_LICENCE = "NOASSERTION"
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,99}", re.ASCII)
"""An SPDX identifier or ``LicenseRef-`` (SPDX 2.3, annex D): one word, which nobody can add lines to ``LICENSE`` with."""


@dataclass(frozen=True)
class GoldenOutputs:
    """What the forms answer to the golden input, and on what that was computed."""

    made_by: str
    outputs: Mapping[str, Tensor]


def write_bundle(
    path: Path,
    *,
    name: str,
    version: str,
    settings: Settings,
    forms: Mapping[str, bytes | Graphs],
    golden_input: Tensor,
    provenance: Mapping[str, Any],
    key: SigningKey,
    licence: str = UNSTATED_LICENCE,
    limits: Bounds | None = None,
    quality: bytes | None = None,
    override: str = "",
) -> str:
    """Writes a signed bundle and returns the SHA-256 of its file.

    Args:
        forms: by precision the graph of the unrolled family's regulariser, or the graphs of a program.
        golden_input: ``(1, channels, rows, columns)``; of a program see `edge_runtime.modalities.mri.given`.
        provenance: training data digests, configuration, code version; becomes part of the manifest.
        licence: SPDX identifier.
        limits: of the quality report's figures.
        quality: the report, in JSON; see `edge_runtime.bundle.quality`.
        override: why the bundle is packed although it misses limits, or has no report; not recorded where it keeps them.

    Raises:
        BundleUnqualified: limits are missed and nobody overrides them.
        BundleUnsafe, BundleMalformed: a name, version, graph or size that no bundle may have.
        ConfigError: a limit, report, reason, licence or precision is malformed.
    """
    if not _LICENCE.fullmatch(licence):
        raise ConfigError(f"licence = {licence[:100]!r}: an SPDX identifier such as Apache-2.0 is expected")
    unknown = sorted(set(forms) - set(TOLERANCES))
    if unknown:
        raise ConfigError(f"precision {unknown[0]}: no tolerances are known; known are {', '.join(sorted(TOLERANCES))}")
    whole = {precision: _graphs(form) for precision, form in sorted(forms.items())}
    named = {
        graph_label(precision, name): graph for precision, form in whole.items() for name, graph in sorted(form.items())
    }
    for label, graph in named.items():
        check_graph(label, graph)
    golden = golden_outputs(settings, whole, golden_input)
    members = {
        GOLDEN_INPUT: format_array(golden_input),
        LICENCE: f"SPDX-License-Identifier: {licence}\n{_where_from(settings)}\n".encode(),
        SBOM: make_sbom(name, version, licence, named, provenance, installed_makers()),
    }
    entries = {}
    for precision, form in whole.items():
        paths = graph_members(precision, form)
        members |= {paths[name]: graph for name, graph in form.items()}
        members[golden_output(precision)] = format_array(golden.outputs[precision])
        entries[precision] = {
            **({"onnx": paths[REGULARISER]} if isinstance(settings, UnrolledSettings) else {"graphs": paths}),
            "golden_output": golden_output(precision),
            "tolerances": [asdict(tolerance) for tolerance in TOLERANCES[precision]],
        }
    document = {
        "format": FORMAT,
        "name": name,
        "version": version,
        **settings_document(settings),
        "golden_input": GOLDEN_INPUT,
        "golden_made_by": golden.made_by,
        "forms": entries,
        "limits": {figure: dict(bounds) for figure, bounds in (limits or {}).items()},
        "provenance": dict(provenance),
    }
    return write_sealed(path, *with_quality(document, members, quality, override), key)


def _where_from(settings: Settings) -> str:
    if isinstance(settings, UnrolledSettings):
        return "Weights trained on the data that manifest.json lists."
    return "A model that was trained elsewhere; manifest.json says where it comes from."


def _graphs(form: bytes | Graphs) -> Graphs:
    return {REGULARISER: form} if isinstance(form, bytes) else form


def golden_outputs(settings: Settings, forms: Mapping[str, Graphs], golden_input: Tensor) -> GoldenOutputs:
    """What ONNX Runtime answers here, with one thread."""
    engine = OnnxRuntimeEngine()
    outputs = {
        precision: made_ready(settings, graphs, engine, threads=1).golden.run(golden_input)
        for precision, graphs in forms.items()
    }
    return GoldenOutputs(engine.version(), outputs)


def with_quality(
    document: Mapping[str, Any], members: Mapping[str, bytes], quality: bytes | None, override: str
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and members with a quality report, and with an override where its limits are missed.

    Raises:
        BundleUnqualified: limits are missed and nobody overrides them.
        ConfigError: a limit, the report or the reason is malformed.
    """
    with_report = dict(members) if quality is None else {**members, QUALITY: quality}
    forms = {
        precision: form_digest(
            {name: hashlib.sha256(members[path]).hexdigest() for name, path in form_graphs(entry).items()}
        )
        for precision, entry in document["forms"].items()
    }
    reason = " ".join(override.split())
    try:
        limits = parse_limits(document["limits"])
        report = parse_report(with_report[QUALITY]) if QUALITY in with_report else None
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise ValueError(f"--override: one line of at most {MAX_REASON} characters is expected")
    except ValueError as error:
        raise ConfigError(f"{document['name']}: quality: {error}") from error
    missed = missed_limits(limits, forms, report)
    if missed and not reason:
        raise BundleUnqualified(
            f"{document['name']} {document['version']}: {'; '.join(missed)}: give --quality FILE, or take responsibility with "
            "--override REASON, which the bundle then carries and the runtime shows"
        )
    entry = {"reason": reason, "misses": list(missed)} if missed else None
    return {**document, "override": entry}, with_report
