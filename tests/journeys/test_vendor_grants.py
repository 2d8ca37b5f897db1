"""A grant is altered and revoked by the vendor's commands, while the site that has it goes on counting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.journeys.firm import Firm, a_firm

CATALOG = """
format = 1
[plans.year]
license_type = "subscription"
term = { unit = "year", count = 1 }

[products.cloud]
name = "Cloud"
features.calls = { type = "usage_count", unit = "call" }
features.cash = { type = "credit", currency = "EUR" }
[offerings.CLOUD]
name = "A hundred calls and ten euros"
product = "cloud"
plan = "year"
grants = [{ feature = "calls", amount = 100 }, { feature = "cash", amount = 1000 }]
[offerings.LATER]
name = "Fifty calls, when they are paid"
actions = ["add_grant"]
product = "cloud"
grants = [{ feature = "calls", amount = 50, given_on = "invoice_paid" }]
"""


@pytest.fixture
def firm() -> Iterator[Firm]:
    with a_firm(CATALOG) as firm:
        yield firm


def grants(firm: Firm, state: str = "given") -> dict[str, str]:
    """By feature, the ids of the grants in that state."""
    listed: Any = json.loads(firm.typed("grant", "list", "--state", state, "--json"))
    return {one["feature"]: one["grant_id"] for one in listed["grants"]}


def counted(firm: Firm) -> dict[str, tuple[int, int]]:
    """What the site's administrator sees of each feature: (used, left)."""
    (entitlement,) = firm.site.admin("GET", "/v1/admin/entitlements")["entitlements"]
    return {one["key"]: (one["consumed"], one["available"]) for one in entitlement["features"]}


def kinds(firm: Firm, grant_id: str) -> list[str]:
    shown: Any = json.loads(firm.typed("grant", "show", grant_id, "--json"))
    return [line["kind"] for line in shown["history"]]


def test_an_altered_grant_keeps_what_was_used_and_a_revoked_one_gives_no_more(firm: Firm) -> None:
    firm.order(action="new", sku="CLOUD", quantity=1)
    seat = firm.checkout("cloud")
    assert [200, 200] == [firm.use(seat, feature, 40).status for feature in ("calls", "cash")]
    assert {"calls": (40, 60), "cash": (40, 960)} == counted(firm)
    given = grants(firm)

    firm.typed("grant", "alter", given["calls"], "--amount", "70")
    assert {"calls": (40, 60), "cash": (40, 960)} == counted(firm)  # until a bundle says so
    firm.carry()
    assert {"calls": (40, 30), "cash": (40, 960)} == counted(firm)
    assert [409, 200, 409] == [firm.use(seat, "calls", amount).status for amount in (31, 30, 1)]

    firm.typed("grant", "alter", given["calls"], "--amount", "75")
    firm.typed("grant", "revoke", given["cash"])
    assert "nothing changed" in firm.typed("grant", "revoke", given["cash"])
    firm.carry()
    assert (70, 5) == counted(firm)["calls"]
    assert 409 == firm.use(seat, "cash", 1).status
    assert 200 == firm.use(seat, "calls", 5).status
    assert "was revoked" in firm.typed("grant", "alter", given["cash"], "--amount", "5", status=1)

    firm.report()
    billed = firm.billed("CLOUD")
    assert (75, 40, 0, 0) == (
        billed["calls", "consumed"], billed["cash", "consumed"], billed["calls", "overage"], billed["cash", "overage"],
    )  # fmt: skip
    assert ["grant_added", "grant_altered", "grant_altered"] == kinds(firm, given["calls"])
    assert ["grant_added", "grant_revoked"] == kinds(firm, given["cash"])
    firm.site.verify_journal()
    firm.typed("audit", "verify")


def test_a_grant_altered_while_it_waits_is_released_as_it_then_is(firm: Firm) -> None:
    firm.order(action="new", sku="CLOUD", quantity=1)
    firm.order(action="add_grant", sku="LATER", quantity=1)
    waiting = grants(firm, "pending")["calls"]
    firm.typed("grant", "alter", waiting, "--amount", "30")
    firm.carry()
    assert (0, 100) == counted(firm)["calls"]
    firm.typed("grant", "release", "--ref", f"SO-{firm.orders}")
    firm.carry()
    assert (0, 130) == counted(firm)["calls"]
    seat = firm.checkout("cloud")
    assert [200, 409] == [firm.use(seat, "calls", amount).status for amount in (130, 1)]
    assert ["grant_added", "grant_altered", "grant_released"] == kinds(firm, waiting)
    firm.typed("audit", "verify")
