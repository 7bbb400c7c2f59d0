"""A bundle is used as it was packed and signed, or not at all; each refusal has its own name."""

from __future__ import annotations

import hashlib
import json
import logging
import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forge import Change, Members, in_form, in_manifest, in_settings, npy, rewritten, set_member, without
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import MANIFEST, Tolerance, load_bundle, load_trust_store
from edge_runtime.bundle.archive import MAX_MEMBERS, QUALITY, SIGNATURE, read_archive, write_archive
from edge_runtime.bundle.describe import describe_bundle, description_lines
from edge_runtime.bundle.signature import format_public_key, format_signature, parse_signature
from edge_runtime.bundle.trust_store import TrustStore
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import (
    BundleAltered,
    BundleError,
    BundleMalformed,
    BundleMissing,
    BundleRevoked,
    BundleTooOld,
    BundleUnqualified,
    BundleUnsafe,
    BundleUnsigned,
    BundleUntrusted,
    GoldenMismatch,
)
from edge_runtime.runtime import prepare_model
from export.keys import SigningKey
from export.sign import sign_bundle


def test_a_bundle_is_read_as_it_was_packed(tiny_bundle, tiny_graph, signing_key):
    bundle = load_bundle(tiny_bundle)
    assert (bundle.name, bundle.version, list(bundle.forms)) == ("tiny", "1", ["fp32"])
    assert bundle.digest == hashlib.sha256(tiny_bundle.read_bytes()).hexdigest()
    assert bundle.signed_by == ("tests", signing_key.public.id)
    assert bundle.forms["fp32"].onnx == tiny_graph
    assert bundle.override is not None and bundle.override.reason == "a test"


def test_the_golden_outputs_are_reproduced(tiny_bundle):
    bundle, engine = load_bundle(tiny_bundle), OnnxRuntimeEngine()
    form = bundle.forms["fp32"]
    assert bundle.check_golden(engine.plan(form.onnx, threads=1), form, engine) < 1e-5


def test_a_bundle_of_the_format_before_has_laws_without_the_share(tiny_bundle, tmp_path, signing_key):
    """And is run as it was: the number that it lacks changes nothing at 0."""

    def change(members):
        in_manifest(format=2)(members)
        in_settings(log_weights=[[-3.0, 0.5], [-2, 0.25]])(members)

    settings = load_bundle(rewritten(tiny_bundle, tmp_path / "before", change, key=signing_key)).unrolled
    assert settings.log_weights == ((-3.0, 0.5, 0.0), (-2.0, 0.25, 0.0))


# What somebody without the key can do: everything ends before a value of the manifest is looked at.


@pytest.mark.parametrize(
    ("change", "refusal", "words"),
    [
        (
            set_member("forms/fp32.onnx", b"other weights"),
            BundleAltered,
            "forms/fp32.onnx has 13 bytes, the manifest says",
        ),
        (set_member("golden/input.npy", b""), BundleAltered, "golden/input.npy has 0 bytes"),
        (set_member("forms/more.onnx", b"import os"), BundleAltered, "members and manifest differ: forms/more.onnx"),
        (without("golden/fp32.npy"), BundleAltered, "differ: golden/fp32.npy"),
        (without(MANIFEST), BundleMalformed, "manifest.json is missing"),
        (without(SIGNATURE), BundleUnsigned, "not signed: edge-export sign"),
        (set_member(SIGNATURE, b"{"), BundleAltered, "the signature is damaged"),
        (set_member(SIGNATURE, b"[" * 100_000), BundleAltered, "the signature is damaged"),
        (set_member(SIGNATURE, b'{"algorithm": "rsa"}'), BundleAltered, "'rsa'; ed25519 is expected"),
        (set_member(SIGNATURE, b'{"algorithm": "ed25519", "key_id": "x", "signature": ""}'), BundleAltered, "64"),
        (set_member(MANIFEST, b"{"), BundleAltered, "the signature of tests does not fit"),
        (in_manifest(version="9"), BundleAltered, "the signature of tests does not fit"),
        (in_manifest(override={"reason": "none of your business", "misses": []}), BundleAltered, "does not fit"),
    ],
)
def test_an_altered_bundle_is_refused(tiny_bundle, tmp_path, change, refusal, words):
    path = tmp_path / "altered"
    with pytest.raises(refusal, match=words) as refused:
        load_bundle(rewritten(tiny_bundle, path, change))
    assert str(refused.value).startswith(f"{path}: ")


