"""What a bundle would do is judged before anything is posted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lls.faults import Refusal, RefusedDocument
from lls.licensing.changes import Loaded, LotUse
from lls.licensing.entitlement import Feature, FeatureType
from lls.licensing.journal import parse_line
from lls.licensing.terms import CLOCK_RESET, RESET_USAGE, Command
from tests.ledgers import Vendor, at, entitlement, kinds, ledger_of


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
        ledger.install(
            vendor.bundle(entitlement(), commands={"cmd_1": Command(type=CLOCK_RESET)}), actor="ann", now=at()
        )
        told.append(ledger.batch.entries[0].data.get("clock_reset_to"))
        ledger.settle()
    assert ["2026-11-21T07:00:00Z", None] == told


def reset(entitlement_id: str, feature: str | None = "render") -> dict[str, Command]:
    return {"cmd_1": Command(type=RESET_USAGE, entitlement_id=entitlement_id, feature=feature)}


def render(kind: FeatureType) -> Feature:
    return Feature(key="render", type=kind, value=1)


@pytest.mark.parametrize(
    ("kind", "names", "feature", "fits"),
    [
        (FeatureType.USAGE_COUNT, "cad", "render", True),
        (FeatureType.CREDIT, "cad", "render", True),
        (FeatureType.USAGE_COUNT, "cad", None, True),
        (FeatureType.ELEMENT_POOL, "cad", "render", False),
        (FeatureType.BOOL, "cad", "render", False),
        (FeatureType.USAGE_COUNT, "cad", "export", False),
        (FeatureType.USAGE_COUNT, "cam", "render", False),
        (FeatureType.USAGE_COUNT, "cam", None, False),
    ],
)
@pytest.mark.parametrize("hosted", [True, False])
def test_a_reset_of_what_is_not_counted_here_refuses_the_bundle(
    kind: FeatureType, names: str, feature: str | None, fits: bool, hosted: bool
) -> None:
    vendor = Vendor()
    cad = entitlement("cad", features=(render(kind),))
    ledger = vendor.build(Loaded(), at())
    brought = [cad]
    if hosted:
        ledger.install(vendor.bundle(cad), actor="ann", now=at())
        ledger.settle()
        brought = []
    commands = reset(entitlement(names).entitlement_id, feature)
    bundle = vendor.bundle(*brought, commands=commands)
    if fits:
        assert ("cmd_1",) == ledger.preview(bundle, now=at()).commands
        return
    with pytest.raises(RefusedDocument) as refused:
        ledger.preview(bundle, now=at())
    assert Refusal.MALFORMED is refused.value.reason


def test_a_reset_that_was_carried_out_is_asked_nothing_when_it_comes_again() -> None:
    vendor = Vendor()
    cad = entitlement("cad", features=(render(FeatureType.USAGE_COUNT),))
    ledger = vendor.build(Loaded(commands=frozenset({"cmd_1"})), at())

    assert () == ledger.preview(vendor.bundle(cad, commands=reset("ent_gone")), now=at()).commands


def test_an_unknown_command_is_refused_as_a_format_to_come() -> None:
    vendor = Vendor()
    ledger = vendor.build(Loaded(), at())
    with pytest.raises(RefusedDocument) as refused:
        ledger.preview(vendor.bundle(entitlement(), commands={"cmd_1": Command(type="of_tomorrow")}), now=at())
    assert Refusal.FORMAT is refused.value.reason


def test_an_update_to_another_product_is_refused() -> None:
    vendor = Vendor()
    ledger = ledger_of(entitlement("cad"), vendor=vendor)
    with pytest.raises(RefusedDocument, match="hosted for cad"):
        ledger.install(vendor.bundle(entitlement("cad", product="cam", sequence=2)), actor="ada", now=at())
    assert [] == kinds(ledger.batch)


def test_a_reset_of_counters_without_terms_is_counted_before_its_line_is_posted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stored bundle did not verify again: only the counters are left, and the line tells each of them."""
    vendor, terms = Vendor(), entitlement()
    rows = [
        LotUse(entitlement_id=terms.entitlement_id, feature=f"f{n}", lot="allowance", used=7, ended=False)
        for n in range(40)
    ]
    ledger = vendor.build(Loaded(lots=rows), at())
    plain = replace(terms, features=(render(FeatureType.USAGE_COUNT),))
    bundle = vendor.bundle(plain, commands=reset(terms.entitlement_id, None))
    ledger.install(bundle, actor="ann", now=at())
    longest = len(ledger.batch.entries[0].line)
    assert 40 == len(ledger.batch.entries[0].data["resets"])
    for room, fits in ((longest - 1, False), (longest + 4_000, True)):
        ledger = vendor.build(Loaded(lots=rows), at())
        monkeypatch.setattr("lls.licensing.installing.LONGEST_LINE", room)
        if fits:
            ledger.preview(bundle, now=at())
            continue
        with pytest.raises(RefusedDocument) as refused:
            ledger.install(bundle, actor="ann", now=at())
        assert Refusal.TOO_LARGE is refused.value.reason
        assert ledger.batch.empty


def test_a_reset_of_one_feature_needs_room_for_that_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = Vendor()
    many = tuple(replace(render(FeatureType.USAGE_COUNT), key=f"f{n}") for n in range(40))
    ledger = ledger_of(entitlement(features=many), vendor=vendor)
    monkeypatch.setattr("lls.licensing.installing.LONGEST_LINE", 4_000)
    ledger.preview(vendor.bundle(commands=reset(entitlement().entitlement_id, "f7")), now=at())
    with pytest.raises(RefusedDocument):
        ledger.preview(vendor.bundle(commands=reset(entitlement().entitlement_id, None)), now=at())
