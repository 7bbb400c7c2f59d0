"""The ISMRMRD v1 socket server: one thread a connection, one session a connection, and no connection can hold up another."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import re
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone

from edge_runtime.errors import EdgeRuntimeError, ProtocolError, ScanRefused
from edge_runtime.links.mrd_header import parse_header
from edge_runtime.links.mrd_messages import (
    SAMPLE_BYTES,
    Close,
    ConfigFile,
    ConfigText,
    HeaderText,
    ImageMessage,
    Message,
    MessageReader,
    Text,
    Waveform,
    WireLimits,
)
from edge_runtime.links.mrd_pack import pack_close, pack_magnitude_image, pack_text
from edge_runtime.memory import MemoryBudget, Reservation, return_unused
from edge_runtime.profile import Profile
from edge_runtime.report import ScanReport
from edge_runtime.runtime import Runtime
from edge_runtime.scan import Completeness, Image, ReadoutBatch, ScanHeader
from edge_runtime.service.heart import Pulse
from edge_runtime.service.logs import of_scan
from edge_runtime.session import ONE_SCAN, Session

log = logging.getLogger(__name__)

DEFAULT_PORT = 9002
RECEIVE_BUFFER_BYTES = 4 << 20
POLL_S = 0.25
"""How often a waiting connection looks whether the server stops."""

TIDYING_S = 0.5
"""How long a newcomer waits for a session that has said its last word and is putting its things away: a scanner that begins the
next scan at once must not be told that we are busy with the last."""

RETURN_MEMORY_S = 10.0
"""How long after the last scan the process keeps the memory that it took."""

AFTER_CLOSE_MS = 50
"""How long bytes are awaited that should not come, before a scanner's CLOSE is answered."""

SLOWEST_BYTES_PER_S = 128 << 10
"""What must at least come of a message that a scanner has begun to send, or to take."""

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
            for thread in list(self._connections):
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
                report = _Connection(self._runtime, peer, address, self._stop, place.give_back).run(number)
                if report is not None:
                    self.reports.append(report)
            except Exception:  # a defect of ours must not take the server down; it is logged whole
                log.exception("%s: session failed", address)
            finally:
                peer.close()
                place.give_back()
                self._connections.discard(threading.current_thread())

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


