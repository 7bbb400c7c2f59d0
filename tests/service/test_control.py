"""The control socket: whose it is, and what it makes of requests."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S

from edge_runtime.errors import ServiceError
from edge_runtime.service.control import MOST_LINE_BYTES, ControlServer, Say, ask


def count(request: Mapping[str, Any], say: Say) -> Mapping[str, Any]:
    for number in range(request["to"]):
        say({"progress": number})
    return {"done": True}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control"


@pytest.fixture
def control(path: Path) -> Iterator[ControlServer]:
    server = ControlServer(path, {"count": count})
    yield server
    server.close()


def raw(path: Path, data: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            return dict(json.loads(answer.readline()))


def test_a_request_is_answered_line_by_line(control, path):
    assert list(ask(path, {"do": "count", "to": 2})) == [{"progress": 0}, {"progress": 1}, {"done": True}]


def test_only_its_user_may_open_it(control, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "one line"),
        (b"{", "one line"),
        (b"{\n", "a JSON object"),
        (b"[]\n", "a JSON object"),
        (b"[" * 10_000 + b"\n", "a JSON object"),
        (b"\xff\n", "a JSON object"),
        (b"{}\n", "do: one of count"),
        (b'{"do": ["count"]}\n', "do: one of count"),
        (b'{"do": "count"}\n', "internal error"),
        (b" " * (MOST_LINE_BYTES + 1) + b"\n", "one line"),
    ],
)
def test_what_is_no_request_is_told_so(data, said, control, path):
    assert said in raw(path, data)["error"]
    assert list(ask(path, {"do": "count", "to": 0})) == [{"done": True}]


def test_a_server_that_was_killed_leaves_no_obstacle(control, path):
    control._stop.set()
    control._thread.join()
    control._listener.close()  # the file stays, as after kill -9
    assert path.exists()
    ControlServer(path, {}).close()
    assert not path.exists()


def test_a_server_that_lives_keeps_its_socket(control, path):
    with pytest.raises(ServiceError, match="another server listens there"):
        ControlServer(path, {})
    assert list(ask(path, {"do": "count", "to": 0})) == [{"done": True}]


def test_another_servers_socket_is_not_removed(control, path):
    path.unlink()
    other = ControlServer(path, {"count": count})
    control.close()
    assert list(ask(path, {"do": "count", "to": 0})) == [{"done": True}]
    other.close()


def test_what_is_no_socket_is_left_alone(path):
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ServiceError, match="something else is there"):
        ControlServer(path, {})
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_is_told(tmp_path):
    with pytest.raises(ServiceError, match="shorter path"):
        ControlServer(tmp_path / ("x" * 120), {})


def test_nobody_there_is_told(path):
    with pytest.raises(ServiceError, match="No such file"):
        list(ask(path, {"do": "count"}))