def test_one_byte_of_a_graph_that_is_exchanged_is_named(tiny_bundle, tmp_path):
    def change(members):
        content = bytearray(members["forms/fp32.onnx"])
        content[-1] ^= 1
        members["forms/fp32.onnx"] = bytes(content)

    with pytest.raises(BundleAltered, match=r"SHA-256 of forms/fp32\.onnx"):
        load_bundle(rewritten(tiny_bundle, tmp_path / "altered", change))


# What somebody with a trusted key can do, by mistake or not.


@pytest.mark.parametrize(
    ("change", "refusal", "words"),
    [
        (set_member(MANIFEST, b"{"), BundleMalformed, "no JSON object"),
        (set_member(MANIFEST, b"[]"), BundleMalformed, "no JSON object"),
        (set_member(MANIFEST, b"[" * 100_000), BundleMalformed, "no JSON object"),
        (set_member(MANIFEST, b'{"format": NaN}'), BundleMalformed, "NaN is no number"),
        (in_manifest(format=1), BundleTooOld, "format 1: this runtime reads formats 2 to 3; pack the model anew"),
        (in_manifest(format=2), BundleMalformed, "log_weights = .*: 2 numbers an iteration are expected"),
        (in_manifest(format=4), BundleMalformed, "format 4: this runtime reads formats 2 to 3; it is older"),
        (in_manifest(format=True), BundleMalformed, "a whole number is expected"),
        (in_manifest(name=None), BundleMalformed, "'name' is missing"),
        (in_manifest(name="two\nlines"), BundleMalformed, "a text is expected"),
        (in_manifest(version="new"), BundleMalformed, "version 'new': whole numbers with dots"),
        (in_manifest(family="diffusion"), BundleMalformed, "'diffusion': this runtime runs unrolled-cg"),
        (in_manifest(forms=[]), BundleMalformed, "malformed"),
        (in_manifest(forms={}), BundleMalformed, "holds no form"),
        (in_manifest(limits={"loss": {"at_most": 10**400}}), BundleMalformed, "at_least, at_most or both"),
        (in_manifest(forms={"../fp32": {}}), BundleMalformed, r"forms: '\.\./fp32': a precision"),
        (in_manifest(provenance=[]), BundleMalformed, r"provenance = \[\]: a table is expected"),
        (
            in_manifest(override={"reason": "a test", "misses": "all"}),
            BundleMalformed,
            "misses = 'all': a list of texts",
        ),
        (in_form("tolerances", relative_error="0.5"), BundleMalformed, "relative_error = '0.5': a number is expected"),
        (in_settings(iterations="2"), BundleMalformed, "iterations = '2': a whole number is expected"),
        (in_settings(log_weights=[["0", 0, 0], [0, 0, 0]]), BundleMalformed, "log_weights = '0': a number is expected"),
        (in_settings(log_weights={"000": 1}), BundleMalformed, "log_weights = .*: 3 numbers an iteration are expected"),
        (
            in_settings(log_weights=[[0, 0], [0, 0]]),
            BundleMalformed,
            "log_weights = .*: 3 numbers an iteration are expected",
        ),
        (in_manifest(files={"LICENSE": "0"}), BundleMalformed, "malformed"),
        (in_manifest(limits={"loss": 3}), BundleMalformed, "loss = 3: at_least, at_most or both"),
        (in_manifest(override="because"), BundleMalformed, "malformed"),
        (
            in_manifest(golden_input="golden/no.npy"),
            BundleMalformed,
            r"golden/no\.npy is named, but is none of the files",
        ),
        (in_settings(iterations=3), BundleMalformed, "2 weights for 3 iterations"),
        (in_settings(cg_steps=0), BundleMalformed, "0 steps"),
        (in_settings(multiple=0), BundleMalformed, "multiples of 0"),
        (in_settings(log_weights=[[0, 0, 0], [0, 0, 1e999]]), BundleMalformed, "Infinity is no number"),
        (in_settings(log_weights=[[0, 0, 0], [0, 0, 40]]), BundleMalformed, "log_weights .*: -20 to 20 are expected"),
    ],
)
def test_a_wrong_manifest_is_refused_though_it_is_signed(tiny_bundle, tmp_path, signing_key, change, refusal, words):
    with pytest.raises(refusal, match=words):
        load_bundle(rewritten(tiny_bundle, tmp_path / "wrong", change, key=signing_key))


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("the pickle was executed",)


