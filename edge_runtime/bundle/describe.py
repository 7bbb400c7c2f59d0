"""What is inside a bundle, for people and for machines, whoever signed it: showing is not trusting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_runtime.bundle.archive import LICENCE, MANIFEST, QUALITY, SIGNATURE, read_archive, read_file
from edge_runtime.bundle.manifest import form_graphs, parse_manifest
from edge_runtime.bundle.quality import form_digest
from edge_runtime.bundle.signature import parse_signature
from edge_runtime.bundle.verify import Verification
from edge_runtime.errors import BundleError, BundleMalformed, BundleUnsigned


def describe_bundle(path: Path) -> dict[str, Any]:
    """A bundle's content as plain values; nothing says that it may be used.

    Raises:
        BundleError: there is nothing to be shown, as the file is missing or malformed.
    """
    content = read_file(path)
    try:
        members = read_archive(content)
        if MANIFEST not in members:
            raise BundleMalformed(f"{MANIFEST} is missing: this archive is no bundle")
        manifest = parse_manifest(members[MANIFEST])
        try:
            key_id = parse_signature(members.get(SIGNATURE)).key_id
        except BundleUnsigned:
            key_id = ""
    except BundleError as error:
        raise type(error)(f"{path}: {error}") from error
    document = manifest.document
    return {
        "file": str(path),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "manifest_sha256": hashlib.sha256(members[MANIFEST]).hexdigest(),
        "name": manifest.name,
        "version": manifest.version,
        "format": document["format"],
        "family": document["family"],
        "licence": members.get(LICENCE, b"").decode("utf-8", "replace").partition("\n")[0],
        "key_id": key_id,
        "settings": document["settings"],
        "forms": document["forms"],
        "form_sha256": {precision: form_digest(manifest.graph_digests(precision)) for precision in manifest.forms},
        "limits": document["limits"],
        "quality_report": QUALITY in members,
        "override": None if manifest.override is None else asdict(manifest.override),
        "provenance": document.get("provenance", {}),
        "members": {name: len(member) for name, member in sorted(members.items())},
    }


def description_lines(description: dict[str, Any]) -> Iterator[str]:
    """The same as text, one fact a line. A bundle may be anybody's: no control characters reach the terminal."""
    for line in _lines(description):
        yield "".join(letter if letter.isprintable() else "?" for letter in line)


def _lines(description: dict[str, Any]) -> Iterator[str]:
    yield f"{description['name']} {description['version']}: {description['file']}"
    for label, key in (("SHA-256", "sha256"), ("manifest", "manifest_sha256"), ("signed by", "key_id")):
        yield f"  {label:<11}{description[key] or 'nobody'}"
    yield f"  {'licence':<11}{description['licence'] or 'not stated'}"
    yield f"  {'network':<11}{_network(description['settings'])}, {description['family']}"
    for precision, form in sorted(description["forms"].items()):
        tolerances = "; ".join(
            f"{one['engine']} {one['first']} to below {one['below']}: {one['relative_error']:.0e}"
            for one in form["tolerances"]
        )
        size = sum(description["members"].get(graph, 0) for graph in form_graphs(form).values())
        yield f"  {precision:<11}{size} bytes; golden tolerance {tolerances}"
        yield f"  {'':<11}SHA-256 {description['form_sha256'][precision]}"
    limits = "; ".join(
        f"{name} {' and '.join(f'{word.replace(chr(95), chr(32))} {bound:g}' for word, bound in sorted(bounds.items()))}"
        for name, bounds in sorted(description["limits"].items())
    )
    yield f"  {'limits':<11}{limits or 'none'}"
    yield f"  {'quality':<11}{'report inside' if description['quality_report'] else 'no report'}"
    override = description["override"]
    if override is not None:
        yield f"  {'OVERRIDE':<11}{override['reason']}"
        yield from (f"  {'':<11}- {missed}" for missed in override["misses"])
    data = description["provenance"].get("training_data")
    if isinstance(data, dict):
        volumes = data.get("volumes")
        count = f"{len(volumes)} volumes, " if isinstance(volumes, list) else ""
        yield f"  {'trained on':<11}{count}SHA-256 {data.get('sha256', 'unknown')}"
    if "code_sha256" in description["provenance"]:
        yield f"  {'trained by':<11}code of SHA-256 {description['provenance']['code_sha256']}"
    yield f"  {'members':<11}{len(description['members'])}, {description['bytes']} bytes"
    yield from (f"  {size:>11} {name}" for name, size in description["members"].items())


def _network(settings: dict[str, Any]) -> str:
    if "program" not in settings:
        return f"{settings['iterations']} iterations of {settings['cg_steps']} steps"
    program = settings["program"]
    return f"{len(program['stages'])} stages, {len(program['graphs'])} graphs, domain {program['domain']}"


def verification_lines(verification: Verification) -> Iterator[str]:
    """Every check, one a line, and the verdict."""
    words = {True: "pass", False: "FAIL", None: "-"}
    for check in verification.checks:
        yield f"  {words[check.passed]:<5} {check.name:<12} {check.detail}"
    if not verification.passed:
        yield "refused: the runtime will not use this bundle"
    elif verification.bundle is not None and verification.bundle.override is not None:
        yield f"accepted, quality limits overridden: {verification.bundle.override.reason}"
    else:
        yield "accepted"


def verification_record(verification: Verification) -> dict[str, Any]:
    """The checks as plain values, for JSON."""
    return {
        "accepted": verification.passed,
        "checks": [
            {"name": check.name, "passed": check.passed, "detail": check.detail, "error": check.error}
            for check in verification.checks
        ],
    }
