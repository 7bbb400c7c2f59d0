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
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from edge_runtime.program.document import program_document, typed
from edge_runtime.program.document import read_program as steps_of
from edge_runtime.program.stages import Program
from export.adapters.errors import ImportRefused
from export.adapters.program import Origin, SplitProgram, digest
from export.adapters.verify import Comparison

FORMAT = 1
PROGRAM, REPORT = "program.json", "report.json"
SUFFIX = ".edgeprogram"
DOCUMENT_BYTES = 4 << 20
"""Longest description that is read; a hundred cascades take a tenth of it."""
FILE_BYTES = 1 << 31
MOST_FILES = 1024
ENCRYPTED = 1
"""Bit of a ZIP entry's flags."""


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
        ImportRefused: it is not there, damaged or altered, or of another format.
        OSError: it can't be read.
    """
    contents = _contents(path)
    if PROGRAM not in contents:
        raise ImportRefused(f"{path}: no {PROGRAM}")
    try:
        document = json.loads(contents[PROGRAM])
    except (ValueError, RecursionError) as error:
        raise ImportRefused(f"{path}: {PROGRAM}: {error}") from None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise ImportRefused(f"{path}: {PROGRAM} is not of format {FORMAT}; import the model again")
    where = f"{path}: {PROGRAM}"
    own = {one.name for one in fields(SplitProgram)} - {one.name for one in fields(Program)} - {"files"}
    try:
        if missing := own - set(document):
            raise ValueError(f"differs in {sorted(missing)}")
        program = steps_of({name: value for name, value in document.items() if name not in own})
        origin = typed(Origin, document["origin"])
        for name in ("name", "version"):
            if not isinstance(document[name], str):
                raise ValueError(f"{name} = {document[name]!r}: a text is expected")
    except ValueError as error:
        raise ImportRefused(f"{where}: {error}") from None
    files = {}
    for graph in program.graphs:
        if graph.file not in contents or digest(contents[graph.file]) != graph.sha256:
            raise ImportRefused(f"{path}: {graph.file} is missing or altered; import the model again")
        files[graph.file] = contents[graph.file]
    return SplitProgram(
        **{one.name: getattr(program, one.name) for one in fields(Program)},
        name=document["name"],
        version=document["version"],
        origin=origin,
        files=files,
    )


def read_report(path: Path) -> dict[str, Any]:
    """What the comparison with the original found, in short: tolerance, engine and the worst difference on every input.

    Raises:
        ImportRefused: there is no report, or it is none of this program.
    """
    contents = _contents(path)
    try:
        report = json.loads(contents[REPORT])
        if report["program_sha256"] != digest(contents[PROGRAM]):
            raise ValueError("it is about another program")
        worst = {
            str(case["case"]): max((float(one["difference"]) for one in case["stages"]), default=0.0)
            for case in report["cases"]
        }
        return {"tolerance": float(report["tolerance"]), "engine": str(report["engine"]), "worst_difference": worst}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImportRefused(f"{path}: {REPORT}: {error!r}; import the model again") from None


def _document(program: SplitProgram) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": program.name,
        "version": program.version,
        **program_document(program),
        "origin": asdict(program.origin),
    }


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


def _contents(path: Path) -> dict[str, bytes]:
    if not path.exists():
        raise ImportRefused(f"{path}: no such program; edge-export import writes one")
    return _folder(path) if path.is_dir() else _unpacked(path)


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
                if one.compress_type != zipfile.ZIP_STORED or one.flag_bits & ENCRYPTED:
                    raise ImportRefused(f"{path}: {one.filename} is compressed or encrypted; import the model again")
            return {one.filename: archive.read(one) for one in entries}
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ImportRefused(f"{path}: no program ({error})") from None


def _check_entry(path: Path, name: str, size: int, count: int) -> None:
    plain = name == Path(name).name and name not in ("", ".", "..") and "\\" not in name
    most = FILE_BYTES if name.endswith(".onnx") else DOCUMENT_BYTES
    if not plain or size > most or count > MOST_FILES:
        raise ImportRefused(f"{path}: {name!r} of {size} bytes, one of {count}: not what a program holds")
