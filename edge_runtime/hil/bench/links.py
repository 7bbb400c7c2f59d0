"""Bad links between scanner and server: slow and lossy ones by a network namespace, late and cut ones by a proxy of our own.

``delay=MS`` holds every byte back for so long, each way. ``cut=S`` resets every other connection so many
seconds after its first byte. Both
are done by a proxy, a process of its own. ``rate=MBIT`` (a token bucket, ``tc tbf``) and ``loss=PERCENT``
(packets dropped at random,
``nft numgen``), each way, are done by the kernel between two ends of a ``veth`` pair, one of them in a
namespace in which the scanners
run; they need root, ``ip``, ``tc`` and ``nft``.

    python -m edge_runtime.hil.bench.links LISTEN_HOST TARGET_HOST TARGET_PORT DELAY_MS CUT_S    # the proxy; prints its port
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_runtime.errors import BenchError

CHUNK_BYTES = 1 << 16
WAITING_CHUNKS = 4096
"""Held back by a delay, each way of a connection: 256 MB, then the sender waits."""

LOSS_STEPS = 1000
RATE_BURST = "64kb"
RATE_LATENCY = "300ms"
"""Of the token bucket: what may pass at once, and how long a packet may wait before it is dropped."""


@dataclass(frozen=True, slots=True)
class Link:
    """What lies between scanner and server; all zero for nothing."""

    delay_ms: float = 0.0
    cut_s: float = 0.0
    rate_mbit: float = 0.0
    loss_percent: float = 0.0

    @property
    def in_kernel(self) -> bool:
        return bool(self.rate_mbit or self.loss_percent)

    @property
    def good(self) -> bool:
        """Whether there is nothing in between."""
        return not (self.in_kernel or self.delay_ms or self.cut_s)

    def __str__(self) -> str:
        parts = [
            f"{self.delay_ms:g} ms later each way" if self.delay_ms else "",
            f"{self.rate_mbit:g} Mbit/s" if self.rate_mbit else "",
            f"{self.loss_percent:g} % of packets lost" if self.loss_percent else "",
            f"every other connection cut after {self.cut_s:g} s" if self.cut_s else "",
        ]
        return ", ".join(part for part in parts if part) or "nothing in between"


LIMITS = {"delay": 10_000.0, "cut": 3600.0, "rate": 100_000.0, "loss": 50.0}
NAMES = {"delay": "delay_ms", "cut": "cut_s", "rate": "rate_mbit", "loss": "loss_percent"}


def parse_link(text: str) -> Link:
    """``delay=MS,cut=S,rate=MBIT,loss=PERCENT``, each optional.

    Raises:
        ValueError: something else.
    """
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in LIMITS or NAMES[name] in values or not 0 < value <= LIMITS[name]:
            known = ", ".join(f"{name}= up to {most:g}" for name, most in LIMITS.items())
            raise ValueError(f"{part.strip()!r}: {known}, each once")
        values[NAMES[name]] = value
    return Link(**values)


@dataclass(frozen=True, slots=True)
class Way:
    """How scanners reach the server over the link.

    Attributes:
        prefix: of the command that starts a scanner, such as ``ip netns exec NAME``.
    """

    host: str
    port: int
    prefix: tuple[str, ...] = ()


@contextlib.contextmanager
def laid(link: Link, host: str, port: int) -> Iterator[Way]:
    """Lays the link to a server, and takes it away again.

    Raises:
        BenchError: it can't be laid here.
    """
    if link.good:
        yield Way(host, port)
        return
    with contextlib.ExitStack() as stack:
        listen, prefix = "127.0.0.1", tuple[str, ...]()
        if link.in_kernel:
            listen, prefix = stack.enter_context(_namespace(link))
        proxy_port = stack.enter_context(_proxy(listen, host, port, link))
        yield Way(listen, proxy_port, prefix)


@contextlib.contextmanager
def _proxy(listen: str, host: str, port: int, link: Link) -> Iterator[int]:
    orders = (listen, host, str(port), str(link.delay_ms), str(link.cut_s))
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_runtime.hil.bench.links", *orders], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BenchError(f"the proxy on {listen} to {host}:{port} did not start")
        yield int(line)
    finally:
        process.terminate()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def _namespace(link: Link) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A namespace whose only way out is the slow and lossy pair; yields the address of our end and the prefix of commands in it."""
    missing = [name for name in ("ip", "tc", "nft") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        why = f"{', '.join(missing)} not found" if missing else "it needs root"
        raise BenchError(f"--link {link}: no network namespace can be made here: {why}; delay= and cut= need neither")
    name, number = f"edgeb{os.getpid()}", os.getpid() % (1 << 14)
    ours, theirs = f"{name}a", f"{name}b"
    here, there = (f"10.213.{number >> 6}.{4 * (number & 63) + end}" for end in (1, 2))
    inside = ("ip", "netns", "exec", name)
    _do("ip", "netns", "add", name)  # one that is there already is another bench's, and stays
    try:
        _do("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        _do("ip", "addr", "add", f"{here}/30", "dev", ours)
        _do("ip", "link", "set", ours, "up")
        _do(*inside, "ip", "addr", "add", f"{there}/30", "dev", theirs)
        _do(*inside, "ip", "link", "set", theirs, "up")
        _do(*inside, "ip", "link", "set", "lo", "up")
        if link.rate_mbit:
            bucket = ("root", "tbf", "rate", f"{link.rate_mbit:g}mbit", "burst", RATE_BURST, "latency", RATE_LATENCY)
            _do("tc", "qdisc", "add", "dev", ours, *bucket)
            _do(*inside, "tc", "qdisc", "add", "dev", theirs, *bucket)
        if link.loss_percent:
            lost = max(1, round(link.loss_percent / 100 * LOSS_STEPS))
            _do(*inside, "nft", "add", "table", "inet", "edge")
            for hook in ("input", "output"):
                chain = ("{", "type", "filter", "hook", hook, "priority", "0", ";", "}")
                _do(*inside, "nft", "add", "chain", "inet", "edge", hook, *chain)
                rule = ("numgen", "random", "mod", str(LOSS_STEPS), "<", str(lost), "drop")
                _do(*inside, "nft", "add", "rule", "inet", "edge", hook, *rule)
        yield here, inside
    finally:
        # The pair goes with the namespace.
        for command in (("ip", "netns", "del", name), ("ip", "link", "del", ours)):
            subprocess.run(command, capture_output=True, check=False)


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


# ------------------------------------------------------------------------------------------------------------ the proxy


class _Pump:
    """One way of one connection: what comes goes on after the delay."""

    def __init__(self, source: socket.socket, sink: socket.socket, delay_s: float) -> None:
        self._source, self._sink, self._delay_s = source, sink, delay_s
        self._waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(WAITING_CHUNKS)
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._take, self._pass_on)]

    def _take(self) -> None:
        data = b"?"
        while data:
            try:
                data = self._source.recv(CHUNK_BYTES)
            except OSError:
                data = b""
            self._waiting.put((time.monotonic() + self._delay_s, data))

    def _pass_on(self) -> None:
        while True:
            due, data = self._waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not data:
                    self._sink.shutdown(socket.SHUT_WR)
                    return
                self._sink.sendall(data)
            except OSError:
                with contextlib.suppress(OSError):
                    self._source.shutdown(socket.SHUT_RD)
                return


def _serve(peer: socket.socket, target: tuple[str, int], delay_s: float, cut_s: float) -> None:
    with peer:
        try:
            server = socket.create_connection(target, timeout=10)
        except OSError:
            return
        with server:
            server.settimeout(None)
            for one in (peer, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pumps = [_Pump(peer, server, delay_s), _Pump(server, peer, delay_s)]
            threads = [thread for pump in pumps for thread in pump.threads]
            for thread in threads:
                thread.start()
            due = time.monotonic() + cut_s if cut_s else None
            while any(thread.is_alive() for thread in threads):
                if due is not None and time.monotonic() >= due:
                    for one in (peer, server):  # a reset, as a pulled plug looks to both in the end
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                time.sleep(0.02)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # connections are cut, as with any end of it


def main(arguments: Sequence[str]) -> int:
    """The proxy's process; it ends when its standard input does, as that of whoever started it."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    listen, host, port, delay_ms, cut_s = arguments
    with socket.create_server((listen, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        for number in itertools.count():
            peer, _ = listener.accept()
            cut = float(cut_s) if number % 2 == 0 else 0.0
            work = (peer, (host, int(port)), float(delay_ms) / 1000, cut)
            threading.Thread(target=_serve, args=work, daemon=True).start()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
