"""What an entitlement's document says after a change: begun, renewed, on another plan, with other seats. Pure.

Rules
1. Every change makes a document with the next sequence.
2. Renewal (contract §3): unexpired or in grace, the old end and a term; else from now a term. The maintenance day moves
   by the same rule. Of what lasts for ever only that day can be renewed, by a plan that says for how long. It is
   refused where there is nothing to move.
3. Whatever a document becomes, the appliance's own reader must take it (:func:`read_back`).

Raises :class:`~lls.issuer.refusals.Conflict`. It refuses to own what is stored (``amending``, ``parting``), and how
another edition is resolved (``upgrading``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from lls.faults import RefusedDocument
from lls.issuer.catalog import Chain, Level, Plan, in_force, plan_terms
from lls.issuer.catalog_file import read_term
from lls.issuer.refusals import Conflict
from lls.issuer.register import Json
from lls.issuer.resolving import chains_in, origins_of, plan_document, ranked
from lls.licensing import calendar
from lls.licensing.calendar import Term
from lls.licensing.entitlement import MOST_SEATS, Concurrency, Entitlement, Start, read_entitlement
from lls.licensing.fields import Fields, write_instant


def has_not_begun(document: Json) -> bool:
    """Whether its first lease is still to set its dates."""
    fields = Fields(document, place="entitlement")
    return not fields.has("starts_at") and fields.object("plan").kind("start", Start) is Start.ON_FIRST_LEASE


def begun(document: Json, at: datetime) -> dict[str, object]:
    """The terms of an entitlement whose first lease was granted at ``at``. Raises Conflict beyond the calendar."""
    term = _term(document)
    ends = document["expires_at"] if term is None else write_instant(_after(at, term, document))
    return {**following(document), "starts_at": write_instant(at), "expires_at": ends}


def renewed(document: Json, plan: Plan | None, *, now: datetime) -> tuple[dict[str, object], datetime]:
    """The document with one more term of that plan or its own, and the instant at which that begins."""
    terms, term = read_back(document), plan.term if plan else _term(document)
    if has_not_begun(document):
        raise Conflict(
            f"The entitlement {terms.entitlement_id} has not begun, as far as its server has reported: its first lease "
            "starts the term. Ingest the newest report of its server first, or wait with the renewal."
        )
    now = now.astimezone(UTC).replace(microsecond=0)
    if terms.expires_at is None or terms.ends_at is None:
        return _maintained(document, plan.maintenance if plan else None, now=now), now
    if term is None:
        raise Conflict(
            f"The entitlement {terms.entitlement_id} ends, and the plan names no term that could move its end: "
            "nothing to renew."
        )
    begins = terms.expires_at if now < terms.ends_at else now
    renewed = {**following(document), "expires_at": write_instant(_after(begins, term, document))}
    if terms.maintenance_expires_on is not None:
        renewed["maintenance_expires_on"] = _later_day(terms.maintenance_expires_on, term, document, now=now)
    return renewed, begins


def _maintained(document: Json, term: Term | None, *, now: datetime) -> dict[str, object]:
    """Of what lasts for ever, the day of its maintenance moves, where the plan of the renewal has such a term."""
    day = read_back(document).maintenance_expires_on
    if term is None or day is None:
        raise Conflict(
            f"The entitlement {document['entitlement_id']} has no end that a term could move: nothing to renew."
        )
    return {**following(document), "maintenance_expires_on": _later_day(day, term, document, now=now)}


def _later_day(day: date, term: Term, document: Json, *, now: datetime) -> str:
    begins = datetime.combine(max(now.date(), day), time(), tzinfo=UTC)
    return _after(begins, term, document).date().isoformat()


def on_plan(document: Json, origins: Mapping[str, Any], plan: Plan) -> tuple[dict[str, object], dict[str, object]]:
    """The document and its origins on another plan from now on; how the term once started stays."""
    start = Fields(document, place="entitlement").object("plan").kind("start", Start)
    own: dict[str, object] = {**document, "plan": {**plan_document(plan), "start": start.value}}
    chains = chains_in(origins)
    if "grace_seconds" not in chains:
        return own, dict(origins)
    told: Chain = [(level, value) for level, value in chains["grace_seconds"] if level is not Level.PLAN]
    told += [(Level.PLAN, value) for value in plan_terms(plan).values()]
    chains["grace_seconds"] = ranked(told)
    kept = origins_of(chains, not_for_resale=plan.not_for_resale, version=origins["catalog_version"])
    return {**own, "grace_seconds": in_force(chains["grace_seconds"])}, kept


def with_seats(document: Json, seats: int, named_users: Sequence[str]) -> dict[str, object]:
    """The document with so many seats more (below zero: fewer), and those people beside who is named."""
    terms = read_back(document)
    if terms.seats is None:
        raise Conflict(f"The entitlement {terms.entitlement_id} has unlimited seats: there are none to add or to take.")
    total = terms.seats + seats
    if not 1 <= total <= MOST_SEATS:
        raise Conflict(
            f"The entitlement {terms.entitlement_id} has {terms.seats:,} seats, and {seats:+,} would make {total:,}; "
            f"it can have 1 to {MOST_SEATS:,}. To end it, disable it: lls-issuer entitlement disable."
        )
    if named_users and terms.concurrency is not Concurrency.NAMED_USER:
        raise Conflict(f"The seats of {terms.entitlement_id} are {terms.concurrency}, so nobody is named for them.")
    names = [*terms.named_users.names, *named_users]
    if len({name.casefold() for name in names}) != len(names):
        raise Conflict(
            f"Somebody is named twice for {terms.entitlement_id} (upper and lower case are the same person)."
        )
    if len(names) > total:
        raise Conflict(f"{len(names)} people are named for {terms.entitlement_id}, which would have {total} seats.")
    return {**following(document), "seats": total, "named_users": names}


def _after(at: datetime, term: Term, document: Json) -> datetime:
    grace = timedelta(seconds=Fields(document, place="entitlement").integer("grace_seconds"))
    try:
        end = calendar.add(at, term)
        return end + grace - grace  # the grace must fit, too
    except OverflowError as failure:
        raise Conflict(
            f"The entitlement {document['entitlement_id']} cannot last so long: the term goes beyond the calendar."
        ) from failure


def _term(document: Json) -> Term | None:
    plan = Fields(document, place="entitlement").object("plan")
    return read_term(plan.object("term")) if plan.has("term") else None


def following(document: Json) -> dict[str, object]:
    """The same terms with the next sequence."""
    sequence = Fields(document, place="entitlement").integer("sequence")
    return {**document, "sequence": sequence + 1}


def in_new_session(document: Json, session_id: str) -> dict[str, object]:
    """The same terms for another hosting session; the sequence goes on."""
    return {**following(document), "session_id": session_id}


def read_back(document: Json, *, place: str = "entitlement") -> Entitlement:
    """As the appliance reads it. Raises Conflict where it would refuse."""
    try:
        return read_entitlement(document, place=place)
    except RefusedDocument as refused:
        raise Conflict(f"That was refused: {refused.detail}") from refused
