"""The ISMRMRD v1 socket server: one thread a connection, one session a connection, and no connection can hold up another."""

from __future__ import annotations

import enum
import itertools
import logging
import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from edge_runtime.errors import EdgeRuntimeError, ProtocolError, ScanRefused, Truncated
from edge_runtime.links.live import (
    NOT_DURABLE,
    POLL_S,
    Ended,
    LiveScan,
    LiveScans,
    NotThatScan,
    Taken,
    digest_of,
    durable_name,
    wait_for_scanner,
)
from edge_runtime.links.mrd_header import parse_header
from edge_runtime.links.mrd_messages import (
    SAMPLE_BYTES,
    ConfigFile,
    ConfigText,
    HeaderText,
    Message,
    MessageReader,
    Text,
    WireLimits,
)
from edge_runtime.links.mrd_pack import pack_close, pack_text
from edge_runtime.links.mrd_sender import SLOWEST_BYTES_PER_S, Sender
from edge_runtime.links.recovery import recover
from edge_runtime.memory import Reservation, return_unused
from edge_runtime.profile import Profile
from edge_runtime.report import ScanReport
from edge_runtime.runtime import Runtime
from edge_runtime.scan import ReadoutBatch, ScanHeader
from edge_runtime.service.heart import Pulse
from edge_runtime.service.logs import of_scan
from edge_runtime.session import ONE_SCAN, State

log = logging.getLogger(__name__)

DEFAULT_PORT = 9002
RECEIVE_BUFFER_BYTES = 4 << 20
TIDYING_S = 0.5
"""How long a newcomer waits for a session that has said its last word and is putting its things away: a scanner that begins the
next scan at once must not be told that we are busy with the last."""

RETURN_MEMORY_S = 10.0
"""How long after the last scan the process keeps the memory that it took."""

AFTER_CLOSE_MS = 50
"""How long bytes are awaited that should not come, before a scanner's CLOSE is answered."""

LONGEST_READOUT = 2
"""Times the encoded matrix: how long a readout may be, such as one of noise, that is larger than the receive buffer."""


class MrdServer:
    """Listens, and runs a `Session` for every connection.

    Args:
        runtime: what sessions share.
        host: address to bind; the default is this machine alone.
        port: 0 takes a free one; `port` then says which.

    Raises:
        OSError: the address can't be bound.
    """

    def __init__(self, runtime: Runtime, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> None:
        self._runtime = runtime
        self._stop = threading.Event()
        self._slots = threading.BoundedSemaphore(runtime.profile.sessions)
        self._connections: set[threading.Thread] = set()
        self._numbers = itertools.count(1)
        self._scans = LiveScans()
        self._recovering = recover(runtime, self._scans, self._stop)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=32)
        self._listener.settimeout(POLL_S)
        self.host, self.port = self._listener.getsockname()[:2]
        self._rests_at = math.inf
        self.reports: deque[ScanReport] = deque(maxlen=KEPT_REPORTS)
        """Reports of the latest sessions, newest last."""

    def serve_forever(self) -> None:
        """Accepts connections until `stop`; returns when every session has ended."""
        pulse = self._runtime.heart.pulse("the accept loop")
        try:
            self._accept(pulse)
        finally:
            pulse.end()
            self._listener.close()
            for thread in (*self._connections, *self._recovering):
                thread.join()

    def _rest(self) -> None:
        """Once no scanner has come for a while, gives back what the last scans took; not at once, as the next one would have to
        fetch it anew, in the time that its image takes."""
        if self._connections:
            self._rests_at = time.monotonic() + RETURN_MEMORY_S
        elif time.monotonic() > self._rests_at:
            self._rests_at = math.inf
            return_unused()

    def _accept(self, pulse: Pulse) -> None:
        with pulse.working():
            while not self._stop.is_set():
                pulse.beat()
                try:
                    peer, address = self._listener.accept()
                except TimeoutError:
                    self._rest()
                    continue
                except OSError as error:  # out of descriptors, or the listener was closed
                    if self._stop.is_set():
                        break
                    log.error("accept failed: %s", error)
                    time.sleep(POLL_S)
                    continue
                self._admit(peer, f"{address[0]}:{address[1]}")

    @property
    def sessions(self) -> int:
        """Connections that are open, those that put their things away too."""
        return len(self._connections)

    @property
    def stopping(self) -> bool:
        """Whether no new connection is taken."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ends the server; sessions save what they have measured."""
        self._stop.set()

    def _admit(self, peer: socket.socket, address: str) -> None:
        if not self._slots.acquire(timeout=TIDYING_S):
            log.warning("%s refused: %d sessions are open", address, self._runtime.profile.sessions)
            with peer:
                peer.settimeout(POLL_S)
                try:
                    peer.sendall(
                        pack_text(f"error: busy: all {self._runtime.profile.sessions} sessions are taken")
                        + pack_close()
                    )
                    _linger(peer, POLL_S)
                except OSError:
                    log.debug("%s left before it was refused", address)
            return
        number, place = next(self._numbers), _Place(self._slots)
        self._rests_at = time.monotonic() + RETURN_MEMORY_S

        def run() -> None:
            try:
                report = _Connection(self._runtime, peer, address, self._stop, self._scans, place.give_back).run(number)
                if report is not None:
                    self.reports.append(report)
            except Exception:  # a defect of ours must not take the server down; it is logged whole
                log.exception("%s: session failed", address)
            finally:
                peer.close()
                place.give_back()
                self._connections.discard(threading.current_thread())
                if self._runtime.journal is not None:
                    self._runtime.journal.tidy()

        thread = threading.Thread(target=run, name=f"session-{number}", daemon=True)
        self._connections.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # out of threads
            log.error("%s refused: %s", address, error)
            self._connections.discard(thread)
            place.give_back()
            peer.close()