def claiming(shape: tuple[int, ...]) -> bytes:
    """An array whose header claims more than there is."""
    return npy(np.zeros((1, 6, 2, 2), np.float32)).replace(b"(1, 6, 2, 2)", repr(shape).encode().ljust(12)[:12])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(np.array([Trap()], dtype=object)), "float32 with four axes"),
        (npy(np.zeros((1, 6, 8, 12))), "float64"),
        (npy(np.zeros((6, 8, 12), np.float32)), "four axes"),
        (npy(np.full((1, 6, 8, 12), np.nan, np.float32)), "not finite"),
        (npy(np.zeros((1, 6, 8, 12), np.float32), (2, 0)), "version 1.0"),
        (claiming((9, 9, 9, 9)), "of shape"),
        (b"\x80\x04\x95 a pickle", "no array"),
        (b"", "no array"),
    ],
)
def test_a_golden_array_that_is_none_is_refused(tiny_bundle, tmp_path, signing_key, content, words):
    change = set_member("golden/input.npy", content)
    with pytest.raises(BundleMalformed, match=rf"golden/input\.npy: .*{words}"):
        load_bundle(rewritten(tiny_bundle, tmp_path / "array", change, relist=True, key=signing_key))


def test_a_graph_that_reaches_outside_is_refused(tiny_bundle, tmp_path, signing_key, tiny_graph):
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(tiny_graph)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "/etc/passwd")
    change = set_member("forms/fp32.onnx", model.SerializeToString())
    with pytest.raises(BundleUnsafe, match=r"forms/fp32\.onnx: a tensor lies outside"):
        load_bundle(rewritten(tiny_bundle, tmp_path / "outside", change, relist=True, key=signing_key))


# Trust.


def store_of(folder: Path, *keys: SigningKey, rules: str = "") -> TrustStore:
    folder.mkdir()
    for number, key in enumerate(keys):
        (folder / f"key{number}.pem").write_text(format_public_key(key.public))
    if rules:
        (folder / "trust.toml").write_text(rules)
    return load_trust_store(folder)


@pytest.fixture
def other_key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))


def test_a_key_that_is_not_held_is_refused(tiny_bundle, tmp_path, signing_key, other_key):
    with pytest.raises(
        BundleUntrusted, match=rf"signed with key {signing_key.public.id}, which .* does not hold \(key0"
    ):
        load_bundle(tiny_bundle, store_of(tmp_path / "trust", other_key))


def test_a_signature_under_another_name_is_refused(tiny_bundle, tmp_path, signing_key, other_key):
    def change(members):
        forged = json.loads(members[SIGNATURE])
        forged["key_id"] = other_key.public.id
        members[SIGNATURE] = (json.dumps(forged, indent=2, sort_keys=True) + "\n").encode()

    with pytest.raises(BundleAltered, match="the signature of key1 does not fit"):
        path = rewritten(tiny_bundle, tmp_path / "forged", change)
        load_bundle(path, store_of(tmp_path / "trust", signing_key, other_key))


def test_a_revoked_key_is_refused_with_its_reason(tiny_bundle, tmp_path, signing_key, other_key):
    rules = f'[revoked_keys]\n{signing_key.public.id} = "laptop stolen"\n'
    for name, keys in (("taken out", [other_key]), ("still there", [other_key, signing_key])):
        with pytest.raises(BundleRevoked, match=r"trust\.toml revokes \(laptop stolen\)"):
            load_bundle(tiny_bundle, store_of(tmp_path / name, *keys, rules=rules))


@pytest.mark.parametrize("what", ["file", MANIFEST, "forms/fp32.onnx"])
def test_a_revoked_bundle_is_refused_with_its_reason(tiny_bundle, tmp_path, signing_key, what):
    content = tiny_bundle.read_bytes()
    digest = hashlib.sha256(content if what == "file" else read_archive(content)[what]).hexdigest()
    rules = f'[revoked_bundles]\n{digest} = "blurs lesions"\n'
    with pytest.raises(BundleRevoked, match=rf"bundle {digest} is revoked by .* \(blurs lesions\)") as refused:
        load_bundle(tiny_bundle, store_of(tmp_path / "trust", signing_key, rules=rules))
    graph = hashlib.sha256(read_archive(content)["forms/fp32.onnx"]).hexdigest()
    assert (f"so revoke its forms too: {graph}" in str(refused.value)) == (digest != graph)


