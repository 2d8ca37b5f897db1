"""What is sold by hand, by a storefront and by an ERP reaches a running server, and a sale lives on there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.issuer.intake.sources import invoice, stripe
from tests.journeys.firm import ACCOUNT, NAME, Firm, Seat, a_firm
from tests.journeys.storefront import Storefront

CATALOG = """
format = 1
[plans.year]
license_type = "subscription"
term = { unit = "year", count = 1 }

# Sold by hand.
[products.cad]
name = "CAD"
features.render = { type = "bool" }
editions.std = { name = "Standard" }
editions.pro = { name = "Professional", features = { render = true } }
[offerings.CAD-STD]
name = "CAD Standard, two seats"
product = "cad"
edition = "std"
plan = "year"
seats = 2
[offerings.CAD-PRO]
name = "CAD Professional"
product = "cad"
edition = "pro"
plan = "year"
[offerings.CAD-RENEW]
name = "Another year"
actions = ["renew"]
product = "cad"
[offerings.CAD-MORE]
name = "Another seat"
actions = ["add_seats"]
product = "cad"
[offerings.CAD-TO-PRO]
name = "Standard becomes Professional"
actions = ["upgrade"]
product = "cad"
edition = "pro"
becomes = "CAD-PRO"

# Sold by a storefront, in two tiers.
[products.paint]
name = "Paint"
attributes.max_layers = { type = "number", value = 8 }
editions.basic = { name = "Basic" }
editions.plus = { name = "Plus", attributes = { max_layers = 64 } }
[offerings.PAINT-BASIC]
name = "Paint Basic"
actions = ["new", "renew", "add_seats"]
product = "paint"
edition = "basic"
plan = "year"
[offerings.PAINT-PLUS]
name = "Paint Plus"
actions = ["new", "renew", "add_seats"]
product = "paint"
edition = "plus"
plan = "year"
[offerings.PAINT-UP]
name = "Basic becomes Plus"
actions = ["upgrade"]
product = "paint"
edition = "plus"
becomes = "PAINT-PLUS"

