"""Lets `import torchvision` succeed beside a torch that its compiled operators were not built for.

PyPI's torchvision is linked with CUDA; beside the CPU build of torch its library does not load. Its Python code then still
describes two operators to torch, which refuses what was never declared ("operator torchvision::nms does not exist"). Declaring
them is enough for everything that isn't compiled; calling one says that it has no implementation.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

import torch

BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OPERATORS = ("nms", "qnms")

_declared: list[torch.library.Library] = []  # torch forgets what a library declared once the library is gone


def declare_operators() -> None:
    """Declares the operators where torchvision is there, not imported yet, and its library does not load."""
    if "torchvision" in sys.modules or _declared or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in OPERATORS:
        library.define(operator + BOXES)
    _declared.append(library)
