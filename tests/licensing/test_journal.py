"""The chain: one canonical form, and no line can be changed, left out or put in without being seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from lls.faults import Refusal, RefusedDocument
from lls.licensing.journal import FIRST_PREV, LONGEST_LINE, Entry, Head, Kind, entry, head_of, parse_line, verify_line

AT = datetime(2026, 11, 21, 7, 0, 0, 123456, tzinfo=UTC)

KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
DATA = st.dictionaries(KEYS, VALUES, max_size=6)
INSTANTS = st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # Hypothesis adds the zone


def chain(length: int) -> list[Entry]:
    head, entries = Head(), []
    for n in range(length):
        made = entry(head, at=AT + timedelta(seconds=n), kind=Kind.GRANTED, data={"lease_id": f"lease-{n}", "taken": 1})
        head = Head(seq=made.seq, hash=made.hash)
        entries.append(made)
    return entries


def resealed(line: Mapping[str, Any]) -> bytes:
    """The line as somebody would write it who changed it and knows the rules."""
    unhashed = {key: value for key, value in line.items() if key != "hash"}
    return rfc8785.dumps(unhashed | {"hash": hashlib.sha256(rfc8785.dumps(unhashed)).hexdigest()})


@settings(max_examples=300, deadline=None)
@given(DATA, INSTANTS, st.sampled_from(Kind), st.integers(0, 2**53 - 2))
def test_a_line_is_the_canonical_form_of_its_content(data: dict[str, Any], at: datetime, kind: Kind, seq: int) -> None:
    head = Head(seq=seq, hash=FIRST_PREV)
    made = entry(head, at=at, kind=kind, data=data)
    read = json.loads(made.line)
    assert rfc8785.dumps(read) == made.line
    unhashed = {key: value for key, value in read.items() if key != "hash"}
    assert hashlib.sha256(rfc8785.dumps(unhashed)).hexdigest() == made.hash == read["hash"]
    assert data == read["data"]
    assert read == verify_line(made.line, after=head) == parse_line(made.line)


def test_the_first_line_is_frozen() -> None:
    made = entry(Head(), at=AT, kind=Kind.CLOCK_BEHIND, data={"behind_seconds": 301})
    assert (
        b'{"at":"2026-11-21T07:00:00.123456Z","data":{"behind_seconds":301},'
        b'"hash":"' + made.hash.encode() + b'","kind":"ClockBehind","prev":"' + b"0" * 64 + b'","seq":1}'
    ) == made.line
    assert hashlib.sha256(made.line.replace(f'"hash":"{made.hash}",'.encode(), b"")).hexdigest() == made.hash


def test_a_whole_chain_verifies_line_by_line() -> None:
    head = Head()
    for each in chain(20):
        head = head_of(verify_line(each.line, after=head))
    assert Head(seq=20, hash=chain(20)[-1].hash) == head


def test_no_byte_of_a_line_can_be_changed() -> None:
    line = chain(1)[0].line
    for place, byte in enumerate(line):
        for other in {byte ^ 1, byte ^ 0x20, 0x30, 0x20} - {byte}:
            changed = line[:place] + bytes([other]) + line[place + 1 :]
            with pytest.raises(RefusedDocument):
                verify_line(changed, after=Head())


def test_no_byte_can_be_left_out_or_put_in() -> None:
    line = chain(1)[0].line
    for place in range(len(line)):
        with pytest.raises(RefusedDocument):
            verify_line(line[:place] + line[place + 1 :], after=Head())
        with pytest.raises(RefusedDocument):
            verify_line(line[:place] + b" " + line[place:], after=Head())


@pytest.mark.parametrize(
    "change",
    [
        {"at": "2026-11-21T07:00:01Z"},
        {"kind": "Returned"},
        {"data": {"lease_id": "lease-0", "taken": 0}},
        {"seq": 2},
        {"prev": "1" * 64},
    ],
)
def test_a_changed_member_under_the_old_hash_is_seen(change: dict[str, Any]) -> None:
    line = rfc8785.dumps(json.loads(chain(1)[0].line) | change)
    with pytest.raises(RefusedDocument, match="its hash does not fit") as refused:
        verify_line(line, after=Head())
    assert Refusal.MALFORMED is refused.value.reason


def test_a_changed_line_with_a_fresh_hash_is_a_fork_at_the_next_line() -> None:
    first, second = chain(2)
    forged = resealed(json.loads(first.line) | {"data": {"lease_id": "another", "taken": 0}})
    after_forged = head_of(verify_line(forged, after=Head()))
    with pytest.raises(RefusedDocument, match="does not follow line 1") as refused:
        verify_line(second.line, after=after_forged)
    assert Refusal.FORKED is refused.value.reason


def test_two_servers_that_go_on_from_one_line_are_a_fork() -> None:
    common = chain(3)
    here = entry(Head(seq=3, hash=common[-1].hash), at=AT, kind=Kind.RETURNED, data={"freed": 1})
    there = entry(Head(seq=3, hash=common[-1].hash), at=AT, kind=Kind.RETURNED, data={"freed": 2})
    onward = entry(Head(seq=4, hash=there.hash), at=AT, kind=Kind.CLOCK_HEALED, data={})
    assert here.hash != there.hash
    verify_line(onward.line, after=Head(seq=4, hash=there.hash))
    with pytest.raises(RefusedDocument) as refused:
        verify_line(onward.line, after=Head(seq=4, hash=here.hash))
    assert Refusal.FORKED is refused.value.reason


def test_a_line_left_out_or_told_twice_is_missed_by_its_number() -> None:
    first, second, third = chain(3)
    with pytest.raises(RefusedDocument, match="line 2 is missing: line 3"):
        verify_line(third.line, after=Head(seq=1, hash=first.hash))
    with pytest.raises(RefusedDocument, match="line 3 is missing: line 2"):
        verify_line(second.line, after=Head(seq=2, hash=second.hash))


def test_a_chain_must_begin_with_64_zeros() -> None:
    begun = entry(Head(hash="f" * 64), at=AT, kind=Kind.CLOCK_HEALED, data={})
    with pytest.raises(RefusedDocument) as refused:
        verify_line(begun.line, after=Head())
    assert Refusal.FORKED is refused.value.reason


LINE = json.loads(chain(1)[0].line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"{" * 100_000,
        b"[" * 100_000,
        chain(1)[0].line + b"\n",
        json.dumps(LINE).encode(),
        chain(1)[0].line.replace(b'"seq":1}', b'"seq":1,"seq":1}'),
        chain(1)[0].line.replace(b'"taken":1', b'"taken":1e0'),
        chain(1)[0].line.replace(b'"taken":1', b'"taken":NaN'),
        chain(1)[0].line.replace(b'"taken":1', b'"taken":' + b"9" * 5_000),
        chain(1)[0].line.replace(b"lease-0", b"\\ud800"),
        chain(1)[0].line.replace(b"lease-0", b"\\u0041"),
    ],
)
def test_what_is_no_canonical_line_is_refused(line: bytes) -> None:
    with pytest.raises(RefusedDocument) as refused:
        parse_line(line)
    assert Refusal.MALFORMED is refused.value.reason


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 0},
        {"seq": -1},
        {"seq": True},
        {"seq": "1"},
        {"seq": None},
        {"at": "2026-11-21"},
        {"at": "2026-11-21T07:00:00+00:00"},
        {"at": "2026-02-30T07:00:00Z"},
        {"at": 5},
        {"kind": ""},
        {"kind": None},
        {"kind": "K" * 65},
        {"data": []},
        {"data": None},
        {"prev": 0},
        {"prev": "0" * 65},
        {"hash": []},
        {"extra": 1},
    ],
)
def test_members_of_the_wrong_form_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RefusedDocument) as refused:
        parse_line(rfc8785.dumps(LINE | change))
    assert Refusal.MALFORMED is refused.value.reason


@pytest.mark.parametrize("member", sorted(LINE))
def test_each_member_is_required(member: str) -> None:
    with pytest.raises(RefusedDocument):
        parse_line(rfc8785.dumps({key: value for key, value in LINE.items() if key != member}))


def test_a_line_of_unknown_kind_is_readable() -> None:
    assert "Teleported" == verify_line(resealed(LINE | {"kind": "Teleported"}), after=Head())["kind"]


def test_a_line_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(RefusedDocument, match="too long"):
        parse_line(b" " * (LONGEST_LINE + 1))


def test_a_float_never_enters_a_line_as_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        entry(Head(), at=AT, kind=Kind.CLOCK_HEALED, data={"x": float("nan")})


def test_an_entry_is_a_value() -> None:
    made = chain(1)[0]
    assert made == made._replace()
    with pytest.raises(AttributeError):
        made.seq = 2  # type: ignore[misc]


@pytest.mark.parametrize("text", ['"hash":"', '","hash":"' + "0" * 64 + '","', "hash", '\\"hash\\":\\"'])
def test_a_text_that_looks_like_the_hash_is_taken_for_none(text: str) -> None:
    posted = entry(Head(), at=AT, kind=Kind.GRANTED, data={"lease_id": text, "hash": text, "prev": {"hash": text}})
    assert posted.hash == verify_line(posted.line, after=Head())["hash"]


@pytest.mark.parametrize("wrong", ["", "0" * 64, '"' * 32, "é" * 64, "0" * 63])
def test_a_line_whose_hash_is_none_is_refused(wrong: str) -> None:
    (posted,) = chain(1)
    line = json.dumps(
        {**json.loads(posted.line), "hash": wrong}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    with pytest.raises(RefusedDocument) as refused:
        verify_line(line.encode(), after=Head())
    assert Refusal.MALFORMED is refused.value.reason
