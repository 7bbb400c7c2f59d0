"""One simulated scanner, a process of its own: plays its protocol's scans and says what it saw, a line of JSON a scan.

    python -m edge_runtime.hil.bench.scanner < orders.json

Readouts leave at times fixed in advance, start + i × repetition time, so that a late one delays none after
it; so do scans with a pause between them. One thread does all: it
waits in ``select`` for the socket until shortly before a readout is due, taking whatever the server sends
meanwhile, and spins for the
rest (at most `MOST_SPIN_S`, since a spinning scanner takes a processor from a server on the same machine).
Latencies are counted from
the time at which a readout was *due*: a server that takes readouts late does not shorten its own times by it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from edge_runtime.hil.bench.record import MOST_TEXT, MOST_TEXTS, ImageSeen, ScanSeen
from edge_runtime.hil.bench.wire import (
    Answer,
    AnswerReader,
    CloseMessage,
    ImageMessage,
    Key,
    Script,
    TextMessage,
    WireError,
    pack_close,
    pack_config,
    read_script,
)

MOST_SPIN_S = 0.0005
RECEIVE_BYTES = 1 << 20
MOST_KEPT_BYTES = 1 << 30
"""Of a scan's images: pixels, attributes, and `IMAGE_BYTES` for each."""

IMAGE_BYTES = 1 << 14
MOST_LABEL = 100
"""Characters of what a server calls its images, that go into the report."""

LEAD_S = 0.05
"""Before the first readout's time: for the connection and the header."""

UNNAMED, FINAL, PREVIEW = "image", "final", "preview"
"""Method and completeness of images whose server says neither."""

EARLY = "early"
"""Completeness of an image that was called final before its last readout was due: it is none of the whole scan."""


@dataclass(frozen=True, slots=True)
class Step:
    """One scan of the orders; see `edge_runtime.hil.bench.protocol.ScanStep`.

    Attributes:
        readouts: that its file has.
    """

    name: str
    file: str
    readouts: int
    repetition_time_ms: float
    config: str
    pause_s: float

    @property
    def scan_s(self) -> float:
        """From the first readout to the end of the last."""
        return self.readouts * self.repetition_time_ms / 1000


@dataclass(frozen=True, slots=True)
class Orders:
    """What a scanner is to do; comes as JSON on the standard input.

    Attributes:
        scanner: its number.
        zero_s: the run's beginning on the monotonic clock, that all times are told from.
        start_s: since then: when the first scan begins.
        rounds: through the steps; None until ``end_s``.
        end_s: since the beginning: no scan begins later; None without end.
        attempts: at one scan whose connection is cut.
        spool: folder for pixels, each picture once.
        realtime: ask for the first-in-first-out scheduler.
        send_timeout_s, reply_timeout_s: for how long the server may take nothing, and be silent after the scan.
        answer_timeout_s: after the time at which a scan should have ended, however much is said meanwhile, it is given up.
    """

    scanner: int
    host: str
    port: int
    steps: tuple[Step, ...]
    zero_s: float
    start_s: float
    rounds: int | None
    end_s: float | None
    spool: str
    attempts: int = 1
    realtime: bool = False
    send_timeout_s: float = 60.0
    reply_timeout_s: float = 60.0
    answer_timeout_s: float = 300.0

    @property
    def most_silent_s(self) -> float:
        """For how long the scanner has nothing to tell at most, once it has begun."""
        longest_s = max(step.scan_s + step.pause_s for step in self.steps)
        return longest_s + self.send_timeout_s + self.answer_timeout_s

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


def parse_orders(text: str) -> Orders:
    """Orders from their JSON; they come from the bench."""
    raw = json.loads(text)
    return Orders(**{**raw, "steps": tuple(Step(**one) for one in raw["steps"])})


class _Lost(Exception):
    """The connection ended, or the server takes or says nothing any more."""


