"""The pen never writes what nobody could read again."""

from __future__ import annotations

import pytest

from lls.licensing.changes import Fact
from lls.licensing.journal import LONGEST_LINE, Head, Kind, parse_line
from lls.licensing.posting import LineTooLong, Posting
from tests.ledgers import at, commit_to


def posting() -> Posting:
    return Posting(Head(), {}, commit_to=commit_to)


def length_of(act: str) -> int:
    made = posting()
    made.post(Kind.ADMIN_ACTED, {"act": act}, at())
    return len(made.batch.entries[0].line)


def test_the_longest_line_is_posted_and_read_again() -> None:
    made, room = posting(), LONGEST_LINE - length_of("")
    made.post(Kind.ADMIN_ACTED, {"act": "x" * room}, at())
    (line,) = made.batch.entries
    assert LONGEST_LINE == len(line.line)
    assert parse_line(line.line)


@pytest.mark.parametrize("sign", ["x", "é", "\N{MUSICAL SYMBOL G CLEF}"])
def test_a_line_that_no_reader_would_take_is_refused_before_anything_of_it_is_posted(sign: str) -> None:
    made = posting()
    made.post(Kind.REBOUND, {}, at())
    before, head = list(made.batch.entries), made.batch.head
    too_much = (LONGEST_LINE - length_of("")) // len(sign.encode()) + 1
    with pytest.raises(LineTooLong, match="AdminActed"):
        made.post(Kind.ADMIN_ACTED, {"act": sign * too_much}, at())
    assert (before, head) == (made.batch.entries, made.batch.head)


def test_what_was_too_long_is_no_fault_that_a_client_could_be_answered() -> None:
    """It must reach the writer, which throws the whole group away."""
    made = posting()
    made.set_facts({Fact.CHAIN_FORKED: "1"})
    with pytest.raises(LineTooLong) as raised:
        made.post(Kind.ADMIN_ACTED, {"act": "x" * LONGEST_LINE}, at())
    assert not hasattr(raised.value, "code")
    made.abandon()
    assert {} == made.facts
