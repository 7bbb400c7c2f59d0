"""MONAI's `VariationalNetworkModel` and `ComplexUnet` (PyPI `monai`; after fastMRI's, Sriram et al., MICCAI 2020).

`ComplexUnet`'s normalisation and padding stay outside its graph, a `BasicUNet`. It divides by the deviation of the population where
fastMRI takes the sample's. `CoilSensitivityModel` calibrates on as many lines as lie between the two gaps nearest the centre,
however they lie around it, and divides real and imaginary parts each by their own root-sum-of-squares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from edge_runtime.program.stages import Graph, Network, Padding, Sensitivities, Shaping
from export.adapters import end_to_end
from export.adapters.checkpoint import fill, load_weights
from export.adapters.errors import ImportRefused
from export.adapters.graphs import export_graph
from export.adapters.mapping import Table, build, checkpoint_entry, package
from export.adapters.origin import origin_of
from export.adapters.original import Imported, SingleNetwork
from export.adapters.program import Origin, SplitProgram

KINDS = ("VariationalNetworkModel", "ComplexUnet")
NETS = "monai.apps.reconstruction.networks.nets"
LEVELS = 16
"""`BasicUNet` halves its input four times; what it does with sizes that aren't multiples hangs on the size, which tracing fixes."""


def adapt(mapping: Table, checkpoint: Path) -> Imported:
    """Splits the model of a checkpoint.

    Raises:
        ConfigError: the mapping is wrong.
        ImportRefused: the checkpoint or the model can't be taken.
    """
    name, version = mapping.text("name"), mapping.text("version")
    table = mapping.table("model")
    kind = table.text("kind", among=KINDS)
    key, prefix = checkpoint_entry(mapping)
    unet = package(f"{NETS}.complex_unet", "MONAI's reconstruction networks").ComplexUnet
    if kind == "ComplexUnet":
        mapping.done()
        model, arguments = _planar(build(unet, table, given=("conv_net",)), table)
    else:
        model, arguments = _variational(mapping, table, unet)
    fill(model, load_weights(checkpoint, key, prefix), checkpoint)
    module = "complex_unet" if kind == "ComplexUnet" else "varnet"
    origin = origin_of("monai", f"{NETS}.{module}.{kind}", "monai", arguments, checkpoint, mapping.path)
    if kind == "ComplexUnet":
        return _complex_unet(name, version, model, origin)
    return _varnet(name, version, model, origin)


def _variational(mapping: Table, table: Table, unet: Any) -> tuple[Any, dict[str, Any]]:
    """The model of the tables ``model``, ``model.sensitivities`` and ``model.refinement``."""
    inner = table.table("sensitivities", needed=False), table.table("refinement", needed=False)
    mapping.done()
    coils = package(f"{NETS}.coil_sensitivity_model", "MONAI's sensitivity network").CoilSensitivityModel
    sensitivities, first = _planar(build(coils, inner[0], given=("conv_net", "coil_dim")), inner[0])
    refinement, second = _planar(build(unet, inner[1], given=("conv_net",)), inner[1])
    model_class = package(f"{NETS}.varnet", "MONAI's variational network").VariationalNetworkModel

    def make(num_cascades: int = 12) -> Any:
        return model_class(sensitivities, refinement, num_cascades=num_cascades)

    model, arguments = build(make, table)
    return model, {**arguments, "sensitivities": first, "refinement": second}


def _planar(built: tuple[Any, dict[str, Any]], table: Table) -> tuple[Any, dict[str, Any]]:
    if built[1].get("spatial_dims", 2) != 2:
        raise table.wrong("spatial_dims", built[1]["spatial_dims"], "2: volumes are not taken yet, so 2 (its default)")
    return built


def _shaping(model: Any, stage: str) -> Shaping:
    """What a `ComplexUnet` does around its network."""
    if model.pad_factor % LEVELS:
        raise ImportRefused(f"{stage}: pad_factor = {model.pad_factor}: a multiple of {LEVELS} is expected")
    return Shaping("population", Padding(int(model.pad_factor), "centre", "zero"))


def _complex_unet(name: str, version: str, model: Any, origin: Origin) -> Imported:
    stage = "network"
    shaping = _shaping(model, stage)
    graph, content = export_graph(model.unet, "network.onnx", 2, multiple=LEVELS, least=2 * LEVELS, stage=stage)
    program = SplitProgram(
        name=name,
        version=version,
        domain="image",
        network_axes="phase_encodes, columns",
        maps_given=False,
        input_channels=2,
        stages=(Network(stage, graph.file, shaping),),
        graphs=(graph,),
        origin=origin,
        files={graph.file: content},
    )

    def forward(planes: Tensor) -> Tensor:
        made: Tensor = model(planes.permute(0, 2, 3, 1)[:, None])
        return made[:, 0].permute(0, 3, 1, 2)

    return Imported(program, SingleNetwork(stage, forward))


def _varnet(name: str, version: str, model: Any, origin: Origin) -> Imported:
    networks = [model.coil_sensitivity_model.conv_net, *(cascade.model for cascade in model.cascades)]
    graphs: list[Graph] = []
    files: dict[str, bytes] = {}
    shapings = []
    for number, network in enumerate(networks):
        stage = end_to_end.regulariser(number) if number else end_to_end.SENSITIVITIES
        file = f"regulariser-{number:02d}.onnx" if number else "sensitivities.onnx"
        shapings.append(_shaping(network, stage))
        graph, files[file] = export_graph(network.unet, file, 2, multiple=LEVELS, least=2 * LEVELS, stage=stage)
        graphs.append(graph)
    program = SplitProgram(
        name=name,
        version=version,
        domain="kspace",
        network_axes=end_to_end.AXES.axes,
        maps_given=False,
        input_channels=0,
        stages=end_to_end.stages(
            Sensitivities(end_to_end.SENSITIVITIES, graphs[0].file, shapings[0], "contiguous", "parts"),
            [graph.file for graph in graphs[1:]],
            shapings[1:],
            [float(cascade.dc_weight) for cascade in model.cascades],
        ),
        graphs=tuple(graphs),
        origin=origin,
        files=files,
    )
    original = end_to_end.watched(
        model.coil_sensitivity_model, list(model.cascades), [cascade.model for cascade in model.cascades], model
    )
    return Imported(program, original)