@dataclass
class _Seen:
    """What came, with the time of its last byte."""

    images: list[tuple[ImageMessage, float]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    kept_bytes: int = 0
    closed: bool = False


class Attempt:
    """One connection, from the configuration to CLOSE.

    Args:
        planned: when the first readout is due by the protocol's pace; None for as soon as may be.
    """

    def __init__(
        self, orders: Orders, step: Step, script: Script, number: int, attempt: int, planned: float | None = None
    ) -> None:
        self._orders, self._step, self._script = orders, step, script
        self._number, self._attempt = number, attempt
        self._reader = AnswerReader()
        self._seen = _Seen()
        self._sent = 0
        self._due: dict[Key, float] = {}
        self._lateness_us: list[int] = []
        self._held_up_s = 0.0
        soonest = time.perf_counter() + LEAD_S
        self._planned = soonest if planned is None else planned
        self._begins = max(soonest, self._planned)
        self._start = self._begins

    def run(self) -> ScanSeen:
        """Plays the scan; whatever goes wrong is in the result."""
        error = ""
        try:
            with self._connection() as peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer.setblocking(False)
                self._peer = peer
                self._play()
        except (WireError, _Lost) as problem:
            error = str(problem)
        except OSError as problem:
            error = f"the connection was lost: {problem.strerror or problem}"
        ended = time.perf_counter()
        if self._seen.closed and self._sent < len(self._script.readouts):
            error = error or "the server closed before the scan was sent"
        images = tuple(self._image(image, at) for image, at in self._seen.images)
        if any(image.completeness == EARLY for image in images):
            error = error or "an image was called final before its last readout was due"
        return ScanSeen(
            scanner=self._orders.scanner,
            number=self._number,
            attempt=self._attempt,
            name=self._step.name,
            planned_s=self._planned - self._orders.zero_s,
            started_s=self._start - self._orders.zero_s,
            duration_s=ended - self._start,
            readouts=len(self._script.readouts),
            sent=self._sent,
            expected=self._script.keys,
            images=images,
            lateness_us=tuple(self._lateness_us),
            held_up_s=self._held_up_s,
            overrun_s=max(0.0, ended - self.next_s, self._start - self._begins) if self._step.pause_s else 0.0,
            closed=self._seen.closed,
            error=error,
            texts=tuple(self._seen.texts),
        )

    @property
    def next_s(self) -> float:
        """When the next scan begins by the protocol's own pace: a pause after the last readout's time, not after the answer."""
        return self._planned + self._step.scan_s + self._step.pause_s

    def _patience(self, most_s: float) -> float:
        """Seconds for which the server may be waited for now: so many, and not beyond the scan's deadline."""
        answer_s = self._orders.answer_timeout_s
        left = self._start + self._step.scan_s + answer_s - time.perf_counter()
        if left <= 0:
            raise _Lost(f"{answer_s:g} s after the scan's end the server had not said CLOSE")
        return min(most_s, left)

    def _connection(self) -> socket.socket:
        host, port = self._orders.host, self._orders.port
        try:
            return socket.create_connection((host, port), self._orders.send_timeout_s)
        except OSError as problem:
            raise _Lost(f"no MRD server at {host}:{port}: {problem.strerror or problem}") from None

    def _play(self) -> None:
        self._send(pack_config(self._step.config) + self._script.header)
        interval = self._step.repetition_time_ms / 1000
        self._start = max(self._planned, time.perf_counter())
        last = {one.key: number for number, one in enumerate(self._script.readouts)}
        free_since = self._start
        for number, readout in enumerate(self._script.readouts):
            due = self._start + number * interval
            self._wait(due)
            if self._seen.closed:
                return
            # What the server held up before is not the scanner's own lateness.
            self._lateness_us.append(round(1e6 * max(0.0, time.perf_counter() - max(due, free_since))))
            if self._send(readout.message):
                free_since = time.perf_counter()
            if readout.key is not None and last[readout.key] == number:
                self._due[readout.key] = due
            self._sent += 1
        if not self._seen.closed:
            self._send(pack_close())
        self._hear_out()

    def _wait(self, due: float) -> None:
        """Until the time has come, taking what the server says; returns at once when it says CLOSE."""
        while not self._seen.closed:
            ahead = due - time.perf_counter() - MOST_SPIN_S
            if ahead <= 0:
                break
            if select.select([self._peer], [], [], ahead)[0]:
                self._take()
        while time.perf_counter() < due and not self._seen.closed:
            pass

    def _send(self, message: bytes) -> bool:
        """Hands a message to the socket; whether the server held it up."""
        view, began = memoryview(message), 0.0
        while view and not self._seen.closed:
            try:
                view = view[self._peer.send(view) :]
            except BlockingIOError:
                began = began or time.perf_counter()
                left = self._orders.send_timeout_s - (time.perf_counter() - began)
                readable, _, _ = select.select([self._peer], [self._peer], [], self._patience(max(0.0, left)))
                if readable:
                    self._take()
                if left <= 0:
                    raise _Lost(f"the server took nothing for {self._orders.send_timeout_s:g} s: it hangs") from None
        if began:
            self._held_up_s = max(self._held_up_s, time.perf_counter() - began)
        return bool(began)

    def _hear_out(self) -> None:
        patience = self._orders.reply_timeout_s
        while not self._seen.closed:
            allowed = self._patience(patience)
            if select.select([self._peer], [], [], allowed)[0]:
                self._take()
            elif allowed == patience:
                raise _Lost(f"the server said neither CLOSE nor anything else for {patience:g} s after the scan")

    def _take(self) -> None:
        try:
            data = self._peer.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise _Lost("the connection ended without the server's CLOSE")
        for answer in self._reader.feed(data):
            self._note(answer, time.perf_counter())

    def _note(self, answer: Answer, now: float) -> None:
        seen = self._seen
        if isinstance(answer, CloseMessage):
            seen.closed = True
        elif isinstance(answer, TextMessage):
            if len(seen.texts) < MOST_TEXTS:
                seen.texts.append(answer.text[:MOST_TEXT])
        else:
            seen.kept_bytes += len(answer.pixels) + len(answer.attributes) + IMAGE_BYTES
            if seen.kept_bytes > MOST_KEPT_BYTES:
                raise WireError(f"more than {MOST_KEPT_BYTES} bytes of images in one scan")
            seen.images.append((answer, now))

    def _image(self, image: ImageMessage, at: float) -> ImageSeen:
        said = {name: value[:MOST_LABEL] for name, value in meta_attributes(image.attributes).items()}
        due = self._due.get(image.key)
        if due is None and self._due and len(self._due) == len(self._script.keys):
            due = max(self._due.values())  # a server that does not number its images: they are of the whole scan
        whole = due is not None and at >= due
        completeness = said.get("EdgeCompleteness") or (FINAL if whole else PREVIEW)
        if completeness == FINAL and not whole:
            completeness = EARLY
        described = f"{image.shape} {image.pixel_type}".encode()
        digest = hashlib.sha256(described + image.pixels).hexdigest()
        path = Path(self._orders.spool) / f"{digest}.pixels"
        if not path.exists():
            partial = path.with_name(f"{path.name}.{self._orders.scanner}.partial")
            partial.write_bytes(image.pixels)
            partial.replace(path)
        return ImageSeen(
            key=image.key,
            method=said.get("EdgeMethod", UNNAMED),
            completeness=completeness,
            since_start_s=at - self._start,
            since_last_readout_s=at - due if due is not None else -1.0,
            shape=image.shape,
            pixel_type=image.pixel_type,
            digest=digest,
            bundle=said.get("EdgeBundleDigest", ""),
        )


def meta_attributes(xml: bytes) -> dict[str, str]:
    """The first value of every meta attribute of an image; none where it is no XML that may be read."""
    if not xml:
        return {}
    try:
        root = fromstring(xml)
    except (ParseError, DefusedXmlException, ValueError):
        return {}
    pairs = ((meta.findtext("name"), meta.findtext("value")) for meta in root.iter("meta"))
    return {name: value or "" for name, value in pairs if name}


def work(orders: Orders) -> None:
    """All scans of the orders, in turn."""
    scripts = {step.file: read_script(Path(step.file)) for step in orders.steps}
    gc.collect()
    gc.freeze()
    gc.disable()  # what a scan leaves is freed by counting; a collection in its midst would make a readout late
    number, done = 0, 0
    planned: float | None = None
    time.sleep(max(0.0, orders.zero_s + orders.start_s - time.perf_counter()))
    while orders.rounds is None or done < orders.rounds:
        for step in orders.steps:
            if orders.end_s is not None and time.perf_counter() >= orders.zero_s + orders.end_s:
                return
            for number_of_attempt in range(orders.attempts):
                attempt = Attempt(orders, step, scripts[step.file], number, number_of_attempt, planned)
                seen = attempt.run()
                print(seen.line(), flush=True)
                if seen.closed and not seen.error:
                    break
                planned = None
            number += 1
            gc.collect()
            # The pace is the plan's, so that what connections take does not add up. Without a pause there is none:
            # the next scan begins when this one is answered.
            planned = attempt.next_s if step.pause_s else None
            time.sleep(max(0.0, attempt.next_s - LEAD_S - time.perf_counter()))
        done += 1


def _realtime() -> str:
    """Asks for the first-in-first-out scheduler; says what became of it.

    At its lowest priority, or, where the whole bench was started with such a one, one above that: a server on the same machine that
    was started with it must not keep the scanner from its readouts.
    """
    try:
        started = os.sched_getparam(0).sched_priority if os.sched_getscheduler(0) == os.SCHED_FIFO else 0
        priority = min(started + 1, os.sched_get_priority_max(os.SCHED_FIFO))
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError) as error:
        return f"not granted: {error}"
    return f"SCHED_FIFO {priority}"


def main() -> int:
    """The process: orders on the standard input, a line a scan on the standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the bench ends its scanners itself
    orders = parse_orders(sys.stdin.read())
    if orders.realtime:
        print(json.dumps({"scheduler": _realtime()}), flush=True)
    try:
        work(orders)
    except WireError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
