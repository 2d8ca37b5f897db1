"""The instant at which a verb is judged: the one value through which time enters the domain.

``lls.clock`` makes it and says how; the domain only reads it. Which field decides what:

1. ``wall`` stamps the journal and ends things (entitlements, grants, borrows). It never goes back.
2. ``strict`` is used for nothing but refusing something new: it is the later of trusted and raw time, so a clock that
   was put forward by mistake grants nothing, and yet ends nothing.
3. ``elapsed`` counts floating leases. It is a number of seconds since some moment of this boot: two readings of one
   process may be compared, a stored one means nothing.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class ClockState(StrEnum):
    """Whether the machine's wall clock agrees with the time already seen."""

    OK = "ok"
    BEHIND = "behind"
    JUMPED = "jumped"


class Now(NamedTuple):
    """One reading of the clock: aware UTC datetimes, seconds of elapsed time.

    A tuple, where the house has frozen dataclasses: one is made for each heartbeat, and this is 1 µs less.
    """

    wall: datetime
    strict: datetime
    elapsed: float
    state: ClockState = ClockState.OK
    behind_seconds: int = 0
