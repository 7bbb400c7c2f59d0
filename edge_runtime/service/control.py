"""The socket by which the machine's owner speaks to a running server: a file that only its user can open.

One JSON object a line each way; a connection is one request. ``{"do": "status"}`` is answered with a line; ``{"do": "swap",
…}`` with a line a step and one at the end, which has ``done`` or ``error``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edge_runtime.errors import EdgeRuntimeError, ServiceError

log = logging.getLogger(__name__)

MOST_LINE_BYTES = 1 << 16
MOST_REQUESTS = 4
"""At once."""

REQUEST_S = 5.0
"""How long a request may take to arrive, and each line of an answer to be taken."""

Say = Callable[[Mapping[str, Any]], None]
"""Sends one line of the answer."""

Handler = Callable[[Mapping[str, Any], Say], Mapping[str, Any]]
"""Takes a request, may say how far it is, and returns the last line."""

LONGEST_PATH_BYTES = 107
"""Of a unix socket, on Linux."""


class ControlServer:
    """Listens on a path until `close`.

    Args:
        handlers: by what is to be done.

    Raises:
        ServiceError: the path is in use by another server, or can't be used.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._places = threading.BoundedSemaphore(MOST_REQUESTS)
        self._stop = threading.Event()
        self._listener = _listen(path)
        self._file = _identity(path)
        self._thread = threading.Thread(target=self._work, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._listener.close()
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._file:  # and not one that another server has put there
                self._path.unlink()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                peer, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                log.error("control socket: %s", error.strerror or error)
                self._stop.wait(1.0)
                continue
            if not self._places.acquire(blocking=False):
                peer.close()
                continue
            threading.Thread(target=self._serve, args=(peer,), name="control-request", daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer:
                peer.settimeout(REQUEST_S)
                if not _may_ask(peer):
                    return

                def say(line: Mapping[str, Any]) -> None:
                    peer.sendall(json.dumps(line).encode() + b"\n")

                say(self._answer(peer, say))
        except OSError as error:  # who asked has gone
            log.debug("control socket: %s", error)
        finally:
            self._places.release()

    def _answer(self, peer: socket.socket, say: Say) -> Mapping[str, Any]:
        try:
            request = _request(peer)
            handler = self._handlers.get(str(request.get("do")))
            if handler is None:
                return {"error": f"do: one of {', '.join(self._handlers)} is expected"}
            return handler(request, say)
        except EdgeRuntimeError as error:
            return {"error": str(error)}
        except OSError:
            raise
        except Exception as error:
            log.exception("control socket: a request failed")
            return {"error": f"internal error: {type(error).__name__}: {error}"}


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_ctime_ns  # numbers of files are used again


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > LONGEST_PATH_BYTES:
        raise ServiceError(
            f"control socket {path}: at most {LONGEST_PATH_BYTES} bytes are possible; choose a shorter path"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        before = os.umask(0o177)  # the file must not exist for a moment with other rights
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        path.chmod(0o600)
        listener.listen(MOST_REQUESTS)
    except OSError as error:
        listener.close()
        raise ServiceError(f"control socket {path}: {error.strerror or error}") from None
    except ServiceError:
        listener.close()
        raise
    listener.settimeout(0.25)
    return listener


def _clear(path: Path) -> None:
    """Removes what a server left that was killed; one that lives keeps its own."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise ServiceError(f"control socket {path}: something else is there; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ServiceError(f"control socket {path}: {error.strerror or error}") from None
    raise ServiceError(f"control socket {path}: another server listens there")


def _may_ask(peer: socket.socket) -> bool:
    """This server's own user, and root; whatever became of the file's mode."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user = struct.unpack("3i", credentials)[1]
    return user in (0, os.geteuid())


def _request(peer: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n"):
        more = peer.recv(MOST_LINE_BYTES)
        data += more
        if not more or len(data) > MOST_LINE_BYTES:
            raise ServiceError(f"a request: one line of at most {MOST_LINE_BYTES} bytes is expected")
    try:
        request = json.loads(data)
    except (ValueError, RecursionError):
        raise ServiceError("a request: a JSON object is expected") from None
    if not isinstance(request, dict):
        raise ServiceError("a request: a JSON object is expected")
    return request


def ask(path: Path, request: Mapping[str, Any], patience_s: float | None = None) -> Iterator[dict[str, Any]]:
    """The lines that a server answers, as they come; the last one has ``done`` or ``error``.

    Args:
        patience_s: how long a line may be awaited; ``None`` for ever.

    Raises:
        ServiceError: no server listens there, or it went away.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(patience_s)
        try:
            connection.connect(os.fspath(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answer:
                last: dict[str, Any] = {}
                while line := answer.readline(MOST_LINE_BYTES):
                    last = json.loads(line)
                    yield last
        except TimeoutError:
            raise ServiceError(f"{path}: the server has not answered for {patience_s:g} s") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ServiceError(
                f"{path}: {reason}: does a server run with --control {path}, and as this user?"
            ) from None
    if not ("done" in last or "error" in last):
        raise ServiceError(f"{path}: the server ended, or is busy with {MOST_REQUESTS} other requests")
