"""Key sets: who may become the vendor, and who may not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from lls.faults import Refusal, RefusedDocument
from lls.signed.jose import add_signature, sign_general
from lls.signed.keys import follow, read_key_set
from tests.vendor import NOW, REMOVED, Change, Document, Vendor, ed25519_key, signing_key


def refusal(action: Callable[[], object]) -> Refusal:
    with pytest.raises(RefusedDocument) as caught:
        action()
    return caught.value.reason


def role(name: str, **members: object) -> Change:
    def change(payload: Document) -> None:
        roles = payload["roles"]
        assert isinstance(roles, dict)
        roles[name].update(members)

    return change


def test_a_key_set_that_reaches_its_own_threshold_is_read() -> None:
    keys = Vendor().keys

    assert 1 == keys.version
    assert 2 == keys.roles["root"].threshold
    assert 6 == len(keys.keys)


def test_unknown_members_and_roles_are_kept_and_ignored() -> None:
    vendor = Vendor()
    token = vendor.key_set_token(version=1, later="x", change=role("root", comment="x"))

    assert token == read_key_set(token).token


@pytest.mark.parametrize(
    ("expected", "signers"),
    [(Refusal.THRESHOLD, 1), (Refusal.SIGNATURE, 0)],
)
def test_too_few_root_signatures_are_refused(expected: Refusal, signers: int) -> None:
    vendor = Vendor()
    token = vendor.key_set_token(signers=[*vendor.root[:signers], *vendor.bundle_keys])

    assert expected is refusal(lambda: read_key_set(token))


def test_the_same_signature_twice_counts_once() -> None:
    vendor = Vendor()
    token = vendor.key_set_token(signers=[vendor.root[0], vendor.root[0]])

    assert Refusal.THRESHOLD is refusal(lambda: read_key_set(token))


def test_people_sign_one_after_the_other() -> None:
    vendor = Vendor()
    token = add_signature(vendor.key_set_token(version=1, signers=[vendor.root[0]]), key=vendor.root[1])

    assert 1 == read_key_set(token).version


@pytest.mark.parametrize(
    "change",
    [
        role("root", threshold=0),
        role("root", threshold=-1),
        role("root", threshold=3),
        role("root", threshold=True),
        role("root", threshold=1.0),
        role("root", threshold="2"),
        role("bundle", kids=[]),
        role("bundle", kids=["unknown"]),
        role("bundle", kids="unknown"),
        role("certificate", kids=[None]),
        lambda payload: payload["roles"].pop("bundle"),
        lambda payload: payload.pop("expires_at"),
        lambda payload: payload.update(expires_at="2026-11-21T07:00:00"),
        lambda payload: payload.update(expires_at="2026-02-30T07:00:00Z"),
        lambda payload: payload.update(version=0),
        lambda payload: payload.update(version=2**60),
        lambda payload: payload["keys"].append(payload["keys"][0]),
        lambda payload: payload["keys"].append("key"),
        lambda payload: payload["keys"][0].update(kid="other"),
        lambda payload: payload["keys"].extend([payload["keys"][0]] * 64),
    ],
)
def test_a_key_set_that_is_not_of_its_form_is_refused(change: Change) -> None:
    token = Vendor().key_set_token(change=change)

    assert Refusal.MALFORMED is refusal(lambda: read_key_set(token))


@pytest.mark.parametrize("name", ["root", "certificate"])
def test_only_bundles_reports_and_receipts_may_be_signed_by_ed25519(name: str) -> None:
    vendor, edwards = Vendor(), ed25519_key("vendor")

    def change(payload: Document) -> None:
        keys = payload["keys"]
        assert isinstance(keys, list)
        keys.append(edwards.public_jwk())
        role(name, threshold=1, kids=[vendor.root[0].kid, edwards.kid])(payload)

    assert Refusal.MALFORMED is refusal(lambda: read_key_set(vendor.key_set_token(change=change)))


def test_versions_follow_each_other() -> None:
    vendor = Vendor()
    vendor.rotate()
    vendor.rotate(root=True)
    vendor.rotate()

    keys, new = follow(vendor.first_keys, vendor.key_sets)

    assert 4 == keys.version
    assert tuple(vendor.key_sets[1:]) == new


def test_a_stolen_old_root_cannot_return_after_its_rotation() -> None:
    vendor = Vendor()
    stolen = list(vendor.root)
    vendor.rotate(root=True)
    token = vendor.key_set_token(signers=stolen)

    assert Refusal.SIGNATURE is refusal(lambda: vendor.keys.successor(token))


@pytest.mark.parametrize("which", ["old", "new"])
def test_a_rotation_needs_the_roots_before_and_after(which: str) -> None:
    vendor = Vendor()
    old = vendor.keys
    before = list(vendor.root)
    vendor.root = [signing_key("next root 1"), signing_key("next root 2")]
    token = vendor.key_set_token(signers=before if which == "old" else vendor.root)

    assert Refusal.SIGNATURE is refusal(lambda: old.successor(token))


def test_one_old_root_is_not_the_old_threshold() -> None:
    vendor = Vendor()
    old = vendor.keys
    half = vendor.root[0]
    vendor.root = [signing_key("next root 1"), signing_key("next root 2")]
    token = vendor.key_set_token(signers=[half, *vendor.root])

    assert Refusal.THRESHOLD is refusal(lambda: old.successor(token))


def test_a_version_cannot_be_repeated_passed_back_or_skipped() -> None:
    vendor = Vendor()
    vendor.rotate()
    keys = vendor.keys

    assert Refusal.OLDER is refusal(lambda: keys.successor(vendor.key_set_token(version=2)))
    assert Refusal.OLDER is refusal(lambda: keys.successor(vendor.key_set_token(version=1)))
    assert Refusal.MALFORMED is refusal(lambda: keys.successor(vendor.key_set_token(version=4)))
    assert Refusal.MALFORMED is refusal(lambda: follow(vendor.first_keys, [vendor.key_set_token(version=3)]))


def test_known_versions_in_a_bundle_are_passed_over() -> None:
    vendor = Vendor()
    vendor.rotate()

    assert (vendor.keys, ()) == follow(vendor.keys, vendor.key_sets)


def test_a_second_key_set_of_the_same_version_is_a_fork() -> None:
    vendor = Vendor()
    twin = vendor.key_set_token(version=1, expires_at="2030-01-01T00:00:00Z")

    assert Refusal.FORKED is refusal(lambda: follow(vendor.keys, [twin]))


def test_a_stranger_cannot_make_it_look_like_a_fork() -> None:
    vendor, stranger = Vendor(), Vendor(name="stranger")

    assert Refusal.SIGNATURE is refusal(lambda: follow(vendor.keys, stranger.key_sets))


def test_another_document_of_the_root_is_no_key_set() -> None:
    vendor = Vendor()
    token = sign_general({"version": 1}, keys=vendor.root, typ="lls-bundle+jws")

    assert Refusal.MALFORMED is refusal(lambda: vendor.keys.successor(token))
    assert Refusal.MALFORMED is refusal(lambda: read_key_set(token))


def test_expiry_refuses_after_the_last_instant_only() -> None:
    keys = Vendor().keys
    keys.check_expiry(keys.expires_at)

    assert Refusal.EXPIRED is refusal(lambda: keys.check_expiry(keys.expires_at + timedelta(microseconds=1)))
    assert keys.expires_at > NOW


def test_a_removed_member_is_named() -> None:
    with pytest.raises(RefusedDocument, match="roles"):
        read_key_set(Vendor().key_set_token(roles=REMOVED))
