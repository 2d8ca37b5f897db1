"""What was paid for once is given once, whatever comes again, goes out and in, or overtakes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lls.licensing.fields import write_instant
from tests.issuer.appliance import NOW
from tests.issuer.intake.conftest import DONE, Desk
from tests.issuer.intake.sources import chargify, fastspring, fs_event, fs_subscription

YEAR = NOW.replace(year=NOW.year + 1)
TWO_YEARS = NOW.replace(year=NOW.year + 2)
SEATS = {"item": "i-1", "product": "CAD-PRO", "quantity": 5}
OTHER = {"item": "i-2", "product": "CAD-STD", "quantity": 2}


def at(seconds: int) -> str:
    return write_instant(NOW + timedelta(seconds=seconds))


def event(number: int, kind: str, **members: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{number}", "type": f"subscription.{kind}", "occurred_at": at(number), "subscription": "s-1",
        **members,
    }  # fmt: skip


def bought(*items: dict[str, Any]) -> dict[str, Any]:
    return event(1, "started", ref="p-1", account_ref="C-42", customer_name="Example Works", items=list(items))


def ends(desk: Desk) -> dict[str, Any]:
    return {one.sku: one.expires_at for one in desk.entitlements()}


def test_an_invoice_told_twice_renews_nothing_that_came_in_between(desk: Desk) -> None:
    desk.send("generic", bought(SEATS))
    desk.send("generic", event(2, "renewed", ref="inv-2"))
    desk.send("generic", event(3, "changed", items=[OTHER, SEATS]))
    again = desk.send("generic", event(4, "renewed", ref="inv-2"))
    assert (DONE, "The order generic:inv-2 was fulfilled before.") == (again.status, again.outcome)
    assert {"CAD-PRO": TWO_YEARS, "CAD-STD": YEAR} == ends(desk)


@pytest.mark.parametrize("first", ["started", "renewed"])
def test_an_invoice_that_is_told_as_a_purchase_and_as_a_renewal_was_paid_once(desk: Desk, first: str) -> None:
    again = event(2, "renewed", ref="p-1")
    for document in (bought(SEATS), again) if first == "started" else (again, bought(SEATS)):
        desk.receive("generic", document)
        desk.intake.process(now=NOW)
    assert ["done", "done"] == desk.statuses()
    assert {"CAD-PRO": YEAR} == ends(desk)


def test_an_invoice_told_twice_is_one_although_something_was_taken_out_in_between(desk: Desk) -> None:
    desk.send("generic", bought(SEATS, OTHER))
    desk.send("generic", event(2, "renewed", ref="inv-2"))
    desk.send("generic", event(3, "changed", items=[OTHER]))
    assert DONE == desk.send("generic", event(4, "renewed", ref="inv-2")).status
    assert {"CAD-PRO": TWO_YEARS, "CAD-STD": TWO_YEARS} == ends(desk)


def test_an_item_that_goes_out_and_in_again_is_there_once(desk: Desk) -> None:
    desk.send("generic", bought(SEATS, OTHER))
    for number in (2, 4, 6):
        desk.send("generic", event(number, "changed", items=[OTHER]))
        desk.send("generic", event(number + 1, "changed", items=[OTHER, {**SEATS, "quantity": 5 + number}]))
    assert {"CAD-PRO": 11, "CAD-STD": 2} == {one.sku: one.seats for one in desk.entitlements()}
    assert 2 == len(desk.entitlements())
    desk.send("generic", event(9, "renewed", ref="inv-2"))
    assert {"CAD-PRO": TWO_YEARS, "CAD-STD": TWO_YEARS} == ends(desk)


def test_an_item_that_comes_in_again_after_its_end_is_sold_anew(desk: Desk) -> None:
    desk.send("generic", bought(SEATS, OTHER))
    desk.send("generic", event(2, "changed", items=[OTHER]))
    desk.now = YEAR + timedelta(days=1)
    desk.send("generic", event(3, "changed", items=[OTHER, SEATS]))
    assert 3 == len(desk.entitlements())


def test_a_product_that_sells_no_licence_takes_the_place_of_one_that_does(desk: Desk) -> None:
    desk.send("chargify", chargify(1, "signup_success", at(0), {"product": {"id": 12, "handle": "cad-pro"}}))
    free = {"product": {"id": 11, "handle": "cad-base"}}
    assert "not renewed any more" in desk.send(
        "chargify", chargify(2, "subscription_product_change", at(9), free)
    ).outcome  # fmt: skip
    desk.send("chargify", chargify(3, "renewal_success", at(19), free, transaction={"id": 77}))
    assert YEAR == desk.entitlement.expires_at


def test_states_of_one_second_are_told_apart_by_its_parts(desk: Desk) -> None:
    def changed(event_id: str, kind: str, milliseconds: int, quantity: int) -> dict[str, Any]:
        when = NOW + timedelta(milliseconds=milliseconds)
        return fastspring(fs_event(event_id, kind, fs_subscription(changed=when, quantity=quantity), created=when))

    desk.send("fastspring", changed("e1", "subscription.activated", 0, 5))
    desk.send("fastspring", changed("e3", "subscription.updated", 800, 8))
    assert "older" in desk.send("fastspring", changed("e2", "subscription.updated", 300, 2)).outcome
    assert 8 == desk.entitlement.seats
