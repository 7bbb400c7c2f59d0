"""A bundle is used as it was packed or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import bundle as module
from edge_runtime.bundle import MANIFEST, load_bundle
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import BundleError
from edge_runtime.runtime import prepare_model

Members = dict[str, bytes]


def rewritten(source: Path, target: Path, change: Callable[[Members], None], *, relist: bool = False) -> Path:
    """A copy of a bundle with changed members; ``relist`` makes the manifest agree with them, as a forger would."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    if relist:
        manifest = json.loads(members[MANIFEST])
        manifest["files"] = {n: hashlib.sha256(c).hexdigest() for n, c in members.items() if n != MANIFEST}
        members[MANIFEST] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def in_manifest(**changes: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        members[MANIFEST] = json.dumps({**json.loads(members[MANIFEST]), **changes}).encode()

    return change


def in_settings(**changes: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        manifest = json.loads(members[MANIFEST])
        manifest["settings"].update(changes)
        members[MANIFEST] = json.dumps(manifest).encode()

    return change


def set_member(name: str, content: bytes) -> Callable[[Members], None]:
    return lambda members: members.__setitem__(name, content)


def test_a_bundle_is_read_as_it_was_packed(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    assert (bundle.name, bundle.version, list(bundle.forms)) == ("tiny", "1", ["fp32"])
    assert bundle.digest == hashlib.sha256(tiny_bundle.read_bytes()).hexdigest()


def test_packing_twice_gives_the_same_bytes(tiny_bundle, tmp_path):
    from export.pack import write_bundle

    bundle = load_bundle(tiny_bundle)
    write_bundle(
        tmp_path / "again",
        name=bundle.name,
        version=bundle.version,
        settings=bundle.settings,
        forms={precision: form.onnx for precision, form in bundle.forms.items()},
        golden_input=bundle.golden_input,
        provenance=bundle.manifest["provenance"],
    )
    assert (tmp_path / "again").read_bytes() == tiny_bundle.read_bytes()


def test_the_golden_outputs_are_reproduced(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    bundle.check_golden(OnnxRuntimeEngine().plan(bundle.forms["fp32"].onnx, threads=1), bundle.forms["fp32"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_member("forms/fp32.onnx", b"other weights"), "SHA-256 of forms/fp32.onnx"),
        (set_member("golden/input.npy", b""), "SHA-256 of golden/input.npy"),
        (set_member("extra.py", b"import os"), "differ: .*extra.py"),
        (lambda members: members.pop("golden/fp32.npy"), "differ: .*golden/fp32.npy"),
        (lambda members: members.pop(MANIFEST), "manifest.json is missing"),
        (set_member(MANIFEST, b"{"), "does not list the files"),
        (set_member(MANIFEST, b"[]"), "does not list the files"),
        (set_member(MANIFEST, b'{"format": 1}'), "does not list the files"),
        (in_manifest(format=2), "format 2: this runtime reads format 1"),
        (in_manifest(name=None, forms=[]), "malformed"),
        (in_settings(iterations=3), "2 weights for 3 iterations"),
        (in_settings(cg_steps=0), "0 steps"),
        (in_settings(multiple=0), "multiples of 0"),
        (in_settings(log_weights=[[0, 0], [0, float("inf")]]), "weights"),
        (set_member("bomb", bytes(1 << 20)), "bomb unpacks to 1048576 bytes"),
    ],
)
def test_an_altered_bundle_is_refused(tiny_bundle, tmp_path, change, words):
    with pytest.raises(BundleError, match=words):
        load_bundle(rewritten(tiny_bundle, tmp_path / "altered", change))


def test_a_pickle_is_never_unpacked(tiny_bundle, tmp_path):
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("the pickle was executed",)

    change = set_member("golden/input.npy", npy(np.array([Trap()], dtype=object)))
    with pytest.raises(BundleError, match="malformed"):
        load_bundle(rewritten(tiny_bundle, tmp_path / "trap", change, relist=True))


def test_too_many_members_are_refused(tiny_bundle, tmp_path):
    def change(members: Members) -> None:
        members.update({f"more/{i}": b"x" for i in range(module.MAX_MEMBERS)})

    with pytest.raises(BundleError, match="members, at most 64"):
        load_bundle(rewritten(tiny_bundle, tmp_path / "many", change, relist=True))


def test_a_member_that_stands_twice_is_refused(tiny_bundle, tmp_path):
    path = tmp_path / "twice"
    path.write_bytes(tiny_bundle.read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(MANIFEST, b"{}")
    with pytest.raises(BundleError, match="stands twice"):
        load_bundle(path)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04" + bytes(40)])
def test_a_file_that_is_no_bundle_is_refused(tmp_path, content):
    path = tmp_path / "none"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="not a readable bundle"):
        load_bundle(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"nowhere\.edgebundle: no such bundle"):
        load_bundle(tmp_path / "nowhere.edgebundle")


@pytest.mark.parametrize("position", np.linspace(0, 0.999, 40))
def test_a_flipped_byte_anywhere_is_refused_or_harmless(tiny_bundle, tmp_path, position):
    content = bytearray(tiny_bundle.read_bytes())
    content[int(position * len(content))] ^= 0xFF
    path = tmp_path / "damaged"
    path.write_bytes(content)
    try:
        damaged = load_bundle(path)
    except BundleError:
        return
    assert damaged.forms["fp32"].onnx == load_bundle(tiny_bundle).forms["fp32"].onnx  # e.g. a time stamp


@pytest.mark.parametrize("wrong", ["values", "shape", "nan"])
def test_golden_outputs_that_are_not_reproduced_are_refused(tiny_bundle, wrong):
    bundle = load_bundle(tiny_bundle)
    form = bundle.forms["fp32"]
    golden = {
        "values": form.golden_output * 1.01,
        "shape": form.golden_output[:, :1],
        "nan": np.full_like(form.golden_output, np.nan),
    }[wrong]
    with pytest.raises(BundleError, match="golden output"):
        bundle.check_golden(OnnxRuntimeEngine().plan(form.onnx, threads=1), replace(form, golden_output=golden))


def test_a_precision_that_the_bundle_lacks_is_refused_by_name(tiny_bundle, runtime_of):
    with runtime_of() as runtime, pytest.raises(BundleError, match="holds fp32; wanted is int8"):
        prepare_model(load_bundle(tiny_bundle), runtime.profile, "int8")