KEPT_REPORTS = 8


class _Place:
    """One of the places for sessions, taken; from any thread."""

    def __init__(self, places: threading.BoundedSemaphore) -> None:
        self._places = places
        self._giving = threading.Lock()

    def give_back(self) -> None:
        """For another session; once is enough."""
        if self._giving.acquire(blocking=False):
            self._places.release()


class _Outcome(enum.Enum):
    """What became of a connection's scan."""

    NEVER_BEGAN = enum.auto()
    ENDED = enum.auto()
    GOES_ON = enum.auto()  # over another connection, or after the server's next start


MOST_OPENING = 8
"""Configurations and headers by which a scanner may show that a scan is its own; a scan has two."""


@dataclass
class _Claim:
    """A scanner has named a scan, and is still to show that it is its own.

    Attributes:
        opening: digests of what it has shown.
    """

    name: str
    scan: LiveScan
    opening: list[bytes] = field(default_factory=list)


class _HasEnded(Exception):
    """The scan that a scanner has come back for."""

    def __init__(self, name: str, how: Ended) -> None:
        super().__init__(name)
        self.name, self.how = name, how


class _Connection:
    """Moves messages between a socket and a scan.

    Args:
        scans: durable ones, which outlive their connections.
        nobody_waits: called as soon as it is known that the scanner sends nothing more; its images may still be in the making then,
            and hold memory, but no place.
    """

    def __init__(
        self,
        runtime: Runtime,
        peer: socket.socket,
        address: str,
        stop: threading.Event,
        scans: LiveScans,
        nobody_waits: Callable[[], None],
    ) -> None:
        self._nobody_waits = nobody_waits
        self._runtime = runtime
        self._peer = peer
        self._address = address
        self._stop = stop
        self._scans = scans
        self._claim: _Claim | None = None
        self._header_due = time.monotonic() + runtime.profile.idle_timeout_s
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        peer.settimeout(POLL_S)
        self._inbox = Reservation(runtime.memory)
        self._waited_s = 0.0
        self._received_bytes = 0
        self._sender = Sender(peer, address, runtime.profile, runtime.memory)

    def run(self, number: int) -> ScanReport | None:
        """Serves one scan and returns its report; None where there is none to tell of: not a byte came, since somebody looked
        whether the port is open, or the scan goes on over another connection."""
        scan_id = _new_scan_id(self._runtime, number)
        with of_scan(scan_id):
            return self._run(LiveScan(self._runtime, scan_id))

    def _run(self, scan: LiveScan) -> ScanReport | None:
        self._scan = scan
        scan.line.attach(self._sender)
        outcome = _Outcome.NEVER_BEGAN
        try:
            if self._receive(memoryview(bytearray(1)), socket.MSG_PEEK):
                outcome = self._serve()
        except _Stalled as error:
            self._scan.line.text(f"error: {error}")
        except OSError:
            self._sender.give_up()
        finally:
            self._finish(outcome)
        if outcome is not _Outcome.ENDED:
            return None
        report = self._scan.session.report
        log.info(
            "%s: scan %s: %d readouts, %d images", self._address, report.scan_id, report.readouts, len(report.images)
        )
        return report

    def _serve(self) -> _Outcome:
        """From the first message to what the session says of the last."""
        limits = _limits(self._runtime.profile)
        try:
            self._inbox.require(limits.buffer_bytes)
            reader = MessageReader(self._receive, limits, check_image_lines=False)

            def begun(header: ScanHeader) -> None:
                limits = _limits(self._runtime.profile, header)
                self._inbox.require(limits.max_message_bytes)
                reader.accept(limits)
                self._header_due = math.inf

            for message in reader:
                if (name := durable_name(message)) is not None:
                    self._find(name)
                if self._claim is None:
                    self._scan.take_in(message, reader.wire, begun)
                else:
                    self._show(self._claim, message, begun)
                self._waited_s, self._received_bytes = 0.0, 0
            if not reader.closed_cleanly:
                return self._lost("the connection ended without CLOSE")
            self._scan.session.close()
            if reader.holds_more or self._more_comes():
                self._scan.line.text(f"error: {ProtocolError('message', 'bytes after CLOSE', ONE_SCAN)}")
        except Taken:
            return _Outcome.GOES_ON
        except _HasEnded as told:
            self._tell(told.name, told.how)
            return _Outcome.NEVER_BEGAN
        except Truncated as error:
            return self._lost(str(error), error)
        except ScanRefused as error:
            return self._refused(str(error), error)
        except EdgeRuntimeError as error:
            return self._refused(f"{type(error).__name__}: {error}", error)
        except _Stalled as error:
            return self._lost(str(error))
        except OSError as error:
            self._sender.give_up()
            return self._lost(f"the connection was lost: {error}")
        except Exception as error:  # a defect of ours: the scanner is told, and what was measured is saved
            log.exception("%s: session failed", self._address)
            self._scan.session.abort(f"internal error: {type(error).__name__}: {error}", error)
        return _Outcome.ENDED

    def _refused(self, reason: str, error: Exception) -> _Outcome:
        """What came is refused; a scan that is not this scanner's yet is left alone."""
        if self._claim is not None:
            self._scan.line.text(f"error: {reason}")
            return _Outcome.NEVER_BEGAN
        self._scan.session.abort(reason, error)
        return _Outcome.ENDED

    def _find(self, name: str) -> None:
        """A scanner wants its scan to outlive the connection, or has come back for it.

        Raises:
            ProtocolError: not the time for it.
            _HasEnded: it has come back too late.
        """
        if self._scan.session.state is not State.AWAIT_CONFIG or self._scan.name or self._claim is not None:
            raise ProtocolError("text", f"durable {name}", "before the configuration, and once")
        found = self._scans.claim(name, self._scan)
        if isinstance(found, Ended):
            raise _HasEnded(name, found)
        if found is not self._scan:
            self._claim = _Claim(name, found)

    def _show(self, claim: _Claim, message: Message, begun: Callable[[ScanHeader], None]) -> None:
        """A message by which a scanner shows that a scan is its own, and with the last of them goes on with it.

        Raises:
            ProtocolError, ScanRefused: it is not, or it can't be gone on with; nothing has happened to it.
            _HasEnded: it is over meanwhile.
            JournalError: not all of it is on disk any more.
        """
        if isinstance(message, Text):
            return
        if not isinstance(message, ConfigFile | ConfigText | HeaderText) or len(claim.opening) == MOST_OPENING:
            what = "ACQUISITION" if isinstance(message, ReadoutBatch) else type(message).__name__
            raise NotThatScan("message", what, "configuration and header again before anything else")
        claim.opening.append(digest_of(message))
        if not isinstance(message, HeaderText):
            return
        begun(parse_header(message.xml))
        if not claim.scan.take(claim.opening, self._runtime.profile.idle_timeout_s, self._stop):
            found = self._scans.claim(claim.name, self._scan)
            if isinstance(found, Ended):
                raise _HasEnded(claim.name, found)
            raise NotThatScan("durable", claim.name, "a scan that had begun; begin it anew")
        self._scan.session.withdraw()
        self._scan.release()
        self._scan, self._claim = claim.scan, None
        log.info("%s: scan %s is gone on with", self._address, claim.scan.session.report.scan_id)
        claim.scan.goes_on_with(lambda readouts: claim.scan.line.attach(self._sender, readouts))

    def _tell(self, name: str, how: Ended) -> None:
        self._scan.line.text(f"durable_through {how.durable}")
        if how.failed:
            self._scan.line.text(f"{NOT_DURABLE} {how.failed}")
        self._scan.line.text(f"note: scan {name} has ended; name another scan otherwise")

    def _lost(self, reason: str, error: Exception | None = None) -> _Outcome:
        """Nothing more comes over this connection. Waits for the scanner, where it asked for that; then closes the scan."""
        self._nobody_waits()
        scan = self._scan
        if self._claim is not None:
            return self._refused(reason, error or ProtocolError("connection", "", reason))
        if not scan.waits_for_its_scanner:
            scan.session.abort(reason, error)
            return _Outcome.ENDED
        self._sender.give_up()
        self._sender.put(pack_close())
        self._sender.finish()
        scan.line.detach(self._sender)
        return _Outcome.GOES_ON if wait_for_scanner(scan, reason, self._stop) else _Outcome.ENDED

    def _leave(self) -> None:
        """Another connection takes the scan over."""
        self._sender.give_up()
        self._scan.line.detach(self._sender)

    def _receive(self, buffer: memoryview, flags: int = 0) -> int:
        """`recv_into` that gives up when no message is completed for too long, in all before the header, or the server stops. Only
        waiting counts, and a message that has begun has the time that `SLOWEST_BYTES_PER_S` allows for what came of it.

        Raises:
            Taken: another connection goes on with the scan.
        """
        patience_s = self._runtime.profile.idle_timeout_s
        while True:
            if self._stop.is_set():
                raise _Stalled("the server is stopping")
            if self._scan.is_wanted and self._scan.let_go(self._leave):
                raise Taken
            late = self._waited_s >= patience_s + self._received_bytes / SLOWEST_BYTES_PER_S
            if late and not self._received_bytes:
                raise _Stalled(f"nothing was received for {patience_s:g} s")
            if time.monotonic() > self._header_due:
                raise _Stalled(f"no complete header came within {patience_s:g} s")
            if late:
                raise _Stalled(
                    f"no message was completed for {patience_s:g} s: {self._received_bytes} bytes came, fewer than "
                    f"{SLOWEST_BYTES_PER_S} a second"
                )
            began = time.monotonic()
            try:
                count = self._peer.recv_into(buffer, 0, flags)
            except TimeoutError:
                continue
            finally:
                self._waited_s += time.monotonic() - began
            self._received_bytes += count
            return count

    def _more_comes(self) -> bool:
        """Whether a scanner that has said CLOSE goes on; for a moment only, since most now wait for ours."""
        poll = select.poll()
        poll.register(self._peer, select.POLLIN)
        return bool(poll.poll(AFTER_CLOSE_MS)) and bool(self._peer.recv(1, socket.MSG_PEEK))

    def _finish(self, outcome: _Outcome) -> None:
        """Says CLOSE, and waits until the scanner has taken what was sent to it."""
        scan = self._scan
        if outcome is _Outcome.ENDED:
            self._scans.ended(scan, scan.close_journal(), begun=scan.begun)
        elif outcome is _Outcome.NEVER_BEGAN:
            scan.session.withdraw()
            self._scans.ended(scan, scan.close_journal(), begun=False)
        if outcome is not _Outcome.GOES_ON:
            self._sender.put(pack_close())
        self._sender.finish()
        self._inbox.release()
        if outcome is not _Outcome.GOES_ON:
            scan.release()
        try:
            _linger(self._peer, LINGER_S, self._stop)
        except OSError:
            log.debug("%s closed first", self._address)


