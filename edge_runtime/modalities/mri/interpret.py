"""Runs a split program: an inference engine for the graphs, the kernels' SENSE plan for the physics. Needs no torch.

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.engines import Engine, Session
from edge_runtime.kernels import SensePlan, Workers
from edge_runtime.modalities.mri.fourier import to_image, to_kspace
from export.adapters.errors import ImportRefused
from export.adapters.program import (
    Combine,
    GradientStep,
    Graph,
    KSpaceStep,
    Network,
    ProximalStep,
    Regularise,
    RootSumOfSquares,
    Sensitivities,
    Shaping,
    SplitProgram,
    Stage,
    ZeroFilled,
)
from export.adapters.shaping import Planes, shape

Complex = npt.NDArray[np.complex64]
Mask = npt.NDArray[np.bool_]
Value = npt.NDArray[np.complex64] | npt.NDArray[np.float32]
Observe = Callable[[Stage, Value], None]


@dataclass(frozen=True)
class Acquisition:
    """What a program of domain ``kspace`` takes.

    Attributes:
        hybrid: samples ``(batch, coils, phase_encodes, columns)``; what the mask leaves out is not looked at.
        mask: measured lines ``(phase_encodes,)``.
        maps: sensitivities ``(batch, coils, phase_encodes, columns)`` where the program is given them.
    """

    hybrid: Complex
    mask: Mask
    maps: Complex | None = None


Given = Acquisition | Planes
"""What a program is given: samples, or planes ``(batch, channels, rows, columns)``."""


class Interpreter:
    """A program made ready to run.

    Args:
        engine: runs the graphs.
        threads: of the engine and of the kernels.
    """

    def __init__(self, program: SplitProgram, engine: Engine, threads: int = 1) -> None:
        self.program = program
        self._workers = Workers(threads)
        self._graphs = {graph.file: graph for graph in program.graphs}
        self._sessions: dict[str, Session] = {file: engine.plan(program.files[file], threads) for file in self._graphs}

    def run(self, given: Given, observe: Observe | None = None) -> Value:
        """The image that the program makes.

        Args:
            given: an `Acquisition`, or in domain ``image`` planes.
            observe: is told every stage's value when it is done.

        Raises:
            ImportRefused: an array of a shape that the program or a graph does not take.
            EngineError: a graph failed, or made numbers that are not finite.
        """
        if isinstance(given, Acquisition):
            if self.program.domain != "kspace":
                raise ImportRefused(f"{self.program.name}: takes planes, samples came")
            return _KSpaceRun(self, given).run(self.program.stages, observe)
        if self.program.domain != "image":
            raise ImportRefused(f"{self.program.name}: takes samples, planes came")
        planes = given
        for stage in self.program.stages:
            if not isinstance(stage, Network):
                raise ImportRefused(f"{self.program.name}: stage {stage.name!r} has no place in a program of images")
            planes = self.infer(stage.graph, planes, stage.shaping)
            if observe:
                observe(stage, planes)
        return planes

    def sense(self, coils: int, phase_encodes: int, columns: int) -> SensePlan:
        """A SENSE plan for one slice of a batch."""
        return SensePlan(self._workers, coils, phase_encodes, columns)

    def infer(self, file: str, planes: Planes, shaping: Shaping) -> Planes:
        """A graph's output for planes ``(batch, channels, rows, columns)``, shaped before and back after."""
        shaped = shape(planes, shaping)
        _check_size(self._graphs[file], shaped.planes.shape)
        return shaped.undo(self._sessions[file].run(shaped.planes))

    def infer_image(self, file: str, image: Complex, shaping: Shaping) -> Complex:
        """A graph's output for complex images ``(batch, phase_encodes, columns)``, in the network's axes in between."""
        swap = self.program.network_axes == "columns, phase_encodes"
        planes = np.stack([image.real, image.imag], axis=1)
        made = self.infer(file, np.ascontiguousarray(planes.swapaxes(2, 3)) if swap else planes, shaping)
        made = made.swapaxes(2, 3) if swap else made
        return np.ascontiguousarray(made[:, 0] + 1j * made[:, 1], np.complex64)


