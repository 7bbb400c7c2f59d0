"""Packing and signing: the same inputs give the same bytes, and nothing is packed in spite of its limits without a name."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forge import rewritten, set_member

from edge_runtime.bundle import DEFAULT_BUNDLE, UnrolledSettings, load_bundle
from edge_runtime.bundle.archive import MANIFEST, MAX_TEXT_BYTES, QUALITY, SBOM, SIGNATURE, read_archive, write_archive
from edge_runtime.bundle.quality import Judged, parse_report
from edge_runtime.bundle.signature import format_public_key
from edge_runtime.errors import BundleError, BundleMalformed, BundleUnqualified, BundleUnsafe
from edge_runtime.profile import available_profiles
from export.cli import main
from export.config import ConfigError
from export.keys import SigningKey, new_key
from export.pack import write_bundle
from export.required import fewest_bits, missed_requirements
from export.sbom import make_sbom
from export.seal import seal
from export.sign import sign_bundle

GOLDEN_SHA256 = "3c40ea53e7d848cce6c359dfd992061f45dde8ea323b3fe60cef165622cfa6cb"


def packed(path: Path, graph: bytes, key: SigningKey, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "name": "made",
        "version": "1.2",
        "settings": UnrolledSettings(2, 3, ((-3.0, 0.5, 0.2), (-3.0, 0.5, 0.2)), multiple=4),
        "forms": {"fp32": graph},
        "golden_input": np.random.default_rng(2).standard_normal((1, 6, 8, 12)).astype(np.float32),
        "provenance": {
            "training_data": {"sha256": "0" * 64, "volumes": ["one", "two"]},
            "calibration": {"recordings": [{"sha256": "f" * 64, "slices": [0]}]},
        },
        "key": key,
        "licence": "Apache-2.0",
    }
    write_bundle(path, **{**settings, **changes})
    return path


ENOUGH = {
    "form": "fp32",
    "draws": 12,
    "off_draws": 4,
    "recorded_slices": 1,
    "volumes": {"three": "3" * 64},
    "recordings": {"head": "e" * 64},
}
"""As much as must have been judged."""


def report(graph: bytes, judged: dict[str, Any] | None = ENOUGH, **figures: float) -> bytes:
    forms = {"fp32": hashlib.sha256(graph).hexdigest()}
    document = {"schema": 1, "forms": forms, "figures": figures, "more": "pictures"}
    return json.dumps(document if judged is None else document | {"judged": judged}).encode()


LIMITS = {"loss_db": {"at_most": 0.1}, "ssim": {"at_least": 0.5, "at_most": 1.0}}


def test_packing_twice_gives_the_same_bytes(tmp_path, tiny_graph, signing_key):
    first = packed(tmp_path / "first", tiny_graph, signing_key, override="a test")
    second = packed(tmp_path / "second", tiny_graph, signing_key, override="a test")
    assert first.read_bytes() == second.read_bytes()
    assert not list(tmp_path.glob(".*"))  # nothing half written is left


def test_the_bytes_of_a_sealed_bundle_never_change(signing_key):
    """The whole chain of manifest, list, signature and archive; a change here locks out bundles that exist."""
    sealed = seal({"format": 2, "name": "made"}, {"LICENSE": b"none", "forms/fp32.onnx": b"graph"}, signing_key)
    assert hashlib.sha256(sealed).hexdigest() == GOLDEN_SHA256
    members = read_archive(sealed)
    assert json.loads(members[MANIFEST])["files"]["LICENSE"] == {
        "bytes": 4,
        "sha256": "140bedbf9c3f6d56a9846d2ba7088798683f4da0c248231336e6a05679e4fdfe",
    }
    assert json.loads(members[SIGNATURE])["key_id"] == signing_key.public.id


def test_openssl_verifies_the_signature(tiny_bundle, tmp_path, signing_key):
    import base64

    members = read_archive(tiny_bundle.read_bytes())
    (tmp_path / "manifest").write_bytes(members[MANIFEST])
    (tmp_path / "signature").write_bytes(base64.b64decode(json.loads(members[SIGNATURE])["signature"]))
    (tmp_path / "key").write_text(format_public_key(signing_key.public))
    command = "openssl pkeyutl -verify -pubin -inkey key -rawin -in manifest -sigfile signature"
    try:
        done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
    except OSError:
        pytest.skip("no openssl")
    if "ption" in done.stderr:
        pytest.skip("openssl is older than 3")
    assert "Signature Verified Successfully" in done.stdout


# Quality.


def test_a_bundle_that_keeps_its_limits_needs_no_override(tmp_path, tiny_graph, signing_key):
    good = report(tiny_graph, loss_db=0.05, ssim=0.9)
    path = packed(tmp_path / "good", tiny_graph, signing_key, limits=LIMITS, quality=good, override="to be sure")
    bundle = load_bundle(path)
    assert bundle.override is None and bundle.manifest["override"] is None
    assert bundle.manifest["limits"] == LIMITS


@pytest.mark.parametrize(
    ("limits", "figures", "missed"),
    [
        (LIMITS, None, ["there is no quality report"]),
        ({}, {"ssim": 0.9}, ["the configuration sets no limits"]),
        (LIMITS, {"loss_db": 0.2, "ssim": 0.9}, ["loss_db = 0.2, at most 0.1 is the limit"]),
        (
            LIMITS,
            {"ssim": 0.4},
            [
                "loss_db is not in the quality report, at most 0.1 is the limit",
                "ssim = 0.4, at least 0.5 and at most 1 is the limit",
            ],
        ),
    ],
)
def test_missed_limits_need_a_reason_that_the_bundle_carries(
    tmp_path, tiny_graph, signing_key, limits, figures, missed
):
    quality = None if figures is None else report(tiny_graph, **figures)
    options = {"limits": limits, "quality": quality}
    with pytest.raises(BundleUnqualified, match="take responsibility with --override REASON"):
        packed(tmp_path / "no", tiny_graph, signing_key, **options)
    assert not (tmp_path / "no").exists()
    bundle = load_bundle(packed(tmp_path / "yes", tiny_graph, signing_key, **options, override="for  the\nphantom"))
    assert bundle.manifest["override"] == {"reason": "for the phantom", "misses": missed}


KEPT = {"loss_db": 0.05, "ssim": 0.9}


@pytest.mark.parametrize(
    ("judged", "missed"),
    [
        (None, "the report does not say on what it judged: qualify anew"),
        (ENOUGH | {"form": "fp16"}, "fp16 was judged, fp32 may run"),
        (ENOUGH | {"draws": 11}, "simulated slices judged: 11, at least 12 required"),
        (
            ENOUGH | {"off_draws": 3},
            "slices of every kind that it was not trained for judged: 3, at least 4 required",
        ),
        (ENOUGH | {"recorded_slices": 0}, "slices of recorded scans judged: 0, at least 1 required"),
        (
            ENOUGH | {"volumes": {"two": "2" * 64, "three": "3" * 64}},
            "it was trained on volumes that were judged: two",
        ),
        (ENOUGH | {"recordings": {"phantom": "f" * 64}}, "it was calibrated on recordings that were judged: phantom"),
    ],
    ids=[
        "unsaid",
        "another form",
        "few draws",
        "few other kinds",
        "nothing recorded",
        "training volumes",
        "calibration",
    ],
)
def test_a_report_that_judged_too_little_needs_a_reason_that_the_runtime_shows(
    tmp_path, tiny_graph, signing_key, judged, missed
):
    options = {"limits": LIMITS, "quality": report(tiny_graph, judged, **KEPT)}
    with pytest.raises(BundleUnqualified, match=re.escape(missed)):
        packed(tmp_path / "no", tiny_graph, signing_key, **options)
    override = load_bundle(packed(tmp_path / "yes", tiny_graph, signing_key, **options, override="a try")).override
    assert override is not None and (override.reason, override.misses) == ("a try", (missed,))
    sign_bundle(tmp_path / "yes", tmp_path / "again", signing_key)  # what was overridden stays overridden
    assert (tmp_path / "again").read_bytes() == (tmp_path / "yes").read_bytes()
    sign_bundle(tmp_path / "yes", tmp_path / "judged", signing_key, quality=report(tiny_graph, **KEPT))
    assert load_bundle(tmp_path / "judged").override is None


def test_volumes_are_known_by_their_voxels_where_training_noted_them(tmp_path, tiny_graph, signing_key):
    """A copy of another name is still the volume that training saw, and another of its name is not."""
    provenance = {"training_data": {"volumes": ["three"], "voxels": {"three": "a" * 64, "four": "b" * 64}}}
    options = {"limits": LIMITS, "provenance": provenance}
    packed(tmp_path / "yes", tiny_graph, signing_key, quality=report(tiny_graph, **KEPT), **options)
    quality = report(tiny_graph, ENOUGH | {"volumes": {"renamed": "b" * 64}}, **KEPT)
    with pytest.raises(BundleUnqualified, match="trained on volumes that were judged: renamed"):
        packed(tmp_path / "no", tiny_graph, signing_key, quality=quality, **options)


def test_the_form_of_fewest_bits_must_have_been_judged() -> None:
    judged = Judged("fp32", 12, 4, 1, {}, {})
    assert missed_requirements(["fp32"], None, judged) == ()
    assert missed_requirements(["fp32", "int8", "fp16"], None, judged) == ("fp32 was judged, int8 may run",)
    assert [fewest_bits(forms) for forms in (["fp32"], ["fp32", "fp16"], ["int8", "fp16"])] == ["fp32", "fp16", "int8"]


def test_the_shipped_bundle_is_signed_anew_with_the_report_it_has(tmp_path, other_key):
    sign_bundle(DEFAULT_BUNDLE, tmp_path / "anew", other_key)
    before, after = (read_archive(path.read_bytes()) for path in (DEFAULT_BUNDLE, tmp_path / "anew"))
    assert [name for name in before if before[name] != after[name]] == [SIGNATURE]


def test_a_report_from_before_reports_said_what_they_judged_is_too_little(tmp_path, other_key):
    quality = json.loads(read_archive(DEFAULT_BUNDLE.read_bytes())[QUALITY])
    del quality["judged"]
    with pytest.raises(BundleUnqualified, match="does not say on what it judged"):
        sign_bundle(DEFAULT_BUNDLE, tmp_path / "no", other_key, quality=json.dumps(quality).encode())


def test_what_was_judged_is_shown(tmp_path, tiny_graph, signing_key, capsys):
    options = {"limits": LIMITS, "quality": report(tiny_graph, **KEPT)}
    path = packed(tmp_path / "good", tiny_graph, signing_key, **options)
    judged = "fp32 on 12 simulated slices, 4 of every kind it was not trained for and 1 recorded ones"
    for command in ("inspect", "verify"):
        assert main([command, str(path)]) == 0
        assert judged in capsys.readouterr().out
    assert main(["verify", str(DEFAULT_BUNDLE)]) == 0
    assert "14 limits kept; judged: int8 on 12 simulated slices" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        (ENOUGH | {"draws": -1}, "draws = -1: a whole number from 0 on"),
        (ENOUGH | {"draws": True}, "draws = True: a whole number"),
        (ENOUGH | {"form": ""}, "form = '': a precision"),
        (ENOUGH | {"volumes": ["one"]}, "volumes = ['one']: SHA-256 by name"),
        (ENOUGH | {"recordings": {"head": 1}}, "SHA-256 by name"),
        ({}, "schema, forms and figures are expected: KeyError"),
    ],
)
def test_a_malformed_word_on_what_was_judged_is_refused(tiny_graph, judged, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_report(report(tiny_graph, judged))


def test_a_report_about_other_graphs_does_not_count(tmp_path, tiny_graph, signing_key):
    options = {"limits": LIMITS, "quality": report(b"another", loss_db=0.0, ssim=1.0)}
    with pytest.raises(BundleUnqualified, match="about another fp32 than the bundle's"):
        packed(tmp_path / "no", tiny_graph, signing_key, **options)


@pytest.mark.parametrize(
    ("changes", "refusal", "words"),
    [
        ({"quality": b"{}"}, ConfigError, "schema, forms and figures are expected"),
        ({"quality": b'{"schema": 1, "forms": {}, "figures": {"x": "good"}}'}, ConfigError, "a finite number"),
        ({"quality": b'{"schema": 1, "forms": {}, "figures": {"x": NaN}}'}, ConfigError, "a finite number"),
        ({"quality": b'{"schema": 2}'}, ConfigError, "schema 2: 1 is expected"),
        ({"limits": {"x": {}}}, ConfigError, "at_least, at_most or both"),
        ({"override": "x" * 501}, ConfigError, "one line of at most 500"),
        ({"forms": {"fp4": b""}}, ConfigError, "precision fp4: no tolerances are known"),
        ({"forms": {"fp32": b"no graph"}}, BundleMalformed, "fp32: no ONNX model"),
        ({"licence": "MIT\nLicense: none"}, ConfigError, r"licence = 'MIT\\nLicense: none': an SPDX identifier"),
        ({"licence": "\x1b[31mMIT"}, ConfigError, r"licence = '\\x1b\[31mMIT'"),
        ({"licence": ""}, ConfigError, "licence = ''"),
        ({"override": "x", "version": "v1.0-beta"}, BundleMalformed, r"no: not written, .*version 'v1\.0-beta'"),
        ({"override": "x", "name": "two\nlines"}, BundleMalformed, "not written, .* a text is expected"),
        ({"override": "x", "provenance": {"long": "x" * MAX_TEXT_BYTES}}, BundleMalformed, r"manifest\.json has"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_not_packed(tmp_path, tiny_graph, signing_key, changes, refusal, words):
    (tmp_path / "no").write_bytes(b"the one before")
    with pytest.raises(refusal, match=words):
        packed(tmp_path / "no", tiny_graph, signing_key, **changes)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the one before"]


def test_what_no_device_would_take_is_not_signed(tiny_bundle, tmp_path, signing_key):
    """Though its manifest and members agree."""
    change = set_member("golden/input.npy", b"no array")
    rewritten(tiny_bundle, tmp_path / "wrong", change, relist=True, key=signing_key)
    with pytest.raises(BundleMalformed, match=r"new: not written, .*golden/input\.npy: no array"):
        sign_bundle(tmp_path / "wrong", tmp_path / "new", signing_key)
    assert not (tmp_path / "new").exists()


def test_a_graph_that_reaches_outside_is_not_packed(tmp_path, tiny_graph, signing_key):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(tiny_graph)
    model.graph.node[0].domain = "com.evil"
    with pytest.raises(BundleUnsafe, match=r"Conv of domain 'com\.evil'"):
        packed(tmp_path / "no", model.SerializeToString(), signing_key, override="x")


# Signing anew.


@pytest.fixture
def other_key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))


def test_signing_anew_changes_the_signature_alone(tiny_bundle, tmp_path, signing_key, other_key):
    sign_bundle(tiny_bundle, tmp_path / "same", signing_key)
    assert (tmp_path / "same").read_bytes() == tiny_bundle.read_bytes()
    sign_bundle(tiny_bundle, tmp_path / "other", other_key)
    before, after = (read_archive(path.read_bytes()) for path in (tiny_bundle, tmp_path / "other"))
    assert [name for name in before if before[name] != after[name]] == [SIGNATURE]


def test_what_was_altered_is_not_signed_anew(tiny_bundle, tmp_path, other_key):
    """A new signature would cover it up."""
    members = read_archive(tiny_bundle.read_bytes())
    (tmp_path / "altered").write_bytes(write_archive({**members, SBOM: members[SBOM].replace(b"{", b"[", 1)}))
    with pytest.raises(BundleError, match=rf"SHA-256 of {SBOM} is not what the manifest says"):
        sign_bundle(tmp_path / "altered", tmp_path / "new", other_key)
    assert not (tmp_path / "new").exists()


def test_a_report_that_comes_later_takes_the_place_of_the_override(tmp_path, tiny_graph, signing_key):
    draft = packed(tmp_path / "draft", tiny_graph, signing_key, limits=LIMITS, override="to be qualified")
    sign_bundle(draft, tmp_path / "final", signing_key, quality=report(tiny_graph, loss_db=0.05, ssim=0.9))
    assert load_bundle(tmp_path / "final").override is None
    sign_bundle(draft, tmp_path / "worse", signing_key, quality=report(tiny_graph, loss_db=0.5, ssim=0.9))
    override = load_bundle(tmp_path / "worse").override
    assert override is not None
    assert (override.reason, override.misses) == ("to be qualified", ("loss_db = 0.5, at most 0.1 is the limit",))


def test_a_new_key_changes_nothing_about_an_override(tmp_path, tiny_graph, signing_key, other_key):
    """Not even where its report is from before reports said what they judged: a manifest that was revoked stays so."""
    quality = json.loads(report(tiny_graph, loss_db=0.5, ssim=0.9))
    del quality["judged"]
    options = {"limits": LIMITS, "quality": json.dumps(quality).encode(), "override": "a try"}
    before = read_archive(packed(tmp_path / "overridden", tiny_graph, signing_key, **options).read_bytes())
    sign_bundle(tmp_path / "overridden", tmp_path / "anew", other_key)
    after = read_archive((tmp_path / "anew").read_bytes())
    assert [name for name in before if before[name] != after[name]] == [SIGNATURE]


@pytest.mark.parametrize(
    "training", [{"voxels": {"a": []}}, {"voxels": {"a": {}}}, {"volumes": [["a"]]}, {"volumes": 3}, {"voxels": 3}, 3]
)
def test_what_anybody_may_have_written_of_the_training_is_no_traceback(training):
    judged = Judged("fp32", 12, 4, 1, {"one": "0" * 64}, {})
    assert missed_requirements({"fp32": "0" * 64}, {"training_data": training, "calibration": [training]}, judged) == ()


def test_what_is_no_bundle_is_not_signed(tmp_path, signing_key):
    """Nor unpacked: what bundles were before they were signed is refused by its first compressed member."""
    with zipfile.ZipFile(tmp_path / "old", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, json.dumps({"format": 1, "name": "old"}))
        archive.writestr("forms/fp32.onnx", bytes(8 << 20))
    with pytest.raises(BundleMalformed, match=r"old: member manifest\.json is compressed .*: pack the model anew"):
        sign_bundle(tmp_path / "old", tmp_path / "new", signing_key, override="x")
    assert not (tmp_path / "new").exists()


# Bill of materials.


def test_the_bill_names_model_graphs_data_and_libraries(tiny_bundle, tiny_graph):
    bill = json.loads(read_archive(tiny_bundle.read_bytes())[SBOM])
    model = bill["metadata"]["component"]
    assert (bill["bomFormat"], bill["specVersion"], model["type"]) == ("CycloneDX", "1.6", "machine-learning-model")
    assert (model["name"], model["version"], model["licenses"]) == ("tiny", "1", [{"license": {"id": "Apache-2.0"}}])
    assert model["components"][0]["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(tiny_graph).hexdigest()}]
    parts = {part["bom-ref"]: part for part in bill["components"]}
    assert parts["training-data"]["hashes"][0]["content"] == "0" * 64
    assert parts["packed-with:numpy"]["purl"] == f"pkg:pypi/numpy@{np.__version__}"
    assert "timestamp" not in bill["metadata"]


@pytest.mark.parametrize("licence", ["MIT", "LicenseRef-hospital", "NOASSERTION"])
def test_the_bill_is_valid_and_the_same_every_time(licence):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    made = [make_sbom("made", "1", licence, {"fp32": b"graph"}, {}, {"numpy": "2.0"}) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0] != make_sbom("made", "1", licence, {"fp32": b"another"}, {}, {"numpy": "2.0"})
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made[0].decode()) is None


@pytest.mark.parametrize(
    ("package", "version", "purl"),
    [("monai 1.6.0", "1.6.0", "pkg:pypi/monai@1.6.0"), ("mypackage, not an installed package", None, None)],
)
def test_the_bill_names_the_package_the_weights_and_the_calibration_data(package, version, purl):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    origin = {"package": package, "model": "nets:Net", "checkpoint": "net.pt", "checkpoint_sha256": "1" * 64}
    calibration = {"pool_sha256": "2" * 64, "recordings": [{"sha256": "3" * 64, "slices": [0]}]}
    made = make_sbom(
        "made", "1", "MIT", {"fp32": b"graph"}, {"origin": origin, "calibration": calibration}, {"monai": "1"}
    )
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made.decode()) is None
    parts = {part["bom-ref"]: part for part in json.loads(made)["components"]}
    assert parts["model-code"]["name"] == package.split(" ")[0].rstrip(",")
    assert (parts["model-code"].get("version"), parts["model-code"].get("purl")) == (version, purl)
    hashes = {ref: part["hashes"][0]["content"] for ref, part in parts.items() if "hashes" in part}
    assert hashes == {
        "model-weights": "1" * 64,
        "calibration-data:pool": "2" * 64,
        "calibration-data:recording-1": "3" * 64,
    }


def test_making_a_bill_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_sbom("made", "1", "MIT", {"fp32": b"graph"}, {}, {"numpy": "2.0"})


# Commands.


def test_a_bundle_is_signed_inspected_and_verified_by_commands(tiny_bundle, tiny_graph, tmp_path, capsys):
    new_key(tmp_path / "mine.pem", None)
    out, trust = tmp_path / "mine.edgebundle", tmp_path / "trust"
    assert main(["sign", str(tiny_bundle), "--key", str(tmp_path / "mine.pem"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert (
        "quality: there is no quality report\nquality limits overridden (there is no quality report): a test\n" in said
    )
    assert main(["key", "public", str(tmp_path / "mine.pem"), "--out", str(trust / "mine.pem")]) == 0
    capsys.readouterr()
    assert main(["verify", str(out)]) == 1
    said = capsys.readouterr().out
    assert (
        "FAIL  key" in said
        and "-     golden" in said
        and said.endswith("refused: the runtime will not use this bundle\n")
    )
    assert main(["verify", str(out), "--trust", str(trust)]) == 0
    said = capsys.readouterr().out
    assert "pass  golden fp32" in said and said.endswith("accepted, quality limits overridden: a test\n")
    assert main(["inspect", str(out)]) == 0
    said = capsys.readouterr().out
    assert "OVERRIDE   a test" in said and "forms/fp32.onnx" in said
    assert f"SHA-256 {hashlib.sha256(tiny_graph).hexdigest()}\n" in said  # what a revocation takes


def test_a_bundle_is_verified_on_the_engines_of_a_profile(tiny_bundle, tmp_path, capsys):
    usual = available_profiles()["x86-cpu"]
    assert main(["verify", str(tiny_bundle), "--profile", "x86-cpu"]) == 0
    assert "golden fp32  onnxruntime" in capsys.readouterr().out
    gpu = tmp_path / "gpu.toml"
    gpu.write_text(usual.replace('engines = ["onnxruntime"]', 'engines = ["tensorrt"]'))
    assert main(["verify", str(tiny_bundle), "--profile", str(gpu)]) == 1
    said = capsys.readouterr().out
    assert "FAIL  golden fp32" in said and "tensorrt" in said


def test_a_bundle_is_verified_with_the_keys_of_a_profile(tiny_bundle, tmp_path, capsys, signing_key):
    own, trust = tmp_path / "own.toml", tmp_path / "keys"
    trust.mkdir()
    own.write_text(f'{available_profiles()["x86-cpu"]}\n[bundle]\ntrust = "{trust}"\n')
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    (trust / "site.pem").write_text(format_public_key(key.public))
    assert main(["verify", str(tiny_bundle), "--profile", str(own)]) == 1
    assert f"signed with key {signing_key.public.id}, which {trust} does not hold" in capsys.readouterr().out


def test_what_anybody_wrote_does_not_reach_the_terminal(tmp_path, tiny_graph, signing_key, capsys):
    provenance = {"code_sha256": "\x1b[31mtrust me\x07"}
    path = packed(tmp_path / "red", tiny_graph, signing_key, provenance=provenance, override="x")
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert "?[31mtrust me?" in said and "\x1b" not in said


def test_commands_speak_json(tiny_bundle, tmp_path, capsys):
    assert main(["inspect", str(tiny_bundle), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], said["override"]["reason"], said["quality_report"]) == ("tiny", "a test", False)
    assert said["sha256"] == hashlib.sha256(tiny_bundle.read_bytes()).hexdigest()
    assert main(["verify", str(tiny_bundle), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["accepted"] and {check["passed"] for check in said["checks"]} == {True}
    cut = tmp_path / "cut"
    cut.write_bytes(tiny_bundle.read_bytes()[:-1])
    assert main(["verify", str(cut), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [check["passed"] for check in said["checks"]] == [False] + [None] * (len(said["checks"]) - 1)
    assert said["checks"][0]["error"] == "BundleMalformed"


def test_a_bundle_that_cannot_be_shown_is_named(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"edge-export: {tmp_path / 'nowhere'}: no such bundle\n"
