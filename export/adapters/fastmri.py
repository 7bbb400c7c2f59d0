"""fastMRI's `Unet` and `VarNet` (PyPI `fastmri` 0.3; Zbontar et al., arXiv 1811.08839; Sriram et al., MICCAI 2020).

Of `VarNet` every cascade's U-Net and that of the sensitivities become graphs. `NormUnet`'s normalisation and its zero padding to
multiples of 16 stay outside: traced, they would fix the matrix size. `Unet` alone takes any size: it pads odd sizes within by
reflection, which its graph does too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_runtime.program.stages import Graph, Network, Padding, Sensitivities, Shaping
from export.adapters import end_to_end
from export.adapters.checkpoint import fill, load_weights
from export.adapters.graphs import export_graph
from export.adapters.mapping import Table, build, checkpoint_entry, package
from export.adapters.origin import origin_of
from export.adapters.original import Imported, SingleNetwork
from export.adapters.program import SplitProgram

KINDS = ("Unet", "VarNet")
PADDED_TO = 16
"""`NormUnet.pad`'s multiple."""

NORM_UNET = Shaping("sample", Padding(PADDED_TO, "centre", "zero"))
"""`NormUnet.norm` divides by `Tensor.std`, the deviation of a sample."""


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
    acquisition = mapping.table("acquisition", needed=False) if kind == "VarNet" else None
    acs_lines = None
    if acquisition is not None:
        acs_lines = acquisition.whole("acs_lines", 1, 4096) if acquisition.has("acs_lines") else None
        acquisition.done()
    mapping.done()
    models = package("fastmri.models", f"fastMRI's {kind}")
    model, arguments = build(getattr(models, kind), table)
    fill(model, load_weights(checkpoint, key, prefix), checkpoint)
    origin = origin_of("fastmri", f"fastmri.models.{kind}", "fastmri", arguments, checkpoint, mapping.path)
    if kind == "Unet":
        return _unet(name, version, model, origin)
    return _varnet(name, version, model, acs_lines, origin)


class AnySize(nn.Module):
    """A fastMRI `Unet` whose reflection by at most one row and column is in the graph whatever the size that it is traced with."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, rows, columns)``, as `Unet.forward`."""
        skips: list[Tensor] = []
        made: Tensor = image
        for layer in self.unet.down_sample_layers:
            made = layer(made)
            skips.append(made)
            made = functional.avg_pool2d(made, kernel_size=2, stride=2, padding=0)
        made = self.unet.conv(made)
        for transpose, convolve in zip(self.unet.up_transpose_conv, self.unet.up_conv):
            skip = skips.pop()
            made = transpose(made)
            missing = [0, skip.shape[-1] - made.shape[-1], 0, skip.shape[-2] - made.shape[-2]]
            made = convolve(torch.cat([functional.pad(made, missing, "reflect"), skip], dim=1))
        return made


def _unet(name: str, version: str, model: Any, origin: Any) -> Imported:
    stage = "network"
    least = 2 << int(model.num_pool_layers)  # its deepest level normalises over more than one pixel
    graph, content = export_graph(AnySize(model), "network.onnx", model.in_chans, least=least, stage=stage)
    program = SplitProgram(
        name=name,
        version=version,
        domain="image",
        network_axes="phase_encodes, columns",
        maps_given=False,
        input_channels=model.in_chans,
        stages=(Network(stage, graph.file, Shaping()),),
        graphs=(graph,),
        origin=origin,
        files={graph.file: content},
    )
    return Imported(program, SingleNetwork(stage, model))


def _varnet(name: str, version: str, model: Any, acs_lines: int | None, origin: Any) -> Imported:
    networks = [model.sens_net.norm_unet.unet, *(cascade.model.unet for cascade in model.cascades)]
    graphs: list[Graph] = []
    files: dict[str, bytes] = {}
    for number, unet in enumerate(networks):
        stage = end_to_end.regulariser(number) if number else end_to_end.SENSITIVITIES
        file = f"regulariser-{number:02d}.onnx" if number else "sensitivities.onnx"
        whole = PADDED_TO % (1 << unet.num_pool_layers) == 0
        graph, files[file] = export_graph(
            unet if whole else AnySize(unet),
            file,
            2,
            multiple=PADDED_TO,
            least=2 << unet.num_pool_layers,
            stage=stage,
        )
        graphs.append(graph)
    lines: Any = acs_lines or ("symmetric" if model.sens_net.mask_center else "all")
    program = SplitProgram(
        name=name,
        version=version,
        domain="kspace",
        network_axes=end_to_end.AXES.axes,
        maps_given=False,
        input_channels=0,
        stages=end_to_end.stages(
            Sensitivities(end_to_end.SENSITIVITIES, graphs[0].file, NORM_UNET, lines, "magnitude"),
            [graph.file for graph in graphs[1:]],
            [NORM_UNET] * len(model.cascades),
            [float(cascade.dc_weight) for cascade in model.cascades],
        ),
        graphs=tuple(graphs),
        origin=origin,
        files=files,
    )
    original = end_to_end.watched(
        model.sens_net,
        list(model.cascades),
        [cascade.model for cascade in model.cascades],
        lambda kspace, mask: model(kspace, mask, acs_lines),
    )
    return Imported(program, original)
