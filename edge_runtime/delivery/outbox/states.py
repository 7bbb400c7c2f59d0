"""What may become of an object on its way to one destination.

    from        to          when
    -           HELD        it is taken in, and the site's policy wants a person to see it first
    -           QUEUED      it is taken in
    HELD        QUEUED      an operator releases it
    QUEUED      HELD        an operator holds it back
    QUEUED      SENDING     a sender claims it
    HELD        WITHDRAWN   an operator purges it, or a corrected object takes its place
    QUEUED      WITHDRAWN   likewise
    DEAD        WITHDRAWN   likewise
    SENDING     SENT        the destination answered that it has it
    SENDING     COMMITTED   it was seen to be kept there, such as on a medium that was read back
    SENDING     QUEUED      the attempt failed, or its sender is gone: its lease has run out or its process has ended
    SENDING     DEAD        it has failed too often, or its file is not what it was
    SENT        COMMITTED   the destination confirmed that it keeps it
    SENT        QUEUED      the destination turns out not to have it
    SENT        DEAD        that happened too often
    SENT        WITHDRAWN   a corrected object takes its place: should the destination not have it, it is not sent again
    DEAD        QUEUED      an operator tries again
    DEAD        HELD        an operator holds it back
    COMMITTED   -           nothing: what is confirmed is never sent again
    WITHDRAWN   -           nothing: what was taken back never leaves, whoever says `retry --all`

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
    WITHDRAWN = "withdrawn"


FIRST = frozenset({State.HELD, State.QUEUED})

NOT_LEFT = frozenset({State.HELD, State.QUEUED, State.DEAD})
"""Nobody has the object, and nobody is being sent it."""

TRANSITIONS = {
    State.HELD: frozenset({State.QUEUED, State.WITHDRAWN}),
    State.QUEUED: frozenset({State.HELD, State.SENDING, State.WITHDRAWN}),
    State.SENDING: frozenset({State.SENT, State.COMMITTED, State.QUEUED, State.DEAD}),
    State.SENT: frozenset({State.COMMITTED, State.QUEUED, State.DEAD, State.WITHDRAWN}),
    State.DEAD: frozenset({State.QUEUED, State.HELD, State.WITHDRAWN}),
    State.COMMITTED: frozenset(),
    State.WITHDRAWN: frozenset(),
}


class Urgency(enum.IntEnum):
    """What goes first."""

    ROUTINE = 0
    URGENT = 1
    EMERGENCY = 2

    @property
    def word(self) -> str:
        return self.name.lower()
