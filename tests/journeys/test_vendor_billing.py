"""Paid before, paid after, and both: what a running server grants, and what the vendor's billing lines say of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import pytest

from tests.journeys.firm import Firm, a_firm

CATALOG = """
format = 1
[plans.year]
license_type = "subscription"
term = { unit = "year", count = 1 }

[products.prepaid]
name = "Paid before"
features.calls = { type = "usage_count", unit = "call" }
features.cash = { type = "credit", currency = "EUR" }
[offerings.PREPAID]
name = "A hundred calls and ten euros"
product = "prepaid"
plan = "year"
grants = [{ feature = "calls", amount = 100 }, { feature = "cash", amount = 1000 }]
[offerings.TOP-UP]
name = "Fifty more calls, when they are paid"
actions = ["add_grant"]
product = "prepaid"
grants = [{ feature = "calls", amount = 50, price = { amount = 400, currency = "EUR" }, given_on = "invoice_paid" }]

[products.postpaid]
name = "Paid after"
features.calls = { type = "usage_count", unit = "call", overdraft = { type = "unlimited" } }
features.cash = { type = "credit", currency = "EUR", overdraft = { type = "unlimited" } }
[offerings.POSTPAID]
name = "As many as you like"
product = "postpaid"
plan = "year"
overdraft = { type = "unlimited" }

[products.hybrid]
name = "Some before, the rest after"
features.calls = { type = "usage_count", unit = "call", overdraft = { type = "unlimited" } }
features.cash = { type = "credit", currency = "EUR", overdraft = { type = "absolute", value = 500 } }
editions.std = { name = "Standard", features = { calls = 100 } }
[offerings.HYBRID]
name = "A hundred calls and ten euros, and more"
product = "hybrid"
edition = "std"
plan = "year"
grants = [{ feature = "cash", amount = 1000 }]
"""

BEYOND = ("overage", "overdraft_peak", "overdraft_hours")


@pytest.fixture(scope="module")
def firm() -> Iterator[Firm]:
    with a_firm(CATALOG) as firm:
        yield firm


def test_what_is_paid_before_stops_hard_until_more_is_paid(firm: Firm) -> None:
    firm.order(action="new", sku="PREPAID", quantity=1)
    seat = firm.checkout("prepaid")
    assert "no_seat" == firm.checkout("prepaid").answer.code
    for feature, given in (("calls", 100), ("cash", 1000)):
        assert [200, "no_feature_units", 200, "no_feature_units"] == [
            (answer := firm.use(seat, feature, amount)).code or answer.status for amount in (given - 1, 2, 1, 1)
        ]

    firm.order(action="add_grant", sku="TOP-UP", quantity=1)
    assert "no_feature_units" == firm.use(seat, "calls", 1).code
    firm.typed("grant", "release", "--ref", f"SO-{firm.orders}")
    firm.carry()
    assert [200, 409] == [firm.use(seat, "calls", amount).status for amount in (50, 1)]
    firm.checkin(seat)

    firm.report()
    billed = firm.billed("PREPAID")
    assert (150, 1000) == (billed["calls", "consumed"], billed["cash", "consumed"])
    beyond = {key: amount for key, amount in billed.items() if key[1] in BEYOND}
    assert ("calls", "overage") in beyond
    assert not any(beyond.values()), beyond


def test_what_is_paid_after_never_stops_and_is_billed_to_the_last_unit(firm: Firm) -> None:
    firm.order(action="new", sku="POSTPAID", quantity=1)
    seats = [firm.checkout("postpaid") for _ in range(3)]
    assert {201} == {seat.answer.status for seat in seats}
    assert {200} == {firm.use(seats[0], "calls", amount).status for amount in (1, 2499)}
    assert 200 == firm.use(seats[1], "cash", 777).status
    firm.report()
    assert 200 == firm.use(seats[2], "cash", 23).status
    for seat in seats:
        firm.checkin(seat)
    firm.report()

    billed = firm.billed("POSTPAID")
    assert (3, 2) == (billed["", "seats_peak"], billed["", "overdraft_peak"])
    for feature, amount in (("calls", 2500), ("cash", 800)):
        assert (amount, amount) == (billed[feature, "consumed"], billed[feature, "overage"])


def test_of_both_only_what_is_beyond_the_included_is_overage(firm: Firm) -> None:
    firm.order(action="new", sku="HYBRID", quantity=1)
    seat = firm.checkout("hybrid")
    assert [200, 200] == [firm.use(seat, "calls", amount).status for amount in (100, 50)]
    assert [200, 200, 409] == [firm.use(seat, "cash", amount).status for amount in (900, 600, 1)]
    firm.checkin(seat)
    firm.report()

    billed = firm.billed("HYBRID")
    assert (150, 50) == (billed["calls", "consumed"], billed["calls", "overage"])
    assert (1500, 500) == (billed["cash", "consumed"], billed["cash", "overage"])
    exported = csv.DictReader(io.StringIO(firm.typed("usage", "export", "--format", "csv")))
    units = {(line["feature"], line["unit"]) for line in exported if line["sku"] == "HYBRID" and line["feature"]}
    assert {("calls", "call"), ("cash", "EUR")} == units
