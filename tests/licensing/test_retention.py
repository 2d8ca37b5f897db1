"""What may leave the journal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lls.faults import Forbidden
from lls.licensing.journal import Head
from lls.licensing.retention import ArchivedRange, prunable
from tests.ledgers import at, ledger_of


@pytest.mark.parametrize(
    ("head", "acknowledged", "older_than", "last"),
    [
        (100, 50, 80, 50),
        (100, 80, 50, 50),
        (100, 0, 80, 0),
        (100, 80, 0, 0),
        (100, 100, 100, 99),
        (1, 1, 1, 0),
        (0, 0, 0, 0),
    ],
)
def test_a_line_leaves_when_it_is_acknowledged_old_and_not_the_last(
    head: int, acknowledged: int, older_than: int, last: int
) -> None:
    assert last == prunable(head=head, acknowledged=acknowledged, older_than=older_than)


@given(head=st.integers(0, 99), acknowledged=st.integers(0, 99), older_than=st.integers(0, 99))
def test_nothing_unacknowledged_or_young_ever_leaves(head: int, acknowledged: int, older_than: int) -> None:
    last = prunable(head=head, acknowledged=acknowledged, older_than=older_than)
    assert 0 <= last <= min(acknowledged, older_than)
    assert last < max(head, 1)


def archived(from_seq: int, to_seq: int) -> ArchivedRange:
    return ArchivedRange(
        from_seq=from_seq,
        end=Head(seq=to_seq, hash="a" * 64),
        prev_head="0" * 64,
        last_at=at().wall,
        made_at=at().wall,
        file="f",
        sha256="s",
        carry="{}",
    )


def test_the_ledger_itself_refuses_to_let_unacknowledged_lines_go() -> None:
    ledger = ledger_of()
    for _ in range(5):
        ledger.note_act("noted", actor="ann", now=at())
    with pytest.raises(Forbidden):
        ledger.prune(1)
    with pytest.raises(Forbidden):
        ledger.archived(archived(1, 1), actor="ann", now=at())
    assert (None, []) == (ledger.batch.prune_upto, ledger.batch.archives)


def test_names_that_came_again_while_one_looked_for_them_stay() -> None:
    ledger = ledger_of()
    ledger.note_act("noted", actor="ann", now=at())
    ledger.note_act("noted", actor="bob", now=at())
    ledger.settle()
    commit_to = ledger._posting.commit_to  # noqa: SLF001
    ann, bob = commit_to("ann"), commit_to("bob")
    assert 0 == ledger.forget_names({ann, bob})
    ledger.watch_names()
    ledger.note_act("noted", actor="ann", now=at())
    assert 1 == ledger.forget_names({ann, bob})
    assert {bob} == ledger.batch.forget_names
    ledger.note_act("noted", actor="bob", now=at())
    assert ("actor", "bob") in {(field, value) for (_, field), value in ledger.batch.names.items()}
