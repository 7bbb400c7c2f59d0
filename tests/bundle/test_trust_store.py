"""A trust store is read in full or refused: a misspelt revocation would revoke nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from edge_runtime.bundle.signature import PublicKey, format_public_key, parse_public_key
from edge_runtime.bundle.trust_store import load_trust_store
from edge_runtime.bundle.versions import is_version, version_in, version_numbers
from edge_runtime.errors import TrustStoreError
from export.keys import SigningKey

SHIPPED = Path(__file__).parents[2] / "edge_runtime" / "trust_keys"


@pytest.fixture
def store(tmp_path: Path, signing_key: SigningKey) -> Path:
    (tmp_path / "site.pem").write_text("key of the site\n" + format_public_key(signing_key.public))
    (tmp_path / "README.md").write_text("whose keys these are")
    return tmp_path


def test_the_shipped_store_trusts_the_shipped_bundle() -> None:
    assert load_bundle(DEFAULT_BUNDLE, load_trust_store(SHIPPED)).signed_by[0] == "brain2d"


def test_keys_and_rules_are_read(store: Path, signing_key: SigningKey) -> None:
    (store / "trust.toml").write_text(f'[revoked_keys]\n{"a" * 64} = "lost"\n[minimum_versions]\nbrain2d = "1.2"\n')
    trust = load_trust_store(store)
    assert trust.keys == {signing_key.public.id: signing_key.public}
    assert trust.names == {signing_key.public.id: "site"}
    assert (trust.revoked_keys, trust.minimum_versions) == ({"a" * 64: "lost"}, {"brain2d": "1.2"})


def test_a_key_id_is_what_openssl_makes_of_the_key(store: Path, signing_key: SigningKey) -> None:
    command = f"openssl pkey -pubin -in '{store / 'site.pem'}' -outform DER | sha256sum"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        pytest.skip("no openssl")
    assert done.stdout.split()[0] == signing_key.public.id


EC = (
    generate_private_key(SECP256R1())
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
ONE = format_public_key(PublicKey(bytes(32)))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bad.pem", "", "bad.pem: 0 public keys"),
        ("bad.pem", ONE + ONE, "bad.pem: 2 public keys"),
        ("bad.pem", EC, "bad.pem: not an Ed25519 public key"),
        ("bad.pem", ONE.replace("MCo", "MC"), "bad.pem: the PEM text is damaged"),
        ("bad.pem", "-----BEGIN PRIVATE KEY-----", "bad.pem: a private key, which no device needs"),
        ("bad.pem", "\x80", "bad.pem: not an|bad.pem: 0 public keys"),
        ("trust.toml", "[revoked_keys", "not valid TOML"),
        ("trust.toml", "[revoked_key]", "revoked_key is unknown; known are revoked_keys"),
        ("trust.toml", "revoked_keys = 3", "a table of a key id"),
        ("trust.toml", '[revoked_keys]\nabc = "lost"', r"\[revoked_keys\] abc = 'lost': a key id of 64"),
        ("trust.toml", f"[revoked_keys]\n{'A' * 64} = 'lost'", "a key id of 64"),
        ("trust.toml", f"[revoked_bundles]\n{'a' * 64} = ''", "and a reason is expected"),
        ("trust.toml", "[minimum_versions]\nbrain2d = 2", "brain2d = 2: the name of a model and a version"),
        ("trust.toml", "[minimum_versions]\nbrain2d = 'v2'", "a version such as 1.2.0"),
        ("trust.tml", "", "trust.tml would not be read"),
    ],
)
def test_what_is_malformed_is_named(store: Path, name: str, content: str, words: str) -> None:
    (store / name).write_text(content)
    with pytest.raises(TrustStoreError, match=words):
        load_trust_store(store)


def test_a_store_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrustStoreError, match=r"0 public keys \(\*\.pem\), 1 to 256"):
        load_trust_store(tmp_path)
    with pytest.raises(TrustStoreError, match="No such file"):
        load_trust_store(tmp_path / "nowhere")


def test_a_public_key_goes_to_pem_and_back(signing_key: SigningKey) -> None:
    assert parse_public_key(format_public_key(signing_key.public)) == signing_key.public


def test_versions_are_numbers() -> None:
    assert version_numbers("0.10") > version_numbers("0.9.9")
    assert version_numbers("1.0.0") == version_numbers("1")
    assert [is_version(value) for value in ("1", "0.2.0", "", "1.", "v1", "1.0rc1", "１", 1, None)] == [True] * 2 + [
        False
    ] * 7
    assert version_in("1.23.0rc1 CPUExecutionProvider") == "1.23.0"
    assert version_in("unknown") == ""
