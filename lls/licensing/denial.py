"""A judged and refused request: what an application, an administrator and the bill are told of it.

Rules
1. A denial is a value and never raised; a request that could not be judged is a fault (``lls.faults``).
2. ``cause`` says who could have helped: nobody at that moment (``capacity``), the site (``policy``), or the vendor and
   the order (``terms``). Only ``capacity`` counts as a seat or a unit that was missing: a *true* denial.

It refuses to own the rules themselves (``seating``, ``policy``, ``meters``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """What stood behind a refusal."""

    CAPACITY = "capacity"
    POLICY = "policy"
    TERMS = "terms"


_CAUSES: Final = {
    "no_seat": Cause.CAPACITY,
    "no_feature_units": Cause.CAPACITY,
    "reserved": Cause.POLICY,
    "holder_limit": Cause.POLICY,
    "excluded": Cause.POLICY,
}


_REMEDIES: Final = {
    "no_seat": "More seats, or somebody returning one; `lls usage --what-if` says how many.",
    "no_feature_units": "More units, or somebody returning some.",
    "reserved": "A smaller reservation, or one that names this holder.",
    "holder_limit": "A higher limit in the site's policy, or a lease less of this holder.",
    "excluded": "A rule of the site's policy that lets this holder in.",
    "not_entitled": "An edition or an order that contains it.",
    "entitlement_not_started": "Waiting for its first day.",
    "entitlement_expired": "A renewal.",
    "entitlement_disabled": "The vendor, or whoever returned it.",
    "edition_not_covered": "An order of that edition.",
    "version_not_covered": "Renewed maintenance, or an older build.",
    "not_a_named_user": "A place for this user's name (`lls entitlement assign`).",
    "wrong_machine": "The machine that holds the lease.",
    "borrow_not_allowed": "A borrowed seat that comes back, or terms that lend more.",
    "borrow_too_long": "An earlier end.",
    "server_not_licensed": "A newer bundle.",
    "report_overdue": "A usage report for the vendor, and its receipt.",
    "restored": "The vendor's word where to go on (`lls server request`, then the bundle that answers it).",
    "unknown_feature": "The right name, or an order that contains it.",
}


def cause_of(code: str) -> Cause:
    """Who could have helped against a refusal of that code."""
    return _CAUSES.get(code, Cause.TERMS)


def remedy_of(code: str) -> str:
    """What would have helped, as far as the code alone tells: for lines of the journal, which hold no sentences."""
    return _REMEDIES.get(code, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A judged and refused request: an answer, a journal line, a number to be billed or bought by.

    ``asked``, ``in_use`` and ``limit`` count seats, or units where ``feature`` is given. ``remedy`` is one sentence
    that says what would have helped.
    """

    code: str
    rule: str
    detail: str
    product: str
    entitlement_id: str | None = None
    feature: str | None = None
    asked: int = 1
    in_use: int | None = None
    seats: int | None = None
    limit: int | None = None
    retry_after_seconds: int | None = None
    queue_position: int | None = None
    until_latest: str | None = None
    """The latest instant until which a seat may be borrowed (RFC 3339)."""
    remedy: str = ""

    @property
    def cause(self) -> Cause:
        """Who could have helped."""
        return cause_of(self.code)
