"""Signing keys: Ed25519, PKCS #8 in PEM, readable by their owner alone. Passphrases come from a file or the terminal."""

from __future__ import annotations

import getpass
import os
import stat
import sys
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from edge_runtime.bundle.signature import PublicKey, Signature, format_public_key
from edge_runtime.errors import EdgeRuntimeError

OWNER_ONLY = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO
MAX_FILE_BYTES = 1 << 16
PRIVATE = b"PRIVATE KEY-----"
"""In the first line of a private key in PEM, of whatever kind."""


class SigningKeyError(EdgeRuntimeError):
    """A signing key or passphrase that is missing, exposed or wrong; never tells what is in it."""


class SigningKey:
    """A private key in memory."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @property
    def public(self) -> PublicKey:
        """Its public half."""
        return PublicKey(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, message: bytes) -> Signature:
        """Ed25519 is deterministic: the same message has the same signature."""
        return Signature(self.public.id, self._key.sign(message))


def new_key(path: Path, passphrase: bytes | None) -> SigningKey:
    """Makes a key and writes it to a file of its own, mode 0600.

    Args:
        passphrase: encrypts the file; ``None`` leaves it readable for whoever can read the file.

    Raises:
        SigningKeyError: the file exists (no key is ever overwritten) or can't be written.
    """
    key = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
    except FileExistsError:
        raise SigningKeyError(f"{path}: exists, and a key is never overwritten: give another name") from None
    except OSError as error:
        raise SigningKeyError(f"{path}: can't be written: {error.strerror or error}") from error
    return SigningKey(key)


def write_public_key(path: Path, key: PublicKey) -> None:
    """Writes a public key to a file of its own; where that is there already with the same key, it stays.

    Raises:
        SigningKeyError: something else is there, or it can't be written.
    """
    pem = format_public_key(key).encode("ascii")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                file.write(pem)
        except FileExistsError:
            with path.open("rb") as file:
                there = file.read(MAX_FILE_BYTES)
            if there != pem:
                what = "a private key" if PRIVATE in there else "something else"
                raise SigningKeyError(f"{path}: holds {what}, which is not overwritten: give another name") from None
    except OSError as error:
        raise SigningKeyError(f"{path}: can't be written: {error.strerror or error}") from error


def check_no_key(path: Path) -> None:
    """That a file may be written over: it holds no private key.

    Raises:
        SigningKeyError: it does, or can't be read.
    """
    try:
        with path.open("rb") as file:
            there = file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SigningKeyError(f"{path}: can't be written: {error.strerror or error}") from error
    if PRIVATE in there:
        raise SigningKeyError(f"{path}: holds a private key, which is not overwritten: give another name")


def load_key(path: Path, passphrase_file: Path | None = None) -> SigningKey:
    """Reads a private key. One that is encrypted takes its passphrase from a file, or asks for it at the terminal.

    Raises:
        SigningKeyError: it is missing, readable by others, no Ed25519 key, or its passphrase is wrong or missing.
    """
    pem = _read_private(path)
    passphrase = read_passphrase(passphrase_file) if passphrase_file is not None else None
    encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in pem
    if encrypted and passphrase is None:
        passphrase = ask_passphrase(f"passphrase of {path}: ")
    if not encrypted and passphrase is not None:
        raise SigningKeyError(f"{path}: has no passphrase: leave --passphrase-file out")
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = "the passphrase is wrong, or the file is damaged" if encrypted else "no private key in PEM (PKCS #8)"
        raise SigningKeyError(f"{path}: {why}") from None  # what the library says may quote the file
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(f"{path}: not an Ed25519 key: edge-export key new makes one")
    return SigningKey(key)


def read_passphrase(path: Path) -> bytes:
    """The first line of a file that only its owner can read.

    Raises:
        SigningKeyError: it is missing, readable by others, or empty.
    """
    line = _read_private(path).partition(b"\n")[0].rstrip(b"\r")
    if not line:
        raise SigningKeyError(f"{path}: the first line is empty; the passphrase is expected there")
    return line


def ask_passphrase(prompt: str, *, twice: bool = False) -> bytes:
    """A passphrase from the terminal, which does not show it.

    Raises:
        SigningKeyError: there is no terminal, it is empty, or the two differ.
    """
    if not sys.stdin.isatty():
        raise SigningKeyError(f"{prompt.removesuffix(': ')}: no terminal to ask at: give --passphrase-file")
    text = getpass.getpass(prompt)
    if not text:
        raise SigningKeyError("the passphrase is empty")
    if twice and getpass.getpass("again: ") != text:
        raise SigningKeyError("the two passphrases differ")
    return text.encode()


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise SigningKeyError(f"{path}: can't be read: {error.strerror or error}") from error
    if stat.S_ISREG(mode) and mode & OTHERS:
        raise SigningKeyError(f"{path}: mode {stat.S_IMODE(mode):04o}: others can read it; chmod 600 {path}")
    return content
