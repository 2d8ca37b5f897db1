"""Bundles: one refusal per test, each rightly made except for the one thing that its name says."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import write_instant
from lls.licensing.terms import CLOCK_RESET, RESET_USAGE
from lls.licensing.terms import Command as Order
from lls.signed import encoding
from lls.signed.bundle import BindingPolicy, Command, OpenedBundle, open_bundle, seal_signed, verify_stored
from lls.signed.encoding import b64encode, write_json
from lls.signed.jose import MOST_SEALED, encrypt, sign_document
from lls.signed.keys import KeySet
from tests.vendor import (
    NOW,
    REMOVED,
    Change,
    Document,
    Site,
    Vendor,
    clock_reset,
    ed25519_key,
    encryption_key,
    entitlement,
    new_id,
    reset_usage,
    signing_key,
)

SITE = Site.named()
OTHER = Site.named("other")
CAD = new_id("ent_", "cad")


def opened(data: bytes, keys: KeySet, *, site: Site = SITE) -> OpenedBundle:
    return open_bundle(
        data, encryption_key=site.encryption, server_id=site.server_id, keys=keys, server_jwk=site.signing_jwk
    )


def refusal(action: Callable[[], object]) -> Refusal:
    with pytest.raises(RefusedDocument) as caught:
        action()
    return caught.value.reason


def sealed(token: str) -> bytes:
    return seal_signed(token, encryption_jwk=SITE.encryption_jwk)


def test_what_the_vendor_sealed_the_site_reads() -> None:
    vendor = Vendor()
    bundle = opened(
        vendor.bundle(
            SITE,
            entitlements=[entitlement("cad", seats=3), entitlement("cam")],
            commands=[{"command_id": "one", "type": "reset_usage", "entitlement_id": CAD, "feature": "render"}],
        ),
        vendor.keys,
    ).bundle

    assert SITE.server_id == bundle.server_id
    assert [3, 50] == [item.seats for item in bundle.entitlements]
    assert SITE.signing.kid == bundle.certificate.kid
    assert vendor.report_key.public_jwk()["x"] == (bundle.report_key or {})["x"]
    order = Order(type=RESET_USAGE, entitlement_id=CAD, feature="render")
    assert ("one", order) == (bundle.commands[0].command_id, bundle.commands[0].order)
    assert BindingPolicy.KEY_ONLY is bundle.server_license.binding.policy
    assert timedelta(days=7) == bundle.server_license.binding.grace
    assert {"region": "EMEA"} == bundle.customer.custom_fields
    assert bundle.receipt is None


def test_a_stored_bundle_verifies_again_at_each_start() -> None:
    vendor = Vendor()
    result = opened(vendor.bundle(SITE), vendor.keys)

    assert result.bundle == verify_stored(
        result.jws, keys=result.keys, server_id=SITE.server_id, server_jwk=SITE.signing_jwk
    )


def test_a_stored_bundle_that_was_edited_is_refused() -> None:
    vendor = Vendor()
    result = opened(vendor.bundle(SITE), vendor.keys)
    for jws in (result.jws[:-8] + "AAAAAAAA", result.jws[: len(result.jws) // 2], ""):
        assert refusal(lambda jws=jws: verify_stored(jws, keys=result.keys, server_id=SITE.server_id)) in {  # type: ignore[misc]
            Refusal.SIGNATURE,
            Refusal.MALFORMED,
        }


def test_unknown_members_are_kept_and_ignored() -> None:
    vendor = Vendor()
    result = opened(vendor.bundle(SITE, later={"deep": [1, 2.5]}), vendor.keys)

    assert 1 == result.bundle.sequence


# 1 size, 2 decryption


def test_an_oversized_file_is_refused() -> None:
    assert Refusal.TOO_LARGE is refusal(lambda: opened(b"A" * (64 * 1024 * 1024 + 1), Vendor().keys))


def test_a_bundle_for_another_servers_key_is_refused() -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE, encryption_jwk=OTHER.encryption_jwk)

    assert Refusal.DECRYPTION is refusal(lambda: opened(data, vendor.keys))


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -30])
def test_a_truncated_bundle_is_refused(cut: int) -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE)[:cut]

    assert refusal(lambda: opened(data, vendor.keys)) in {Refusal.MALFORMED, Refusal.DECRYPTION}


@pytest.mark.parametrize("plain", [b"", b"\xff\x00", b"{}", b"a.b.c", b"not a token", b"[" * 100_000])
def test_a_sealed_something_that_is_no_bundle_is_refused(plain: bytes) -> None:
    data = encrypt(plain or b" ", to=SITE.encryption_jwk).encode()

    assert Refusal.MALFORMED is refusal(lambda: opened(data, Vendor().keys))


def test_a_bundle_of_a_thousand_entitlements_is_read() -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE, entitlements=[entitlement(f"p{n}") for n in range(1000)])

    assert len(data) > 2**20
    assert 1000 == len(opened(data, vendor.keys).bundle.entitlements)


# 3 nothing of a stranger's payload is read


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of every text that was parsed as JSON."""
    lengths: list[int] = []
    loads = json.loads

    def counted(text: str, **how: Any) -> Any:
        lengths.append(len(text))
        return loads(text, **how)

    monkeypatch.setattr(json, "loads", counted)
    return lengths


