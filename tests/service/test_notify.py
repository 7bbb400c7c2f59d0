"""A service manager's view: a real datagram socket, and real servers that tell it how they are."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE_S, PROFILE, USUAL_LIMITS, Client
from simulated import readouts_of, scan_bytes, usual_kspace

from edge_runtime.service.heart import Heart
from edge_runtime.service.notify import Notifier, Watchdog, watchdog_interval_s

ROOT = Path(__file__).parents[2]
HUNG = Path(__file__).parent / "hung_server.py"


class Manager:
    """systemd's end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self._socket.settimeout(PATIENCE_S)

    def next(self) -> dict[str, str]:
        lines = self._socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def until(self, name: str) -> dict[str, str]:
        """The next message with a variable; what comes before is passed over."""
        deadline = time.monotonic() + PATIENCE_S
        while name not in (said := self.next()):
            assert time.monotonic() < deadline, f"no {name} came, but {said}"
        return said

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@edge-runtime-test-{os.getpid()}"
    with contextlib.closing(Manager(address)) as manager:
        yield manager


@contextlib.contextmanager
def server(manager: Manager, *command: str, watchdog_s: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    environment = {**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["port"]
        finally:
            process.kill()


def test_states_reach_the_manager(manager):
    notifier = Notifier(manager.address)
    notifier.ready("listening\non two lines")
    assert manager.next() == {"READY": "1", "STATUS": "listening on two lines"}
    notifier.alive()
    assert manager.next() == {"WATCHDOG": "1"}
    notifier.stopping("draining", 2.5)
    assert manager.next() == {"STOPPING": "1", "STATUS": "draining", "EXTEND_TIMEOUT_USEC": "2500000"}
    notifier.close()
    notifier.alive()  # nobody is told


@pytest.mark.parametrize("address", [None, "", "relative", "/nowhere/at/all"])
def test_without_a_manager_nothing_happens(address):
    Notifier(address).ready("listening")


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "much"}, None),
    ],
)
def test_the_interval_is_the_managers(environment, interval_s):
    assert watchdog_interval_s(environment) == interval_s


def test_the_feed_stops_while_something_is_stuck_and_goes_on_afterwards(manager):
    heart = Heart()
    pulse = heart.pulse("worker")
    watchdog = Watchdog(Notifier(manager.address), heart, 0.2)
    try:
        manager.until("WATCHDOG")
        with pulse.working():
            said = manager.until("STATUS")
            assert said["STATUS"].startswith("stuck: worker has made no progress")
        assert manager.until("STATUS")["STATUS"] == "progress again"
        manager.until("WATCHDOG")
    finally:
        watchdog.stop()


def test_an_idle_server_is_ready_fed_and_says_that_it_stops(tmp_path):
    with contextlib.closing(Manager(str(tmp_path / "notify"))) as manager:
        command = ("-m", "edge_runtime.cli", "serve", "--port", "0", "--json", "--classical-only")
        with server(manager, *command, watchdog_s=8) as (process, _):
            said = manager.until("READY")
            assert said["STATUS"].startswith("listening on 127.0.0.1:")
            for _ in range(2):
                manager.until("WATCHDOG")
            process.send_signal(signal.SIGTERM)
            said = manager.until("STOPPING")
            assert int(said["EXTEND_TIMEOUT_USEC"]) > 20e6
            assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("what", ["engine", pytest.param("session", marks=pytest.mark.full)])
def test_what_hangs_stops_the_feed(what, tmp_path, tiny_bundle, trust_folder):
    profile = tmp_path / "test.toml"
    profile.write_text(PROFILE.format(**USUAL_LIMITS))
    command = [str(HUNG), what, "serve", "--port", "0", "--json", "--profile", str(profile)]
    command += ["--bundle", str(tiny_bundle), "--trust", str(trust_folder)]
    with (
        contextlib.closing(Manager(str(tmp_path / "notify"))) as manager,
        server(manager, *command, watchdog_s=4) as (_, port),
        Client(port) as client,
    ):
        manager.until("WATCHDOG")
        client.send(scan_bytes(readouts_of(usual_kspace()), configuration="edge"))
        while not (said := manager.until("STATUS"))["STATUS"].startswith("stuck: "):
            pass
        assert ("reconstruct-0" if what == "engine" else "scan ") in said["STATUS"]
        manager._socket.settimeout(3)  # three times the feed's interval
        with pytest.raises(TimeoutError):
            manager.until("WATCHDOG")
