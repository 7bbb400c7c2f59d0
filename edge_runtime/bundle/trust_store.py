"""Which bundles a device runs: a folder of public keys, and what was revoked or is too old.

    trust/
        any-name.pem    public keys (Ed25519, PEM); a bundle must be signed with one of them
        trust.toml      optional: revoked keys and bundles, with reasons, and the least version of each model

The folder is the root of trust and is not itself signed: whoever can write a revocation into it can as well add a key, and whoever
can take one out could as well replace the program. It belongs to the device's own updates, writable by root alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.bundle.signature import HEX_SHA256, PublicKey, parse_public_key
from edge_runtime.bundle.versions import is_version, version_numbers
from edge_runtime.errors import BundleRevoked, BundleTooOld, BundleUntrusted, TrustStoreError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_TRUST = Path(__file__).parent.parent / "trust_keys"
"""The project's development keys; see docs/bundles.md."""

RULES = "trust.toml"
MAX_FILE_BYTES = 1 << 20
MAX_KEYS = 256


@dataclass(frozen=True)
class TrustStore:
    """What one device trusts.

    Attributes:
        folder: where it was read from.
        keys: by key id; the names of their files.
        revoked_keys: reason by key id.
        revoked_bundles: reason by the SHA-256 of a graph or of all graphs of a form, which survive whatever is signed anew; of the
            manifest, which survives another key; or of the file.
        minimum_versions: by the name of a model.
    """

    folder: Path
    keys: Mapping[str, PublicKey]
    names: Mapping[str, str]
    revoked_keys: Mapping[str, str]
    revoked_bundles: Mapping[str, str]
    minimum_versions: Mapping[str, str]

    def key(self, key_id: str) -> PublicKey:
        """The key that a bundle was signed with.

        Raises:
            BundleRevoked: it is revoked.
            BundleUntrusted: it is not in the store.
        """
        if key_id in self.revoked_keys:
            raise BundleRevoked(
                f"signed with key {key_id}, which {self.folder / RULES} revokes ({self.revoked_keys[key_id]}): "
                "get the bundle signed with a current key"
            )
        if key_id not in self.keys:
            held = ", ".join(f"{name} {one[:16]}…" for one, name in sorted(self.names.items())) or "no key"
            raise BundleUntrusted(
                f"signed with key {key_id}, which {self.folder} does not hold ({held}): add its public key there if you trust it, "
                "or give --trust DIR"
            )
        return self.keys[key_id]

    def check_bundle(self, *digests: str) -> None:
        """Refuses a bundle by what it is called: see `TrustStore.revoked_bundles`.

        Raises:
            BundleRevoked: it is revoked.
        """
        for digest in digests:
            if digest in self.revoked_bundles:
                raise BundleRevoked(
                    f"bundle {digest} is revoked by {self.folder / RULES} ({self.revoked_bundles[digest]}): install a newer one"
                )

    def check_version(self, name: str, version: str) -> None:
        """Refuses versions from before the least that is admitted, so that nobody rolls a device back to known faults.

        Raises:
            BundleTooOld: it is older.
        """
        least = self.minimum_versions.get(name)
        if least is not None and version_numbers(version) < version_numbers(least):
            raise BundleTooOld(
                f"{name} {version} is older than {least}, the least that {self.folder / RULES} admits: install a newer bundle"
            )


def load_trust_store(folder: Path) -> TrustStore:
    """Reads a trust store.

    Raises:
        TrustStoreError: it is missing, holds no key, or something in it is malformed; names file, value and what is expected.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise TrustStoreError(
            f"trust store {folder}: {error.strerror or error}: a folder of public keys (*.pem) is expected"
        ) from error
    keys, names = {}, {}
    rules: Mapping[str, Any] = {}
    for path in entries:
        if path.suffix == ".pem":
            key = _read_key(path)
            keys[key.id], names[key.id] = key, path.stem
        elif path.name == RULES:
            rules = _read_rules(path)
        elif path.suffix != ".md" and not path.name.startswith("."):
            raise TrustStoreError(
                f"trust store {folder}: {path.name} would not be read: *.pem, {RULES} and *.md are expected; a misspelt "
                "revocation revokes nothing"
            )
    if not 1 <= len(keys) <= MAX_KEYS:
        raise TrustStoreError(f"trust store {folder}: {len(keys)} public keys (*.pem), 1 to {MAX_KEYS} are expected")
    tables = ("revoked_keys", "revoked_bundles", "minimum_versions")
    return TrustStore(folder, keys, names, *(rules.get(table, {}) for table in tables))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise TrustStoreError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrustStoreError(f"{path}: can't be read: {error}") from error


def _read_key(path: Path) -> PublicKey:
    text = _read(path)
    if "PRIVATE KEY" in text:
        raise TrustStoreError(
            f"{path}: a private key, which no device needs: take it away, and revoke it if others saw it"
        )
    try:
        return parse_public_key(text)
    except ValueError as error:
        raise TrustStoreError(f"{path}: {error}: edge-export key public writes what is expected") from error


def _read_rules(path: Path) -> Mapping[str, Mapping[str, str]]:
    try:
        rules = tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise TrustStoreError(f"{path}: not valid TOML: {error}") from error
    expected = {
        "revoked_keys": ("a key id of 64 hexadecimal digits and a reason", _is_digest, _is_text),
        "revoked_bundles": ("a SHA-256 of 64 hexadecimal digits and a reason", _is_digest, _is_text),
        "minimum_versions": ("the name of a model and a version such as 1.2.0", _is_text, is_version),
    }
    for table, values in rules.items():
        if table not in expected:
            raise TrustStoreError(f"{path}: {table} is unknown; known are {', '.join(expected)}")
        words, is_name, is_value = expected[table]
        if not isinstance(values, dict):
            raise TrustStoreError(f"{path}: {table} = {values!r}: a table of {words} is expected")
        for name, value in values.items():
            if not is_name(name) or not is_value(value):
                raise TrustStoreError(f"{path}: [{table}] {name} = {value!r}: {words} is expected")
    return rules


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and HEX_SHA256.fullmatch(value) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""
