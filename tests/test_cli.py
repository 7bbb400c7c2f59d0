"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import heed_hangups
from PIL import Image
from simulated import COLUMNS, LINES, kspace_of, object_image

from edge_runtime.cli import main
from edge_runtime.demo.run import SCAN
from edge_runtime.errors import RecordingError
from edge_runtime.links.mrd_messages import Close, MessageReader
from edge_runtime.links.mrd_pack import format_meta_attributes, pack_close, pack_image, pack_text

PATIENCE_S = 30.0


def code_of(*arguments: str) -> int:
    """The exit code, also where argparse ends the program."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    "command", [(), ("demo",), ("serve",), ("replay",), ("bundle",)], ids=lambda command: " ".join(command)
)
def test_help_shows_an_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(*command, "--help") == 0
    said = capsys.readouterr().out
    assert "example" in said
    assert " ".join(("edge-runtime", *command)) in said.partition("example")[2]


def test_a_bundle_is_shown_and_checked_without_the_desk(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("bundle") == 0
    said = capsys.readouterr().out
    assert "brain2d" in said and "pass  golden int8" in said and "accepted" in said.splitlines()[-1]
    assert code_of("bundle", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["accepted"] and said["bundle"]["name"] == "brain2d"


def test_a_bundle_that_is_refused_is_shown_with_the_reason(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(__file__).parents[1] / "edge_runtime" / "trust_keys"  # without the tests' key
    assert code_of("bundle", str(tiny_bundle), "--trust", str(store)) == 1
    said = capsys.readouterr().out
    assert "OVERRIDE" in said and "FAIL  key" in said and "add its public key there" in said
    (tmp_path / "cut").write_bytes(b"PK")
    assert code_of("bundle", str(tmp_path / "cut"), "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["bundle"], said["checks"][0]["error"]) == (None, "BundleMalformed")


def test_replay_into_a_server_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("replay", str(SCAN), "--classical-only", "--json", "--out", str(tmp_path)) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["series"] == sorted({str(path.parent) for path in tmp_path.rglob("*.dcm")})
    finals = [image["attributes"] for image in said["images"] if image["attributes"]["EdgeCompleteness"] == "final"]
    assert [attributes["EdgeMethod"] for attributes in finals].count("classical") == 2  # slices
    assert list(tmp_path.rglob("*.dcm"))


def test_a_replay_says_where_its_series_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--config", "edge-classical", "--classical-only", "--previews", "none", "--out", str(tmp_path))
    assert code_of("replay", str(SCAN), *options) == 0
    said = capsys.readouterr().out
    series = {str(path.parent) for path in tmp_path.rglob("*.dcm")}
    assert len(series) == 2  # classical and zero-filled
    assert all(f"  {folder}\n" in said for folder in series)


@pytest.mark.parametrize("classical_only", [True, False])
def test_the_demo_reports_pictures_and_files(
    classical_only: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--classical-only",) if classical_only else ()
    assert code_of("demo", "--json", "--out", str(tmp_path), *options) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "report.json").read_text())
    assert set(said) == {"runtime", "profile", "scan", "pacing", "quality", "texts", "session"}
    methods = ["zero_filled", "classical"] + ([] if classical_only else ["learned"])
    assert [(row["slice"], row["method"]) for row in said["quality"]] == [(i, m) for i in (0, 1) for m in methods]
    nrmse = {(row["slice"], row["method"]): row["nrmse"] for row in said["quality"]}
    assert all(nrmse[index, "classical"] < nrmse[index, "zero_filled"] for index in (0, 1))
    for image in said["session"]["images"]:
        assert (image["dicom"] is None) == (image["completeness"] == "preview")
        assert image["dicom"] is None or Path(image["dicom"]).is_file()
    with Image.open(tmp_path / "comparison.png") as picture:
        width, height = picture.size
        assert picture.format == "PNG"
    assert width > 192 * (1 + len(methods)) and height > 4 * 192
    assert width < 192 * (2 + len(methods))  # no empty panel


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    """A 0.055 T scan of one coil, without a header."""
    scipy_io = pytest.importorskip("scipy.io")
    kspace = kspace_of(object_image(), np.ones((1, LINES, COLUMNS), np.complex64), noise=0.01)
    path = tmp_path / "scan.mat"
    scipy_io.savemat(path, {"kspace": kspace[0].T.astype(np.complex128)})
    return path


def test_what_opening_a_recording_assumed_is_printed_and_reaches_dicom(
    mat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("replay", str(mat), "--classical-only", "--accelerate", "2", "--acs", "0.25", "--out", str(tmp_path))
    assert code_of(*arguments) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "MATLAB k-space" in line]
    assert len([line for line in lines if "final image, made from 50 % of all phase encodes" in line]) == 1
    assert (
        len([line for line in lines if "1 mm a voxel is written" in line]) == 1
    )  # the server's echo is not shown again
    for path in tmp_path.rglob("*.dcm"):
        comments = pydicom.dcmread(path).ImageComments
        assert comments.count("1 mm a voxel is written") == 1
        assert comments.count("undersampled after the fact") == 1


def test_a_summary_in_json_holds_format_and_notes(mat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("replay", str(mat), "--classical-only", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["format"] == "MATLAB k-space"
    assert "1 mm a voxel is written" in said["notes"][0]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("serve", "--port", "0", "--profile", "toaster", "--classical-only"), "toaster"),
        (("serve", "--port", "0", "--bundle", "missing.edgebundle"), "missing.edgebundle"),
        (("serve", "--port", "0", "--trust", "/proc/nope"), "trust store /proc/nope: No such file"),
        (("bundle", "--trust", "/proc/nope"), "trust store /proc/nope: No such file"),
        (("replay", "missing.mrd", "--classical-only"), "missing.mrd"),
        (("serve", "--port", "0", "--classical-only", "--out", "/proc/nope"), "--out /proc/nope"),
        (("replay", str(SCAN), "--classical-only", "--out", "/proc/nope"), "--out /proc/nope"),
        (("demo", "--classical-only", "--out", "/proc/nope"), "--out /proc/nope"),
    ],
    ids=[
        "profile",
        "bundle",
        "trust",
        "trust of bundle",
        "file",
        "serve to nowhere",
        "replay to nowhere",
        "demo to nowhere",
    ],
)
def test_work_that_cannot_be_done(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(*arguments) == 1
    said = capsys.readouterr().err
    assert complaint in said
    assert said.startswith("edge-runtime: ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "COMMAND"),
        (("develop",), "develop"),
        (("replay",), "file"),
        (("serve", "--colour"), "--colour"),
        (("serve", "--port", "65536"), "--port: '65536'"),
        (("serve", "--previews", "1.5"), "--previews: '1.5'"),
        (("replay", "scan.h5", "--order", "random"), "--order: invalid choice: 'random'"),
        (("replay", "scan.h5", "--port", "0"), "--port: '0'"),
        (("replay", "scan.h5", "--tr", "-1"), "--tr: '-1'"),
        (("replay", "scan.h5", "--tr", "nan"), "--tr: 'nan'"),
        (("replay", "scan.h5", "--tr", "fast"), "--tr: 'fast'"),
        (("replay", "scan.h5", "--seed", "-1", "--accelerate", "2"), "--seed: '-1'"),
        (("replay", "scan.h5", "--accelerate", "99"), "--accelerate: '99'"),
        (("replay", "scan.h5", "--accelerate", "2", "--acs", "-1"), "--acs: '-1'"),
        (("replay", "scan.h5", "--acs", "0.1"), "--acs needs --accelerate"),
        (("replay", "scan.h5", "--seed", "1"), "--seed needs --accelerate"),
        (("replay", "scan.h5", "--port", "9002", "--out", "images"), "--out"),
        (("replay", "scan.h5", "--host", "scanner", "--bundle", "x.edgebundle"), "--bundle"),
        (("replay", "scan.h5", "--port", "9002", "--profile", "x86-cpu"), "--profile"),
        (("replay", "scan.h5", "--port", "9002", "--previews", "none"), "--previews"),
        (("replay", "scan.h5", "--port", "9002", "--classical-only"), "--classical-only"),
        (("demo", "--classical-only", "--bundle", "x.edgebundle"), "--bundle"),
        (("serve", "--classical-only", "--precision", "int8"), "--precision"),
        (("serve", "--classical-only", "--trust", "keys"), "--trust"),
        (("replay", "scan.h5", "--port", "9002", "--trust", "keys"), "--trust"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage(arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: edge-runtime")
    assert complaint in said.partition(" error: ")[2]


@contextlib.contextmanager
def server_that_answers(*replies: bytes) -> Iterator[int]:
    """Takes one scan and answers its CLOSE; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                for message in MessageReader(connection.recv_into):
                    if isinstance(message, Close):
                        connection.sendall(b"".join([*replies, pack_close()]))

        thread = threading.Thread(target=run)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join(PATIENCE_S)


