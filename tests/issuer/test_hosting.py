"""An entitlement lives on one server at a time, and what was used of it stays used."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.faults import Refusal, RefusedDocument
from lls.issuer import Issuer
from lls.issuer.catalog import GrantTerms
from lls.issuer.refusals import Conflict, NotKnown, OrderRefused
from lls.licensing.entitlement import Entitlement, Feature
from lls.licensing.journal import Kind
from lls.signed.returned import make_return
from tests.issuer.appliance import NOW, Appliance, imported, line, meter, metered, order, reported

AWAY = NOW + timedelta(days=9)


@pytest.fixture
def entitlement(issuer: Issuer, appliance: Appliance) -> Entitlement:
    return metered(issuer, appliance)


@pytest.fixture
def other(issuer: Issuer, entitlement: Entitlement) -> Appliance:
    """A second server of the same customer."""
    second = Appliance.new(seed=50_000)
    issuer.register_server(second.request(), customer="ACME", now=NOW)
    return second


def returned(issuer: Issuer, appliance: Appliance, entitlement: Entitlement, path: Path, **changes: Any) -> str:
    """A return whose report is in."""
    after = appliance.reported
    document = appliance.return_entitlement(entitlement, **changes)
    reported(issuer, appliance, path, after=after)
    return document


def moved(issuer: Issuer, entitlement: Entitlement, to: Appliance) -> Entitlement:
    """Hosted by that server, as it reads it."""
    issuer.hosting.host(entitlement.entitlement_id, server_id=to.server_id, now=NOW)
    return imported(issuer, to).entitlements[0]


def feature(entitlement: Entitlement, key: str) -> Feature:
    found = entitlement.feature(key)
    assert found is not None
    return found


# -- returns ----------------------------------------------------------------------------------------------------------


def test_a_return_frees_the_entitlement_and_leaves_later_bundles(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    document = returned(issuer, appliance, entitlement, tmp_path / "r")
    accepted = issuer.hosting.accept_return(document, now=NOW)
    assert (None, None, False) == (accepted.sold.server_id, accepted.sold.free_from, accepted.again)
    assert () == imported(issuer, appliance).entitlements


def test_a_return_that_tells_less_use_than_its_journal_line_is_refused(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    journalled, told = (meter("frames", {"allowance": (100, used)}) for used in (90, 7))
    document = returned(issuer, appliance, entitlement, tmp_path / "r", meters=[journalled])
    lines = [entry for entry in appliance.entries if entry.kind is Kind.RETURNED_ENTITLEMENT]
    claimed = make_return(
        server_id=appliance.server_id,
        entitlement_id=entitlement.entitlement_id,
        session_id=entitlement.session_id,
        up_to_seq=lines[0].seq,
        head=lines[0].hash,
        meters=[told],
        borrowed_until=None,
        made_at=appliance.now,
        key=appliance.signing_key,
    )
    with pytest.raises(Conflict, match="unchanged server"):
        issuer.hosting.accept_return(claimed, now=NOW)
    assert not issuer.hosting.accept_return(document, now=NOW).again


def test_a_return_accepted_again_changes_nothing(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    meters = [meter("frames", {"allowance": (100, 7)})]
    document = returned(issuer, appliance, entitlement, tmp_path / "r", meters=meters)
    first = issuer.hosting.accept_return(document, now=NOW)
    again = issuer.hosting.accept_return(document.encode(), now=NOW + timedelta(days=1))
    assert (True, first.session, first.sold) == (again.again, again.session, again.sold)
    there = issuer.hosting.host(entitlement.entitlement_id, server_id=other.server_id, now=NOW).sold
    assert issuer.hosting.accept_return(document, now=NOW).again
    assert there == issuer.entitlement(entitlement.entitlement_id)


@pytest.mark.parametrize(("lines", "missing"), [(0, "line 3 is"), (1, "lines 3 to 4 are")])
def test_a_return_waits_for_its_report_and_names_the_lines(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path, *, lines: int, missing: str
) -> None:
    reported(issuer, appliance, tmp_path / "early")
    for _ in range(lines):
        appliance.grant(entitlement.entitlement_id)
    document = appliance.return_entitlement(entitlement)
    with pytest.raises(Conflict, match=f"{missing} not reported yet. Ingest the report that holds line {3 + lines}"):
        issuer.hosting.accept_return(document, now=NOW)
    assert appliance.server_id == issuer.entitlement(entitlement.entitlement_id).server_id


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"head": "a" * 64}, "is forked: its line 2"),
        ({"up_to_seq": 1}, "is forked: its line 1"),
        ({"session_id": f"ses_{'A' * 22}"}, "no such session"),
        ({"entitlement_id": f"ent_{'A' * 22}"}, "no such session"),
    ],
)
def test_a_return_that_does_not_fit_the_register_frees_nothing(
    issuer: Issuer,
    appliance: Appliance,
    entitlement: Entitlement,
    tmp_path: Path,
    *,
    changes: dict[str, object],
    sentence: str,
) -> None:
    document = returned(issuer, appliance, entitlement, tmp_path / "r", **changes)
    with pytest.raises((Conflict, NotKnown), match=sentence):
        issuer.hosting.accept_return(document, now=NOW)
    assert appliance.server_id == issuer.entitlement(entitlement.entitlement_id).server_id


def test_a_return_that_names_another_line_of_the_journal_frees_nothing(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    first = appliance.entries[0]
    document = returned(issuer, appliance, entitlement, tmp_path / "r", up_to_seq=1, head=first.hash)
    with pytest.raises(Conflict, match="does not return"):
        issuer.hosting.accept_return(document, now=NOW)


def test_a_return_of_one_server_ends_no_session_of_another(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    document = other.return_entitlement(entitlement)
    reported(issuer, other, tmp_path / "r")
    with pytest.raises(NotKnown, match="no such session"):
        issuer.hosting.accept_return(document, now=NOW)


def test_a_return_by_another_key_is_refused(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    stranger = Appliance.new(seed=5)
    document = returned(issuer, appliance, entitlement, tmp_path / "r", key=stranger.signing_key)
    with pytest.raises(RefusedDocument) as refused:
        issuer.hosting.accept_return(document, now=NOW)
    assert Refusal.SIGNATURE is refused.value.reason
    with pytest.raises(NotKnown, match="may be another vendor's"):
        issuer.hosting.accept_return(stranger.return_entitlement(entitlement), now=NOW)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\xff", b"a.b.c", b"{}", base64.urlsafe_b64encode(json.dumps({"server_id": 7}).encode()), b"." * 9_000],
)
def test_what_is_no_return_is_refused_in_words(issuer: Issuer, data: bytes) -> None:
    with pytest.raises(RefusedDocument):
        issuer.hosting.accept_return(data, now=NOW)


def test_two_returns_of_one_session_that_differ_are_named(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    issuer.hosting.accept_return(returned(issuer, appliance, entitlement, tmp_path / "1"), now=NOW)
    second = returned(issuer, appliance, entitlement, tmp_path / "2")
    with pytest.raises(Conflict, match="Another return of the session"):
        issuer.hosting.accept_return(second, now=NOW)


def test_borrowed_seats_are_not_hosted_elsewhere_before_they_end(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    document = returned(issuer, appliance, entitlement, tmp_path / "r", borrowed_until=AWAY)
    issuer.hosting.accept_return(document, now=NOW)
    key = entitlement.entitlement_id
    with pytest.raises(Conflict, match="may be borrowed from its last server until 2026-11-30T07:00:00Z"):
        issuer.hosting.host(key, server_id=other.server_id, now=AWAY - timedelta(seconds=1))
    assert other.server_id == issuer.hosting.host(key, server_id=other.server_id, now=AWAY).sold.server_id


def test_the_server_that_returned_it_may_host_it_again_at_once(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    document = returned(issuer, appliance, entitlement, tmp_path / "r", borrowed_until=AWAY)
    issuer.hosting.accept_return(document, now=NOW)
    again = moved(issuer, entitlement, appliance)
    assert entitlement.session_id != again.session_id
    assert entitlement.sequence + 1 == again.sequence


# -- what was used ----------------------------------------------------------------------------------------------------


def test_the_next_server_gets_what_is_left(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    (grant,) = feature(entitlement, "cloud").grants
    meters = [
        meter("frames", {"allowance": (100, 100), "overdraft": (50, 20)}),
        meter("cloud", {"allowance": (0, 0), grant.grant_id: (1000, 250)}, kind="credit"),
    ]
    issuer.hosting.accept_return(returned(issuer, appliance, entitlement, tmp_path / "1", meters=meters), now=NOW)
    second = moved(issuer, entitlement, other)
    assert (0, 30, 4) == (
        feature(second, "frames").value, feature(second, "frames").overdraft.value, feature(second, "gpu").value,
    )  # fmt: skip
    assert [(grant.grant_id, 750)] == [(one.grant_id, one.amount) for one in feature(second, "cloud").grants]
    meters = [
        meter("frames", {"allowance": (0, 0), "overdraft": (30, 5)}),
        meter("cloud", {grant.grant_id: (750, 749)}, kind="credit"),
    ]
    issuer.hosting.accept_return(returned(issuer, other, second, tmp_path / "2", meters=meters), now=NOW)
    third = moved(issuer, second, appliance)
    assert (25, [1]) == (
        feature(third, "frames").overdraft.value, [one.amount for one in feature(third, "cloud").grants],
    )  # fmt: skip


def test_a_grant_that_ended_is_not_given_again(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    (grant,) = feature(entitlement, "cloud").grants
    meters = [meter("cloud", {grant.grant_id: (1000, 1)}, kind="credit", ended=[grant.grant_id])]
    issuer.hosting.accept_return(returned(issuer, appliance, entitlement, tmp_path / "r", meters=meters), now=NOW)
    assert () == feature(moved(issuer, entitlement, other), "cloud").grants


def test_what_is_reset_after_a_move_is_given_whole_again_and_what_ended_is_not(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    key = entitlement.entitlement_id
    (ended,) = feature(entitlement, "cloud").grants
    issuer.balances.add(key, GrantTerms(feature="cloud", amount=70), now=NOW)
    (_, living) = feature(imported(issuer, appliance).entitlements[0], "cloud").grants
    meters = [
        meter("frames", {"allowance": (100, 100), "overdraft": (50, 50)}),
        meter("cloud", {ended.grant_id: (1000, 1), living.grant_id: (70, 60)}, kind="credit", ended=[ended.grant_id]),
    ]
    issuer.hosting.accept_return(returned(issuer, appliance, entitlement, tmp_path / "r", meters=meters), now=NOW)
    there = moved(issuer, entitlement, other)
    assert (0, 0, 10) == (
        feature(there, "frames").value,
        feature(there, "frames").overdraft.value,
        feature(there, "cloud").grants[0].amount,
    )
    issuer.amending.renew(key, now=NOW)
    issuer.amending.reset_usage(key, feature="cloud", now=NOW)
    bundle = imported(issuer, other)
    (there,) = bundle.entitlements
    assert ["frames", "cloud"] == [each.order.feature for each in bundle.commands]
    assert (100, 50) == (feature(there, "frames").value, feature(there, "frames").overdraft.value)
    assert [(living.grant_id, 70)] == [(one.grant_id, one.amount) for one in feature(there, "cloud").grants]


def test_a_months_allowance_begins_anew_elsewhere_and_whoever_moves_it_is_told(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    meters = [meter("pages", {"allowance 2026-11-21T00:00:00Z": (10, 9), "overdraft 2026-11-21T00:00:00Z": (0, 0)})]
    issuer.hosting.accept_return(returned(issuer, appliance, entitlement, tmp_path / "r", meters=meters), now=NOW)
    (warning,) = issuer.hosting.host(entitlement.entitlement_id, server_id=other.server_id, now=NOW).warnings
    assert "monthly allowance of pages begins anew" in warning
    assert 10 == feature(imported(issuer, other).entitlements[0], "pages").value


def test_a_reset_that_never_reached_the_server_holds_on_the_next(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    issuer.amending.reset_usage(entitlement.entitlement_id, feature="frames", now=NOW)
    meters = [meter("frames", {"allowance": (100, 60)}), meter("cloud", {"allowance": (0, 5)}, kind="credit")]
    issuer.hosting.accept_return(returned(issuer, appliance, entitlement, tmp_path / "r", meters=meters), now=NOW)
    assert {"cloud": {"allowance": {"used": 5, "ended": 0}}} == issuer.entitlement(entitlement.entitlement_id).carried
    issuer.hosting.host(entitlement.entitlement_id, server_id=other.server_id, now=NOW)
    bundle = imported(issuer, other)
    assert ((), 100) == (bundle.commands, feature(bundle.entitlements[0], "frames").value)


# -- servers that end -------------------------------------------------------------------------------------------------


def test_a_server_that_hosts_nothing_is_retired(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement
) -> None:
    retired = issuer.hosting.retire(other.server_id, now=NOW)
    assert ((), False, False) == (retired.freed, retired.again, retired.server.lost)
    assert issuer.hosting.retire(other.server_id, now=NOW + timedelta(days=1)).again
    assert NOW == issuer.server(other.server_id).retired_at


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({}, "still hosts 1 entitlements"),
        ({"lost": True}, "give its name: --confirm 'site'"),
        ({"lost": True, "confirm": "sites"}, "give its name: --confirm 'site'"),
        ({"confirm": "site"}, "still hosts 1 entitlements"),
    ],
)
def test_a_server_that_hosts_is_retired_only_as_lost_and_by_its_name(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, words: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Conflict, match=sentence):
        issuer.hosting.retire(appliance.server_id, now=NOW, **words)
    assert issuer.server(appliance.server_id).retired_at is None


def lose(issuer: Issuer, appliance: Appliance) -> Any:
    return issuer.hosting.retire(appliance.server_id, lost=True, confirm="site", now=NOW)


def test_what_a_lost_server_hosted_waits_for_the_longest_borrowing(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement
) -> None:
    (freed,) = lose(issuer, appliance).freed
    until = NOW + timedelta(days=14, seconds=1)
    assert (None, until) == (freed.server_id, freed.free_from)
    with pytest.raises(Conflict, match="may be borrowed"):
        issuer.hosting.host(entitlement.entitlement_id, server_id=other.server_id, now=NOW + timedelta(days=14))
    assert issuer.hosting.host(entitlement.entitlement_id, server_id=other.server_id, now=until).sold.server_id
    assert () == lose(issuer, appliance).freed


@pytest.mark.parametrize(("sku", "free_from"), [("CAD-EVER", None), ("CAD-TRY", None)])
def test_what_cannot_be_borrowed_is_free_at_once(
    issuer: Issuer, appliance: Appliance, sku: str, free_from: None
) -> None:
    metered(issuer, appliance, sku=sku)
    assert [free_from] == [sold.free_from for sold in lose(issuer, appliance).freed]


def test_nothing_is_borrowed_beyond_the_end_of_the_term(issuer: Issuer, appliance: Appliance) -> None:
    metered(issuer, appliance)
    ends = NOW + timedelta(days=365 + 7)
    late = ends - timedelta(days=1)
    (freed,) = issuer.hosting.retire(appliance.server_id, lost=True, confirm="site", now=late).freed
    assert ends == freed.free_from


def test_a_return_after_the_loss_is_told_so(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    lose(issuer, appliance)
    document = returned(issuer, appliance, entitlement, tmp_path / "r")
    with pytest.raises(Conflict, match="declared lost on 2026-11-21"):
        issuer.hosting.accept_return(document, now=NOW)


def test_nothing_is_issued_or_sold_to_a_retired_server_and_its_reports_still_count(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    lose(issuer, appliance)
    for refused in (
        lambda: issuer.issue_bundle(appliance.server_id, now=NOW),
        lambda: issuer.register_server(appliance.request(), now=NOW),
        lambda: issuer.hosting.host(entitlement.entitlement_id, server_id=appliance.server_id, now=AWAY),
    ):
        with pytest.raises(Conflict, match="retired on 2026-11-21"):
            refused()
    with pytest.raises(OrderRefused, match="retired on 2026-11-21"):
        issuer.fulfil(order(appliance, line(sku="CAD"), order_ref="SO-2"), now=NOW)
    appliance.grant(entitlement.entitlement_id, seats=1)
    assert 3 == reported(issuer, appliance, tmp_path / "late").report.new_lines


def test_what_a_lost_server_reported_as_used_is_not_given_again(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    key = entitlement.entitlement_id
    (grant,) = feature(entitlement, "cloud").grants
    issuer.amending.reset_usage(key, feature="cloud", now=NOW)
    appliance.use(key, "cloud", {grant.grant_id: 900})
    imported(issuer, appliance)  # it begins anew here
    appliance.use(key, "cloud", {grant.grant_id: 400})
    appliance.use(key, "cloud", {grant.grant_id: 100}, kind=Kind.UNDONE)
    appliance.use(key, "frames", {"allowance": 100, "overdraft": 3}, over=3)
    appliance.use(key, "pages", {"allowance 2026-11-21T00:00:00Z": 9})
    reported(issuer, appliance, tmp_path / "r")
    appliance.use(key, "frames", {"overdraft": 40}, over=40)  # nobody knows
    lose(issuer, appliance)
    assert {
        "cloud": {grant.grant_id: {"used": 300, "ended": 0}},
        "frames": {"allowance": {"used": 100, "ended": 0}, "overdraft": {"used": 3, "ended": 0}},
    } == issuer.entitlement(key).carried


def test_a_grant_that_ended_on_a_lost_server_stays_ended(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    key = entitlement.entitlement_id
    (grant,) = feature(entitlement, "cloud").grants
    lot = {"entitlement_id": key, "feature": "cloud", "lot": grant.grant_id}
    appliance.post(Kind.GRANT_ENDED, **lot, amount=1000, consumed=0, lost=1000)
    reported(issuer, appliance, tmp_path / "r")
    lose(issuer, appliance)
    assert {"cloud": {grant.grant_id: {"used": 0, "ended": 1}}} == issuer.entitlement(key).carried


# -- the next server --------------------------------------------------------------------------------------------------


def test_an_entitlement_is_hosted_once(
    issuer: Issuer, appliance: Appliance, other: Appliance, entitlement: Entitlement
) -> None:
    key = entitlement.entitlement_id
    with pytest.raises(Conflict, match=f"is hosted by {appliance.server_id}"):
        issuer.hosting.host(key, server_id=other.server_id, now=NOW)
    before = issuer.entitlement(key)
    same = issuer.hosting.host(key, server_id=appliance.server_id, now=NOW)
    assert (True, before) == (same.again, same.sold)


def test_only_servers_of_the_same_customer_host_it(
    issuer: Issuer, appliance: Appliance, entitlement: Entitlement, tmp_path: Path
) -> None:
    issuer.hosting.accept_return(returned(issuer, appliance, entitlement, tmp_path / "r"), now=NOW)
    strange, fresh = Appliance.new(seed=60_000), Appliance.new(seed=70_000)
    issuer.put_customer("OTHER", name="Other", now=NOW)
    issuer.register_server(strange.request(), customer="OTHER", now=NOW)
    issuer.register_server(fresh.request(), now=NOW)
    with pytest.raises(Conflict, match="belongs to another customer"):
        issuer.hosting.host(entitlement.entitlement_id, server_id=strange.server_id, now=NOW)
    assert moved(issuer, entitlement, fresh).entitlement_id == entitlement.entitlement_id
    assert issuer.server(appliance.server_id).customer_id == issuer.server(fresh.server_id).customer_id


def test_who_hosts_and_what_is_hosted_must_be_known(issuer: Issuer, appliance: Appliance) -> None:
    key = metered(issuer, appliance).entitlement_id
    for entitlement_id, server_id in ((key, "lls_none"), ("ent_none", appliance.server_id)):
        with pytest.raises(NotKnown):
            issuer.hosting.host(entitlement_id, server_id=server_id, now=NOW)
    with pytest.raises(NotKnown):
        issuer.hosting.retire("lls_none", now=NOW)
