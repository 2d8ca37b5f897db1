"""FastSpring, Maxio, Zuora and whoever signs the neutral form: each from purchase to end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lls.faults import BadRequest
from lls.licensing.fields import write_instant
from tests.issuer.appliance import NOW, Appliance
from tests.issuer.intake.conftest import DONE, FAILED, HELD, IGNORED, Desk
from tests.issuer.intake.sources import chargify, fastspring, fs_event, fs_subscription, zuora

TWO_YEARS = NOW.replace(year=NOW.year + 2)


def at(seconds: int) -> str:
    return write_instant(NOW + timedelta(seconds=seconds))


# -- FastSpring -------------------------------------------------------------------------------------------------------


def fs(event_id: str, kind: str, *, seconds: int = 0, **changes: Any) -> dict[str, Any]:
    when = NOW + timedelta(seconds=seconds)
    return fastspring(fs_event(event_id, kind, fs_subscription(changed=when, **changes), created=when))


def test_a_fastspring_subscription_from_purchase_to_end(desk: Desk) -> None:
    assert DONE == desk.send("fastspring", fs("e1", "subscription.activated")).status
    assert (5, "CAD-PRO", "fastspring:fsSub1") == (
        desk.entitlement.seats, desk.entitlement.sku, desk.entitlement.order_ref,
    )  # fmt: skip
    assert "Example Works" == desk.issuer.customer("C-42").name
    charge = {"status": "successful", "order": "fsOrd2", "subscription": {"id": "fsSub1"}}
    renewed = fastspring(fs_event("e2", "subscription.charge.completed", charge, created=NOW))
    assert DONE == desk.send("fastspring", renewed).status
    assert TWO_YEARS == desk.entitlement.expires_at
    desk.send("fastspring", fs("e3", "subscription.updated", seconds=20, quantity=8))
    desk.send("fastspring", fs("e4", "subscription.updated", seconds=10, quantity=2))
    assert 8 == desk.entitlement.seats
    assert IGNORED == desk.send("fastspring", fs("e5", "subscription.canceled", seconds=30)).status
    assert DONE == desk.send("fastspring", fs("e6", "subscription.deactivated", seconds=40, state="deactivated")).status
    assert "disabled" == desk.entitlement.status


def test_several_events_in_one_post_are_each_one(desk: Desk) -> None:
    two = fastspring(*fs("e1", "subscription.updated", seconds=5, quantity=6)["events"],
                     *fs("e2", "subscription.activated")["events"])  # fmt: skip
    assert ["e1", "e2"] == [taken.event_id for taken in desk.receive("fastspring", two)]
    desk.intake.process(now=NOW)
    assert ["done", "done"] == desk.statuses()
    assert 6 == desk.entitlement.seats


def test_of_a_fastspring_order_only_what_is_no_subscription_is_ordered(desk: Desk, hosted: Appliance) -> None:
    order = {
        "id": "fsOrd1", "reference": "WRK1", "account": "fsAcc1", "customer": {"first": "Ada", "last": "Example"},
        "tags": {"account_ref": "C-7", "server_id": hosted.server_id},
        "items": [
            {"product": "cad-pro", "quantity": 5, "subscription": "fsSub1"}, {"product": "cad-pro", "quantity": 2},
        ],
    }  # fmt: skip
    assert DONE == desk.send("fastspring", fastspring(fs_event("e1", "order.completed", order, created=NOW))).status
    assert (2, "fastspring:fsOrd1") == (desk.entitlement.seats, desk.entitlement.order_ref)
    assert "Ada Example" == desk.issuer.customer("C-7").name


def test_an_order_of_nobody_fails_and_says_what_is_missing(desk: Desk) -> None:
    order = {"id": "fsOrd1", "account": "fsAcc1", "items": [{"product": "cad-pro", "quantity": 2}]}
    fate = desk.send("fastspring", fastspring(fs_event("e1", "order.completed", order, created=NOW)))
    assert (FAILED, True) == (fate.status, "account_ref" in fate.outcome)


# -- Maxio ------------------------------------------------------------------------------------------------------------


def allocation(number: int, quantity: int, seconds: int) -> dict[str, Any]:
    component = {"id": 77, "handle": "seats", "kind": "quantity_based_component"}
    return chargify(
        number, "component_allocation_change", at(seconds), {}, component=component, previous_allocation=0,
        new_allocation=quantity,
    )  # fmt: skip


def test_a_maxio_subscription_whose_seats_are_a_component(desk: Desk) -> None:
    assert HELD == desk.send("chargify", allocation(2, 5, 0)).status
    desk.send("chargify", chargify(1, "signup_success", at(0), {}))
    assert (5, "CAD-PRO") == (desk.entitlement.seats, desk.entitlement.sku)
    desk.send("chargify", allocation(3, 9, 20))
    assert "older" in desk.send("chargify", allocation(4, 6, 10)).outcome
    assert 9 == desk.entitlement.seats
    for number in (5, 6):
        paid = chargify(number, "renewal_success", at(30), {}, transaction={"id": 4711})
        assert DONE == desk.send("chargify", paid).status
    assert TWO_YEARS == desk.entitlement.expires_at
    ends = write_instant(NOW + timedelta(days=3)).replace("T", " ").replace("Z", " -0500")
    over = chargify(7, "subscription_state_change", at(40), {"state": "canceled", "current_period_ends_at": ends})
    assert HELD == desk.send("chargify", over).status
    desk.now += timedelta(days=3, hours=5)
    desk.intake.process(now=desk.now)
    assert "disabled" == desk.entitlement.status


def test_maxio_puts_a_subscription_on_hold_and_takes_it_up_again(desk: Desk) -> None:
    desk.send("chargify", chargify(1, "signup_success", at(0), {"product": {"handle": "cad-pro", "id": 1}}))
    desk.send("chargify", chargify(2, "subscription_state_change", at(1), {"state": "on_hold"}))
    assert "disabled" == desk.entitlement.status
    desk.send("chargify", chargify(3, "subscription_state_change", at(2), {"state": "active"}))
    assert "active" == desk.entitlement.status


def test_a_component_that_is_taken_out_is_not_renewed(desk: Desk) -> None:
    desk.send("chargify", chargify(1, "signup_success", at(0), {}))
    desk.send("chargify", allocation(2, 5, 1))
    assert "not renewed" in desk.send("chargify", allocation(3, 0, 2)).outcome
    before = desk.entitlement.expires_at
    desk.send("chargify", chargify(4, "renewal_success", at(3), {}))
    assert before == desk.entitlement.expires_at


def test_a_newer_word_for_another_thing_does_not_hide_an_older_one(desk: Desk) -> None:
    desk.send("chargify", chargify(1, "signup_success", at(0), {"product": {"handle": "cad-pro", "id": 1}}))
    desk.send("chargify", chargify(2, "subscription_state_change", at(30), {"state": "active"}))
    desk.send("chargify", allocation(3, 7, 20))
    desk.send(
        "chargify", chargify(4, "subscription_product_change", at(10), {"product": {"handle": "cad-pro", "id": 1}})
    )
    assert [1, 7] == sorted(one.seats or 0 for one in desk.entitlements())


def test_a_component_that_was_taken_out_before_it_was_heard_of_is_there_to_its_end_as_in_right_order(
    desk: Desk,
) -> None:
    desk.send("chargify", chargify(1, "signup_success", at(0), {}))
    desk.send("chargify", allocation(3, 0, 20))
    assert "older" in desk.send("chargify", allocation(2, 5, 10)).outcome
    before = desk.entitlement.expires_at
    desk.send("chargify", chargify(5, "renewal_success", at(25), {}))
    assert (5, before) == (desk.entitlement.seats, desk.entitlement.expires_at)
    desk.send("chargify", allocation(4, 6, 30))
    assert 6 == desk.entitlement.seats


# -- Zuora ------------------------------------------------------------------------------------------------------------


def test_a_zuora_subscription_from_purchase_to_end(desk: Desk) -> None:
    assert HELD == desk.send("zuora", zuora("SubscriptionRenewed", at(5), 2)).status
    desk.send("zuora", zuora("SubscriptionCreated", at(0), 1))
    assert (5, "zuora:A-S1-v1", TWO_YEARS) == (
        desk.entitlement.seats, desk.entitlement.order_ref, desk.entitlement.expires_at,
    )  # fmt: skip
    desk.send("zuora", zuora("SubscriptionUpdated", at(10), 3, "7"))
    assert 7 == desk.entitlement.seats
    desk.send("zuora", zuora("SubscriptionSuspended", at(20), 3, "7"))
    assert "disabled" == desk.entitlement.status
    desk.send("zuora", zuora("SubscriptionResumed", at(30), 3, "7"))
    assert "active" == desk.entitlement.status
    cancelled = zuora("SubscriptionCancelled", at(40), 4, "7", TermEndDate="2026-12-01")
    assert "2026-12-01T00:00:00Z" in desk.send("zuora", cancelled).outcome


def test_an_update_that_comes_after_a_newer_suspension_still_counts(desk: Desk) -> None:
    desk.send("zuora", zuora("SubscriptionCreated", at(0), 1))
    desk.send("zuora", zuora("SubscriptionSuspended", at(20), 2, "7"))
    desk.send("zuora", zuora("SubscriptionUpdated", at(10), 2, "7"))
    assert (7, "disabled") == (desk.entitlement.seats, desk.entitlement.status)


def test_a_made_up_renewal_of_a_known_version_changes_nothing(desk: Desk) -> None:
    desk.send("zuora", zuora("SubscriptionCreated", at(0), 1))
    for seconds in (5, 6):
        desk.send("zuora", zuora("SubscriptionRenewed", at(seconds), 2))
    assert TWO_YEARS == desk.entitlement.expires_at


# -- the neutral form -------------------------------------------------------------------------------------------------


def neutral(event_id: str, kind: str, *, seconds: int = 0, **members: Any) -> dict[str, Any]:
    return {"event_id": event_id, "type": kind, "occurred_at": at(seconds), **members}


ITEMS = [{"item": "seat", "product": "CAD-PRO", "quantity": 5}]


def test_a_neutral_order_is_fulfilled_as_it_stands(desk: Desk, hosted: Appliance) -> None:
    order = {
        "order_ref": "SO-1", "account_ref": "C-42", "server_id": hosted.server_id,
        "customer": {"name": "Example Works"},
        "lines": [{"line": 1, "action": "new", "sku": "CAD-PRO", "quantity": 3}],
    }  # fmt: skip
    assert DONE == desk.send("generic", neutral("e1", "order", order=order)).status
    assert "fulfilled before" in desk.send("generic", neutral("e2", "order", order=order)).outcome
    assert 3 == desk.entitlement.seats


def test_a_neutral_subscription_from_purchase_to_end(desk: Desk) -> None:
    begun: dict[str, Any] = {
        "subscription": "S", "ref": "R1", "account_ref": "C-42", "customer_name": "Example Works", "items": ITEMS,
    }  # fmt: skip
    desk.send("generic", neutral("e1", "subscription.started", **begun))
    desk.send("generic", neutral("e2", "subscription.renewed", subscription="S", ref="R2"))
    more = [{**ITEMS[0], "quantity": 8}, {"item": "std", "product": "CAD-STD", "quantity": 2}]
    desk.send("generic", neutral("e3", "subscription.changed", seconds=5, subscription="S", items=more))
    assert [("CAD-PRO", 8), ("CAD-STD", 2)] == sorted((one.sku, one.seats) for one in desk.entitlements())
    assert TWO_YEARS == max(one.expires_at for one in desk.entitlements() if one.expires_at)
    desk.send("generic", neutral("e4", "subscription.ended", seconds=6, subscription="S"))
    assert ["disabled", "disabled"] == [one.status for one in desk.entitlements()]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"type": "subscription.moved"}, "event.type"),
        ({"occurred_at": "yesterday"}, "event.occurred_at"),
        ({"items": [{"item": "a", "product": "b", "quantity": 0}]}, "event.items[0].quantity"),
        ({"items": [{"item": "a", "product": "b", "quantity": 1, "price": 5}]}, "event.items[0].price"),
        ({"items": [*ITEMS, *ITEMS]}, "event.items"),
        ({"seats": 5}, "event.seats"),
        ({"event_id": "\u202e"}, "event.event_id"),
    ],
)
def test_nonsense_in_our_own_form_is_refused_before_it_is_stored(
    desk: Desk, changes: dict[str, Any], names: str
) -> None:
    begun = neutral("e1", "subscription.started", subscription="S", ref="R1", account_ref="C-42", items=ITEMS)
    with pytest.raises(BadRequest, match=names.replace("[", r"\[")):
        desk.receive("generic", {**begun, **changes})
    assert [] == desk.statuses()
