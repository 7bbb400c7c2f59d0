"""Engines that fail while scans come: each patient gets an image, the engine goes, the next one comes, and all of it is said."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE_S, Client, Replies, RunningServer, attribute, profile_of
from simulated import LINES, coil_maps, header_of, kspace_of, object_image, readouts_of, scan_bytes, usual_kspace

from edge_runtime import engines
from edge_runtime.bundle import trust_store
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.engines.quarantine import Kind, Quarantine
from edge_runtime.errors import DeviceFailed, EngineMemory
from edge_runtime.lineup import FAILING_SCANS
from edge_runtime.links.mrd_pack import parse_meta_attributes
from edge_runtime.profile import Profile
from edge_runtime.runtime import open_runtime

SCAN = scan_bytes(readouts_of(usual_kspace()), configuration="edge")
GOLDEN_SHAPE = (1, 6, 8, 12)


class Faulty(OnnxRuntimeEngine):
    """Passes for OpenVINO, whose place it takes; sound for golden outputs, and for scans what a test makes of it."""

    name = "openvino"
    fault: Callable[[np.ndarray], np.ndarray] | None = None
    golden_too = False
    runs = 0

    def version(self) -> str:
        return "openvino 2025.3.0 CPU"

    def score(self, precision: str) -> int:
        return 50

    def plan(self, onnx, threads, purpose=None):
        session = super().plan(onnx, threads)

        class Session:
            def run(self, batch):
                output = session.run(batch)
                if Faulty.fault is None or (batch.shape == GOLDEN_SHAPE and not Faulty.golden_too):
                    return output
                Faulty.runs += 1
                return Faulty.fault(output)

        return Session()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> type[Faulty]:
    monkeypatch.setattr(engines, "REGISTRY", {**engines.REGISTRY, "openvino": Faulty})
    monkeypatch.setattr(Faulty, "fault", None)
    monkeypatch.setattr(Faulty, "golden_too", False)
    monkeypatch.setattr(Faulty, "runs", 0)
    return Faulty


def profile(tmp_path: Path, *names: str, grace_s: float = 30.0) -> Profile:
    usual = profile_of()
    return replace(
        usual,
        engines=names or ("openvino", "onnxruntime"),
        compilation=replace(usual.compilation, cache=tmp_path / "cache"),
        deadlines=replace(usual.deadlines, grace_s=grace_s),
    )


@pytest.fixture
def serving(tiny_bundle, tmp_path) -> Iterator[Callable[[Profile], RunningServer]]:
    with contextlib.ExitStack() as stack:

        def start(profile: Profile) -> RunningServer:
            running = RunningServer(
                stack.enter_context(open_runtime(profile, bundle=tiny_bundle, output=tmp_path / "out", previews=()))
            )
            stack.callback(running.stop)
            return running

        yield start


def learned_from(replies: Replies) -> str:
    """The engine that made the learned image; empty where there is none."""
    for image in replies.images:
        said = parse_meta_attributes(image.attributes)
        if said["EdgeMethod"] == ["learned"]:
            return "made"
    return ""


def notes(replies: Replies, method: str) -> str:
    for image in replies.images:
        said = parse_meta_attributes(image.attributes)
        if said["EdgeMethod"] == [method]:
            return "; ".join(said.get("EdgeNotes", []))
    raise AssertionError(f"no {method} image")


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def engine_in_service(server: RunningServer) -> str:
    ready, _ = server.server._runtime.model.lineup.ready("fp32")
    return "" if ready is None else ready.engine


def not_a_number(output: np.ndarray) -> np.ndarray:
    return np.full_like(output, np.nan)


def another_shape(output: np.ndarray) -> np.ndarray:
    return output[:, :, :-1]


def test_an_engine_that_returns_nan_goes_after_some_scans_and_the_next_one_comes(faulty, serving, tmp_path):
    server = serving(profile(tmp_path))
    assert learned_from(server.exchange(SCAN))
    faulty.fault = staticmethod(not_a_number)
    for _ in range(FAILING_SCANS):
        replies = server.exchange(SCAN)
        assert replies.kinds() == [("classical", "final")]
        assert "no learned image: EngineError" in notes(replies, "classical")
        assert "EdgeDegraded" in parse_meta_attributes(replies.images[0].attributes)
        assert "degraded: slice 0: no learned image" in replies.text
    wait_until(lambda: engine_in_service(server).startswith("onnxruntime"))
    replies = server.exchange(SCAN)
    assert replies.kinds() == [("learned", "final"), ("classical", "final")]
    report = json.loads(server.wait_for_files("*/report.json", FAILING_SCANS + 2)[-1].read_text())
    assert report["images"][0]["provenance"]["engine"].endswith(" instead of openvino")
    assert Quarantine(tmp_path / "cache").marks() == []  # golden outputs are reproduced: the scans may be to blame


def test_one_that_misses_the_golden_outputs_then_is_quarantined(faulty, serving, tmp_path):
    server = serving(profile(tmp_path))
    faulty.fault, faulty.golden_too = staticmethod(not_a_number), True
    for _ in range(FAILING_SCANS):
        server.exchange(SCAN)
    wait_until(lambda: engine_in_service(server).startswith("onnxruntime"))
    (mark,) = Quarantine(tmp_path / "cache").marks()
    assert (mark.case.engine, mark.kind, mark.quarantined) == ("openvino", Kind.GOLDEN, True)
    counted = server.server._runtime.counters.snapshot()
    assert counted["engine_failures", (("engine", "openvino"), ("kind", "error"))] == FAILING_SCANS


def out_of_memory(output: np.ndarray) -> np.ndarray:
    raise EngineMemory("openvino failed: out of memory")


def device_failed(output: np.ndarray) -> np.ndarray:
    raise DeviceFailed("sense_normal: an illegal address")


def test_one_that_lacks_memory_for_the_golden_outputs_too_is_not_quarantined(faulty, serving, tmp_path):
    server = serving(profile(tmp_path))
    faulty.fault, faulty.golden_too = staticmethod(out_of_memory), True
    for _ in range(FAILING_SCANS):
        server.exchange(SCAN)
    wait_until(lambda: engine_in_service(server).startswith("onnxruntime"))
    assert Quarantine(tmp_path / "cache").marks() == []


def test_the_last_engine_stays_while_it_lacks_memory(faulty, serving, tmp_path, caplog):
    server = serving(profile(tmp_path, "openvino"))
    faulty.fault, faulty.golden_too = staticmethod(out_of_memory), True
    for _ in range(FAILING_SCANS):
        server.exchange(SCAN)
    wait_until(lambda: "stays in service" in caplog.text)
    faulty.fault = None
    assert learned_from(server.exchange(SCAN))


def test_a_failure_of_kernels_is_not_the_engines(faulty, serving, tmp_path):
    server = serving(profile(tmp_path))
    faulty.fault = staticmethod(device_failed)
    for _ in range(FAILING_SCANS + 1):
        assert "no learned image: DeviceFailed" in notes(server.exchange(SCAN), "classical")
    assert engine_in_service(server).startswith("openvino")
    assert not [name for name, _ in server.server._runtime.counters.snapshot() if name == "engine_failures"]


def test_a_single_failure_is_forgotten_by_a_scan_that_succeeds(faulty, serving, tmp_path):
    server = serving(profile(tmp_path))
    for _ in range(FAILING_SCANS):
        faulty.fault = staticmethod(not_a_number)
        assert not learned_from(server.exchange(SCAN))
        faulty.fault = None
        assert learned_from(server.exchange(SCAN))
    assert engine_in_service(server).startswith("openvino")


def test_the_last_engine_stays_while_it_reproduces_the_golden_outputs(faulty, serving, tmp_path, caplog):
    server = serving(profile(tmp_path, "openvino"))
    faulty.fault = staticmethod(not_a_number)
    for _ in range(FAILING_SCANS):
        server.exchange(SCAN)
    wait_until(lambda: "stays in service" in caplog.text)
    faulty.fault = None
    assert learned_from(server.exchange(SCAN))


def test_an_answer_of_another_shape_is_enough_at_once(faulty, serving, tmp_path):
    server = serving(profile(tmp_path))
    faulty.fault = staticmethod(another_shape)
    replies = server.exchange(SCAN)
    assert "WrongOutput: openvino answered an input of shape" in notes(replies, "classical")
    wait_until(lambda: engine_in_service(server).startswith("onnxruntime"))
    (mark,) = Quarantine(tmp_path / "cache").marks()
    assert (mark.kind, mark.quarantined) == (Kind.SHAPE, True)
    assert faulty.runs == 1


def test_an_engine_that_hangs_holds_nobody_up(faulty, serving, tmp_path):
    """Several scans at once: each gets its classical image, one thread is lost, and the next engine takes over."""
    server, let_go = serving(profile(tmp_path, grace_s=0.5)), threading.Event()

    def hang(output: np.ndarray) -> np.ndarray:
        let_go.wait(10 * PATIENCE_S)
        return output

    faulty.fault = staticmethod(hang)
    try:
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            client.send(SCAN)
            client.half_close()
        for client in clients:
            with client:
                replies = client.replies()
            assert ("classical", "final") in replies.kinds()
        assert faulty.runs == 1
        wait_until(lambda: engine_in_service(server).startswith("onnxruntime"))
        assert learned_from(server.exchange(SCAN))
        (mark,) = Quarantine(tmp_path / "cache").marks()
        assert (mark.kind, mark.quarantined) == (Kind.HUNG, True)
        assert "has not answered for 0.5 s" in mark.why
    finally:
        let_go.set()


def test_where_no_other_is_allowed_images_are_classical_and_say_why(faulty, serving, tmp_path, tiny_bundle, caplog):
    server = serving(profile(tmp_path, "openvino"))
    faulty.fault = staticmethod(another_shape)
    server.exchange(SCAN)
    wait_until(lambda: "no engine runs fp32 of the bundle any more" in caplog.text)
    replies = server.exchange(SCAN)
    assert replies.kinds() == [("classical", "final")]
    assert "no learned image: fp32: openvino is out of service" in notes(replies, "classical")
    server.stop()
    faulty.fault = None
    again = serving(profile(tmp_path, "openvino"))  # the next start finds the mark
    replies = again.exchange(SCAN)
    assert replies.kinds()[0] == ("classical", "final")
    assert "openvino 2025.3.0 CPU: fp32 has failed here before and is quarantined (shape: " in notes(
        replies, "classical"
    )


# ------------------------------------------------------------------------- an engine that takes its process down

CRASHING = """
    import ctypes
    import os

    from edge_runtime import engines
    from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine


    class Crashing(OnnxRuntimeEngine):
        name = "openvino"

        def version(self):
            return "openvino 2025.3.0 CPU"

        def score(self, precision):
            return 50

        def plan(self, onnx, threads, purpose=None):
            session = super().plan(onnx, threads)

            class Session:
                def run(self, batch):
                    if os.environ["CRASH"] == "at once" or batch.shape != (1, 6, 8, 12):
                        ctypes.string_at(0)
                    return session.run(batch)

            return Session()


    engines.REGISTRY["openvino"] = Crashing
