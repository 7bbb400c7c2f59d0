"""Signing keys stay with their owner."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge_runtime.bundle.signature import format_public_key
from export.cli import main
from export.keys import SigningKeyError, load_key, new_key, read_passphrase


def secret(path: Path, content: bytes = b"correct horse\nbattery\n") -> Path:
    path.touch(0o600)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_key_is_readable_by_its_owner_alone(tmp_path: Path, umask: int) -> None:
    import os

    before = os.umask(umask)
    try:
        key = new_key(tmp_path / "keys" / "mine.pem", None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys" / "mine.pem").stat().st_mode) == 0o600
    assert load_key(tmp_path / "keys" / "mine.pem").public == key.public
    assert key.public.verifies(key.sign(b"message").value, b"message")
    assert not key.public.verifies(key.sign(b"message").value, b"Message")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    new_key(tmp_path / "mine.pem", None)
    before = (tmp_path / "mine.pem").read_bytes()
    with pytest.raises(SigningKeyError, match=r"mine\.pem: exists, and a key is never overwritten"):
        new_key(tmp_path / "mine.pem", None)
    assert (tmp_path / "mine.pem").read_bytes() == before


@pytest.mark.parametrize("passphrase", [None, b"phrase"])
@pytest.mark.parametrize("linked", [False, True])
def test_the_public_half_does_not_take_the_place_of_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], passphrase: bytes | None, linked: bool
) -> None:
    key, out = tmp_path / "mine.pem", tmp_path / "link.pem"
    new_key(key, passphrase)
    before = key.read_bytes()
    if linked:
        out.symlink_to(key)
    words = ["--passphrase-file", str(secret(tmp_path / "phrase", passphrase))] if passphrase else []
    target = str(out if linked else key)
    assert main(["key", "public", str(key), *words, "--out", target]) == 1
    assert f"{target}: holds a private key, which is not overwritten" in capsys.readouterr().err
    assert key.read_bytes() == before


def test_the_public_half_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = new_key(tmp_path / "mine.pem", None)
    out = tmp_path / "trust" / "mine.pem"
    command = ["key", "public", str(tmp_path / "mine.pem"), "--out", str(out)]
    assert main(command) == 0 and main(command) == 0  # as `make train` does
    assert out.read_text() == format_public_key(made.public)
    out.write_text("another key")
    assert main(command) == 1
    assert f"{out}: holds something else, which is not overwritten" in capsys.readouterr().err
    assert out.read_text() == "another key"


@pytest.mark.parametrize("command", ["sign", "pack"])
def test_no_bundle_takes_the_place_of_a_key(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    if command == "pack":
        pytest.importorskip("torch", reason="the extra 'export' is not installed")
    key = tmp_path / "mine.pem"
    new_key(key, None)
    before = key.read_bytes()
    assert main([command, str(tiny_bundle), "--key", str(key), "--out", str(key)]) == 1
    assert f"{key}: holds a private key, which is not overwritten" in capsys.readouterr().err
    assert key.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    new_key(tmp_path / "mine.pem", None)
    (tmp_path / "mine.pem").chmod(mode)
    with pytest.raises(SigningKeyError, match=rf"mode {mode:04o}: others can read it; chmod 600"):
        load_key(tmp_path / "mine.pem")


def test_a_passphrase_comes_from_a_file(tmp_path: Path) -> None:
    phrase = secret(tmp_path / "phrase")
    key = new_key(tmp_path / "mine.pem", read_passphrase(phrase))
    pem = (tmp_path / "mine.pem").read_bytes()
    assert b"ENCRYPTED" in pem
    assert load_key(tmp_path / "mine.pem", phrase).public == key.public
    with pytest.raises(SigningKeyError, match="the passphrase is wrong, or the file is damaged") as refused:
        load_key(tmp_path / "mine.pem", secret(tmp_path / "other", b"Tr0ub4dor&3"))
    assert "Tr0ub4dor" not in str(refused.value)


def test_without_a_terminal_a_passphrase_file_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_key(tmp_path / "mine.pem", b"phrase")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(
        SigningKeyError, match=r"passphrase of .*mine\.pem: no terminal to ask at: give --passphrase-file"
    ):
        load_key(tmp_path / "mine.pem")


def test_a_passphrase_is_asked_for_at_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers = iter(["one", "two", "one", "one", "one"])
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
    path = str(tmp_path / "mine.pem")
    assert main(["key", "new", path, "--ask-passphrase"]) == 1  # the two differ
    assert main(["key", "new", path, "--ask-passphrase"]) == 0
    assert load_key(Path(path)).public.id


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no private key in PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key in PEM"),
        (
            generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "not an Ed25519 key: edge-export key new makes one",
        ),
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(SigningKeyError, match=words):
        load_key(secret(tmp_path / "mine.pem", content))


def test_what_is_missing_or_useless_is_named(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match="No such file"):
        load_key(tmp_path / "nowhere.pem")
    new_key(tmp_path / "mine.pem", None)
    with pytest.raises(SigningKeyError, match="has no passphrase: leave --passphrase-file out"):
        load_key(tmp_path / "mine.pem", secret(tmp_path / "phrase"))
    with pytest.raises(SigningKeyError, match="the first line is empty"):
        read_passphrase(secret(tmp_path / "empty", b"\nnot here"))


def test_the_command_makes_a_key_and_its_public_half(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private, public = tmp_path / "mine.pem", tmp_path / "trust" / "mine.pem"
    phrase = secret(tmp_path / "phrase")
    assert main(["key", "new", str(private), "--passphrase-file", str(phrase)]) == 0
    key_id = capsys.readouterr().out.split()[-1]
    arguments = ["key", "public", str(private), "--passphrase-file", str(phrase)]
    assert main([*arguments, "--out", str(public)]) == 0
    assert capsys.readouterr().err == f"key {key_id}\n"
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.out == public.read_text()
    assert "PRIVATE" not in said.out + said.err and "correct horse" not in said.out + said.err


def test_openssl_reads_the_key_and_makes_the_same_public_half(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.pem"
    assert main(["key", "new", str(path)]) == 0
    assert main(["key", "public", str(path)]) == 0
    ours = capsys.readouterr().out.partition("\n")[2]
    try:
        done = subprocess.run(
            ["openssl", "pkey", "-in", str(path), "-pubout"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl")
    assert done.stdout == ours


def test_a_simulated_scan_is_written_over_no_key(tmp_path: Path) -> None:
    from export.simulate.scan_file import check_place

    new_key(tmp_path / "signing.pem", None)
    with pytest.raises(SigningKeyError):
        check_place(tmp_path / "signing.pem")
    check_place(tmp_path / "reference.npz")
