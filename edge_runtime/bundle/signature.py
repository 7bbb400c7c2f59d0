"""Ed25519 signatures (RFC 8032) of manifests. The manifest lists every other member, so it stands for the bundle.

`cryptography` is imported where a signature is checked: a process that loads no bundle does not pay for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass

from edge_runtime.errors import BundleAltered, BundleUnsigned

ALGORITHM = "ed25519"
SIGNATURE_BYTES = 64
KEY_BYTES = 32
SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What comes before the 32 bytes of an Ed25519 key in DER (RFC 8410, section 4): all such keys begin alike."""

HEX_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]{1,200})-----END PUBLIC KEY-----", re.ASCII)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key.

    Attributes:
        raw: its 32 bytes.
    """

    raw: bytes

    @property
    def id(self) -> str:
        """SHA-256 of the key in DER, hexadecimal: ``openssl pkey -pubin -in KEY -outform DER | sha256sum``."""
        return hashlib.sha256(SPKI_PREFIX + self.raw).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key signed the message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):  # ValueError: 32 bytes that are no point of the curve
            return False
        return True


def parse_public_key(pem: str) -> PublicKey:
    """A public key from PEM (RFC 7468), explanatory text around it allowed.

    Read by hand: the parser of `cryptography` takes 40 ms to import, a seventh of the runtime's start.

    Raises:
        ValueError: it is none, or not one of Ed25519.
    """
    found = _PEM.findall(pem)
    if len(found) != 1:
        raise ValueError(f"{len(found)} public keys in PEM where one is expected")
    try:
        der = base64.b64decode("".join(found[0].split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the PEM text is damaged: {error}") from error
    if not der.startswith(SPKI_PREFIX) or len(der) != len(SPKI_PREFIX) + KEY_BYTES:
        raise ValueError("not an Ed25519 public key")
    return PublicKey(der[len(SPKI_PREFIX) :])


def format_public_key(key: PublicKey) -> str:
    """The key in PEM."""
    text = base64.b64encode(SPKI_PREFIX + key.raw).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed, and the 64 bytes."""

    key_id: str
    value: bytes


def parse_signature(member: bytes | None) -> Signature:
    """The signature of a bundle, not yet checked.

    It is the one member that no signature covers, so it is read in one spelling alone: a space more would make another file of the
    same bundle, with a digest that nobody has revoked.

    Raises:
        BundleUnsigned: there is none.
        BundleAltered: it is not one of ours, or is spelt otherwise than `format_signature` does.
    """
    if member is None:
        raise BundleUnsigned("the bundle is not signed: edge-export sign signs it, with a key that the device trusts")
    try:
        fields = json.loads(member)
        if fields["algorithm"] != ALGORITHM:
            raise BundleAltered(f"signed by {str(fields['algorithm'])[:50]!r}; {ALGORITHM} is expected")
        signature = Signature(fields["key_id"], base64.b64decode(fields["signature"], validate=True))
        if not HEX_SHA256.fullmatch(signature.key_id) or len(signature.value) != SIGNATURE_BYTES:
            raise ValueError("a key id of 64 hexadecimal digits and 64 bytes are expected")
        if format_signature(signature) != member:
            raise ValueError("it is spelt otherwise than edge-export writes it")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleAltered(
            f"the signature is damaged ({type(error).__name__}: {error}): copy the bundle again"
        ) from error
    return signature


def format_signature(signature: Signature) -> bytes:
    """The member ``signature.json``."""
    value = base64.b64encode(signature.value).decode()
    fields = {"algorithm": ALGORITHM, "key_id": signature.key_id, "signature": value}
    return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode()