def respelt(spell: Callable[[dict[str, str]], str]) -> Change:
    """The same signature in other bytes."""
    return lambda members: members.__setitem__(SIGNATURE, spell(json.loads(members[SIGNATURE])).encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members.__setitem__(SIGNATURE, members[SIGNATURE] + b" "),
        respelt(json.dumps),
        respelt(lambda fields: json.dumps({**fields, "more": ""}, indent=2, sort_keys=True) + "\n"),
        respelt(
            lambda fields: (
                json.dumps({**fields, "signature": raised(fields["signature"])}, indent=2, sort_keys=True) + "\n"
            )
        ),
    ],
    ids=["space", "indent", "member", "unused bits"],
)
def test_a_revocation_is_not_escaped_by_another_spelling_of_the_signature(tiny_bundle, tmp_path, signing_key, change):
    """No signature covers the signature: without a key anybody could have made another file of a revoked bundle."""
    digest = hashlib.sha256(tiny_bundle.read_bytes()).hexdigest()
    store = store_of(tmp_path / "trust", signing_key, rules=f'[revoked_bundles]\n{digest} = "blurs lesions"\n')
    with pytest.raises(BundleAltered, match="spelt otherwise than edge-export writes it"):
        load_bundle(rewritten(tiny_bundle, tmp_path / "respelt", change), store)


def raised(text: str) -> str:
    """Base64 of 64 bytes with other unused bits at its end, which decodes to the same bytes."""
    assert text.endswith("==")
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    return text[:-3] + alphabet[alphabet.index(text[-3]) + 1] + "=="


GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of Ed25519's base point (RFC 8032, 5.1)."""


def test_a_signature_has_one_value(tiny_bundle, tmp_path):
    """S + L would verify as S does, were S < L not asked for (RFC 8032, 5.1.7): another file of the same bundle."""

    def change(members: Members) -> None:
        signature = parse_signature(members[SIGNATURE])
        raised = int.from_bytes(signature.value[32:], "little") + GROUP_ORDER
        value = signature.value[:32] + raised.to_bytes(32, "little")
        members[SIGNATURE] = format_signature(replace(signature, value=value))

    with pytest.raises(BundleAltered, match="the signature of tests does not fit"):
        load_bundle(rewritten(tiny_bundle, tmp_path / "raised", change))


def test_a_graph_that_is_revoked_stays_so_whatever_is_signed_anew(tiny_bundle, tmp_path, signing_key):
    members = read_archive(tiny_bundle.read_bytes())
    sign_bundle(tiny_bundle, tmp_path / "anew", signing_key, override="another reason")
    assert read_archive((tmp_path / "anew").read_bytes())[MANIFEST] != members[MANIFEST]
    digest = hashlib.sha256(members["forms/fp32.onnx"]).hexdigest()
    store = store_of(tmp_path / "trust", signing_key, rules=f'[revoked_bundles]\n{digest} = "blurs lesions"\n')
    with pytest.raises(BundleRevoked, match=rf"bundle {digest} is revoked by"):
        load_bundle(tmp_path / "anew", store)


@pytest.mark.parametrize(
    ("least", "admitted"), [("0.9", True), ("1", True), ("1.0.0", True), ("1.0.1", False), ("10", False)]
)
def test_a_version_below_the_least_is_refused(tiny_bundle, tmp_path, signing_key, least, admitted):
    store = store_of(tmp_path / "trust", signing_key, rules=f'[minimum_versions]\ntiny = "{least}"\n')
    if admitted:
        assert load_bundle(tiny_bundle, store).version == "1"
    else:
        with pytest.raises(BundleTooOld, match=f"tiny 1 is older than {least}"):
            load_bundle(tiny_bundle, store)


