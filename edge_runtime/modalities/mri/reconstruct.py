"""From one slice's samples to its images and their evidence: no sockets, no state, no clock."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import Abandoned, EngineError, NoImage
from edge_runtime.kernels import Plans, SensePlan
from edge_runtime.modalities.mri.ahead import goes_on
from edge_runtime.modalities.mri.classical import regularised_sense
from edge_runtime.modalities.mri.coils import compression_matrix, estimate_sensitivities
from edge_runtime.modalities.mri.fourier import Complex, to_kspace
from edge_runtime.modalities.mri.noise import NoiseLevel, estimate_noise
from edge_runtime.modalities.mri.normalise import image_scale
from edge_runtime.modalities.mri.proposal import Begun, Learned, Mask, Seen, Stepwise
from edge_runtime.modalities.mri.sampling import contiguous_centre
from edge_runtime.modalities.mri.support import object_support
from edge_runtime.scan import Evidence, Method
from edge_runtime.trust.heldout import believed_share, choose_held_out, share_source

ChooseHeldOut: TypeAlias = Callable[[Mask, slice, int, np.random.Generator], Mask]

MAX_VIRTUAL_COILS = 8
MOST_ACS_LINES = 32
MISFIT = 3.0
"""Residual over noise from which on the sensitivities are to blame. Sound calibrations leave 0.8 to 1.5."""

ERROR_OVER_MISFIT = 2.0
"""How much larger their error is, about, than what the fit leaves of it: seen with five calibration lines for 32 coils."""

FEW_ACS_LINES = 4
"""With fewer contiguous central lines the sensitivities can't vary along the phase encodes; the image says so."""


@dataclass(frozen=True)
class SliceSamples:
    """What is measured of one slice.

    Attributes:
        hybrid: averaged samples after whitening, readout transform and crop, ``(coils, phase_encodes, columns)``, zero where
            nothing was measured.
        measured: ``(phase_encodes,)``.
        noise: of one averaged sample; ``None`` to estimate it from the samples.
        seed: identity of the slice, from which the held-out samples are drawn.
    """

    hybrid: Complex
    measured: npt.NDArray[np.bool_]
    noise: NoiseLevel | None
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Calibration:
    """What the ACS tells; it can be had before the scan ends.

    Attributes:
        acs: the lines it was made from.
        compression: ``(virtual_coils, coils)``.
        sensitivities: ``(virtual_coils, phase_encodes, columns)``, zero in the air.
        scale: brightness of the ACS image.
    """

    acs: slice
    compression: Complex
    sensitivities: Complex
    scale: float


@dataclass(frozen=True)
class Compressed:
    """The samples of one slice in virtual coils, and which of them the network may not see.

    Attributes:
        hybrid: ``(virtual_coils, phase_encodes, columns)``, zero where nothing was measured.
        held_out: ``(phase_encodes, columns)``; a part of what was measured.
        noise: of one sample.
    """

    hybrid: Complex
    held_out: npt.NDArray[np.bool_]
    noise: NoiseLevel


@dataclass(frozen=True)
class Reconstruction:
    """One magnitude image ``(phase_encodes, columns)`` and its evidence.

    Attributes:
        runs_ahead: of the network, that were made before the last samples came.
    """

    image: npt.NDArray[np.float32]
    evidence: Evidence | None
    runs_ahead: int = 0


def calibration_lines(measured: npt.NDArray[np.bool_]) -> slice:
    """The contiguous central lines that calibration uses; empty where the centre is not measured."""
    run = contiguous_centre(measured)
    half = MOST_ACS_LINES // 2
    centre = measured.size // 2
    return slice(max(run.start, centre - half), min(run.stop, centre + half))


def calibrate(hybrid: Complex, measured: npt.NDArray[np.bool_], plans: Plans) -> Calibration:
    """Coil compression and sensitivities from the ACS.

    Args:
        hybrid: ``(coils, phase_encodes, columns)``: the slice's own lines, or separate calibration lines.
        measured: ``(phase_encodes,)``.

    Raises:
        NoImage: the centre of k-space is not measured yet, or holds no signal or one that is out of range.
    """
    acs = calibration_lines(measured)
    if acs.stop <= acs.start:
        raise NoImage(
            f"the centre of k-space (phase encode {measured.size // 2} of {measured.size}) is not measured; "
            f"{int(measured.sum())} other phase encodes are"
        )
    try:
        scale = image_scale(hybrid, acs, plans)
    except ValueError as error:
        raise NoImage(str(error)) from error
    compression = compression_matrix(hybrid[:, acs], MAX_VIRTUAL_COILS)
    lines, (coils, phase_encodes, columns) = acs.stop - acs.start, hybrid.shape
    with plans.coils(coils, lines, columns) as plan:
        virtual = np.asarray(plan.compress(hybrid[:, acs], np.ones(lines, np.bool_), compression))
    support = object_support(virtual, acs, phase_encodes, plans)
    sensitivities = estimate_sensitivities(to_kspace(virtual, axis=2), phase_encodes, columns, plans, support)
    return Calibration(acs, compression, sensitivities, scale)