class _KSpaceRun:
    """One run of a program of domain ``kspace``."""

    def __init__(self, interpreter: Interpreter, given: Acquisition) -> None:
        if given.hybrid.ndim != 4 or given.mask.shape != given.hybrid.shape[2:3]:
            raise ImportRefused(
                f"samples {given.hybrid.shape} with a mask {given.mask.shape}: "
                "(batch, coils, phase_encodes, columns) and (phase_encodes,) are expected"
            )
        maps_given = interpreter.program.maps_given
        if maps_given != (given.maps is not None) or (
            given.maps is not None and given.maps.shape != given.hybrid.shape
        ):
            wanted = f"maps of shape {given.hybrid.shape}" if maps_given else "no maps"
            came = "none" if given.maps is None else str(given.maps.shape)
            raise ImportRefused(f"{interpreter.program.name}: {wanted} are expected, {came} came")
        self._interpreter = interpreter
        self.mask = np.ascontiguousarray(given.mask)
        self.samples = np.ascontiguousarray(given.hybrid * self.mask[:, None], np.complex64)
        batch, coils, phase_encodes, columns = self.samples.shape
        self._mask_2d = np.ascontiguousarray(np.broadcast_to(self.mask[:, None], (phase_encodes, columns)))
        self._plans = [interpreter.sense(coils, phase_encodes, columns) for _ in range(batch)]
        image = (batch, phase_encodes, columns)
        self._under, self._outside = np.zeros(image, np.complex64), np.zeros(image, np.complex64)
        self.estimate = self.correction = self._adjoint = np.zeros(image, np.complex64)
        self.maps: Complex | None = None
        if given.maps is not None:
            self._take_maps(np.ascontiguousarray(given.maps, np.complex64))

    def run(self, stages: Sequence[Stage], observe: Observe | None) -> Value:
        value: Value = self.estimate
        for stage in stages:
            value = self._step(stage, traced=observe is not None)
            if observe:
                observe(stage, value)
        return value

    def _step(self, stage: Stage, traced: bool) -> Value:
        if isinstance(stage, Sensitivities):
            self._take_maps(self._sensitivities(stage))
            assert self.maps is not None
            return self.maps
        if self.maps is None:
            raise ImportRefused(f"stage {stage.name!r} comes before any sensitivities")
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
            self._under = (1 - np.float32(stage.step)) * self._under + self.correction
            self._outside = self._outside + self.correction
            return self.iterate() if traced else self.estimate
        elif isinstance(stage, GradientStep):
            gradient = np.stack([plan.gradient(x) for plan, x in zip(self._plans, self.estimate, strict=True)])
            moved = self.estimate - np.float32(stage.step) * gradient
            self.estimate = moved - self.correction if stage.subtract_correction else moved
        elif isinstance(stage, ProximalStep):
            self.estimate = np.stack(
                [
                    plan.data_consistent(prior, stage.weight, stage.steps, tolerance=stage.tolerance)
                    for plan, prior in zip(self._plans, self.estimate, strict=True)
                ]
            )
        elif isinstance(stage, RootSumOfSquares):
            return self._root_sum_of_squares()
        else:
            raise ImportRefused(f"stage {stage.name!r} has no place in a program of samples")
        return self.estimate

    def _take_maps(self, maps: Complex) -> None:
        self.maps = maps
        for plan, one, samples in zip(self._plans, maps, self.samples, strict=True):
            plan.set_maps(one)
            plan.set_samples(samples, self._mask_2d)
        nothing = np.zeros(self.estimate.shape[1:], np.complex64)
        self._adjoint = np.stack([-plan.gradient(nothing) for plan in self._plans])
        self._energy = np.square(maps.real).sum(1) + np.square(maps.imag).sum(1)

    def _sensitivities(self, stage: Sensitivities) -> Complex:
        kept = np.zeros_like(self.mask)
        kept[calibration_lines(self.mask, stage.lines)] = True
        images = to_image(self.samples * kept[:, None], axis=2)
        batch, coils, phase_encodes, columns = images.shape
        made = self._interpreter.infer_image(
            stage.graph, images.reshape(batch * coils, phase_encodes, columns), stage.shaping
        ).reshape(images.shape)
        real, imaginary = (np.square(part).sum(1, keepdims=True) for part in (made.real, made.imag))
        if stage.divide == "magnitude":
            real = imaginary = real + imaginary
        with np.errstate(divide="ignore", invalid="ignore"):  # whoever compares sees what is not finite
            return np.ascontiguousarray(made.real / np.sqrt(real) + 1j * (made.imag / np.sqrt(imaginary)), np.complex64)

    def _combination(self) -> Complex:
        difference = self._outside - self._under
        normal = np.stack([plan.normal(x) for plan, x in zip(self._plans, difference, strict=True)])
        return np.asarray(self._adjoint + normal - self._energy * self._outside, np.complex64)

    def _modelled(self, image: Complex) -> Complex:
        """``F S x``, ``(batch, coils, phase_encodes, columns)``."""
        assert self.maps is not None
        return to_kspace(self.maps * image[:, None], axis=2)

    def iterate(self) -> Complex:
        """The k-space iterate in hybrid space, of every coil; for comparisons only."""
        measured = self.mask[:, None]
        under, outside = self._modelled(self._under), self._modelled(self._outside)
        return np.asarray(self.samples - np.where(measured, under, outside), np.complex64)

    def _root_sum_of_squares(self) -> npt.NDArray[np.float32]:
        measured = np.ascontiguousarray(self.samples - self._modelled(self._under) * self.mask[:, None], np.complex64)
        pairs = zip(self._plans, -self._outside, measured, strict=True)
        return np.stack([plan.substituted(x, samples, self._mask_2d)[0] for plan, x, samples in pairs])


def calibration_lines(mask: Mask, lines: str | int) -> slice:
    """The phase encodes that calibrate, by a rule of `Sensitivities`.

    Raises:
        ImportRefused: the rule finds no such lines in the mask.
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
            raise ImportRefused(
                f"{int(mask.sum())} of {count} lines: MONAI calibrates on lines between two gaps; none are"
            )
        number = before + after
    if not 0 < number <= count:
        raise ImportRefused(f"{number} calibration lines of {count}: a number within the matrix is expected")
    start = (count - number + 1) // 2
    return slice(start, start + number)


def _check_size(graph: Graph, size: tuple[int, ...]) -> None:
    wanted = (graph.batch, graph.input_channels, graph.rows, graph.columns)
    if any(want is not None and want != got for want, got in zip(wanted, size, strict=True)):
        words = ", ".join("any" if want is None else str(want) for want in wanted)
        raise ImportRefused(f"{graph.file}: takes ({words}), {size} came")
    if any(n % graph.multiple or n < graph.least for n in size[2:]):
        raise ImportRefused(
            f"{graph.file}: {size[2]} x {size[3]}: rows and columns must be multiples of {graph.multiple}, "
            f"at least {graph.least}"
        )