@pytest.mark.parametrize("kid", ["stranger", "known"])
@pytest.mark.parametrize(
    "payload",
    [
        b'{"keys":[],"x":[' + b"[]," * 500_000 + b"[]]}",
        b'{"keys":[' + b"[]," * 500_000 + b"[]]}",
        b'{"keys":["' + b"A" * 2_000_000 + b'"]}',
        b'{"keys":[' * 200_000,
        b"[" * 1_000_000,
    ],
)
def test_a_forged_bundle_is_refused_without_reading_its_payload(read: list[int], payload: bytes, kid: str) -> None:
    vendor = Vendor()
    named = next(iter(vendor.keys.roles["bundle"].kids)) if kid == "known" else "x"
    header = b64encode(write_json({"alg": "ES256", "typ": "lls-bundle+jws", "kid": named}))
    forged = f"{header}.{b64encode(payload)}.{b64encode(bytes(64))}"

    assert Refusal.SIGNATURE is refusal(lambda: opened(sealed(forged), vendor.keys))
    assert max(read) < 10_000  # a key set of the vendor's own


@pytest.mark.parametrize(
    "token",
    [
        b'{"payload":"e30","x":[' + b"[]," * 500_000 + b'[]],"signatures":[]}',
        b64encode(b'{"x":[' + b"[]," * 500_000 + b"[]]}").encode() + b".e30.AA",
    ],
)
def test_nothing_large_is_read_around_a_payload_either(read: list[int], token: bytes) -> None:
    assert Refusal.TOO_LARGE is refusal(lambda: opened(sealed(token.decode()), Vendor().keys))
    assert max(read) < 10_000  # a key set of the vendor's own


def test_a_bundle_with_more_members_than_any_has_is_refused_though_it_is_signed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE, later=[[]] * 2_000)
    opened(data, vendor.keys)
    monkeypatch.setattr(encoding.read_json, "__kwdefaults__", {"most": 2_000})

    assert Refusal.TOO_LARGE is refusal(lambda: opened(data, vendor.keys))


def test_the_limit_of_members_lets_the_densest_bundle_through_that_fits_its_size() -> None:
    feature = {
        "key": "f", "type": "bool", "value": 1, "unit": None, "currency": None, "overdraft": {"type": "none"},
        "reset": "never", "undo_seconds": 0, "grants": [],
    }  # fmt: skip
    densest = entitlement("p", features=[{**feature, "key": f"f{n}"} for n in range(1_000)])
    text = write_json(densest)
    structure = sum(map(text.count, (b",", b"[", b"{")))

    assert structure / len(text) * MOST_SEALED * 9 / 16 < encoding.MOST_STRUCTURE


def test_a_large_bundle_that_brings_the_keys_it_is_signed_by_is_read() -> None:
    vendor = Vendor()
    known = vendor.keys
    vendor.rotate(root=True)
    data = vendor.bundle(SITE, entitlements=[entitlement(f"p{n}") for n in range(200)])

    assert (2, 200) == ((result := opened(data, known)).keys.version, len(result.bundle.entitlements))
    assert 1 == len(result.key_sets)


def test_the_keys_are_found_wherever_they_stand_in_the_payload() -> None:
    vendor = Vendor()
    known = vendor.keys
    vendor.rotate()
    decoys = {"keys": [], "note": 'the "keys": ["are"] elsewhere'}
    customer = {"customer_id": new_id("cus_", "acme"), "name": "Acme", "custom_fields": decoys}
    payload = {"customer": customer, **vendor.payload(SITE, customer=REMOVED)}

    signed = sign_document(payload, signers=vendor.bundle_keys[:1], typ="lls-bundle+jws")
    assert 2 == opened(sealed(signed), known).keys.version


