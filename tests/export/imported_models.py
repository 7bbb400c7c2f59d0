"""Seeded models of fastMRI, MONAI and deepinv on disk, and what tests ask of every one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.program.stages import Graph
from export.adapters.errors import ImportRefused
from export.adapters.inputs import Case, default_recording, measured_case, random_cases
from export.adapters.mapping import read_mapping
from export.adapters.program import SplitProgram, digest
from export.adapters.verify import CaseReport, compare

ROUNDING = 5e-5
"""What rounding in single precision may make of small networks; the tolerance that users get is twice that."""


def saved(folder: Path, model: Any, mapping: str) -> tuple[Path, Path]:
    """Checkpoint and mapping of a model."""
    import torch

    torch.set_num_threads(1)  # two wait for each other on a busy machine, longer than these networks take
    checkpoint, toml = folder / "model.pt", folder / "model.toml"
    torch.save(model.state_dict(), checkpoint)
    toml.write_text('name = "made"\nversion = "1"\n' + mapping)
    return checkpoint, toml


def imported(adapter: Any, files: tuple[Path, Path]) -> Any:
    """What an adapter makes of them."""
    return adapter.adapt(read_mapping(files[1]), files[0])


def agrees(found: Any, cases: list[Case] | None = None) -> tuple[CaseReport, ...]:
    """Both sides do the same on random input: several batches, coil counts and sizes."""
    cases = cases or list(random_cases(found.program))
    reports = compare(found.program, OnnxRuntimeEngine(), found.original, cases, ROUNDING)
    stages = [stage.name for stage in found.program.stages]
    assert all([one.stage for one in report.stages] == stages for report in reports)
    return reports


def agrees_on_measured_data(found: Any) -> None:
    """Both sides do the same on the measured head."""
    recording = default_recording()
    assert recording is not None
    agrees(found, [measured_case(found.program, recording)])


def departs(found: Any, program: SplitProgram, stage: str) -> None:
    """A program that was broken at a stage is refused, and the stage is named."""
    cases = list(random_cases(found.program))[:1]
    with pytest.raises(ImportRefused, match=f"{stage}: departs from the original by"):
        compare(program, OnnxRuntimeEngine(), found.original, cases, 1e-4)


def with_broken_stage(program: SplitProgram, stage: str, **changes: Any) -> SplitProgram:
    """The program with other parameters at one stage."""
    assert any(one.name == stage for one in program.stages)
    return replace(
        program, stages=tuple(replace(one, **changes) if one.name == stage else one for one in program.stages)
    )


def with_broken_graph(program: SplitProgram, file: str) -> SplitProgram:
    """The program with the last weights of one graph off by a hundredth."""
    import onnx

    model = onnx.load_model_from_string(program.files[file])
    weights = next(one for one in reversed(model.graph.initializer) if len(one.dims) == 4)
    numbers = onnx.numpy_helper.to_array(weights)
    # one factor for all would be undone by the normalisation that follows
    numbers = numbers * (1 + 0.01 * np.random.default_rng(0).standard_normal(numbers.shape).astype(np.float32))
    weights.CopyFrom(onnx.numpy_helper.from_array(numbers, weights.name))
    content = model.SerializeToString()

    def described(graph: Graph) -> Graph:
        return replace(graph, sha256=digest(content)) if graph.file == file else graph

    return replace(
        program, files={**program.files, file: content}, graphs=tuple(described(one) for one in program.graphs)
    )
