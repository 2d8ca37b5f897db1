"""Requests, certificates, receipts and capabilities: what each refuses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lls.faults import Refusal, RefusedDocument
from lls.signed.bundle import open_bundle, verify_stored
from lls.signed.capability import CAPABILITY, STATEMENT, CapabilitySigner, terms_claims, verify_capability
from lls.signed.certificate import read_certificate
from lls.signed.encoding import Json, b64decode, read_json
from lls.signed.jose import sign_general, unverified_payload, verify
from lls.signed.keys import read_key_set
from lls.signed.receipt import make_receipt, read_receipt
from lls.signed.request import make_request, read_request
from tests.vendor import NO_HEAD, NOW, REMOVED, Site, Vendor, changed, ed25519_key, forged, new_id, signing_key

SITE = Site.named()
OTHER = Site.named("other")
VENDOR = Vendor()
CERTIFICATE = read_certificate(VENDOR.certificate(SITE), VENDOR.keys)
REPORT = new_id("rpt_", "one")


def refusal(action: Callable[[], object]) -> Refusal:
    with pytest.raises(RefusedDocument) as caught:
        action()
    return caught.value.reason


# Requests


def request(*, typ: str = "lls-request+jws", **members: object) -> str:
    payload = changed(unverified_payload(SITE.request()), None, members)
    header = {"alg": "ES256", "typ": typ, "kid": SITE.signing.kid, "jwk": SITE.signing.public.jwk}
    return forged(header, payload, SITE.signing)


def test_a_request_says_what_the_server_said() -> None:
    read = read_request(SITE.request(keys_version=3, bundle_sequence=11, sessions=[new_id("ses_", "cad")]))

    assert (SITE.server_id, "site", "1.0.0", 3, 11) == (
        read.server_id,
        read.name,
        read.version,
        read.keys_version,
        read.bundle_sequence,
    )
    assert (new_id("ses_", "cad"),) == read.sessions
    assert SITE.signing.kid == read.fingerprint
    assert SITE.encryption_jwk["x"] == read.encryption_jwk["x"]
    assert (0, NO_HEAD, NOW) == (read.seq, read.head, read.made_at)


def test_a_request_that_names_another_signing_key_is_refused() -> None:
    token = request(signing_key=OTHER.signing.public_jwk())

    assert Refusal.SIGNATURE is refusal(lambda: read_request(token))


def test_a_request_re_signed_by_a_stranger_is_refused() -> None:
    payload = unverified_payload(SITE.request())
    header = {"alg": "ES256", "typ": "lls-request+jws", "kid": OTHER.signing.kid, "jwk": OTHER.signing.public.jwk}

    assert Refusal.SIGNATURE is refusal(lambda: read_request(forged(header, payload, OTHER.signing)))


def test_an_ed25519_server_key_is_refused() -> None:
    token = make_request(
        server_id=SITE.server_id,
        name="x",
        signing_key=ed25519_key("server"),
        encryption_jwk=SITE.encryption_jwk,
        host={},
        version="1",
        keys_version=1,
        bundle_sequence=0,
        sessions=[],
        made_at=NOW,
        seq=0,
        head=NO_HEAD,
    )

    assert Refusal.SIGNATURE is refusal(lambda: read_request(token))


@pytest.mark.parametrize(
    "members",
    [
        {"server_id": "lls_short"},
        {"server_id": REMOVED},
        {"name": ""},
        {"name": "x" * 201},
        {"name": "two\nlines"},
        {"host": {"machine_id": ["a"]}},
        {"host": {str(n): "a" for n in range(65)}},
        {"host": REMOVED},
        {"sessions": "ses"},
        {"sessions": ["a", "a"]},
        {"sessions": REMOVED},
        {"made_at": "2026-11-21"},
        {"journal": {"seq": -1, "head": NO_HEAD}},
        {"journal": {"seq": 0, "head": "0"}},
        {"journal": {"seq": 0, "head": "A" * 64}},
        {"journal": []},
        {"keys_version": -1},
        {"bundle_sequence": 0.0},
        {"encryption_key": OTHER.signing.public_jwk()},
        {"encryption_key": None},
        {"typ": "lls-borrow-request+jws"},
    ],
)
def test_a_request_that_is_not_of_its_form_is_refused(members: Mapping[str, Any]) -> None:
    assert Refusal.MALFORMED is refusal(lambda: read_request(request(**members)))


def test_unknown_members_of_a_request_are_ignored() -> None:
    assert SITE.server_id == read_request(request(later=1)).server_id


# Certificates


def test_a_certificate_is_compact_where_one_person_signs() -> None:
    assert 2 == VENDOR.certificate(SITE).count(".")
    assert CERTIFICATE.token == VENDOR.certificate(SITE)
    assert ("cad", "cam") == CERTIFICATE.products


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        (Refusal.SIGNATURE, {"signers": [signing_key("stranger")]}),
        (Refusal.SIGNATURE, {"signers": VENDOR.bundle_keys[:1]}),
        (Refusal.MALFORMED, {"typ": "lls-bundle+jws"}),
        (Refusal.MALFORMED, {"jwk": ed25519_key("x").public_jwk()}),
        (Refusal.MALFORMED, {"jwk": {}}),
        (Refusal.MALFORMED, {"jwk": None}),
        (Refusal.MALFORMED, {"products": "cad"}),
        (Refusal.MALFORMED, {"products": REMOVED}),
        (Refusal.MALFORMED, {"server_id": 7}),
        (Refusal.MALFORMED, {"customer_id": "acme"}),
        (Refusal.MALFORMED, {"not_after": "9999-99-99T00:00:00Z"}),
    ],
)
def test_a_certificate_that_is_not_the_vendors_or_not_of_its_form_is_refused(
    expected: Refusal, arguments: Mapping[str, Any]
) -> None:
    token = VENDOR.certificate(SITE, **arguments)

    assert expected is refusal(lambda: read_certificate(token, VENDOR.keys))


# Receipts


def receipt(**arguments: Any) -> str:
    return VENDOR.receipt(SITE, report_id=REPORT, up_to_seq=7, head="a" * 64, **arguments)


def test_a_receipt_says_what_the_vendor_said() -> None:
    read = read_receipt(receipt(), VENDOR.keys, SITE.server_id)

    assert (REPORT, 7, "a" * 64) == (read.report_id, read.up_to_seq, read.head)
    assert read == read_receipt(
        make_receipt(
            receipt_id=read.receipt_id,
            server_id=SITE.server_id,
            report_id=REPORT,
            up_to_seq=7,
            head="a" * 64,
            made_at=NOW,
            signer=VENDOR.bundle_keys[0],
        ),
        VENDOR.keys,
        SITE.server_id,
    )


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        (Refusal.SIGNATURE, {"signers": [SITE.signing]}),
        (Refusal.SIGNATURE, {"signers": VENDOR.certificate_keys[:1]}),
        (Refusal.MALFORMED, {"typ": "lls-bundle+jws"}),
        (Refusal.AUDIENCE, {"server_id": OTHER.server_id}),
        (Refusal.MALFORMED, {"head": "a"}),
        (Refusal.MALFORMED, {"head": REMOVED}),
        (Refusal.MALFORMED, {"up_to_seq": 0}),
        (Refusal.MALFORMED, {"up_to_seq": "7"}),
        (Refusal.MALFORMED, {"report_id": "../x"}),
    ],
)
def test_a_receipt_that_is_not_the_vendors_or_not_of_its_form_is_refused(
    expected: Refusal, arguments: Mapping[str, Any]
) -> None:
    payload = changed(
        {
            "receipt_id": new_id("rcp_", "one"),
            "server_id": SITE.server_id,
            "report_id": REPORT,
            "up_to_seq": 7,
            "head": "a" * 64,
            "made_at": "2026-11-21T07:00:00Z",
        },
        None,
        {name: value for name, value in arguments.items() if name not in {"signers", "typ"}},
    )
    signers = arguments.get("signers", VENDOR.bundle_keys[:1])
    token = sign_general(payload, keys=signers, typ=arguments.get("typ", "lls-receipt+jws"))

    assert expected is refusal(lambda: read_receipt(token, VENDOR.keys, SITE.server_id))


def test_a_receipt_below_the_threshold_is_refused() -> None:
    vendor = Vendor(bundle_threshold=2)
    token = vendor.receipt(SITE, report_id=REPORT, up_to_seq=7, head="a" * 64, signers=vendor.bundle_keys[:1])

    assert Refusal.THRESHOLD is refusal(lambda: read_receipt(token, vendor.keys, SITE.server_id))


# Capabilities and statements


def capability(signer: CapabilitySigner | None = None, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "product": "cad",
        "lease_id": "0d9c0000-0000-4000-8000-000000000000",
        "issued_at": int(NOW.timestamp()),
        "expires_at": int(NOW.timestamp()) + 600,
        "ttl": 600,
        "nonce": "n" * 43,
        "mode": "floating",
        "entitlement_id": new_id("ent_", "cad"),
        "seats": 1,
        "seat_id": "müller's machine",
        "terms": terms_claims({"render": 1}, {"max_layers": 64}),
    }
    signer = signer or CapabilitySigner(SITE.signing, SITE.server_id)
    return signer.signed(signer.prepare(**{**arguments, **changes}))


def test_a_capability_carries_the_claims_of_the_contract_in_its_order() -> None:
    expected: Json = {
        "iss": SITE.server_id,
        "aud": "cad",
        "sub": "0d9c0000-0000-4000-8000-000000000000",
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 600,
        "ttl": 600,
        "nonce": "n" * 43,
        "mode": "floating",
        "ent": new_id("ent_", "cad"),
        "seats": 1,
        "seat_id": "müller's machine",
        "features": {"render": 1},
        "attributes": {"max_layers": 64},
    }

    assert list(expected.items()) == list(verify_capability(capability(), certificate=CERTIFICATE).items())


@pytest.mark.parametrize("cnf", [{"jkt": SITE.signing.kid}, {"fingerprint": 'müller\'s "machine"'}])
def test_a_borrowed_capability_is_bound_to_a_key_or_to_a_machine(cnf: Mapping[str, str]) -> None:
    read = verify_capability(capability(mode="borrowed", cnf=cnf), certificate=CERTIFICATE)

    assert ("borrowed", cnf) == (read["mode"], read["cnf"])
    assert "cnf" == list(read)[-1]


@pytest.mark.parametrize(
    "claims",
    [
        {"mode": "borrowed"},
        {"mode": "borrowed", "cnf": None},
        {"mode": "borrowed", "cnf": {}},
        {"mode": "borrowed", "cnf": {"kid": "x"}},
        {"mode": "borrowed", "cnf": "fingerprint"},
        {"mode": "borrowed", "cnf": ["fingerprint"]},
        {"mode": "borrowed", "cnf": {"jkt": "x", "fingerprint": "y"}},
        {"mode": "borrowed", "cnf": {"fingerprint": 7}},
        {"mode": "borrowed", "cnf": {"fingerprint": True}},
        {"mode": "borrowed", "cnf": {"fingerprint": ["a"]}},
        {"mode": "borrowed", "cnf": {"fingerprint": {"machine_id": "a"}}},
        {"mode": "borrowed", "cnf": {"fingerprint": ""}},
        {"mode": "borrowed", "cnf": {"fingerprint": "x" * 101}},
        {"mode": "borrowed", "cnf": {"jkt": None}},
        {"mode": "floating", "cnf": {"jkt": 1}},
    ],
)
def test_a_capability_whose_binding_could_be_read_in_two_ways_is_refused(claims: Mapping[str, object]) -> None:
    payload = {**unverified_payload(capability()), **claims}
    token = forged({"alg": "ES256", "typ": CAPABILITY, "kid": SITE.signing.kid}, payload, SITE.signing)

    assert Refusal.MALFORMED is refusal(lambda: verify_capability(token, certificate=CERTIFICATE))


def test_a_capability_of_another_key_server_or_product_is_refused() -> None:
    emulator = CapabilitySigner(signing_key("emulator"), SITE.server_id)
    impostor = CapabilitySigner(SITE.signing, OTHER.server_id)

    assert Refusal.SIGNATURE is refusal(lambda: verify_capability(capability(emulator), certificate=CERTIFICATE))
    assert Refusal.AUDIENCE is refusal(lambda: verify_capability(capability(impostor), certificate=CERTIFICATE))
    assert Refusal.AUDIENCE is refusal(lambda: verify_capability(capability(product="x"), certificate=CERTIFICATE))


def test_a_statement_is_no_capability_and_the_other_way_round() -> None:
    signer = CapabilitySigner(SITE.signing, SITE.server_id)
    statement = signer.statement(server_id=SITE.server_id, tls_spki_sha256=["a", "b"], nonce=None, issued_at=NOW)

    assert Refusal.MALFORMED is refusal(lambda: verify_capability(statement, certificate=CERTIFICATE))
    assert {
        "server_id": SITE.server_id,
        "tls_spki_sha256": ["a", "b"],
        "nonce": None,
        "iat": int(NOW.timestamp()),
    } == verify(statement, typ=STATEMENT, key_of={SITE.signing.kid: SITE.signing.public}.get).payload


@pytest.mark.parametrize("payload", [{}, {"iss": SITE.server_id}, {"iss": 1, "aud": [], "exp": "x"}])
def test_a_capability_without_its_claims_is_refused(payload: Mapping[str, object]) -> None:
    token = forged({"alg": "ES256", "typ": CAPABILITY, "kid": SITE.signing.kid}, payload, SITE.signing)

    assert Refusal.MALFORMED is refusal(lambda: verify_capability(token, certificate=CERTIFICATE))


def test_a_capability_in_general_json_is_refused() -> None:
    payload = read_json(b64decode(capability().split(".")[1].encode()))
    token = sign_general(payload, keys=[SITE.signing], typ=CAPABILITY)

    assert Refusal.MALFORMED is refusal(lambda: verify_capability(token, certificate=CERTIFICATE))


def test_a_signer_of_capabilities_has_a_p256_key() -> None:
    assert Refusal.MALFORMED is refusal(lambda: CapabilitySigner(ed25519_key("x"), SITE.server_id))


# Whatever comes in


def everything() -> list[Callable[[bytes], object]]:
    keys = VENDOR.keys
    return [
        read_request,
        read_key_set,
        keys.successor,
        lambda data: read_certificate(data, keys),
        lambda data: read_receipt(data, keys, SITE.server_id),
        lambda data: verify_capability(data, certificate=CERTIFICATE),
        lambda data: verify_stored(data.decode("latin-1"), keys=keys, server_id=SITE.server_id),
        lambda data: open_bundle(
            data,
            encryption_key=SITE.encryption,
            server_id=SITE.server_id,
            keys=keys,
            server_jwk=SITE.signing_jwk,
        ),
    ]


SAMPLES = [
    SITE.request().encode(),
    VENDOR.key_sets[0].encode(),
    VENDOR.certificate(SITE).encode(),
    receipt().encode(),
    capability().encode(),
    VENDOR.bundle(SITE),
    VENDOR.signed_bundle(SITE).encode(),
]


@given(
    st.sampled_from(SAMPLES),
    st.integers(min_value=0, max_value=100_000),
    st.integers(min_value=0, max_value=20),
    st.binary(max_size=20),
)
def test_every_reader_refuses_damage_and_raises_nothing_else(
    sample: bytes, place: int, removed: int, inserted: bytes
) -> None:
    place %= len(sample)
    damaged = sample[:place] + inserted + sample[place + removed :]
    for read in everything():
        try:
            read(damaged)
        except RefusedDocument:
            continue
        assert same(damaged, sample)


def same(damaged: bytes, sample: bytes) -> bool:
    """White space around a document, or between the members of general JSON, does no harm."""
    return damaged.strip(b" \t\r\n") == sample or json.loads(damaged) == json.loads(sample)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)


@given(st.data())
def test_a_rightly_signed_payload_of_any_shape_is_read_or_refused(data: st.DataObject) -> None:
    vendor = Vendor()
    payload = vendor.payload(SITE)
    name = data.draw(st.sampled_from(sorted(payload)))
    value = data.draw(JSON)
    jws = forged(
        {"alg": "ES256", "typ": "lls-bundle+jws", "kid": vendor.bundle_keys[0].kid},
        json.dumps({**payload, name: value}).encode(),
        vendor.bundle_keys[0],
    )
    with contextlib.suppress(RefusedDocument):
        verify_stored(jws, keys=vendor.keys, server_id=SITE.server_id, server_jwk=SITE.signing_jwk)
