"""Networks in PyTorch, beside which the engines' graphs of them are timed."""

from __future__ import annotations

import importlib.util
from itertools import count, takewhile
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import onnx
import torch
from torch import nn

from export.families.unrolled import Regulariser

UNET_CHANNELS = 32
UNET_SEED = 0


def regulariser_of(graph: bytes) -> Regulariser:
    """The regulariser with the weights of its FP32 graph, which keeps their names.

    Raises:
        RuntimeError: the graph is of another network.
    """
    initializers = onnx.load_model_from_string(graph).graph.initializer
    weights = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in initializers}
    names = takewhile(weights.__contains__, (f"encode.{level}.first.weight" for level in count()))
    network = Regulariser(tuple(len(weights[name]) for name in names))
    network.load_state_dict({name: weights[name] for name in network.state_dict() if name in weights})
    return network.eval()


def fastmri_unet() -> nn.Module:
    """fastMRI's `Unet`, one plane to one plane, with drawn weights: how long it takes does not hang on them.

    The package itself asks for torchvision; the file of this model does not, and is loaded by itself.

    Raises:
        ImportError: fastmri is not installed.
    """
    torch.manual_seed(UNET_SEED)
    network = _module("fastmri", "models/unet.py").Unet(1, 1, chans=UNET_CHANNELS, num_pool_layers=4)
    return cast(nn.Module, network.eval())


def _module(package: str, file: str) -> Any:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ImportError(f"No module named {package!r}", name=package)
    path = Path(found.origin).parent / file
    spec = importlib.util.spec_from_file_location(f"{package}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
