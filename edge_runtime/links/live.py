"""A scan that goes on, whichever connection feeds it.

A scanner that begins its stream with the text ``durable <name>`` is told ``durable_through N`` whenever readouts have reached the
disk, N of them from the first on. When its connection breaks, the scan waits for it. It comes back with the same text,
configuration and header, is told N, and goes on with readout N + 1. One thread at a time feeds a scan: who comes takes it from
who has it, but only once it has shown, by configuration and header, that it is the scan's (`Claim`).

    measured, over a connection ──▶ the link breaks ──▶ it waits, at most grace_s ──▶ taken by the next connection
    read back after a restart  ──▶                      ”                       ──▶ or closed as incomplete
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_runtime.errors import JournalError, ProtocolError
from edge_runtime.journal.delivered import Delivered
from edge_runtime.journal.layout import Buffer, State
from edge_runtime.journal.writer import SCAN_BYTES, ScanJournal
from edge_runtime.links.mrd_header import parse_header
from edge_runtime.links.mrd_line import Line
from edge_runtime.links.mrd_messages import (
    Close,
    ConfigFile,
    ConfigText,
    HeaderText,
    ImageMessage,
    Message,
    Text,
    Waveform,
)
from edge_runtime.memory import Reservation
from edge_runtime.runtime import Runtime
from edge_runtime.scan import ReadoutBatch, ScanHeader
from edge_runtime.session import Session
from edge_runtime.session import State as SessionState

log = logging.getLogger(__name__)

_DURABLE = re.compile(r"durable ([A-Za-z0-9][A-Za-z0-9._-]{0,63})")

NOT_DURABLE = "not durable:"
"""Begins the text that a scanner gets in place of an acknowledgement."""

POLL_S = 0.25
"""How often a scan that waits looks whether the server stops."""

TAKE_POLL_S = 0.05
"""How often who waits for a scan looks whether it is over."""

REMEMBERED = 64
"""Scans that have ended and whose scanner may come back all the same, since it has not heard of it."""


def durable_name(message: Message) -> str | None:
    """Under which a scanner wants its scan to be durable; None where the message is another one.

    Raises:
        ProtocolError: a name that can't be one.
    """
    if not isinstance(message, Text) or not (message.text == "durable" or message.text.startswith("durable ")):
        return None
    found = _DURABLE.fullmatch(message.text.strip())
    if found is None:
        raise ProtocolError("text", message.text, "durable <name>: 1 to 64 of A-Z a-z 0-9 . _ -, the first no sign")
    return found[1]


class Taken(Exception):
    """Another connection has taken the scan."""


class NotThatScan(ProtocolError):
    """Who came can't go on with the scan that it names; the scan itself is sound."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A durable scan that has ended.

    Attributes:
        durable: readouts that are on disk.
        failed: why no more are; empty where all are.
    """

    durable: int
    failed: str = ""


class LiveScan:
    """A session, its journal, and the line to its scanner.

    Attributes:
        name: under which it is durable; empty where nobody asked.
        delivered: its images that were.
        begun: its header was taken; before that nothing is acknowledged.
    """

    def __init__(self, runtime: Runtime, scan_id: str) -> None:
        self.line = Line(runtime.profile.link_bytes)
        self.delivered = Delivered(self._mark)
        self.session = Session(runtime, self.line, scan_id, self.delivered)
        self.name = ""
        self.begun = False
        self._runtime = runtime
        self._journal: ScanJournal | None = None
        self._memory = Reservation(runtime.memory)
        self.over = threading.Event()
        """It has ended, and what is on disk of it will not change."""
        self._opening: list[bytes] = []  # digests of configuration and header
        self._unjournalled = runtime.journal is None
        self._handing_over, self._taking = threading.Lock(), threading.Lock()
        self._wanted, self._free = threading.Event(), threading.Event()

    # Messages

    def take_in(self, message: Message, wire: Sequence[Buffer], begun: Callable[[ScanHeader], None]) -> None:
        """A message of the scanner: to the journal, then to the session.

        Args:
            wire: the message's bytes.
            begun: told of the header, once the session has taken it.

        Raises:
            ScanRefused: see `Session`.
            JournalError: the scan can't be journalled and must be.
        """
        self._keep(message, wire)
        self.feed(message, begun)

    def feed(self, message: Message, begun: Callable[[ScanHeader], None]) -> None:
        """As `take_in`, for what the journal has."""
        session = self.session
        if isinstance(message, ReadoutBatch):
            session.readouts(message)
        elif isinstance(message, ConfigFile | ConfigText):
            self._opening.append(digest_of(message))
            session.configure(_configuration_name(message))
        elif isinstance(message, HeaderText):
            self._opening.append(digest_of(message))
            header = parse_header(message.xml)
            session.begin(header)
            self.begun = True
            self.line.simulated = header.simulated
            begun(header)
            self._promise()
        elif isinstance(message, Text):
            log.info(
                "scan %s: its scanner sent a text of %d characters", session.report.scan_id, len(message.text)
            )  # may be a patient's
        elif isinstance(message, Waveform):
            session.report.left_out["waveform"] = session.report.left_out.get("waveform", 0) + 1
        elif isinstance(message, ImageMessage):
            raise ProtocolError("message", "IMAGE", "this server reconstructs readouts; images are not accepted")
        elif not isinstance(message, Close):
            raise ProtocolError("message", type(message).__name__, "not expected from a scanner")

    # Journal

    def journal_with(self, journal: ScanJournal) -> None:
        """Goes on in a journal that a restart found."""
        self._journal = journal
        journal.on_failed = self._journal_failed

    def reserve_journal(self) -> None:
        """Memory for one that a restart found.

        Raises:
            JournalError: none is left.
        """
        if not self._memory.resize(SCAN_BYTES):
            raise JournalError(f"journal of scan {self.session.report.scan_id}: no memory is left for it")

    @property
    def is_journalled(self) -> bool:
        """Whether there is a file that it writes, or wrote until the disk failed."""
        return self._journal is not None

    def not_journalled(self, reason: str) -> None:
        """From here on, for whatever reason."""
        self._unjournalled = True
        self._journal_failed(reason)

    def _keep(self, message: Message, wire: Sequence[Buffer]) -> None:
        if self._unjournalled or isinstance(message, Close):
            return
        if self._journal is None:
            self._begin_journal()
        if self._journal is not None:
            self._journal.keep(wire, len(message) if isinstance(message, ReadoutBatch) else 0)

    def _begin_journal(self) -> None:
        folder = self._runtime.journal
        assert folder is not None
        try:
            self.reserve_journal()
            journal = folder.begin(self.session.report.scan_id)
        except JournalError as error:
            if folder.policy.required:
                raise
            self.not_journalled(str(error))
            return
        self._journal = journal
        journal.on_failed = self._journal_failed

    def _journal_failed(self, reason: str) -> None:
        self.session.remember(f"the scan is not journalled from here on: {reason}")
        if self.name:
            self.line.text(f"{NOT_DURABLE} {reason}")

    def _promise(self) -> None:
        """What a scanner waits for that asked for durability, before it sends readouts."""
        if not self.name:
            return
        if self._journal is None or self._journal.failed:
            self.line.text(f"{NOT_DURABLE} {self._journal.failed if self._journal else 'this server keeps no journal'}")
        else:
            self._journal.on_durable = self.line.acknowledge
            self.line.acknowledge(self._journal.durable)

    def _mark(self, text: str) -> None:
        if self._journal is not None:
            self._journal.mark(text)

    # Between connections

    @property
    def waits_for_its_scanner(self) -> bool:
        """Whether the scan outlives its connection."""
        journal = self._journal
        return bool(
            self.name and journal is not None and not journal.failed and self.session.state is SessionState.RECEIVING
        )

    @property
    def is_wanted(self) -> bool:
        """Whether another connection asks for it; who feeds it looks now and then."""
        return self._wanted.is_set()

    def let_go(self, leave: Callable[[], None] = lambda: None) -> bool:
        """From here on, who has asked for it feeds it; false where that one waits no more.

        Args:
            leave: takes the line's end away, before the other one can attach its own.
        """
        with self._handing_over:
            if self._wanted.is_set():
                leave()
                self._free.set()
            return self._free.is_set()

    def take(self, opening: Sequence[bytes], patience_s: float, stop: threading.Event) -> bool:
        """Takes it from who feeds it, for a scanner that shows that it is its own; false where it is over.

        Args:
            opening: `digest_of` the configuration and the header that came, in their order.

        Raises:
            NotThatScan: it began with others, can't be gone on with, or who feeds it does not let go in time. It is as it was.
        """
        until = time.monotonic() + patience_s
        while not (self.begun or self.over.wait(TAKE_POLL_S)):  # such as one that is still read back
            self._expect_patience(until, stop)
        if self.over.is_set():
            return False
        if list(opening) != self._opening:
            raise NotThatScan(
                "durable", self.name, "the configuration and header that it began with; name another scan otherwise"
            )
        if self._journal is None or self._journal.failed:
            reason = self._journal.failed if self._journal is not None else "no journal is kept of it"
            raise NotThatScan("durable", self.name, f"a scan that can be gone on with; of that one: {reason}")
        while not self._taking.acquire(timeout=TAKE_POLL_S):
            self._expect_patience(until, stop)
        try:
            self._wanted.set()
            while not (self._free.wait(TAKE_POLL_S) or self.over.is_set()):
                if stop.is_set() or time.monotonic() > until:
                    break
            with self._handing_over:
                taken = self._free.is_set()
                self._wanted.clear()
                self._free.clear()
            if not taken and not self.over.is_set():
                raise self._busy()
            return taken
        finally:
            self._taking.release()

    def _expect_patience(self, until: float, stop: threading.Event) -> None:
        if stop.is_set() or time.monotonic() > until:
            raise self._busy()

    def _busy(self) -> NotThatScan:
        return NotThatScan("durable", self.name, "a scan that nobody is busy with; try again")

    def goes_on_with(self, attach: Callable[[int], None]) -> None:
        """Tells who has taken it how much of it is on disk, which is then all that there is of it.

        Args:
            attach: of the line's new end; what was acknowledged before it is there is told to nobody.

        Raises:
            JournalError: not all is on disk; ``attach`` was told how much is.
        """
        assert self._journal is not None
        try:
            readouts = self._journal.flush()
        except JournalError:
            attach(self._journal.durable)
            raise
        attach(readouts)

    def wait(self, stop: threading.Event) -> bool:
        """For its scanner to come back; whether it did, or the server stops, before the policy's grace was over. A scan whose
        journal fails meanwhile can't be gone on with, and waits for nobody.
        """
        assert self._runtime.journal is not None
        until = time.monotonic() + self._runtime.journal.policy.grace_s
        while time.monotonic() < until and not stop.is_set() and self.waits_for_its_scanner:
            if self._wanted.wait(POLL_S):
                return True
        return stop.is_set()

    def suspend(self) -> None:
        """Leaves it open for the server's next start."""
        self.session.withdraw()
        if self._journal is not None:
            self._journal.abandon()
        self.release()

    def close_journal(self) -> Ended:
        """After the session has ended: names what became of the scan, and returns what is on disk of it. Of one that had not begun
        nothing is kept.
        """
        journal = self._journal
        if journal is None:
            return Ended(0, "no journal was kept of it")
        if not self.begun:
            journal.discard()
        else:
            journal.close(State.INCOMPLETE if self.session.report.error else State.FINISHED)
        return Ended(journal.durable, journal.failed)

    def release(self) -> None:
        """Gives back the scan's memory."""
        self.session.release()
        self._memory.release()


