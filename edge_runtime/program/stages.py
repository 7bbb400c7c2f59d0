"""What a split program is: what is left of a model once its physics is ours. Graphs of real tensors, and the steps between them.

A program of domain ``image`` is one network on planes ``(batch, channels, rows, columns)``. A program of domain ``kspace`` takes
what the runtime assembles, samples in hybrid space ``(batch, coils, phase_encodes, columns)``: along the readout the data are
measured whole, the centred unitary transform along it commutes with every mask of phase encodes and with everything the networks
here do between their transforms, so both Fourier axes of fastMRI, MONAI and deepinv become one. Its networks see images in the
axes that they were trained in, ``network_axes``.

The arrays that stages hand on, complex unless said otherwise:

    samples     (batch, coils, phase_encodes, columns), zero outside the mask (phase_encodes,)
    maps        (batch, coils, phase_encodes, columns)
    estimate    (batch, phase_encodes, columns); in domain ``image`` real planes (batch, channels, rows, columns)
    correction  (batch, phase_encodes, columns)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Domain = Literal["image", "kspace"]
NetworkAxes = Literal["phase_encodes, columns", "columns, phase_encodes"]


@dataclass(frozen=True)
class Padding:
    """How planes are brought to a size that the network takes; what was added is cut away afterwards.

    Attributes:
        multiple: rows and columns become the next multiple of it.
        place: ``centre`` adds half on each side, the larger half at the end; ``end`` adds at the end.
        fill: ``zero``, or ``edge`` for the outermost value.
    """

    multiple: int
    place: Literal["centre", "end"]
    fill: Literal["zero", "edge"]


@dataclass(frozen=True)
class Shaping:
    """What is done to planes around a graph; a network's own habits, kept out of the graph so that the graph stays dynamic.

    Attributes:
        normalise: subtract the mean and divide by the standard deviation of every plane of every batch member, undone after the
            graph; ``population`` divides the squares by n, ``sample`` by n - 1.
        padding: after normalising.
        planes: constants appended as further planes, such as a noise level; after padding.
    """

    normalise: Literal["none", "population", "sample"] = "none"
    padding: Padding | None = None
    planes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Graph:
    """One ONNX graph: one input and one output of real numbers, ``(batch, channels, rows, columns)``.

    Attributes:
        file: its name beside the program.
        sha256: of the file.
        input, output: names of the tensors.
        input_channels, output_channels: planes.
        batch, rows, columns: a fixed size, or ``None`` where it is dynamic.
        multiple, least: of rows and columns, as the graph takes them; 1 and 1 is any size.
        opset: version of the operator set.
    """

    file: str
    sha256: str
    input: str
    output: str
    input_channels: int
    output_channels: int
    batch: int | None
    rows: int | None
    columns: int | None
    multiple: int
    least: int
    opset: int


@dataclass(frozen=True)
class Network:
    """``estimate`` becomes what the graph makes of it; domain ``image``, real planes."""

    name: str
    graph: str
    shaping: Shaping


@dataclass(frozen=True)
class Sensitivities:
    """A network makes ``maps`` of the images of the calibration lines, coil by coil, divided by their root-sum-of-squares
    (Sriram et al., MICCAI 2020).

    Attributes:
        divide: ``magnitude`` divides by the root-sum-of-squares of the coils' magnitudes; ``parts`` divides real and imaginary
            parts each by their own, which is what MONAI's model computes and was trained with.
        lines: which phase encodes calibrate. ``symmetric``: as many as lie without a gap on both sides of the centre (fastMRI);
            ``contiguous``: those without a gap around the centre (MONAI); ``all``: every one; else how many in the centre.
    """

    name: str
    graph: str
    shaping: Shaping
    lines: Literal["symmetric", "contiguous", "all"] | int
    divide: Literal["magnitude", "parts"]


@dataclass(frozen=True)
class ZeroFilled:
    """``estimate`` becomes ``Aᴴ y``."""

    name: str


@dataclass(frozen=True)
class Combine:
    """``estimate`` becomes the coil combination ``Σ conj(S) F⁻¹ k`` of the k-space iterate ``k``, which starts as the samples."""

    name: str


@dataclass(frozen=True)
class Regularise:
    """The graph of real and imaginary part of ``estimate`` makes the next ``estimate``, or a ``correction`` beside it."""

    name: str
    graph: str
    shaping: Shaping
    makes: Literal["estimate", "correction"]


@dataclass(frozen=True)
class KSpaceStep:
    """``k := k - step M (k - y) - F S correction`` (Sriram et al., MICCAI 2020): the k-space iterate's soft data consistency."""

    name: str
    step: float


@dataclass(frozen=True)
class GradientStep:
    """``estimate := estimate - step Aᴴ (A estimate - y)``, minus ``correction`` where the network makes one (Hammernik et al.,
    Magn Reson Med 79:3055, 2018)."""

    name: str
    step: float
    subtract_correction: bool


@dataclass(frozen=True)
class ProximalStep:
    """``estimate := argmin |A x - y|² + weight |x - estimate|²`` by conjugate gradients (Aggarwal et al., IEEE TMI 38:394, 2019).

    Attributes:
        steps: at most that many.
        tolerance: of a column's relative residual, as `SensePlan.data_consistent` has it.
    """

    name: str
    weight: float
    steps: int
    tolerance: float


@dataclass(frozen=True)
class RootSumOfSquares:
    """The result, real ``(batch, phase_encodes, columns)``: root-sum-of-squares of the coil images of the k-space iterate."""

    name: str


Stage = (
    Network
    | Sensitivities
    | ZeroFilled
    | Combine
    | Regularise
    | KSpaceStep
    | GradientStep
    | ProximalStep
    | RootSumOfSquares
)
Running = (Network, Sensitivities, Regularise)
"""Stages that run a graph."""

STAGES: dict[str, type[Stage]] = {
    "network": Network,
    "sensitivities": Sensitivities,
    "zero_filled": ZeroFilled,
    "combine": Combine,
    "regularise": Regularise,
    "kspace_step": KSpaceStep,
    "gradient_step": GradientStep,
    "proximal_step": ProximalStep,
    "root_sum_of_squares": RootSumOfSquares,
}
"""Stages by the word that a stored program uses."""


@dataclass(frozen=True)
class Program:
    """A model's stages in order, and the graphs they name.

    Attributes:
        network_axes: order of an image's axes in the planes of a graph; domain ``kspace``.
        maps_given: the caller brings the sensitivities; else a stage makes them.
        input_channels: planes of the input in domain ``image``, else 0.
    """

    domain: Domain
    network_axes: NetworkAxes
    maps_given: bool
    input_channels: int
    stages: tuple[Stage, ...]
    graphs: tuple[Graph, ...]

    def graph(self, file: str) -> Graph:
        """The description of one graph."""
        return next(graph for graph in self.graphs if graph.file == file)


def word_of(stage: Stage) -> str:
    """The word that a stored program uses for a stage."""
    return next(word for word, kind in STAGES.items() if isinstance(stage, kind))


def shapings_of(program: Program, graph: Graph) -> list[Shaping]:
    """How planes are shaped for a graph, wherever it is run."""
    return [stage.shaping for stage in program.stages if isinstance(stage, Running) and stage.graph == graph.file]
