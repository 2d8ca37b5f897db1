"""Stripe's events make, renew, change and end entitlements, in whatever order they come."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from lls.issuer.intake.processing import Intake
from lls.issuer.intake.settings import read_settings
from tests.issuer.appliance import NOW, Appliance
from tests.issuer.intake.conftest import DONE, FAILED, HELD, IGNORED, INTAKE, Desk
from tests.issuer.intake.sources import invoice, session, stripe, subscription

YEAR = NOW + timedelta(days=365)


def bought(desk: Desk) -> None:
    desk.send("stripe", stripe("evt_1", "checkout.session.completed", session(), created=NOW))
    desk.send("stripe", stripe("evt_2", "invoice.paid", invoice(), created=NOW))


def updated(event_id: str, seconds: int, **changes: Any) -> dict[str, Any]:
    at = NOW + timedelta(seconds=seconds)
    return stripe(event_id, "customer.subscription.updated", subscription(ends=YEAR, **changes), created=at)


def deleted(event_id: str = "evt_9", seconds: int = 60, **changes: Any) -> dict[str, Any]:
    about = subscription(ends=YEAR, status="canceled", **changes)
    return stripe(event_id, "customer.subscription.deleted", about, created=NOW + timedelta(seconds=seconds))


def test_a_session_and_its_invoice_make_one_entitlement(desk: Desk) -> None:
    bought(desk)
    assert (5, "CAD-PRO", "pro", "active") == (
        desk.entitlement.seats, desk.entitlement.sku, desk.entitlement.edition, desk.entitlement.status,
    )  # fmt: skip
    assert "Example Works" == desk.issuer.customer("C-42").name
    assert "stripe:in_1" == desk.entitlement.order_ref


def test_an_invoice_before_its_session_is_held_until_somebody_says_whose_it_is(desk: Desk) -> None:
    assert HELD == desk.send("stripe", stripe("evt_2", "invoice.paid", invoice(), created=NOW)).status
    assert [] == desk.entitlements()
    desk.send("stripe", stripe("evt_1", "checkout.session.completed", session(), created=NOW))
    assert ["done", "done"] == desk.statuses()
    assert 5 == desk.entitlement.seats


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_any_order_of_arrival_gives_the_same(desk: Desk, order: tuple[int, ...]) -> None:
    events = [
        stripe("evt_1", "checkout.session.completed", session(), created=NOW),
        stripe("evt_2", "invoice.paid", invoice(), created=NOW),
        updated("evt_3", 10, quantity=7),
        updated("evt_4", 20, quantity=9),
    ]
    for n in order:
        desk.receive("stripe", events[n])
        desk.intake.process(now=desk.now)
    assert ["done"] * 4 == desk.statuses()
    assert 9 == desk.entitlement.seats


def test_the_same_event_again_changes_nothing_though_its_delivery_counter_differs(desk: Desk) -> None:
    bought(desk)
    again = {**stripe("evt_2", "invoice.paid", invoice(), created=NOW), "pending_webhooks": 3}
    assert [True] == [taken.again for taken in desk.receive("stripe", again)]
    assert [] == desk.intake.process(now=desk.now)
    assert 5 == desk.entitlement.seats


def test_another_event_of_the_same_invoice_renews_once(desk: Desk) -> None:
    bought(desk)
    for event_id in ("evt_5", "evt_6"):
        paid = stripe(event_id, "invoice.paid", invoice("in_2", "subscription_cycle"), created=NOW)
        assert DONE == desk.send("stripe", paid).status
    assert NOW.replace(year=NOW.year + 2) == desk.entitlement.expires_at


def test_a_renewal_before_its_beginning_is_held(desk: Desk) -> None:
    paid = stripe("evt_5", "invoice.paid", invoice("in_2", "subscription_cycle"), created=NOW)
    assert HELD == desk.send("stripe", paid).status
    bought(desk)
    assert NOW.replace(year=NOW.year + 2) == desk.entitlement.expires_at


def test_fewer_seats_are_fewer_seats_and_an_older_state_changes_nothing(desk: Desk) -> None:
    bought(desk)
    assert DONE == desk.send("stripe", updated("evt_4", 20, quantity=3)).status
    assert "older" in desk.send("stripe", updated("evt_3", 10, quantity=8)).outcome
    assert 3 == desk.entitlement.seats


def test_another_price_is_another_edition(desk: Desk) -> None:
    about = invoice()
    about["lines"]["data"][0]["pricing"]["price_details"]["price"] = "price_std"
    desk.send("stripe", stripe("evt_1", "checkout.session.completed", session(), created=NOW))
    desk.send("stripe", stripe("evt_2", "invoice.paid", about, created=NOW))
    assert "std" == desk.entitlement.edition
    assert DONE == desk.send("stripe", updated("evt_3", 10, price="price_pro", quantity=6)).status
    assert ("pro", "CAD-PRO", 6) == (desk.entitlement.edition, desk.entitlement.sku, desk.entitlement.seats)


def test_unpaid_is_disabled_and_active_again_enabled(desk: Desk) -> None:
    bought(desk)
    desk.send("stripe", updated("evt_3", 10, status="unpaid"))
    assert "disabled" == desk.entitlement.status
    desk.send("stripe", updated("evt_4", 20, status="past_due"))
    assert "disabled" == desk.entitlement.status
    desk.send("stripe", updated("evt_5", 30, status="active"))
    assert "active" == desk.entitlement.status


def test_a_deleted_subscription_ends_with_what_was_paid_for(desk: Desk) -> None:
    bought(desk)
    assert HELD == desk.send("stripe", deleted()).status
    assert "active" == desk.entitlement.status
    desk.now = YEAR - timedelta(seconds=1)
    assert [] == desk.intake.process(now=desk.now)
    desk.now = YEAR
    assert [DONE] == [fate.status for fate in desk.intake.process(now=desk.now)]
    assert "disabled" == desk.entitlement.status


def test_a_deleted_subscription_ends_at_once_where_the_vendor_says_so(desk: Desk, config: Any) -> None:
    config.write_text(INTAKE.replace("[stripe]\n", '[stripe]\non_end = "at_once"\n'))
    desk.intake = Intake(desk.issuer, read_settings(config))
    bought(desk)
    assert DONE == desk.send("stripe", deleted()).status
    assert "disabled" == desk.entitlement.status


def test_an_end_before_its_beginning_is_held_and_an_older_state_does_not_undo_it(desk: Desk) -> None:
    desk.send("stripe", deleted(items={"object": "list", "data": []}))
    bought(desk)
    assert "disabled" == desk.entitlement.status
    assert "older" in desk.send("stripe", updated("evt_4", 10)).outcome
    assert "disabled" == desk.entitlement.status


def test_a_subscription_that_lives_again_before_its_end_is_not_disabled(desk: Desk) -> None:
    bought(desk)
    desk.send("stripe", deleted())
    desk.send("stripe", updated("evt_10", 120))
    desk.now = YEAR
    desk.intake.process(now=desk.now)
    assert "active" == desk.entitlement.status


def test_a_product_that_nobody_named_fails_until_it_is(desk: Desk, config: Any) -> None:
    about = invoice()
    about["lines"]["data"][0]["pricing"]["price_details"]["price"] = "price_new"
    desk.send("stripe", stripe("evt_1", "checkout.session.completed", session(), created=NOW))
    fate = desk.send("stripe", stripe("evt_2", "invoice.paid", about, created=NOW))
    assert FAILED == fate.status
    assert "'price_new'" in fate.outcome
    assert [] == desk.entitlements()
    config.write_text(INTAKE.replace("[skus]\n", '[skus]\nprice_new = "CAD-STD"\n'))
    desk.intake = Intake(desk.issuer, read_settings(config))
    desk.intake.inbox.retry(fate.key)
    assert [DONE] == [one.status for one in desk.intake.process(now=desk.now)]
    assert "CAD-STD" == desk.entitlement.sku


def test_the_older_shape_of_objects_is_read_too(desk: Desk, hosted: Appliance) -> None:
    about = {
        "id": "in_1", "object": "invoice", "billing_reason": "subscription_create", "customer": "cus_1",
        "subscription": "sub_1", "lines": {"object": "list", "data": [
            {"id": "il_1", "price": {"id": "price_pro"}, "quantity": 4, "subscription_item": "si_1"},
            {"id": "il_2", "price": {"id": "price_setup"}, "quantity": 1},
        ]},
        "subscription_details": {"metadata": {"account_ref": "C-42", "server_id": hosted.server_id}},
        "customer_name": "Example Works",
    }  # fmt: skip
    assert DONE == desk.send("stripe", stripe("evt_1", "invoice.paid", about, created=NOW)).status
    assert [(4, hosted.server_id)] == [
        (sold.document["seats"], sold.server_id) for sold in desk.issuer.register.entitlements()
    ]
    old = {"id": "sub_1", "status": "canceled", "current_period_end": int(YEAR.timestamp())}
    assert HELD == desk.send("stripe", stripe("evt_2", "customer.subscription.deleted", old, created=NOW)).status


def test_a_single_purchase_of_credit_is_given_when_its_invoice_is_paid(desk: Desk) -> None:
    bought(desk)
    about = invoice("in_7", "manual", 1, parent=None, metadata={"account_ref": "C-42"})
    line = about["lines"]["data"][0]
    line["pricing"]["price_details"]["price"], line["parent"] = "price_cloud", None
    assert DONE == desk.send("stripe", stripe("evt_7", "invoice.paid", about, created=NOW)).status
    (grant,) = next(one.grants for one in desk.entitlement.features if one.key == "cloud")
    assert 100_000 == grant.amount


def test_credit_ordered_with_the_invoice_waits_for_its_payment_whichever_comes_first(desk: Desk, config: Any) -> None:
    config.write_text(INTAKE.replace("[stripe]\n", '[stripe]\nfulfil_on = "invoice.created"\n'))
    desk.intake = Intake(desk.issuer, read_settings(config))
    desk.send("stripe", stripe("evt_1", "checkout.session.completed", session(), created=NOW))
    desk.send("stripe", stripe("evt_2", "invoice.created", invoice(), created=NOW))
    for number, kinds in (("in_7", ("created", "paid")), ("in_8", ("paid", "created"))):
        about = invoice(number, "manual", 1, parent=None, metadata={"account_ref": "C-42"})
        about["lines"]["data"][0]["pricing"]["price_details"]["price"] = "price_cloud"
        counts = []
        for kind in kinds:
            assert (
                DONE == desk.send("stripe", stripe(f"evt_{number}{kind}", f"invoice.{kind}", about, created=NOW)).status
            )
            counts.append(sum(len(one.grants) for one in desk.entitlement.features if one.key == "cloud"))
        before = 0 if number == "in_7" else 1
        assert [before, before + 1] == counts


@pytest.mark.parametrize(
    ("kind", "about"),
    [
        ("charge.refunded", {}),
        ("invoice.paid", invoice("in_3", "subscription_update")),
        ("customer.subscription.updated", subscription(ends=YEAR, status="incomplete")),
        ("customer.subscription.deleted", subscription(ends=YEAR, status="incomplete_expired")),
        ("checkout.session.completed", session(subscription=None, payment_status="unpaid")),
        ("checkout.session.completed", session(subscription=None, mode="payment")),
    ],
)
def test_what_changes_nothing_is_kept_and_says_why(desk: Desk, kind: str, about: dict[str, Any]) -> None:
    fate = desk.send("stripe", stripe("evt_1", kind, about, created=NOW))
    assert IGNORED == fate.status
    assert fate.outcome.endswith(".")


def test_half_a_list_of_items_is_not_half_fulfilled(desk: Desk) -> None:
    about = invoice()
    about["lines"]["has_more"] = True
    desk.send("stripe", stripe("evt_1", "checkout.session.completed", session(), created=NOW))
    assert FAILED == desk.send("stripe", stripe("evt_2", "invoice.paid", about, created=NOW)).status
    assert [] == desk.entitlements()


# -- single lines -----------------------------------------------------------------------------------------------------


def with_line(about: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """An invoice with one more line, that is no subscription item."""
    line = {
        "id": "il_once", "object": "line_item", "amount": 9900, "quantity": 2,
        "parent": {"type": "invoice_item_details", "invoice_item_details": {
            "invoice_item": "ii_1", "proration": False, "subscription": "sub_1",
        }},
        "pricing": {"type": "price_details", "price_details": {"price": "price_std", "product": "prod_2"}}, **changes,
    }  # fmt: skip
    lines = about["lines"]
    return {**about, "lines": {**lines, "data": [*lines["data"], line]}}


def test_a_single_line_of_a_first_invoice_is_sold_once_and_never_renewed(desk: Desk) -> None:
    desk.send("stripe", stripe("evt_1", "checkout.session.completed", session(), created=NOW))
    desk.send("stripe", stripe("evt_2", "invoice.paid", with_line(invoice()), created=NOW))
    assert {"CAD-PRO": 5, "CAD-STD": 2} == {one.sku: one.seats for one in desk.entitlements()}
    assert {"stripe:in_1", "stripe:in_1:single"} == {one.order_ref for one in desk.entitlements()}
    desk.send("stripe", stripe("evt_3", "invoice.paid", invoice("in_2", "subscription_cycle"), created=NOW))
    # The subscription, as Stripe tells it, does not hold the single thing; that ends with its own term.
    desk.send("stripe", updated("evt_4", 20, quantity=5))
    later = {"CAD-PRO": NOW.replace(year=NOW.year + 2), "CAD-STD": NOW.replace(year=NOW.year + 1)}
    assert later == {one.sku: one.expires_at for one in desk.entitlements()}
    assert {"active"} == {one.status for one in desk.entitlements()}


@pytest.mark.parametrize("reason", ["subscription_cycle", "subscription_update"])
def test_a_single_line_of_a_later_invoice_is_sold_by_itself_and_fails_by_itself(desk: Desk, reason: str) -> None:
    bought(desk)
    about = with_line(invoice("in_2", reason), pricing={"price_details": {"price": "price_nobody_named"}})
    fates = {fate.event_id: fate.status for fate in (desk.receive("stripe", stripe(
        "evt_3", "invoice.paid", about, created=NOW)), desk.intake.process(now=desk.now))[1]}  # fmt: skip
    assert {"evt_3": DONE if reason == "subscription_cycle" else IGNORED, "evt_3:single": FAILED} == fates


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": -500},
        {"parent": {"type": "invoice_item_details", "invoice_item_details": {"proration": True}}},
        {"parent": {"type": "subscription_item_details", "subscription_item_details": {"proration": True}}},
    ],
)
def test_what_settles_money_is_nothing_that_was_bought(desk: Desk, changes: dict[str, Any]) -> None:
    desk.send("stripe", stripe("evt_1", "checkout.session.completed", session(), created=NOW))
    desk.send("stripe", stripe("evt_2", "invoice.paid", with_line(invoice(), **changes), created=NOW))
    assert ["CAD-PRO"] == [one.sku for one in desk.entitlements()]
    assert ["done", "done"] == desk.statuses()


def test_an_invoice_renews_what_stands_on_it(desk: Desk) -> None:
    """An item added after the period was invoiced, but told of before: the invoice was not for it."""
    bought(desk)
    more = subscription(ends=YEAR)
    more["items"]["data"].append({"id": "si_2", "price": {"id": "price_std"}, "quantity": 1})
    desk.send("stripe", stripe("evt_3", "customer.subscription.updated", more, created=NOW + timedelta(seconds=5)))
    paid = stripe("evt_4", "invoice.paid", invoice("in_2", "subscription_cycle"), created=NOW + timedelta(days=30))
    assert DONE == desk.send("stripe", paid).status
    ends = {"CAD-PRO": NOW.replace(year=NOW.year + 2), "CAD-STD": NOW.replace(year=NOW.year + 1)}
    assert ends == {one.sku: one.expires_at for one in desk.entitlements()}


def test_a_renewal_whose_invoice_shows_half_its_lines_is_for_all_that_was_in_it(desk: Desk) -> None:
    bought(desk)
    about = invoice("in_2", "subscription_cycle")
    about["lines"] = {"object": "list", "has_more": True, "data": []}
    assert DONE == desk.send("stripe", stripe("evt_3", "invoice.paid", about, created=NOW)).status
    assert NOW.replace(year=NOW.year + 2) == desk.entitlement.expires_at


@pytest.mark.parametrize("first", [0, 1])
def test_an_end_is_the_last_word_of_its_second(desk: Desk, config: Any, first: int) -> None:
    config.write_text(INTAKE.replace("[stripe]\n", '[stripe]\non_end = "at_once"\n'))
    desk.intake = Intake(desk.issuer, read_settings(config))
    bought(desk)
    both = [updated("evt_4", 60), deleted()]
    for one in (both[first], both[1 - first]):
        desk.send("stripe", one)
    assert "disabled" == desk.entitlement.status


def test_metadata_changed_after_an_end_does_not_end_what_is_paid_for(desk: Desk) -> None:
    """Stripe tells of an ended subscription as updated, with the status canceled."""
    bought(desk)
    assert HELD == desk.send("stripe", deleted()).status
    desk.send("stripe", updated("evt_10", 120, status="canceled"))
    assert "active" == desk.entitlement.status
    desk.now = YEAR
    desk.intake.process(now=desk.now)
    assert "disabled" == desk.entitlement.status
