"""Events and the customers that they are about: disabled, deleted, forgotten; and what somebody did by hand."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lls.faults import BadRequest
from lls.issuer.cli import app
from lls.issuer.history import whoever
from lls.issuer.intake.processing import Intake
from lls.issuer.intake.settings import read_settings
from lls.issuer.refusals import OrderRefused
from lls.licensing.fields import write_instant
from tests.issuer.appliance import NOW
from tests.issuer.intake.conftest import DONE, FAILED, HELD, IGNORED, INTAKE, Desk
from tests.issuer.intake.sources import chargify, fastspring, fs_event, fs_subscription, invoice, session, stripe, zuora

YEAR, TWO_YEARS = NOW.replace(year=NOW.year + 1), NOW.replace(year=NOW.year + 2)
SEATS = {"item": "i-1", "product": "CAD-PRO", "quantity": 5}
OTHER = {"item": "i-2", "product": "CAD-STD", "quantity": 2}


def at(seconds: int) -> str:
    return write_instant(NOW + timedelta(seconds=seconds))


def event(number: int, kind: str, *, of: str = "s-1", **members: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{number}", "type": f"subscription.{kind}", "occurred_at": at(number), "subscription": of,
        **members,
    }  # fmt: skip


def bought(*items: dict[str, Any], number: int = 1, of: str = "s-1") -> dict[str, Any]:
    who = {"account_ref": "C-42", "customer_name": "Example Works"}
    return event(number, "started", of=of, ref=f"p-{of}", **who, items=list(items or (SEATS,)))


def order(order_ref: str, number: int = 50) -> dict[str, Any]:
    lines = [{"line": 1, "action": "new", "sku": "CAD-PRO", "quantity": 1}]
    document = {"order_ref": order_ref, "account_ref": "C-42", "customer": {"name": "Example Works"}, "lines": lines}
    return {"event_id": f"o{number}", "type": "order", "occurred_at": at(number), "order": document}


def deleted(desk: Desk) -> None:
    desk.issuer.customers.delete("C-42", confirm="Example Works", now=desk.now)


# -- a renewal and what came before it --------------------------------------------------------------------------------


def test_a_removal_that_is_told_after_the_renewal_it_preceded_takes_that_back(desk: Desk) -> None:
    desk.send("generic", bought(SEATS, OTHER))
    desk.send("generic", event(20, "renewed", ref="inv-2"))
    assert {"CAD-PRO": TWO_YEARS, "CAD-STD": TWO_YEARS} == {one.sku: one.expires_at for one in desk.entitlements()}
    told = desk.send("generic", event(10, "changed", items=[SEATS]))
    assert (DONE, True) == (told.status, "The renewal generic:inv-2 of" in told.outcome)
    assert {"CAD-PRO": TWO_YEARS, "CAD-STD": YEAR} == {one.sku: one.expires_at for one in desk.entitlements()}
    desk.issuer.audit.verify()


def test_a_renewal_that_somebody_prolonged_by_hand_is_not_taken_back_unseen(desk: Desk) -> None:
    desk.send("generic", bought(SEATS, OTHER))
    desk.send("generic", event(20, "renewed", ref="inv-2"))
    for one in desk.entitlements():
        desk.issuer.amending.renew(one.entitlement_id, now=desk.now)
    told = desk.send("generic", event(10, "changed", items=[SEATS]))
    assert (FAILED, True) == (told.status, "changed since" in told.outcome)


def part(desk: Desk, action: str) -> None:
    """One of the two standard seats, by an order of the vendor's own."""
    (whole,) = (one for one in desk.entitlements() if one.sku == "CAD-STD")
    sku = {"renew": "CAD-STD", "upgrade": "TO-PRO"}[action]
    line = {"line": 1, "action": action, "sku": sku, "quantity": 1, "entitlement_id": whole.entitlement_id}
    own = {"order_ref": f"SO-{action}", "account_ref": "C-42", "lines": [line]}
    desk.issuer.fulfil(json.dumps(own).encode(), now=desk.now)


