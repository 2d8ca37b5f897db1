"""What leaves the building is counted, bounded and bound: loans over several entitlements, restarts and refusals."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from lls.faults import BadRequest
from lls.licensing.calendar import Term, Unit
from lls.licensing.changes import FeatureAct
from lls.licensing.denial import Denial
from lls.licensing.entitlement import BorrowTerms, Feature, FeatureType, Start
from lls.licensing.lease import Lease
from lls.licensing.ledger import Draining, Ledger, Seated
from lls.licensing.loans import Loans
from tests.ledgers import T0, at, checkout, entitlement, kinds, ledger_of, posted, secret_of
from tests.licensing.test_policy import policy

LENDS = BorrowTerms(max_seconds=400 * 86_400, max_seats=10)
DAY = 86_400


def by_file(ledger: Ledger, lease_id: str, *, days: float, **wish: Any) -> Seated | Denial:
    asked = checkout(lease_id, **wish)
    until = T0 + timedelta(days=days)
    return ledger.grant_borrow(asked, until=until, fingerprint=asked.holder.seat_id, key="jkt", now=at())


def lent(ledger: Ledger, lease_id: str, *, days: float) -> Seated | Denial:
    until = T0 + timedelta(days=days)
    return ledger.borrow(
        lease_id, secret=secret_of(lease_id), until=until, fingerprint=f"seat of {lease_id}", now=at(5)
    )


def test_a_loan_that_starts_a_term_ends_with_it() -> None:
    month = entitlement(
        borrow=LENDS, start=Start.ON_FIRST_LEASE, starts_at=None, expires_at=None, term=Term(unit=Unit.DAY, count=30)
    )
    ledger = ledger_of(month)
    refused = by_file(ledger, "a", days=300)
    assert isinstance(refused, Denial)
    assert ("borrow_too_long", "2026-12-21T07:00:00Z") == (refused.code, refused.until_latest)
    assert ["Denied"] == kinds(ledger.batch), "a refused loan starts no term"
    assert isinstance(by_file(ledger, "b", days=30), Seated)


def test_where_one_entitlement_does_not_lend_another_one_does() -> None:
    keeps, lends = entitlement("keep", expires_at=None), entitlement("lend", borrow=LENDS)
    granted = by_file(ledger_of(keeps, lends), "a", days=2)
    assert isinstance(granted, Seated)
    assert lends.entitlement_id == granted.lease.entitlement_id
    refused = by_file(ledger_of(keeps), "a", days=2)
    assert isinstance(refused, Denial)
    assert "borrow_not_allowed" == refused.code


def test_nothing_leaves_of_an_entitlement_that_is_on_its_way_back() -> None:
    terms = entitlement(borrow=LENDS)
    ledger = ledger_of(terms)
    ledger.checkout(checkout("a"), now=at())
    returning = ledger.return_entitlement(terms.entitlement_id, force=False, actor="ada", now=at())
    assert Draining(leases=1) == returning
    refused = lent(ledger, "a", days=2)
    assert isinstance(refused, Denial)
    assert ("entitlement_disabled", "returning") == (refused.code, refused.rule)


def test_the_sites_number_counts_all_entitlements_of_the_product() -> None:
    ledger = ledger_of(*(entitlement(name, seats=1, borrow=LENDS) for name in ("one", "two")))
    ledger.govern(policy("borrow max_seconds = 864000; max_seats = 1"), text="x", actor="ada", now=at())
    for lease_id in ("a", "b"):
        ledger.checkout(checkout(lease_id), now=at())
    assert isinstance(lent(ledger, "a", days=2), Seated)
    refused = lent(ledger, "b", days=2)
    assert isinstance(refused, Denial)
    assert ("borrow_not_allowed", "borrow[1]") == (refused.code, refused.rule)


def test_the_sites_number_counts_what_is_away_of_an_entitlement_that_went_back() -> None:
    ledger = ledger_of(*(entitlement(name, seats=1, borrow=LENDS) for name in ("one", "two")))
    ledger.govern(policy("borrow max_seconds = 864000; max_seats = 1"), text="x", actor="ada", now=at())
    for lease_id in ("a", "b"):
        ledger.checkout(checkout(lease_id), now=at())
    assert isinstance(lent(ledger, "a", days=2), Seated)
    ledger.return_entitlement(ledger.leases["a"].entitlement_id, force=True, actor="ada", now=at(6))
    refused = lent(ledger, "b", days=2)
    assert isinstance(refused, Denial)
    assert ("borrow_not_allowed", "borrow[1]", 1) == (refused.code, refused.rule, refused.in_use)


def test_an_end_that_has_passed_is_refused_before_anything_is_posted() -> None:
    ledger = ledger_of(entitlement(borrow=LENDS))
    with pytest.raises(BadRequest):
        by_file(ledger, "a", days=-1)
    assert [] == kinds(ledger.batch)


def test_an_end_that_the_vendor_names_is_not_passed_by_the_first_lease() -> None:
    ends = T0 + timedelta(days=5)
    ledger = ledger_of(
        entitlement(start=Start.ON_FIRST_LEASE, starts_at=None, expires_at=ends, term=Term(unit=Unit.DAY, count=30))
    )
    ledger.checkout(checkout("a"), now=at())
    assert [ends] == [pool.entitlement.expires_at for pool in ledger.pools.values()]


def test_denials_of_different_features_are_no_repeats_of_each_other() -> None:
    counted = [Feature(key=key, type=FeatureType.USAGE_COUNT, value=0) for key in ("x", "y")]
    ledger = ledger_of(entitlement(features=tuple(counted)))
    ledger.checkout(checkout("a"), now=at())
    ledger.settle()
    for request, key in enumerate(("x", "y", "x")):
        ledger.feature(
            "a", secret=secret_of("a"), key=key, act=FeatureAct.USE, amount=1, request_id=f"{request}", now=at(1)
        )
    assert ["x", "y"] == [line["feature"] for line in posted(ledger.batch, "Denied")]


def test_loans_are_summed_found_and_due_without_a_walk() -> None:
    loans = Loans()

    def loan(name: str, days: float, *, seats: int = 1, machine: str = "m") -> Lease:
        asked = checkout(name, seat_id=machine)
        return Lease(
            lease_id=name, secret=b"", content=b"", product="cad", entitlement_id="ent", holder=asked.holder,
            seats=seats, ttl=60, overdraft=False, granted_at=T0, until=T0 + timedelta(days=days),
        )  # fmt: skip

    one, two, three = loan("one", 1), loan("two", 2, seats=3), loan("three", 3, machine="n")
    for each in (three, one, two):
        loans.add(each)
    assert (5, 3) == (loans.seats_of("ent"), len(loans))
    assert (5, 2) == (loans.seats_of_product("cad"), loans.seats_of("ent", but=two))
    assert [one] == loans.due(_day(9), limit=1)
    loans.remove(one)
    loans.remove(two)
    longer = loan("two", 8, seats=3)
    loans.add(longer)
    assert [three] == loans.due(_day(4), limit=10), "an end that was put off is none"
    assert loans.beside(loan("other", 1)), "a loan of that machine is still out"
    loans.remove(longer)
    assert not loans.beside(loan("other", 1))
    loans.remove(three)
    assert (0, 0, []) == (loans.seats_of("ent"), len(loans), loans.due(_day(99), limit=10))
    assert 0 == loans.seats_of_product("cad")


def _day(days: float) -> datetime:
    return T0 + timedelta(days=days)
