"""A rotation rehearsed from an old fleet to a new one: servers and applications of every age follow, thieves do not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.client import trust
from lls.client.errors import OtherKey
from lls.faults import Refusal, RefusedDocument
from lls.issuer import Issuer
from lls.issuer.keyring import Change
from lls.issuer.pending import Pending
from lls.issuer.refusals import HomeRefused, SignaturesMissing
from lls.licensing.fields import write_instant
from lls.signed.bundle import seal_bundle
from lls.signed.jose import SigningKey
from lls.signed.keys import KeySet
from tests.issuer.appliance import NOW, Appliance, hosted, line, order
from tests.issuer.people import Person, office

ANN, BOB, CAT, DAN = (Person.named(name) for name in ("ann", "bob", "cat", "dan"))


def sold(issuer: Issuer, site: Appliance, ref: str) -> None:
    issuer.register_server(site.request(), now=site.now)
    issuer.fulfil(order(site, line(quantity=3), order_ref=ref), now=site.now)


def follows(issuer: Issuer, site: Appliance, known: KeySet) -> KeySet:
    """The site imports its next bundle; the keys that it knows afterwards."""
    return site.open(issuer.issue_bundle(site.server_id, now=site.now).data, known)[1]


def application(first: KeySet, newer: list[str]) -> trust.KeySet:
    """An application that embeds ``first`` and was given later versions by its server."""
    known = trust.KeySet.read(first.token)
    for token in newer:
        known = known.successor(token)
    return known


def test_three_servers_of_three_ages_reach_the_newest_keys_and_applications_follow_them(issuer: Issuer) -> None:
    sites = [Appliance.new(seed) for seed in (1_000, 2_000, 3_000)]
    first = issuer.keyring.version(1)
    for number, site in enumerate(sites):
        sold(issuer, site, f"SO-{number}")
    knows = {site.server_id: follows(issuer, site, first) for site in sites}
    fresh, behind, offline = sites
    for version in (2, 3):
        issuer.rotate_keys(now=NOW)
        followers = [fresh, behind] if version == 2 else [fresh]
        for site in followers:
            knows[site.server_id] = follows(issuer, site, knows[site.server_id])
            site.keys_version = version
            issuer.register_server(site.request(), now=site.now)
    issuer.rotate_keys(now=NOW)
    assert [3, 2, 1] == [knows[site.server_id].version for site in (fresh, behind, offline)]
    for site in sites:
        bundle, keys = site.open(issuer.issue_bundle(site.server_id, now=site.now).data, knows[site.server_id])
        assert 4 == keys.version
        known = application(first, issuer.keyring.after(1))
        assert site.server_id == known.certificate(bundle.certificate.token).server_id


def test_an_application_of_the_first_day_reads_the_old_certificate_until_its_server_has_the_new_keys(
    issuer: Issuer, appliance: Appliance
) -> None:
    old = hosted(issuer, appliance).certificate
    issuer.rotate_keys(now=NOW)
    assert appliance.server_id == application(issuer.keyring.version(1), []).certificate(old.token).server_id
    bundle, _ = appliance.open(issuer.issue_bundle(appliance.server_id, now=NOW).data, issuer.keyring.version(1))
    with pytest.raises(OtherKey):
        application(issuer.keyring.version(1), []).certificate(bundle.certificate.token)
    known = application(issuer.keyring.version(1), issuer.keyring.after(1))
    assert appliance.server_id == known.certificate(bundle.certificate.token).server_id


def test_roots_change_hands_only_with_enough_of_the_old_and_enough_of_the_new(home: Path) -> None:
    people = {"root": [ANN, BOB], "bundle": [], "certificate": []}
    with office(home, people, thresholds={"root": 2}, own=["bundle", "certificate"], sealed_by=[ANN, BOB]) as issuer:
        change = Change(adding={"root": [CAT.part, DAN.part]}, without=[ANN.key.kid, BOB.key.kid])
        pending = issuer.rotating.change(change, now=NOW, partial=True)
        assert isinstance(pending, Pending)
        for group in ([CAT, DAN], [ANN, BOB], [ANN, CAT, DAN]):
            signed = pending
            for person in group:
                signed = person.signs(signed)
            assert not signed.complete
        signed = pending
        for person in (CAT, ANN, DAN, BOB):
            signed = person.signs(signed)
        assert 2 == issuer.rotating.seal(signed, now=NOW).version
        assert 2 == application(issuer.keyring.version(1), issuer.keyring.after(1)).version


def stolen(issuer: Issuer, home: Path) -> SigningKey:
    """The office's bundle key, in the wrong hands."""
    (kid,) = issuer.keyring.newest.roles["bundle"].kids
    return SigningKey.from_pem((home / "keys" / f"{kid}.pem").read_bytes())


def forged(site: Appliance, payload: Any, *, sequence: int, key: SigningKey) -> bytes:
    """What the thief would send."""
    bought = [{**one, "seats": 9_999, "sequence": 99} for one in payload["entitlements"]]
    document = {**payload, "sequence": sequence, "entitlements": bought, "issued_at": write_instant(site.now)}
    return seal_bundle(document, signers=[key], encryption_jwk=site.encryption_key.public_jwk())


def test_what_a_removed_key_signs_is_refused_by_every_server_that_has_the_new_version(
    issuer: Issuer, home: Path, appliance: Appliance
) -> None:
    hosted(issuer, appliance)
    thief = stolen(issuer, home)
    payload = issuer.register.bundles(appliance.server_id)[0].payload
    first = issuer.keyring.version(1)
    assert 9_999 == appliance.open(forged(appliance, payload, sequence=2, key=thief), first)[0].entitlements[0].seats
    issuer.rotate_keys(now=NOW)
    second = follows(issuer, appliance, first)
    newest = issuer.register.bundles(appliance.server_id)[-1].payload
    for stale in (payload, newest):
        with pytest.raises(RefusedDocument) as refused:
            appliance.open(forged(appliance, stale, sequence=9, key=thief), second)
        assert Refusal.SIGNATURE is refused.value.reason


def test_a_lost_bundle_key_is_replaced_and_every_server_goes_on(
    issuer: Issuer, home: Path, appliance: Appliance
) -> None:
    hosted(issuer, appliance)
    (kid,) = issuer.keyring.newest.roles["bundle"].kids
    (home / "keys" / f"{kid}.pem").unlink()
    with pytest.raises(SignaturesMissing, match=r"needs 1 signatures.*--without KID"):
        issuer.issue_bundle(appliance.server_id, now=NOW)
    keys = issuer.rotating.change(issuer.keyring.rotation(without=[kid]), now=NOW)
    assert isinstance(keys, KeySet)
    assert kid not in keys.keys
    assert 2 == follows(issuer, appliance, issuer.keyring.version(1)).version


def test_a_private_key_under_another_keys_name_is_not_signed_with(
    issuer: Issuer, home: Path, appliance: Appliance
) -> None:
    hosted(issuer, appliance)
    (kid,) = issuer.keyring.newest.roles["bundle"].kids
    (home / "keys" / f"{kid}.pem").write_bytes(SigningKey.generate().to_pem())
    with pytest.raises(HomeRefused, match="another key than its name"):
        issuer.issue_bundle(appliance.server_id, now=NOW)


def test_a_server_that_was_away_for_years_gets_all_key_sets_at_once(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    for years in range(1, 6):
        issuer.rotate_keys(now=NOW + timedelta(days=365 * years))
    appliance.now = NOW + timedelta(days=365 * 5)
    assert 6 == follows(issuer, appliance, issuer.keyring.version(1)).version
