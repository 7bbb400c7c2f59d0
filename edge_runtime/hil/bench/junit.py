"""The verdict as JUnit XML, for a maker's continuous integration: a test case a line of the budget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edge_runtime.errors import BenchError

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_of(report: Mapping[str, Any]) -> bytes:
    """The file's bytes. A line that was missed is a failure, one that was not measured is skipped, a bench
    that was itself too late an
    error."""
    protocol, verdict = report["protocol"], report["verdict"]
    lines = verdict["lines"]
    failed = sum(line["passed"] is False for line in lines)
    counts = {"tests": len(lines) + 1, "failures": failed, "errors": int(not verdict["valid"])}
    counts["skipped"] = sum(line["passed"] is None for line in lines)
    attributes = {name: str(value) for name, value in counts.items()}
    name = _clean(f"edge-runtime bench {protocol['name']} {protocol['version']}")
    root = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": name, "timestamp": report["made"].rstrip("Z"), **attributes}
    )
    for line in lines:
        case = ElementTree.SubElement(suite, "testcase", {"classname": name, "name": _clean(line["name"])})
        words = f"{line['measured']} {line['unit']}, at most {line['limit']} {line['unit']}; {line['detail']}"
        if line["passed"] is False:
            failure = ElementTree.SubElement(case, "failure", {"message": _clean(words)})
            failure.text = _clean("\n".join(verdict["reasons"]))
        elif line["passed"] is None:
            ElementTree.SubElement(case, "skipped", {"message": _clean(line["detail"])})
        else:
            ElementTree.SubElement(case, "system-out").text = _clean(words)
    case = ElementTree.SubElement(suite, "testcase", {"classname": name, "name": "the bench kept its own time"})
    if not verdict["valid"]:
        ElementTree.SubElement(
            case, "error", {"message": "the simulated scanner was too late for the figures to speak of the server"}
        )
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _clean(text: str) -> str:
    """Without what XML can't hold."""
    return NOT_XML.sub("�", text)


def write_junit(path: Path, report: Mapping[str, Any]) -> None:
    """Writes it.

    Raises:
        BenchError: it can't be written.
    """
    try:
        path.write_bytes(junit_of(report))
    except OSError as error:
        raise BenchError(f"{path}: can't be written: {error.strerror or error}") from None