def compress(
    samples: SliceSamples, calibration: Calibration, plans: Plans, choose: ChooseHeldOut = choose_held_out
) -> Compressed:
    """Virtual coils, held-out samples and the noise level of a slice. Training draws its problems from here too.

    Args:
        choose: the held-out samples, as `choose_held_out` does.
    """
    measured = samples.measured
    with plans.coils(*samples.hybrid.shape) as plan:
        hybrid = plan.compress(samples.hybrid, measured, calibration.compression)
    held_out = choose(measured, calibration.acs, hybrid.shape[2], np.random.default_rng(samples.seed))
    noise = samples.noise or estimate_noise(hybrid, measured & ~held_out.any(axis=1))
    return Compressed(hybrid, held_out, noise)


def reconstruct(
    samples: SliceSamples,
    calibration: Calibration,
    learned: Learned | None,
    plans: Plans,
    wanted: Callable[[], bool] = lambda: True,
    begun: Begun | None = None,
    failed: Callable[[Exception], None] = lambda error: None,
) -> Iterator[tuple[Method, Reconstruction]]:
    """The images of one slice as they become ready: learned (where a network is given), classical, zero-filled.

    Args:
        wanted: asked while the learned image, which takes longest, is made.
        begun: the learned image's first runs, made with the same calibration of a part of the same samples (`begin`). They are
            gone on with where the image can't come out otherwise for it than the network's tolerance allows, else made anew.
        failed: told at once what the network failed with, before the other images come.

    Raises:
        Abandoned: it was not wanted any more; no image has come then.
        Exception: whatever the network failed with, mostly an EngineError or a ProgramRefused; only after the other images.
    """
    failure: Exception | None = None
    with _looked_at(samples, calibration, learned, plans, wanted, begun) as (seen, power):
        if learned is not None:
            try:
                made = learned_image(learned, seen)
            except Abandoned:
                raise
            except Exception as error:  # the patient's other images are due all the same
                failure = error
                failed(error)
            else:
                yield Method.LEARNED, made
        plan, everything = seen.plan, seen.measured
        plan.set_samples(seen.hybrid, everything)
        classical = regularised_sense(plan, power, samples.measured, seen.level)
        image, residual_power = plan.substituted(classical, seen.hybrid, everything)
        nothing = np.zeros_like(everything)
        proof = evidence(np.asarray(residual_power), seen.sample_power, everything, nothing, seen.noise)
        yield Method.CLASSICAL, Reconstruction(np.asarray(image), proof)
    with plans.coils(*samples.hybrid.shape) as coil_plan:
        image = coil_plan.root_sum_of_squares(samples.hybrid, samples.measured)
        yield Method.ZERO_FILLED, Reconstruction(np.asarray(image), None)
    if failure is not None:
        raise failure


def begin(
    samples: SliceSamples,
    calibration: Calibration,
    learned: Stepwise,
    plans: Plans,
    begun: Begun | None = None,
    wanted: Callable[[], bool] = lambda: True,
) -> Begun:
    """One run of the network for the learned image of a slice that is still being measured.

    Args:
        samples: of it, so far.
        begun: the runs before, of fewer of its samples and the same calibration.

    Raises:
        Abandoned: it was not wanted any more.
        EngineError: the network could not be run.
    """
    with _looked_at(samples, calibration, learned, plans, wanted, begun, tolerance=math.inf) as (seen, _):
        return learned.step(seen, seen.begun)


@contextlib.contextmanager
def _looked_at(
    samples: SliceSamples,
    calibration: Calibration,
    learned: Learned | None,
    plans: Plans,
    wanted: Callable[[], bool],
    begun: Begun | None,
    tolerance: float | None = None,
) -> Iterator[tuple[Seen, npt.NDArray[np.float32]]]:
    """A slice as a network is given it, and the power of its samples, summed over the coils, ``(phase_encodes, columns)``."""
    measured, compressed = samples.measured, compress(samples, calibration, plans)
    hybrid, held_out, noise = compressed.hybrid, compressed.held_out, compressed.noise
    everything = np.repeat(measured[:, None], hybrid.shape[2], axis=1)
    visible = everything & ~held_out
    with plans.sense(*hybrid.shape) as plan:
        power = np.asarray(plan.sample_power(hybrid))
        plan.set_maps(calibration.sensitivities)
        plan.set_samples(hybrid, visible)
        shown = power * visible
        if begun is not None:
            assert isinstance(learned, Stepwise)
            limit = learned.tolerance if tolerance is None else tolerance
            if not goes_on(begun, learned.runs, visible, shown, calibration.scale, noise, limit):
                begun = None
        if begun is None:
            first, level = first_image(plan, hybrid, shown, measured, visible, noise)
        else:
            first, level = begun.first, begun.level
        seen = Seen(
            coils=samples.hybrid,
            hybrid=hybrid,
            sensitivities=calibration.sensitivities,
            measured=everything,
            visible=visible,
            sample_power=power / np.float32(len(hybrid)),
            acs_lines=calibration.acs.stop - calibration.acs.start,
            scale=calibration.scale,
            noise=noise,
            level=level,
            plan=plan,
            first=first,
            plans=plans,
            wanted=wanted,
            begun=begun,
        )
        yield seen, power