# 3 key sets


def test_a_bundle_brings_the_key_sets_that_verify_it() -> None:
    vendor = Vendor()
    vendor.rotate()
    vendor.rotate(root=True)
    result = opened(vendor.bundle(SITE), vendor.first_keys)

    assert tuple(vendor.key_sets[1:]) == result.key_sets
    assert 3 == result.keys.version


def test_a_bundle_whose_key_sets_lack_a_version_is_refused() -> None:
    vendor = Vendor()
    vendor.rotate()
    vendor.rotate()
    data = vendor.bundle(SITE, keys=vendor.key_sets[2:])

    assert Refusal.MALFORMED is refusal(lambda: opened(data, vendor.first_keys))


def test_a_retired_bundle_key_signs_nothing_more() -> None:
    vendor = Vendor()
    retired = vendor.bundle_keys[0]
    vendor.rotate()
    data = vendor.bundle(SITE, signers=[retired])

    assert Refusal.SIGNATURE is refusal(lambda: opened(data, vendor.first_keys))


def test_a_stranger_cannot_bring_keys_of_his_own() -> None:
    vendor, stranger = Vendor(), Vendor(name="stranger")
    stranger.rotate()
    data = stranger.bundle(SITE)

    assert Refusal.SIGNATURE is refusal(lambda: opened(data, vendor.keys))


@pytest.mark.parametrize("keys", [None, "token", {}, [1], ["x"], [""], ["e30.e30.AA"]])
def test_key_sets_that_are_none_are_refused(keys: object) -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE, keys=keys)

    assert Refusal.MALFORMED is refusal(lambda: opened(data, vendor.keys))


# 4 signatures and threshold


def test_a_bundle_signed_by_a_stranger_is_refused() -> None:
    data = Vendor().bundle(SITE, signers=[signing_key("stranger")])

    assert Refusal.SIGNATURE is refusal(lambda: opened(data, Vendor().keys))


@pytest.mark.parametrize("role", ["root", "certificate_keys"])
def test_a_bundle_signed_by_a_key_of_another_role_is_refused(role: str) -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE, signers=getattr(vendor, role)[:1])

    assert Refusal.SIGNATURE is refusal(lambda: opened(data, vendor.keys))


def test_a_server_cannot_sign_its_own_bundle() -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE, signers=[SITE.signing])

    assert Refusal.SIGNATURE is refusal(lambda: opened(data, vendor.keys))


def test_a_bundle_below_its_threshold_is_refused() -> None:
    vendor = Vendor(bundle_threshold=2)
    one, twice = vendor.bundle_keys[:1], [vendor.bundle_keys[0]] * 2

    assert Refusal.THRESHOLD is refusal(lambda: opened(vendor.bundle(SITE, signers=one), vendor.keys))
    assert Refusal.THRESHOLD is refusal(lambda: opened(vendor.bundle(SITE, signers=twice), vendor.keys))
    assert 3 == opened(vendor.bundle(SITE), vendor.keys).bundle.sequence


def test_a_bundle_may_be_signed_by_ed25519() -> None:
    vendor = Vendor()
    vendor.bundle_keys = [ed25519_key("bundle")]
    vendor.key_sets = [vendor.key_set_token(version=1)]

    assert 1 == opened(vendor.bundle(SITE), vendor.keys).bundle.sequence


def test_another_document_of_the_vendor_is_no_bundle() -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE, typ="lls-receipt+jws")

    assert Refusal.MALFORMED is refusal(lambda: opened(data, vendor.keys))


# 5 format, 6 audience


@pytest.mark.parametrize(("expected", "value"), [(Refusal.FORMAT, 2), (Refusal.FORMAT, 0), (Refusal.MALFORMED, True)])
def test_an_unknown_format_is_refused_before_anything_else_is_read(expected: Refusal, value: object) -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE, format=value, entitlements="in words of the next century")

    assert expected is refusal(lambda: opened(data, vendor.keys))


def test_a_bundle_for_another_server_is_refused() -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE, server_id=OTHER.server_id)

    assert Refusal.AUDIENCE is refusal(lambda: opened(data, vendor.keys))


