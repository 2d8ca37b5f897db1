"""Two implementations that are not ours read every form of ours: PyJWT and jwcrypto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto import jwe as foreign_jwe
from jwcrypto import jwk as foreign_jwk
from jwcrypto import jws as foreign_jws

from lls.signed.borrow import make_borrow_request, make_borrow_return, read_borrow_request, read_borrow_return
from lls.signed.bundle import open_bundle
from lls.signed.capability import CapabilitySigner, terms_claims
from lls.signed.encoding import write_json
from lls.signed.jose import SigningKey, decrypt, encrypt, sign_compact, sign_general, unverified_payload, verify
from lls.signed.report import write_report
from lls.signed.returned import make_return
from tests.vendor import NO_HEAD, NOW, Machine, Site, Vendor, ed25519_key, encryption_key, meter, new_id, signing_key

SITE = Site.named()
VENDOR = Vendor()
KEY = signing_key("ours")
EDWARDS = ed25519_key("ours")


def foreign(jwk: Any) -> foreign_jwk.JWK:
    return foreign_jwk.JWK(**{name: value for name, value in jwk.items() if name not in {"alg", "use", "kid"}})


def private(pem: bytes) -> foreign_jwk.JWK:
    return foreign_jwk.JWK.from_pem(pem)


@pytest.mark.parametrize("key", [KEY, EDWARDS])
def test_thumbprints_agree(key: SigningKey) -> None:
    assert foreign(key.public_jwk()).thumbprint() == key.kid


def test_pyjwt_reads_a_capability() -> None:
    token = CapabilitySigner(SITE.signing, SITE.server_id).signed(
        CapabilitySigner(SITE.signing, SITE.server_id).prepare(
            product="cad",
            lease_id="0d9c0000-0000-4000-8000-000000000000",
            issued_at=int(NOW.timestamp()),
            expires_at=int(NOW.timestamp()),
            ttl=600,
            nonce="n" * 22,
            mode="floating",
            entitlement_id=new_id("ent_", "cad"),
            seats=1,
            seat_id="müller",
            terms=terms_claims({}, {}),
        )
    )
    key = jwt.PyJWK(SITE.signing.public_jwk()).key
    assert isinstance(key, ec.EllipticCurvePublicKey)
    claims = jwt.decode(
        token,
        key,
        algorithms=["ES256"],
        audience="cad",
        issuer=SITE.server_id,
        options={"verify_exp": False, "verify_iat": False},
    )

    assert "müller" == claims["seat_id"]
    assert "lls-capability+jwt" == jwt.get_unverified_header(token)["typ"]


MACHINE = Machine.named()
WISH = read_borrow_request(MACHINE.borrow_request())
SELF_SIGNED = {
    "lls-borrow-request+jws": make_borrow_request(
        lease_id=WISH.lease_id,
        product="cad",
        holder=WISH.holder,
        fingerprint=WISH.fingerprint,
        until=WISH.until,
        nonce=WISH.nonce,
        made_at=NOW,
        key=MACHINE.key,
    ),
    "lls-borrow-return+jws": make_borrow_return(
        lease_id=WISH.lease_id, server_id=SITE.server_id, made_at=NOW, key=MACHINE.key
    ),
}


@pytest.mark.parametrize("typ", SELF_SIGNED)
def test_pyjwt_and_jwcrypto_verify_what_a_machine_signs_by_the_key_in_its_header(typ: str) -> None:
    token = SELF_SIGNED[typ]
    header = jwt.get_unverified_header(token)
    key = jwt.PyJWK(header["jwk"], algorithm="ES256").key
    read = jwt.PyJWS().decode_complete(token, key, algorithms=["ES256"])
    theirs = foreign_jws.JWS()
    theirs.deserialize(token, foreign(header["jwk"]))

    assert (typ, MACHINE.key.kid, "ES256") == (header["typ"], header["kid"], header["alg"])
    assert foreign(header["jwk"]).thumbprint() == header["kid"]
    assert WISH.lease_id == json.loads(read["payload"])["lease_id"] == json.loads(theirs.payload)["lease_id"]


def test_a_machine_with_another_library_can_borrow_and_give_back() -> None:
    pem = MACHINE.key.to_pem()
    payload = unverified_payload(MACHINE.borrow_request())
    header = {"kid": MACHINE.key.kid, "jwk": MACHINE.key.public.jwk}
    request = jwt.encode(payload, pem, algorithm="ES256", headers={**header, "typ": "lls-borrow-request+jws"})
    back = foreign_jws.JWS(write_json(unverified_payload(MACHINE.borrow_return(SITE.server_id))))
    back.add_signature(private(pem), protected=json.dumps({**header, "alg": "ES256", "typ": "lls-borrow-return+jws"}))

    assert read_borrow_request(request) == WISH
    assert WISH.jkt == read_borrow_return(back.serialize(compact=True), server_id=SITE.server_id).jkt


def test_pyjwt_and_jwcrypto_verify_the_return_of_an_entitlement() -> None:
    token = make_return(
        server_id=SITE.server_id,
        entitlement_id=new_id("ent_", "cad"),
        session_id=new_id("ses_", "cad"),
        up_to_seq=7,
        head="a" * 64,
        meters=[meter()],
        borrowed_until=None,
        made_at=NOW,
        key=SITE.signing,
    )
    read = jwt.PyJWS().decode_complete(token, jwt.PyJWK(SITE.signing.public_jwk()).key, algorithms=["ES256"])
    theirs = foreign_jws.JWS()
    theirs.deserialize(token, foreign(SITE.signing_jwk))

    assert ("lls-return+jws", SITE.signing.kid) == (read["header"]["typ"], read["header"]["kid"])
    assert [meter()] == json.loads(read["payload"])["meters"] == json.loads(theirs.payload)["meters"]


@pytest.mark.parametrize("key", [KEY, EDWARDS])
def test_jwcrypto_reads_our_compact_tokens_and_we_read_its(key: SigningKey) -> None:
    ours = foreign_jws.JWS()
    ours.deserialize(sign_compact({"a": 1}, key=key, typ="lls-bundle+jws"), foreign(key.public_jwk()))
    theirs = foreign_jws.JWS(b'{"a":1}')
    theirs.add_signature(
        private(key.to_pem()),
        protected=json.dumps({"alg": key.alg, "typ": "lls-bundle+jws", "kid": key.kid}),
    )
    token = theirs.serialize(compact=True)

    assert b'{"a":1}' == ours.payload
    assert {"a": 1} == verify(token, typ="lls-bundle+jws", key_of={key.kid: key.public}.get).payload


def test_jwcrypto_reads_our_general_json() -> None:
    token = sign_general({"a": 1}, keys=[KEY, EDWARDS], typ="lls-bundle+jws")
    for key in (KEY, EDWARDS):
        read = foreign_jws.JWS()
        read.deserialize(token, foreign(key.public_jwk()))
        assert b'{"a":1}' == read.payload


def test_jwcrypto_opens_our_seals_and_we_open_its() -> None:
    key = encryption_key("ours")
    read = foreign_jwe.JWE()
    read.deserialize(encrypt(b"sealed", to=key.public_jwk()), private(key.to_pem()))
    theirs = foreign_jwe.JWE(
        b"sealed",
        json.dumps({"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "kid": key.kid}),
        recipient=foreign(key.public_jwk()),
    )

    assert b"sealed" == read.payload
    assert b"sealed" == decrypt(theirs.serialize(compact=True), key=key)


def test_jwcrypto_opens_a_streamed_report(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    write_report(
        path,
        report_id=new_id("rpt_", "one"),
        server_id=SITE.server_id,
        from_seq=1,
        to_seq=1,
        prev_head=NO_HEAD,
        head=NO_HEAD,
        made_at=NOW,
        lines=[b"{}"],
        usage_csv=b"",
        names=None,
        key=SITE.signing,
        report_key=VENDOR.report_key.public_jwk(),
    )
    read = foreign_jwe.JWE()
    read.deserialize(path.read_text(), private(VENDOR.report_key.to_pem()))

    assert read.payload.startswith(b"PK")


def test_a_vendor_with_another_library_can_issue_a_bundle() -> None:
    key = VENDOR.bundle_keys[0]
    inner = foreign_jws.JWS(write_json(VENDOR.payload(SITE, sequence=1)))
    header = json.dumps({"alg": "ES256", "typ": "lls-bundle+jws", "kid": key.kid})
    inner.add_signature(private(key.to_pem()), protected=header)
    outer = foreign_jwe.JWE(
        inner.serialize(compact=True).encode(),
        json.dumps({"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "kid": SITE.encryption.kid}),
        recipient=foreign(SITE.encryption_jwk),
    )
    opened = open_bundle(
        outer.serialize(compact=True).encode(),
        encryption_key=SITE.encryption,
        server_id=SITE.server_id,
        keys=VENDOR.keys,
        server_jwk=SITE.signing_jwk,
    )

    assert 1 == opened.bundle.sequence
