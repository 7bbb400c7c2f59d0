"""Conjugate gradients in NumPy and double precision, one problem at a time."""

from __future__ import annotations

from typing import Any

import numpy as np


def conjugate_gradients(matrix: Any, right: Any, start: Any, steps: int, tolerance: float) -> tuple[Any, int]:
    """``matrix x = right`` from ``start``, and the steps made until ``|right - matrix x| <= tolerance |right|``."""
    x = start.astype(complex)
    residual = right - matrix @ x
    direction = residual
    for step in range(steps):
        if np.linalg.norm(residual) <= tolerance * np.linalg.norm(right):
            return x, step
        product = matrix @ direction
        energy = np.vdot(residual, residual).real
        length = energy / np.vdot(direction, product).real
        x = x + length * direction
        residual = residual - length * product
        direction = residual + np.vdot(residual, residual).real / energy * direction
    return x, steps
