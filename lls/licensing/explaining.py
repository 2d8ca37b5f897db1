"""Explaining. (Interface only.)"""

from __future__ import annotations

from dataclasses import dataclass

from lls.licensing.denial import Denial
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout
from lls.licensing.pools import Pools
from lls.licensing.seating import Seat, seat


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rule."""

    rule: str
    verdict: str
    words: str
    entitlement_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All rules."""

    steps: tuple[Step, ...]
    outcome: Seat | Denial


def explain(checkout: Checkout, pools: Pools, *, now: Now) -> Explanation:
    """What would be decided."""
    return Explanation(steps=(), outcome=seat(checkout, pools, now=now))
