"""From a line that sells something new, and the catalogue, to the entitlement that a bundle carries (contract §3).

Rules
1. Every such line becomes one entitlement in a group and a hosting session of its own, with sequence 1.
2. A line's own values go before the offering's, and so on up (``catalog.Level``). The chain of every value is kept
   beside the document (``origins``), and the version of the catalogue: who asks later is told what was overridden.
3. Dates: a term that starts on issue starts at that UTC day's midnight, so that a site whose clock is some minutes
   slow can use it at once, and ends one term after the *instant* of issue, so that nobody loses hours. Calendar
   arithmetic is UTC; the 31st plus a month is the month's last day.
4. A term that starts on the first lease has no dates here: the plan's term goes along, and the site's server sets them.
5. Grants that the offering brings are per unit ordered, those of the line are as the line says; all are in force from
   the start of the term, or from now where the first lease sets it. The document holds none yet: ``balances`` puts in
   those that are given at once.
6. Named users are the line's. No more of them than seats; and without any, the offering must let the site choose, or
   nobody could ever sit there.

Pure. It refuses to own entitlements that are there already (``amending``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from typing import Any, Final

from lls.issuer.catalog import (
    AttributeTerms,
    Catalog,
    Chain,
    FeatureTerms,
    GrantTerms,
    Level,
    Offering,
    Plan,
    Product,
    in_force,
)
from lls.issuer.catalog_file import read_attribute_values, read_feature_values, read_grants, read_price, read_terms
from lls.issuer.ids import Random, new_activation_code, new_id
from lls.issuer.orders import OrderLine
from lls.licensing import calendar
from lls.licensing.calendar import Term
from lls.licensing.entitlement import MOST_SEATS, MOST_UNITS, Concurrency, Start, Status
from lls.licensing.fields import Fields, malformed, write_instant

MOST_NAMED_USERS: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """An entitlement to be sold; ``grants`` are not in its document yet, and have their amounts and beginnings."""

    document: Mapping[str, object]
    origins: Mapping[str, object]
    grants: tuple[GrantTerms, ...]


def resolve(
    order_ref: str,
    line: OrderLine,
    offering: Offering,
    catalog: Catalog,
    *,
    version: int,
    now: datetime,
    random: Random,
) -> Resolved:
    """The entitlement of one line. Raises RefusedDocument that names the place."""
    product, plan = catalog.products[offering.product], catalog.plan_of(offering)
    if plan is None:
        raise malformed(f"{line.place}.sku", f"names {offering.sku}, which has no plan, so it cannot be sold new")
    own = Fields(line.document, place=line.place)
    chains = catalog.chains(product, offering.edition, offering=offering)
    override(chains, line, product)
    starts_at, expires_at = _dates(own, plan, now=now)
    begins = starts_at or now.astimezone(UTC).replace(microsecond=0)
    seats = seats_of(offering, line)
    document = {
        "entitlement_id": new_id("ent", random),
        "group_id": new_id("egr", random),
        "session_id": new_id("ses", random),
        "sequence": 1,
        "order_ref": order_ref,
        "activation_codes": [new_activation_code(random)] if offering.activation_codes else [],
        "product": {"key": product.key, "name": product.name},
        "offering": {"sku": offering.sku, "name": offering.name},
        "edition": offering.edition,
        "plan": plan_document(plan),
        "status": Status.ACTIVE.value,
        "starts_at": starts_at and write_instant(starts_at),
        "expires_at": expires_at and write_instant(expires_at),
        "maintenance_expires_on": (
            after(begins, plan.maintenance, place="the plan's maintenance").date().isoformat()
            if plan.maintenance
            else None
        ),
        "concurrency": offering.concurrency.value,
        "named_users": _named_users(own, offering, seats),
        "named_user_assignment": _assignment(offering),
        "node_lock_release_after_seconds": offering.node_lock_release_seconds,
        "seats": seats,
        **values(chains, product),
    }
    grants = grants_of(offering, line, product)
    if starts_at is not None:
        grants = [replace(grant, active_from=grant.active_from or starts_at) for grant in grants]
    return Resolved(
        document=document,
        origins=origins_of(chains, not_for_resale=plan.not_for_resale, version=version),
        grants=tuple(grants),
    )


def override(chains: dict[str, Chain], line: OrderLine, product: Product) -> None:
    """Adds to the chains what the line itself says."""
    said: dict[str, object] = {
        **read_terms(line.document, place=line.place),
        **_under("features", read_feature_values(line.document, product, place=line.place)),
        **_under("attributes", read_attribute_values(line.document, product, place=line.place)),
    }
    for path, value in said.items():
        chains.setdefault(path, []).append((Level.ENTITLEMENT, value))


def _under(group: str, said: Mapping[str, object]) -> dict[str, object]:
    return {f"{group}.{key}": value for key, value in said.items()}


def values(chains: Mapping[str, Chain], product: Product) -> dict[str, object]:
    """The members of an entitlement whose values come from the chains; no feature has a grant."""
    terms = {path: in_force(chain) for path, chain in chains.items() if "." not in path}
    return {
        **terms,
        "features": [
            _feature_document(one, in_force(chains[f"features.{one.key}"])) for one in product.features.values()
        ],
        "attributes": [
            _attribute_document(one, in_force(chains[f"attributes.{one.key}"]))
            for one in product.attributes.values()
            if f"attributes.{one.key}" in chains
        ],
    }


def origins_of(chains: Mapping[str, Chain], *, not_for_resale: bool, version: int) -> dict[str, object]:
    """What the register keeps beside the document; no bundle carries it."""
    told = {path: [[level.value, value] for level, value in chain] for path, chain in chains.items()}
    return {"catalog_version": version, "not_for_resale": not_for_resale, "values": told}


def ranked(chain: Iterable[tuple[Level, object]]) -> Chain:
    """From the general to the particular."""
    return sorted(chain, key=lambda said: list(Level).index(said[0]))


def chains_in(kept: Mapping[str, Any]) -> dict[str, Chain]:
    """The chains of what :func:`origins` made."""
    told = kept.get("values", {})
    return {path: [(Level(level), value) for level, value in chain] for path, chain in told.items()}


def _feature_document(terms: FeatureTerms, value: object) -> dict[str, object]:
    if not terms.counted:
        return {"key": terms.key, "type": terms.type.value, "value": value, "tracked": terms.tracked}
    return {
        "key": terms.key,
        "type": terms.type.value,
        "value": value,
        "unit": terms.unit,
        "currency": terms.currency,
        "overdraft": terms.overdraft.document(),
        "reset": terms.reset.value,
        "undo_seconds": terms.undo_seconds,
        "grants": [],
    }


def _attribute_document(terms: AttributeTerms, value: object) -> dict[str, object]:
    return {"key": terms.key, "type": terms.type.value, "value": value}


def grants_of(offering: Offering, line: OrderLine, product: Product) -> list[GrantTerms]:
    """What a line gives, with its amounts and what was paid for each."""
    given = [_times(grant, line) for grant in offering.grants]
    given += read_grants(line.document, product, place=line.place)
    if line.document.get("price") is None:
        return given
    if len(given) != 1:
        raise malformed(
            f"{line.place}.price", f"must be left out: the line gives {len(given)} grants, so name it in each"
        )
    return [replace(given[0], price=read_price(line.document["price"], place=f"{line.place}.price"))]


def _times(grant: GrantTerms, line: OrderLine) -> GrantTerms:
    quantity = 1 if line.quantity is None else line.quantity
    if quantity < 1:
        raise malformed(f"{line.place}.quantity", f"must be above zero, because it gives {grant.feature}")
    if grant.amount * quantity > MOST_UNITS:
        raise malformed(f"{line.place}.quantity", f"makes more than {MOST_UNITS:,} units of {grant.feature}")
    return replace(grant, amount=grant.amount * quantity, price=grant.price and grant.price.times(quantity))


def _named_users(own: Fields, offering: Offering, seats: int | None) -> list[str]:
    names = own.texts("named_users", most=MOST_NAMED_USERS)
    place = f"{own.place}.named_users"
    if offering.concurrency is not Concurrency.NAMED_USER:
        if names:
            raise malformed(place, f"must be left out: the seats of {offering.sku} are {offering.concurrency}")
        return []
    distinct = {name.casefold() for name in names}
    if len(distinct) != len(names):
        raise malformed(place, "names somebody twice (upper and lower case are the same person)")
    if seats is not None and len(names) > seats:
        raise malformed(place, f"holds {len(names)} names, and the line sells {seats} seats")
    if not names and not offering.named_users.by_site:
        raise malformed(place, f"is missing: the site may not choose the users of {offering.sku}, so the order must")
    return list(names)


def _assignment(offering: Offering) -> dict[str, object] | None:
    if offering.concurrency is not Concurrency.NAMED_USER:
        return None
    users = offering.named_users
    return {"by_site": users.by_site, "changes_per_month": users.changes_per_month}


def plan_document(plan: Plan) -> dict[str, object]:
    """As an entitlement carries it; that it is not for resale only where it is."""
    term = {"unit": plan.term.unit.value, "count": plan.term.count} if plan.term else None
    mark = {"not_for_resale": True} if plan.not_for_resale else {}
    return {"license_type": plan.license_type.value, "start": plan.start.value, "term": term, **mark}


def seats_of(offering: Offering, line: OrderLine) -> int | None:
    """So many seats are on the line; None is unlimited."""
    if line.quantity is None:
        raise malformed(f"{line.place}.quantity", "is missing")
    if offering.seats is None:
        return None
    if offering.seats * abs(line.quantity) > MOST_SEATS:
        raise malformed(f"{line.place}.quantity", f"makes more than {MOST_SEATS:,} seats")
    return offering.seats * line.quantity


def _dates(own: Fields, plan: Plan, *, now: datetime) -> tuple[datetime | None, datetime | None]:
    starts_at, expires_at = own.optional_instant("starts_at"), own.optional_instant("expires_at")
    if plan.start is Start.ON_FIRST_LEASE:
        for key in ("starts_at", "expires_at"):
            if own.has(key):
                raise malformed(f"{own.place}.{key}", "must be left out: the plan starts on the first lease")
        return None, None
    if plan.start is Start.FIXED and starts_at is None:
        raise malformed(f"{own.place}.starts_at", "is missing: the plan's start is fixed by the order")
    issued = now.astimezone(UTC).replace(microsecond=0)
    begins, counted_from = (starts_at, starts_at) if starts_at else (_midnight(issued), issued)
    if expires_at is None and plan.term is not None:
        expires_at = after(counted_from, plan.term, place="the plan's term")
    if expires_at is not None and expires_at <= begins:
        raise malformed(f"{own.place}.expires_at", f"must be later than starts_at ({write_instant(begins)})")
    return begins, expires_at


def _midnight(at: datetime) -> datetime:
    return datetime.combine(at.date(), time(), tzinfo=UTC)


def after(at: datetime, term: Term, *, place: str) -> datetime:
    """The end of a term. Raises RefusedDocument beyond the calendar."""
    try:
        return calendar.add(at, term)
    except OverflowError as failure:
        raise malformed(place, "goes beyond the calendar") from failure
