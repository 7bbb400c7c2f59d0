"""Weights from a checkpoint, and nothing but weights: no code in the file is ever run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from export.adapters.errors import ImportRefused

SHOWN_NAMES = 4
"""How many names of weights a message lists."""


def load_weights(path: Path, key: str = "", prefix: str = "") -> dict[str, Tensor]:
    """The named tensors of a checkpoint, read with ``weights_only=True``.

    Args:
        key: the entry of the file that holds them; empty, the file itself.
        prefix: of the names that are taken, cut off; Lightning puts the attribute's name there, such as ``varnet.``.

    Raises:
        ImportRefused: the file needs more than tensors, or holds no such weights.
    """
    _refuse_deflated(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next(
            (line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), ""
        )
        raise ImportRefused(
            f"{path}: holds more than weights, and none of it was run ({reason or str(error).splitlines()[0]}); "
            "where you trust it, load it in its own program and save the weights alone: torch.save(model.state_dict(), path)"
        ) from None
    except Exception as error:  # what garbage makes of the unpickler: struct.error, EOFError, KeyError and more
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImportRefused(f"{path}: no checkpoint of PyTorch ({reason})") from None
    for part in key.split("/") if key else ():
        if not isinstance(content, Mapping) or part not in content:
            raise ImportRefused(f"{path}: no entry {key!r}; [checkpoint] key is one of {_entries(content)}")
        content = content[part]
    if not isinstance(content, Mapping):
        raise ImportRefused(f"{path}: holds {type(content).__name__}, not named weights; save model.state_dict()")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others and not prefix:
        raise ImportRefused(
            f"{path}: {_listed(others)} are no weights; name their entry with [checkpoint] key, one of {_entries(content)}"
        )
    weights = {
        name[len(prefix) :]: value
        for name, value in content.items()
        if isinstance(name, str) and name.startswith(prefix) and isinstance(value, Tensor)
    }
    if not weights:
        raise ImportRefused(f"{path}: no weights begin with {prefix!r}: [checkpoint] prefix; found {_entries(content)}")
    return weights


def fill(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Puts every weight where it belongs; leaves the model in evaluation mode, with frozen parameters.

    Raises:
        ImportRefused: weights are missing, left over, or of another shape or kind of numbers.
    """
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in weights]
    over = [name for name in weights if name not in wanted]
    if missing or over:
        told = [
            f"{len(names)} {word}: {_listed(names)}"
            for names, word in ((missing, "missing"), (over, "left over"))
            if names
        ]
        raise ImportRefused(f"{path}: weights {'; '.join(told)}; see [model] arguments and [checkpoint] prefix")
    for name, tensor in wanted.items():
        if weights[name].shape != tensor.shape:
            raise ImportRefused(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, the model's is {tuple(tensor.shape)}: "
                "see [model] arguments"
            )
        _refuse_other_numbers(path, name, weights[name], tensor)
        if not torch.isfinite(weights[name].float()).all():
            raise ImportRefused(f"{path}: {name} holds numbers that are not finite")
    model.load_state_dict(dict(weights))
    model.float().eval().requires_grad_(False)


def _refuse_deflated(path: Path) -> None:
    """`torch.save` writes what memory holds: a file that unpacks to more than its own size is none of its."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # PyTorch's older files are no archives
        return
    whole = sum(one.file_size for one in entries)
    if any(one.compress_type != zipfile.ZIP_STORED for one in entries) or whole > path.stat().st_size:
        raise ImportRefused(
            f"{path}: a compressed archive, which unpacks to {whole} bytes; save the weights anew, by torch.save"
        )


def _refuse_other_numbers(path: Path, name: str, weight: Tensor, wanted: Tensor) -> None:
    """Weights become the model's kind of numbers when they are filled in; what would be lost by that is refused."""
    plain = weight.layout is torch.strided and not weight.is_quantized and not weight.is_meta
    if not plain or _kind(weight) != _kind(wanted):
        how = (
            "quantized " if weight.is_quantized else "" if plain else f"{'meta' if weight.is_meta else weight.layout} "
        )
        raise ImportRefused(
            f"{path}: {name} holds {how}{weight.dtype}, the model's is {wanted.dtype}: dense weights of that kind are expected; "
            "convert them where the model was trained"
        )


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "real" if tensor.is_floating_point() else str(tensor.dtype) if tensor.dtype is torch.bool else "whole"


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _entries(content: object) -> str:
    return _listed([str(name) for name in content]) if isinstance(content, Mapping) else type(content).__name__
