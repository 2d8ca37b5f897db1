"""Some of the seats are renewed and upgraded, and the running server lends at every moment what was paid for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.journeys.firm import Firm, Seat, a_firm

SOLD = datetime(2027, 1, 10, 12, tzinfo=UTC)

CATALOG = """
format = 1
[plans.quarter]
license_type = "subscription"
term = { unit = "month", count = 3 }

[products.cad]
name = "CAD"
editions.std = { name = "Standard" }
editions.pro = { name = "Professional" }
[offerings.CAD-STD]
name = "CAD Standard"
product = "cad"
edition = "std"
plan = "quarter"
[offerings.CAD-RENEW]
name = "Another quarter"
actions = ["renew"]
product = "cad"
[offerings.CAD-TO-PRO]
name = "Standard becomes Professional"
actions = ["upgrade"]
product = "cad"
edition = "pro"
upgrade_from = ["std"]
"""


@pytest.fixture
def firm() -> Iterator[Firm]:
    with a_firm(CATALOG, now=SOLD) as firm:
        yield firm


def lent(firm: Firm, **wish: str) -> tuple[int, list[str], list[Seat]]:
    """As many seats as there are, given back: how many, of which editions."""
    seats: list[Seat] = []
    while (seat := firm.checkout("cad", **wish)).answer.status == 201:
        seats.append(seat)
    editions = sorted({one.lease["edition"] for one in seats})
    return len(seats), editions, seats


def lendable(firm: Firm, **wish: str) -> tuple[int, list[str]]:
    count, editions, seats = lent(firm, **wish)
    for seat in seats:
        firm.checkin(seat)
    return count, editions


def test_of_five_seats_two_are_renewed_and_the_others_end(firm: Firm) -> None:
    whole = firm.order(action="new", sku="CAD-STD", quantity=5)
    part = firm.order(action="renew", sku="CAD-RENEW", quantity=2)
    assert whole != part
    assert (5, ["std"]) == lendable(firm)  # nothing twice, nothing missing
    firm.until(datetime(2027, 4, 1, tzinfo=UTC))
    firm.report()
    assert (5, ["std"]) == lendable(firm)
    firm.until(datetime(2027, 4, 11, tzinfo=UTC))
    assert (2, ["std"]) == lendable(firm)
    firm.report()
    assert 0 == firm.billed("CAD-STD")["", "overdraft_peak"]
    firm.until(datetime(2027, 6, 1, tzinfo=UTC))
    firm.report()
    assert part == firm.order(action="renew", sku="CAD-RENEW")  # the SKU means what is left of it
    firm.until(datetime(2027, 8, 1, tzinfo=UTC))
    assert (2, ["std"]) == lendable(firm)
    firm.site.verify_journal()
    with firm.office() as issuer:
        issuer.audit.verify()


def test_of_five_seats_two_become_professional_while_all_are_in_use(firm: Firm) -> None:
    whole = firm.order(action="new", sku="CAD-STD", quantity=5)
    count, _, seats = lent(firm)
    assert 5 == count
    part = firm.order(action="upgrade", sku="CAD-TO-PRO", quantity=2)
    assert {200} == {firm.lease(seat).status for seat in seats}  # nobody is thrown out
    two, editions, professionals = lent(firm)
    assert (2, ["pro"]) == (two, editions)
    assert {part} == {seat.lease["entitlement_id"] for seat in professionals}
    for seat in seats:
        firm.checkin(seat)
    assert (3, ["std"]) == lendable(firm)
    with firm.office() as issuer:
        assert [3, 2] == [issuer.entitlement(key).document["seats"] for key in (whole, part)]
    firm.site.verify_journal()
