"""Units are given once, when they are due, and what was paid for them goes nowhere."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from lls.issuer import Issuer
from lls.issuer.amending import Changed
from lls.issuer.balances import State
from lls.issuer.catalog import ExpiryTerms, GrantTerms, Price, Stage
from lls.issuer.refusals import Conflict, NotKnown
from lls.licensing.calendar import Term, Unit
from lls.licensing.entitlement import Entitlement, GrantExpiry
from lls.licensing.fields import write_instant
from tests.issuer.appliance import NOW, Appliance, imported, metered

LATER = NOW + timedelta(days=10)
PAID = Price(amount=90_000, currency="USD")


@pytest.fixture
def entitlement(issuer: Issuer, appliance: Appliance) -> Entitlement:
    return metered(issuer, appliance)


def credit(issuer: Issuer, entitlement: Entitlement, *, invoice: str | None = "INV-1", **terms: Any) -> Changed:
    grant = GrantTerms(**{"feature": "cloud", "amount": 100_000, "price": PAID, **terms})
    return issuer.balances.add(entitlement.entitlement_id, grant, invoice_ref=invoice, now=NOW)


def amounts(issuer: Issuer, appliance: Appliance) -> list[int]:
    (there,) = imported(issuer, appliance).entitlements
    cloud = there.feature("cloud")
    return [] if cloud is None else [grant.amount for grant in cloud.grants]


def test_a_thousand_dollars_sold_for_nine_hundred(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement
) -> None:
    given = credit(issuer, entitlement)
    balance = issuer.balances.balance(str(given.outcome["grant_id"]))
    assert (100_000, {"amount": 90_000, "currency": "USD"}, State.GIVEN) == (
        balance.amount, balance.price, balance.state,
    )  # fmt: skip
    assert [1000, 100_000] == amounts(issuer, appliance)
    payload = issuer.issue_bundle(appliance.server_id, now=NOW).bundle.payload
    assert "90000" not in json.dumps(payload)
    assert "price" not in json.dumps(payload)


@pytest.mark.parametrize("awaited", list(Stage))
def test_a_grant_waits_for_its_invoice_and_a_later_stage_includes_the_earlier(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, awaited: Stage
) -> None:
    given = credit(issuer, entitlement, given_on=awaited)
    assert (State.PENDING, 1) == (given.outcome["state"], given.sold.document["sequence"])
    for stage in Stage:
        released = issuer.balances.release("INV-1", stage=stage, now=LATER)
        assert (stage is awaited) == bool(released)
        reached = stage.rank >= awaited.rank
        assert ([1000, 100_000] if reached else [1000]) == amounts(issuer, appliance)
    (balance,) = issuer.balances.balances(state=State.GIVEN)[1:]
    assert write_instant(LATER) == balance.terms["active_from"]


def test_a_grant_that_is_ordered_after_its_payment_is_given_at_once(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement
) -> None:
    assert [] == issuer.balances.release("INV-1", now=NOW)
    assert [] == issuer.balances.release("INV-1", stage=Stage.CREATED, now=NOW)  # an old event, late
    assert State.GIVEN == credit(issuer, entitlement, given_on=Stage.APPROVED).outcome["state"]
    assert State.PENDING == credit(issuer, entitlement, invoice="INV-2", given_on=Stage.APPROVED).outcome["state"]


def test_a_release_gives_once(issuer: Issuer, entitlement: Entitlement) -> None:
    credit(issuer, entitlement, given_on=Stage.PAID)
    credit(issuer, entitlement, given_on=Stage.PAID)
    assert [2, 3] == [one.sold.document["sequence"] for one in issuer.balances.release("INV-1", now=NOW)]
    assert [] == issuer.balances.release("INV-1", now=NOW)


def test_what_waits_for_nothing_that_anybody_names_is_refused(issuer: Issuer, entitlement: Entitlement) -> None:
    with pytest.raises(Conflict, match="waits for an invoice, so name its reference"):
        credit(issuer, entitlement, invoice=None, given_on=Stage.PAID)
    for ref in ("", "x" * 101, "a\nb"):
        with pytest.raises(Conflict, match="printable text"):
            issuer.balances.release(ref, now=NOW)


def test_a_pending_grant_that_no_server_would_read_is_refused_before_it_is_paid(
    issuer: Issuer, entitlement: Entitlement
) -> None:
    with pytest.raises(Conflict, match="was refused"):
        credit(
            issuer, entitlement, given_on=Stage.PAID, expiry=GrantExpiry.CUSTOM, term=Term(unit=Unit.YEAR, count=9_000)
        )
    assert 1 == len(issuer.balances.balances())


def test_a_grant_is_altered_under_its_id_with_its_history(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement
) -> None:
    grant_id = str(credit(issuer, entitlement).outcome["grant_id"])
    ends = ExpiryTerms(expiry=GrantExpiry.AT, at=LATER)
    altered = issuer.balances.alter(grant_id, amount=70_000, expiry=ends, now=LATER)
    assert (False, 3) == (altered.again, altered.sold.document["sequence"])
    assert [1000, 70_000] == amounts(issuer, appliance)
    again = issuer.balances.alter(grant_id, amount=70_000, expiry=ends, now=LATER)
    assert (True, 3) == (again.again, again.sold.document["sequence"])
    cheaper = issuer.balances.alter(grant_id, price=Price(amount=1, currency="USD"), now=LATER)
    assert (False, 3) == (cheaper.again, cheaper.sold.document["sequence"])
    history = issuer.balances.history(grant_id)
    assert ["grant_added", "grant_altered", "grant_altered"] == [line["kind"] for line in history]
    assert (100_000, 70_000) == (history[1]["what"]["before"]["amount"], history[1]["what"]["amount"])


def test_a_pending_grant_can_be_altered_and_revoked_and_then_nothing_is_released(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement
) -> None:
    first, second = (str(credit(issuer, entitlement, given_on=Stage.PAID).outcome["grant_id"]) for _ in range(2))
    issuer.balances.alter(first, amount=5, now=NOW)
    assert 1 == issuer.balances.revoke(second, now=NOW).sold.document["sequence"]
    assert [first] == [str(one.outcome["grant_id"]) for one in issuer.balances.release("INV-1", now=NOW)]
    assert [1000, 5] == amounts(issuer, appliance)


def test_what_was_revoked_is_not_altered(issuer: Issuer, entitlement: Entitlement) -> None:
    grant_id = str(credit(issuer, entitlement).outcome["grant_id"])
    issuer.balances.revoke(grant_id, now=NOW)
    with pytest.raises(Conflict, match="was revoked"):
        issuer.balances.alter(grant_id, amount=1, now=NOW)
    with pytest.raises(NotKnown, match="There is no grant grt_none"):
        issuer.balances.alter("grt_none", amount=1, now=NOW)


@pytest.mark.parametrize("amount", [0, 10**15 + 1])
def test_an_amount_that_no_server_reads_is_refused(issuer: Issuer, entitlement: Entitlement, amount: int) -> None:
    grant_id = str(credit(issuer, entitlement).outcome["grant_id"])
    with pytest.raises(Conflict, match=r"amount must be an integer"):
        issuer.balances.alter(grant_id, amount=amount, now=NOW)
    assert 100_000 == issuer.balances.balance(grant_id).amount


def test_grants_of_a_sale_are_balances_too(issuer: Issuer, entitlement: Entitlement) -> None:
    (balance,) = issuer.balances.balances(entitlement_id=entitlement.entitlement_id)
    assert ("cloud", 1000, State.GIVEN, None) == (balance.feature, balance.amount, balance.state, balance.price)
    assert 2 == issuer.balances.revoke(balance.grant_id, now=NOW).sold.document["sequence"]


@pytest.mark.parametrize(
    ("expiry", "carried"),
    [
        (ExpiryTerms(expiry=GrantExpiry.NEVER), True),
        (ExpiryTerms(expiry=GrantExpiry.END_OF_CONTRACT), True),
        (ExpiryTerms(expiry=GrantExpiry.END_OF_PERIOD), True),
        (ExpiryTerms(expiry=GrantExpiry.CUSTOM, term=Term(unit=Unit.MONTH, count=3)), True),
        (ExpiryTerms(expiry=GrantExpiry.AT, at=LATER), True),
    ],
)
def test_a_renewal_leaves_every_grant_with_its_own_end(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, expiry: ExpiryTerms, carried: bool
) -> None:
    grant = credit(issuer, entitlement, expiry=expiry.expiry, term=expiry.term, at=expiry.at)
    issuer.amending.renew(entitlement.entitlement_id, now=NOW)
    (there,) = imported(issuer, appliance).entitlements
    cloud = there.feature("cloud")
    assert cloud is not None
    kept = {one.grant_id: (one.expiry, one.term, one.at) for one in cloud.grants}
    assert carried == ((expiry.expiry, expiry.term, expiry.at) == kept[str(grant.outcome["grant_id"])])
