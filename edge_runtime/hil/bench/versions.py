"""Versions of what a bench, or the server beside a command of it, runs with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("edge-runtime", "numpy", "onnxruntime", "openvino")


def installed() -> dict[str, str]:
    """By package, and Python's own."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
