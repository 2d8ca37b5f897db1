"""Units and money with each kind of end, sold by an order, used at a running server, renewed in time and too late."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.journeys.firm import Firm, a_firm

SOLD = datetime(2027, 1, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)
GIVEN, USED = 100, 10
LEFT = GIVEN - USED

KINDS = {
    "never": '{ type = "never" }',
    "contract": '{ type = "end_of_contract" }',
    "period": '{ type = "end_of_period" }',
    "custom": '{ type = "custom", unit = "week", count = 6 }',
    "at": '{ type = "at", at = 2027-03-15T00:00:00Z }',
}
FEATURES = {f"{type_}-{kind}": terms for kind, terms in KINDS.items() for type_ in ("units", "money")}

CATALOG = "\n".join(
    [
        'format = 1\n[products.cad]\nname = "CAD"',
        *(
            f'[products.cad.features.{key}]\ntype = "{"credit" if key.startswith("money") else "usage_count"}"\n'
            f'reset = "monthly"' + ('\ncurrency = "EUR"' if key.startswith("money") else "")
            for key in FEATURES
        ),
        '[plans.quarter]\nlicense_type = "subscription"\nterm = { unit = "month", count = 3 }\ngrace_seconds = 604800',
        '[offerings.CAD]\nname = "CAD"\nproduct = "cad"\nplan = "quarter"',
        *(
            f'[[offerings.CAD.grants]]\nfeature = "{key}"\namount = {GIVEN}\nexpiry = {expiry}'
            for key, expiry in FEATURES.items()
        ),
        '[offerings.CAD-RENEW]\nname = "Another quarter"\nproduct = "cad"\nactions = ["renew"]',
    ]
)


@pytest.fixture
def firm() -> Iterator[Firm]:
    with a_firm(CATALOG, now=SOLD) as firm:
        yield firm


def left(firm: Firm) -> dict[str, int]:
    """What a program finds there, by kind; units and money alike."""
    seat = firm.checkout("cad")
    found = {one["key"]: one["available"] for one in seat.lease["features"]}
    firm.checkin(seat)
    units, money = ({kind: found[f"{type_}-{kind}"] for kind in KINDS} for type_ in ("units", "money"))
    assert units == money
    return units


def test_each_kind_of_end_takes_what_is_left_and_a_renewal_carries_the_rest_over(firm: Firm) -> None:
    firm.order(action="new", sku="CAD", quantity=1)
    seat = firm.checkout("cad")
    assert {200} == {firm.use(seat, key, USED).status for key in FEATURES}
    firm.checkin(seat)
    everything = dict.fromkeys(KINDS, LEFT)
    assert everything == left(firm)

    for day, ended in (
        (datetime(2027, 2, 11, tzinfo=UTC), {"period"}),
        (datetime(2027, 2, 22, tzinfo=UTC), {"period", "custom"}),
        (datetime(2027, 3, 16, tzinfo=UTC), {"period", "custom", "at"}),
        (datetime(2027, 4, 12, tzinfo=UTC), {"period", "custom", "at"}),  # the contract is in its grace
    ):
        firm.until(day)
        firm.report()
        firm.carry()
        assert {kind: 0 if kind in ended else LEFT for kind in KINDS} == left(firm), day

    renewed = {kind: LEFT if kind in ("never", "contract") else 0 for kind in KINDS}
    firm.order(action="renew", sku="CAD-RENEW")
    firm.until(datetime(2027, 4, 20, tzinfo=UTC))
    assert renewed == left(firm)

    firm.until(datetime(2027, 6, 10, tzinfo=UTC))  # before the site's report would be overdue
    firm.report()
    firm.carry()
    firm.until(datetime(2027, 7, 18, tzinfo=UTC))
    assert "entitlement_expired" == firm.checkout("cad").answer.code
    firm.order(action="renew", sku="CAD-RENEW")
    assert {**dict.fromkeys(KINDS, 0), "never": LEFT} == left(firm)

    firm.report()
    lost = {
        line["feature"]: (line["amount"], line["consumed"], line["lost"])
        for line in (entry["data"] for entry in firm.site.journal() if entry["kind"] == "GrantEnded")
    }
    assert {key: (GIVEN, USED, LEFT) for key in FEATURES if not key.endswith("never")} == {
        key: counts for key, counts in lost.items() if counts[0]
    }
    consumed = {feature: amount for (feature, meter), amount in firm.billed("CAD").items() if meter == "consumed"}
    assert dict.fromkeys(FEATURES, USED) == consumed
    firm.site.verify_journal()
