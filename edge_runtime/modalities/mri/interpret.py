"""Runs a split program: an inference engine for the graphs, the kernels' SENSE plan for the physics.

The one interpreter: an import compares it with the original (`export.adapters.verify`), the runtime reconstructs with it.

E2E-VarNet's k-space iterate (Sriram et al., MICCAI 2020) is never stored as ``(coils, image)``. From ``k₀ = y``, zero outside the
mask M, and ``k := k - η M (k - y) - F S w`` follows by induction

    k = y - M F S u - (1 - M) F S v,    u := (1 - η) u + w,    v := v + w,    u₀ = v₀ = 0,

so two images carry it. Its combination, the next network's input, is ``Aᴴ y + N (v - u) - |S|² v`` with ``N = Aᴴ A``: one
application of `SensePlan.normal` an iteration in place of two transforms of all coils. The sums are the original's in another
order: results agree to rounding.

What plans don't offer is NumPy, outside the iterations: the images of the calibration lines, and ``F S u`` under the mask once at
the end, since a SENSE plan applies ``A`` only together with its adjoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from edge_runtime.engines import Session
from edge_runtime.errors import EngineError, ProgramRefused
from edge_runtime.kernels import Plans, SensePlan
from edge_runtime.modalities.mri.fourier import Complex, to_image, to_kspace
from edge_runtime.modalities.mri.given import Acquisition, Given, Mask, Value
from edge_runtime.modalities.mri.proposal import go_on
from edge_runtime.modalities.mri.shaping import Planes, shape
from edge_runtime.program.stages import (
    Combine,
    GradientStep,
    Graph,
    KSpaceStep,
    Network,
    Program,
    ProximalStep,
    Regularise,
    RootSumOfSquares,
    Sensitivities,
    Shaping,
    Stage,
    ZeroFilled,
)

Observe = Callable[[Stage, Value], None]
Wanted = Callable[[], bool]


def always() -> bool:
    """For images that are wanted whatever happens."""
    return True


class Interpreter:
    """A program made ready to run.

    Args:
        sessions: its graphs by name, planned on an engine.
    """

    def __init__(self, program: Program, sessions: Mapping[str, Session]) -> None:
        self.program = program
        self._sessions = sessions
        self._graphs = {graph.file: graph for graph in program.graphs}

    def run(self, given: Given, plans: Plans, observe: Observe | None = None) -> Value:
        """The image that the program makes.

        Args:
            given: an `Acquisition`, or in domain ``image`` planes.
            plans: where SENSE plans come from.
            observe: is told every stage's value when it is done.

        Raises:
            ProgramRefused: an array of a shape that the program or a graph does not take.
            EngineError: a graph failed, or made numbers that are not finite.
        """
        if not isinstance(given, Acquisition):
            return self.infer_planes(given, observe)
        with self.started(given, plans) as run:
            return run.through(observe)

    def infer_planes(self, planes: Planes, observe: Observe | None = None, wanted: Wanted = always) -> Planes:
        """Runs a program of domain ``image`` on planes ``(batch, channels, rows, columns)``; see `run`.

        Raises:
            Abandoned: the image was not wanted any more.
        """
        if self.program.domain != "image":
            raise ProgramRefused("the program takes samples, planes came")
        for stage in self.program.stages:
            if not isinstance(stage, Network):
                raise ProgramRefused(f"stage {stage.name!r} has no place in a program of images")
            go_on(wanted)
            planes = self.infer(stage.graph, planes, stage.shaping)
            if observe:
                observe(stage, planes)
        return planes

    @contextlib.contextmanager
    def started(self, given: Acquisition, plans: Plans) -> Iterator[KSpaceRun]:
        """A run of a program of domain ``kspace``; its plans are its own until it is left.

        Raises:
            ProgramRefused: an array of a shape that the program does not take.
        """
        if self.program.domain != "kspace":
            raise ProgramRefused("the program takes planes, samples came")
        check_acquisition(self.program, given)
        with contextlib.ExitStack() as borrowed:
            sense = [borrowed.enter_context(plans.sense(*one.shape)) for one in given.hybrid]
            yield KSpaceRun(self, given, sense)

    def infer(self, file: str, planes: Planes, shaping: Shaping) -> Planes:
        """A graph's output for planes ``(batch, channels, rows, columns)``, shaped before and back after."""
        shaped = shape(planes, shaping)
        graph = self._graphs[file]
        _check_size(graph, shaped.planes.shape)
        made = self._sessions[file].run(shaped.planes)
        wanted = (len(planes), graph.output_channels, *shaped.planes.shape[2:])
        if made.shape != wanted:
            raise EngineError(f"{file}: made {made.shape}, {wanted} is expected")
        return shaped.undo(made)

    def infer_image(self, file: str, image: Complex, shaping: Shaping) -> Complex:
        """A graph's output for complex images ``(batch, phase_encodes, columns)``, in the network's axes in between."""
        swap = self.program.network_axes == "columns, phase_encodes"
        planes = np.stack([image.real, image.imag], axis=1)
        made = self.infer(file, np.ascontiguousarray(planes.swapaxes(2, 3)) if swap else planes, shaping)
        made = made.swapaxes(2, 3) if swap else made
        return np.ascontiguousarray(made[:, 0] + 1j * made[:, 1], np.complex64)


