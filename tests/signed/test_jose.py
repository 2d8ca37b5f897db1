"""The JOSE profile under attack: every row is something that a lenient reader would accept."""

from __future__ import annotations

import hashlib
import hmac
import tracemalloc
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import ECKey

from lls.faults import Refusal, RefusedDocument
from lls.signed.encoding import Json, b64decode, b64encode, read_json, write_json
from lls.signed.jose import (
    EncryptionKey,
    PublicKey,
    SigningKey,
    add_signature,
    decrypt,
    encrypt,
    read_encryption_jwk,
    read_public_key,
    sign_compact,
    sign_general,
    verify,
    verify_self_signed,
)
from tests.vendor import ed25519_key, encryption_key, forged, signing_key

KEY = signing_key("honest")
OTHER = signing_key("other")
EDWARDS = ed25519_key("honest")
SEALED = encryption_key("recipient")
TYP = "lls-receipt+jws"
PAYLOAD: Json = {"up_to_seq": 7}
HEADER: Json = {"alg": "ES256", "typ": TYP, "kid": KEY.kid}


def known(kid: str) -> PublicKey | None:
    return {KEY.kid: KEY.public, EDWARDS.kid: EDWARDS.public}.get(kid)


def refusal(token: str | bytes, *, typ: str = TYP) -> Refusal:
    with pytest.raises(RefusedDocument) as caught:
        verify(token, typ=typ, key_of=known)
    return caught.value.reason


@pytest.mark.parametrize("key", [KEY, EDWARDS])
def test_what_a_key_signs_that_key_verifies(key: SigningKey) -> None:
    verified = verify(sign_compact(PAYLOAD, key=key, typ=TYP), typ=TYP, key_of=known)

    assert verified.payload == PAYLOAD
    assert {key.kid} == verified.kids


def test_the_same_payload_and_key_sign_to_the_same_bytes() -> None:
    assert sign_compact(PAYLOAD, key=KEY, typ=TYP) == sign_compact(PAYLOAD, key=KEY, typ=TYP)


def test_a_final_newline_of_an_editor_does_no_harm() -> None:
    assert PAYLOAD == verify(sign_compact(PAYLOAD, key=KEY, typ=TYP).encode() + b"\r\n", typ=TYP, key_of=known).payload


@pytest.mark.parametrize(
    ("expected", "change"),
    [
        (Refusal.MALFORMED, {"crit": ["exp"]}),
        (Refusal.MALFORMED, {"crit": []}),
        (Refusal.MALFORMED, {"jku": "https://attacker.example/keys"}),
        (Refusal.MALFORMED, {"x5u": "https://attacker.example/cert"}),
        (Refusal.MALFORMED, {"b64": False}),
        (Refusal.MALFORMED, {"b64": 0}),
        (Refusal.MALFORMED, {"jwk": KEY.public.jwk}),
        (Refusal.MALFORMED, {"typ": "lls-bundle+jws"}),
        (Refusal.MALFORMED, {"typ": TYP.upper()}),
        (Refusal.MALFORMED, {"typ": None}),
        (Refusal.MALFORMED, {"kid": None}),
        (Refusal.MALFORMED, {"kid": [KEY.kid]}),
        (Refusal.SIGNATURE, {"kid": OTHER.kid}),
        (Refusal.SIGNATURE, {"alg": "none"}),
        (Refusal.SIGNATURE, {"alg": "HS256"}),
        (Refusal.SIGNATURE, {"alg": "ES384"}),
        (Refusal.SIGNATURE, {"alg": "EdDSA"}),
        (Refusal.SIGNATURE, {"alg": None}),
        (Refusal.SIGNATURE, {"alg": ["ES256"]}),
    ],
)
def test_a_header_outside_the_profile_is_refused_although_its_signature_is_right(
    expected: Refusal, change: Mapping[str, object]
) -> None:
    assert expected is refusal(forged({**HEADER, **change}, PAYLOAD, KEY))


@pytest.mark.parametrize("missing", ["alg", "typ", "kid"])
def test_a_header_without_a_required_member_is_refused(missing: str) -> None:
    header = {name: value for name, value in HEADER.items() if name != missing}

    assert refusal(forged(header, PAYLOAD, KEY)) in {Refusal.MALFORMED, Refusal.SIGNATURE}