"""

PROFILE = """
name = "crashing"
description = "an engine that takes the process down before one that works"
[compute]
threads = 1
reconstruction_workers = 1
engines = {engines}
precisions = ["fp32"]
[compile]
cache = "{cache}"
[memory]
session_mb = {session_mb}
total_mb = 2048
[limits]
sessions = 4
idle_timeout_s = 20.0
send_timeout_s = 5.0
pending_slices = 8
"""


class Served:
    """A server in a process of its own, with engines that only it has."""

    def __init__(self, folder: Path, bundle: Path, names: str, crash: str, session_mb: int = 64) -> None:
        site = folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(textwrap.dedent(CRASHING))
        (folder / "profile.toml").write_text(
            PROFILE.format(engines=names, cache=folder / "cache", session_mb=session_mb)
        )
        command = [sys.executable, "-m", "edge_runtime.cli", "serve", "--port", "0", "--json", "--previews", "none"]
        command += ["--profile", str(folder / "profile.toml"), "--bundle", str(bundle), "--out", str(folder / "out")]
        command += ["--trust", str(trust_store.DEFAULT_TRUST)]
        self.log = folder / "log"
        environment = {**os.environ, "PYTHONPATH": str(site), "CRASH": crash}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self.log.open("ab"),
            env=environment,
        )

    def exchange(self, data: bytes) -> Replies:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return self.send(json.loads(line)["port"], data)

    def send(self, port: int, data: bytes) -> Replies:
        self.port = port
        with Client(port) as client:
            client.send(data)
            client.half_close()
            return client.replies()

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


def test_an_engine_that_crashes_the_process_at_its_start_is_quarantined_by_the_next(tmp_path, tiny_bundle):
    names = '["openvino", "onnxruntime"]'
    first = Served(tmp_path, tiny_bundle, names, "at once")
    assert first.process.wait(PATIENCE_S) == -signal.SIGSEGV
    second = Served(tmp_path, tiny_bundle, names, "at once")
    try:
        replies = second.exchange(SCAN)
        assert replies.kinds() == [("learned", "final"), ("classical", "final")]
    finally:
        assert second.end() == 0
    assert "next comes onnxruntime" in second.log.read_text()
    (mark,) = Quarantine(tmp_path / "cache").marks()
    assert (mark.case.engine, mark.kind) == ("openvino", Kind.CRASHED_LOADING)
    assert not list((tmp_path / "cache").glob("process-*"))


def test_one_that_crashes_on_scans_has_a_second_chance_and_no_third(tmp_path, tiny_bundle):
    for _ in range(2):
        server = Served(tmp_path, tiny_bundle, '["openvino"]', "on scans")
        server.exchange(SCAN)
        assert server.process.wait(PATIENCE_S) == -signal.SIGSEGV
    third = Served(tmp_path, tiny_bundle, '["openvino"]', "on scans")
    try:
        replies = third.exchange(SCAN)
        assert replies.kinds()[0] == ("classical", "final")
        assert attribute(replies.images[0], "EdgeNotes").startswith("no learned images: ")
        assert "crashed while it ran, 2 times" in attribute(replies.images[0], "EdgeNotes")
    finally:
        assert third.end() == 0
    (mark,) = Quarantine(tmp_path / "cache").marks()
    assert "scan 20" in mark.why and "Segmentation fault" in mark.why


@pytest.mark.full
@pytest.mark.parametrize("more_mb", [8, 24])
def test_a_server_at_its_memory_limit_goes_on(tmp_path, tiny_bundle, more_mb):
    """The limit of the address space, which real allocations run into: a scan that is too large ends by itself."""
    server = Served(tmp_path, tiny_bundle, '["onnxruntime"]', "never", session_mb=1024)
    try:
        assert ("classical", "final") in server.exchange(SCAN).kinds()
        pid = server.process.pid
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        (size_kb,) = (int(line.split()[1]) for line in status if line.startswith("VmSize:"))
        _, most = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, ((size_kb << 10) + (more_mb << 20), most))
        size, coils = 640, 16
        kspace = kspace_of(object_image(size, size), coil_maps(coils, size, size))
        large = scan_bytes(readouts_of(kspace), header=header_of(size, size, size, coils=coils), configuration="edge")
        answered = server.send(server.port, large)
        assert not learned_from(answered), "it had memory enough"
        resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
        assert server.send(server.port, SCAN).kinds() == [("learned", "final"), ("classical", "final")]
        assert not Quarantine(tmp_path / "cache").marks()  # no engine is to blame
    finally:
        assert server.end() == 0
    assert "emory" in server.log.read_text() or "alloc" in server.log.read_text()


def test_the_report_tells_what_gave_way(faulty, serving, tmp_path):
    server = serving(profile(tmp_path))
    faulty.fault = staticmethod(another_shape)
    server.exchange(SCAN)
    report = json.loads(server.wait_for_files("*/report.json")[0].read_text())
    (said,) = report["degraded"]
    assert said.startswith("slice 0: no learned image: WrongOutput: ")
    assert report["images"][0]["provenance"]["degraded"].startswith("no learned image: WrongOutput: ")
    assert report["readouts"] == LINES