def _new_scan_id(runtime: Runtime, number: int) -> str:
    """One that no folder of images and no journal has, whatever the clock was set to."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    for again in itertools.count(1):
        scan_id = f"{stamp}-{number:04d}" + (f"-{again}" if again > 1 else "")
        has_images = runtime.output is not None and (runtime.output / scan_id).exists()
        if not has_images and not (runtime.journal is not None and runtime.journal.has(scan_id)):
            return scan_id
    raise AssertionError("unreachable")


def _limits(profile: Profile, header: ScanHeader | None = None) -> WireLimits:
    """What is accepted in a scan with such a header; before there is one, what the receive buffer holds."""
    usual, granted = WireLimits(), profile.link_bytes
    buffer_bytes = min(usual.buffer_bytes, granted)
    samples = 0
    if header is not None:
        samples = LONGEST_READOUT * header.encoding.encoded.matrix[0] * (header.scanner.receiver_coils or 1)
    return replace(
        usual,
        max_text_bytes=min(usual.max_text_bytes, granted),
        max_message_bytes=min(max(buffer_bytes, SAMPLE_BYTES * samples), usual.max_message_bytes, granted),
        buffer_bytes=buffer_bytes,
    )


def _linger(peer: socket.socket, seconds: float, stop: threading.Event | None = None) -> None:
    """Reads what the scanner still sends, so that the kernel does not reset the connection and with it what we have sent.

    Raises:
        OSError: the connection is gone.
    """
    peer.shutdown(socket.SHUT_WR)
    scratch = bytearray(1 << 16)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (stop and stop.is_set()):
        try:
            if not peer.recv_into(scratch):
                return
        except TimeoutError:
            continue


LINGER_S = 2.0
"""How long a refused scanner's remaining bytes are thrown away before its connection is closed."""


class _Stalled(Exception):
    """The scanner was silent or slow for longer than the profile allows, or the server stops."""