def test_another_servers_bundle_re_sealed_for_this_one_is_refused() -> None:
    vendor = Vendor()
    data = seal_signed(vendor.signed_bundle(OTHER), encryption_jwk=SITE.encryption_jwk)

    assert Refusal.AUDIENCE is refusal(lambda: opened(data, vendor.keys))


# 7 certificate


def test_a_certificate_for_another_server_or_key_is_refused() -> None:
    vendor = Vendor()
    for certificate in (
        vendor.certificate(OTHER),
        vendor.certificate(SITE, server_id=OTHER.server_id),
        vendor.certificate(SITE, jwk=dict(OTHER.signing_jwk)),
    ):
        data = vendor.bundle(SITE, certificate=certificate)
        assert Refusal.AUDIENCE is refusal(lambda data=data: opened(data, vendor.keys))  # type: ignore[misc]


def test_a_certificate_must_be_signed_by_its_own_role() -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE, certificate=vendor.certificate(SITE, signers=vendor.bundle_keys[:1]))

    assert Refusal.SIGNATURE is refusal(lambda: opened(data, vendor.keys))


def test_a_certificate_below_its_threshold_is_refused() -> None:
    vendor = Vendor(certificate_threshold=2)
    data = vendor.bundle(SITE, certificate=vendor.certificate(SITE, signers=vendor.certificate_keys[:1]))

    assert Refusal.THRESHOLD is refusal(lambda: opened(data, vendor.keys))
    assert 2 == opened(vendor.bundle(SITE), vendor.keys).bundle.sequence


# 8 shape


@pytest.mark.parametrize(
    "name",
    [
        "format",
        "bundle_id",
        "server_id",
        "sequence",
        "certificate",
        "keys",
        "issued_at",
        "not_after",
        "report_key",
        "server_license",
        "customer",
        "entitlements",
        "receipt",
        "commands",
    ],
)
def test_a_missing_member_is_refused(name: str) -> None:
    vendor = Vendor()
    data = vendor.bundle(SITE, **{name: REMOVED})  # type: ignore[arg-type]

    assert Refusal.MALFORMED is refusal(lambda: opened(data, vendor.keys))


def within(place: str, /, **members: object) -> Change:
    def change(payload: dict[str, Any]) -> None:
        payload[place].update(members)

    return change


def binding(**members: object) -> Change:
    def change(payload: dict[str, Any]) -> None:
        payload["server_license"]["binding"].update(members)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload.update(sequence=0),
        lambda payload: payload.update(sequence=-1),
        lambda payload: payload.update(sequence=2**53),
        lambda payload: payload.update(sequence=1.0),
        lambda payload: payload.update(sequence="1"),
        lambda payload: payload.update(sequence=None),
        lambda payload: payload.update(bundle_id="../../etc/passwd"),
        lambda payload: payload.update(bundle_id=new_id("rpt_", "x")),
        lambda payload: payload.update(issued_at="yesterday"),
        lambda payload: payload.update(issued_at=1700000000),
        lambda payload: payload.update(issued_at="2026-11-21T07:00:00+00:00"),
        lambda payload: payload.update(not_after="2020-01-01T00:00:00Z"),
        lambda payload: payload.update(certificate=None),
        lambda payload: payload.update(receipt=1),
        lambda payload: payload.update(report_key="key"),
        lambda payload: payload.update(report_key=encryption_key("x").public_jwk() | {"crv": "P-521"}),
        lambda payload: payload.update(report_key=signing_key("x").public_jwk()),
        lambda payload: payload.update(entitlements=None),
        lambda payload: payload.update(entitlements=[None]),
        lambda payload: payload.update(entitlements=[entitlement(), entitlement()]),
        lambda payload: payload.update(entitlements=[entitlement(seats=-1)]),
        lambda payload: payload.update(entitlements=[entitlement(seats=True)]),
        lambda payload: payload.update(entitlements=[entitlement(sharing="anything")]),
        lambda payload: payload.update(entitlements=[entitlement(product=REMOVED)]),
        lambda payload: payload.update(commands=[{"type": "reset_usage"}]),
        lambda payload: payload.update(commands=[{"command_id": "a"}]),
        lambda payload: payload.update(commands=["reset_usage"]),
        lambda payload: payload.update(commands=[{"command_id": "a", "type": "x"}, {"command_id": "a", "type": "y"}]),
        lambda payload: payload.update(customer=[]),
        within("customer", customer_id="acme"),
        within("customer", name=""),
        within("customer", name="line\nbreak"),
        within("customer", custom_fields=[]),
        lambda payload: payload.update(server_license=None),
        within("server_license", expires_at=None),
        within("server_license", sync_within_days=0),
        within("server_license", sync_within_days=1e3),
        within("server_license", binding=None),
        binding(policy="none"),
        binding(policy=["host"]),
        binding(policy="host", required=0),
        binding(policy="host", required=2, components={"machine_id": "a"}),
        binding(policy="host", required=1, components={"machine_id": 1}),
        binding(grace_seconds=-1),
        binding(grace_seconds=2**53 - 1),
    ],
)
def test_a_payload_that_is_not_of_the_contracts_form_is_refused(change: Change) -> None:
    vendor = Vendor()

    assert Refusal.MALFORMED is refusal(lambda: opened(vendor.bundle(SITE, change=change), vendor.keys))


