"""Borrowing by file: what a machine asks for, what it is bound to, and who may give the seat back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lls.faults import Refusal, RefusedDocument
from lls.licensing.lease import Holder
from lls.signed.borrow import (
    MOST_BORROW,
    REQUEST,
    RETURN,
    BorrowRequest,
    lease_secret,
    make_borrow_request,
    make_borrow_return,
    make_grant,
    read_borrow_request,
    read_borrow_return,
)
from lls.signed.encoding import b64encode, write_json
from lls.signed.jose import sign_general, unverified_payload
from tests.vendor import NOW, REMOVED, Machine, Site, ed25519_key, forged, new_id, signing_key

SITE = Site.named()
LAPTOP = Machine.named()
OTHER = Machine.named("other")
PLAIN = unverified_payload(LAPTOP.borrow_request())


def refusal(action: Callable[[], object]) -> Refusal:
    with pytest.raises(RefusedDocument) as caught:
        action()
    return caught.value.reason


def returned(token: str) -> object:
    return read_borrow_return(token, server_id=SITE.server_id)


# What is said is what is read


def test_a_request_says_what_the_machine_said() -> None:
    holder = Holder(seat_id="fingerprint", seat_name="müller's", user="alice", host="ws-17", process="4711")
    token = make_borrow_request(
        lease_id="0D9C3C0E-6A0A-4C1E-8F5A-3F4A5D1B2C3D",
        product="cad",
        holder=holder,
        fingerprint="fingerprint",
        until=NOW + timedelta(days=7),
        nonce="n" * 43,
        made_at=NOW,
        key=LAPTOP.key,
        activation_code=" y64e-g6qx ",
        features={"render": 2, "export": 1},
        edition="pro",
        version="2026.1",
        released_on=date(2026, 3, 1),
    )

    assert (
        BorrowRequest(
            lease_id="0d9c3c0e-6a0a-4c1e-8f5a-3f4a5d1b2c3d",
            product="cad",
            holder=holder,
            fingerprint="fingerprint",
            until=NOW + timedelta(days=7),
            nonce="n" * 43,
            made_at=NOW,
            activation_code="Y64E-G6QX",
            features=(("export", 1), ("render", 2)),
            edition="pro",
            version="2026.1",
            released_on=date(2026, 3, 1),
            key=LAPTOP.key.public,
        )
        == read_borrow_request(token)
        == read_borrow_request(f"\n{token}\r\n".encode())
    )
    assert LAPTOP.key.kid == read_borrow_request(token).jkt


def test_a_request_without_wishes_is_whole() -> None:
    read = read_borrow_request(LAPTOP.borrow_request(activation_code=None, features=None, edition=None))

    assert (None, (), None, None, None) == (
        read.activation_code,
        read.features,
        read.edition,
        read.version,
        read.released_on,
    )
    assert Holder(seat_id=LAPTOP.fingerprint, user="alice", host="laptop") == read.holder


def test_the_same_values_give_the_same_bytes() -> None:
    def made() -> tuple[str, str]:
        wish = read_borrow_request(LAPTOP.borrow_request())
        request = make_borrow_request(
            lease_id=wish.lease_id,
            product=wish.product,
            holder=wish.holder,
            fingerprint=wish.fingerprint,
            until=wish.until,
            nonce=wish.nonce,
            made_at=wish.made_at,
            key=LAPTOP.key,
        )
        back = make_borrow_return(lease_id=wish.lease_id, server_id=SITE.server_id, made_at=NOW, key=LAPTOP.key)
        return request, back

    assert made() == made() == (LAPTOP.borrow_request(), LAPTOP.borrow_return(SITE.server_id))


def test_a_return_says_what_the_machine_said() -> None:
    read = read_borrow_return(LAPTOP.borrow_return(SITE.server_id).encode(), server_id=SITE.server_id)

    assert (LAPTOP.lease_id, SITE.server_id, NOW, LAPTOP.key.kid) == (
        read.lease_id,
        read.server_id,
        read.made_at,
        read.jkt,
    )


def test_unknown_members_are_ignored() -> None:
    deep: dict[str, Any] = {"later": {"deep": [1, 2.5, None]}}
    request = LAPTOP.borrow_request(
        **deep, holder={"seat_id": LAPTOP.fingerprint, "user": "alice", "host": "laptop", **deep}
    )

    assert read_borrow_request(LAPTOP.borrow_request()) == read_borrow_request(request)
    assert returned(LAPTOP.borrow_return(SITE.server_id)) == returned(LAPTOP.borrow_return(SITE.server_id, **deep))


def test_the_secret_of_a_bound_lease_is_no_digest_of_a_bearer_secret() -> None:
    jkt = LAPTOP.key.kid

    assert hashlib.sha256(f"borrow {jkt}".encode()).digest() == lease_secret(jkt)
    assert len(f"borrow {jkt}") > 32
    assert lease_secret(jkt) == read_borrow_request(LAPTOP.borrow_request()).as_checkout().secret
    assert lease_secret(jkt) != lease_secret(OTHER.key.kid)


def test_a_checkout_by_file_carries_what_was_asked_for() -> None:
    wish = read_borrow_request(LAPTOP.borrow_request(features={"render": 2}, version="1", activation_code="a-1"))
    checkout = wish.as_checkout()

    assert (wish.lease_id, "cad", wish.holder, wish.nonce, 1, "A-1", (("render", 2),), "1") == (
        checkout.lease_id,
        checkout.product,
        checkout.holder,
        checkout.nonce,
        checkout.seats,
        checkout.activation_code,
        checkout.features,
        checkout.version,
    )


@pytest.mark.parametrize(
    ("members", "same"),
    [
        ({"nonce": "m" * 43}, True),
        ({"made_at": "2026-11-21T08:00:00Z"}, True),
        ({"until": "2026-12-24T00:00:00Z"}, True),
        ({"activation_code": None}, True),
        ({"lease_id": LAPTOP.lease_id.upper()}, True),
        ({"product": "cam"}, False),
        ({"holder": {"seat_id": LAPTOP.fingerprint}}, False),
        ({"fingerprint": "another"}, False),
        ({"features": {"render": 1}}, False),
        ({"activation_code": "A"}, False),
        ({"edition": "pro"}, False),
        ({"version": "1"}, False),
        ({"released_on": "2026-03-01"}, False),
    ],
)
def test_an_extension_is_the_same_checkout_and_another_wish_is_another(members: dict[str, Any], same: bool) -> None:
    first = read_borrow_request(LAPTOP.borrow_request()).as_checkout().content
    second = read_borrow_request(LAPTOP.borrow_request(**members)).as_checkout().content

    assert same == (first == second)


def test_a_grant_holds_what_a_machine_needs_to_verify_it_and_is_the_same_each_time() -> None:
    def grant() -> bytes:
        return make_grant(capability="a.b.c", certificate="d.e.f", keys=["{}"], lease={"lease_id": "x"})

    assert grant() == grant()
    assert {
        "format": 1,
        "capability": "a.b.c",
        "certificate": "d.e.f",
        "keys": ["{}"],
        "lease": {"lease_id": "x"},
    } == json.loads(grant())


def test_no_secret_of_a_request_shows_itself() -> None:
    read = read_borrow_request(LAPTOP.borrow_request(activation_code="Y64E-G6QX"))

    assert "Y64E" not in repr(read)
    assert "n" * 43 not in repr(read)


# Attacks: one thing wrong each, the rest rightly made


@pytest.mark.parametrize(
    ("expected", "header"),
    [
        (Refusal.MALFORMED, {"typ": RETURN}),
        (Refusal.MALFORMED, {"typ": "lls-request+jws"}),
        (Refusal.MALFORMED, {"typ": REMOVED}),
        (Refusal.SIGNATURE, {"alg": "none"}),
        (Refusal.SIGNATURE, {"alg": "HS256"}),
        (Refusal.SIGNATURE, {"alg": "EdDSA"}),
        (Refusal.SIGNATURE, {"alg": "ES384"}),
        (Refusal.SIGNATURE, {"alg": REMOVED}),
        (Refusal.MALFORMED, {"kid": REMOVED}),
        (Refusal.SIGNATURE, {"kid": OTHER.key.kid}),
        (Refusal.MALFORMED, {"jwk": REMOVED}),
        (Refusal.MALFORMED, {"jwk": "key"}),
        (Refusal.MALFORMED, {"jwk": {}}),
        (Refusal.SIGNATURE, {"jwk": OTHER.key.public.jwk}),
        (Refusal.SIGNATURE, {"jwk": OTHER.key.public.jwk, "kid": OTHER.key.kid}),
        (Refusal.MALFORMED, {"jwk": {**LAPTOP.key.public.jwk, "d": "A" * 43}}),
        (Refusal.MALFORMED, {"jwk": {**LAPTOP.key.public.jwk, "crv": "P-384"}}),
        (Refusal.MALFORMED, {"jwk": {**LAPTOP.key.public.jwk, "y": LAPTOP.key.public.jwk["x"]}}),
        (Refusal.MALFORMED, {"jwk": {**LAPTOP.key.public.jwk, "use": "enc"}}),
        (Refusal.MALFORMED, {"jwk": {**LAPTOP.key.public.jwk, "kid": OTHER.key.kid}}),
        (Refusal.MALFORMED, {"jku": "https://example.test/keys"}),
        (Refusal.MALFORMED, {"x5u": "https://example.test/keys"}),
        (Refusal.MALFORMED, {"crit": ["b64"]}),
        (Refusal.MALFORMED, {"b64": False}),
        (Refusal.TOO_LARGE, {"later": "x" * 4096}),
    ],
)
def test_a_header_out_of_the_profile_is_refused(expected: Refusal, header: dict[str, object]) -> None:
    assert expected is refusal(lambda: read_borrow_request(LAPTOP.borrow_request(header=header)))
    if header.get("typ") != RETURN:
        assert expected is refusal(lambda: returned(LAPTOP.borrow_return(SITE.server_id, header=header)))


def test_a_request_is_no_return_and_the_other_way_round() -> None:
    assert Refusal.MALFORMED is refusal(lambda: returned(LAPTOP.borrow_request(server_id=SITE.server_id)))
    assert Refusal.MALFORMED is refusal(lambda: read_borrow_request(LAPTOP.borrow_return(SITE.server_id)))


def test_an_unsigned_token_is_refused() -> None:
    head, body, _ = LAPTOP.borrow_request(header={"alg": "none"}).split(".")

    assert Refusal.SIGNATURE is refusal(lambda: read_borrow_request(f"{head}.{body}."))


@pytest.mark.parametrize("reader", [read_borrow_request, returned])
def test_an_ed25519_key_is_refused(reader: Callable[[str], object]) -> None:
    machine = Machine(key=ed25519_key("laptop"))
    tokens = {read_borrow_request: machine.borrow_request(), returned: machine.borrow_return(SITE.server_id)}

    assert Refusal.SIGNATURE is refusal(lambda: reader(tokens[reader]))


def test_another_keys_signature_on_the_same_words_is_refused() -> None:
    head, body, _ = LAPTOP.borrow_return(SITE.server_id).split(".")
    signature = b64encode(signing_key("stranger").sign(f"{head}.{body}".encode()))

    assert Refusal.SIGNATURE is refusal(lambda: returned(f"{head}.{body}.{signature}"))


def test_a_payload_changed_on_the_way_is_refused() -> None:
    for token, name, value in (
        (LAPTOP.borrow_request(), "until", "2036-11-21T07:00:00Z"),
        (LAPTOP.borrow_return(SITE.server_id), "lease_id", OTHER.lease_id),
    ):
        head, _, signature = token.split(".")
        body = b64encode(write_json({**unverified_payload(token), name: value}))
        reader = read_borrow_request if name == "until" else returned
        assert Refusal.SIGNATURE is refusal(lambda r=reader, t=f"{head}.{body}.{signature}": r(t))  # type: ignore[misc]


def test_a_return_that_a_stranger_signs_by_a_key_of_its_own_is_known_by_its_thumbprint() -> None:
    stolen = read_borrow_return(OTHER.borrow_return(SITE.server_id, lease_id=LAPTOP.lease_id), server_id=SITE.server_id)

    assert LAPTOP.lease_id == stolen.lease_id
    assert lease_secret(LAPTOP.key.kid) != lease_secret(stolen.jkt)


def test_a_return_to_another_server_is_refused() -> None:
    assert Refusal.AUDIENCE is refusal(lambda: returned(LAPTOP.borrow_return(new_id("lls_", "another"))))


def test_two_signatures_are_refused() -> None:
    token = sign_general(PLAIN, keys=[LAPTOP.key, OTHER.key], typ=REQUEST)

    assert Refusal.MALFORMED is refusal(lambda: read_borrow_request(token))


def test_an_oversized_document_is_refused_before_it_is_read() -> None:
    assert Refusal.TOO_LARGE is refusal(lambda: read_borrow_request(LAPTOP.borrow_request(later="x" * MOST_BORROW)))
    assert Refusal.TOO_LARGE is refusal(lambda: read_borrow_request(b"\xff" * (MOST_BORROW + 1)))
    assert Refusal.TOO_LARGE is refusal(lambda: returned(LAPTOP.borrow_return(SITE.server_id, later="x" * MOST_BORROW)))


def test_the_largest_honest_request_is_well_within_the_limit() -> None:
    text = "ü" * 200
    token = LAPTOP.borrow_request(
        holder={"seat_id": "ü" * 100, "seat_name": text, "user": text, "host": text, "process": text},
        fingerprint="ü" * 100,
        activation_code=text,
        features={f"{n:0>50}": 1_000_000 for n in range(100)},
        edition="e" * 50,
        version="ü" * 50,
        released_on="2026-03-01",
    )

    assert 100 == len(read_borrow_request(token).features)
    assert len(token) < MOST_BORROW // 4


HEADER = {"alg": "ES256", "typ": REQUEST, "kid": LAPTOP.key.kid, "jwk": LAPTOP.key.public.jwk}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"lease_id":"a","lease_id":"b"}',
        write_json(PLAIN)[:-1] + b',"product":"cam"}',
        write_json({**PLAIN, "holder": 0}).replace(b'"holder":0', b'"holder":{"seat_id":"a","seat_id":"b"}'),
        write_json(PLAIN)[:-1] + b',"later":' + b"[" * 40 + b"]" * 40 + b"}",
        write_json(PLAIN)[:-1] + b',"later":' + b"[" * 9_000 + b"]" * 9_000 + b"}",
        write_json(PLAIN)[:-1] + b',"later":9007199254740993}',
        write_json(PLAIN)[:-1] + b',"later":1e999}',
        write_json(PLAIN)[:-1] + b',"later":NaN}',
        write_json(PLAIN)[:-1] + b',"later":"\\ud800"}',
        write_json(PLAIN)[:-1] + b',"later":"\\u0000"}',
    ],
)
def test_json_that_two_readers_could_read_differently_is_refused(payload: bytes) -> None:
    assert Refusal.MALFORMED is refusal(lambda: read_borrow_request(forged(HEADER, payload, LAPTOP.key)))


@pytest.mark.parametrize(
    "members",
    [
        *({name: REMOVED} for name in PLAIN),
        *({name: None} for name in PLAIN),
        {"lease_id": "../../etc/passwd"},
        {"lease_id": LAPTOP.lease_id.replace("-", "")},
        {"lease_id": LAPTOP.lease_id + "\n"},
        {"lease_id": 7},
        {"product": "two words"},
        {"product": ["cad"]},
        {"holder": {}},
        {"holder": {"seat_id": ""}},
        {"holder": {"seat_id": "x" * 101}},
        {"holder": {"seat_id": "x", "user": ["alice"]}},
        {"holder": {"seat_id": "x", "host": "two\nlines"}},
        {"holder": {"seat_id": "x", "process": 4711}},
        {"holder": {"seat_id": "x", "seat_name": "x" * 201}},
        {"fingerprint": ""},
        {"fingerprint": "x" * 101},
        {"fingerprint": 7},
        {"fingerprint": True},
        {"fingerprint": ["a"]},
        {"fingerprint": {"machine_id": "a"}},
        {"fingerprint": "a\x1b[2J"},
        {"until": 1800000000},
        {"until": "2026-11-28"},
        {"until": "2026-11-28T07:00:00+00:00"},
        {"until": "2026-02-30T00:00:00Z"},
        {"until": "0000-01-01T00:00:00Z"},
        {"until": "10000-01-01T00:00:00Z"},
        {"until": "9999-12-31T24:00:00Z"},
        {"until": "2026-11-28T07:00:60Z"},
        {"until": "2026-11-21T07:00:00Z"},
        {"until": "1970-01-01T00:00:00Z"},
        {"made_at": "now"},
        {"made_at": "9999-12-31T23:59:59Z"},
        {"nonce": "short"},
        {"nonce": "n" * 87},
        {"nonce": "n" * 42 + "="},
        {"nonce": "ü" * 43},
        {"nonce": b64encode(b"x" * 15)},
        {"nonce": b64encode(b"x" * 65)},
        {"nonce": 7},
        {"activation_code": ""},
        {"activation_code": "x" * 201},
        {"activation_code": ["A"]},
        {"features": []},
        {"features": "render"},
        {"features": {"render": 0}},
        {"features": {"render": True}},
        {"features": {"render": 1.0}},
        {"features": {"render": "1"}},
        {"features": {"render": None}},
        {"features": {"render": 1_000_001}},
        {"features": {"two words": 1}},
        {"features": {"": 1}},
        {"features": {f"f{n}": 1 for n in range(101)}},
        {"edition": "two words"},
        {"edition": ["pro"]},
        {"version": "x" * 51},
        {"version": 2026.1},
        {"released_on": "2026-02-30"},
        {"released_on": "2026-03-01T00:00:00Z"},
        {"released_on": 2026},
    ],
)
def test_a_request_that_is_not_of_its_form_is_refused(members: dict[str, Any]) -> None:
    assert Refusal.MALFORMED is refusal(lambda: read_borrow_request(LAPTOP.borrow_request(**members)))


@pytest.mark.parametrize(
    "members",
    [
        {"lease_id": REMOVED},
        {"lease_id": "lease"},
        {"lease_id": None},
        {"server_id": REMOVED},
        {"server_id": "lls_short"},
        {"server_id": ["lls_"]},
        {"made_at": REMOVED},
        {"made_at": None},
        {"made_at": 0},
        {"made_at": "2026-13-01T00:00:00Z"},
    ],
)
def test_a_return_that_is_not_of_its_form_is_refused(members: dict[str, Any]) -> None:
    assert Refusal.MALFORMED is refusal(lambda: returned(LAPTOP.borrow_return(SITE.server_id, **members)))


def test_the_last_instant_of_the_calendar_is_read_and_is_the_ledgers_to_refuse() -> None:
    read = read_borrow_request(LAPTOP.borrow_request(until="9999-12-31T23:59:59.999999Z"))

    assert datetime.max.replace(tzinfo=UTC) == read.until


SAMPLES = [LAPTOP.borrow_request().encode(), LAPTOP.borrow_return(SITE.server_id).encode()]


@given(
    st.sampled_from(SAMPLES),
    st.integers(min_value=0, max_value=2_000),
    st.integers(min_value=0, max_value=20),
    st.binary(max_size=20),
)
def test_every_damage_is_refused_and_nothing_else_is_raised(
    sample: bytes, place: int, removed: int, inserted: bytes
) -> None:
    place %= len(sample)
    damaged = sample[:place] + inserted + sample[place + removed :]
    for read in (read_borrow_request, lambda data: read_borrow_return(data, server_id=SITE.server_id)):
        try:
            read(damaged)
        except RefusedDocument:
            continue
        assert damaged.strip(b" \t\r\n") == sample
