"""The one artefact a device runs: graphs, their golden inputs and outputs, and what is needed to use and to trust them.

A bundle is one signed file (docs/bundles.md) of plain members, neither code nor pickles. `load` makes every check in its order:
`archive` (bytes to members), `signature` and `trust_store` (who made it), `manifest` (typed values), `golden` (arrays), `graph`
(what an ONNX graph may not do), `quality` (limits). `verify` lists the checks, `describe` shows a bundle.
"""

from edge_runtime.bundle.archive import MANIFEST
from edge_runtime.bundle.golden import Form, Graphs
from edge_runtime.bundle.load import DEFAULT_BUNDLE, Bundle, load_bundle
from edge_runtime.bundle.manifest import FORMAT, ProgramSettings, Settings, Tolerance, UnrolledSettings
from edge_runtime.bundle.trust_store import TrustStore, load_trust_store

__all__ = [
    "DEFAULT_BUNDLE",
    "FORMAT",
    "MANIFEST",
    "Bundle",
    "Form",
    "Graphs",
    "ProgramSettings",
    "Settings",
    "Tolerance",
    "TrustStore",
    "UnrolledSettings",
    "load_bundle",
    "load_trust_store",
]