# Commands


def ordered(*commands: Document) -> list[Order]:
    vendor = Vendor()
    bundle = opened(vendor.bundle(SITE, commands=list(commands)), vendor.keys).bundle
    return [command.order for command in bundle.commands]


def test_a_command_says_what_is_reset_and_where() -> None:
    assert [
        Order(type=RESET_USAGE, entitlement_id=CAD, feature="render"),
        Order(type=RESET_USAGE, entitlement_id=CAD),
        Order(type=CLOCK_RESET),
    ] == ordered(reset_usage(CAD, "render"), reset_usage(CAD, name="all"), clock_reset())


def test_a_command_of_an_unknown_type_is_kept_as_it_came_and_nothing_of_it_is_read() -> None:
    vendor = Vendor()
    told: Document = {"entitlement_id": 7, "feature": ["x"], "later": {"deep": [1]}}
    bundle = opened(
        vendor.bundle(SITE, commands=[{"command_id": "one", "type": "of_tomorrow", **told}]), vendor.keys
    ).bundle

    assert [Command(command_id="one", order=Order(type="of_tomorrow"), data=told)] == list(bundle.commands)


def test_a_command_may_carry_what_a_later_version_adds() -> None:
    assert [Order(type=RESET_USAGE, entitlement_id=CAD, feature="render")] == ordered(
        reset_usage(CAD, "render", why="paid")
    )


@pytest.mark.parametrize(
    "members",
    [
        {"entitlement_id": REMOVED},
        {"entitlement_id": None},
        {"entitlement_id": new_id("ses_", "cad")},
        {"entitlement_id": [CAD]},
        {"feature": REMOVED},
        {"feature": ""},
        {"feature": "two words"},
        {"feature": "x" * 51},
        {"feature": ["render"]},
        {"feature": 0},
        {"command_id": REMOVED},
        {"command_id": "x" * 101},
        {"type": ["reset_usage"]},
    ],
)
def test_a_reset_that_does_not_say_exactly_what_it_resets_refuses_the_bundle(members: dict[str, Any]) -> None:
    assert Refusal.MALFORMED is refusal(lambda: ordered(reset_usage(CAD, "render", **members)))


# Dates


def test_a_bundle_is_in_force_from_a_day_before_its_issue_to_its_last_instant() -> None:
    vendor = Vendor()
    bundle = opened(vendor.bundle(SITE, not_after=write_instant(NOW + timedelta(days=30))), vendor.keys).bundle
    second = timedelta(seconds=1)

    bundle.check_dates(NOW - timedelta(days=1))
    bundle.check_dates(NOW + timedelta(days=30))
    assert Refusal.NOT_YET_VALID is refusal(lambda: bundle.check_dates(NOW - timedelta(days=1) - second))
    assert Refusal.EXPIRED is refusal(lambda: bundle.check_dates(NOW + timedelta(days=30) + second))


def test_an_expired_bundle_still_tells_its_sequence() -> None:
    vendor = Vendor(now=NOW - timedelta(days=4000))
    bundle = opened(vendor.bundle(SITE, sequence=12), vendor.keys).bundle

    assert Refusal.EXPIRED is refusal(lambda: bundle.check_dates(NOW))
    assert 12 == bundle.sequence


def test_no_secret_of_a_bundle_shows_itself() -> None:
    vendor = Vendor()
    code = "Y64E-G6QX-56EW-W1BG"
    result = opened(vendor.bundle(SITE, entitlements=[entitlement(activation_codes=[code])]), vendor.keys)

    assert code not in repr(result)
    assert code.replace("-", "") not in repr(result)
    assert result.jws not in repr(result)
