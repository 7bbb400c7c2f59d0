"""Any image-to-image `nn.Module`: the mapping names its class and the planes it takes.

Making the model imports and runs the code that the mapping names: a mapping is trusted as a program is, a checkpoint is not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_runtime.modalities.mri.shaping import shape
from edge_runtime.program.stages import Shaping
from export.adapters.checkpoint import fill, load_weights
from export.adapters.errors import ImportRefused
from export.adapters.graphs import export_graph
from export.adapters.mapping import Table, build, checkpoint_entry, package
from export.adapters.origin import origin_of
from export.adapters.original import Imported, SingleNetwork, array, one_tensor
from export.adapters.single import STAGE, read_image, single_network


def adapt(mapping: Table, checkpoint: Path) -> Imported:
    """Writes the model of a checkpoint as one graph.

    Raises:
        ConfigError: the mapping is wrong, or its class can't be imported.
        ImportRefused: the checkpoint or the model can't be taken.
    """
    name, version = mapping.text("name"), mapping.text("version")
    table = mapping.table("model")
    path = table.text("class")
    key, prefix = checkpoint_entry(mapping)
    image = read_image(mapping.table("image"))
    mapping.done()
    model, arguments = build(_class(path, table), table)
    fill(model, load_weights(checkpoint, key, prefix), checkpoint)
    graph, content = export_graph(
        model,
        "network.onnx",
        image.input_channels,
        multiple=image.multiple,
        least=image.least,
        fixed=(image.rows, image.columns),
        stage=STAGE,
    )
    if graph.output_channels != image.output_channels:
        raise ImportRefused(
            f"{path}: makes {graph.output_channels} planes; [image] output_channels = {image.output_channels}"
        )
    origin = origin_of("module", path, path.partition(".")[0].partition(":")[0], arguments, checkpoint, mapping.path)
    program = single_network(name, version, image, graph, content, origin)
    return Imported(program, SingleNetwork(STAGE, shaped(model, image.shaping)))


def shaped(forward: Callable[[Tensor], Tensor], shaping: Shaping) -> Callable[[Tensor], Tensor]:
    """A network with what the mapping declares around it."""

    def run(planes: Tensor) -> Tensor:
        ready = shape(planes.numpy(), shaping)
        return torch.from_numpy(ready.undo(array(one_tensor(STAGE, forward(torch.from_numpy(ready.planes))))))

    return run


def _class(path: str, table: Table) -> type[nn.Module]:
    module, _, name = path.partition(":")
    found = getattr(package(module, path), name, None) if module and name else None
    if not isinstance(found, type) or not issubclass(found, nn.Module):  # before anything of it is called
        raise table.wrong("class", path, "package.module:Class of a torch.nn.Module")
    return found
