"""Versions as numbers with dots, of models and of engines."""

from __future__ import annotations

import re

_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}){0,5}", re.ASCII)


def is_version(value: object) -> bool:
    """Whether it is whole numbers with dots between, such as ``1`` or ``0.2.0``."""
    return isinstance(value, str) and _VERSION.fullmatch(value) is not None


def version_numbers(version: str) -> tuple[int, ...]:
    """For comparison: ``1``, ``1.0`` and ``1.0.0`` are the same.

    Args:
        version: one that `is_version` admits.
    """
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def version_in(text: str) -> str:
    """The first version in a text such as ``onnxruntime 1.23.0rc1 CPUExecutionProvider``; empty where there is none."""
    found = _VERSION.search(text)
    return found.group() if found else ""