class _Connection:
    """Moves messages between a socket and a session.

    Args:
        nobody_waits: called as soon as it is known that the scanner sends nothing more; its images may still be in the making then,
            and hold memory, but no place.
    """

    def __init__(
        self,
        runtime: Runtime,
        peer: socket.socket,
        address: str,
        stop: threading.Event,
        nobody_waits: Callable[[], None],
    ) -> None:
        self._nobody_waits = nobody_waits
        self._runtime = runtime
        self._peer = peer
        self._address = address
        self._stop = stop
        self._header_due = time.monotonic() + runtime.profile.idle_timeout_s
        self._simulated = False
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        peer.settimeout(POLL_S)
        self._inbox = Reservation(runtime.memory)
        self._waited_s = 0.0
        self._received_bytes = 0
        self._sender = _Sender(peer, address, runtime.profile, runtime.memory)

    def run(self, number: int) -> ScanReport | None:
        """Serves one scan and returns its report; None where not a byte came: somebody looked whether the port is open."""
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        scan_id = f"{stamp}-{number:04d}"
        with of_scan(scan_id):
            return self._run(Session(self._runtime, self, scan_id))

    def _run(self, session: Session) -> ScanReport | None:
        try:
            if not self._receive(memoryview(bytearray(1)), socket.MSG_PEEK):
                return None
            self._serve(session)
        except _Stalled as error:
            self.text(f"error: {error}")
            return None
        except OSError:
            self._sender.give_up()
            return None
        finally:
            self._finish(session)
        report = session.report
        log.info(
            "%s: scan %s: %d readouts, %d images", self._address, report.scan_id, report.readouts, len(report.images)
        )
        return report

    def _serve(self, session: Session) -> None:
        """From the first message to what the session says of the last."""
        limits = _limits(self._runtime.profile)
        try:
            self._inbox.require(limits.buffer_bytes)
            reader = MessageReader(self._receive, limits, check_image_lines=False)
            for message in reader:
                if isinstance(message, HeaderText):
                    self._begin(session, reader, parse_header(message.xml))
                else:
                    self._handle(session, message)
                self._waited_s, self._received_bytes = 0.0, 0
            if reader.closed_cleanly:
                session.close()
                if reader.holds_more or self._more_comes():
                    self.text(f"error: {ProtocolError('message', 'bytes after CLOSE', ONE_SCAN)}")
            else:
                self._nobody_waits()
                session.abort("the connection ended without CLOSE")
        except ScanRefused as error:
            session.abort(str(error), error)
        except EdgeRuntimeError as error:
            session.abort(f"{type(error).__name__}: {error}", error)
        except _Stalled as error:
            self._nobody_waits()
            session.abort(str(error))
        except OSError as error:
            self._nobody_waits()
            self._sender.give_up()
            session.abort(f"the connection was lost: {error}")
        except Exception as error:  # a defect of ours: the scanner is told, and what was measured is saved
            log.exception("%s: session failed", self._address)
            session.abort(f"internal error: {type(error).__name__}: {error}", error)

    def _begin(self, session: Session, reader: MessageReader, header: ScanHeader) -> None:
        session.begin(header)
        limits = _limits(self._runtime.profile, header)
        self._inbox.require(limits.max_message_bytes)
        reader.accept(limits)
        self._simulated = header.simulated
        self._header_due = math.inf

    def has_room(self, size_bytes: int) -> bool:
        """Whether so many bytes more may wait for a scanner that is slow to take its images."""
        return self._sender.has_room(size_bytes)

    def wait_for_room(self, size_bytes: int) -> None:
        """Returns when so many bytes more may wait, or none do."""
        self._sender.wait_for_room(size_bytes)

    def text(self, message: str) -> None:
        """Sends a text; a scanner that has gone is no error."""
        self._sender.put(pack_text(message))

    def image(self, image: Image, series: int, index: int) -> None:
        """Sends an image with its meta attributes."""
        attributes = attributes_of(image, simulated=self._simulated)
        self._sender.put(pack_magnitude_image(image, series, index, attributes))

    def _handle(self, session: Session, message: Message) -> None:
        if isinstance(message, ReadoutBatch):
            session.readouts(message)
        elif isinstance(message, ConfigFile):
            session.configure(_configuration_name(message.name))
        elif isinstance(message, ConfigText):
            session.configure(_configuration_name(message.text))
        elif isinstance(message, Text):
            log.info("%s sent a text of %d characters", self._address, len(message.text))  # words may be a patient's
        elif isinstance(message, Waveform):
            session.report.left_out["waveform"] = session.report.left_out.get("waveform", 0) + 1
        elif isinstance(message, ImageMessage):
            raise ProtocolError("message", "IMAGE", "this server reconstructs readouts; images are not accepted")
        elif not isinstance(message, Close):
            raise ProtocolError("message", type(message).__name__, "not expected from a scanner")

    def _receive(self, buffer: memoryview, flags: int = 0) -> int:
        """`recv_into` that gives up when no message is completed for too long, in all before the header, or the server stops. Only
        waiting counts, and a message that has begun has the time that `SLOWEST_BYTES_PER_S` allows for what came of it."""
        patience_s = self._runtime.profile.idle_timeout_s
        while True:
            if self._stop.is_set():
                raise _Stalled("the server is stopping")
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

    def _finish(self, session: Session) -> None:
        """Says CLOSE, and waits until the scanner has taken what was sent to it."""
        self._sender.put(pack_close())
        self._sender.finish()
        self._inbox.release()
        session.release()
        try:
            _linger(self._peer, LINGER_S, self._stop)
        except OSError:
            log.debug("%s closed first", self._address)


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


