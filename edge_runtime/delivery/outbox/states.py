"""What may become of an object on its way to one destination.

    from        to          when
    -           HELD        it is taken in, and the site's policy wants a person to see it first
    -           QUEUED      it is taken in
    HELD        QUEUED      an operator releases it
    QUEUED      HELD        an operator holds it back
    QUEUED      SENDING     a sender claims it
    HELD        DEAD        an operator purges it
    QUEUED      DEAD        likewise
    SENDING     SENT        the destination answered that it has it
    SENDING     COMMITTED   it was seen to be kept there, such as on a medium that was read back
    SENDING     QUEUED      the attempt failed, or its sender is gone: its lease has run out or its process has ended
    SENDING     DEAD        it has failed too often, or its file is not what it was
    SENT        COMMITTED   the destination confirmed that it keeps it
    SENT        QUEUED      the destination turns out not to have it
    SENT        DEAD        that happened too often
    DEAD        QUEUED      an operator tries again
    DEAD        HELD        an operator holds it back
    COMMITTED   -           nothing: what is confirmed is never sent again

Where a destination confirms nothing, an object stays SENT.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where an object is on its way to one destination; see the table above."""

    HELD = "held"
    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    COMMITTED = "committed"
    DEAD = "dead"


FIRST = frozenset({State.HELD, State.QUEUED})

TRANSITIONS = {
    State.HELD: frozenset({State.QUEUED, State.DEAD}),
    State.QUEUED: frozenset({State.HELD, State.SENDING, State.DEAD}),
    State.SENDING: frozenset({State.SENT, State.COMMITTED, State.QUEUED, State.DEAD}),
    State.SENT: frozenset({State.COMMITTED, State.QUEUED, State.DEAD}),
    State.DEAD: frozenset({State.QUEUED, State.HELD}),
    State.COMMITTED: frozenset(),
}


class Urgency(enum.IntEnum):
    """What goes first."""

    ROUTINE = 0
    URGENT = 1
    EMERGENCY = 2

    @property
    def word(self) -> str:
        return self.name.lower()
