"""What a bundle would do is judged before anything is posted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lls.faults import Refusal, RefusedDocument
from lls.licensing.changes import Loaded
from lls.licensing.journal import parse_line
from tests.ledgers import Vendor, at, entitlement


@pytest.mark.parametrize(("sku", "fits"), [("S" * 50, True), ("S" * 200, False)])
def test_an_import_whose_line_nobody_would_read_is_refused_before_anything_is_posted(sku: str, fits: bool) -> None:
    vendor = Vendor()
    ledger = vendor.build(Loaded(), at())
    bundle = vendor.bundle(*(entitlement(f"e{n}", sku=sku, product="P" * 20) for n in range(10_000)))
    if fits:
        ledger.install(bundle, actor="ann", now=at())
        assert parse_line(ledger.batch.entries[0].line)
        return
    with pytest.raises(RefusedDocument) as refused:
        ledger.install(bundle, actor="ann", now=at())
    assert Refusal.TOO_LARGE is refused.value.reason
    assert ledger.batch.empty


def test_another_content_under_a_known_id_is_replayed_before_its_sequence_is_looked_at() -> None:
    vendor = Vendor()
    ledger = vendor.build(Loaded(), at())
    first = vendor.bundle(entitlement())
    ledger.install(first, actor="ann", now=at())
    ledger.settle()
    for sequence in (1, 9):
        other = replace(first, kept=replace(first.kept, digest="other", sequence=sequence))
        with pytest.raises(RefusedDocument) as refused:
            ledger.preview(other, now=at())
        assert Refusal.REPLAYED is refused.value.reason


def test_a_clock_reset_is_named_in_the_journal_once() -> None:
    vendor = Vendor()
    ledger = vendor.build(Loaded(), at())
    told = []
    for _ in range(2):
        ledger.install(vendor.bundle(entitlement(), commands={"cmd_1": "clock_reset"}), actor="ann", now=at())
        told.append(ledger.batch.entries[0].data.get("clock_reset_to"))
        ledger.settle()
    assert ["2026-11-21T07:00:00Z", None] == told