@pytest.mark.parametrize("action", ["renew", "upgrade"])
def test_what_a_subscription_pays_for_is_parted_by_its_source_alone(desk: Desk, action: str) -> None:
    """It would renew and end all of its seats, and none of the part."""
    desk.send("generic", bought(SEATS, OTHER))
    with pytest.raises(OrderRefused, match="is what the subscription s-1 of generic pays for"):
        part(desk, action)
    assert {"CAD-PRO": 5, "CAD-STD": 2} == {one.sku: one.seats for one in desk.entitlements()}
    desk.send("generic", event(10, "changed", items=[SEATS]))
    part(desk, action)
    assert 3 == len(desk.entitlements())


@pytest.mark.parametrize("action", ["renew", "upgrade"])
def test_a_renewal_whose_dates_some_of_the_seats_took_with_them_is_not_taken_back_unseen(
    desk: Desk, action: str
) -> None:
    desk.send("generic", bought(SEATS, OTHER))
    desk.send("generic", event(20, "renewed", ref="inv-2"))
    desk.send("generic", event(30, "changed", items=[SEATS]))
    part(desk, action)
    told = desk.send("generic", event(10, "changed", items=[SEATS]))
    assert (FAILED, True) == (told.status, "became an entitlement of their own since" in told.outcome)
    assert YEAR not in {one.expires_at for one in desk.entitlements()}


def test_what_was_bought_before_a_renewal_and_told_after_it_is_renewed_with_it(desk: Desk) -> None:
    desk.send("generic", bought(SEATS))
    desk.send("generic", event(20, "renewed", ref="inv-2"))
    desk.send("generic", event(10, "changed", items=[SEATS, OTHER]))
    assert {"CAD-PRO": TWO_YEARS, "CAD-STD": TWO_YEARS} == {one.sku: one.expires_at for one in desk.entitlements()}


# -- ends, and who disabled -------------------------------------------------------------------------------------------


def test_a_renewal_after_an_end_lets_the_subscription_live_again(desk: Desk) -> None:
    desk.send("generic", bought())
    desk.send("generic", event(10, "ended"))
    assert "disabled" == desk.entitlement.status
    desk.send("generic", event(20, "renewed", ref="inv-2"))
    assert ("active", TWO_YEARS) == (desk.entitlement.status, desk.entitlement.expires_at)


def test_an_end_whose_day_comes_after_a_renewal_is_settled_and_ends_nothing(desk: Desk) -> None:
    desk.send("generic", bought())
    assert HELD == desk.send("generic", event(10, "ended", paid_until=at(86_400))).status
    desk.send("generic", event(20, "renewed", ref="inv-2"))
    desk.now += timedelta(days=2)
    assert [DONE] == [fate.status for fate in desk.intake.process(now=desk.now)]
    assert ("active", TWO_YEARS) == (desk.entitlement.status, desk.entitlement.expires_at)


def test_a_renewal_does_not_take_a_suspension_back(desk: Desk) -> None:
    desk.send("generic", bought())
    desk.send("generic", event(10, "changed", active=False))
    desk.send("generic", event(20, "renewed", ref="inv-2"))
    assert ("disabled", TWO_YEARS) == (desk.entitlement.status, desk.entitlement.expires_at)


@pytest.mark.parametrize("first", [0, 1])
def test_end_and_return_within_one_instant_follow_the_sources_own_count(desk: Desk, first: int) -> None:
    desk.send("generic", bought())
    both = [
        {**event(30, "ended"), "event_id": "x1", "sequence": 7},
        {**event(30, "changed", active=True), "event_id": "x2", "sequence": 8},
    ]
    for one in (both[first], both[1 - first]):
        desk.send("generic", one)
    assert "active" == desk.entitlement.status