def test_an_unknown_header_changes_nothing() -> None:
    assert PAYLOAD == verify(forged({**HEADER, "x-later": 1}, PAYLOAD, KEY), typ=TYP, key_of=known).payload


def test_the_public_key_is_no_secret_to_sign_with() -> None:
    message = b64encode(write_json({**HEADER, "alg": "HS256"})) + "." + b64encode(write_json(PAYLOAD))
    for secret in (KEY.public.jwk["x"].encode(), b64decode(KEY.public.jwk["x"].encode()), b""):
        mac = hmac.new(secret, message.encode(), hashlib.sha256).digest()
        assert Refusal.SIGNATURE is refusal(f"{message}.{b64encode(mac)}")


def test_an_algorithm_that_the_document_may_not_use_is_refused() -> None:
    token = sign_compact(PAYLOAD, key=EDWARDS, typ="lls-capability+jwt")

    assert Refusal.SIGNATURE is refusal(token, typ="lls-capability+jwt")


@pytest.mark.parametrize("signature", [b"", bytes(64), b"\xff" * 64, bytes(63), bytes(65), KEY.sign(b"something else")])
def test_a_wrong_signature_is_refused(signature: bytes) -> None:
    head, body, _ = sign_compact(PAYLOAD, key=KEY, typ=TYP).split(".")

    assert Refusal.SIGNATURE is refusal(f"{head}.{body}.{b64encode(signature)}")


def test_a_signature_in_der_is_not_a_jws_signature() -> None:
    head, body, signature = sign_compact(PAYLOAD, key=KEY, typ=TYP).split(".")
    raw = b64decode(signature.encode())
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))

    assert Refusal.SIGNATURE is refusal(f"{head}.{body}.{b64encode(der)}")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[]",
        b"null",
        b'"text"',
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":9007199254740992}',
        b'{"a":-9007199254740992}',
        b'{"a":' + b"9" * 100_000 + b"}",
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b'{"a":"\\u0000"}',
        b'{"a":1}{"a":1}',
        b'{"a":' * 33 + b"1" + b"}" * 33,
        b'{"a":' + b"[" * 33 + b"]" * 33 + b"}",
        b'{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}",
    ],
    ids=lambda payload: repr(payload[:24]),
)
def test_a_payload_that_is_not_strict_json_is_refused_although_its_signature_is_right(payload: bytes) -> None:
    assert Refusal.MALFORMED is refusal(forged(HEADER, payload, KEY))


def test_a_header_that_names_a_member_twice_is_refused() -> None:
    header = b'{"alg":"none","alg":"ES256","typ":"lls-receipt+jws","kid":"' + KEY.kid.encode() + b'"}'

    assert Refusal.MALFORMED is refusal(forged(header, PAYLOAD, KEY))


def test_the_largest_integers_and_depth_of_the_profile_are_read() -> None:
    payload = b'{"a":9007199254740991,"b":-9007199254740991,"c":' + b"[" * 29 + b"]" * 29 + b',"d":1.5}'

    assert {"a", "b", "c", "d"} == read_json(payload).keys()


def test_every_truncation_of_a_token_is_refused() -> None:
    for token in (sign_compact(PAYLOAD, key=KEY, typ=TYP), sign_general(PAYLOAD, keys=[KEY], typ=TYP)):
        for length in range(len(token)):
            assert refusal(token[:length]) in {Refusal.MALFORMED, Refusal.SIGNATURE}


def test_every_single_changed_character_is_refused() -> None:
    token = sign_compact(PAYLOAD, key=KEY, typ=TYP)
    for place, character in enumerate(token):
        changed = token[:place] + ("A" if character != "A" else "B") + token[place + 1 :]
        assert refusal(changed) in {Refusal.MALFORMED, Refusal.SIGNATURE}


def test_another_spelling_of_the_same_bytes_is_refused() -> None:
    head, body, signature = sign_compact(PAYLOAD, key=KEY, typ=TYP).split(".")
    # 64 bytes leave bits unused in the last character: more spellings, which a lenient decoder takes for the same.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    respelled = signature[:-1] + alphabet[alphabet.index(signature[-1]) + 1]

    assert Refusal.MALFORMED is refusal(f"{head}.{body}.{respelled}")
    assert Refusal.MALFORMED is refusal(f"{head}.{body}.{signature}==")
    assert Refusal.SIGNATURE is refusal(f"{head}.{body[:4]}\n{body[4:]}.{signature}")