# Quality.


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"loss_db": 0.3}, r"loss_db = 0\.3, at most 0\.1 is the limit"),
        ({}, "loss_db is not in the quality report"),
        (None, "there is no quality report"),
    ],
)
def test_missed_limits_that_nobody_overrides_are_refused(
    tiny_bundle, tmp_path, signing_key, tiny_graph, figures, words
):
    digest = hashlib.sha256(tiny_graph).hexdigest()

    def change(members):
        manifest = json.loads(members[MANIFEST])
        members[MANIFEST] = json.dumps({**manifest, "override": None, "limits": {"loss_db": {"at_most": 0.1}}}).encode()
        if figures is not None:
            report = {"schema": 1, "forms": {"fp32": digest}, "figures": figures}
            members[QUALITY] = json.dumps(report).encode()

    with pytest.raises(BundleUnqualified, match=words):
        load_bundle(rewritten(tiny_bundle, tmp_path / "missed", change, relist=True, key=signing_key))


def test_a_figure_that_no_float_holds_is_malformed(tiny_bundle, tmp_path, signing_key):
    report = json.dumps({"schema": 1, "forms": {}, "figures": {"loss_db": 10**400}}).encode()
    change = set_member(QUALITY, report)
    with pytest.raises(BundleMalformed, match=r"quality\.json: figures: loss_db = 10+: a finite number is expected"):
        load_bundle(rewritten(tiny_bundle, tmp_path / "huge", change, relist=True, key=signing_key))


def test_an_override_is_logged_and_stands_in_the_provenance(tiny_bundle, runtime_of, caplog):
    with caplog.at_level(logging.INFO), runtime_of(bundle=tiny_bundle) as runtime:
        assert runtime.provenance(runtime.model).bundle_override == "a test"
        assert runtime.provenance(None).bundle_override == ""
    assert "quality limits overridden (there is no quality report): a test" in caplog.text
    assert "signed by tests (" in caplog.text


# Golden outputs.


@pytest.mark.parametrize("wrong", ["values", "shape", "nan"])
def test_golden_outputs_that_are_not_reproduced_are_refused(tiny_bundle, wrong):
    bundle, engine = load_bundle(tiny_bundle), OnnxRuntimeEngine()
    form = bundle.forms["fp32"]
    golden = {
        "values": form.golden_output * 1.01,
        "shape": form.golden_output[:, :1],
        "nan": np.full_like(form.golden_output, np.nan),
    }[wrong]
    with pytest.raises(GoldenMismatch, match="bundle tiny fp32: golden output"):
        bundle.check_golden(engine.plan(form.onnx, threads=1), replace(form, golden_output=golden), engine)


@pytest.mark.parametrize(
    ("tolerances", "qualified"),
    [
        ((Tolerance("onnxruntime", "1.20", "99", 1e-3),), True),
        ((Tolerance("onnxruntime", "1.0", "1.20", 1e-3), Tolerance("onnxruntime", "1.20", "99", 1e-3)), True),
        ((Tolerance("onnxruntime", "1.0", "1.20", 1e-3),), False),
        ((Tolerance("tensorrt", "1.20", "99", 1e-3),), False),
        ((), False),
    ],
)
def test_an_engine_that_a_form_was_not_qualified_for_is_refused(tiny_bundle, tolerances, qualified):
    bundle, engine = load_bundle(tiny_bundle), OnnxRuntimeEngine()
    form = replace(bundle.forms["fp32"], tolerances=tolerances)
    session = engine.plan(form.onnx, threads=1)
    if qualified:
        bundle.check_golden(session, form, engine)
    else:
        with pytest.raises(GoldenMismatch, match=r"fp32 is not qualified for onnxruntime 1\..*, but for "):
            bundle.check_golden(session, form, engine)


def test_a_precision_that_the_bundle_lacks_is_refused_by_name(tiny_bundle, runtime_of):
    with runtime_of() as runtime, pytest.raises(BundleError, match="holds fp32; wanted is int8"):
        prepare_model(load_bundle(tiny_bundle), runtime.profile, "int8")


# Damage.


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04" + bytes(40), b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_bundle_is_refused(tmp_path, content):
    path = tmp_path / "none"
    path.write_bytes(content)
    with pytest.raises(BundleMalformed, match=f"{path}: "):
        load_bundle(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BundleMissing, match=r"nowhere\.edgebundle: no such bundle"):
        load_bundle(tmp_path / "nowhere.edgebundle")


def test_a_folder_is_no_bundle(tmp_path):
    with pytest.raises(BundleMissing, match="can't be read: Is a directory"):
        load_bundle(tmp_path)


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(BundleError):
        load_bundle(path)


