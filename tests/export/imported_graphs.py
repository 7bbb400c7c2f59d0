"""Graphs of models that others wrote, as `edge-export import` splits them: for compilers that want files.

    python tests/export/imported_graphs.py --out build/imported

In .venv-import. Small seeded networks, every kind that is taken over: ``OUT/NAME-FILE.onnx``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import test_import_deepinv as deepinv_models
import test_import_fastmri as fastmri_models
import test_import_monai as monai_models
from imported_models import imported, saved


def fastmri_unet(folder: Path) -> Any:
    from fastmri.models import Unet

    from export.adapters import fastmri

    return imported(fastmri, saved(folder, Unet(1, 1, chans=4, num_pool_layers=3), fastmri_models.UNET))


def fastmri_varnet(folder: Path) -> Any:
    from export.adapters import fastmri

    return imported(fastmri, fastmri_models.varnet_files(folder))


def monai_unet(folder: Path) -> Any:
    from export.adapters import monai

    return imported(monai, saved(folder, monai_models.complex_unet(), monai_models.UNET))


def monai_varnet(folder: Path) -> Any:
    from monai.apps.reconstruction.networks.nets.coil_sensitivity_model import CoilSensitivityModel
    from monai.apps.reconstruction.networks.nets.varnet import VariationalNetworkModel

    from export.adapters import monai

    sensitivities = CoilSensitivityModel(features=monai_models.FEATURES)
    model = VariationalNetworkModel(sensitivities, monai_models.complex_unet(), num_cascades=2)
    return imported(monai, saved(folder, model, monai_models.VARNET))


def deepinv_dncnn(folder: Path) -> Any:
    from export.adapters import deepinv

    return imported(deepinv, saved(folder, deepinv_models.dncnn(), f"[model]\n{deepinv_models.DNCNN}"))


def deepinv_unet(folder: Path) -> Any:
    from export.adapters import deepinv

    return imported(deepinv, saved(folder, deepinv_models.unet(), f"[model]\n{deepinv_models.UNET}"))


def deepinv_modl(folder: Path) -> Any:
    from export.adapters import deepinv

    mapping = deepinv_models.unrolled("MoDL", "num_iter", deepinv_models.DNCNN)
    return imported(deepinv, saved(folder, deepinv_models.modl(deepinv_models.dncnn()), mapping))


MODELS: tuple[Callable[[Path], Any], ...] = (
    fastmri_unet,
    fastmri_varnet,
    monai_unet,
    monai_varnet,
    deepinv_dncnn,
    deepinv_unet,
    deepinv_modl,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the graphs")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    from export.adapters.torchvision_operators import declare_operators

    declare_operators()
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            for file, graph in model(Path(folder)).program.files.items():
                (out / f"{model.__name__}-{Path(file).stem}.onnx").write_bytes(graph)
    print(f"{out}: {len(list(out.glob('*.onnx')))} graphs of {len(MODELS)} models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