@pytest.mark.parametrize("token", ["", ".", "..", "...", "{", "{}", "a.b", "a.b.c.d.e", "ü.b.c", "\ud800", " " * 9])
def test_what_is_no_token_is_malformed(token: str) -> None:
    assert Refusal.MALFORMED is refusal(token)


def test_a_file_of_nothing_but_dots_takes_no_more_memory_than_itself() -> None:
    size = 4 * 1024 * 1024
    tracemalloc.start()
    with pytest.raises(RefusedDocument, match="cut off"):
        decrypt(b"." * size, key=SEALED)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5 * size  # a part for each dot would be nine times as much


def test_an_oversized_token_is_refused_before_it_is_read() -> None:
    assert Refusal.TOO_LARGE is refusal("A" * (256 * 1024 + 1))
    assert Refusal.TOO_LARGE is refusal(b"\xff" * (256 * 1024 + 1))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    assert refusal(data) in {Refusal.MALFORMED, Refusal.SIGNATURE}


# General JSON


def general(change: Mapping[str, object], *, member: Mapping[str, object] | None = None) -> bytes:
    document = read_json(sign_general(PAYLOAD, keys=[KEY], typ=TYP).encode())
    signatures = document["signatures"]
    assert isinstance(signatures, list)
    signatures[0].update(member or {})
    return write_json({**document, **change})


@pytest.mark.parametrize(
    "token",
    [
        general({"signatures": []}),
        general({"signatures": {}}),
        general({"signatures": [1]}),
        general({"signatures": [{}]}),
        general({"payload": 1}),
        general({"payload": "ü"}),
        general({"protected": "e30", "signature": "AA"}),
        general({"header": {"kid": KEY.kid}}),
        general({}, member={"header": {"kid": KEY.kid, "alg": "none"}}),
        general({}, member={"protected": 1}),
        general({}, member={"signature": None}),
        general({"signatures": [{"protected": "e30", "signature": "AA"}] * 17}),
    ],
)
def test_general_json_outside_the_profile_is_refused(token: bytes) -> None:
    assert Refusal.MALFORMED is refusal(token)


def test_a_signature_of_an_unknown_key_neither_counts_nor_harms() -> None:
    verified = verify(sign_general(PAYLOAD, keys=[OTHER, KEY], typ=TYP), typ=TYP, key_of=known)

    assert {KEY.kid} == verified.kids


def test_a_second_person_signs_the_same_bytes() -> None:
    one = sign_compact(PAYLOAD, key=KEY, typ=TYP)
    two = add_signature(one, key=EDWARDS)

    assert {KEY.kid, EDWARDS.kid} == verify(two, typ=TYP, key_of=known).kids
    assert two == add_signature(two, key=EDWARDS).replace(" ", "")


def test_signing_twice_does_not_make_two_signatures() -> None:
    token = add_signature(sign_general(PAYLOAD, keys=[KEY, KEY], typ=TYP), key=KEY)

    assert 1 == token.count('"signature"')


# Self-signed documents


def test_a_self_signed_document_proves_its_own_key_only() -> None:
    header = {"alg": "ES256", "typ": "lls-request+jws", "kid": KEY.kid, "jwk": OTHER.public.jwk}
    for jwk in (OTHER.public.jwk, {**KEY.public.jwk, "d": "A" * 43}, {}, None, {**KEY.public.jwk, "crv": "P-384"}):
        with pytest.raises(RefusedDocument):
            verify_self_signed(forged({**header, "jwk": jwk}, PAYLOAD, KEY), typ="lls-request+jws")


# Keys


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "RSA"},
        {"kty": "oct", "k": "AAAA"},
        {"crv": "P-521"},
        {"crv": "secp256k1"},
        {"x": "A" * 43},
        {"x": KEY.public.jwk["x"][:-1]},
        {"x": 5},
        {"y": KEY.public.jwk["x"]},
        {"y": None},
        {"d": "A" * 43},
        {"use": "enc"},
        {"alg": "ES384"},
        {"kid": OTHER.kid},
        {"x": "ü" * 43},
    ],
)
def test_a_key_that_is_not_a_public_signing_key_of_ours_is_refused(change: Mapping[str, object]) -> None:
    with pytest.raises(RefusedDocument):
        read_public_key({**KEY.public_jwk(), **change})


