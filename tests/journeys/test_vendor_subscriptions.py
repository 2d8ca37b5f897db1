"""A subscription at FastSpring, Maxio and Zuora is felt at the site: bought, grown, renewed and cancelled there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lls.licensing.fields import write_instant
from tests.issuer.intake.sources import chargify, fastspring, fs_event, fs_subscription, zuora
from tests.journeys.firm import ACCOUNT, NAME, Firm, a_firm
from tests.journeys.storefront import Storefront

CATALOG = """
format = 1
[plans.year]
license_type = "subscription"
term = { unit = "year", count = 1 }
[products.brush]
name = "Brush"
[offerings.BRUSH]
name = "Brush"
actions = ["new", "renew", "add_seats"]
product = "brush"
plan = "year"
[products.clay]
name = "Clay"
[offerings.CLAY]
name = "Clay"
actions = ["new", "renew", "add_seats"]
product = "clay"
plan = "year"
[products.dye]
name = "Dye"
[offerings.DYE]
name = "Dye"
actions = ["new", "renew", "add_seats"]
product = "dye"
plan = "year"
"""

INTAKE = """
[skus]
cad-pro = "BRUSH"
clay-seats = "CLAY"
cad-base = ""
dye-charge = "DYE"
[fastspring]
secret_file = "fastspring.secret"
on_end = "at_once"
[chargify]
secret_file = "chargify.secret"
on_end = "at_once"
[zuora]
username = "zuora"
secret_file = "zuora.secret"
on_end = "at_once"
"""
START = datetime.now(UTC)


@pytest.fixture(scope="module")
def firm() -> Iterator[Firm]:
    with a_firm(CATALOG) as firm:
        yield firm


@pytest.fixture(scope="module")
def storefront(firm: Firm) -> Iterator[Storefront]:
    storefront = Storefront(firm, INTAKE)
    try:
        storefront.wait()
        yield storefront
    finally:
        storefront.close()


@dataclass(frozen=True, kw_only=True)
class Life:
    """What a source sends of one subscription: bought with two seats, four of them, another year, and its end."""

    product: str
    bought: tuple[dict[str, Any], ...]
    more: dict[str, Any]
    renewed: dict[str, Any]
    ended: dict[str, Any]


def at(minutes: int) -> datetime:
    return START + timedelta(minutes=minutes)


def of_fastspring(server_id: str) -> Life:
    account = {"id": "fsAcc1", "contact": {"company": NAME}, "lookup": {"custom": ACCOUNT}}

    def told(kind: str, minutes: int, **changes: Any) -> dict[str, Any]:
        own = {"account": account, "tags": {"server_id": server_id}, **changes}
        data = fs_subscription(changed=at(minutes), **own)
        return fastspring(fs_event(f"fs-{minutes}", kind, data, created=at(minutes)))

    charge = {"status": "successful", "order": "fsOrd2", "subscription": {"id": "fsSub1"}}
    return Life(
        product="brush",
        bought=(told("subscription.activated", 0, quantity=2),),
        more=told("subscription.updated", 1, quantity=4),
        renewed=fastspring(fs_event("fs-2", "subscription.charge.completed", charge, created=at(2))),
        ended=told("subscription.deactivated", 3, quantity=4, state="deactivated"),
    )


def of_maxio(server_id: str) -> Life:
    customer = {"id": 31, "reference": ACCOUNT, "organization": NAME}

    def told(kind: str, minutes: int, *, state: str = "active", **payload: Any) -> dict[str, Any]:
        own = {"customer": customer, "reference": server_id, "state": state}
        return chargify(100 + minutes, kind, write_instant(at(minutes).replace(microsecond=0)), own, **payload)

    def seats(minutes: int, number: int) -> dict[str, Any]:
        component = {"id": 77, "handle": "clay-seats", "kind": "quantity_based_component"}
        return told("component_allocation_change", minutes, component=component, new_allocation=number)

    return Life(
        product="clay",
        bought=(seats(1, 2), told("signup_success", 0)),  # as it may come: the seats before the signup
        more=seats(2, 4),
        renewed=told("renewal_success", 3, transaction={"id": 4711}),
        ended=told("subscription_state_change", 4, state="canceled"),
    )


def of_zuora(server_id: str) -> Life:
    def told(kind: str, minutes: int, version: int, quantity: str) -> dict[str, Any]:
        document = zuora(kind, write_instant(at(minutes).replace(microsecond=0)), version, quantity)
        document["Account"] = {"Id": "8a1", "AccountNumber": ACCOUNT, "Name": NAME}
        document["Charges"][0]["ProductRatePlanChargeId"] = "dye-charge"
        return {**document, "Licensing": {"server_id": server_id}}

    return Life(
        product="dye",
        bought=(told("SubscriptionCreated", 0, 1, "2.0"),),
        more=told("SubscriptionUpdated", 1, 2, "4.0"),
        renewed=told("SubscriptionRenewed", 2, 3, "4.0"),
        ended=told("SubscriptionCancelled", 3, 4, "4.0"),
    )


LIVES = {"fastspring": of_fastspring, "chargify": of_maxio, "zuora": of_zuora}


def sitting(firm: Firm, product: str) -> tuple[int, str]:
    """How many can sit, none of whom stays, and until when it lasts."""
    found = [firm.checkout(product) for _ in range(10)]
    given = [seat for seat in found if seat.answer.status == 201]
    ends = {str(seat.lease["entitlement"]["expires_at"]) for seat in given}
    for seat in given:
        firm.checkin(seat)
    return len(given), min(ends, default="")


@pytest.mark.parametrize("source", list(LIVES))
def test_a_subscription_is_bought_grows_is_renewed_and_ends_at_the_site(
    firm: Firm, storefront: Storefront, source: str
) -> None:
    life = LIVES[source](firm.server_id)

    def post(document: dict[str, Any]) -> None:
        for said in ("stored", "known"):  # every event comes twice
            assert (200, [said]) == storefront.post(source, document)

    def carried() -> tuple[int, str]:
        firm.carry()
        return sitting(firm, life.product)

    for document in life.bought:
        post(document)
    seats, ends = carried()
    assert 2 == seats
    post(life.more)
    assert (4, ends) == carried()
    post(life.renewed)
    assert (4, f"{int(ends[:4]) + 1}{ends[4:]}") == carried()
    post(life.ended)
    assert (0, "") == carried()
