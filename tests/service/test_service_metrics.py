"""What Prometheus is told after real scans, and how the page behaves towards strangers."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator

import pytest
from conftest import PATIENCE_S, RunningServer
from prometheus_client.parser import text_string_to_metric_families
from simulated import opening, readouts_of, scan_bytes, usual_kspace

from edge_runtime.cli import main
from edge_runtime.service import metrics_server
from edge_runtime.service.life import Around, Life, living
from edge_runtime.service.metrics import MOST_VALUES


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request(method, path)
    with contextlib.closing(connection):
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def values(port: int) -> dict[str, float]:
    """Samples by name and labels, such as ``edge_images_total method=learned completeness=final``."""
    families = text_string_to_metric_families(get(port, "/metrics")[1])
    return {
        " ".join([sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))]): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def told(runtime_of, tiny_bundle) -> Iterator[tuple[RunningServer, Life, int]]:
    """A server with metrics."""
    with runtime_of(bundle=tiny_bundle, sessions=2) as runtime:
        server = RunningServer(runtime)
        try:
            with living(runtime, server.server, Around(metrics=("127.0.0.1", 0)), None) as life:
                assert life.metrics is not None
                yield server, life, life.metrics.port
        finally:
            server.stop()


def test_scans_images_and_times_are_counted(told):
    server, _, port = told
    before = values(port)
    assert (before["edge_sessions"], before["edge_sessions_limit"]) == (0, 2)
    assert before["edge_build_info profile=test version=0.1.0"] == 1
    (model,) = (name for name in before if name.startswith("edge_model_info"))
    assert "bundle=tiny" in model and "precision=fp32" in model and "version=1" in model
    readouts = readouts_of(usual_kspace())
    server.exchange(scan_bytes(readouts, configuration="edge-all"))
    server.exchange(scan_bytes(readouts_of(usual_kspace(), range(8, 24), last=False), close=False))
    server.exchange(scan_bytes(readouts, configuration="wrong"))
    after = values(port)
    assert after["edge_scans_begun_total"] == 2
    assert [after[f"edge_scans_total outcome={one}"] for one in ("complete", "ended_early", "refused")] == [1, 1, 1]
    assert after["edge_readouts_total"] == len(readouts) + 16
    assert after["edge_images_total completeness=final method=learned"] == 1
    assert after["edge_images_total completeness=incomplete method=classical"] == 1
    for method in ("learned", "classical", "zero_filled"):
        assert after[f"edge_last_readout_to_image_seconds_count method={method}"] == 1
    for stage in ("ingest", "queued", "calibration", "learned", "classical", "zero_filled", "send", "dicom"):
        assert after[f"edge_stage_seconds_count stage={stage}"] >= 1
    assert after["edge_errors_total kind=ProtocolError"] == 1
    assert after["edge_threads_stuck"] == 0
    assert after["process_resident_memory_bytes"] > 1e6


def test_labels_are_bounded_whatever_is_told(told):
    server, _, port = told
    runtime = server.server._runtime
    for number in range(3 * MOST_VALUES):
        runtime.observers.degraded("scan", f"step {number}")
        runtime.observers.deadline_missed("scan", f"stage {number}")
    after = values(port)
    assert sum(name.startswith("edge_degradations_total") for name in after) == MOST_VALUES + 1
    assert after["edge_degradations_total step=other"] == 2 * MOST_VALUES
    assert after["edge_deadline_misses_total stage=other"] == 2 * MOST_VALUES


def test_health_follows_progress_and_readiness_room(told):
    server, _, port = told
    assert get(port, "/healthz") == (200, "ok\n")
    assert get(port, "/readyz") == (200, "ok\n")
    pulse = server.server._runtime.heart.pulse("worker")
    with pulse.working():
        pulse.last_beat_s -= 3600
        status, text = get(port, "/healthz")
        assert status == 503 and "worker has made no progress" in text
    pulse.end()
    with server.connect() as first, server.connect() as second:
        for client in (first, second):
            client.send(opening())
        deadline = time.monotonic() + PATIENCE_S
        while server.server.sessions < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert get(port, "/readyz") == (503, "all 2 sessions are taken\n")
        assert get(port, "/healthz")[0] == 200
    server.server.stop()
    assert get(port, "/readyz") == (503, "stopping\n")


def test_other_paths_and_methods(told):
    port = told[2]
    assert get(port, "/")[0] == 404
    assert get(port, "/metrics?name=x")[0] == 200
    assert get(port, "/metrics", "HEAD") == (200, "")
    assert get(port, "/metrics", "POST")[0] == 501


def test_one_request_a_connection(told):
    with socket.create_connection(("127.0.0.1", told[2]), PATIENCE_S) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nConnection: keep-alive\r\n\r\n" * 2)
        with connection.makefile("rb") as answer:
            assert answer.read().count(b"HTTP/1.0 200") == 1


def test_who_dawdles_is_hung_up_on_and_holds_nobody_up(told, monkeypatch):
    port = told[2]
    monkeypatch.setattr(metrics_server, "REQUEST_S", 0.5)
    dawdlers = [socket.create_connection(("127.0.0.1", port), PATIENCE_S) for _ in range(metrics_server.MOST_REQUESTS)]
    for one in dawdlers:
        one.sendall(b"GET /met")
    for one in dawdlers:
        assert one.recv(1000) == b""
        one.close()
    assert get(port, "/healthz")[0] == 200


def test_more_than_a_few_at_once_are_turned_away(told):
    port = told[2]
    crowd = [socket.create_connection(("127.0.0.1", port), PATIENCE_S) for _ in range(3 * metrics_server.MOST_REQUESTS)]
    with contextlib.suppress(ConnectionResetError):
        assert crowd[-1].recv(1000) == b""
    for one in crowd:
        one.close()


def test_an_observer_that_fails_harms_no_scan(told, monkeypatch, caplog):
    server, _, _ = told
    for observer in server.server._runtime.observers.each:
        monkeypatch.setattr(observer, "image_made", lambda *_: 1 / 0)
    replies = server.exchange(scan_bytes(readouts_of(usual_kspace())))
    assert len(replies.kinds()) == 2
    assert "could not be told of image_made" in caplog.text


def test_an_address_that_is_taken_is_told(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = main(["serve", "--port", "0", "--classical-only", "--metrics", str(port)])
    assert code == 1
    assert f"metrics on 127.0.0.1:{port}: Address already in use" in capsys.readouterr().err
