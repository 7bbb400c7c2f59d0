"""Small programs of others with real graphs, made without torch: what an import would have written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.program.stages import (
    Combine,
    Graph,
    KSpaceStep,
    Network,
    Padding,
    ProximalStep,
    Regularise,
    RootSumOfSquares,
    Sensitivities,
    Shaping,
    Stage,
    ZeroFilled,
)
from export.adapters.program import Origin, SplitProgram, digest
from export.adapters.storage import write_program
from export.adapters.verify import Comparison
from export.keys import SigningKey
from export.programs.bundle import make_program_bundle
from export.programs.config import load_program_config

NORMALISED = Shaping("sample", Padding(4, "centre", "zero"))


CORRECTING = (2, 3)
"""Seeds of graphs that make half of what came in, with the other sign: two of them in an iterate foretell about the image."""


def bending(seed: int, planes: int = 2, multiple: int = 4) -> tuple[Graph, bytes]:
    """Two convolutions around a hyperbolic tangent, added to what came in; nothing that scales or mirrors with its input."""
    import onnx

    helper, rng, name = onnx.helper, np.random.default_rng(seed), f"net-{seed}.onnx"
    weights = {
        "first": 0.3 * rng.standard_normal((6, planes, 3, 3)),
        "shift": 0.1 * rng.standard_normal(6),
        "gain": np.full(1, -0.5 if seed in CORRECTING else 1.0),
        "second": 0.1 * rng.standard_normal((planes, 6, 3, 3)),
    }
    sizes = ["batch", planes, "rows", "columns"]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["planes", "first", "shift"], ["wide"], "/first/Conv", pads=[1, 1, 1, 1]),
            helper.make_node("Tanh", ["wide"], ["bent"], "/bend/Tanh"),
            helper.make_node("Conv", ["bent", "second"], ["change"], "/second/Conv", pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["planes", "change"], ["sum"], "/Add"),
            helper.make_node("Mul", ["sum", "gain"], ["made"], "/Mul"),
        ],
        "net",
        [helper.make_tensor_value_info("planes", onnx.TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("made", onnx.TensorProto.FLOAT, sizes)],
        [onnx.numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    described = Graph(name, digest(content), "planes", "made", planes, planes, None, None, None, multiple, multiple, 17)
    return described, content


def varnet() -> SplitProgram:
    """Sensitivities of its own and a k-space iterate of two cascades."""
    return cascades(2)


def cascades(count: int) -> SplitProgram:
    """Sensitivities of its own and a k-space iterate of so many cascades, each with a graph of its own."""
    stages: list[Stage] = [Sensitivities("sensitivities", "net-1.onnx", NORMALISED, "symmetric", "magnitude")]
    for number in range(1, count + 1):
        stages += [
            Combine(f"cascade {number}, coil combination"),
            Regularise(f"cascade {number}, regulariser", f"net-{number + 1}.onnx", NORMALISED, "correction"),
            KSpaceStep(f"cascade {number}, data consistency", 0.7 if number % 2 else 0.4),
        ]
    return program((*stages, RootSumOfSquares("image")), tuple(range(1, count + 2)))


def modl() -> SplitProgram:
    """One denoiser between proximal steps, with sensitivities that it is given."""
    shaping = Shaping(padding=Padding(4, "end", "edge"))
    stages: list[Stage] = [ZeroFilled("zero-filled")]
    for number in (1, 2):
        stages += [
            ProximalStep(f"iteration {number}, data consistency", 0.3, 30, 1e-6),
            Regularise(f"iteration {number}, regulariser", "net-4.onnx", shaping, "estimate"),
        ]
    return program(tuple(stages), (4,), maps_given=True)


def denoiser(planes: int = 2, multiple: int = 4) -> SplitProgram:
    """One network of images."""
    made = program((Network("network", "net-5.onnx", Shaping()),), (5,), planes=planes, multiple=multiple)
    return made


def program(
    stages: tuple[Stage, ...], seeds: tuple[int, ...], *, maps_given: bool = False, planes: int = 0, multiple: int = 4
) -> SplitProgram:
    """A program of graphs of those seeds; of images where it has planes."""
    graphs = [bending(seed, planes or 2, multiple) for seed in seeds]
    return SplitProgram(
        domain="image" if planes else "kspace",
        network_axes="columns, phase_encodes",
        maps_given=maps_given,
        input_channels=planes,
        stages=stages,
        graphs=tuple(graph for graph, _ in graphs),
        name="made",
        version="1",
        origin=Origin("onnx", "made", "none", "{}", "made.onnx", digest(b""), digest(b"")),
        files={graph.file: content for graph, content in graphs},
    )


def packed(
    folder: Path, made: SplitProgram, key: SigningKey, settings: str = "", work: Path | None = None, **options: Any
) -> Path:
    """The program as a bundle, through its file and a configuration."""
    write_program(folder / "made.edgeprogram", made, Comparison(1e-4, "none", (), ("nothing was compared",)))
    config, out = folder / "device.toml", folder / "made.edgebundle"
    config.write_text('program = "made.edgeprogram"\nlicence = "MIT"\n' + settings)
    make_program_bundle(load_program_config(config), config, work, out, key, **{"override": "a test", **options})
    return out
