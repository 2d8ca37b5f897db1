"""What changes of an entitlement reaches its server with the next bundle, once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lls.issuer import Issuer
from lls.issuer.amending import Changed
from lls.issuer.catalog import GrantTerms
from lls.issuer.refusals import Conflict, NotKnown
from lls.licensing.calendar import Term, Unit
from lls.licensing.entitlement import Entitlement, GrantExpiry, Status
from lls.licensing.journal import Kind
from lls.signed.bundle import Bundle
from tests.issuer.appliance import NOW, Appliance, imported, metered, reported

ENDS = NOW + timedelta(days=365)
GRACE = timedelta(days=7)


@pytest.fixture
def entitlement(issuer: Issuer, appliance: Appliance) -> Entitlement:
    return metered(issuer, appliance)


def commands(bundle: Bundle) -> list[tuple[str, str | None]]:
    return [(each.command_id, each.order.feature) for each in bundle.commands]


# -- status -----------------------------------------------------------------------------------------------------------


def test_a_status_travels_with_the_next_bundle_and_back(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement
) -> None:
    key = entitlement.entitlement_id
    seen = []
    for switch in (issuer.amending.disable, issuer.amending.disable, issuer.amending.enable, issuer.amending.enable):
        changed = switch(key, now=NOW)
        (there,) = imported(issuer, appliance).entitlements
        seen.append((changed.again, there.status, there.sequence))
    assert [
        (False, Status.DISABLED, 2), (True, Status.DISABLED, 2), (False, Status.ACTIVE, 3), (True, Status.ACTIVE, 3),
    ] == seen  # fmt: skip


# -- renewal ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "expires_at", "maintained"),
    [
        (NOW, "2028-11-21T07:00:00Z", "2028-11-21"),
        (ENDS - timedelta(seconds=1), "2028-11-21T07:00:00Z", "2028-11-21"),
        (ENDS, "2028-11-21T07:00:00Z", "2028-11-21"),
        (ENDS + GRACE - timedelta(seconds=1), "2028-11-21T07:00:00Z", "2028-11-28"),
        (ENDS + GRACE, "2028-11-28T07:00:00Z", "2028-11-28"),
        (datetime(2028, 2, 29, 12, 30, 5, 7, tzinfo=UTC), "2029-02-28T12:30:05Z", "2029-02-28"),
    ],
)
def test_a_renewal_counts_from_the_old_end_unless_that_and_its_grace_have_passed(
    issuer: Issuer, entitlement: Entitlement, now: datetime, expires_at: str, maintained: str
) -> None:
    document = issuer.amending.renew(entitlement.entitlement_id, now=now).sold.document
    assert (expires_at, maintained, 2) == (
        document["expires_at"], document["maintenance_expires_on"], document["sequence"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sku", "sentence"),
    [("CAD-TRY", "has not begun, as far as its server has reported"), ("CAD-EVER", "has no end that a term could")],
)
def test_what_has_no_end_yet_or_ever_is_not_renewed(
    issuer: Issuer, appliance: Appliance, sku: str, sentence: str
) -> None:
    sold = metered(issuer, appliance, sku=sku)
    with pytest.raises(Conflict, match=sentence):
        issuer.amending.renew(sold.entitlement_id, now=NOW)


def test_a_renewal_beyond_the_calendar_is_refused(issuer: Issuer, entitlement: Entitlement) -> None:
    with pytest.raises(Conflict, match="goes beyond the calendar"):
        issuer.amending.renew(entitlement.entitlement_id, now=datetime(9999, 6, 1, tzinfo=UTC))


def test_a_renewal_orders_the_counters_that_are_reset_by_it_to_begin_anew(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement
) -> None:
    changed = issuer.amending.renew(entitlement.entitlement_id, now=NOW)
    bundle = imported(issuer, appliance)
    (command,) = bundle.commands
    assert changed.outcome["command_ids"] == [command.command_id]
    assert ("reset_usage", entitlement.entitlement_id, "frames") == (
        command.order.type, command.order.entitlement_id, command.order.feature,
    )  # fmt: skip
    assert ENDS + timedelta(days=366) == bundle.entitlements[0].expires_at


def test_a_command_rides_in_every_bundle_until_a_report_shows_it_done(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    issuer.amending.renew(entitlement.entitlement_id, now=NOW)
    lost = issuer.issue_bundle(appliance.server_id, now=NOW).bundle.payload["commands"]
    assert lost == issuer.issue_bundle(appliance.server_id, now=NOW).bundle.payload["commands"]
    bundle = imported(issuer, appliance)
    assert 1 == len(commands(bundle))
    assert commands(bundle) == commands(imported(issuer, appliance))
    ((command_id, _),) = commands(bundle)
    assert (command_id,) == reported(issuer, appliance, tmp_path / "r").applied
    assert () == imported(issuer, appliance).commands


def test_a_bundle_orders_no_more_than_a_server_reads_and_the_oldest_first(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement
) -> None:
    with issuer.register.transaction():
        ordered = [
            issuer.amending.reset_usage(entitlement.entitlement_id, now=NOW).outcome["command_ids"]
            for _ in range(1_001)
        ]
    carried = [[each.command_id] for each in imported(issuer, appliance).commands]
    assert ordered[:1_000] == carried


def test_no_server_says_that_another_one_did_it(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    issuer.amending.renew(entitlement.entitlement_id, now=NOW)
    stranger = Appliance.new(seed=60_000)
    issuer.register_server(stranger.request(), customer="ACME", now=NOW)
    bundle = issuer.issue_bundle(appliance.server_id, now=NOW).bundle.payload
    ordered = [each["command_id"] for each in bundle["commands"]]  # type: ignore[attr-defined]
    stranger.post(Kind.INSTALLED, customer_ref="ACME", entitlements=[], commands=[*ordered, 7, None])
    assert () == reported(issuer, stranger, tmp_path / "r").applied
    assert 1 == len(imported(issuer, appliance).commands)


def test_a_reference_renews_once(issuer: Issuer, entitlement: Entitlement) -> None:
    key = entitlement.entitlement_id
    first = issuer.amending.renew(key, ref="SO-7", now=NOW)
    again = issuer.amending.renew(key, ref="SO-7", now=NOW + timedelta(days=900))
    assert (False, True) == (first.again, again.again)
    assert (first.outcome, first.sold) == (again.outcome, again.sold)
    with pytest.raises(Conflict, match="Under the reference SO-7 something else was done at 2026-11-21T07:00:00Z"):
        issuer.amending.reset_usage(key, ref="SO-7", now=NOW)
    assert first.sold == issuer.entitlement(key)


@pytest.mark.parametrize("ref", ["", "x" * 101, "a\nb"])
def test_a_reference_is_a_printable_text(issuer: Issuer, entitlement: Entitlement, ref: str) -> None:
    with pytest.raises(Conflict, match="printable text of 1 to 100"):
        issuer.amending.renew(entitlement.entitlement_id, ref=ref, now=NOW)


# -- counters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", ["frames", None])
def test_a_reset_is_ordered_of_one_feature_or_of_all(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, feature: str | None
) -> None:
    changed = issuer.amending.reset_usage(entitlement.entitlement_id, feature=feature, now=NOW)
    bundle = imported(issuer, appliance)
    assert [feature] == [one for _, one in commands(bundle)]
    assert 1 == changed.sold.document["sequence"]


@pytest.mark.parametrize(("feature", "sku"), [("gpu", "CAD"), ("fly", "CAD"), ("", "CAD")])
def test_what_is_not_used_up_is_not_reset(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, feature: str, sku: str
) -> None:
    with pytest.raises(Conflict, match="that is used up, so nothing can begin anew"):
        issuer.amending.reset_usage(entitlement.entitlement_id, feature=feature, now=NOW)
    assert () == imported(issuer, appliance).commands


def test_what_is_hosted_nowhere_has_no_counter_to_reset(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement
) -> None:
    issuer.hosting.retire(appliance.server_id, lost=True, confirm="site", now=NOW)
    assert [] == issuer.amending.renew(entitlement.entitlement_id, now=NOW).outcome["command_ids"]
    assert [] == issuer.amending.reset_usage(entitlement.entitlement_id, now=NOW).outcome["command_ids"]


# -- grants -----------------------------------------------------------------------------------------------------------


def give(issuer: Issuer, entitlement: Entitlement, *, amount: int = 5, ref: str | None = None) -> Changed:
    grant = GrantTerms(feature="cloud", amount=amount, expiry=GrantExpiry.CUSTOM, term=Term(unit=Unit.MONTH, count=3))
    return issuer.balances.add(entitlement.entitlement_id, grant, ref=ref, now=NOW)


def grants(bundle: Bundle) -> list[tuple[str, int]]:
    (entitlement,) = bundle.entitlements
    return [(one.grant_id, one.amount) for feature in entitlement.features for one in feature.grants]


def test_a_grant_comes_with_the_next_bundle_and_goes_with_the_one_after(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement
) -> None:
    grant_id = str(give(issuer, entitlement).outcome["grant_id"])
    assert [1000, 5] == [amount for _, amount in grants(imported(issuer, appliance))]
    assert 3 == issuer.balances.revoke(grant_id, now=NOW).sold.document["sequence"]
    assert [1000] == [amount for _, amount in grants(imported(issuer, appliance))]
    assert issuer.balances.revoke(grant_id, now=NOW).again


def test_a_reference_grants_once_also_an_hour_later(issuer: Issuer, entitlement: Entitlement) -> None:
    first = give(issuer, entitlement, ref="SO-9")
    grant = GrantTerms(feature="cloud", amount=5, expiry=GrantExpiry.CUSTOM, term=Term(unit=Unit.MONTH, count=3))
    later = issuer.balances.add(entitlement.entitlement_id, grant, ref="SO-9", now=NOW + timedelta(hours=1))
    assert (True, first.outcome, first.sold) == (later.again, later.outcome, later.sold)
    with pytest.raises(Conflict, match="something else was done"):
        give(issuer, entitlement, amount=6, ref="SO-9")


@pytest.mark.parametrize("feature", ["fly", "", "gpu "])
def test_only_counted_features_are_granted(issuer: Issuer, entitlement: Entitlement, feature: str) -> None:
    with pytest.raises(Conflict, match="has no counted feature"):
        issuer.balances.add(entitlement.entitlement_id, GrantTerms(feature=feature, amount=1), now=NOW)


def test_a_grant_that_no_server_reads_changes_nothing(issuer: Issuer, entitlement: Entitlement) -> None:
    before = issuer.entitlement(entitlement.entitlement_id)
    for grant in (
        GrantTerms(feature="cloud", amount=10**16),
        GrantTerms(feature="cloud", amount=0),
        GrantTerms(feature="cloud", amount=1, expiry=GrantExpiry.CUSTOM, term=Term(unit=Unit.YEAR, count=9_000)),
        GrantTerms(feature="cloud", amount=1, expiry=GrantExpiry.CUSTOM),
    ):
        with pytest.raises(Conflict, match="was refused"):
            issuer.balances.add(entitlement.entitlement_id, grant, ref="SO-1", now=NOW)
    assert before == issuer.entitlement(entitlement.entitlement_id)
    assert None is issuer.register.act("SO-1")


@pytest.mark.parametrize("grant_id", ["", "%", "grt_", "grt_' OR 1", "null"])
def test_an_unknown_grant_is_told(issuer: Issuer, entitlement: Entitlement, grant_id: str) -> None:
    with pytest.raises(NotKnown):
        issuer.balances.revoke(grant_id, now=NOW)


def test_nothing_of_what_is_not_known_changes(issuer: Issuer) -> None:
    for change in (issuer.amending.disable, issuer.amending.enable):
        with pytest.raises(NotKnown):
            change("ent_none", now=NOW)
    for later in (issuer.amending.renew, issuer.amending.reset_usage):
        with pytest.raises(NotKnown):
            later("ent_none", now=NOW)


# -- a customer that is disabled --------------------------------------------------------------------------------------


def test_nothing_is_sold_to_a_disabled_customer(issuer: Issuer, entitlement: Entitlement) -> None:
    key = entitlement.entitlement_id
    issuer.customers.disable("ACME", now=NOW)
    before = issuer.entitlement(key)
    with pytest.raises(Conflict, match="customer enable ACME"):
        issuer.amending.renew(key, now=NOW)
    with pytest.raises(Conflict, match="customer enable ACME"):
        issuer.amending.add_seats(key, 5, now=NOW)
    assert before == issuer.entitlement(key)
    issuer.customers.enable("ACME", now=NOW)
    assert not issuer.amending.renew(key, now=NOW).again
