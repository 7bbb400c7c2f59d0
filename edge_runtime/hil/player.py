"""A simulated scanner: plays a recorded scan to any MRD server, at the pace of a real one, and collects what comes
back.

The caller's thread sends; a second one receives all the while, so that a server may answer at any time. Readouts leave
at times fixed in advance (start + i × repetition time): a late one does not delay those after it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EdgeRuntimeError, ScanRefused
from edge_runtime.hil.plan import Order, reordered, undersampled
from edge_runtime.links.files.recording import Recording
from edge_runtime.links.mrd_header import format_header
from edge_runtime.links.mrd_messages import Close, ImageMessage, MessageReader, Text
from edge_runtime.links.mrd_pack import pack_close, pack_config_file, pack_header, pack_readouts, pack_text

MAX_REPLY_BYTES = 1 << 30
"""Pixels and text that are kept of what a server sends back."""

MAX_REPLIES = 100_000

_POLL_S = 0.1
"""How soon a waiting receiver notices that it should stop."""


@dataclass(frozen=True)
class PlayedText:
    """A text from the server, with the seconds since the first readout was due."""

    text: str
    since_start_s: float


@dataclass(frozen=True)
class PlayedImage:
    """An image from the server.

    Attributes:
        since_start_s: seconds since the first readout was due.
        since_last_readout_s: seconds since the scan's last readout was handed to the socket; negative for a preview.
    """

    message: ImageMessage
    since_start_s: float
    since_last_readout_s: float


@dataclass(frozen=True)
class Pacing:
    """How well the simulated scanner kept its own time: how late readouts were handed to the socket. Zero where
    unpaced."""

    max_lateness_ms: float = 0.0
    p99_lateness_ms: float = 0.0


@dataclass(frozen=True)
class PlayResult:
    """What became of a played scan.

    Attributes:
        readouts_sent: fewer than ``readout_count`` where the server closed early, for example because it refused the scan.
        closed_early: the server said CLOSE before the scan was sent.
        duration_s: from the first readout to the server's CLOSE.
        durable_through: how many readouts the server has said to be on its disk; None where it was not asked, or keeps no journal.
        connections: that it took; more than one where a durable scan was gone on with.
        forgotten: readouts that it said were on its disk, and had no more when the scan was gone on with.
    """

    texts: tuple[PlayedText, ...]
    images: tuple[PlayedImage, ...]
    readouts_sent: int
    readout_count: int
    closed_early: bool
    duration_s: float
    pacing: Pacing
    durable_through: int | None = None
    connections: int = 1
    forgotten: int = 0


class PlaybackError(EdgeRuntimeError):
    """The server can't be reached, vanished, fell silent or does not speak MRD.

    Attributes:
        result: what was sent and received until then; None where no connection was made.
    """

    def __init__(self, text: str, result: PlayResult | None = None) -> None:
        super().__init__(text)
        self.result = result


@dataclass(frozen=True)
class ReadoutsSent:
    """How far the scan is; an event for `play`'s ``on_event``."""

    sent: int
    of: int


@dataclass(frozen=True)
class Resumed:
    """A broken connection was made anew, and the scan goes on with the readout after those; an event for ``on_event``."""

    durable_through: int


Event = PlayedText | ImageMessage | ReadoutsSent | Resumed


def play(
    recording: Recording,
    host: str,
    port: int,
    *,
    config: str = "edge",
    repetition_time_ms: float | None = None,
    keep: npt.NDArray[np.bool_] | None = None,
    order: Order = "as recorded",
    connect_timeout_s: float = 10.0,
    send_timeout_s: float = 60.0,
    reply_timeout_s: float = 60.0,
    durable: str | None = None,
    resume_s: float = 60.0,
    on_event: Callable[[Event], None] | None = None,
) -> PlayResult:
    """Send a scan and wait for the server's CLOSE.

    Args:
        config: the configuration asked for.
        repetition_time_ms: time between readouts; None sends as fast as the server takes them.
        keep: phase encodes to play, see `edge_runtime.hil.plan.undersampled`.
        order: of the lines of a slice, see `edge_runtime.hil.plan.reordered`.
        send_timeout_s: how long the server may take nothing.
        reply_timeout_s: how long it may send nothing once the whole scan is sent.
        durable: a name of this scan alone, under which it goes on where the connection breaks: see docs/journal.md.
        resume_s: for how long a broken connection is tried again.
        on_event: told of texts, images and progress, from either thread but never from both at once. It holds up the thread
            that calls it.

    Raises:
        PlaybackError: see there.
        RecordingError: the recording is damaged.
        ValueError: a repetition time that isn't positive, or see `edge_runtime.hil.plan`.
    """
    if repetition_time_ms is not None and not 0 < repetition_time_ms < 3.6e6:
        raise ValueError(
            f"repetition_time_ms = {repetition_time_ms}: a positive time below an hour, or None for no pacing"
        )
    if keep is not None:
        recording = undersampled(recording, keep)
    recording = reordered(recording, order)
    opening = pack_config_file(config) + pack_header(format_header(recording.header))
    if durable is not None:
        opening = pack_text(f"durable {durable}") + opening
    where = f"{host}:{port}"
    playback = _Playback(where, recording, repetition_time_ms, reply_timeout_s, durable is not None, on_event)
    try:
        connection = socket.create_connection((host, port), timeout=connect_timeout_s)
    except OSError as error:
        raise PlaybackError(f"no MRD server at {where}: {error.strerror or error}") from None
    failure = playback.run(connection, opening, send_timeout_s)
    pause_s, until = FIRST_PAUSE_S, time.monotonic() + resume_s
    while failure and playback.may_resume and time.monotonic() < until:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        sent = playback.sent
        try:
            connection = socket.create_connection((host, port), timeout=connect_timeout_s)
        except OSError as error:
            failure = f"no MRD server: {error.strerror or error}"
            continue
        failure = playback.run(connection, opening, send_timeout_s)
        if playback.sent > sent:  # it gets on
            pause_s, until = FIRST_PAUSE_S, time.monotonic() + resume_s
    result = playback.result()
    if failure:
        raise PlaybackError(f"{where}: {failure}", result)
    return result


FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Between two tries to make a broken connection anew; each waits twice as long as the one before."""


@dataclass
class _Replies:
    """What the receiving thread collects; the sender reads it after that thread has ended."""

    texts: list[tuple[str, float]] = field(default_factory=list)
    images: list[tuple[ImageMessage, float]] = field(default_factory=list)
    size: int = 0
    closed_at: float | None = None
    error: str = ""
    listener_error: Exception | None = None


class _Playback:
    """One scan from its first byte to its last, over one connection, or one after the other."""

    def __init__(
        self,
        where: str,
        recording: Recording,
        repetition_time_ms: float | None,
        reply_timeout_s: float,
        durable: bool,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self._where = where
        self._recording = recording
        self._interval_s = None if repetition_time_ms is None else repetition_time_ms / 1000.0
        self._reply_timeout_s = reply_timeout_s
        self._on_event = on_event
        self._event_lock = threading.Lock()
        self._replies = _Replies()
        self._finished = threading.Event()  # the receiver has ended
        self._stop = threading.Event()  # it should end
        self._silent_since: float | None = None  # once the whole scan is sent: when the server last said something
        self._durable = durable
        self._answered = threading.Event()  # it has said from where on
        self._durable_through: int | None = None
        self._told_here = False  # over this connection
        self._forgotten = 0
        self._connections = 0
        self._lateness: list[float] = []
        self.sent = 0
        self._start = self._last_readout = time.perf_counter()

    @property
    def may_resume(self) -> bool:
        """Whether a server waits for the rest, as far as one can tell."""
        return self._durable and self._durable_through is not None and self._replies.listener_error is None

    def run(self, connection: socket.socket, opening: bytes, send_timeout_s: float) -> str:
        """Sends what is left of the scan over a connection, and closes it.

        Returns:
            What went wrong; empty where the server said CLOSE.
        """
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(send_timeout_s)
            self._connection = connection
            self._connections += 1
            self._replies.error, self._silent_since, self._told_here = "", None, False
            for event in (self._finished, self._stop, self._answered):
                event.clear()
            receiver = threading.Thread(target=self._receive, name="edge-hil-receiver", daemon=True)
            receiver.start()
            try:
                failure = self._send(opening)
                self._finished.wait()
            except BaseException:
                # A damaged recording, or Ctrl-C: end the stream where it is, which servers see as an aborted scan.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                raise
            finally:
                self._stop.set()
                receiver.join()
        replies = self._replies
        if replies.listener_error is not None:
            raise replies.listener_error
        if self._durable and not self._told_here:  # such as by a server that stops
            replies.closed_at = None
            return failure or "it closed without a word of what is durable"
        if replies.closed_at is None:
            return replies.error or failure or "the connection ended without CLOSE"
        return ""

    def _send(self, opening: bytes) -> str:
        """Send the whole scan, or as much as the server takes; returns what went wrong."""
        try:
            self._connection.sendall(opening)
            if self._connections == 1:
                self._start = self._last_readout = time.perf_counter()
            if self._durable and not self._begins_after_what_is_durable():
                return "it did not say which readouts are durable"
            for message, readouts in self._packed():
                if not self._wait_until_due():
                    return "it closed before the scan was sent"
                self._connection.sendall(message)
                self._last_readout = time.perf_counter()
                self.sent += readouts
                self._tell(ReadoutsSent(self.sent, self._recording.readout_count))
            if not self._finished.is_set():
                self._connection.sendall(pack_close())
        except TimeoutError:
            self._stop.set()
            return f"it took nothing for {self._connection.gettimeout():g} s, {self.sent} readouts were sent: it hangs"
        except OSError as error:
            # Its reasons may still be on their way to the receiver, which ends by itself now.
            self._silent_since = time.perf_counter()
            sent = f"{self.sent} of {self._recording.readout_count} readouts"
            return f"it vanished after {sent} ({error.strerror or error})"
        self._silent_since = time.perf_counter()
        return ""

    def _begins_after_what_is_durable(self) -> bool:
        """Waits until the server has said how much of the scan it has, and goes on from there."""
        self._silent_since = time.perf_counter()
        self._answered.wait()
        self._silent_since = None
        if not self._durable:  # it keeps no journal
            return True
        if not self._told_here or self._durable_through is None:
            return False
        self.sent = self._durable_through
        if self._connections > 1 or self.sent:  # on its first connection, where an earlier player was stopped
            self._tell(Resumed(self.sent))
        return True

    def _packed(self) -> Iterator[tuple[bytes, int]]:
        """Messages to send at once, with the number of their readouts: one where paced, a batch where not."""
        before, begin = 0, self.sent
        for batch in self._recording.readouts():
            step = len(batch) if self._interval_s is None else 1
            known = min(max(0, begin - before), len(batch))
            before += len(batch)
            for first in range(known, len(batch), step):
                yield pack_readouts(batch[first : first + step]), min(step, len(batch) - first)

    def _wait_until_due(self) -> bool:
        """Wait for the next readout's time; False where the server has closed meanwhile."""
        if self._interval_s is None:
            return not self._finished.is_set()
        due = self._start + self.sent * self._interval_s
        ahead = due - time.perf_counter()
        closed = self._finished.wait(ahead) if ahead > 0 else self._finished.is_set()
        if not closed:
            self._lateness.append(time.perf_counter() - due)
        return not closed

    def _receive(self) -> None:
        replies = self._replies
        reader = MessageReader(self._receive_into)
        try:
            for message in reader:
                now = time.perf_counter()
                if isinstance(message, Close):
                    replies.closed_at = now
                elif isinstance(message, Text):
                    if self._is_acknowledgement(message.text):
                        continue
                    replies.texts.append((message.text, now))
                    replies.size += len(message.text)
                    self._tell(PlayedText(message.text, now - self._start))
                elif isinstance(message, ImageMessage):
                    replies.images.append((message, now))
                    replies.size += message.pixels.nbytes + len(message.attributes)
                    self._tell(message)
                if replies.size > MAX_REPLY_BYTES or len(replies.texts) + len(replies.images) > MAX_REPLIES:
                    replies.error = f"it sent more than {MAX_REPLY_BYTES} bytes or {MAX_REPLIES} messages"
                    break
        except ScanRefused as error:
            replies.error = f"what it sent is no MRD: {error}"
        except TimeoutError as error:
            replies.error = str(error)
        except OSError as error:
            replies.error = f"it vanished ({error.strerror or error})"
        except Exception as error:  # of on_event: it belongs to the caller
            replies.listener_error = error
        finally:
            self._finished.set()
            self._answered.set()

    def _is_acknowledgement(self, text: str) -> bool:
        """Takes note of what the server says of its journal; other texts are the caller's."""
        if not self._durable:
            return False
        word, _, number = text.partition(" ")
        if word == "durable_through" and number.isdecimal():
            self._forgotten += max(0, (self._durable_through or 0) - int(number))
            self._durable_through, self._told_here = int(number), True
            self._answered.set()
            return True
        if text.startswith("not durable:"):
            self._durable_through, self._durable = None, False
            self._answered.set()
        return False

    def _receive_into(self, buffer: memoryview) -> int:
        while not self._stop.is_set():
            ready, _, _ = select.select([self._connection], [], [], _POLL_S)
            if ready:
                count = self._connection.recv_into(buffer)
                if self._silent_since is not None:
                    self._silent_since = time.perf_counter()
                return count
            since = self._silent_since
            if since is not None and time.perf_counter() - since > self._reply_timeout_s:
                raise TimeoutError(
                    f"it sent no CLOSE and nothing else for {self._reply_timeout_s:g} s after the scan; "
                    f"{len(self._replies.images)} images came before"
                )
        return 0

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            with self._event_lock:
                self._on_event(event)

    def result(self) -> PlayResult:
        """What was sent and received so far."""
        replies = self._replies
        count = self._recording.readout_count
        late = np.asarray(self._lateness or [0.0]) * 1000.0
        end = replies.closed_at if replies.closed_at is not None else time.perf_counter()
        return PlayResult(
            texts=tuple(PlayedText(text, at - self._start) for text, at in replies.texts),
            images=tuple(PlayedImage(image, at - self._start, at - self._last_readout) for image, at in replies.images),
            readouts_sent=self.sent,
            readout_count=count,
            closed_early=replies.closed_at is not None and self.sent < count,
            duration_s=end - self._start,
            pacing=Pacing(float(late.max()), float(np.percentile(late, 99))) if self._lateness else Pacing(),
            durable_through=self._durable_through,
            connections=self._connections,
            forgotten=self._forgotten,
        )