@FUZZ
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_byte_that_is_flipped_is_refused(tiny_bundle, tmp_path, place, flip):
    content = bytearray(tiny_bundle.read_bytes())
    content[int(place * len(content))] ^= flip
    refused(tmp_path, bytes(content))


def test_every_byte_of_directory_and_signature_counts(tiny_bundle, tmp_path):
    content = tiny_bundle.read_bytes()
    for position in [*range(0, 100, 3), *range(content.index(b'"algorithm"') - 60, len(content), 3)]:
        refused(tmp_path, content[:position] + bytes([content[position] ^ 0x20]) + content[position + 1 :])


@FUZZ
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_file_that_is_cut_short_is_refused(tiny_bundle, tmp_path, share):
    content = tiny_bundle.read_bytes()
    refused(tmp_path, content[: int(share * len(content))])


@FUZZ
@given(where=st.floats(0, 1), added=st.one_of(st.binary(min_size=1, max_size=64), st.just(b"PK\x05\x06" + bytes(18))))
def test_any_bytes_that_are_put_in_are_refused(tiny_bundle, tmp_path, where, added):
    content = tiny_bundle.read_bytes()
    at = int(where * len(content))
    refused(tmp_path, content[:at] + added + content[at:])


@FUZZ
@given(data=st.data())
def test_members_in_another_order_or_under_other_names_are_refused(tiny_bundle, tmp_path, data):
    members = read_archive(tiny_bundle.read_bytes())
    names = data.draw(st.permutations(sorted(members)).filter(lambda order: order != sorted(members)))
    renamed = dict(zip(sorted(members), (members[name] for name in names), strict=True))
    refused(tmp_path, write_archive(renamed))


@FUZZ
@given(content=st.binary(max_size=400))
def test_a_signed_bundle_with_any_manifest_is_refused(tiny_bundle, tmp_path, signing_key, content):
    with pytest.raises(BundleError):
        load_bundle(rewritten(tiny_bundle, tmp_path / "any", set_member(MANIFEST, content), key=signing_key))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@FUZZ
@given(
    key=st.sampled_from(
        ["name", "version", "family", "settings", "golden_input", "forms", "limits", "override", "files"]
    ),
    value=VALUES,
)
def test_a_signed_bundle_with_any_value_is_read_or_refused(tiny_bundle, tmp_path, signing_key, key, value):
    change = in_manifest(**{key: value})
    try:
        load_bundle(rewritten(tiny_bundle, tmp_path / "any", change, key=signing_key))
    except BundleError:
        return
    assert key in ("name", "version", "limits", "override")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place within plain values, but in the list of files."""
    if path and path[0] == "files":
        return
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


@settings(FUZZ, max_examples=300)
@given(data=st.data(), value=VALUES | st.sampled_from(["0.5", "\x1b[31m", 10**400, [], {}, None]))
def test_a_bundle_with_any_value_anywhere_is_shown_or_refused(tiny_bundle, tmp_path, data, value):
    """Whoever signed it: nobody did, and nobody has to."""
    manifest = json.loads(read_archive(tiny_bundle.read_bytes())[MANIFEST])
    place = data.draw(st.sampled_from([*places(manifest), ("provenance", "training_data")]))
    at = manifest
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    content = (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()
    path = rewritten(tiny_bundle, tmp_path / "any", set_member(MANIFEST, content))
    try:
        description = describe_bundle(path)
    except BundleError:
        return
    json.dumps(description)
    assert all(line.isprintable() for line in description_lines(description))


@FUZZ
@given(content=st.binary(max_size=200), name=st.sampled_from(["forms/fp32.onnx", "golden/input.npy", QUALITY]))
def test_a_signed_bundle_with_any_member_is_refused(tiny_bundle, tmp_path, signing_key, content, name):
    path = rewritten(tiny_bundle, tmp_path / "any", set_member(name, content), relist=True, key=signing_key)
    with pytest.raises(BundleError):
        load_bundle(path)


def test_too_many_members_are_refused(tiny_bundle, tmp_path):
    content = bytearray(tiny_bundle.read_bytes())
    content[-14:-12] = content[-12:-10] = (MAX_MEMBERS + 1).to_bytes(2, "little")
    (tmp_path / "many").write_bytes(content)
    with pytest.raises(BundleMalformed, match=f"{MAX_MEMBERS + 1} members, at most {MAX_MEMBERS}"):
        load_bundle(tmp_path / "many")
