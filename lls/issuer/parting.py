"""Some of the seats of an entitlement are renewed or upgraded: they become an entitlement of their own (decision 0018).

Rules
1. The part is in the group of the whole, at its server, with its terms; it has an id, a session and, where the whole
   has codes, a code of its own. It belongs to the line of the order that made it.
2. **Renewed**, the part begins where the term of the whole ends, and the whole ends when it ends. Until then nothing
   changes at the site: no seat is there twice, and none is missing. Behind its grace, the part begins now.
3. No seat is renewed twice: of a whole that has renewed parts only the other seats can be renewed, as parts.
4. **Upgraded**, the seats leave the whole at once, and the part has the other edition and the whole's dates.
5. Units are not divided by seats. What was given and counted stays with the whole and ends as it says. The part has
   what its edition gives, from its beginning on; a renewal is refused where that would be given a second time or lost:
   an allowance that never begins anew, a grant without an end.
6. Whoever sits by name moves by name: the line says who.
7. What a subscription pays for is parted by its source alone. It goes on renewing, counting and ending all the seats
   that it knows, and none of a part.

Each function runs inside the transaction of the order. Raises Conflict. It refuses to own which line means a part
(``ordering``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from lls.issuer.catalog import Catalog, Offering, Plan
from lls.issuer.changing import on_plan, read_back, renewed, with_seats
from lls.issuer.history import Deed
from lls.issuer.ids import Random, new_activation_code, new_id
from lls.issuer.intake.subscriptions import paying_for
from lls.issuer.refusals import Conflict
from lls.issuer.register import Register, Sold
from lls.issuer.upgrading import upgraded
from lls.licensing.entitlement import Concurrency, Entitlement, Reset, normalise_code
from lls.licensing.fields import write_instant


class PartKind(StrEnum):
    """What was done with a part of the seats."""

    RENEW = "renew"
    UPGRADE = "upgrade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A row of the table ``part``."""

    part_id: str
    of_id: str
    kind: str
    seats: int
    parted_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seats:
    """Which seats a line means, and the line: so many of them, and who sits there by name."""

    order_ref: str
    line: int
    count: int
    named_users: Sequence[str] = ()


class Parting:
    """See the module."""

    def __init__(self, register: Register, *, random: Random) -> None:
        self._register = register
        self._random = random

    def renew(self, sold: Sold, seats: Seats, *, plan: Plan | None, now: datetime) -> tuple[Sold, datetime]:
        """The part with one more term, and the instant at which that begins."""
        whole = read_back(sold.document)
        self._check_unsubscribed(sold)
        self._check_left(whole, seats)
        if whole.expires_at is None:
            raise Conflict(
                f"The entitlement {sold.entitlement_id} has no end, so only its maintenance can be renewed, and that "
                "is of all its seats: leave quantity out."
            )
        _check_units(sold)
        document, begins = renewed(sold.document, plan, now=now)
        origins: Mapping[str, Any] = sold.origins
        if plan is not None and plan.term is not None:
            document, origins = on_plan(document, origins, plan)
        names = _moving(whole, seats, must_be_there=False)
        extended = replace(sold, document={**document, "starts_at": write_instant(begins)}, origins=origins)
        part = self._part(extended, seats, names, now=now)
        self._keep(part, sold, became=sold, kind=PartKind.RENEW, now=now)
        return part, begins

    def upgrade(
        self, sold: Sold, seats: Seats, offering: Offering, catalog: Catalog, *, version: int, now: datetime
    ) -> Sold:
        """The part in the offering's edition; the seats that stay are fewer by it."""
        whole = read_back(sold.document)
        self._check_unsubscribed(sold)
        self._check_left(whole, seats)
        names = _moving(whole, seats, must_be_there=True)
        part = self._part(upgraded(sold, offering, catalog, version=version), seats, names, now=now)
        staying = [name for name in whole.named_users.names if name.casefold() not in {one.casefold() for one in names}]
        became = replace(sold, document=with_seats({**sold.document, "named_users": staying}, -seats.count, ()))
        read_back(became.document)
        self._register.put_entitlement(became)
        self._keep(part, sold, became=became, kind=PartKind.UPGRADE, now=now)
        return part

    def _part(self, like: Sold, seats: Seats, names: Sequence[str], *, now: datetime) -> Sold:
        """Rule 1, and of rule 5 that nothing that was given goes with it."""
        document: Any = like.document
        codes = [new_activation_code(self._random)] if document["activation_codes"] else []
        own = {
            **document,
            "entitlement_id": new_id("ent", self._random),
            "session_id": new_id("ses", self._random),
            "sequence": 1,
            "order_ref": seats.order_ref,
            "activation_codes": codes,
            "seats": seats.count,
            "named_users": list(names),
            "features": [{**one, "grants": []} if "grants" in one else one for one in document["features"]],
        }
        read_back(own)
        part = replace(
            like,
            entitlement_id=own["entitlement_id"],
            order_ref=seats.order_ref,
            line=seats.line,
            document=own,
            created_at=now,
            carried={},
        )
        self._register.add_entitlement(part, [normalise_code(code) for code in codes])
        return part

    def _keep(self, part: Sold, was: Sold, *, became: Sold, kind: PartKind, now: datetime) -> None:
        seats: Any = part.document["seats"]
        row = Part(
            part_id=part.entitlement_id,
            of_id=was.entitlement_id,
            kind=kind.value,
            seats=seats,
            parted_at=write_instant(now),
        )
        self._register.insert("part", row)
        told = {"kind": kind.value, "seats": seats}
        part_of, own = {"part_of": was.entitlement_id}, {"part": part.entitlement_id}
        self._register.note_change(Deed.SOLD, was=None, became=part, at=now, what={**part_of, **told})
        self._register.note_change(Deed.PARTED, was=was, became=became, at=now, what={**own, **told})

    def _check_unsubscribed(self, sold: Sold) -> None:
        """Rule 7."""
        paying = paying_for(self._register, sold.entitlement_id)
        if paying is not None:
            source, subscription = paying
            raise Conflict(
                f"{sold.entitlement_id} is what the subscription {subscription} of {source} pays for, which renews and "
                "ends all of its seats and none of a part. Have it say there what is in it (fewer of this, some of "
                "that): it is done here when that is told. Or sell new ones."
            )

    def _check_left(self, whole: Entitlement, seats: Seats) -> None:
        """Rule 3."""
        renewed_before = renewed_seats(self._register, whole.entitlement_id)
        left = (whole.seats or 0) - renewed_before
        if seats.count > left:
            renewed_told = f", of which {renewed_before} were renewed already" if renewed_before else ""
            raise Conflict(
                f"the line is for {seats.count} seats, and {whole.entitlement_id} has {whole.seats}{renewed_told}. "
                "Leave quantity out to mean all of them, or name fewer."
            )


