"""Which phase encodes a simulated scan plans, in which order, and which of them arrive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.modalities.mri import sampling
from export.simulate.settings import AcquisitionConfig

Steps = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Schedule:
    """Every readout of the scan's slices that arrives, in the order of time.

    Attributes:
        planned: phase encodes of each slice as the protocol says them, in ascending order.
        slices, lines: of every readout that arrives, ``(readouts,)``.
        times: its number among all planned readouts, ``(readouts,)``; shots are counted by it.
        total: planned readouts of all slices.
        stopped: the scan was stopped before its end.
    """

    planned: Steps
    slices: Steps
    lines: Steps
    times: Steps
    total: int
    stopped: bool


def planned_lines(config: AcquisitionConfig, rng: np.random.Generator) -> Steps:
    """The phase encodes ``0 … phase_encodes - 1`` that the protocol measures, ascending; the centre is ``phase_encodes // 2``.

    Partial Fourier leaves out the first lines: of N, those below ``round((1 - partial_fourier) * N)``.
    """
    count = config.phase_encodes
    if config.mask == "full":
        mask = np.ones(count, np.bool_)
    elif config.mask == "uniform":
        mask = sampling.uniform(count, int(config.acceleration), config.acs_fraction)
    else:
        mask = sampling.variable_density(count, config.acceleration, config.acs_fraction, rng)
    mask[: round((1 - config.partial_fourier) * count)] = False
    return np.flatnonzero(mask)


def in_order(lines: Steps, config: AcquisitionConfig) -> Steps:
    """A slice's lines in the order in which they are measured.

    ``interleaved`` is that of a multi-shot scan: with S shots, shot s measures every S-th line from the s-th on.
    """
    if config.line_order == "linear":
        return lines
    if config.line_order == "centre_out":
        return lines[np.argsort(np.abs(lines - config.phase_encodes // 2), kind="stable")]
    shots = -(-len(lines) // config.lines_per_shot)
    return np.concatenate([lines[shot::shots] for shot in range(shots)])


def schedule(config: AcquisitionConfig, masks: np.random.Generator, losses: np.random.Generator) -> Schedule:
    """The whole scan: every slice measures the same lines; each readout is lost with the same probability.

    Raises:
        ValueError: nothing is left of the scan.
    """
    planned = planned_lines(config, masks)
    ordered = in_order(planned, config)
    if config.slice_order == "sequential":
        slices, lines = np.repeat(np.arange(config.slices), len(ordered)), np.tile(ordered, config.slices)
    else:
        slices, lines = np.tile(np.arange(config.slices), len(ordered)), np.repeat(ordered, config.slices)
    total = len(lines)
    times = np.arange(total)
    stop = max(1, round(config.stop_after_share * total))
    arrives = (losses.random(total) >= config.dropout_share) & (times < stop)
    if not arrives.any():
        raise ValueError(f"dropout_share = {config.dropout_share}: no readout arrives; a smaller share is expected")
    return Schedule(planned, slices[arrives], lines[arrives], times[arrives], total, stop < total)


def shots_of(times: Steps, config: AcquisitionConfig) -> Steps:
    """The shot of every readout: `lines_per_shot` phase encodes, of one slice or of all of them in turn."""
    together = config.slices if config.slice_order == "interleaved" else 1
    return times // (config.lines_per_shot * together)
