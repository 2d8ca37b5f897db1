"""Two people at one home at the same moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lls.issuer import Issuer
from lls.issuer.refusals import HomeRefused, PendingRefused
from lls.issuer.register import Register, Sold
from tests.issuer.appliance import NOW, Appliance, Chance, hosted, line, order, reported


def test_of_two_who_make_a_home_at_once_one_does_and_nothing_of_it_is_lost(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def late(*args: Any, **kwargs: Any) -> Register:
        monkeypatch.undo()
        with pytest.raises(HomeRefused) as failure:
            Issuer.create(home, now=NOW, passphrase=None)
        refused.append(failure.value.detail)
        return Register(*args, **kwargs)

    monkeypatch.setattr("lls.issuer.founding.Register", late)
    with Issuer.create(home, now=NOW, passphrase=None) as made:
        assert 1 == made.keyring.newest.version
        assert 1 == len([line for line in made.audit.lines() if line.kind == "keys_made"])
    assert ["Somebody else is making an issuer" in sentence for sentence in refused] == [True]


def test_what_others_signed_is_not_sealed_under_keys_that_a_colleague_replaced(
    issuer: Issuer, appliance: Appliance, home: Path
) -> None:
    hosted(issuer, appliance)
    draft = issuer.issuing.draft_bundle(appliance.server_id, now=NOW).pending
    signed = issuer.issuing.sign_here(draft, now=NOW)
    with Issuer(home, now=NOW, random=Chance()) as colleague:
        colleague.rotating.rotate(now=NOW)
    with pytest.raises(PendingRefused, match="key set 2 is in force"):
        issuer.issuing.seal_bundle(signed, now=NOW)
    assert issuer.keyring.newest.version == 2
    issuer.issue_bundle(appliance.server_id, now=NOW)


def test_an_export_beside_a_closing_counts_nothing_twice(
    issuer: Issuer, appliance: Appliance, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance.grant(hosted(issuer, appliance).entitlements[0].entitlement_id, seats=2)
    appliance.wait(days=20)
    reported(issuer, appliance, tmp_path / "1")
    before, through = issuer.usage(), issuer.closing.through

    def meanwhile() -> str | None:
        monkeypatch.undo()
        newest = through()
        with Issuer(home, now=appliance.now) as colleague:
            colleague.closing.close("2026-11", now=appliance.now)
        return newest

    monkeypatch.setattr(issuer.closing, "through", meanwhile)
    assert before == issuer.usage()
    closed = {one.line_id for one in issuer.usage() if one.closed}
    assert {one.line_id for one in before if one.period == "2026-11"} == closed


def test_what_is_sold_while_the_history_is_verified_is_no_forgery(
    issuer: Issuer, appliance: Appliance, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted(issuer, appliance)
    entitlements = issuer.register.entitlements

    def meanwhile(**wanted: Any) -> list[Sold]:
        monkeypatch.undo()
        with Issuer(home, now=NOW, random=Chance(50_000)) as colleague:
            colleague.fulfil(order(appliance, line(), order_ref="SO-2"), now=NOW)
        return entitlements(**wanted)

    monkeypatch.setattr(issuer.register, "entitlements", meanwhile)
    before = issuer.audit.verify()
    assert before.lines < issuer.audit.verify().lines


def test_a_change_inside_a_snapshot_is_a_fault_and_not_lost_in_silence(issuer: Issuer) -> None:
    with (
        issuer.register.snapshot(),
        pytest.raises(RuntimeError, match="inside a snapshot"),
        issuer.register.transaction(),
    ):
        pass
    issuer.put_customer("ACME", name="Example Works", now=NOW)