@pytest.mark.parametrize("first", [0, 1])
def test_of_zuoras_events_within_one_instant_the_higher_version_is_the_later(desk: Desk, first: int) -> None:
    desk.send("zuora", zuora("SubscriptionCreated", at(0), 1))
    both = [zuora("SubscriptionSuspended", at(9), 2), zuora("SubscriptionResumed", at(9), 3)]
    for one in (both[first], both[1 - first]):
        desk.send("zuora", one)
    assert "active" == desk.entitlement.status


def test_a_return_of_the_source_does_not_enable_what_somebody_disabled_by_hand(desk: Desk) -> None:
    desk.send("generic", bought())
    desk.issuer.amending.disable(desk.entitlement.entitlement_id, now=desk.now)
    desk.send("generic", event(10, "changed", active=False))
    desk.send("generic", event(20, "changed", active=True))
    assert "disabled" == desk.entitlement.status


def test_what_was_disabled_by_hand_while_its_source_had_it_suspended_stays_so(desk: Desk) -> None:
    desk.send("generic", bought())
    desk.send("generic", event(10, "changed", active=False))
    desk.issuer.register.who = whoever("ada")
    desk.issuer.amending.disable(desk.entitlement.entitlement_id, now=desk.now)
    desk.send("generic", event(20, "changed", active=True))
    assert "disabled" == desk.entitlement.status
    desk.issuer.audit.verify()


def test_what_was_enabled_by_hand_stays_so_until_the_source_turns_again(desk: Desk) -> None:
    desk.send("generic", bought())
    desk.send("generic", event(10, "changed", active=False))
    desk.issuer.amending.enable(desk.entitlement.entitlement_id, now=desk.now)
    desk.send("generic", event(20, "changed", items=[{**SEATS, "quantity": 7}]))
    assert ("active", 7) == (desk.entitlement.status, desk.entitlement.seats)


def test_an_end_that_was_dropped_was_never_said(desk: Desk) -> None:
    desk.send("generic", bought())
    held = desk.send("generic", event(10, "ended", paid_until=at(86_400)))
    assert HELD == held.status
    desk.intake.inbox.drop(held.key, reason="a mistake of the shop's")
    desk.now += timedelta(days=2)
    desk.send("generic", event(20, "changed", items=[{**SEATS, "quantity": 7}]))
    assert ("active", 7) == (desk.entitlement.status, desk.entitlement.seats)


# -- disabled customers -----------------------------------------------------------------------------------------------


def test_what_comes_for_a_disabled_customer_is_held_and_taken_up_when_it_is_enabled(desk: Desk) -> None:
    desk.send("generic", bought())
    desk.issuer.customers.disable("C-42", now=desk.now)
    fates = [
        desk.send("generic", event(20, "renewed", ref="inv-2")),
        desk.send("generic", event(30, "changed", items=[{**SEATS, "quantity": 8}])),
        desk.send("generic", order("SO-9")),
        desk.send("generic", bought(number=40, of="s-2")),
    ]
    assert [(HELD, True)] * 4 == [(fate.status, "customer enable C-42" in fate.outcome) for fate in fates]
    assert [("customer_disabled", 5, YEAR)] == [(one.status, one.seats, one.expires_at) for one in desk.entitlements()]
    desk.issuer.customers.enable("C-42", now=desk.now)
    assert [DONE] * 4 == [fate.status for fate in desk.intake.process(now=desk.now)]
    assert [(1, YEAR), (5, YEAR), (8, TWO_YEARS)] == sorted((one.seats, one.expires_at) for one in desk.entitlements())


# -- deleted customers ------------------------------------------------------------------------------------------------


def test_no_late_event_brings_a_deleted_customer_back(desk: Desk) -> None:
    desk.send("generic", bought())
    desk.send("generic", order("SO-1"))
    deleted(desk)
    late = [event(20, "renewed", ref="inv-2"), event(30, "ended"), bought(number=31)]
    assert [(IGNORED, True)] * 3 == [
        (fate.status, "was deleted on 2026-11-21" in fate.outcome)
        for fate in (desk.send("generic", one) for one in late)
    ]
    for fate in (desk.send("generic", order("SO-1", 51)), desk.send("generic", bought(number=60, of="s-9"))):
        assert (FAILED, True) == (fate.status, "customer add C-42" in fate.outcome)
    assert [] == desk.issuer.register.customers()


