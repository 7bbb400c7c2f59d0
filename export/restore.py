"""`edge-export restore`: the work folder's trained model, out of a bundle that was packed of it.

A bundle outlives the folder it was made in. What it holds is enough to quantize, qualify and pack the same weights anew: under
other limits, for other engines, with another key.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from edge_runtime.bundle import UnrolledSettings, load_bundle
from edge_runtime.bundle.trust_store import TrustStore
from export.config import ConfigError, ModelConfig, load_config
from export.families.unrolled import UnrolledNetwork
from export.quantization.folder import FULL
from export.simulate.pool import Pool
from export.split import regulariser_onnx
from export.train import About, model_path, run_identity, save_model

DECIDES = ("simulate", "network", "train", "refine")
"""Tables of a configuration that weights hang on."""

TOLD = ("configuration", "training_data", "code_sha256", "first_losses")
"""By the provenance of every bundle of a model that was trained here."""


def restore(bundle_path: Path, config: ModelConfig, work: Path, trust: TrustStore) -> Path:
    """Writes the model of a bundle of the shipped family into a work folder; returns its path.

    The pool in ``work`` has been filled before (`edge-export pool`), of the volumes that the bundle names; the configuration may
    differ from the bundle's in what weights do not hang on. A model that is there is not written over.

    Raises:
        BundleError: the bundle is not one that may be used.
        ConfigError: it is of another family or has no FP32 form, or was trained with another configuration or on other volumes; or
            its graph is not what this version of torch exports of its weights; or there is a model or no pool in the folder.
        OtherInputs: the pool does not say what it was made of.
    """
    if (there := model_path(config, work)).exists():
        raise ConfigError(f"{there}: there is a model, which is not written over: remove it, or choose another --work")
    if not (work / "data.json").exists():
        raise ConfigError(f"{work}: its pool is not filled; run edge-export pool first, of the volumes of the training")
    bundle = load_bundle(bundle_path, trust=trust)
    if not isinstance(bundle.settings, UnrolledSettings):
        raise ConfigError(f"{bundle_path}: an imported program; quantize and pack take its .edgeprogram as it is")
    provenance, forms = bundle.manifest["provenance"], bundle.forms
    if wanting := [name for name in TOLD if name not in provenance]:
        raise ConfigError(f"{bundle_path}: its provenance does not tell {', '.join(wanting)}: it was not trained here")
    if FULL not in forms:
        raise ConfigError(
            f"{bundle_path}: has no form {FULL}, only {', '.join(sorted(forms))}: weights are taken from that"
        )
    _check(bundle_path, config, provenance, work)
    network = UnrolledNetwork(config.network)
    graph = onnx.load_from_string(forms[FULL].onnx)
    weights = {f"regulariser.{one.name}": _tensor(numpy_helper.to_array(one)) for one in graph.graph.initializer}
    laws = torch.tensor(bundle.settings.log_weights)
    weights |= {"log_weights": laws[:, :2], "share_slopes": laws[:, 2]}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"{bundle_path}: its graph is not the configuration's network: {error}") from error
    if regulariser_onnx(network.eval()) != forms[FULL].onnx:
        raise ConfigError(
            f"{bundle_path}: torch {torch.__version__} exports another graph of its weights: install the version that the bundle's "
            "SBOM names"
        )
    about = About(
        run_identity(config.network, config.train, Pool(work / "pool").record, config.refine),
        tuple(provenance["code_sha256"].split(", ")),
        tuple(provenance["first_losses"]),
        provenance.get("begun_with", ""),  # bundles from before it was noted do not tell
    )
    return save_model(there, network, config.network, about)


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(values))


def _check(bundle_path: Path, config: ModelConfig, provenance: Any, work: Path) -> None:
    """The bundle's weights hang on the same configuration and volumes."""
    beside = work / "bundle.toml"
    beside.write_text(provenance["configuration"], encoding="utf-8")
    packed = load_config(beside)
    if differing := [name for name in DECIDES if getattr(packed, name) != getattr(config, name)]:
        raise ConfigError(
            f"{bundle_path}: trained with another [{'], ['.join(differing)}]; its own configuration is in {beside}"
        )
    data, trained_on = json.loads((work / "data.json").read_text(encoding="utf-8")), provenance["training_data"]
    if data["sha256"] != trained_on["sha256"]:
        raise ConfigError(
            f"{work / 'pool'}: of the volumes {', '.join(data['volumes'])}, SHA-256 {data['sha256']}; the bundle was trained on "
            f"{', '.join(trained_on['volumes'])}, {trained_on['sha256']}: fill the pool from those"
        )
