"""Servers that break off, speak too early or never come to an end: what the simulated scanner and the budget make of them."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import PATIENCE_S
from simulated import readouts_of, scan_bytes, usual_kspace

from edge_runtime.cli import main
from edge_runtime.errors import BenchError
from edge_runtime.hil.bench import fleet, scanner
from edge_runtime.hil.bench.record import ScanSeen, parse_line
from edge_runtime.hil.bench.scanner import Attempt, Orders, Step
from edge_runtime.hil.bench.verdict import GOLDEN
from edge_runtime.hil.bench.wire import read_script
from edge_runtime.links.mrd_pack import pack_close, pack_image, pack_text

SCAN = scan_bytes(readouts_of(usual_kspace()))

PROTOCOL = """
name = "rude"
version = 1
[[scan]]
name = "T1"
file = "scan.mrd"
repetition_time_ms = 2
image = "image"
deadline_ms = 60000
pause_s = 0
[budget]
nrmse = 0.001
"""

Answer = Callable[[socket.socket], None]


FINAL = "<ismrmrdMeta><meta><name>EdgeCompleteness</name><value>final</value></meta></ismrmrdMeta>"


def image(level: float = 1.0, attributes: str = "") -> bytes:
    return pack_image(np.full((1, 1, 4, 4), level, np.float32), {}, attributes)


def hear_out(connection: socket.socket, left: int = len(SCAN)) -> None:
    """The whole scan, whose configuration is packed to the same size whatever its name."""
    while left and (data := connection.recv(min(left, 1 << 16))):
        left -= len(data)


@contextlib.contextmanager
def server(answer: Answer) -> Iterator[int]:
    """Answers one connection after another; yields its port."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.settimeout(PATIENCE_S)
                with connection, contextlib.suppress(OSError):
                    answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_S)


def bench(folder: Path, port: int, *options: str, protocol: str = PROTOCOL) -> tuple[int, Any]:
    (folder / "scan.mrd").write_bytes(SCAN)
    (folder / "rude.toml").write_text(protocol, encoding="utf-8")
    command = ["bench", "run", "--quiet", "--protocol", str(folder / "rude.toml"), "--target", f"127.0.0.1:{port}"]
    code = main([*command, "--warm-up", "0", "--repeat", "3", "--out", str(folder), *options])
    path = folder / "bench.json"
    return code, json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def missed(report: Any) -> list[str]:
    return [line["name"] for line in report["verdict"]["lines"] if line["passed"] is False]