# Sold by an ERP.
[products.mill]
name = "Mill"
[offerings.MILL]
name = "Mill"
product = "mill"
plan = "year"
[products.lathe]
name = "Lathe"
[offerings.LATHE]
name = "Lathe"
product = "lathe"
plan = "year"
[products.saw]
name = "Saw"
[offerings.SAW]
name = "Saw"
product = "saw"
plan = "year"
"""

INTAKE = """
[skus]
price_pro = "PAINT-PLUS"
paint-plus = { sku = "PAINT-PLUS", upgrade = "PAINT-UP" }
[generic]
secret_file = "generic.secret"
[stripe]
secret_file = "stripe.secret"
"""


@pytest.fixture(scope="module")
def firm() -> Iterator[Firm]:
    with a_firm(CATALOG) as firm:
        yield firm


def taken(firm: Firm, product: str, *, most: int, **body: Any) -> list[Seat]:
    """Seats of a product until no more are given, but no more than that many."""
    seats = [firm.checkout(product, **body) for _ in range(most)]
    return [seat for seat in seats if seat.answer.status == 201]


def seats_of(firm: Firm, product: str, *, most: int = 10, **body: Any) -> int:
    """How many can sit, none of whom stays."""
    seats = taken(firm, product, most=most, **body)
    for seat in seats:
        firm.checkin(seat)
    return len(seats)


# ---------------------------------------------------------------- by hand


def test_a_sale_begins_grows_becomes_another_edition_and_lasts_longer(firm: Firm) -> None:
    sold = firm.order(action="new", sku="CAD-STD", quantity=1)
    held = firm.checkout("cad")
    began = held.lease["entitlement"]
    assert ("std", 2) == (held.lease["edition"], 1 + seats_of(firm, "cad"))

    assert sold == firm.order(action="add_seats", sku="CAD-MORE", quantity=3)
    assert 5 == 1 + seats_of(firm, "cad")
    assert sold == firm.order(action="upgrade", sku="CAD-TO-PRO")
    assert sold == firm.order(action="renew", sku="CAD-RENEW")

    # Who sat all the while goes on sitting, until the new end; who comes gets the new edition.
    now = firm.lease(held)
    assert 200 == now.status
    assert _a_year_after(began["expires_at"]) == now.body["lease"]["entitlement"]["expires_at"]
    fresh = firm.checkout("cad").lease
    assert ("pro", [True]) == (fresh["edition"], [one["value"] for one in fresh["features"]])
    assert 5 == 2 + seats_of(firm, "cad")


def _a_year_after(instant: str) -> str:
    return f"{int(instant[:4]) + 1}{instant[4:]}"


# ---------------------------------------------------------------- by a storefront


@pytest.fixture
def storefront(firm: Firm) -> Iterator[Storefront]:
    storefront = Storefront(firm, INTAKE)
    try:
        storefront.wait()
        yield storefront
    finally:
        storefront.close()


def test_two_tiers_bought_in_shops_are_two_editions_at_the_site(firm: Firm, storefront: Storefront) -> None:
    now = datetime.now(UTC)
    basic = {
        "event_id": "shop-1", "type": "subscription.started", "occurred_at": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "subscription": "S-1", "ref": "INV-1", "account_ref": ACCOUNT, "server_id": firm.server_id,
        "items": [{"item": "seat", "product": "PAINT-BASIC", "quantity": 2}],
    }  # fmt: skip
    whose = {"account_ref": ACCOUNT, "server_id": firm.server_id}
    plus = stripe("evt_1", "invoice.paid", invoice(quantity=3, metadata=whose, customer_name=NAME), created=now)

    assert (401, []) == storefront.post("generic", basic, secret_of="stripe")
    for said in (["stored"], ["known"]):  # a shop repeats itself
        assert (200, said) == storefront.post("generic", basic)
        assert (200, said) == storefront.post("stripe", plus)
    firm.carry()
    assert {"basic": 2, "plus": 3} == {
        edition: seats_of(firm, "paint", edition=edition) for edition in ("basic", "plus")
    }
    layers = {edition: layers_of(firm, edition) for edition in ("basic", "plus")}
    assert {"basic": 8, "plus": 64} == layers

    # More seats, the next year, and up to the other tier.
    before = plus_ends(firm)
    cycle = stripe("evt_2", "invoice.paid", invoice("in_2", "subscription_cycle", quantity=3), created=now)
    assert (200, ["stored"]) == storefront.post("generic", changed("shop-2", now, "PAINT-BASIC"))
    assert (200, ["stored"]) == storefront.post("stripe", cycle)
    firm.carry()
    assert 4 == seats_of(firm, "paint", edition="basic")
    assert _a_year_after(before) == plus_ends(firm)
    assert (200, ["stored"]) == storefront.post("generic", changed("shop-3", now + timedelta(seconds=1), "paint-plus"))
    firm.carry()
    assert [0, 7] == [seats_of(firm, "paint", edition=edition) for edition in ("basic", "plus")]


def changed(event_id: str, at: datetime, product: str) -> dict[str, Any]:
    """From now on there are four of that in the subscription."""
    return {
        "event_id": event_id, "type": "subscription.changed", "occurred_at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "subscription": "S-1", "items": [{"item": "seat", "product": product, "quantity": 4}],
    }  # fmt: skip


def layers_of(firm: Firm, edition: str) -> int:
    seat = firm.checkout("paint", edition=edition)
    firm.checkin(seat)
    return int(seat.lease["attributes"]["max_layers"])


def plus_ends(firm: Firm) -> str:
    seat = firm.checkout("paint", edition="plus")
    firm.checkin(seat)
    return str(seat.lease["entitlement"]["expires_at"])


# ---------------------------------------------------------------- by an ERP


def test_an_erp_places_orders_by_tables_and_its_own_exports(firm: Firm) -> None:
    server = firm.server_id
    table = (
        "order_ref;account_ref;server_id;line;action;sku;quantity\n"
        f"ERP-1;{ACCOUNT};{server};1;new;MILL;2\n"
        f"ERP-2;{ACCOUNT};{server};1;new;LATHE;1\n"
    )
    netsuite = (
        "Document Number,Line ID,Customer ID,Name,Item,Quantity,Status,custbody_lls_server_id\n"
        f"SO7,,{ACCOUNT},{NAME},,,Pending Fulfillment,{server}\n"
        f"SO7,1,{ACCOUNT},{NAME},SAW,3,Pending Fulfillment,{server}\n"
        f"SO8,1,{ACCOUNT},{NAME},SAW,50,Pending Approval,{server}\n"
    )
    salesforce = {
        "totalSize": 1, "done": True, "records": [{
            "OrderNumber": "00000101", "Status": "Activated", "LLS_Server_Id__c": server,
            "Account": {"AccountNumber": ACCOUNT, "Name": NAME},
            "OrderItems": {"totalSize": 1, "done": True, "records": [
                {"OrderItemNumber": "0000000001", "Quantity": 4.0, "Product2": {"ProductCode": "LATHE"}},
            ]},
        }],
    }  # fmt: skip
    imports = (
        ("order", "fulfil", firm.save("orders.csv", table)),
        ("order", "import", "--format", "netsuite", firm.save("netsuite.csv", netsuite)),
        ("order", "import", "--format", "salesforce", firm.save("salesforce.json", json.dumps(salesforce))),
    )
    for _ in range(2):  # the ERP sends everything twice
        for words in imports:
            firm.typed(*words)
    wrong = firm.save("wrong.csv", table.replace("ERP-", "ERR-").replace("LATHE", "LADLE"))
    assert "LADLE" in firm.typed("order", "fulfil", wrong, status=1)
    firm.carry()
    assert {"mill": 2, "lathe": 5, "saw": 3} == {key: seats_of(firm, key) for key in ("mill", "lathe", "saw")}
