"""What is judged: the forms of a model, from a bundle or from the work folder it will be packed from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle import Graphs, Settings, TrustStore, load_bundle
from edge_runtime.bundle.manifest import REGULARISER
from edge_runtime.bundle.quality import Limit, form_digest, parse_limits
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.modalities.mri.families import made_ready
from edge_runtime.modalities.mri.proposal import Learned
from export.config import load_config


@dataclass(frozen=True)
class Subject:
    """A model as the device would run it.

    Attributes:
        forms: by precision the graphs, by name.
        limits: bounds of figures that it must keep.
        origin: where it came from, in words; a bundle's with its SHA-256.
        provenance: of the bundle that it is or becomes, as far as `export.required` asks for it.
    """

    name: str
    version: str
    settings: Settings
    forms: Mapping[str, Graphs]
    limits: Mapping[str, Limit]
    origin: str
    provenance: object = None

    def digests(self) -> dict[str, str]:
        """What a report calls the forms, by precision (`edge_runtime.bundle.quality.form_digest`)."""
        return {
            precision: form_digest({name: hashlib.sha256(graph).hexdigest() for name, graph in graphs.items()})
            for precision, graphs in self.forms.items()
        }

    def models(self, threads: int) -> dict[str, Learned]:
        """Every form, made ready on the engine that every device has."""
        engine = OnnxRuntimeEngine()
        return {
            precision: made_ready(self.settings, graphs, engine, threads) for precision, graphs in self.forms.items()
        }


def of_bundle(path: Path, trust: TrustStore | None) -> Subject:
    """The forms of a bundle that the trust store admits.

    Raises:
        BundleError: the runtime would not use it.
    """
    bundle = load_bundle(path, trust)
    forms = {precision: bundle.forms[precision].graphs for precision in sorted(bundle.forms)}
    limits = parse_limits(bundle.manifest["limits"])
    origin = f"bundle of SHA-256 {bundle.digest}, signed by {bundle.signed_by[0]}"
    return Subject(
        bundle.name, bundle.version, bundle.settings, forms, limits, origin, bundle.manifest.get("provenance")
    )


def of_work(config_path: Path, work: Path) -> Subject:
    """The forms that `edge-export quantize` wrote into a work folder.

    Raises:
        ConfigError: there are none, or they are of another model than the folder's.
    """
    from export.programs.config import is_program_config

    if is_program_config(config_path):
        return _of_program(config_path, work)
    from export.quantization.folder import CALIBRATION, FOLDER, read_forms  # with torch
    from export.quantization.run import settings_of
    from export.train import model_of

    config = load_config(config_path)
    network = model_of(config, work).network
    forms = {precision: {REGULARISER: graph} for precision, graph in read_forms(work, network, config_path).items()}
    limits = parse_limits(config.limits)
    provenance = {
        "training_data": json.loads((work / "data.json").read_text(encoding="utf-8")),
        "calibration": json.loads((work / FOLDER / CALIBRATION).read_text(encoding="utf-8")),
    }
    origin = f"work folder {work.name}"
    return Subject(config.name, config.version, settings_of(network), forms, limits, origin, provenance)


def _of_program(config_path: Path, work: Path) -> Subject:
    from export.adapters.storage import read_program
    from export.programs.config import load_program_config
    from export.programs.folder import read_forms
    from export.programs.settings import settings_of

    config = load_program_config(config_path)
    program = read_program(config.program)
    forms, limits = read_forms(work, program, config_path), parse_limits(config.limits)
    origin = f"work folder {work.name}"
    return Subject(program.name, program.version, settings_of(program, config), forms, limits, origin)
