"""The learned reconstruction of a split program: a model trained elsewhere, between this runtime's calibration and its evidence.

A program that makes its own sensitivities is given the scan's own coils, as its authors' code was; one that is given them gets the
virtual coils and their calibration. Its image is its own: what it makes of the samples it was given is what is shown, and measured
samples are not put back where the model took them softly. Only the samples that were held out, and which it never had, take their
place in a k-space iterate when the image is finished.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edge_runtime.bundle.manifest import ProgramSettings
from edge_runtime.engines import Session, Tensor
from edge_runtime.errors import ProgramRefused
from edge_runtime.kernels import Plans, SensePlan, Workers
from edge_runtime.modalities.mri.fourier import Complex
from edge_runtime.modalities.mri.given import Acquisition, given_of_tensor, value_as_tensor
from edge_runtime.modalities.mri.interpret import Interpreter, KSpaceRun, calibration_lines
from edge_runtime.modalities.mri.proposal import Mask, Proposal, Reals, Seen
from edge_runtime.modalities.mri.reconstruct import first_image
from edge_runtime.program.stages import Program, Running, Sensitivities

COIL_COPIES = 9
"""Arrays of a slice's size that a run makes: samples, images of the calibration lines, sensitivities, a plan of its own with both
and their conjugate, ``F S u`` and what it is taken from."""

FEWEST_LINES = 4
"""Calibration lines from which several coils' sensitivities can vary along the phase encodes."""

IMAGE_BYTES = 16 * 8
"""By pixel: the complex images that carry a run, and the planes around a graph."""


class ProgrammedReconstruction:
    """A program made ready on an engine, with the settings it was packed with; see `edge_runtime.modalities.mri.proposal.Learned`.

    Args:
        sessions: of its graphs, by name.
        threads: of the kernels, where the golden input is run.
        held_bytes: what the engine takes of memory, of the bytes of tensors that exist at one time in the largest graph.
    """

    coil_copies = COIL_COPIES

    def __init__(
        self,
        settings: ProgramSettings,
        sessions: Mapping[str, Session],
        threads: int,
        held_bytes: Callable[[int], int],
    ) -> None:
        self.settings = settings
        self.interpreter = Interpreter(settings.program, sessions)
        self._threads, self._held_bytes = threads, held_bytes

    @property
    def golden(self) -> Session:
        """The whole program, physics included, as a session from planes to planes."""
        return _WholeProgram(self.interpreter, Plans(Workers(self._threads)))

    def network_bytes(self, phase_encodes: int, columns: int) -> int:
        """Activations of the graphs, for the size that planes are padded to, and the images around it."""
        rows, width = (padded(self.settings.program, size) for size in (phase_encodes, columns))
        return self._held_bytes(rows * width * self.settings.live_bytes_per_pixel) + rows * width * IMAGE_BYTES

    @contextlib.contextmanager
    def propose(self, seen: Seen) -> Iterator[Proposal]:
        """The program's image.

        Raises:
            Abandoned: the image was not wanted any more.
            ProgramRefused: the slice is none that the program takes.
            EngineError: a graph failed.
        """
        units = np.float32(seen.scale / self.settings.brightness)
        if self.settings.program.domain == "image":
            yield _as_made(seen, self._of_image(seen, units))
            return
        own = not self.settings.program.maps_given
        if own:
            check_calibration(self.settings.program, seen)
        hybrid = np.asarray(seen.coils if own else seen.hybrid)
        maps = None if own else np.asarray(seen.sensitivities)[None]
        given = Acquisition(hybrid[None] / units, seen.visible, maps)
        with self.interpreter.started(given, seen.plans) as run:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused
                made = units * run.through(wanted=seen.wanted)[0]
            if own:
                yield _in_own_coils(seen, run, made, units)
            else:
                yield _as_made(seen, np.asarray(made, np.complex64))

    def _of_image(self, seen: Seen, units: np.float32) -> Complex:
        """What a program of images makes of the classical or the zero-filled image; one of magnitudes keeps the phase."""
        start = np.asarray(seen.first)
        if self.settings.starts_from == "zero_filled":
            start = -np.asarray(seen.plan.gradient(np.zeros_like(start)))
        if self.settings.program.input_channels == 1:
            planes = np.abs(start)[None]
        else:
            planes = np.stack([start.real, start.imag])
        made = self.interpreter.infer_planes(np.ascontiguousarray(planes[None] / units), wanted=seen.wanted)[0]
        if len(made) == 1:
            return np.asarray(units * made[0] * np.exp(1j * np.angle(start)), np.complex64)
        return np.asarray(units * (made[0] + 1j * made[1]), np.complex64)


