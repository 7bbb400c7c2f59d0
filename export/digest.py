"""Digests of data and code, so that a bundle says what it was made of."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, read a MB at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_digest(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over the relative names and the contents of files, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(root)}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


ROOT = Path(__file__).parent.parent

BEGIN = ("export.train", "export.simulate.pool")
"""Modules from which a training run's code is reached."""


COMPUTE = ("numpy", "scipy", "onnxruntime")
"""Packages whose version may change a figure."""


def code_digest() -> str:
    """Of everything that decides a trained model's weights: the modules that training imports, and the kernels they call."""
    return _code_digest(*BEGIN)


def made_by(*modules: str, libraries: Sequence[str] = COMPUTE) -> dict[str, str]:
    """What makes the results of modules, beside their inputs: a digest of all code of this project that they reach, kernels
    included, and the versions of the libraries that compute them."""
    return {"code": _code_digest(*modules), **{name: importlib.metadata.version(name) for name in libraries}}


def _code_digest(*modules: str) -> str:
    kernels = [path for folder in ("cpu", "include") for path in ROOT.glob(f"kernels/{folder}/*")]
    return files_digest([*imported_sources(*modules), *kernels], ROOT)


def imported_sources(*modules: str) -> set[Path]:
    """The source files of modules of this project and of all those of it that they import, however deep."""
    found: dict[str, Path] = {}
    left = list(modules)
    while left:
        name = left.pop()
        path = _source(name)
        if name in found or path is None:
            continue
        found[name] = path
        left.append(name.rpartition(".")[0])  # a package's own code runs too
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                left += [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
            elif isinstance(node, ast.Import):
                left += [one.name for one in node.names]
    return set(found.values())


def _source(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    if module.split(".")[0] not in ("export", "edge_runtime"):
        return None
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