def test_a_key_survives_its_pem_and_a_wrong_password_is_refused() -> None:
    for key in (KEY, EDWARDS):
        assert key.kid == SigningKey.from_pem(key.to_pem(b"open sesame"), b"open sesame").kid
        for password in (None, b"wrong"):
            with pytest.raises(RefusedDocument):
                SigningKey.from_pem(key.to_pem(b"open sesame"), password)
    assert SEALED.kid == EncryptionKey.from_pem(SEALED.to_pem()).kid
    with pytest.raises(RefusedDocument):
        EncryptionKey.from_pem(EDWARDS.to_pem())


def test_no_private_key_shows_itself() -> None:
    for key in (KEY, EDWARDS, SEALED):
        assert key.kid in repr(key)
        assert "d" not in key.public_jwk()


# Encryption


def test_only_the_recipient_opens_what_is_sealed() -> None:
    token = encrypt(b"for your eyes only", to=SEALED.public_jwk())

    assert b"for your eyes only" == decrypt(token, key=SEALED)
    with pytest.raises(RefusedDocument) as caught:
        decrypt(token, key=encryption_key("somebody else"))
    assert Refusal.DECRYPTION is caught.value.reason


def sealed_by_joserfc(alg: str, enc: str, **header: object) -> str:
    key = ECKey.import_key(SEALED.native.public_key())
    protected = {"alg": alg, "enc": enc, "kid": SEALED.kid, **header}
    return jwe.encrypt_compact(protected, b"x" * 5000, key, algorithms=[alg, enc, "DEF"])


@pytest.mark.parametrize(
    ("expected", "token"),
    [
        (Refusal.DECRYPTION, sealed_by_joserfc("ECDH-ES", "A256GCM")),
        (Refusal.DECRYPTION, sealed_by_joserfc("ECDH-ES+A128KW", "A256GCM")),
        (Refusal.DECRYPTION, sealed_by_joserfc("ECDH-ES+A256KW", "A128GCM")),
        (Refusal.DECRYPTION, sealed_by_joserfc("ECDH-ES+A256KW", "A256CBC-HS512")),
        (Refusal.MALFORMED, sealed_by_joserfc("ECDH-ES+A256KW", "A256GCM", zip="DEF")),
        (Refusal.MALFORMED, sealed_by_joserfc("ECDH-ES+A256KW", "A256GCM", apu="QWxpY2U")),
        (Refusal.DECRYPTION, sealed_by_joserfc("ECDH-ES+A256KW", "A256GCM", kid=KEY.kid)),
    ],
)
def test_encryption_outside_the_profile_is_refused(expected: Refusal, token: str) -> None:
    with pytest.raises(RefusedDocument) as caught:
        decrypt(token, key=SEALED)
    assert expected is caught.value.reason


@pytest.mark.parametrize("part", range(5))
def test_a_changed_part_of_a_sealed_document_is_refused(part: int) -> None:
    parts = encrypt(b"x" * 100, to=SEALED.public_jwk()).split(".")
    for changed in ("", parts[part][:-1], "AAAA" + parts[part][4:], parts[part] + "AAAA", "ü"):
        with pytest.raises(RefusedDocument) as caught:
            decrypt(".".join([*parts[:part], changed, *parts[part + 1 :]]), key=SEALED)
        assert caught.value.reason in {Refusal.MALFORMED, Refusal.DECRYPTION}


def test_an_ephemeral_key_off_the_curve_is_refused() -> None:
    head, *rest = encrypt(b"x", to=SEALED.public_jwk()).split(".")
    header = read_json(b64decode(head.encode()))
    for epk in ({"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}, {"kty": "OKP"}, None, "x"):
        with pytest.raises(RefusedDocument) as caught:
            decrypt(".".join([b64encode(write_json({**header, "epk": epk})), *rest]), key=SEALED)
        assert Refusal.MALFORMED is caught.value.reason


def test_a_sealed_document_beyond_its_limit_is_refused() -> None:
    with pytest.raises(RefusedDocument) as caught:
        decrypt("A" * 101, key=SEALED, limit=100)
    assert Refusal.TOO_LARGE is caught.value.reason


def test_an_encryption_key_is_a_point_on_p256() -> None:
    for change in ({"use": "sig"}, {"crv": "X25519"}, {"y": "A" * 43}, {"d": "A" * 43}):
        with pytest.raises(RefusedDocument):
            read_encryption_jwk({**SEALED.public_jwk(), **change})