class _Sender:
    """Sends messages in the order they were given, from a thread of its own: a scanner that is slow to take its images holds up
    nobody but itself. Who makes images asks for room before, since `put` takes whatever it is given.

    Args:
        profile: says how long a scanner may take for a message, beside what `SLOWEST_BYTES_PER_S` allows for its size, before it
            has gone and nothing more is sent; and how much should wait.
        memory: where room for that is reserved.
    """

    def __init__(self, peer: socket.socket, address: str, profile: Profile, memory: MemoryBudget) -> None:
        self._peer = peer
        self._address = address
        self._patience_s = profile.send_timeout_s
        self._most_bytes = profile.link_bytes
        self._leaving_bytes = profile.share_bytes
        self._room = Reservation(memory)
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._held_bytes = 0
        self._gone = False
        self._complete = False
        self._thread = threading.Thread(target=self._work, name=f"{threading.current_thread().name}-send", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Adds a whole message, at once; a scanner that has gone is no error."""
        with self._changed:
            if not self._gone:
                self._waiting.append(data)
                self._held_bytes += len(data)
                self._changed.notify_all()

    def has_room(self, size_bytes: int) -> bool:
        """Reserves it, where there is. What waits alone, the session has room for."""
        needed_bytes = self._held_bytes + size_bytes
        return self._gone or (needed_bytes <= self._most_bytes and self._room.resize(needed_bytes, self._leaving_bytes))

    def wait_for_room(self, size_bytes: int) -> None:
        """Returns when there is room, when nothing waits, or when the scanner has gone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held_bytes or self.has_room(size_bytes))

    def give_up(self) -> None:
        """Sends nothing more."""
        with self._changed:
            self._gone = True
            self._waiting.clear()
            self._changed.notify_all()

    def finish(self) -> None:
        """Returns when all is sent, or the scanner has gone."""
        with self._changed:
            self._complete = True
            self._changed.notify_all()
        self._thread.join()
        self._room.release()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._complete or self._gone)
                if self._gone or not self._waiting:
                    return
                data = self._waiting.popleft()
            try:
                self._send(data)
            except OSError as error:
                log.warning("%s no longer takes what is sent to it: %s", self._address, error)
                self.give_up()
                return
            with self._changed:
                self._held_bytes -= len(data)
                self._changed.notify_all()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        deadline = time.monotonic() + self._patience_s + len(data) / SLOWEST_BYTES_PER_S
        while view:
            with contextlib.suppress(TimeoutError):
                view = view[self._peer.send(view) :]
            if view and (self._gone or time.monotonic() > deadline):
                raise TimeoutError(f"{len(view)} of a message's {len(data)} bytes were not taken in time")


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


def attributes_of(image: Image, *, simulated: bool) -> dict[str, str | list[str]]:
    """The meta attributes of an image: ISMRMRD's usual names, and ``Edge…`` for what only this runtime says."""
    comments = [image.method.label]
    if image.completeness is not Completeness.FINAL:
        comments.append(f"{image.completeness.value}: {image.measured_share:.0%} of phase encodes measured")
    attributes: dict[str, str | list[str]] = {
        "DataRole": ["Image"],
        "SeriesDescription": image.method.label,
        "ImageComments": "; ".join([*comments, *image.notes]),
        "ImageProcessingHistory": ["edge-runtime", image.method.value],
        "Keep_image_geometry": "1",
        "EdgeMethod": image.method.value,
        "EdgeCompleteness": image.completeness.value,
        "EdgeMeasuredShare": f"{image.measured_share:.4f}",
        "EdgeAcceleration": f"{image.acceleration:.3f}",
        "EdgeRuntime": image.provenance.runtime_version,
    }
    if simulated:
        attributes["EdgeSimulated"] = "1"
    if image.notes:
        attributes["EdgeNotes"] = list(image.notes)
    if image.provenance.bundle_digest:
        attributes["EdgeBundle"] = f"{image.provenance.bundle_name} {image.provenance.bundle_version}"
        attributes["EdgeBundleDigest"] = image.provenance.bundle_digest
        attributes["EdgePrecision"] = image.provenance.precision
    if image.provenance.degraded:
        attributes["EdgeDegraded"] = image.provenance.degraded
    if image.provenance.bundle_override:
        attributes["EdgeBundleOverride"] = image.provenance.bundle_override
    if image.evidence is not None:
        evidence = image.evidence
        attributes["EdgeFittedResidual"] = f"{evidence.fitted_residual:.6g}"
        if evidence.noise_floor is not None:
            attributes["EdgeNoiseFloor"] = f"{evidence.noise_floor:.6g}"
        if evidence.held_out_residual is not None:
            attributes["EdgeHeldOutResidual"] = f"{evidence.held_out_residual:.6g}"
        if evidence.held_out_rms is not None:
            attributes["EdgeHeldOutRms"] = f"{evidence.held_out_rms:.6g}"
        if evidence.learned_share is not None:
            attributes["EdgeLearnedShare"] = f"{evidence.learned_share:.3f}"
        if evidence.learned_share_source:
            attributes["EdgeLearnedShareSource"] = evidence.learned_share_source
    return attributes


def _configuration_name(name: str) -> str:
    """A configuration's name without the ``.xml`` that some clients append."""
    return re.sub(r"\.xml$", "", name.strip())
