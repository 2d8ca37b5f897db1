"""The return of an entitlement: word for word the same each time, and nobody's but the server's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lls.faults import Refusal, RefusedDocument
from lls.licensing.entitlement import FeatureType
from lls.licensing.fields import write_instant
from lls.signed.encoding import b64encode, write_json
from lls.signed.jose import unverified_payload
from lls.signed.request import read_request
from lls.signed.returned import (
    MOST_RETURN,
    TYP,
    EntitlementReturn,
    FinalLot,
    FinalMeter,
    make_return,
    read_return,
    server_named_in,
)
from tests.vendor import NOW, REMOVED, Site, Vendor, ed25519_key, forged, meter, new_id, signing_key

SITE = Site.named()
OTHER = Site.named("other")
VENDOR = Vendor()
HEADER = {"alg": "ES256", "typ": TYP, "kid": SITE.signing.kid}
PLAIN = unverified_payload(SITE.entitlement_return())
LOT = {"lot": "overdraft", "amount": None, "used": 3, "ended": False}


def refusal(action: Callable[[], object]) -> Refusal:
    with pytest.raises(RefusedDocument) as caught:
        action()
    return caught.value.reason


def read(token: bytes | str) -> EntitlementReturn:
    return VENDOR.read_return(token, SITE)


def made(*, meters: list[Mapping[str, Any]] | None = None, borrowed_until: datetime | None = None) -> str:
    return make_return(
        server_id=SITE.server_id,
        entitlement_id=new_id("ent_", "cad"),
        session_id=new_id("ses_", "cad"),
        up_to_seq=7,
        head="a" * 64,
        meters=[meter()] if meters is None else meters,
        borrowed_until=borrowed_until,
        made_at=NOW,
        key=SITE.signing,
    )


# What is said is what is read


def test_a_return_says_what_the_server_said() -> None:
    until = NOW + timedelta(days=7)
    pool = meter(feature="gpu", type="element_pool", unit=None, lots=[], consumed=0, in_use=2)
    token = made(meters=[meter(lots=[LOT], consumed=3, overage=3), pool], borrowed_until=until)

    assert (
        EntitlementReturn(
            server_id=SITE.server_id,
            entitlement_id=new_id("ent_", "cad"),
            session_id=new_id("ses_", "cad"),
            up_to_seq=7,
            head="a" * 64,
            meters=(
                FinalMeter(
                    feature="render",
                    type=FeatureType.USAGE_COUNT,
                    unit="frame",
                    lots=(FinalLot(lot="overdraft", amount=None, used=3, ended=False),),
                    consumed=3,
                    overage=3,
                    in_use=0,
                ),
                FinalMeter(
                    feature="gpu",
                    type=FeatureType.ELEMENT_POOL,
                    unit=None,
                    lots=(),
                    consumed=0,
                    overage=0,
                    in_use=2,
                ),
            ),
            borrowed_until=until,
            made_at=NOW,
            token=token,
        )
        == read(token)
        == read(f"{token}\n".encode())
    )


def test_a_return_made_again_is_the_identical_document() -> None:
    assert made() == made() == SITE.entitlement_return()


def test_a_return_made_from_the_journals_order_of_members_is_the_identical_document() -> None:
    kept = json.loads(json.dumps([meter()], sort_keys=True))

    assert list(kept[0]) != list(meter())
    assert made() == made(meters=kept)


def test_meters_that_no_vendor_would_read_are_not_signed() -> None:
    assert Refusal.MALFORMED is refusal(lambda: made(meters=[meter(consumed=-1)]))


def test_unknown_members_are_ignored() -> None:
    later: dict[str, Any] = {"later": {"deep": [1, 2.5]}}
    nothing: dict[str, Any] = {}
    plain, more = (
        read(SITE.entitlement_return(meters=[meter(lots=[{**LOT, **extra}], **extra)], **extra))
        for extra in (nothing, later)
    )

    assert (plain.meters, plain.head) == (more.meters, more.head)


def test_the_server_that_a_return_names_is_known_before_its_key_is_looked_up() -> None:
    request = read_request(SITE.request())

    assert SITE.server_id == server_named_in(SITE.entitlement_return())
    assert 7 == VENDOR.read_return(SITE.entitlement_return(), request).up_to_seq


# Attacks: one thing wrong each, the rest rightly made


@pytest.mark.parametrize(
    ("expected", "header"),
    [
        (Refusal.MALFORMED, {"typ": "lls-report+jws"}),
        (Refusal.MALFORMED, {"typ": "lls-receipt+jws"}),
        (Refusal.MALFORMED, {"typ": None}),
        (Refusal.SIGNATURE, {"alg": "none"}),
        (Refusal.SIGNATURE, {"alg": "HS256"}),
        (Refusal.SIGNATURE, {"alg": "EdDSA"}),
        (Refusal.SIGNATURE, {"kid": OTHER.signing.kid}),
        (Refusal.MALFORMED, {"kid": None}),
        (Refusal.MALFORMED, {"jwk": SITE.signing.public.jwk}),
        (Refusal.MALFORMED, {"jku": "https://example.test/keys"}),
        (Refusal.MALFORMED, {"x5u": "https://example.test/keys"}),
        (Refusal.MALFORMED, {"crit": ["b64"]}),
        (Refusal.MALFORMED, {"b64": False}),
    ],
)
def test_a_header_out_of_the_profile_is_refused(expected: Refusal, header: Mapping[str, object]) -> None:
    assert expected is refusal(lambda: read(forged({**HEADER, **header}, PLAIN, SITE.signing)))


@pytest.mark.parametrize("signer", [signing_key("stranger"), OTHER.signing, VENDOR.bundle_keys[0]])
def test_another_keys_signature_is_refused(signer: Any) -> None:
    assert Refusal.SIGNATURE is refusal(lambda: read(SITE.entitlement_return(signers=[signer])))
    assert Refusal.SIGNATURE is refusal(lambda: read(forged(HEADER, PLAIN, signer)))


def test_an_ed25519_server_key_is_refused() -> None:
    key = ed25519_key("server")
    token = SITE.entitlement_return(signers=[key])

    assert Refusal.SIGNATURE is refusal(
        lambda: read_return(token, server_jwk=key.public_jwk(), server_id=SITE.server_id)
    )


def test_a_return_in_the_name_of_another_server_is_refused() -> None:
    assert Refusal.AUDIENCE is refusal(lambda: read(SITE.entitlement_return(server_id=OTHER.server_id)))


def test_a_payload_changed_on_the_way_is_refused() -> None:
    head, _, signature = SITE.entitlement_return().split(".")
    body = b64encode(write_json({**PLAIN, "meters": []}))

    assert Refusal.SIGNATURE is refusal(lambda: read(f"{head}.{body}.{signature}"))


def test_an_oversized_document_is_refused_before_it_is_read() -> None:
    for reader in (read, server_named_in):
        assert Refusal.TOO_LARGE is refusal(lambda r=reader: r(b"A" * (MOST_RETURN + 1)))  # type: ignore[misc]


def test_a_document_of_nothing_but_commas_is_not_read_for_a_stranger() -> None:
    payload = b'{"later":[' + b"0," * 1_000_000 + b"0]}"

    assert Refusal.TOO_LARGE is refusal(lambda: server_named_in(forged(HEADER, payload, signing_key("stranger"))))


def test_the_longest_history_of_grants_is_within_the_limits() -> None:
    lots = [{"lot": f"{n:0>200}", "amount": 10**15, "used": 10**15, "ended": True} for n in range(10_000)]
    token = made(meters=[meter(lots=lots)])

    assert 10_000 == len(read(token).meters[0].lots)
    assert SITE.server_id == server_named_in(token)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"\xff",
        write_json(PLAIN)[:-1] + b',"up_to_seq":8}',
        write_json({**PLAIN, "meters": 0}).replace(b'"meters":0', b'"meters":[{"consumed":0,"consumed":9}]'),
        write_json(PLAIN)[:-1] + b',"later":' + b"[" * 40 + b"]" * 40 + b"}",
        write_json(PLAIN)[:-1] + b',"later":9007199254740993}',
        write_json(PLAIN)[:-1] + b',"later":Infinity}',
    ],
)
def test_json_that_two_readers_could_read_differently_is_refused(payload: bytes) -> None:
    assert Refusal.MALFORMED is refusal(lambda: read(forged(HEADER, payload, SITE.signing)))


@pytest.mark.parametrize(
    "members",
    [
        *({name: REMOVED} for name in PLAIN),
        *({name: None} for name in PLAIN if name != "borrowed_until"),
        {"server_id": "lls_short"},
        {"entitlement_id": new_id("ses_", "cad")},
        {"session_id": "../x"},
        {"up_to_seq": 0},
        {"up_to_seq": "7"},
        {"up_to_seq": True},
        {"up_to_seq": 7.0},
        {"head": "A" * 64},
        {"head": "a" * 63},
        {"borrowed_until": 0},
        {"borrowed_until": ""},
        {"borrowed_until": "2026-02-30T00:00:00Z"},
        {"borrowed_until": "10000-01-01T00:00:00Z"},
        {"made_at": "0000-01-01T00:00:00Z"},
        {"made_at": 1800000000},
        {"meters": {}},
        {"meters": [None]},
        {"meters": ["render"]},
        {"meters": [meter(), meter()]},
        *({"meters": [meter(**{name: REMOVED})]} for name in meter()),
        {"meters": [meter(feature="two words")]},
        {"meters": [meter(type="seat")]},
        {"meters": [meter(type=["credit"])]},
        {"meters": [meter(unit="")]},
        {"meters": [meter(unit="x" * 51)]},
        {"meters": [meter(consumed=-1)]},
        {"meters": [meter(consumed=True)]},
        {"meters": [meter(consumed=1.5)]},
        {"meters": [meter(overage=None)]},
        {"meters": [meter(in_use="2")]},
        {"meters": [meter(lots=None)]},
        {"meters": [meter(lots=[[]])]},
        {"meters": [meter(lots=[LOT, LOT])]},
        *({"meters": [meter(lots=[{key: LOT[key] for key in LOT if key != name}])]} for name in LOT),
        {"meters": [meter(lots=[{**LOT, "lot": "two\nlines"}])]},
        {"meters": [meter(lots=[{**LOT, "amount": -1}])]},
        {"meters": [meter(lots=[{**LOT, "used": None}])]},
        {"meters": [meter(lots=[{**LOT, "ended": 1}])]},
    ],
)
def test_a_return_that_is_not_of_its_form_is_refused(members: dict[str, Any]) -> None:
    assert Refusal.MALFORMED is refusal(lambda: read(SITE.entitlement_return(**members)))


@given(st.integers(min_value=0, max_value=2_000), st.integers(min_value=0, max_value=20), st.binary(max_size=20))
def test_every_damage_is_refused_and_nothing_else_is_raised(place: int, removed: int, inserted: bytes) -> None:
    sample = SITE.entitlement_return(borrowed_until=write_instant(NOW)).encode()
    place %= len(sample)
    damaged = sample[:place] + inserted + sample[place + removed :]
    for reader in (read, server_named_in):
        try:
            reader(damaged)
        except RefusedDocument:
            continue
        assert reader is server_named_in or damaged.strip(b" \t\r\n") == sample
