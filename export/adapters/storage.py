"""An imported program on disk: a folder, or one file with the same content, ready to be packed.

    program.json   the stages, the graphs and where they come from
    report.json    how far each stage is from the original
    *.onnx         the graphs

One file is a ZIP archive without compression or times: the same program gives the same bytes. Reading checks every name, size and
digest before a graph is handed on, and makes nothing but the types of `program`.
"""

from __future__ import annotations

import io
import json
import types
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from export.adapters.errors import ImportRefused
from export.adapters.program import STAGES, Graph, Origin, SplitProgram, Stage, digest, word_of
from export.adapters.verify import Comparison

FORMAT = 1
PROGRAM, REPORT = "program.json", "report.json"
SUFFIX = ".edgeprogram"
DOCUMENT_BYTES = 4 << 20
"""Longest description that is read; a hundred cascades take a tenth of it."""
FILE_BYTES = 1 << 31
MOST_FILES = 1024


def write_program(out: Path, program: SplitProgram, comparison: Comparison) -> tuple[Path, ...]:
    """Writes a folder, or one file where ``out`` ends with ``.edgeprogram``.

    Returns:
        what was written.

    Raises:
        ImportRefused: the folder holds something else.
        OSError: it can't be written.
    """
    contents = {
        PROGRAM: _json(_document(program)),
        REPORT: _json({"format": FORMAT, "program_sha256": digest(_json(_document(program))), **_cases(comparison)}),
        **{name: program.files[name] for name in sorted(program.files)},
    }
    if out.suffix == SUFFIX:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(out.name + ".partial")
        partial.write_bytes(_archive(contents))
        partial.replace(out)
        return (out,)
    if out.exists() and (not out.is_dir() or any(path.name not in contents for path in out.iterdir())):
        raise ImportRefused(f"{out}: holds something else; name a new or empty folder, or a file *{SUFFIX}")
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (out / name).write_bytes(content)
    return tuple(out / name for name in contents)


def read_program(path: Path) -> SplitProgram:
    """A program from its folder or file.

    Raises:
        ImportRefused: it is damaged or altered, or of another format.
        OSError: it can't be read.
    """
    contents = _folder(path) if path.is_dir() else _unpacked(path)
    if PROGRAM not in contents:
        raise ImportRefused(f"{path}: no {PROGRAM}")
    try:
        document = json.loads(contents[PROGRAM])
    except ValueError as error:
        raise ImportRefused(f"{path}: {PROGRAM}: {error}") from None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise ImportRefused(f"{path}: {PROGRAM} is not of format {FORMAT}; import the model again")
    where = f"{path}: {PROGRAM}"
    stages = tuple(_stage(one, where) for one in _list(document.pop("stages", None), where, "stages"))
    graphs = tuple(_typed(Graph, one, where) for one in _list(document.pop("graphs", None), where, "graphs"))
    origin = _typed(Origin, document.pop("origin", None), where)
    files = {}
    for graph in graphs:
        if graph.file not in contents or digest(contents[graph.file]) != graph.sha256:
            raise ImportRefused(f"{path}: {graph.file} is missing or altered; import the model again")
        files[graph.file] = contents[graph.file]
    whole = {**document, "stages": stages, "graphs": graphs, "origin": origin, "files": files}
    if set(whole) != {one.name for one in fields(SplitProgram)}:
        raise ImportRefused(f"{where} differs in {sorted(set(whole) ^ {one.name for one in fields(SplitProgram)})}")
    hints = get_type_hints(SplitProgram)
    plain = {name: _value(hints[name], value, f"{where}: {name}") for name, value in document.items()}
    unknown = {stage.graph for stage in stages if hasattr(stage, "graph")} - set(files)
    if unknown:
        raise ImportRefused(f"{where}: stages name graphs that are not there: {', '.join(sorted(unknown))}")
    return SplitProgram(**plain, stages=stages, graphs=graphs, origin=origin, files=files)


def _document(program: SplitProgram) -> dict[str, Any]:
    document = {one.name: getattr(program, one.name) for one in fields(program) if one.name != "files"}
    document["stages"] = [{"stage": word_of(stage), **asdict(stage)} for stage in program.stages]
    document["graphs"] = [asdict(graph) for graph in program.graphs]
    document["origin"] = asdict(program.origin)
    return {"format": FORMAT, **document}


def _cases(comparison: Comparison) -> dict[str, Any]:
    return {
        "tolerance": comparison.tolerance,
        "engine": comparison.engine,
        "notes": list(comparison.notes),
        "cases": [asdict(case) for case in comparison.cases],
    }


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _archive(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def _folder(path: Path) -> dict[str, bytes]:
    found = [one for one in sorted(path.iterdir()) if one.name in (PROGRAM, REPORT) or one.suffix == ".onnx"]
    for one in found:
        _check_entry(path, one.name, one.stat().st_size, len(found))
    return {one.name: one.read_bytes() for one in found}


def _unpacked(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for one in entries:
                _check_entry(path, one.filename, one.file_size, len(entries))
                if one.compress_type != zipfile.ZIP_STORED:
                    raise ImportRefused(f"{path}: {one.filename} is compressed; import the model again")
            return {one.filename: archive.read(one) for one in entries}
    except zipfile.BadZipFile as error:
        raise ImportRefused(f"{path}: no program ({error})") from None


def _check_entry(path: Path, name: str, size: int, count: int) -> None:
    plain = name == Path(name).name and name not in ("", ".", "..") and "\\" not in name
    most = FILE_BYTES if name.endswith(".onnx") else DOCUMENT_BYTES
    if not plain or size > most or count > MOST_FILES:
        raise ImportRefused(f"{path}: {name!r} of {size} bytes, one of {count}: not what a program holds")


def _list(value: object, where: str, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ImportRefused(f"{where}: {name}: a list is expected")
    return value


def _stage(document: object, where: str) -> Stage:
    word = document.get("stage") if isinstance(document, dict) else None
    if not isinstance(document, dict) or word not in STAGES:
        raise ImportRefused(f"{where}: stage {word!r}; known are {', '.join(STAGES)}")
    made: Stage = _typed(STAGES[word], {name: value for name, value in document.items() if name != "stage"}, where)
    return made


def _typed(kind: type[Any], document: object, where: str) -> Any:
    """One of the program's dataclasses, every field of its declared type."""
    wanted = {one.name for one in fields(kind)}
    if not isinstance(document, dict) or set(document) != wanted:
        found = set(document) if isinstance(document, dict) else set()
        raise ImportRefused(f"{where}: {kind.__name__} differs in {sorted(found ^ wanted)}")
    hints = get_type_hints(kind)
    return kind(
        **{name: _value(hints[name], value, f"{where}: {kind.__name__}.{name}") for name, value in document.items()}
    )


def _value(kind: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal and value in arguments and isinstance(value, str):
        return value
    if origin in (Union, types.UnionType):
        for one in arguments:
            try:
                return _value(one, value, where)
            except ImportRefused:
                continue
    elif origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], one, where) for one in value)
    elif is_dataclass(kind) and isinstance(kind, type):
        return _typed(kind, value, where)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif kind is type(None) and value is None:
        return None
    elif kind in (int, str, bool) and type(value) is kind:
        return value
    raise ImportRefused(f"{where} = {value!r}: {kind} is expected")
