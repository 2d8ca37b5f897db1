"""A report sets the dates of what its first lease began, and can be relied on later."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from lls.faults import RefusedDocument
from lls.issuer import Issuer, ReportProblem, ReportRefused
from lls.licensing.entitlement import Entitlement
from lls.licensing.fields import write_instant
from lls.licensing.journal import Kind
from tests.issuer.appliance import NOW, Appliance, imported, metered, reported

START = "2026-11-21T07:00:00Z"


@pytest.fixture
def trial(issuer: Issuer, appliance: Appliance) -> Entitlement:
    return metered(issuer, appliance, sku="CAD-TRY")


def dates(issuer: Issuer, entitlement_id: str) -> tuple[object, object, object]:
    document = issuer.entitlement(entitlement_id).document
    return document["starts_at"], document["expires_at"], document["sequence"]


def test_the_first_lease_sets_the_dates_and_the_next_bundle_carries_the_vendors(
    issuer: Issuer, appliance: Appliance, trial: Entitlement, tmp_path: Path
) -> None:
    appliance.start(trial.entitlement_id, starts_at=START, expires_at="2026-12-21T07:00:00Z")
    begun = reported(issuer, appliance, tmp_path / "r").begun
    assert [trial.entitlement_id] == [sold.entitlement_id for sold in begun]
    (there,) = imported(issuer, appliance).entitlements
    assert (NOW, "2026-12-21T07:00:00Z", 2) == (
        there.starts_at, there.expires_at and write_instant(there.expires_at), there.sequence,
    )  # fmt: skip


def test_no_server_lengthens_the_term(issuer: Issuer, appliance: Appliance, trial: Entitlement, tmp_path: Path) -> None:
    appliance.start(trial.entitlement_id, starts_at=START, expires_at="2099-01-01T00:00:00Z")
    reported(issuer, appliance, tmp_path / "r")
    assert (START, "2026-12-21T07:00:00Z", 2) == dates(issuer, trial.entitlement_id)


def test_a_term_begins_once(issuer: Issuer, appliance: Appliance, trial: Entitlement, tmp_path: Path) -> None:
    appliance.start(trial.entitlement_id, starts_at=START)
    reported(issuer, appliance, tmp_path / "1")
    appliance.wait(days=3)
    appliance.start(trial.entitlement_id, starts_at=write_instant(appliance.now))
    assert () == reported(issuer, appliance, tmp_path / "2").begun
    assert (START, "2026-12-21T07:00:00Z", 2) == dates(issuer, trial.entitlement_id)


def test_a_term_that_has_begun_can_be_renewed(
    issuer: Issuer, appliance: Appliance, trial: Entitlement, tmp_path: Path
) -> None:
    appliance.start(trial.entitlement_id, starts_at=START)
    reported(issuer, appliance, tmp_path / "r")
    assert "2027-01-21T07:00:00Z" == issuer.amending.renew(trial.entitlement_id, now=NOW).outcome["expires_at"]


def test_no_server_begins_what_another_one_hosts(
    issuer: Issuer, appliance: Appliance, trial: Entitlement, tmp_path: Path
) -> None:
    stranger = Appliance.new(seed=60_000)
    issuer.register_server(stranger.request(), customer="ACME", now=NOW)
    stranger.start(trial.entitlement_id, starts_at=START)
    assert () == reported(issuer, stranger, tmp_path / "r").begun
    assert (None, None, 1) == dates(issuer, trial.entitlement_id)


def test_a_term_that_begins_after_its_own_line_is_refused(
    issuer: Issuer, appliance: Appliance, trial: Entitlement, tmp_path: Path
) -> None:
    appliance.start(trial.entitlement_id, starts_at=write_instant(NOW + timedelta(days=300)))
    with pytest.raises(ReportRefused, match="begins the term of") as refused:
        reported(issuer, appliance, tmp_path / "r")
    assert ReportProblem.IMPLAUSIBLE is refused.value.problem
    assert [] == issuer.register.reports()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Kind.USED, {"draws": {"allowance": 2}}),
        (Kind.USED, {"draws": {"allowance": -1, "overdraft": 2}}),
        (Kind.USED, {"draws": [1]}),
        (Kind.USED, {"draws": None}),
        (Kind.USED, {"feature": 7}),
        (Kind.UNDONE, {"draws": {"allowance": "1"}}),
        (Kind.GRANT_ENDED, {"lot": None, "consumed": 0, "lost": 0}),
        (Kind.STARTED, {"starts_at": "soon", "expires_at": None}),
        (Kind.STARTED, {"entitlement_id": None, "starts_at": START}),
        (Kind.INSTALLED, {"customer_ref": "A", "entitlements": [], "commands": [], "resets": [{"feature": "x"}]}),
        (Kind.INSTALLED, {"customer_ref": "A", "entitlements": [], "commands": 7}),
    ],
)
def test_a_line_that_could_not_be_read_when_the_server_is_lost_refuses_its_report(
    issuer: Issuer, appliance: Appliance, tmp_path: Path, *, kind: Kind, changes: dict[str, object]
) -> None:
    key = metered(issuer, appliance).entitlement_id
    line = {"entitlement_id": key, "feature": "frames", "amount": 1, "over": 0, "draws": {"allowance": 1}}
    appliance.post(kind, **{**line, **changes})
    appliance.report(tmp_path / "r", table=b"day\r\n")
    with pytest.raises(RefusedDocument, match="data"):  # before the table is looked at
        issuer.ingest(tmp_path / "r", now=NOW)
    assert [] == issuer.register.reports()


def test_kinds_of_every_sort_are_taken_in(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    entitlement = metered(issuer, appliance)
    key = entitlement.entitlement_id
    appliance.grant(key)
    appliance.hold(key, "gpu", 1)
    appliance.post(Kind.BORROWED, lease_id="lease", entitlement_id=key, until=START, extends=False, by="lan")
    appliance.post(Kind.OVERDRAFT, entitlement_id=key, feature="gpu", seats=4, in_use=5, over=1)
    appliance.post(
        Kind.DENIED, entitlement_id=key, product="cad", feature="gpu", count=1, code="no_feature_units", holder=None
    )
    appliance.post(Kind.POLICY_CHANGED, policy="aa", actor="aa", added=["limit[1]"], removed=[], rules=1)
    appliance.post(Kind.ADMIN_ACTED, act="named_user_assigned", actor="aa", entitlement_id=key, user="aa")
    appliance.post(Kind.GRANT_ENDED, entitlement_id=key, feature="cloud", lot="grt", amount=1, consumed=0, lost=1)
    appliance.post(Kind.RELEASED, lease_id="lease", entitlement_id=key, freed=1, features={"gpu": 1})
    appliance.return_entitlement(entitlement)
    assert 12 == reported(issuer, appliance, tmp_path / "r").report.new_lines