def check_acquisition(program: Program, given: Acquisition) -> None:
    """That the arrays fit each other and the program.

    Raises:
        ProgramRefused: names the shapes.
    """
    sizes = given.hybrid.shape
    if given.hybrid.ndim != 4 or given.mask.shape not in (sizes[2:3], sizes[2:]):
        raise ProgramRefused(
            f"samples {sizes} with a mask {given.mask.shape}: "
            "(batch, coils, phase_encodes, columns) and (phase_encodes,) or (phase_encodes, columns) are expected"
        )
    if program.maps_given != (given.maps is not None) or (given.maps is not None and given.maps.shape != sizes):
        wanted = f"maps of shape {sizes}" if program.maps_given else "no maps"
        came = "none" if given.maps is None else str(given.maps.shape)
        raise ProgramRefused(f"{wanted} are expected, {came} came")


class KSpaceRun:
    """One run of a program of domain ``kspace``, and the images that carry it; see the module's text.

    Attributes:
        plans: one a batch member; they hold the samples, and the sensitivities once there are some.
        samples: ``(batch, coils, phase_encodes, columns)``, zero outside the mask.
        mask: ``(phase_encodes, columns)``.
        maps: ``(batch, coils, phase_encodes, columns)``.
        estimate, correction: ``(batch, phase_encodes, columns)``.
        under, outside: u and v, ``(batch, phase_encodes, columns)``.
    """

    def __init__(self, interpreter: Interpreter, given: Acquisition, plans: list[SensePlan]) -> None:
        self._interpreter = interpreter
        self.plans = plans
        batch, _, phase_encodes, columns = given.hybrid.shape
        wide = given.mask if given.mask.ndim == 2 else given.mask[:, None]
        self.mask: Mask = np.ascontiguousarray(np.broadcast_to(wide, (phase_encodes, columns)))
        self.samples: Complex = np.ascontiguousarray(given.hybrid * self.mask, np.complex64)
        image = (batch, phase_encodes, columns)
        self.under, self.outside = np.zeros(image, np.complex64), np.zeros(image, np.complex64)
        self.estimate = self.correction = self._adjoint = np.zeros(image, np.complex64)
        self.maps: Complex | None = None
        if given.maps is not None:
            self._take_maps(np.ascontiguousarray(given.maps, np.complex64))

    def through(self, observe: Observe | None = None, wanted: Wanted = always) -> Value:
        """The image that the program makes, complex or real ``(batch, phase_encodes, columns)``.

        Raises:
            ProgramRefused, EngineError: see `Interpreter.run`.
            Abandoned: the image was not wanted any more.
        """
        value: Value = self.estimate
        for stage in self._interpreter.program.stages:
            go_on(wanted)
            value = self._step(stage, wanted, traced=observe is not None)
            if observe:
                observe(stage, value)
        return value

    def _step(self, stage: Stage, wanted: Wanted, *, traced: bool) -> Value:
        if isinstance(stage, Sensitivities):
            self._take_maps(self._sensitivities(stage, wanted))
            assert self.maps is not None
            return self.maps
        if self.maps is None:
            raise ProgramRefused(f"stage {stage.name!r} comes before any sensitivities")
        if isinstance(stage, ZeroFilled):
            self.estimate = self._adjoint
        elif isinstance(stage, Combine):
            self.estimate = self._combination()
        elif isinstance(stage, Regularise):
            made = self._interpreter.infer_image(stage.graph, self.estimate, stage.shaping)
            if stage.makes == "correction":
                self.correction = made
                return made
            self.estimate = made
        elif isinstance(stage, KSpaceStep):
            self.under = (1 - np.float32(stage.step)) * self.under + self.correction
            self.outside = self.outside + self.correction
            return self.iterate() if traced else self.estimate
        elif isinstance(stage, GradientStep):
            gradient = np.stack([plan.gradient(x) for plan, x in zip(self.plans, self.estimate, strict=True)])
            moved = self.estimate - np.float32(stage.step) * gradient
            self.estimate = moved - self.correction if stage.subtract_correction else moved
        elif isinstance(stage, ProximalStep):
            self.estimate = np.stack(
                [
                    plan.data_consistent(prior, stage.weight, stage.steps, tolerance=stage.tolerance)
                    for plan, prior in zip(self.plans, self.estimate, strict=True)
                ]
            )
        elif isinstance(stage, RootSumOfSquares):
            return self._root_sum_of_squares()
        else:
            raise ProgramRefused(f"stage {stage.name!r} has no place in a program of samples")
        return self.estimate

    def _take_maps(self, maps: Complex) -> None:
        self.maps = maps
        for plan, one, samples in zip(self.plans, maps, self.samples, strict=True):
            plan.set_maps(one)
            plan.set_samples(samples, self.mask)
        nothing = np.zeros(self.estimate.shape[1:], np.complex64)
        self._adjoint = np.stack([-plan.gradient(nothing) for plan in self.plans])
        self._energy = np.square(maps.real).sum(1) + np.square(maps.imag).sum(1)

    def _sensitivities(self, stage: Sensitivities, wanted: Wanted) -> Complex:
        whole: Mask = np.asarray(self.mask.all(axis=1))
        kept = np.zeros_like(whole)
        kept[calibration_lines(whole, stage.lines)] = True
        images = to_image(self.samples * kept[:, None], axis=2)
        made = np.empty_like(images)
        for coil in range(images.shape[1]):  # one after another: as much memory as for any other graph
            go_on(wanted)
            made[:, coil] = self._interpreter.infer_image(stage.graph, images[:, coil], stage.shaping)
        real, imaginary = (np.square(part).sum(1, keepdims=True) for part in (made.real, made.imag))
        if stage.divide == "magnitude":
            real = imaginary = real + imaginary
        with np.errstate(divide="ignore", invalid="ignore"):  # whoever compares sees what is not finite
            return np.ascontiguousarray(made.real / np.sqrt(real) + 1j * (made.imag / np.sqrt(imaginary)), np.complex64)

    def _combination(self) -> Complex:
        difference = self.outside - self.under
        normal = np.stack([plan.normal(x) for plan, x in zip(self.plans, difference, strict=True)])
        return np.asarray(self._adjoint + normal - self._energy * self.outside, np.complex64)

    def modelled(self, image: Complex) -> Complex:
        """``F S x``, ``(batch, coils, phase_encodes, columns)``."""
        assert self.maps is not None
        return to_kspace(self.maps * image[:, None], axis=2)

    def iterate(self) -> Complex:
        """The k-space iterate in hybrid space, of every coil; for comparisons only."""
        under, outside = self.modelled(self.under), self.modelled(self.outside)
        return np.asarray(self.samples - np.where(self.mask, under, outside), np.complex64)

    def _root_sum_of_squares(self) -> npt.NDArray[np.float32]:
        measured = np.ascontiguousarray(self.samples - self.modelled(self.under) * self.mask, np.complex64)
        pairs = zip(self.plans, -self.outside, measured, strict=True)
        return np.stack([plan.substituted(x, samples, self.mask)[0] for plan, x, samples in pairs])