def test_who_was_deleted_and_is_added_by_hand_can_buy_again(desk: Desk) -> None:
    desk.send("generic", bought())
    deleted(desk)
    failed = desk.send("generic", bought(number=60, of="s-9"))
    desk.issuer.put_customer("C-42", name="Example Works", now=desk.now)
    desk.intake.inbox.retry(failed.key)
    assert [DONE] == [fate.status for fate in desk.intake.process(now=desk.now)]
    assert IGNORED == desk.send("generic", event(70, "renewed", ref="inv-2")).status


def test_with_a_customer_what_its_events_said_is_gone_but_not_their_numbers(desk: Desk, home: Path) -> None:
    paid = stripe("evt_2", "invoice.paid", invoice(), created=NOW)
    desk.send("stripe", stripe("evt_1", "checkout.session.completed", session(), created=NOW))
    desk.send("stripe", paid)
    desk.send("stripe", stripe("evt_3", "charge.refunded", {"customer": "cus_1"}, created=NOW))
    desk.receive("stripe", stripe("evt_4", "invoice.paid", invoice("in_2", "subscription_cycle"), created=NOW))
    assert 4 == desk.issuer.customers.whole("C-42").below["event"] + 1
    deleted(desk)
    assert ["done", "done", "ignored", "dropped"] == desk.statuses()
    assert [{}, {}, {}] == [desk.intake.inbox.get(key).document for key in (1, 2, 4)]
    with sqlite3.connect(home / "register.sqlite") as register:
        tables = ("event", "subscription", "said", "subscribed")
        rows = json.dumps([register.execute(f"SELECT * FROM {name}").fetchall() for name in tables])  # noqa: S608
    register.close()
    assert [] == [word for word in ("Example Works", "buy@works.example", "C-42") if word in rows]
    assert [True] == [taken.again for taken in desk.receive("stripe", paid)]


# -- bodies -----------------------------------------------------------------------------------------------------------


def test_bodies_are_removed_so_long_after_their_events_were_settled(desk: Desk, config: Path) -> None:
    config.write_text("keep_days = 30\n" + INTAKE)
    desk.intake = Intake(desk.issuer, read_settings(config))
    desk.send("generic", bought())
    desk.send("generic", event(10, "ended", paid_until=write_instant(NOW + timedelta(days=40))))
    desk.send("generic", {**order("SO-1"), "order": {**order("SO-1")["order"], "account_ref": "X", "customer": None}})
    assert 0 == desk.intake.remove_bodies(now=NOW + timedelta(days=30))
    later = NOW + timedelta(days=31)
    assert 1 == desk.intake.remove_bodies(now=later)
    kept = [bool(stored.document) for stored in desk.intake.inbox.listed()]
    assert (["done", "held", "failed"], [False, True, True]) == (desk.statuses(), kept)
    assert later == desk.intake.inbox.get(1).removed_at
    assert [True] == [taken.again for taken in desk.receive("generic", bought())]
    # What is still to come needs none of the bodies that are gone.
    desk.intake.process(now=NOW + timedelta(days=40))
    assert "disabled" == desk.entitlement.status
    assert 1 == desk.intake.remove_bodies(now=NOW + timedelta(days=75))


def test_the_command_that_processes_removes_bodies_too_and_says_of_an_event_that_it_did(
    desk: Desk, home: Path, config: Path
) -> None:
    desk.send("generic", bought())
    config.write_text("keep_days = 0\n" + INTAKE)
    processed = CliRunner().invoke(app, ["--home", str(home), "inbox", "process", "--config", str(config)])
    assert 0 == processed.exit_code, processed.stderr
    shown = json.loads(CliRunner().invoke(app, ["--home", str(home), "inbox", "show", "1", "--json"]).stdout)
    assert ({}, True) == (shown["document"], shown["body_removed_at"] is not None)


