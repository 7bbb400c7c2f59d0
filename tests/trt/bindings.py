"""TensorRT's real Python bindings over libraries that hold nothing, and stand-ins that have what their classes have and no more.

A stand-in (`Checked`) hands calls on to a Python object, once the real class is known to have the method and one of the method's
signatures to take the arguments: pybind11 writes them into docstrings. `unittest.mock.create_autospec` can't read those.
"""

from __future__ import annotations

import ctypes
import importlib
import numbers
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

REAL = "tensorrt_bindings"


def load_bindings() -> ModuleType:
    """Of the version in the folder that EDGE_TENSORRT names; one in a process."""
    if REAL not in sys.modules:
        folder = Path(os.environ["EDGE_TENSORRT"]).resolve()
        for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
            (library,) = (folder / "lib").glob(f"lib{name}.so.*")
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        sys.path.insert(0, str(folder / "python"))
    return importlib.import_module(REAL)


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    optional: bool


def signatures(documentation: str, name: str) -> list[list[Parameter]]:
    """What pybind11 wrote into a docstring; one list of parameters an overload, without self."""
    found = []
    for line in documentation.splitlines():
        match = re.match(rf"\s*(?:\d+\. )?{re.escape(name)}\((.*)\)(?: ->.*)?$", line)
        if match and not match.group(1).startswith("*args"):
            parts = [part for part in split(match.group(1)) if part]
            found.append([parameter(part) for part in parts if not re.match(r"self\b", part)])
    return found


def split(text: str) -> list[str]:
    """At the commas that are in no bracket."""
    parts, depth, part = [], 0, ""
    for letter in text:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += letter
    return [*parts, part.strip()]


def parameter(text: str) -> Parameter:
    name, _, rest = text.partition(":")
    kind, _, default = rest.partition(" = ")
    return Parameter(name.strip(), kind.strip(), bool(default))


def bound(parameters: list[Parameter], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments by name; None where the parameters do not take them."""
    if len(args) > len(parameters):
        return None
    given = dict(zip((one.name for one in parameters), args))
    if set(kwargs) & set(given) or not set(kwargs) <= {one.name for one in parameters}:
        return None
    given |= kwargs
    for one in parameters:
        if one.name not in given and not one.optional:
            return None
        if one.name in given and not fits(given[one.name], one.kind):
            return None
    return given


def fits(value: Any, kind: str) -> bool:
    """Whether pybind11 would take a value for a parameter of this kind."""
    if kind in ("int", "typing.SupportsInt"):
        return isinstance(value, numbers.Integral)
    if kind == "float":
        return isinstance(value, numbers.Real)
    if kind in ("str", "bool"):
        return isinstance(value, {"str": str, "bool": bool}[kind])
    if kind in ("buffer", "typing_extensions.Buffer"):
        return isinstance(value, (bytes, bytearray, memoryview))
    if kind.endswith("tensorrt.Dims"):
        return isinstance(value, (tuple, list)) and all(isinstance(size, numbers.Integral) for size in value)
    if kind.startswith(f"{REAL}.tensorrt."):
        wanted = getattr(sys.modules[REAL], kind.rpartition(".")[2], None)
        real = value.real_class if isinstance(value, Checked) else type(value)
        return wanted is None or issubclass(real, wanted)
    return True


def check_call(owner: type, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """That a method of a real class takes these arguments.

    Raises:
        TypeError: none of its signatures does.
    """
    known = signatures(getattr(owner, method).__doc__ or "", method)
    assert known, f"{owner.__name__}.{method} documents no signature"
    if not any(bound(one, args, kwargs) is not None for one in known):
        raise TypeError(f"{owner.__name__}.{method} does not take {args} {kwargs}; it has {known}")


class Checked:
    """Stands for an object of a real class; what it does is another object's part."""

    def __init__(self, real_class: type, part: Any) -> None:
        object.__setattr__(self, "real_class", real_class)
        object.__setattr__(self, "part", part)

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.real_class, name)  # AttributeError: the real class does not have it
        if isinstance(member, property):
            return getattr(self.part, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            check_call(self.real_class, name, args, kwargs)
            return getattr(self.part, name)(*args, **kwargs)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        member = getattr(self.real_class, name)
        assert isinstance(member, property) and member.fset is not None, f"{name} can't be set"
        (kind,) = [one.kind for one in signatures_of_setter(member)] or [""]
        assert fits(value, kind), f"{name} = {value!r}: {kind} is expected"
        setattr(self.part, name, value)

    def __bytes__(self) -> bytes:
        assert self.real_class.__name__ == "IHostMemory"
        return bytes(self.part)


def signatures_of_setter(member: property) -> list[Parameter]:
    """The value's parameter, where pybind11 documents it."""
    match = re.match(r"\((?:self|arg0): [^,]+, (?:arg\d|\w+): ([^)]+)\)", (member.fset.__doc__ or "").strip())
    return [Parameter("value", match.group(1), False)] if match else []
