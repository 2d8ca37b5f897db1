"""A locked seat stays with its machine: how long, over restarts and other terms."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lls.licensing.changes import Loaded
from lls.licensing.denial import Denial
from lls.licensing.entitlement import Concurrency, Entitlement
from lls.licensing.ledger import Ledger, Seated
from tests.ledgers import GRACE, T0, Vendor, at, checkout, entitlement

HOUR = 3_600.0


def locked(**changes: Any) -> Entitlement:
    return entitlement(seats=1, concurrency=Concurrency.NODE_LOCK, lease_seconds=60, **changes)


def left_behind(vendor: Vendor, terms: Entitlement) -> Ledger:
    """A server whose one machine fell silent at the beginning."""
    ledger = vendor.build(Loaded(), at())
    ledger.install(vendor.bundle(terms, now=at()), actor="ada", now=at())
    ledger.checkout(checkout("a", seat_id="machine"), now=at())
    ledger.settle()
    ledger.sweep(now=at(61 + GRACE))
    ledger.settle()
    return ledger


def other_gets_it(ledger: Ledger, *, hours: float) -> bool:
    now = at(hours * HOUR)
    ledger.sweep(now=now)
    verdict = ledger.checkout(checkout(f"other {hours}", seat_id="other"), now=now)
    assert isinstance(verdict, Seated | Denial)
    return isinstance(verdict, Seated)


def test_without_a_release_the_seat_waits_for_its_machine() -> None:
    ledger = left_behind(Vendor(), locked())
    assert not other_gets_it(ledger, hours=24 * 300)
    back = ledger.checkout(checkout("b", seat_id="machine", user="somebody else"), now=at(24 * 300 * HOUR))
    assert isinstance(back, Seated)


@pytest.mark.parametrize(("hours", "free"), [(23.5, False), (25.0, True)])
def test_restarts_do_not_put_the_release_off(hours: float, *, free: bool) -> None:
    vendor = Vendor()
    ledger = left_behind(vendor, locked(node_lock_release=timedelta(days=1)))
    for restart in (8, 16, 23):
        now = at(restart * HOUR)
        loaded = Loaded(
            head=ledger.head,
            leases=[replace(lease, deadline=0.0, armed=-1) for lease in ledger.leases.values()],
            placed=list(ledger.placed.values()),
            facts=dict(ledger.facts),
        )
        ledger = vendor.build(loaded, now)
        ledger.resume(outage_from=T0, outage_to=now.wall, cause="start", now=now)
        ledger.settle()
    assert free is other_gets_it(ledger, hours=hours)


@pytest.mark.parametrize(
    ("release", "hours", "free"),
    [(None, 300.0, False), (timedelta(minutes=10), 1.1, True), (timedelta(days=9), 100.0, False)],
)
def test_another_release_counts_from_when_the_machine_fell_silent(
    release: timedelta | None, hours: float, *, free: bool
) -> None:
    vendor = Vendor()
    terms = locked(node_lock_release=timedelta(days=1))
    ledger = left_behind(vendor, terms)
    ledger.install(
        vendor.bundle(replace(terms, sequence=2, node_lock_release=release), now=at(HOUR)), actor="ada", now=at(HOUR)
    )
    ledger.settle()
    assert free is other_gets_it(ledger, hours=hours)
