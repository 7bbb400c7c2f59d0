"""Works an outbox off: one thread for each connection to each destination, so that none waits for another's.

Each round of a thread asks what was sent and not confirmed, then claims what is due and hands it to the courier. What a round
could not do waits: for the destination as a whole where the connection failed, for one object where the destination refused it, for
the hours in which the destination is sent to. The first two waits do not end because somebody sets the clock.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from edge_runtime.delivery.configuration import DeliverySettings, Destination
from edge_runtime.delivery.destinations.courier import Courier
from edge_runtime.delivery.destinations.ways import confirm, courier_for
from edge_runtime.delivery.outbox.backoff import delay_s
from edge_runtime.delivery.outbox.processes import this_process
from edge_runtime.delivery.outbox.retention import purge
from edge_runtime.delivery.outbox.states import State, Urgency
from edge_runtime.delivery.outbox.store import Delivery, Failed, Lost, Outbox, Outcome, Sent, Untried
from edge_runtime.errors import DeliveryError, DestinationError, OutboxError

log = logging.getLogger(__name__)

LEASE_S = 600.0
"""How long what a sender claimed stays its own without a sign of life."""

CLAIM = 32
"""Objects that are claimed at once."""

POLL_S = 2.0
"""How long a thread waits at most until it looks again: other processes put objects in, too."""

WRITE_DOWN_S = 0.5
"""How long answers are gathered before they are written down; after a crash those objects are sent again."""

GRACE_S = 30.0
"""How long a destination may take until what it has taken can be found there."""

ASK_AGAIN_S = 5.0

MOST_ASKED = 500
"""Objects in one request for confirmation."""

TIDY_S = 60.0


@dataclass
class Tally:
    """What a sender has done; for people and tests."""

    sent: int = 0
    committed: int = 0
    failed: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


class Sender:
    """Works an outbox off until it is told to stop, or until nothing more can be done now.

    Args:
        courier_of: makes the courier of a destination; tests give their own.
    """

    def __init__(
        self,
        settings: DeliverySettings,
        outbox: Outbox,
        *,
        courier_of: Callable[[Destination], Courier] | None = None,
        seed: int | None = None,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._courier_of = courier_of or (lambda one: courier_for(settings.device, one, outbox))
        self._draw = random.Random(seed)
        self._stop = threading.Event()
        self._wake: list[threading.Event] = []
        self._threads: list[threading.Thread] = []
        self.tally = Tally()

    def start(self) -> None:
        """Starts the threads.

        Raises:
            DeliveryConfigurationError: something is not installed that a destination needs.
        """
        work: list[tuple[str, Callable[[threading.Event], None]]] = [("delivery-tidy", self._tidy)]
        for destination in self._settings.destinations:
            for number in range(destination.pace.associations):
                lane = _Lane(
                    self._outbox, destination, self._courier_of(destination), number, self._draw, self._stop, self.tally
                )
                work.append((f"delivery-{destination.name}-{number}", lane.run))
        for name, run in work:
            wake = threading.Event()
            self._wake.append(wake)
            self._threads.append(threading.Thread(target=run, args=(wake,), name=name, daemon=True))
        for thread in self._threads:
            thread.start()

    def notify(self) -> None:
        """There may be something new."""
        for wake in self._wake:
            wake.set()

    def stop(self) -> None:
        """Ends the threads after the object that each is at; a connection that hangs is given up in its own time."""
        self._stop.set()
        self.notify()

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits for the threads; whether all have ended."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _tidy(self, wake: threading.Event) -> None:
        swept = False
        while not self._stop.is_set():
            try:
                if not swept:
                    self._outbox.sweep()
                    swept = True
                purge(self._outbox, self._settings)
            except DeliveryError as error:
                log.error("%s", error)
            self._outbox.time.clock.wait(wake, TIDY_S)
            wake.clear()


class _Lane:
    """One connection's worth of work for one destination."""

    def __init__(
        self,
        outbox: Outbox,
        destination: Destination,
        courier: Courier,
        number: int,
        draw: random.Random,
        stop: threading.Event,
        tally: Tally,
    ) -> None:
        self._outbox = outbox
        self._destination = destination
        self._courier = courier
        self._owner = f"{this_process()}/{destination.name}-{number}"
        self._asks = number == 0
        self._draw = draw
        self._stop = stop
        self._tally = tally
        self._unfinished: tuple[_Ledger, _Turn] | None = None

    def run(self, wake: threading.Event) -> None:
        clock = self._outbox.time.clock
        while not self._stop.is_set():
            wait_s = POLL_S
            try:
                wait_s = self.round()
            except OutboxError as error:  # a full disk, most likely; what was not written down is sent again
                log.error("%s", error)
            except Exception:
                log.exception("destination %s", self._destination.name)
            if wait_s > 0:
                clock.wait(wake, wait_s)
                wake.clear()

    def round(self) -> float:
        """Does what can be done now; returns how long to wait until there may be more, 0 where there is."""
        name = self._destination.name
        self._finish()
        self._outbox.recover()
        line = self._outbox.line(name)
        resting_s = line.not_before_s - self._outbox.time.now_s()
        if resting_s > 0:
            return min(resting_s, POLL_S)
        if self._asks and self._destination.confirm != "none":
            self._confirm()
        least = Urgency.ROUTINE
        if not self._is_open():
            if not self._destination.pace.emergency_any_time:
                return POLL_S
            least = Urgency.EMERGENCY
        claimed = self.claim(self._destination.pace.batch, least)
        if not claimed:
            return POLL_S
        return self._send(claimed, least)

    def claim(self, most: int, least: Urgency) -> list[Delivery]:
        """The next few objects; no more than this connection's share, so that the others of the destination find some, too."""
        name, connections = self._destination.name, self._destination.pace.associations
        share = -(-self._outbox.due(name, least, most=CLAIM * connections) // connections)
        return self._outbox.claim(name, self._owner, most=min(most, max(1, share)), lease_s=LEASE_S, least=least)

    def _rest_s(self) -> float:
        return min(POLL_S, max(0.0, self._outbox.line(self._destination.name).not_before_s - self._outbox.time.now_s()))

    def _is_open(self) -> bool:
        return self._destination.pace.windows.open_at(self._outbox.time.clock.local())

    def _send(self, claimed: list[Delivery], least: Urgency) -> float:
        """Sends over one connection; returns how long to wait until there may be more."""
        ledger = _Ledger(self._outbox, self._destination, self._owner, self._draw, self._tally)
        kinds = {_kind(one) for one in claimed}
        turn = _Turn(self, claimed, ledger, kinds, self._destination.pace.batch, least)
        try:
            self._courier.send(iter(turn), kinds, ledger.settle)
            return 0.0 if turn.tried else POLL_S
        except DestinationError as error:
            self.failed(error)
            return self._rest_s()
        finally:
            self._unfinished = (ledger, turn)
            self._finish()

    def _finish(self) -> None:
        """Writes down what the latest connection brought about; what a full disk keeps from that is written down later.

        Raises:
            OutboxError: it could not be.
        """
        if self._unfinished is not None:
            ledger, turn = self._unfinished
            ledger.write_down()
            turn.give_back()
            self._unfinished = None

    def failed(self, error: DestinationError) -> None:
        """Leaves the destination alone for a while."""
        name, pace = self._destination.name, self._destination.pace
        failures = self._outbox.line(name).failures + 1
        wait_s = delay_s(failures, pace.first_retry_s, pace.longest_retry_s, self._draw)
        if self._tally.reasons.get(name) != str(error):
            self._tally.reasons[name] = str(error)
            log.warning("destination %s: %s; next attempt in %.0f s", name, error, wait_s)
        self._outbox.line_failed(name, str(error), wait_s)

    def goes_on(self, urgency: Urgency) -> bool:
        """Whether the next object of an urgency may be sent on the same connection."""
        if self._stop.is_set():
            return False
        if self._outbox.more_urgent(self._destination.name, urgency):
            return False
        emergency = urgency is Urgency.EMERGENCY and self._destination.pace.emergency_any_time
        return emergency or self._is_open()

    def _confirm(self) -> None:
        destination = self._destination
        waiting = self._outbox.unconfirmed(
            destination.name, most=MOST_ASKED, again_after_s=destination.confirm_timeout_s
        )
        if not waiting:
            return
        try:
            verdicts = confirm(self._courier, destination, waiting)
        except DestinationError as error:
            self.failed(error)
            return
        now = self._outbox.time.now_s()
        early = [
            one.id
            for one in waiting
            if verdicts.get(one.id) is False and now - one.changed_s < min(GRACE_S, destination.confirm_timeout_s)
        ]
        if early:
            self._outbox.ask_later(early, ASK_AGAIN_S)
        told = {number: kept for number, kept in verdicts.items() if number not in set(early)}
        self._outbox.confirm(told, "it was sent, and the destination does not have it", destination.patience)
        self._tally.committed += sum(told.values())


class _Turn:
    """The objects of one connection, one after the other, as long as it is their turn.

    Args:
        kinds: that the connection was made for.
        most: objects on one connection.
    """

    def __init__(
        self,
        lane: _Lane,
        claimed: list[Delivery],
        ledger: _Ledger,
        kinds: set[tuple[str, str]],
        most: int,
        least: Urgency,
    ) -> None:
        self._lane = lane
        self._left = claimed[::-1]
        self._ledger = ledger
        self._kinds = kinds
        self._more = most - len(claimed)
        self._least = least
        self._renewed = time.monotonic()
        self.tried = 0
        """Objects; a connection on which there were none must not be followed by the next at once."""

    def __iter__(self) -> Iterator[Delivery]:
        while (self._left or self._claim_more()) and self._lane.goes_on(self._left[-1].urgency):
            if time.monotonic() - self._renewed > LEASE_S / 10:
                self._ledger.renew()
                self._renewed = time.monotonic()
            delivery = self._left.pop()
            self.tried += 1
            if self._ledger.is_whole(delivery):
                yield delivery
        self._ledger.write_down()  # before the connection is released, which takes its time

    def _claim_more(self) -> bool:
        """Whether there is more for this connection."""
        if self._more <= 0:
            return False
        self._left = self._lane.claim(self._more, self._least)[::-1]
        self._more -= len(self._left)
        return bool(self._left) and all(_kind(one) in self._kinds for one in self._left)

    def give_back(self) -> None:
        """What was not sent is queued again."""
        if self._left:
            self._ledger.give_back(self._left)


def _kind(delivery: Delivery) -> tuple[str, str]:
    return delivery.identity.sop_class_uid, delivery.identity.transfer_syntax_uid


class _Ledger:
    """Gathers answers and writes them down together."""

    def __init__(self, outbox: Outbox, destination: Destination, owner: str, draw: random.Random, tally: Tally) -> None:
        self._outbox = outbox
        self._destination = destination
        self._owner = owner
        self._draw = draw
        self._tally = tally
        self._outcomes: dict[int, Outcome] = {}
        self._since = time.monotonic()

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        pace = self._destination.pace
        wait_s = delay_s(delivery.attempts + 1, pace.first_retry_s, pace.longest_retry_s, self._draw)
        if isinstance(outcome, Sent):
            self._tally.sent += 1
        elif isinstance(outcome, Failed):
            self._tally.failed += 1
            outcome = replace(outcome, wait_s=wait_s)
            log.warning("destination %s, delivery %d: %s", self._destination.name, delivery.id, outcome.reason)
        elif isinstance(outcome, Lost):
            outcome = replace(outcome, wait_s=wait_s)
        self._outcomes[delivery.id] = outcome
        if time.monotonic() - self._since >= WRITE_DOWN_S:
            self.write_down()

    def write_down(self) -> None:
        self._since = time.monotonic()
        if self._outcomes:
            self._outbox.settle(self._owner, self._outcomes, self._destination.attempts)
            self._outcomes = {}

    def give_back(self, deliveries: list[Delivery]) -> None:
        self._outbox.settle(self._owner, {one.id: Untried() for one in deliveries}, self._destination.attempts)

    def renew(self) -> None:
        self._outbox.renew(self._owner, LEASE_S)

    def is_whole(self, delivery: Delivery) -> bool:
        """Whether the object's file is what it was when it was taken in; else it is dead."""
        if delivery.path is not None and self._outbox.objects.digest(delivery.path.name) == delivery.sha256:
            return True
        self.settle(delivery, Failed("its file in the outbox is gone or altered", final=True))
        return False


def deliver_now(
    settings: DeliverySettings,
    outbox: Outbox,
    sender: Sender,
    until: threading.Event,
    show: Callable[[int], None] | None = None,
) -> bool:
    """Runs a sender until everything that can leave now has left and is confirmed, or is waited for.

    Args:
        until: ends it early.
        show: told now and then how many are left.

    Returns:
        Whether everything is where it should be.
    """
    sender.start()
    try:
        while not until.wait(0.05):
            if show is not None:
                counts = outbox.counts().values()
                show(sum(states.get(state, 0) for states in counts for state in (State.QUEUED, State.SENDING)))
            if not any(_is_busy(outbox, one) for one in settings.destinations):
                break
    finally:
        sender.stop()
        sender.join()
    left = outbox.deliveries(states=(State.QUEUED, State.SENDING, State.DEAD), most=1)
    return not left


def _is_busy(outbox: Outbox, destination: Destination) -> bool:
    now = outbox.time.now_s()
    if outbox.line(destination.name).not_before_s > now:
        return False
    states = [State.QUEUED, State.SENDING, *([State.SENT] if destination.confirm != "none" else [])]
    return any(one.not_before_s <= now for one in outbox.deliveries(destination=destination.name, states=states))
