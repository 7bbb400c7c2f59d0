"""deepinv's denoisers and unrolled models (PyPI `deepinv` 0.5).

Denoisers: `DnCNN`, `UNet` and `DRUNet`, alone or within `MoDL` (Aggarwal et al., IEEE TMI 38:394, 2019), `VarNet` (Hammernik et
al., Magn Reson Med 79:3055, 2018) and an unfolded `PGD` with the plug-and-play prior and the L2 fidelity. The physics of these is
`MultiCoilMRI`, whose sensitivities are given; one coil with sensitivities of one is its `MRI`. The proximal step of `MoDL` is
solved to the same relative residual on both sides, ours column by column, deepinv's for all of a slice at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.modalities.mri.fourier import Complex
from edge_runtime.modalities.mri.given import Acquisition, Given
from edge_runtime.program.stages import (
    GradientStep,
    Graph,
    Network,
    NetworkAxes,
    Padding,
    ProximalStep,
    Regularise,
    Shaping,
    Stage,
    ZeroFilled,
)
from export.adapters.checkpoint import fill, load_weights
from export.adapters.errors import ImportRefused
from export.adapters.graphs import export_graph
from export.adapters.mapping import Table, build, checkpoint_entry, package
from export.adapters.origin import origin_of
from export.adapters.original import Imported, KSpaceAxes, SingleNetwork, Watch, WatchedModel, array
from export.adapters.program import Origin, SplitProgram
from export.adapters.torchvision_operators import declare_operators

DENOISERS = ("DnCNN", "UNet", "DRUNet")
UNROLLED = ("MoDL", "VarNet", "PGD")
FORBIDDEN = ("pretrained", "pretrained_2d_isotropic", "device", "dim")
"""Weights come from the checkpoint, and images are planes on the CPU."""

DRUNET_MULTIPLE, DRUNET_LEAST = 8, 32
"""Sizes that `DRUNet.forward` takes as they are; others it pads, or cuts into four parts that overlap."""

FIRST = "zero-filled"


@dataclass(frozen=True)
class Solver:
    """When the conjugate gradients of a proximal step stop, on both sides."""

    steps: int
    tolerance: float


def adapt(mapping: Table, checkpoint: Path) -> Imported:
    """Splits the model of a checkpoint.

    Raises:
        ConfigError: the mapping is wrong.
        ImportRefused: the checkpoint or the model can't be taken.
    """
    name, version = mapping.text("name"), mapping.text("version")
    table = mapping.table("model")
    kind = table.text("kind", among=(*DENOISERS, *UNROLLED))
    key, prefix = checkpoint_entry(mapping)
    declare_operators()
    package("deepinv", "deepinv")
    if kind in DENOISERS:
        sigma = mapping.number("sigma", 0, 1e6) if kind == "DRUNet" else 0.0
        mapping.done()
        model, arguments = _denoiser(kind, table)
        fill(model, load_weights(checkpoint, key, prefix), checkpoint)
        origin = origin_of("deepinv", f"deepinv.models.{kind}", "deepinv", arguments, checkpoint, mapping.path)
        return _alone(name, version, model, sigma, origin)
    acquisition = mapping.table("acquisition", needed=False)
    lines = acquisition.text("phase_encodes", "columns", among=("rows", "columns"))
    axes: NetworkAxes = "columns, phase_encodes" if lines == "columns" else "phase_encodes, columns"
    solver = Solver(acquisition.whole("cg_steps", 1, 1000, 50), acquisition.number("cg_tolerance", 1e-7, 1e-2, 1e-6))
    acquisition.done()
    inner = table.table("denoiser")
    mapping.done()
    denoiser, inner_arguments = _denoiser(inner.text("kind", among=DENOISERS), inner)
    model, arguments = _unrolled(kind, table, denoiser)
    fill(model, load_weights(checkpoint, key, prefix), checkpoint)
    arguments = {**arguments, "denoiser": inner_arguments}
    origin = origin_of("deepinv", f"deepinv.{kind}", "deepinv", arguments, checkpoint, mapping.path)
    split = _varnet if kind == "VarNet" else _splitting
    return split(name, version, model, KSpaceAxes(axes), solver, origin)


def _denoiser(kind: str, table: Table) -> tuple[Any, dict[str, Any]]:
    make = getattr(package("deepinv.models", kind), kind)
    pretrained = {"pretrained": None} if "pretrained" in inspect.signature(make).parameters else {}

    def made(**arguments: Any) -> Any:
        return make(**arguments, **pretrained)

    made.__name__ = kind
    made.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]  # `build` looks at it
    model, arguments = build(made, table, given=FORBIDDEN)
    return model, {"kind": kind, **arguments}


def _unrolled(kind: str, table: Table, denoiser: Any) -> tuple[Any, dict[str, Any]]:
    make: Callable[..., Any]
    if kind == "MoDL":
        modl = package("deepinv.models.modl", kind).MoDL

        def make(num_iter: int = 3) -> Any:
            return modl(denoiser, num_iter=num_iter)

    elif kind == "VarNet":
        varnet = package("deepinv.models", kind).VarNet

        def make(num_cascades: int = 12) -> Any:
            return varnet(denoiser, num_cascades=num_cascades, mode="varnet")

    else:
        optim = package("deepinv.optim", kind)

        def make(max_iter: int) -> Any:
            prior = optim.PnP(denoiser=denoiser)
            return optim.PGD(
                data_fidelity=optim.L2(),
                prior=prior,
                stepsize=[1.0] * max_iter,
                sigma_denoiser=[0.01] * max_iter,
                max_iter=max_iter,
                unfold=True,
                trainable_params=["stepsize", "sigma_denoiser"],
            )

    made: tuple[Any, dict[str, Any]] = build(make, table)
    return made


def _shaping(denoiser: Any, sigma: float) -> Shaping:
    """What a denoiser does around its network."""
    kind = type(denoiser).__name__
    if kind == "DRUNet":
        return Shaping(planes=(sigma,))
    if kind == "UNet":
        return Shaping(padding=Padding(1 << len(denoiser._upc_names), "end", "edge"))
    return Shaping()


def _graph(denoiser: Any, file: str, stage: str) -> tuple[Graph, bytes]:
    kind = type(denoiser).__name__
    if kind == "DRUNet":
        channels = denoiser.m_head.weight.shape[1]  # the image's and the noise level's
        return export_graph(
            _Part(denoiser, denoiser.forward_unet),
            file,
            channels,
            multiple=DRUNET_MULTIPLE,
            least=DRUNET_LEAST,
            stage=stage,
        )
    if kind == "UNet":
        multiple = 1 << len(denoiser._upc_names)
        part = _Part(denoiser, denoiser._forward)
        return export_graph(part, file, denoiser.in_channels, multiple=multiple, least=multiple, stage=stage)
    return export_graph(denoiser, file, denoiser.in_conv.weight.shape[1], stage=stage)


class _Part(nn.Module):
    """A denoiser without what it does around its network."""

    def __init__(self, denoiser: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.denoiser, self._part = denoiser, forward

    def forward(self, planes: Tensor) -> Tensor:
        return self._part(planes)


def _alone(name: str, version: str, model: Any, sigma: float, origin: Origin) -> Imported:
    stage = "network"
    shaping = _shaping(model, sigma)
    graph, content = _graph(model, "network.onnx", stage)
    program = SplitProgram(
        name=name,
        version=version,
        domain="image",
        network_axes="phase_encodes, columns",
        maps_given=False,
        input_channels=graph.input_channels - len(shaping.planes),
        stages=(Network(stage, graph.file, shaping),),
        graphs=(graph,),
        origin=origin,
        files={graph.file: content},
    )
    return Imported(program, SingleNetwork(stage, lambda planes: model(planes, sigma)))


def _splitting(name: str, version: str, model: Any, axes: KSpaceAxes, solver: Solver, origin: Origin) -> Imported:
    """An algorithm of `deepinv.optim`: half-quadratic splitting (MoDL's) or proximal gradient descent."""
    iterator = model.fixed_point.iterator
    kind = type(iterator).__name__
    count = int(model.max_iter)
    if kind not in ("HQSIteration", "PGDIteration") or iterator.g_first:
        raise ImportRefused(f"{kind}{', prior first' * iterator.g_first}: HQSIteration and PGDIteration are taken")
    stopped = model.early_stop or model.anderson_acceleration_config or model.backtracking or model.DEQ
    if stopped or model.custom_init is not None or any(_number(beta) != 1 for beta in model.params_algo["beta"]):
        raise ImportRefused(
            f"{kind}: early stopping, acceleration, backtracking, relaxation or a start of its own: "
            "a fixed number of plain iterations from the zero-filled image is taken"
        )
    steps, sigmas = (_by_iteration(model.params_algo[key], count) for key in ("stepsize", "g_param"))
    weights = [float(fidelity.norm) for fidelity in _by_iteration_of(model.data_fidelity, count)]
    graphs, files, runs = _graphs([prior.denoiser for prior in _by_iteration_of(model.prior, count)], "iteration")
    stages: list[Stage] = [ZeroFilled(FIRST)]
    for number, (step, norm, (file, denoiser), sigma) in enumerate(zip(steps, weights, runs, sigmas, strict=True), 1):
        consistency = f"iteration {number}, data consistency"
        if kind == "HQSIteration":
            if not step > 0:
                raise ImportRefused(f"{consistency}: step {step:g}: a positive one is expected")
            stages.append(ProximalStep(consistency, 1 / (norm * step), solver.steps, solver.tolerance))
        else:
            stages.append(GradientStep(consistency, norm * step, False))
        regulariser = f"iteration {number}, regulariser"
        stages.append(Regularise(regulariser, file, _shaping(denoiser, sigma), "estimate"))
    program = _program(name, version, axes, tuple(stages), graphs, files, origin)
    pictures = _pictures(axes)
    watches = [
        Watch((FIRST,), iterator.f_step, "input", pictures),
        Watch(tuple(s.name for s in stages[1::2]), iterator.f_step, "output", pictures),
        Watch(tuple(s.name for s in stages[2::2]), iterator.g_step, "output", pictures),
    ]
    last = stages[-1].name
    return Imported(program, WatchedModel(_forward(model, axes, solver), watches, (last, pictures)))


def _varnet(name: str, version: str, model: Any, axes: KSpaceAxes, solver: Solver, origin: Origin) -> Imported:
    cascades = list(model.backbone_net)
    graphs, files, runs = _graphs([cascade.denoiser for cascade in cascades], "cascade")
    stages: list[Stage] = [ZeroFilled(FIRST)]
    for number, (cascade, (file, denoiser)) in enumerate(zip(cascades, runs, strict=True), start=1):
        if type(denoiser).__name__ == "DRUNet":
            raise ImportRefused("DRUNet: VarNet gives its denoiser no noise level; DnCNN and UNet need none")
        stages += [
            Regularise(f"cascade {number}, regulariser", file, _shaping(denoiser, 0.0), "correction"),
            GradientStep(f"cascade {number}, data consistency", float(cascade.dc_weight), True),
        ]
    program = _program(name, version, axes, tuple(stages), graphs, files, origin)
    pictures = _pictures(axes)
    watches = [Watch((FIRST,), cascades[0], "input", lambda given: pictures(given[0]))]
    watches += [
        Watch((stage.name,), cascade, "output", lambda made: pictures(made[0]))
        for cascade, stage in zip(cascades, stages[2::2], strict=True)
    ]
    shared = {id(cascade.denoiser): cascade.denoiser for cascade in cascades}
    for denoiser in shared.values():
        names = tuple(s.name for c, s in zip(cascades, stages[1::2], strict=True) if c.denoiser is denoiser)
        watches.append(Watch(names, denoiser, "output", pictures))
    return Imported(program, WatchedModel(_forward(model, axes, solver), watches, (stages[-1].name, pictures)))


def _graphs(denoisers: Sequence[Any], word: str) -> tuple[tuple[Graph, ...], dict[str, bytes], list[tuple[str, Any]]]:
    """One graph for every denoiser that is not another one's; and for every iteration its graph and denoiser."""
    made: dict[int, Graph] = {}
    files: dict[str, bytes] = {}
    for number, denoiser in enumerate(denoisers, start=1):
        if id(denoiser) not in made:
            file = f"regulariser-{number:02d}.onnx"
            made[id(denoiser)], files[file] = _graph(denoiser, file, f"{word} {number}, regulariser")
    return tuple(made.values()), files, [(made[id(denoiser)].file, denoiser) for denoiser in denoisers]


def _program(
    name: str,
    version: str,
    axes: KSpaceAxes,
    stages: tuple[Stage, ...],
    graphs: tuple[Graph, ...],
    files: dict[str, bytes],
    origin: Origin,
) -> SplitProgram:
    for graph in graphs:
        channels = graph.output_channels
        if channels != 2:
            raise ImportRefused(f"{graph.file}: makes {channels} planes; real and imaginary part, 2, are expected")
    return SplitProgram(
        name=name,
        version=version,
        domain="kspace",
        network_axes=axes.axes,
        maps_given=True,
        input_channels=0,
        stages=stages,
        graphs=graphs,
        origin=origin,
        files=files,
    )


def _by_iteration(values: Any, count: int) -> list[float]:
    """A parameter's value at every iteration; one stands for all."""
    numbers = [0.0 if value is None else _number(value) for value in values]
    return numbers * count if len(numbers) == 1 else numbers[:count]


def _number(value: Any) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def _by_iteration_of(modules: Any, count: int) -> list[Any]:
    """As `_by_iteration`, of modules."""
    found = list(modules)
    return found * count if len(found) == 1 else found[:count]


def _pictures(axes: KSpaceAxes) -> Callable[[Tensor], Complex]:
    """deepinv's images ``(batch, 2, rows, columns)`` as a program's."""

    def convert(tensor: Tensor) -> Complex:
        planes = array(tensor)
        return np.ascontiguousarray(axes.image(planes[:, 0] + 1j * planes[:, 1]), np.complex64)

    return convert


def _forward(model: Any, axes: KSpaceAxes, solver: Solver) -> Callable[[Given], Any]:
    mri = package("deepinv.physics", "MultiCoilMRI").MultiCoilMRI

    def run(given: Given) -> Any:
        assert isinstance(given, Acquisition) and given.maps is not None
        masked = axes.kspace(given.hybrid * given.mask[:, None])
        samples = torch.view_as_real(torch.from_numpy(masked)).movedim(-1, 1)
        mask = np.broadcast_to(given.mask[:, None], given.hybrid.shape[2:]).astype(np.float32)
        physics = mri(
            mask=torch.from_numpy(np.ascontiguousarray(mask.swapaxes(0, 1) if axes.swapped else mask)),
            coil_maps=torch.from_numpy(np.ascontiguousarray(axes.image(given.maps))),
            max_iter=solver.steps,
            tol=solver.tolerance,
        )
        return model(samples.contiguous(), physics)

    return run
