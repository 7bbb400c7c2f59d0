"""A split program as plain values of JSON, and back: every value of its declared type, within bounds, every stage in its place.

Both a program on a desk's disk and the one in a bundle are read here. What is read can be run: no stage lacks what those before it
make, every graph that is named is there, and its planes are as many as the stage gives it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edge_runtime.program.stages import (
    STAGES,
    Combine,
    Graph,
    KSpaceStep,
    Network,
    Program,
    ProximalStep,
    Regularise,
    RootSumOfSquares,
    Running,
    Sensitivities,
    Shaping,
    Stage,
    ZeroFilled,
    word_of,
)

MOST_STAGES = 512
MOST_GRAPHS = 128
MOST_CHANNELS = 1024
MOST_POINTS = 4096
"""Of a matrix axis, and of whatever counts its points."""

MOST_STEPS = 1000
"""Of conjugate gradients in one stage."""

LONGEST_TEXT = 200
FILE = re.compile(r"[a-z0-9][a-z0-9._-]{0,47}\.onnx", re.ASCII)
"""What a graph may be called: a name that a bundle can hold beside its precision."""

Kind = TypeVar("Kind")


def program_document(program: Program) -> dict[str, Any]:
    """The program as plain values."""
    document = {one.name: getattr(program, one.name) for one in fields(Program)}
    document["stages"] = [{"stage": word_of(stage), **asdict(stage)} for stage in program.stages]
    document["graphs"] = [asdict(graph) for graph in program.graphs]
    return document


def read_program(document: object) -> Program:
    """The program of such values.

    Raises:
        ValueError: names the value that is wrong and what is expected.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"program = {str(document)[:LONGEST_TEXT]!r}: a table is expected")
    stages, graphs = (_list(document.get(name), name, most) for name, most in LISTS.items())
    program = replace(
        typed(Program, {**document, "stages": [], "graphs": []}),
        stages=tuple(_stage(one) for one in stages),
        graphs=tuple(typed(Graph, one) for one in graphs),
    )
    _check(program)
    return program


LISTS = {"stages": MOST_STAGES, "graphs": MOST_GRAPHS}


def typed(kind: type[Kind], document: object) -> Kind:
    """A dataclass of plain values, every field of its declared type and no other there.

    Raises:
        ValueError: names the field, its value and the type.
    """
    wanted = {one.name for one in fields(kind)}  # type: ignore[arg-type]  # every caller gives a dataclass
    found = set(document) if isinstance(document, Mapping) else set()
    if not isinstance(document, Mapping) or found != wanted:
        raise ValueError(f"{kind.__name__} differs in {sorted(map(str, found ^ wanted))}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{kind.__name__}.{name}") for name, value in document.items()})


def _list(value: object, name: str, most: int) -> list[Any]:
    if not isinstance(value, list) or not 0 < len(value) <= most:
        raise ValueError(f"{name}: a list is expected, of 1 to {most}")
    return value


def _stage(document: object) -> Stage:
    word = document.get("stage") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or not isinstance(word, str) or word not in STAGES:
        raise ValueError(f"stage {str(word)[:LONGEST_TEXT]!r}; known are {', '.join(STAGES)}")
    made: Stage = typed(STAGES[word], {name: value for name, value in document.items() if name != "stage"})
    return made


def _value(kind: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if origin in (Union, types.UnionType):
        for one in arguments:
            try:
                return _value(one, value, where)
            except ValueError:
                continue
    elif origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], one, where) for one in value)
    elif is_dataclass(kind) and isinstance(kind, type):
        return typed(kind, value)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= 1e30:  # nor is it NaN
            return float(value)
    elif kind is type(None) and value is None:
        return None
    elif kind in (int, str, bool) and type(value) is kind:
        return value
    raise ValueError(f"{where} = {repr(value)[:LONGEST_TEXT]}: {getattr(kind, '__name__', kind)} is expected")


