"""A program of one network, whose mapping declares the planes it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from edge_runtime.program.stages import Graph, Network, Padding, Shaping
from export.adapters.mapping import MOST_CHANNELS, Table
from export.adapters.program import Origin, SplitProgram

STAGE = "network"
LARGEST = 4096


@dataclass(frozen=True)
class ImageTable:
    """The table ``image`` of a mapping.

    Attributes:
        input_channels, output_channels: planes; of a complex image the real part, then the imaginary.
        multiple, least: of rows and columns, as the network takes them.
        rows, columns: the only ones that it takes; ``None`` where it takes others.
        shaping: what is done around the network, on both sides of the comparison.
    """

    input_channels: int
    output_channels: int
    multiple: int
    least: int
    rows: int | None
    columns: int | None
    shaping: Shaping


def read_image(table: Table) -> ImageTable:
    """Takes the table.

    Raises:
        ConfigError: names the key, its value and what is expected.
    """
    channels = table.whole("input_channels", 1, MOST_CHANNELS), table.whole("output_channels", 1, MOST_CHANNELS)
    multiple = table.whole("multiple", 1, LARGEST, 1)
    least = table.whole("least", 1, LARGEST, multiple)
    rows, columns = (table.whole(axis, 1, LARGEST) if table.has(axis) else None for axis in ("rows", "columns"))
    for axis, size in (("rows", rows), ("columns", columns)):
        if size is not None and (size % multiple or size < least):
            raise table.wrong(
                axis, size, f"a multiple of {multiple} that is {least} at least, as multiple and least say,"
            )
    normalise = table.text("normalise", "none", among=("none", "population", "sample"))
    if normalise != "none" and channels[0] != channels[1]:
        raise table.wrong(
            "normalise", normalise, "none, as the network's input and output have other numbers of planes, it"
        )
    pad = table.text("pad", "none", among=("none", "centre", "end"))
    if pad != "none" and (rows or columns):
        raise table.wrong("pad", pad, "none, as rows or columns are fixed,")
    fill = table.text("fill", "zero", among=("zero", "edge"))
    table.done()
    padding = Padding(multiple, cast(Literal["centre", "end"], pad), cast(Literal["zero", "edge"], fill))
    shaping = Shaping(cast(Literal["none", "population", "sample"], normalise), None if pad == "none" else padding)
    return ImageTable(*channels, multiple, least, rows, columns, shaping)


def single_network(
    name: str, version: str, image: ImageTable, graph: Graph, content: bytes, origin: Origin
) -> SplitProgram:
    """The program."""
    return SplitProgram(
        name=name,
        version=version,
        domain="image",
        network_axes="phase_encodes, columns",
        maps_given=False,
        input_channels=image.input_channels,
        stages=(Network(STAGE, graph.file, image.shaping),),
        graphs=(graph,),
        origin=origin,
        files={graph.file: content},
    )
