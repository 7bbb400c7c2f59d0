"""Whether a bundle can hold an imported program: what the device's reader says of it, before anything is written."""

from __future__ import annotations

import json

from edge_runtime.bundle.archive import MANIFEST, check_bounds
from edge_runtime.bundle.graph import check_graph
from edge_runtime.bundle.manifest import FORMAT, ProgramSettings, parse_manifest, settings_document
from edge_runtime.errors import BundleError
from export.adapters.errors import ImportRefused
from export.adapters.program import SplitProgram
from export.members import GOLDEN_INPUT, golden_output, graph_members
from export.programs.folder import FULL


def check_packable(program: SplitProgram) -> None:
    """Reads the manifest that a bundle of the program in single precision would have, and holds its graphs against the bounds.

    What only a configuration says (where the program starts, its brightness) is not looked at.

    Raises:
        ImportRefused: no bundle can hold it, or no device would run it; says why.
    """
    graphs = graph_members(FULL, program.files)
    sizes = {graphs[file]: len(content) for file, content in program.files.items()}
    files = {
        graphs[graph.file]: {"bytes": sizes[graphs[graph.file]], "sha256": graph.sha256} for graph in program.graphs
    }
    arrays = {member: {"bytes": 0, "sha256": "0" * 64} for member in (GOLDEN_INPUT, golden_output(FULL))}
    try:
        document = {
            "format": FORMAT,
            "name": program.name,
            "version": program.version,
            **settings_document(
                ProgramSettings(program.steps(), "zero_filled", brightness=1.0, live_bytes_per_pixel=1)
            ),
            "golden_input": GOLDEN_INPUT,
            "forms": {FULL: {"graphs": graphs, "golden_output": golden_output(FULL), "tolerances": []}},
            "limits": {},
            "override": None,
            "files": {**files, **arrays},
        }
        manifest = json.dumps(document).encode()
        parse_manifest(manifest)
        check_bounds({**sizes, MANIFEST: len(manifest)})
        for file, content in sorted(program.files.items()):
            check_graph(file, content)
    except (BundleError, ValueError) as error:
        raise ImportRefused(f"{program.name[:100]!r}: no bundle can hold it: {error}") from error