def parts_of(register: Register, entitlement_id: str) -> int:
    """How many entitlements were made of some of its seats."""
    return len(register.select(Part, "SELECT * FROM part WHERE of_id = ?", entitlement_id))


def renewed_seats(register: Register, entitlement_id: str) -> int:
    """How many of its seats were renewed as parts."""
    parts = register.select(Part, "SELECT * FROM part WHERE of_id = ? AND kind = 'renew'", entitlement_id)
    return sum(part.seats for part in parts)


def check_renewed_whole(register: Register, sold: Sold) -> None:
    """Rule 3. Raises Conflict where some of its seats were renewed already."""
    before = renewed_seats(register, sold.entitlement_id)
    if before:
        raise Conflict(
            f"{before} of the {sold.document['seats']} seats of {sold.entitlement_id} were renewed already, as an "
            "entitlement of their own. Renew the others by an order whose line names them: action renew, quantity, "
            f"entitlement_id {sold.entitlement_id}."
        )


def _check_units(sold: Sold) -> None:
    """Rule 5."""
    document: Any = sold.document
    for feature in read_back(sold.document).features:
        endless = [
            one["grant_id"]
            for given in document["features"]
            if given["key"] == feature.key
            for one in given.get("grants", ())
            if one["expiry"]["type"] == "never"
        ]
        if endless or (feature.consumed and feature.reset is Reset.NEVER and feature.value):
            what = f"the grant {endless[0]}, which has no end" if endless else "an allowance that never begins anew"
            raise Conflict(
                f"Some of the seats cannot be renewed by themselves: {sold.entitlement_id} has {what} (feature "
                f"{feature.key}), and units are not divided by seats. Renew all of them and take seats away "
                "(add_seats, quantity below zero), or sell new ones."
            )


def _moving(whole: Entitlement, seats: Seats, *, must_be_there: bool) -> Sequence[str]:
    """Rule 6: who has a place in the part."""
    if whole.concurrency is not Concurrency.NAMED_USER:
        if seats.named_users:
            raise Conflict(f"The seats of {whole.entitlement_id} are {whole.concurrency}, so nobody is named for them.")
        return ()
    there = {name.casefold() for name in whole.named_users.names}
    strangers = [name for name in seats.named_users if name.casefold() not in there]
    if must_be_there and strangers:
        raise Conflict(f"{strangers[0]} is not named for {whole.entitlement_id}, so nobody of that name can move.")
    if len(seats.named_users) > seats.count:
        raise Conflict(f"{len(seats.named_users)} people are named for {seats.count} seats.")
    staying = len(there) - len(seats.named_users)
    if must_be_there and staying > (whole.seats or 0) - seats.count:
        raise Conflict(
            f"{staying} people would stay named for the {(whole.seats or 0) - seats.count} other seats of "
            f"{whole.entitlement_id}: say in named_users who moves."
        )
    return seats.named_users