def check_calibration(program: Program, seen: Seen) -> None:
    """That sensitivities of the program's own can be made of the samples: lines measured for calibration alone are not among them.

    Raises:
        ProgramRefused: too few lines of the centre are; names how many.
    """
    whole: Mask = np.asarray(seen.visible.all(axis=1))
    for stage in program.stages:
        if isinstance(stage, Sensitivities) and len(seen.coils) > 1:
            found = int(whole[calibration_lines(whole, stage.lines)].sum())
            if found < FEWEST_LINES:
                raise ProgramRefused(
                    f"stage {stage.name!r}: {found} calibration lines among the image's own, at least {FEWEST_LINES} are needed: "
                    "measure the ACS with the image lines, or use a model that is given sensitivities"
                )


def padded(program: Program, size: int) -> int:
    """Rows, or columns, of the largest planes that come to the program's graphs."""
    paddings = [stage.shaping.padding for stage in program.stages if isinstance(stage, Running)]
    return max((-(-size // one.multiple) * one.multiple for one in paddings if one is not None), default=size)


def _check_finite(*images: Complex | Reals) -> None:
    """As engines do with what a graph makes; the last steps of a program are no graph's.

    Raises:
        ProgramRefused: some number is infinite or none.
    """
    if not all(np.isfinite(image).all() for image in images):
        raise ProgramRefused("the program made values that are not finite")


def _as_made(seen: Seen, image: Complex) -> Proposal:
    """An image in the virtual coils, shown as it was made."""
    _check_finite(image)
    return _shown_as_made(seen.plan, seen.hybrid, seen.sample_power, seen.first, image, seen.measured)


def _shown_as_made(
    plan: SensePlan, hybrid: Complex, sample_power: Reals, first: Complex, image: Complex, measured: Mask
) -> Proposal:
    def finished(share: float) -> tuple[Reals, Reals]:
        believed = plan.between(first, image, share)
        return np.abs(np.asarray(believed)), plan.substituted(believed, hybrid, measured)[1]

    return Proposal(plan, hybrid, sample_power, first, image, finished)


def _in_own_coils(seen: Seen, run: KSpaceRun, made: Complex | Reals, units: np.float32) -> Proposal:
    """An image in the scan's own coils and the program's sensitivities, complex or the magnitude of a k-space iterate."""
    (plan,), hybrid = run.plans, np.ascontiguousarray(np.asarray(seen.coils))
    plan.set_samples(hybrid, seen.visible)
    power = np.asarray(plan.sample_power(hybrid))
    measured: Mask = np.asarray(seen.measured.any(axis=1))
    sample_power = power / np.float32(len(hybrid))
    first, _ = first_image(plan, hybrid, power * seen.visible, measured, seen.visible, seen.noise)
    _check_finite(made, run.outside[0], run.under[0])
    if np.iscomplexobj(made):
        return _shown_as_made(plan, hybrid, sample_power, first, np.asarray(made, np.complex64), seen.measured)
    # The k-space iterate foretells F S (-v) where nothing was seen, and leaves y - F S u of what was (interpret's text).
    image = np.asarray(-units * run.outside[0], np.complex64)
    moved = units * run.modelled(run.under)[0] * seen.visible
    moved_power = np.asarray(plan.sample_power(moved)) / np.float32(len(moved))

    def finished(share: float) -> tuple[Reals, Reals]:
        believed = plan.between(first, image, share)
        shown, _ = plan.substituted(believed, hybrid - np.float32(share) * moved, seen.measured)
        _, power = plan.substituted(believed, hybrid, seen.measured)
        return shown, np.where(seen.visible, np.float32(share**2) * moved_power, np.asarray(power))

    return Proposal(plan, hybrid, sample_power, first, image, finished)


@dataclass(frozen=True)
class _WholeProgram:
    """A program from the planes of its input to those of its output."""

    interpreter: Interpreter
    plans: Plans

    def run(self, batch: Tensor) -> Tensor:
        given = given_of_tensor(self.interpreter.program, batch)
        return value_as_tensor(self.interpreter.run(given, self.plans))