def learned_image(learned: Learned, seen: Seen) -> Reconstruction:
    """A network's image as far as the held-out samples let it be believed, and its evidence.

    Raises:
        Abandoned, EngineError, ProgramRefused: see `edge_runtime.modalities.mri.proposal.Learned.propose`.
        EngineError: numbers that are not finite came of what the network made, such as squares beyond single precision.
    """
    held_out = seen.measured & ~seen.visible
    with learned.propose(seen) as proposal:
        step = proposal.plan.line_search(proposal.first, proposal.image, proposal.hybrid, held_out)
        if step is not None and not math.isfinite(step):
            raise EngineError(
                f"the network's image is not finite: held against the held-out samples it has a share of {step}"
            )
        share = believed_share(step)
        image, residual_power = (np.asarray(array) for array in proposal.finished(share))
    if not (np.isfinite(image).all() and np.isfinite(residual_power).all()):
        raise EngineError("the network's image, or its disagreement with the samples, is not finite")
    proof = evidence(residual_power, proposal.sample_power, seen.visible, held_out, seen.noise)
    return Reconstruction(
        image,
        replace(
            proof,
            learned_share=None if step is None else share,
            learned_share_source=share_source(step, proof.held_out_samples),
        ),
        runs_ahead=seen.begun.runs if seen.begun is not None else 0,
    )


def first_image(
    plan: SensePlan,
    hybrid: Complex,
    power: npt.NDArray[np.float32],
    measured: npt.NDArray[np.bool_],
    visible: npt.NDArray[np.bool_],
    noise: NoiseLevel,
) -> tuple[Complex, float]:
    """The classical image of what the network may see, where it starts, and the noise level that both reckon with.

    Args:
        plan: holds the maps and the visible samples.
        hybrid: the samples, ``(virtual_coils, phase_encodes, columns)``.
        power: of the visible samples, summed over the coils, ``(phase_encodes, columns)``.
        measured: ``(phase_encodes,)``.
        visible: ``(phase_encodes, columns)``.
    """
    first = regularised_sense(plan, power, measured, noise.standard_deviation)
    level = level_to_reckon_with(np.asarray(plan.substituted(first, hybrid, visible)[1])[visible], noise)
    if level > noise.standard_deviation:
        first = regularised_sense(plan, power, measured, level)
    return first, level


def level_to_reckon_with(residual_power: npt.NDArray[np.float32], noise: NoiseLevel) -> float:
    """The noise, or what sensitivities that do not fit the samples add to it: an image that disagrees with its own samples by far
    more than noise can explain must not be held to them (Morozov's discrepancy principle).

    Args:
        residual_power: of the samples that an image was fitted to.
    """
    misfit = float(np.sqrt(residual_power.mean(dtype=np.float64)))
    if misfit < MISFIT * noise.standard_deviation:
        return noise.standard_deviation
    return ERROR_OVER_MISFIT * misfit


def evidence(
    residual_power: npt.NDArray[np.float32],
    sample_power: npt.NDArray[np.float32],
    fitted: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.bool_],
    noise: NoiseLevel,
) -> Evidence:
    """Root-mean-square disagreement with the samples an image has seen and with those it has not.

    Args:
        residual_power: squared disagreement with each sample, mean over the coils, ``(phase_encodes, columns)``.
        sample_power: squared magnitude of each sample, likewise.
        fitted: samples that the reconstruction was given, ``(phase_encodes, columns)``.
        held_out: measured samples that it was not given.
    """

    def root_mean(power: npt.NDArray[np.float32], chosen: npt.NDArray[np.bool_]) -> float:
        return float(np.sqrt(power[chosen].mean(dtype=np.float64)))

    some = bool(held_out.any())
    return Evidence(
        held_out_residual=root_mean(residual_power, held_out) if some else None,
        held_out_rms=root_mean(sample_power, held_out) if some else None,
        fitted_residual=root_mean(residual_power, fitted),
        noise_floor=noise.standard_deviation,
        held_out_samples=int(held_out.sum()),
        fitted_samples=int(fitted.sum()),
        noise_source=noise.source,
    )
