"""Where the server is that scanners are played into: one of our own, any MRD server, or one that is started by ssh."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.limit import CpuLimit
from edge_runtime.hil.bench.sensors import listening_process

START_TIMEOUT_S = 180.0
"""A device may check its bundle and compile for so long before it listens."""

END_TIMEOUT_S = 30.0

LOOPBACK = "127.0.0.1"

OWN = "own"
"""No target given: a server of the bench's own, on this machine."""


@dataclass(frozen=True, slots=True)
class Address:
    """A target as it was given.

    Attributes:
        scheme: ``own``, ``tcp`` or ``ssh``.
        login: for ssh, ``user@host`` or ``host``.
        port: of the MRD server, or of ssh; None for ssh's own choice.
    """

    scheme: str
    host: str = ""
    port: int | None = None
    login: str = ""

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return {OWN: "a server of the bench's own", "tcp": f"{host}{port}", "ssh": f"ssh://{self.login}{port}"}[
            self.scheme
        ]


def parse_address(text: str | None) -> Address:
    """``HOST:PORT``, ``[V6]:PORT`` or ``ssh://[user@]host[:port]``.

    Raises:
        ValueError: neither; says what is expected.
    """
    if text is None:
        return Address(OWN)
    expected = f"{text!r}: HOST:PORT or ssh://[user@]host[:port]"
    try:
        parts = urlsplit(text if "://" in text else f"tcp://{text}")
        port = parts.port
    except ValueError:
        raise ValueError(expected) from None
    place = parts.netloc.rpartition("@")[2]  # as it was typed: ssh's configuration tells large letters from small ones
    host = place[1 : place.index("]")] if place.startswith("[") else place.partition(":")[0]
    # What is handed to ssh must not be taken for one of its options.
    sound = re.fullmatch(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*", host) and not parts.path.strip("/")
    if not sound or "?" in text or "#" in text or parts.password is not None or parts.scheme not in ("tcp", "ssh"):
        raise ValueError(expected)
    if parts.scheme == "tcp":
        if port is None or not port or parts.username:
            raise ValueError(expected)
        return Address("tcp", host, port)
    if parts.username is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", parts.username):
        raise ValueError(expected)
    return Address("ssh", host, port, f"{parts.username}@{host}" if parts.username else host)


@dataclass(frozen=True, slots=True)
class Target:
    """A server that listens.

    Attributes:
        host, port: where scanners reach it.
        output: where it keeps its reports, if they can be read from here.
        watch: the command that prints what its machine tells; None where nobody can ask it.
        metrics: where its metrics are, as seen from here; "" where it has none that are known of.
        notes: what a reader of the figures must know of the way there.
        profile: name of its hardware profile; "" where it does not say.
    """

    address: Address
    host: str
    port: int
    output: Path | None = None
    watch: tuple[str, ...] | None = None
    metrics: str = ""
    notes: tuple[str, ...] = ()
    profile: str = ""


@dataclass(frozen=True, slots=True)
class SshOptions:
    """How a server on another machine is started.

    Attributes:
        program: ``edge-runtime`` there.
        direct: the address that it listens on there and is reached at from here; "" for loopback there and a tunnel.
        options: for ssh itself, such as ``-i key``.
    """

    program: str = "edge-runtime"
    direct: str = ""
    options: tuple[str, ...] = ()


@contextlib.contextmanager
def opened(
    address: Address, serve: Sequence[str], ssh: SshOptions = SshOptions(), cpu_limit: float | None = None
) -> Iterator[Target]:
    """The target, started where it is to be and stopped at the end.

    Args:
        serve: more arguments for ``edge-runtime serve`` of a server that the bench starts.
        cpu_limit: processors that a server of the bench's own may use.

    Raises:
        BenchError: it can't be reached or started; says what it printed.
    """
    if address.scheme == "tcp":
        yield _given(address)
    elif address.scheme == "ssh":
        with _by_ssh(address, serve, ssh) as target:
            yield target
    else:
        with _own(serve, cpu_limit) as target:
            yield target


def _given(address: Address) -> Target:
    """A server that listens already. It is not tried out: to some servers a connection without a scan is one that failed."""
    assert address.port is not None
    here = _is_here(address)
    watch = watch_command(address.port) if here else None
    notes = () if here else ("its machine was not asked: processor, memory, temperature and power are not measured",)
    return Target(address, address.host, address.port, None, watch, notes=notes)


def _is_here(address: Address) -> bool:
    """Whether a host is this machine: what is sent there would leave from the address that it goes to. Nothing is sent."""
    try:
        (family, kind, protocol, _, name), *_ = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
        with socket.socket(family, kind, protocol) as to_there:
            to_there.connect(name)
            return bool(to_there.getpeername()[0] == to_there.getsockname()[0])
    except OSError as error:
        raise BenchError(f"no MRD server at {address}: {error.strerror or error}") from None


def watch_command(port: int) -> tuple[str, ...]:
    return (sys.executable, "-m", "edge_runtime.hil.bench.watch", "--port", str(port))


@contextlib.contextmanager
def _own(serve: Sequence[str], cpu_limit: float | None) -> Iterator[Target]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-bench-")))
        limit = stack.enter_context(CpuLimit(cpu_limit)) if cpu_limit is not None else None
        command = [
            sys.executable,
            "-m",
            "edge_runtime.cli",
            "serve",
            "--json",
            "--port",
            "0",
            "--out",
            str(folder),
            *serve,
        ]
        process = stack.enter_context(_running(command, "the server"))
        if limit is not None:
            limit.add(process.process_id)
        said = process.announcement()
        target = Address(OWN)
        notes = (f"held to {cpu_limit:g} of a processor by a control group",) if cpu_limit is not None else ()
        watch = watch_command(int(said["port"]))
        yield Target(
            target, said["host"], said["port"], folder, watch, notes=notes, profile=str(said.get("profile", ""))
        )


@contextlib.contextmanager
def _by_ssh(address: Address, serve: Sequence[str], ssh: SshOptions) -> Iterator[Target]:
    program = shutil.which("ssh")
    if program is None:
        raise BenchError(f"{address}: there is no ssh on this machine; install it, or start the server there yourself")
    base = [program, "-o", "BatchMode=yes", *ssh.options, *(["-p", str(address.port)] if address.port else [])]
    # ssh hands one line to the shell over there: every word is quoted for it.
    host = ssh.direct or LOOPBACK
    words = [ssh.program, "serve", "--json", "--port", "0", "--host", host, "--metrics", f"{LOOPBACK}:0", *serve]
    with contextlib.ExitStack() as stack:
        # With a terminal (-tt) the server over there gets a hangup when this side ends, and is not left behind.
        command = [*base, "-tt", address.login, "--", shlex.join(words)]
        said = stack.enter_context(_running(command, f"{address}: {ssh.program} serve")).announcement()
        there, profile = int(said["port"]), str(said.get("profile", ""))
        watch_words = [ssh.program, "bench", "watch", "--port", str(there)]
        watch = (*base, address.login, "--", shlex.join(watch_words))
        # Metrics are never opened to a network: they come through the tunnel, whichever way scans go.
        ports = [*([] if ssh.direct else [there]), int(said["metrics"]["port"])]
        tunnelled = stack.enter_context(_tunnel(base, address, ports))
        metrics = f"http://{LOOPBACK}:{tunnelled[-1]}/metrics"
        if ssh.direct:
            yield Target(address, ssh.direct, there, None, watch, metrics, profile=profile)
            return
        note = "through an ssh tunnel, whose time is in the figures; --direct ADDRESS goes without"
        yield Target(address, LOOPBACK, tunnelled[0], None, watch, metrics, (note,), profile)


@contextlib.contextmanager
def _tunnel(base: Sequence[str], address: Address, there: Sequence[int]) -> Iterator[list[int]]:
    """Forwards ports of loopback over there; yields those that they are reached at here."""
    here = [_free_port() for _ in there]
    ways = [
        word for near, far in zip(here, there, strict=True) for word in ("-L", f"{LOOPBACK}:{near}:{LOOPBACK}:{far}")
    ]
    command = [*base, "-N", "-o", "ExitOnForwardFailure=yes", *ways, address.login]
    with _running(command, f"{address}: the tunnel") as process:
        for port in here:
            _await_port(port, process)
        yield here


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


def _await_port(port: int, process: _Process) -> None:
    """Until somebody listens there. Nothing is connected: through a tunnel that would be a scan."""
    due = time.monotonic() + END_TIMEOUT_S
    while time.monotonic() < due:
        if listening_process(port) is not None:
            return
        if process.ended:
            break
        time.sleep(0.05)
    raise BenchError(f"{process.what} did not come up: {process.said()}")


class _Process:
    """A process of ours with what it says on either stream."""

    def __init__(self, command: Sequence[str], what: str) -> None:
        self.what = what
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
            )
        except OSError as error:
            raise BenchError(f"{what} can't be started: {error.strerror or error}") from None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="bench-server-output", daemon=True)
        self._reader.start()

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.decode("utf-8", "replace"))
        self._lines.put(None)

    def announcement(self) -> dict[str, Any]:
        """The JSON line with which a server says where it listens."""
        due, before = time.monotonic() + START_TIMEOUT_S, ""
        while (left := due - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                raise BenchError(f"{self.what} ended before it listened: {(before + self.said()).strip()[-1500:]}")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                said: dict[str, Any] = json.loads(line)
                if isinstance(said["host"], str) and isinstance(said["port"], int):
                    return said
            before = (before + line)[-1500:]
        raise BenchError(
            f"{self.what} did not say within {START_TIMEOUT_S:g} s where it listens: {before or self.said()}"
        )

    def said(self) -> str:
        """The end of what it complained of."""
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")[-1500:].strip()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(END_TIMEOUT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


@contextlib.contextmanager
def _running(command: Sequence[str], what: str) -> Iterator[_Process]:
    process = _Process(command, what)
    try:
        yield process
    finally:
        process.stop()
