"""Order of arrival means nothing: whatever comes when, it is in the end as if all had come in its right order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import combinations, count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lls.issuer.intake.course import Word, course
from lls.issuer.intake.facts import Buyer, Changed, Ended, Item, Renewed, Started
from lls.issuer.intake.processing import Intake
from lls.issuer.intake.settings import read_settings
from lls.issuer.intake.subscriptions import Subscriptions
from lls.licensing.fields import write_instant
from tests.issuer.appliance import NOW
from tests.issuer.intake.conftest import CATALOG, INTAKE, Desk

BACK = """
[offerings.TO-STD]
name = "From Professional to Standard"
actions = ["upgrade"]
product = "cad"
edition = "std"
becomes = "CAD-STD"
"""
PRODUCTS = ("x_std", "x_pro", "price_setup")
NUMBERS = count(1)
Event = tuple[str, dict[str, Any]]


@pytest.fixture(params=["period_end", "at_once"])
def desks(desk: Desk, config: Path, request: pytest.FixtureRequest) -> Desk:
    """A vendor who sells every change, and whose ended subscriptions end like that."""
    skus = '[skus]\nx_std = { sku = "CAD-STD", upgrade = "TO-STD" }\nx_pro = { sku = "CAD-PRO", upgrade = "TO-PRO" }\n'
    text = INTAKE.replace("[skus]\n", skus).replace("[generic]\n", f'[generic]\non_end = "{request.param}"\n')
    config.write_text(text)
    desk.issuer.load_catalog(CATALOG + BACK, now=NOW)
    desk.intake = Intake(desk.issuer, read_settings(config))
    return desk


def things(*quantities: tuple[str, str, int]) -> list[dict[str, Any]]:
    return [{"item": item, "product": product, "quantity": quantity} for item, product, quantity in quantities]


def bought(*quantities: tuple[str, str, int]) -> Event:
    return "started", {"ref": "p", "account_ref": "C", "customer_name": "Works", "items": things(*quantities)}


ITEMS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(PRODUCTS), st.integers(1, 4)),
    max_size=3, unique_by=lambda one: one[0],
).map(lambda listed: things(*listed))  # fmt: skip
SOON = write_instant(NOW + timedelta(days=1))
LATER = st.lists(
    st.one_of(
        ITEMS.map(lambda items: ("changed", {"items": items})),
        st.booleans().map(lambda active: ("changed", {"active": active})),
        st.just(("renewed", {})),
        st.sets(st.sampled_from("abc"), min_size=1).map(lambda only: ("renewed", {"only": sorted(only)})),
        st.sampled_from([None, SOON]).map(lambda until: ("ended", {"paid_until": until} if until else {})),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


def lived(desk: Desk, events: list[Event], seconds: list[int], arrival: list[int]) -> Any:
    """What is left of a subscription of which that was told, in that order; before and after what was paid for."""
    number, first = next(NUMBERS), sum(desk.intake.inbox.counts().values())
    for n in arrival:
        kind, members = events[n]
        own: dict[str, Any] = {"ref": f"{number}-{n}"} if kind in ("started", "renewed") else {}
        own |= {"account_ref": f"C-{number}"} if kind == "started" else {"sequence": n}
        desk.receive("generic", {
            "event_id": f"{number}-{n}", "type": f"subscription.{kind}", "subscription": f"s-{number}",
            "occurred_at": write_instant(NOW + timedelta(seconds=seconds[n])), **members, **own,
        })  # fmt: skip
        desk.intake.process(now=NOW)
    states = [state(desk, number)]
    desk.intake.process(now=NOW + timedelta(days=2))
    statuses = {stored.outcome for stored in desk.intake.inbox.listed(most=100_000)[first:] if stored.status != "done"}
    assert set() == statuses
    return [*states, state(desk, number)]


def state(desk: Desk, number: int) -> Any:
    held = Subscriptions(desk.issuer.register, "generic").items(f"s-{number}")
    customer = desk.issuer.register.customer_by_account(f"C-{number}")
    sold = desk.issuer.register.entitlements(customer_id=customer.customer_id) if customer else []
    documents: dict[str, Any] = {one.entitlement_id: one.document for one in sold}
    assert set(documents) == {one.entitlement_id for one in held.values()}
    return {
        item: {key: documents[one.entitlement_id][key] for key in ("edition", "seats", "expires_at", "status")}
        for item, one in held.items()
    }


def alike(desk: Desk, events: list[Event], seconds: list[int], arrival: list[int]) -> None:
    right = sorted(range(len(events)), key=lambda n: (n > 0, seconds[n], n))
    with desk.issuer.register.transaction():  # nothing fails here, and so one wait for the disk is enough
        assert lived(desk, events, seconds, right) == lived(desk, events, seconds, arrival)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=ITEMS, later=LATER, data=st.data())
def test_any_order_of_any_life_leaves_what_the_right_order_leaves(
    desks: Desk, first: list[dict[str, Any]], later: list[Event], data: st.DataObject
) -> None:
    events: list[Event] = [
        ("started", {"ref": "p", "account_ref": "C", "customer_name": "Works", "items": first}),
        *later,
    ]
    seconds = [0, *data.draw(st.lists(st.integers(1, 4), min_size=len(later), max_size=len(later)))]
    alike(desks, events, seconds, data.draw(st.permutations(range(len(events)))))


LIFE: list[Event] = [
    bought(("a", "x_std", 2), ("b", "x_pro", 1)),
    ("changed", {"items": things(("a", "x_std", 5), ("b", "x_pro", 1))}),
    ("renewed", {}),
    ("changed", {"items": things(("a", "x_pro", 5))}),
    ("renewed", {}),
    ("changed", {"active": False}),
    ("changed", {"active": True}),
    ("changed", {"items": things(("a", "x_pro", 5), ("b", "x_pro", 3))}),
    ("ended", {}),
    ("renewed", {"only": ["a"]}),
    ("ended", {"paid_until": SOON}),
]


def test_each_pair_of_events_of_a_life_may_come_in_the_wrong_order(desks: Desk) -> None:
    seconds = list(range(len(LIFE)))
    with desks.issuer.register.transaction():
        right = lived(desks, LIFE, seconds, seconds)
        for one, other in combinations(seconds, 2):
            arrival = list(seconds)
            arrival[one], arrival[other] = other, one
            assert (one, other, right) == (one, other, lived(desks, LIFE, seconds, arrival))


# -- the course itself ------------------------------------------------------------------------------------------------


def words(shuffled: list[int]) -> Iterator[Word]:
    """A life within one second, numbered as it arrives."""
    facts: list[Callable[[], Any]] = [
        lambda: Started(subscription="s", ref="p", buyer=Buyer(), items=(Item(item="a", product="x", quantity=1),)),
        lambda: Changed(subscription="s", at=NOW, items=(Item(item="a", product="x", quantity=4),)),
        lambda: Renewed(subscription="s", ref="r", at=NOW),
        lambda: Ended(subscription="s", at=NOW, paid_until=None),
    ]
    for arrived, n in enumerate(shuffled):
        yield Word(event=arrived, fact=facts[n]())


@example(seed=0)
@given(seed=st.integers())
def test_what_is_of_one_instant_is_a_change_then_a_renewal_then_an_end(seed: int) -> None:
    shuffled = list(range(4))
    random.Random(seed).shuffle(shuffled)
    told = course(words(shuffled))
    ((quantity, renewals),) = ((one.quantity, [due.ref for due in one.renewals]) for one in told.things)
    assert (4, ["r"], True) == (quantity, renewals, told.ended is not None)