def test_images_without_the_servers_close_are_no_answer_in_full(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        hear_out(connection)
        connection.sendall(image())

    with server(answer) as port:
        code, report = bench(tmp_path, port)
    assert (report["measures"]["completed"], report["measures"]["images_lost"]) == (0, 0)
    assert code == 1 and missed(report) == ["scans not answered in full"]


def test_a_final_image_of_readouts_that_were_not_sent_yet_is_lost(tmp_path: Path) -> None:
    """But for the golden result, which is made in order."""
    turns = iter(range(9))

    def answer(connection: socket.socket) -> None:
        before = len(SCAN) // 8 if next(turns) else len(SCAN)
        hear_out(connection, before)
        connection.sendall(image(attributes=FINAL))
        hear_out(connection, len(SCAN) - before)
        connection.sendall(pack_close())

    slow = PROTOCOL.replace("repetition_time_ms = 2", "repetition_time_ms = 10")
    with server(answer) as port:
        code, report = bench(tmp_path, port, protocol=slow)
    measures = report["measures"]
    assert (measures["images_lost"], measures["image"]["samples_ms"]) == (3, [])
    assert code == 1 and missed(report)[:2] == ["images lost", "scans not answered in full"]
    assert list(measures["errors"]) == ["an image was called final before its last readout was due"]


def test_images_that_are_no_numbers_fail_the_run_and_are_told_everywhere(tmp_path: Path) -> None:
    levels = iter([1.0, np.nan, np.nan, np.nan])

    def answer(connection: socket.socket) -> None:
        hear_out(connection)
        connection.sendall(image(next(levels)) + pack_close())

    with server(answer) as port:
        code, report = bench(tmp_path, port)
    assert code == 1 and missed(report) == [GOLDEN]
    assert report["measures"]["quality"]["nrmse"] == "inf"
    assert "worst NRMSE inf" in (tmp_path / "bench.html").read_text()
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().attrib["failures"] == "1"


TWO_SCANS = PROTOCOL.replace("[budget]", PROTOCOL[PROTOCOL.index("[[scan]]") : PROTOCOL.index("[budget]")] + "[budget]")
TWO_SCANS = TWO_SCANS.replace("T1", "T2", 1)


def test_a_golden_result_that_lacks_an_image_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first of two scans is answered, the second is not."""
    turns = iter(range(2))

    def answer(connection: socket.socket) -> None:
        hear_out(connection)
        connection.sendall((b"" if next(turns) else image()) + pack_close())

    with server(answer) as port:
        assert bench(tmp_path, port, protocol=TWO_SCANS) == (1, None)
    assert "no final image image of T1, slice 0, came back" in capsys.readouterr().err


def test_golden_images_of_another_protocol_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(connection: socket.socket) -> None:
        hear_out(connection)
        connection.sendall(image() + pack_close())

    kept = str(tmp_path / "golden")
    with server(answer) as port:
        assert bench(tmp_path, port, "--keep-golden", kept)[0] == 0
        assert bench(tmp_path, port, "--golden", kept)[0] == 0
        assert bench(tmp_path, port, "--golden", kept, protocol=TWO_SCANS) == (1, None)
    assert "no golden image image of T2, slice 0: of another protocol" in capsys.readouterr().err


def test_a_run_that_came_to_nothing_leaves_no_other_runs_verdict(tmp_path: Path) -> None:
    written = [tmp_path / name for name in ("junit.xml", "bench.html", "bench.json")]
    for path in written:
        path.write_text("of another run")
    with server(hear_out) as port:
        assert bench(tmp_path, port) == (1, None)
    assert not any(path.exists() for path in written)


def test_a_server_that_ends_its_answers_is_within_the_budget(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        hear_out(connection)
        connection.sendall(image() + pack_close())

    with server(answer) as port:
        code, report = bench(tmp_path, port)
    assert code == 0 and missed(report) == []


def orders(folder: Path, port: int = 1, **changes: Any) -> Orders:
    path = folder / "scan.mrd"
    path.write_bytes(SCAN)
    step = Step("T1", str(path), len(read_script(path).readouts), 1.0, "edge", 0.0)
    usual = Orders(0, "127.0.0.1", port, (step,), time.perf_counter(), 0.0, 1, None, str(folder))
    return replace(usual, **changes)


def test_a_server_that_goes_on_talking_and_never_closes_is_given_up(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        hear_out(connection)
        while True:
            connection.sendall(pack_text("nearly there"))
            time.sleep(0.02)

    with server(answer) as port:
        asked = orders(tmp_path, port, answer_timeout_s=0.3)
        (step,) = asked.steps
        seen = Attempt(asked, step, read_script(Path(step.file)), 0, 0).run()
    assert seen.error == "0.3 s after the scan's end the server had not said CLOSE" and not seen.closed


def scan_of(folder: Path, answer: Answer) -> ScanSeen:
    with server(answer) as port:
        asked = orders(folder, port)
        (step,) = asked.steps
        return Attempt(asked, step, read_script(Path(step.file)), 0, 0).run()


def test_attributes_and_the_number_of_images_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner, "MOST_KEPT_BYTES", 1 << 20)

    def answers(*images: bytes) -> Answer:
        def answer(connection: socket.socket) -> None:
            hear_out(connection)
            connection.sendall(b"".join(images) + pack_close())

        return answer

    assert scan_of(tmp_path, answers(*[image()] * 10)).error == ""
    for too_much in ([image(attributes=FINAL + " " * (1 << 20))], [image()] * 70):
        assert scan_of(tmp_path, answers(*too_much)).error == "more than 1048576 bytes of images in one scan"


def test_what_a_server_calls_its_images_is_cut(tmp_path: Path) -> None:
    pairs = "".join(
        f"<meta><name>{name}</name><value>{'x' * 10_000}</value></meta>" for name in ("EdgeMethod", "EdgeBundleDigest")
    )

    def answer(connection: socket.socket) -> None:
        hear_out(connection)
        connection.sendall(image(attributes=f"<ismrmrdMeta>{pairs}</ismrmrdMeta>") + pack_close())

    (seen,) = scan_of(tmp_path, answer).images
    assert len(seen.method) == len(seen.bundle) == 100


def test_a_scanner_that_hangs_does_not_keep_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "GRACE_S", 0.1)
    with pytest.raises(BenchError, match="1 simulated scanners said nothing for 0 s: they hang"):
        fleet.play_all([orders(tmp_path, send_timeout_s=0, answer_timeout_s=0)], ["sh", "-c", "exec sleep 60"])


def test_scans_begin_by_the_plan_whatever_connections_take(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def answer(connection: socket.socket) -> None:
        hear_out(connection)
        connection.sendall(image() + pack_close())

    with server(answer) as port:
        asked = orders(tmp_path, port, rounds=4)
        (step,) = asked.steps
        scanner.work(replace(asked, steps=(replace(step, pause_s=0.1),)))
    seen = [parse_line(line) for line in capfd.readouterr().out.splitlines()]
    planned = [scan.planned_s for scan in seen]
    cycle_s = step.scan_s + 0.1
    assert np.diff(planned) == pytest.approx([cycle_s] * 3)
    assert all(scan.started_s >= scan.planned_s for scan in seen)