def image_that_is(completeness: str) -> bytes:
    attributes = {"EdgeMethod": "classical", "EdgeCompleteness": completeness} if completeness else {}
    return pack_image(np.ones((1, 1, 4, 5), np.float32), {}, format_meta_attributes(attributes))


FINAL = image_that_is("final")


@pytest.mark.parametrize(
    ("replies", "code"),
    [
        pytest.param([FINAL], 0, id="final"),
        pytest.param([image_that_is("")], 0, id="another make of server"),
        pytest.param([], 1, id="nothing"),
        pytest.param([image_that_is("preview")], 1, id="a late preview"),
        pytest.param([image_that_is("incomplete")], 1, id="incomplete"),
        pytest.param([FINAL, image_that_is("incomplete")], 1, id="one of two slices incomplete"),
        pytest.param([FINAL, pack_text("no image: slice 1: no signal")], 1, id="one of two slices missing"),
        pytest.param([FINAL, pack_text("error: the disk is full")], 1, id="an error"),
    ],
)
def test_a_replay_succeeds_where_every_image_is_final(
    replies: list[bytes], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_that_answers(*replies) as port:
        assert code_of("replay", str(SCAN), "--port", str(port)) == code
    assert "readouts sent" in capsys.readouterr().out


def test_a_recording_sets_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    paces: list[float | None] = []

    def listen(*_: object, repetition_time_ms: float | None, **__: object) -> None:
        paces.append(repetition_time_ms)
        raise RecordingError("enough")

    monkeypatch.setattr("edge_runtime.hil.player.play", listen)
    for pace in ("recorded", "7.5"):
        assert code_of("replay", str(SCAN), "--port", "1", "--tr", pace) == 1
    assert paces == [20.0, 7.5]


def test_a_recording_that_tells_no_pace_is_named(mat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("replay", str(mat), "--classical-only", "--tr", "recorded") == 1
    assert f"{mat}: tells no time between readouts: give --tr" in capsys.readouterr().err


def test_one_of_several_scans_in_a_file_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    scan = kspace_of(object_image(), np.ones((1, LINES, COLUMNS), np.complex64), noise=0.01)[0].T.astype(np.complex128)
    path = tmp_path / "scans.mat"
    scipy_io.savemat(path, {"first": scan, "second": scan[:, 4:-4]})
    assert code_of("replay", str(path), "--classical-only") == 1
    said = capsys.readouterr().err
    assert "first" in said and "second" in said and "--dataset" in said
    assert code_of("replay", str(path), "--classical-only", "--dataset", "second", "--json") == 0
    assert json.loads(capsys.readouterr().out)["readouts_sent"] == LINES - 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_serve_announces_its_address_and_ends_on_a_signal(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "edge_runtime.cli", "serve", "--port", "0", "--json", "--classical-only"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed_hangups) as server:
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())
            socket.create_connection((address["host"], address["port"]), PATIENCE_S).close()
            server.send_signal(number)
            assert server.wait(PATIENCE_S) == 0
            assert server.stdout.read() == ""
        finally:
            server.kill()


def test_a_failure_is_told_in_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("replay", "missing.mrd", "--json") == 1
    said = capsys.readouterr()
    assert "missing.mrd" in json.loads(said.out)["error"]
    assert said.err.startswith("edge-runtime: ")


def test_progress_names_what_tells_images_apart(capsys: pytest.CaptureFixture[str]) -> None:
    image = pack_image(np.ones((1, 1, 4, 5), np.float32), {"slice": 1, "repetition": 3}, format_meta_attributes({}))
    with server_that_answers(image) as port:
        code_of("replay", str(SCAN), "--port", str(port))
    assert "slice 1, repetition 3: image" in capsys.readouterr().err


def test_a_terminated_replay_saves_its_incomplete_images(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_runtime.cli", "replay", str(SCAN), "--tr", "200", "--classical-only"]
    with subprocess.Popen([*command, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True) as replay:
        try:
            assert replay.stderr is not None
            assert any("waiting:" in line or "image" in line for line in iter(replay.stderr.readline, ""))
            replay.send_signal(signal.SIGTERM)
            assert replay.wait(PATIENCE_S) == 143
        finally:
            replay.kill()
    assert list(tmp_path.glob("*/report.json"))


def test_the_server_listens_on_an_ipv6_address() -> None:
    command = [sys.executable, "-m", "edge_runtime.cli", "serve", "--host", "::1", "--port", "0", "--json"]
    with subprocess.Popen([*command, "--classical-only"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())
            socket.create_connection((address["host"], address["port"]), PATIENCE_S).close()
        finally:
            server.kill()


def test_an_interrupt_while_the_program_starts_ends_it_as_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edge_runtime.cli._parser", interrupted)
    assert code_of("serve") == 130
    assert capsys.readouterr().err == "interrupted\n"