def _within(where: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise ValueError(f"{where} = {value}: {least} to {most} is expected")


def _check(program: Program) -> None:
    """That it can be run."""
    graphs = {graph.file: graph for graph in program.graphs}
    if len(graphs) != len(program.graphs):
        raise ValueError("two graphs of one name")
    for graph in program.graphs:
        _check_graph(graph)
    named = {stage.graph for stage in program.stages if isinstance(stage, Running)}
    if named != set(graphs):
        raise ValueError(f"stages and graphs differ in {', '.join(sorted(named ^ set(graphs)))}")
    for stage in program.stages:
        _check_stage(stage)
    if program.domain == "image":
        _check_images(program, graphs)
    else:
        _check_samples(program, graphs)


def _check_graph(graph: Graph) -> None:
    if not FILE.fullmatch(graph.file):
        raise ValueError(f"graph {graph.file[:LONGEST_TEXT]!r}: a name such as regulariser-01.onnx is expected")
    for name in ("input_channels", "output_channels"):
        _within(f"{graph.file}: {name}", getattr(graph, name), 1, MOST_CHANNELS)
    for name in ("batch", "rows", "columns", "multiple", "least"):
        _within(f"{graph.file}: {name}", getattr(graph, name), 1, MOST_POINTS)


def _check_stage(stage: Stage) -> None:
    if not 0 < len(stage.name) <= LONGEST_TEXT or not stage.name.isprintable():
        raise ValueError(f"a stage's name {stage.name[:LONGEST_TEXT]!r}: a text of one line is expected")
    if isinstance(stage, Running) and stage.shaping.padding is not None:
        _within(f"{stage.name}: padding.multiple", stage.shaping.padding.multiple, 1, MOST_POINTS)
    if isinstance(stage, Sensitivities) and isinstance(stage.lines, int):
        _within(f"{stage.name}: lines", stage.lines, 1, MOST_POINTS)
    if isinstance(stage, ProximalStep):
        _within(f"{stage.name}: steps", stage.steps, 1, MOST_STEPS)
        if not stage.weight > 0 or not stage.tolerance >= 0:
            raise ValueError(
                f"{stage.name}: weight {stage.weight:g}, tolerance {stage.tolerance:g}: a positive weight is expected"
            )


def _check_images(program: Program, graphs: Mapping[str, Graph]) -> None:
    planes = program.input_channels
    for stage in program.stages:
        if not isinstance(stage, Network):
            raise ValueError(f"stage {stage.name!r} has no place in a program of images")
        planes = _check_planes(stage.name, stage.shaping, graphs[stage.graph], planes)


def _check_samples(program: Program, graphs: Mapping[str, Graph]) -> None:
    if program.input_channels:
        raise ValueError(f"input_channels = {program.input_channels}: 0 is expected of a program of samples")
    maps, estimate = program.maps_given, False
    for stage in program.stages:
        if isinstance(stage, Network):
            raise ValueError(f"stage {stage.name!r} has no place in a program of samples")
        if not maps and not isinstance(stage, Sensitivities):
            raise ValueError(f"stage {stage.name!r} comes before any sensitivities")
        if maps and isinstance(stage, Sensitivities):
            raise ValueError(f"stage {stage.name!r}: there are sensitivities already")
        maps = True
        if isinstance(stage, Regularise) and not estimate:
            raise ValueError(f"stage {stage.name!r} comes before any image: zero_filled or combine makes the first")
        estimate = estimate or isinstance(stage, ZeroFilled | Combine)
        if isinstance(stage, Sensitivities | Regularise):
            made = _check_planes(stage.name, stage.shaping, graphs[stage.graph], 2)
            if made != 2:
                raise ValueError(
                    f"{stage.name}: {stage.graph} makes {made} planes: real and imaginary part, 2, are expected"
                )
    *before, last = program.stages
    iterates = any(isinstance(stage, Combine | KSpaceStep) for stage in before)
    if any(isinstance(stage, RootSumOfSquares) for stage in before) or iterates != isinstance(last, RootSumOfSquares):
        raise ValueError(
            "a k-space iterate ends, and nothing else does, with the root-sum-of-squares of its coil images"
        )
    if isinstance(last, Sensitivities | Combine | KSpaceStep) or (
        isinstance(last, Regularise) and last.makes == "correction"
    ):
        raise ValueError(f"the last stage {last.name!r} makes no image")


def _check_planes(stage: str, shaping: Shaping, graph: Graph, planes: int) -> int:
    """Planes that a graph makes of so many."""
    given = planes + len(shaping.planes)
    if given != graph.input_channels:
        raise ValueError(f"{stage}: {graph.file} takes {graph.input_channels} planes, {given} come")
    if shaping.normalise != "none" and graph.output_channels != planes:
        raise ValueError(
            f"{stage}: {graph.file} makes {graph.output_channels} planes of {planes}: no deviations belong to them"
        )
    return graph.output_channels
