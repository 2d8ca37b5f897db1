"""The whole loop, and what keys, bundles and receipts promise."""

from __future__ import annotations

import sqlite3
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from lls.faults import RefusedDocument
from lls.issuer import Issuer, sample_catalog
from lls.issuer.refusals import Conflict, HomeRefused, KeysLocked, NotKnown
from lls.signed.keys import follow
from lls.signed.receipt import read_receipt
from tests.issuer.appliance import NOW, Appliance, hosted, line, order


def test_the_loop_closes(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    bundle = hosted(issuer, appliance)
    appliance.grant(bundle.entitlements[0].entitlement_id, seats=3)
    appliance.wait(hours=1)
    report_id = appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    token = issuer.issue_receipt(report_id, now=NOW).token
    receipt = read_receipt(token, issuer.keyring.newest, appliance.server_id)
    assert (report_id, appliance.head.seq, appliance.head.hash) == (receipt.report_id, receipt.up_to_seq, receipt.head)
    following, _ = appliance.open(issuer.issue_bundle(appliance.server_id, now=NOW).data, issuer.keyring.newest)
    assert (2, token) == (following.sequence, following.receipt)


def test_a_receipt_asked_for_again_is_the_same(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    hosted(issuer, appliance)
    report_id = appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    first = issuer.issue_receipt(report_id, now=NOW)
    assert first == issuer.issue_receipt(report_id, now=NOW + timedelta(days=1))


def test_a_receipt_rides_along_until_a_report_shows_that_it_arrived(
    issuer: Issuer, appliance: Appliance, tmp_path: Path
) -> None:
    hosted(issuer, appliance)
    report_id = appliance.report(tmp_path / "1")
    issuer.ingest(tmp_path / "1", now=NOW)
    issuer.issue_receipt(report_id, now=NOW)
    carried = [issuer.issue_bundle(appliance.server_id, now=NOW).bundle.receipt_id for _ in range(2)]
    assert None not in carried
    appliance.report(tmp_path / "2", after=appliance.head.seq)
    issuer.ingest(tmp_path / "2", now=NOW)
    assert None is issuer.issue_bundle(appliance.server_id, now=NOW).bundle.receipt_id


def test_a_receipt_of_old_keys_is_signed_again_for_the_bundle_that_brings_new_ones(
    issuer: Issuer, appliance: Appliance, tmp_path: Path
) -> None:
    hosted(issuer, appliance)
    report_id = appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    before = issuer.issue_receipt(report_id, now=NOW)
    issuer.rotate_keys(now=NOW)
    bundle, keys = appliance.open(issuer.issue_bundle(appliance.server_id, now=NOW).data, issuer.keyring.version(1))
    assert bundle.receipt is not None
    assert before.receipt_id == read_receipt(bundle.receipt, keys, appliance.server_id).receipt_id


def test_no_receipt_without_a_report(issuer: Issuer) -> None:
    with pytest.raises(NotKnown, match="rpt_x"):
        issuer.issue_receipt("rpt_x", now=NOW)


def test_a_rotation_is_followed_from_the_first_version_on(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    issuer.rotate_keys(now=NOW)
    issuer.rotate_keys(now=NOW)
    bundle, keys = appliance.open(issuer.issue_bundle(appliance.server_id, now=NOW).data, issuer.keyring.version(1))
    assert (3, 2) == (keys.version, bundle.sequence)
    assert keys.keys.keys().isdisjoint(issuer.keyring.version(1).keys)
    assert 3 == follow(issuer.keyring.version(1), issuer.keyring.after(1))[0].version


def test_a_server_gets_only_the_key_sets_that_it_lacks(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    issuer.rotate_keys(now=NOW)
    appliance.keys_version = 2
    issuer.register_server(appliance.request(), now=NOW)
    assert [] == issuer.issue_bundle(appliance.server_id, now=NOW).bundle.payload["keys"]


def test_a_certificate_goes_out_again_until_half_of_its_life_is_over(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    ends = [
        issuer.issue_bundle(appliance.server_id, now=NOW + timedelta(days=days)).certificate_ends_at
        for days in (0, 199, 201)
    ]
    assert ends[0] == ends[1] == NOW + timedelta(days=400)
    assert NOW + timedelta(days=601) == ends[2]


def test_a_new_product_renews_the_certificate(issuer: Issuer, appliance: Appliance) -> None:
    first = hosted(issuer, appliance).certificate
    issuer.fulfil(order(appliance, line(sku="VIEWER-SITE", quantity=1), order_ref="SO-2"), now=NOW)
    data = issuer.issue_bundle(appliance.server_id, now=NOW).data
    second = appliance.open(data, issuer.keyring.newest)[0].certificate
    assert (("cad",), ("cad", "viewer")) == (first.products, second.products)


def test_sequences_rise_above_what_the_server_has_seen(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    issuer.register_server(appliance.request(bundle_sequence=41), now=NOW)
    assert 42 == issuer.issue_bundle(appliance.server_id, now=NOW).bundle.sequence
    issuer.register_server(appliance.request(bundle_sequence=1), now=NOW)
    assert 43 == issuer.issue_bundle(appliance.server_id, now=NOW).bundle.sequence


def test_a_bundle_carries_everything_that_the_server_hosts(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    issuer.fulfil(order(appliance, line(1), line(2), order_ref="SO-2"), now=NOW)
    assert 3 == len(issuer.issue_bundle(appliance.server_id, now=NOW).entitlements)


def test_a_bundle_that_outlives_its_certificate_says_so(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    issuer.fulfil(order(appliance, line(sku="VIEWER-SITE", quantity=1), order_ref="SO-2"), now=NOW)
    (warning,) = issuer.issue_bundle(appliance.server_id, now=NOW).warnings
    assert "2027-12-26" in warning


def test_a_term_that_has_not_begun_is_judged_as_if_it_began_now(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    issuer.fulfil(order(appliance, line(sku="CAD-PRO-TRIAL", quantity=1), order_ref="SO-2"), now=NOW)
    assert () == issuer.issue_bundle(appliance.server_id, now=NOW).warnings


def test_a_host_bound_server_carries_its_parts(issuer: Issuer, appliance: Appliance) -> None:
    issuer.register_server(appliance.request(), binding="host", now=NOW)
    issuer.fulfil(order(appliance), now=NOW)
    data = issuer.issue_bundle(appliance.server_id, now=NOW).data
    binding = appliance.open(data, issuer.keyring.newest)[0].server_license.binding
    assert ("host", 1, {"machine_id": "ab" * 32}) == (binding.policy, binding.required, binding.components)


def test_no_bundle_for_a_server_of_nobody(issuer: Issuer, appliance: Appliance) -> None:
    issuer.register_server(appliance.request(), now=NOW)
    with pytest.raises(NotKnown, match="belongs to no customer"):
        issuer.issue_bundle(appliance.server_id, now=NOW)


def test_an_expired_key_set_issues_nothing(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    with pytest.raises(Conflict, match="keys rotate"):
        issuer.issue_bundle(appliance.server_id, now=NOW + timedelta(days=731))
    issuer.rotate_keys(now=NOW + timedelta(days=731))
    assert 2 == issuer.issue_bundle(appliance.server_id, now=NOW + timedelta(days=731)).bundle.sequence


def test_the_vendor_sets_the_terms_of_a_bundle(issuer: Issuer, appliance: Appliance) -> None:
    issuer.register_server(appliance.request(), now=NOW)
    issuer.fulfil(order(appliance), now=NOW)
    terms = {"valid_days": 2, "certificate_days": 3, "sync_days": 4}
    data = issuer.issue_bundle(appliance.server_id, now=NOW, terms=terms).data
    bundle, _ = appliance.open(data, issuer.keyring.newest)
    assert (NOW + timedelta(days=2), NOW + timedelta(days=3), 4) == (
        bundle.not_after, bundle.server_license.expires_at, bundle.server_license.sync_within_days,
    )  # fmt: skip


def test_a_server_id_with_another_key_is_refused(issuer: Issuer, appliance: Appliance) -> None:
    issuer.register_server(appliance.request(), now=NOW)
    impostor = replace(Appliance.new(seed=5), server_id=appliance.server_id)
    with pytest.raises(Conflict, match="another signing key"):
        issuer.register_server(impostor.request(), now=NOW)


def test_a_server_does_not_change_hands(issuer: Issuer, appliance: Appliance) -> None:
    for account in ("ACME", "OTHER"):
        issuer.put_customer(account, name=account, now=NOW)
    issuer.register_server(appliance.request(), customer="ACME", now=NOW)
    with pytest.raises(Conflict, match="another customer"):
        issuer.register_server(appliance.request(), customer="OTHER", now=NOW)


def test_a_tampered_request_is_refused(issuer: Issuer, appliance: Appliance) -> None:
    with pytest.raises(RefusedDocument):
        issuer.register_server(appliance.request()[:-4] + "AAAA", now=NOW)
    assert [] == issuer.register.servers()


def test_a_customer_is_known_by_its_account_reference(issuer: Issuer) -> None:
    first = issuer.put_customer("ACME", name="Acme", custom_fields={"region": "eu"}, now=NOW)
    second = issuer.put_customer("ACME", name="Acme AG", now=NOW)
    assert replace(first, name="Acme AG") == second == issuer.customer(first.customer_id)


def test_keys_are_encrypted_and_nobody_elses_to_read(home: Path) -> None:
    Issuer.create(home, now=NOW, passphrase=b"correct horse").close()
    private = sorted((home / "keys").glob("*.pem"))
    assert 4 == len(private)
    for path in [*private, home / "register.sqlite"]:
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert all(b"ENCRYPTED" in path.read_bytes() for path in private)


@pytest.mark.parametrize("passphrase", [None, b"wrong"])
def test_keys_open_with_their_passphrase_only(home: Path, appliance: Appliance, passphrase: bytes | None) -> None:
    Issuer.create(home, now=NOW, passphrase=b"correct horse").close()
    with Issuer(home, now=NOW, passphrase=passphrase) as issuer:
        issuer.register_server(appliance.request(), now=NOW)
        with pytest.raises(KeysLocked) as refused:
            issuer.issue_bundle(appliance.server_id, now=NOW)
    assert "wrong" not in str(refused.value)
    with Issuer(home, now=NOW, passphrase=b"correct horse") as issuer:
        issuer.load_catalog(sample_catalog(), now=NOW)
        assert 1 == hosted(issuer, appliance).sequence


def test_a_home_is_made_once(issuer: Issuer) -> None:
    with pytest.raises(HomeRefused, match="already"):
        Issuer.create(issuer.home, now=NOW, passphrase=None)


def test_a_home_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lls.issuer.keyring.write_whole", full)
    with pytest.raises(HomeRefused, match="No space left"):
        Issuer.create(tmp_path / "v", now=NOW, passphrase=None)
    assert not (tmp_path / "v" / "keys").exists()
    monkeypatch.undo()
    Issuer.create(tmp_path / "v", now=NOW, passphrase=None).close()


def test_a_broken_chain_of_key_sets_is_not_used(issuer: Issuer, home: Path) -> None:
    issuer.rotate_keys(now=NOW)
    (home / "keys" / "v1.llskeys").unlink()
    with pytest.raises(HomeRefused, match="gap"):
        Issuer(home, now=NOW)


def test_a_register_survives_its_reopening(issuer: Issuer, appliance: Appliance, home: Path) -> None:
    hosted(issuer, appliance)
    with Issuer(home, now=NOW) as again:
        assert issuer.register.servers() == again.register.servers()
        assert issuer.register.entitlements() == again.register.entitlements()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("UPDATE migration SET sha256 = 'x'", "another 0001_register.sql"),
        ("INSERT INTO migration VALUES (99, 'n', 'x', 'x')", "schema 99"),
    ],
)
def test_a_register_of_another_schema_is_not_touched(issuer: Issuer, home: Path, damage: str, sentence: str) -> None:
    issuer.close()
    with sqlite3.connect(home / "register.sqlite") as sql:
        sql.execute(damage)
    sql.close()
    with pytest.raises(HomeRefused, match=sentence):
        Issuer(home, now=NOW)


def test_a_register_that_another_person_is_writing_to_is_waited_for_and_then_left_alone(
    issuer: Issuer, appliance: Appliance, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lls.issuer.database._WAIT_SECONDS", 0.01)
    with Issuer(home, now=NOW) as second:
        told = r"somebody else has been changing it .* Try again\."
        with issuer.register.transaction(), pytest.raises(HomeRefused, match=told):
            second.register_server(appliance.request(), now=NOW)
        with issuer.register.transaction(), Issuer(home, now=NOW) as reader:
            assert [] == reader.register.servers()
        assert appliance.server_id == second.register_server(appliance.request(), now=NOW).server_id


def test_what_is_no_register_is_refused(issuer: Issuer, home: Path) -> None:
    issuer.close()
    for path in home.glob("register.sqlite*"):
        path.unlink()
    (home / "register.sqlite").write_bytes(b"not a database" * 1_000)
    with pytest.raises(HomeRefused, match="cannot be opened"):
        Issuer(home, now=NOW)


def test_an_older_request_does_not_replace_a_newer_one(issuer: Issuer, appliance: Appliance) -> None:
    older = appliance.request()
    appliance.wait(days=1)
    newer = appliance.request(seq=50)
    issuer.register_server(newer, now=NOW)
    for request in (older, appliance.request(seq=49)):
        with pytest.raises(Conflict, match="older than the one registered"):
            issuer.register_server(request, now=NOW)
    assert 50 == issuer.register_server(newer, now=NOW).journal_seq