def wait_for_scanner(scan: LiveScan, reason: str, stop: threading.Event) -> bool:
    """Keeps a scan whose scanner has gone; whether it goes on: over another connection, or after the server's next start. Else its
    time is over, and it has ended with that reason."""
    log.warning("scan %s waits for its scanner: %s", scan.session.report.scan_id, reason)
    while scan.wait(stop):
        if not scan.is_wanted:
            scan.suspend()
            return True
        if scan.let_go():
            return True
    scan.session.abort(reason)
    return False


class LiveScans:
    """The durable scans of a server by name, and those that have ended; from any thread."""

    def __init__(self) -> None:
        self._scans: dict[str, LiveScan] = {}
        self._ended: dict[str, Ended] = {}
        self._changing = threading.Lock()

    def claim(self, name: str, scan: LiveScan) -> LiveScan | Ended:
        """The scan of a name: the one that has it, or how it ended; else it is from here on the given one's."""
        with self._changing:
            if name not in self._scans and name in self._ended:
                return self._ended[name]
            known = self._scans.setdefault(name, scan)
            if known is scan:
                scan.name = name
            return known

    def begin_again(self, name: str, scan: LiveScan) -> LiveScan:
        """The scan of a name, which is from here on the given one where no other has it: one that was interrupted, whatever had
        ended under that name before.
        """
        with self._changing:
            self._ended.pop(name, None)
            known = self._scans.setdefault(name, scan)
            if known is scan:
                scan.name = name
            return known

    def ended(self, scan: LiveScan, how: Ended, *, begun: bool) -> None:
        """It goes on no longer.

        Args:
            begun: its scanner was told something; it is remembered. Else that one begins anew.
        """
        with self._changing:
            if self._scans.get(scan.name) is scan:
                del self._scans[scan.name]
                if begun:
                    self._remember(scan.name, how)
        scan.over.set()

    def remember(self, name: str, how: Ended) -> None:
        """A scan that had ended before the server was started."""
        with self._changing:
            self._remember(name, how)

    def _remember(self, name: str, how: Ended) -> None:
        self._ended.pop(name, None)
        self._ended[name] = how
        while len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]


def digest_of(message: ConfigFile | ConfigText | HeaderText) -> bytes:
    content = message.xml if isinstance(message, HeaderText) else _configuration_name(message).encode()
    return hashlib.sha256(type(message).__name__.encode() + b"\0" + content).digest()


def _configuration_name(message: ConfigFile | ConfigText) -> str:
    """A configuration's name without the ``.xml`` that some clients append."""
    name = message.name if isinstance(message, ConfigFile) else message.text
    return re.sub(r"\.xml$", "", name.strip())
