"""May this seat leave the building? The vendor's and the site's caps on borrowing.

Rules (contract §2, ``…/borrow``), in the order in which they are asked
1. The fingerprint is the machine's that holds the lease: a borrowed seat is bound to one machine.
2. The entitlement is in force and lends seats at all; the site has not forbidden it.
3. ``until`` lies ahead, no further than the vendor's and the site's longest time, and not beyond the entitlement's end.
4. The seats that are away stay within the vendor's number for the entitlement and the site's for the product.

It decides; leases and history belong to the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from lls.faults import BadRequest
from lls.licensing.denial import Denial
from lls.licensing.entitlement import Entitlement, Standing
from lls.licensing.fields import write_instant
from lls.licensing.instant import Now
from lls.licensing.lease import Holder

_IN_FORCE: Final = (Standing.ACTIVE, Standing.GRACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loan:
    """A wish to take ``seats`` away.

    ``away`` seats of the entitlement are borrowed by others already, of the whole product ``away_in_all``.
    """

    holder: Holder
    seats: int
    until: datetime
    fingerprint: str
    away: int = 0
    away_in_all: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteCaps:
    """What the site adds; None where it says nothing. ``rule`` is the policy rule's id."""

    max_seconds: int | None = None
    max_seats: int | None = None
    rule: str | None = None


def check(loan: Loan, *, now: Now) -> None:
    """Raise BadRequest when ``until`` is not ahead."""
    if loan.until <= now.wall:
        raise BadRequest("`until` must lie in the future.")


def of_returning(loan: Loan, terms: Entitlement) -> Denial:
    """The entitlement is on its way back to the vendor, so nothing more of it leaves."""
    detail = f"The entitlement of {terms.product} is being returned to the vendor, so nothing of it can be borrowed."
    remedy = "Keep the entitlement (`lls entitlement keep`), or borrow from another one."
    return _denial(loan, terms, "entitlement_disabled", "returning", detail, remedy)


def refusal(loan: Loan, terms: Entitlement, *, caps: SiteCaps, now: Now) -> Denial | None:
    """Why the seat must stay, or None. Raises BadRequest when ``until`` is not ahead."""
    if loan.fingerprint != loan.holder.seat_id:
        detail = "The fingerprint is not the one of the machine that holds the lease."
        return _denial(loan, terms, "wrong_machine", "machine", detail, "Borrow from the machine that is to leave.")
    if terms.standing(max(now.wall, now.strict)) not in _IN_FORCE:
        detail = f"The entitlement of {terms.product} is not in force, so nothing of it can be borrowed."
        code = "entitlement_disabled" if terms.standing(now.wall) is Standing.DISABLED else "entitlement_expired"
        return _denial(loan, terms, code, "status", detail, "Ask the vendor for a bundle that puts it in force.")
    check(loan, now=now)
    return _never(loan, terms, caps) or _too_long(loan, terms, caps, now) or _too_many(loan, terms, caps)


def _never(loan: Loan, terms: Entitlement, caps: SiteCaps) -> Denial | None:
    if not terms.borrow.allowed:
        detail = f"The vendor does not lend seats of {terms.product}."
        return _denial(loan, terms, "borrow_not_allowed", "borrow", detail, "Buy an edition that may be borrowed.")
    if 0 in (caps.max_seconds, caps.max_seats):
        detail = f"This site does not lend seats of {terms.product}."
        remedy = "Ask the administrator to change the site's policy."
        return _denial(loan, terms, "borrow_not_allowed", caps.rule or "borrow", detail, remedy)
    return None


def _too_long(loan: Loan, terms: Entitlement, caps: SiteCaps, now: Now) -> Denial | None:
    longest, rule = terms.borrow.max_seconds, "borrow"
    if caps.max_seconds is not None and caps.max_seconds < longest:
        longest, rule = caps.max_seconds, caps.rule or "borrow"
    latest = now.wall + timedelta(seconds=longest)
    if terms.ends_at is not None and terms.ends_at < latest:
        latest, rule = terms.ends_at, "dates"
    # Whoever asks for the longest time computed it a moment ago, by a clock of its own.
    if loan.until <= latest + timedelta(seconds=_LENIENT_SECONDS if rule != "dates" else 0):
        return None
    stamp = write_instant(latest.replace(microsecond=0))
    detail = f"Seats of {terms.product} may be borrowed until {stamp} at most."
    return replace(_denial(loan, terms, "borrow_too_long", rule, detail, "Ask for an earlier end."), until_latest=stamp)


_LENIENT_SECONDS: Final = 60


def _too_many(loan: Loan, terms: Entitlement, caps: SiteCaps) -> Denial | None:
    remedy = "Have a borrowed seat returned, or wait for its end (`lls borrow list`)."
    limits = [(terms.borrow.max_seats, loan.away, "borrow_seats")]
    if caps.max_seats is not None:
        limits.append((caps.max_seats, loan.away_in_all, caps.rule or "borrow"))
    for most, away, rule in limits:
        if away + loan.seats > most:
            detail = f"{away} of the {most} seats of {terms.product} that may be away are borrowed already."
            return _denial(loan, terms, "borrow_not_allowed", rule, detail, remedy, in_use=away, limit=most)
    return None


def _denial(  # noqa: PLR0917 - what, whose, which code, which rule, in words: always in this order
    loan: Loan,
    terms: Entitlement,
    code: str,
    rule: str,
    detail: str,
    remedy: str,
    *,
    in_use: int | None = None,
    limit: int | None = None,
) -> Denial:
    return Denial(
        code=code,
        rule=rule,
        detail=detail,
        remedy=remedy,
        product=terms.product,
        entitlement_id=terms.entitlement_id,
        asked=loan.seats,
        in_use=in_use,
        limit=limit,
    )
