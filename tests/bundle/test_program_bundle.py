"""Bundles of programs of others: used as they were packed, refused by name otherwise, served like any other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forge import Members, in_settings, rewritten
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_programs import cascades, denoiser, modl, packed, varnet
from simulated import COLUMNS, LINES, SAMPLES, coil_maps, header_of, kspace_of, object_image, readouts_of, scan_bytes

from edge_runtime.bundle import ProgramSettings, load_bundle
from edge_runtime.bundle.archive import MANIFEST, QUALITY, read_archive
from edge_runtime.bundle.quality import form_digest
from edge_runtime.bundle.signature import format_public_key
from edge_runtime.bundle.trust_store import load_trust_store
from edge_runtime.bundle.verify import verify_bundle
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import BundleError, BundleMalformed, BundleRevoked, BundleUnsafe, GoldenMismatch
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.fourier import centre_slice, to_image
from edge_runtime.modalities.mri.given import Acquisition
from edge_runtime.runtime import prepare_model
from export.adapters.program import interpreter_of
from export.cli import main
from export.qualification.subject import of_bundle
from export.sign import sign_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, signing_key) -> Path:
    return packed(tmp_path_factory.mktemp("program"), varnet(), signing_key)


def test_a_program_is_read_as_it_was_packed(bundle):
    loaded = load_bundle(bundle)
    assert isinstance(loaded.settings, ProgramSettings)
    assert loaded.settings.program == varnet().steps()
    assert loaded.forms["fp32"].graphs == varnet().files
    assert loaded.manifest["provenance"]["origin"]["source"] == "onnx"
    assert loaded.manifest["provenance"]["compared_with_the_original"]["tolerance"] == 1e-4
    with pytest.raises(BundleError, match="bundle made is a split program: one of the family unrolled-cg is expected"):
        loaded.unrolled  # noqa: B018


@pytest.mark.parametrize("made", [varnet, modl, denoiser])
def test_packing_twice_gives_the_same_bytes_which_every_check_accepts(tmp_path, signing_key, made):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (packed(tmp_path / name, made(), signing_key) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    verification = verify_bundle(first, load_trust_store(_trust()), ("onnxruntime",))
    assert verification.passed, [check for check in verification.checks if not check.passed]


def _trust() -> Path:
    from edge_runtime.bundle import trust_store

    return trust_store.DEFAULT_TRUST


def test_signing_anew_keeps_the_program(bundle, tmp_path, signing_key):
    sign_bundle(bundle, tmp_path / "same", signing_key)
    assert (tmp_path / "same").read_bytes() == bundle.read_bytes()
    forms = {"fp32": of_bundle(bundle, None).digests()["fp32"]}
    quality = json.dumps({"schema": 1, "forms": forms, "figures": {}}).encode()
    sign_bundle(bundle, tmp_path / "judged", signing_key, quality=quality)
    override = load_bundle(tmp_path / "judged").override
    assert override is not None and override.misses == ("the configuration sets no limits",)
    assert read_archive((tmp_path / "judged").read_bytes())[QUALITY] == quality


def test_as_many_cascades_as_the_largest_varnet_has_are_packed(tmp_path, signing_key):
    """48, each with a graph, and the network of the sensitivities."""
    made = load_bundle(packed(tmp_path, cascades(48), signing_key))
    assert len(made.forms["fp32"].graphs) == 49


def test_a_program_is_revoked_by_a_graph_or_by_a_form(bundle, tmp_path, signing_key):
    members = read_archive(bundle.read_bytes())
    graph = json.loads(members[MANIFEST])["forms"]["fp32"]["graphs"]["net-1.onnx"]
    form = of_bundle(bundle, None).digests()["fp32"]
    for number, digest in enumerate((hashlib.sha256(members[graph]).hexdigest(), form)):
        store = tmp_path / str(number)
        store.mkdir()
        (store / "tests.pem").write_text(format_public_key(signing_key.public))
        (store / "trust.toml").write_text(f'[revoked_bundles]\n"{digest}" = "blurs lesions"\n')
        with pytest.raises(BundleRevoked, match=rf"bundle {digest} is revoked"):
            load_bundle(bundle, load_trust_store(store))


def test_a_form_of_one_graph_is_called_by_that():
    assert form_digest({"a.onnx": "1" * 64}) == "1" * 64
    two = {"a.onnx": "1" * 64, "b.onnx": "2" * 64}
    assert form_digest(two) == form_digest(dict(reversed(two.items()))) != form_digest({**two, "b.onnx": "3" * 64})


# What somebody with a trusted key can do, by mistake or not.


def in_program(**changes: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        manifest = json.loads(members[MANIFEST])
        manifest["settings"]["program"].update(changes)
        members[MANIFEST] = json.dumps(manifest).encode()

    return change


def in_stage(number: int, **changes: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        manifest = json.loads(members[MANIFEST])
        manifest["settings"]["program"]["stages"][number].update(changes)
        members[MANIFEST] = json.dumps(manifest).encode()

    return change


def without_stage(number: int) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        manifest = json.loads(members[MANIFEST])
        del manifest["settings"]["program"]["stages"][number]
        members[MANIFEST] = json.dumps(manifest).encode()

    return change


def turned_round(members: Members) -> None:
    manifest = json.loads(members[MANIFEST])
    manifest["settings"]["program"]["stages"].reverse()
    members[MANIFEST] = json.dumps(manifest).encode()


def in_graph(**changes: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        manifest = json.loads(members[MANIFEST])
        manifest["settings"]["program"]["graphs"][0].update(changes)
        members[MANIFEST] = json.dumps(manifest).encode()

    return change


def in_form(graphs: dict[str, str]) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        manifest = json.loads(members[MANIFEST])
        manifest["forms"]["fp32"]["graphs"] = graphs
        members[MANIFEST] = json.dumps(manifest).encode()

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_settings(program=3), "program = '3': a table is expected"),
        (in_settings(brightness=0), "brightness = 0.0: a number from 1e-6"),
        (in_settings(brightness="bright"), "brightness = 'bright': a number"),
        (in_settings(starts_from="scratch"), "starts_from = 'scratch': one of classical, zero_filled"),
        (in_settings(live_bytes_per_pixel=0), "live_bytes_per_pixel = 0: a whole number from 1"),
        (in_settings(live_bytes_per_pixel=1e9), "live_bytes_per_pixel = 1000000000.0: a whole number"),
        (in_program(domain="ultrasound"), "domain = 'ultrasound'"),
        (in_program(stages=[]), "stages: a list is expected, of 1 to 512"),
        (in_program(stages=[{"stage": "combine", "name": "c"}] * 513), "stages: a list is expected"),
        (in_program(graphs=[]), "graphs: a list is expected, of 1 to 128"),
        (in_program(more=1), "Program differs in ['more']"),
        (in_program(input_channels=1), "input_channels = 1: 0 is expected"),
        (in_program(maps_given=True), "there are sensitivities already"),
        (in_stage(0, stage="eval"), "stage 'eval'; known are"),
        (in_stage(0, lines=5000), "sensitivities: lines = 5000: 1 to 4096"),
        (in_stage(0, graph="other.onnx"), "stages and graphs differ in net-1.onnx, other.onnx"),
        (in_stage(0, name="two\nlines"), "a text of one line is expected"),
        (in_stage(2, shaping={"normalise": "none", "padding": None, "planes": [0.5]}), "takes 2 planes, 3 come"),
        (in_stage(2, makes="estimate", graph=7), "Regularise.graph = 7: str is expected"),
        (in_stage(3, step=1e300), "KSpaceStep.step = 1e+300"),
        (in_stage(3, step=True), "KSpaceStep.step = True"),
        (turned_round, "stage 'image' comes before any sensitivities"),
        (without_stage(1), "stage 'cascade 1, regulariser' comes before any image"),
        (without_stage(-1), "a k-space iterate ends, and nothing else does, with the root-sum-of-squares"),
        (in_graph(file="../net.onnx"), "graph '../net.onnx': a name such as regulariser-01.onnx"),
        (in_graph(multiple=0), "multiple = 0: 1 to 4096 is expected"),
        (in_graph(output_channels=3), "makes 3 planes of 2"),
        (in_form({}), "a form's graphs differ in net-1.onnx, net-2.onnx, net-3.onnx"),
        (in_form({"net-1.onnx": "forms/fp32.net-1.onnx", "x": "y"}), "a form's graphs differ in"),
    ],
)  # fmt: skip
def test_a_wrong_program_is_refused_though_it_is_signed(bundle, tmp_path, signing_key, change, words):
    with pytest.raises(BundleMalformed) as refused:
        load_bundle(rewritten(bundle, tmp_path / "wrong", change, key=signing_key))
    assert words in str(refused.value)


def test_every_graph_is_looked_into(bundle, tmp_path, signing_key):
    import onnx

    def change(members: Members) -> None:
        model = onnx.load_model_from_string(members["forms/fp32.net-3.onnx"])
        model.graph.node[0].domain = "com.evil"
        members["forms/fp32.net-3.onnx"] = model.SerializeToString()

    with pytest.raises(BundleUnsafe, match=r"forms/fp32\.net-3\.onnx: operator Conv of domain 'com\.evil'"):
        load_bundle(rewritten(bundle, tmp_path / "evil", change, relist=True, key=signing_key))


@pytest.mark.parametrize(
    "change", [in_stage(6, step=0.9), in_stage(0, divide="parts"), in_program(network_axes="phase_encodes, columns")]
)
def test_golden_outputs_are_those_of_the_physics_too(bundle, tmp_path, signing_key, runtime_of, change):
    other = load_bundle(rewritten(bundle, tmp_path / "other", change, key=signing_key))
    with runtime_of() as runtime, pytest.raises(GoldenMismatch, match="bundle made fp32: golden outputs differ by"):
        prepare_model(other, runtime.profile)


def test_a_golden_input_of_other_planes_is_refused_by_name(bundle, tmp_path, signing_key, runtime_of):
    from edge_runtime.bundle.golden import format_array

    def change(members: Members) -> None:
        members["golden/input.npy"] = format_array(np.ones((1, 4, 64, 48), np.float32))

    other = load_bundle(rewritten(bundle, tmp_path / "other", change, relist=True, key=signing_key))
    with runtime_of() as runtime, pytest.raises(Exception, match=r"a tensor \(1, 4, 64, 48\): .* 2 planes a coil"):
        prepare_model(other, runtime.profile)


def test_programs_of_images_take_magnitudes_or_complex_images(tmp_path, signing_key):
    with pytest.raises(ValueError, match="a program of images that takes 3 planes: 1, the magnitude, or 2"):
        packed(tmp_path, denoiser(planes=3), signing_key)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=VALUES)
def test_a_program_with_any_value_is_read_or_refused(bundle, tmp_path, signing_key, data, value):
    manifest = json.loads(read_archive(bundle.read_bytes())[MANIFEST])
    place: Any = manifest["settings"]
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value

    def change(members: Members) -> None:
        members[MANIFEST] = json.dumps(manifest).encode()

    try:
        loaded = load_bundle(rewritten(bundle, tmp_path / "any", change, key=signing_key))
    except BundleError:
        return
    assert isinstance(loaded.settings, ProgramSettings)


# Served.

KSPACE = kspace_of(object_image(), coil_maps(), SAMPLES, noise=0.01)


def test_a_program_is_served_like_any_model(serve, bundle):
    lines = np.array([3, *range(10, 22), 27])  # too few outside the centre for one to be held out
    server = serve(bundle=bundle)
    replies = server.exchange(scan_bytes(readouts_of(KSPACE, lines), configuration="edge-all"))
    assert [method for method, _ in replies.kinds()] == ["learned", "classical", "zero_filled"]
    (report,) = server.wait_for_files("*/report.json")
    learned = json.loads(report.read_text())["images"][0]
    assert (learned["provenance"]["bundle_name"], learned["provenance"]["precision"]) == ("made", "fp32")
    assert learned["evidence"]["held_out_samples"] == 0
    mask = np.isin(np.arange(LINES), lines)
    hybrid = to_image(KSPACE, axis=2)[:, :, centre_slice(SAMPLES, COLUMNS)]  # without oversampling
    own = interpreter_of(varnet(), OnnxRuntimeEngine()).run(Acquisition(hybrid[None], mask), Plans(Workers(1)))[0]
    sent = replies.images[0].pixels[0, 0]
    assert np.linalg.norm(sent - own) < 1e-4 * np.linalg.norm(own)


def test_a_scan_that_the_program_does_not_take_has_a_classical_image_and_a_reason(serve, tmp_path, signing_key):
    server = serve(bundle=packed(tmp_path, denoiser(multiple=16), signing_key))
    replies = server.exchange(scan_bytes(readouts_of(KSPACE), configuration="edge"))
    assert [method for method, _ in replies.kinds()] == ["classical"]
    assert f"{LINES} x 24: rows and columns must be multiples of 16" in replies.text


def test_a_programs_memory_is_reserved_before_a_readout_comes(serve, bundle, tmp_path, signing_key):
    greedy = rewritten(bundle, tmp_path / "greedy", in_settings(live_bytes_per_pixel=1 << 20), key=signing_key)
    wide = header_of()
    replies = serve(bundle=greedy).exchange(scan_bytes(readouts_of(KSPACE), header=wide, configuration="edge"))
    assert "one slice needs about 230" in replies.text and not replies.images
    classical = serve(bundle=greedy).exchange(scan_bytes(readouts_of(KSPACE), header=wide))
    assert classical.images


def test_a_program_comes_to_the_device_by_commands(tmp_path, signing_key, capsys):
    packed(tmp_path, varnet(), signing_key)  # for the program's file and the configuration
    key, out, trust = tmp_path / "mine.pem", tmp_path / "mine.edgebundle", tmp_path / "trust"
    assert main(["key", "new", str(key)]) == 0
    assert main(["key", "public", str(key), "--out", str(trust / "mine.pem")]) == 0
    assert main(["pack", str(tmp_path / "device.toml"), "--key", str(key), "--out", str(out)]) == 1
    assert "no quality report" in capsys.readouterr().err
    arguments = ["pack", str(tmp_path / "device.toml"), "--key", str(key), "--out", str(out), "--override", "a try"]
    assert main(arguments) == 0
    assert main(["verify", str(out), "--trust", str(trust)]) == 0
    assert main(["inspect", str(out)]) == 0
    said = capsys.readouterr().out
    assert "pass  golden fp32" in said and "8 stages, 3 graphs, domain kspace, split-program" in said
    assert "fp32       " in said and "forms/fp32.net-1.onnx" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('licence = "MIT"\nprogram = 3\n', "program = 3: a text is expected"),
        ('program = "made.edgeprogram"\n[input]\nstarts_from = "noise"\n', "one of classical, zero_filled"),
        ('program = "made.edgeprogram"\n[input]\nbrightness = 0\n', "brightness = 0: a number from 1e-06"),
        ('program = "made.edgeprogram"\nname = "x"\n', "has name; known here are"),
        ('program = "made.edgeprogram"\n[quantize]\nseed = 1\n', "calibration_scans is missing"),
        ('program = "made.edgeprogram"\n[limits]\nloss = 3\n', "loss = 3: at_least, at_most or both"),
        ('program = "nowhere.edgeprogram"\n', "nowhere.edgeprogram: no such program; edge-export import writes one"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, signing_key, capsys, text, words):
    from export.keys import new_key

    packed(tmp_path, varnet(), signing_key)
    new_key(tmp_path / "mine.pem", None)
    (tmp_path / "device.toml").write_text(text)
    arguments = ["pack", str(tmp_path / "device.toml"), "--key", str(tmp_path / "mine.pem"), "--out", "x"]
    assert main(arguments) == 1
    assert words in capsys.readouterr().err