def calibration_lines(mask: Mask, lines: str | int) -> slice:
    """The phase encodes that calibrate, by a rule of `Sensitivities`.

    Raises:
        ProgramRefused: the rule finds no such lines in the mask.
    """
    count = len(mask)
    if lines == "all":
        return slice(0, count)
    gap_before = np.flatnonzero(~mask[: count // 2][::-1])
    gap_after = np.flatnonzero(~mask[count // 2 :])
    # without a gap fastMRI counts 0, since its search for the first unmeasured line then returns the first one
    before, after = (int(gap[0]) if len(gap) else 0 for gap in (gap_before, gap_after))
    if isinstance(lines, int):
        number = lines
    elif lines == "symmetric":
        number = max(2 * min(before, after), 1)
    else:
        if not len(gap_before) or not len(gap_after) or not mask[count // 2]:
            raise ProgramRefused(
                f"{int(mask.sum())} of {count} lines: MONAI calibrates on lines between two gaps; none are"
            )
        number = before + after
    if not 0 < number <= count:
        raise ProgramRefused(f"{number} calibration lines of {count}: a number within the matrix is expected")
    start = (count - number + 1) // 2
    return slice(start, start + number)


def _check_size(graph: Graph, size: tuple[int, ...]) -> None:
    wanted = (graph.batch, graph.input_channels, graph.rows, graph.columns)
    if any(want is not None and want != got for want, got in zip(wanted, size, strict=True)):
        words = ", ".join("any" if want is None else str(want) for want in wanted)
        raise ProgramRefused(f"{graph.file}: takes ({words}), {size} came")
    if any(n % graph.multiple or n < graph.least for n in size[2:]):
        raise ProgramRefused(
            f"{graph.file}: {size[2]} x {size[3]}: rows and columns must be multiples of {graph.multiple}, "
            f"at least {graph.least}"
        )
