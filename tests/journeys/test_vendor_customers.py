"""A customer is disabled, enabled and deleted by commands, and its running server feels what it should."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.journeys.firm import ACCOUNT, NAME, Firm, a_firm

CATALOG = """
format = 1
[products.cad]
name = "CAD"
[products.viewer]
name = "Viewer"
[plans.year]
license_type = "subscription"
term = { unit = "year", count = 1 }
[offerings.CAD]
name = "CAD"
product = "cad"
plan = "year"
[offerings.VIEWER]
name = "Viewer"
product = "viewer"
plan = "year"
"""


@pytest.fixture
def firm() -> Iterator[Firm]:
    with a_firm(CATALOG) as firm:
        yield firm


def test_a_customer_rests_comes_back_and_is_deleted_only_when_nothing_of_it_is_hosted(firm: Firm) -> None:
    sold = [firm.order(action="new", sku=sku, quantity=5) for sku in ("CAD", "VIEWER")]
    seat = firm.checkout("cad")
    assert 201 == seat.answer.status

    # Disabled: it is felt with the next bundle, not before, and nothing is sold meanwhile.
    firm.typed("--by", "Ada", "--reason", "unpaid", "customer", "disable", ACCOUNT)
    assert 201 == firm.checkout("cad").answer.status
    orders = firm.save("more.csv", f"order_ref,account_ref,sku,quantity\nSO-9,{ACCOUNT},CAD,1\n")
    assert "disabled" in firm.typed("order", "fulfil", orders, status=1)
    firm.carry()
    assert ("lease_ended", "entitlement_ended") == ((ended := firm.lease(seat)).code, ended.body["reason"])
    assert {"entitlement_disabled"} == {firm.checkout(product).answer.code for product in ("cad", "viewer")}

    # Enabled: everything is there again, but for what was disabled by itself.
    firm.typed("entitlement", "disable", sold[1])
    firm.typed("customer", "enable", ACCOUNT)
    firm.carry()
    assert [201, 403] == [firm.checkout(product).answer.status for product in ("cad", "viewer")]
    firm.typed("entitlement", "enable", sold[1])
    firm.carry()
    viewer = firm.checkout("viewer")
    assert 201 == viewer.answer.status

    # Deleted: refused while a server hosts, and without the name.
    said = firm.typed("customer", "delete", ACCOUNT, "--confirm", NAME, status=1)
    assert "hosts" in said
    for number, entitlement in enumerate(sold):
        path = f"/v1/admin/entitlements/{entitlement}/return"
        document = firm.site.admin("POST", path, b'{"force": true}')["document"]
        firm.report()
        firm.typed("return", "accept", firm.save(f"{number}.llsreturn", document))
    assert "lease_ended" == firm.lease(viewer).code
    said = firm.typed("customer", "delete", ACCOUNT, status=1)
    assert "entitlements (2)" in said
    firm.typed("customer", "delete", ACCOUNT, "--confirm", NAME)
    assert "no customer" in firm.typed("customer", "show", ACCOUNT, status=1).lower()
    assert [] == json.loads(firm.typed("entitlement", "list", "--json"))["entitlements"]
    assert "unknown_product" == firm.checkout("cad").answer.code

    # The history keeps what was done, by whom and why.
    lines = json.loads(firm.typed("audit", "--json"))["history"]
    switched = next(line for line in lines if line["kind"] == "customer_disabled")
    assert ("Ada", "unpaid") == (switched["by"], switched["reason"])
    assert {"customer_enabled", "returned", "customer_deleted"} <= {line["kind"] for line in lines}
    firm.typed("audit", "verify")