# -- numbers of other sources -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order_ref", ["stripe:in_1", "zuora:A-S1-v2", "generic:R1", "Stripe:in_1", " netsuite :SO1"])
def test_a_neutral_order_may_not_take_a_number_of_another_source(desk: Desk, order_ref: str) -> None:
    with pytest.raises(BadRequest, match=r"event\.order\.order_ref"):
        desk.receive("generic", order(order_ref.strip()))
    assert [] == desk.statuses()


def test_a_neutral_invoice_speaks_of_no_other_sources_invoice(desk: Desk) -> None:
    told = {"event_id": "i1", "type": "invoice", "occurred_at": at(0), "stage": "invoice_paid"}
    with pytest.raises(BadRequest, match=r"event\.ref"):
        desk.receive("generic", {**told, "ref": "stripe:in_1"})
    for number, ref in enumerate(("generic:R1", "SO-1", "crm:7")):
        assert DONE == desk.send("generic", {**told, "event_id": f"i{number}", "ref": ref}).status


def test_the_number_of_a_change_is_never_that_of_a_purchase(desk: Desk) -> None:
    """Maxio counts its webhooks and its subscriptions apart; both may be at 900."""
    desk.send("chargify", chargify(1, "signup_success", at(0), {"product": {"handle": "cad-pro", "id": 1}}))
    component: dict[str, Any] = {"component": {"id": 77, "handle": "seats"}, "new_allocation": 4}
    assert DONE == desk.send("chargify", chargify(900, "component_allocation_change", at(1), {}, **component)).status
    assert DONE == desk.send("chargify", chargify(901, "component_allocation_change", at(2), {}, **{
        **component, "new_allocation": 6,
    })).status  # fmt: skip
    assert [1, 6] == sorted(one.seats or 0 for one in desk.entitlements())


# -- what nobody paid -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("allowed", "status"), [(False, IGNORED), (True, DONE)])
def test_a_trial_purchase_of_a_shop_sells_nothing_unless_the_vendor_says_so(
    desk: Desk, config: Path, *, allowed: bool, status: Any
) -> None:
    said = f"\ntest_events = {str(allowed).lower()}\n"
    config.write_text(INTAKE.replace("[stripe]\n", f"[stripe]{said}").replace("[fastspring]\n", f"[fastspring]{said}"))
    desk.intake = Intake(desk.issuer, read_settings(config))
    paid = stripe("evt_2", "invoice.paid", invoice(metadata={"account_ref": "C-1"}, customer_name="W"), created=NOW)
    tried = fs_event("e1", "subscription.activated", fs_subscription(changed=NOW), created=NOW)
    fates = [
        desk.send("stripe", {**paid, "livemode": False}),
        desk.send("fastspring", fastspring({**tried, "live": False})),
    ]
    assert [status] * 2 == [fate.status for fate in fates]
    assert (2 if allowed else 0) == len(desk.entitlements())


# -- other settings ---------------------------------------------------------------------------------------------------


def test_other_settings_change_nothing_that_was_sold(desk: Desk, config: Path) -> None:
    """A price that is called otherwise from now on is no change of those who have it."""
    desk.send("generic", bought({**SEATS, "product": "price_pro"}, OTHER))
    config.write_text(INTAKE.replace('price_pro = { sku = "CAD-PRO"', 'price_pro = { sku = "CAD-STD"'))
    desk.intake = Intake(desk.issuer, read_settings(config))
    for number, quantity in ((10, 6), (20, 7)):
        items = [{**SEATS, "product": "price_pro", "quantity": quantity}, OTHER]
        assert DONE == desk.send("generic", event(number, "changed", items=items)).status
    assert {"CAD-PRO": 7, "CAD-STD": 2} == {one.sku: one.seats for one in desk.entitlements()}
