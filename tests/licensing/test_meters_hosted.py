"""Counters of an entitlement through its life at a site, with a store: resets, returns, restarts."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lls.faults import NotHeld, RefusedDocument, UndoTooLate
from lls.licensing.changes import FeatureAct, ReturnedEntitlement
from lls.licensing.entitlement import BorrowTerms, Entitlement
from lls.licensing.instant import Now
from lls.licensing.ledger import Seated
from lls.licensing.meters import FeatureLevel
from lls.store import sqlite
from tests.ledgers import (
    Vendor,
    at,
    checkout,
    counted,
    entitlement,
    grant,
    ledger_of,
    posted,
    reset_of,
    secret_of,
    units,
)

DAY = 86_400
ENT = entitlement().entitlement_id
FIRST_BUNDLE = "bnd_" + "1".rjust(22, "0")


class Stored:
    """A ledger and its database."""

    def __init__(self, *hosted: Entitlement) -> None:
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        sqlite._migrate(self.database)  # noqa: SLF001 - a store without a thread
        self.epoch = sqlite._next_epoch(self.database)  # noqa: SLF001
        self.vendor = Vendor()
        self.ledger = self.vendor.build(sqlite._load(self.database), at())  # noqa: SLF001
        self.install(*hosted)

    def install(self, *hosted: Entitlement, seconds: float = 0.0, **changes: Any) -> list[Any]:
        """What the import says of resets."""
        bundle = self.vendor.bundle(*hosted, now=at(seconds), **changes)
        self.ledger.install(bundle, actor="ada", now=at(seconds))
        told = [one for line in posted(self.ledger.batch, "Installed") for one in line.get("resets", ())]
        self.commit(at(seconds))
        return told

    def commit(self, now: Now) -> None:
        if not self.ledger.batch.empty:
            sqlite._commit(self.database, self.ledger.batch, self.epoch, now.wall)  # noqa: SLF001
        self.ledger.settle()

    def restart(self, now: Now, *, distrusted: frozenset[str] = frozenset()) -> None:
        self.ledger = self.vendor.build(sqlite._load(self.database), now, distrusted=distrusted)  # noqa: SLF001

    def seat(self, name: str, now: Now | None = None) -> None:
        self.ledger.checkout(checkout(name), now=now or at())
        self.commit(now or at())

    def use(self, amount: int, request_id: str, *, by: str = "a", now: Now | None = None) -> FeatureLevel:
        now, act = now or at(), FeatureAct.USE
        level = self.ledger.feature(
            by, secret=secret_of(by), key="frames", act=act, amount=amount, request_id=request_id, now=now
        )
        assert isinstance(level, FeatureLevel)
        self.commit(now)
        return level

    def undo(self, amount: int, request_id: str, now: Now) -> FeatureLevel:
        return self.ledger.undo("a", secret=secret_of("a"), key="frames", amount=amount, request_id=request_id, now=now)

    def consumed(self) -> int:
        return self.ledger.meters.level(None, ENT, "frames", now=at(20), committed=True).consumed


def test_a_reset_is_not_lost_although_the_terms_had_not_verified_again() -> None:
    terms = entitlement(features=(counted("frames", 10),))
    site = Stored(terms)
    site.seat("a")
    site.use(10, "r")
    site.restart(at(10), distrusted=frozenset({FIRST_BUNDLE}))
    assert {ENT} == set(site.ledger.problems)
    told = site.install(replace(terms, sequence=2), seconds=20, commands={"cmd_1": reset_of(ENT)})
    assert [{"entitlement_id": ENT, "feature": "frames", "consumed": 10, "overage": 0}] == told
    assert 0 == site.consumed()
    site.restart(at(30))
    assert 0 == site.consumed()


@pytest.mark.parametrize("feature", ["frames", None])
def test_a_reset_reaches_a_feature_that_its_own_bundle_brings_back(feature: str | None) -> None:
    terms = entitlement(features=(counted("frames", 10, undo_seconds=DAY), counted("shots", 5)))
    site = Stored(terms)
    site.seat("a")
    site.use(10, "r")
    site.install(replace(terms, sequence=2, features=(counted("shots", 5),)), seconds=10)
    told = site.install(replace(terms, sequence=3), seconds=20, commands={"cmd_1": reset_of(ENT, feature)})
    assert ("frames", 10) in [(one["feature"], one["consumed"]) for one in told]
    assert 0 == site.consumed()
    with pytest.raises(UndoTooLate):
        site.undo(10, "r", at(21))


def test_a_reset_of_all_features_is_refused_where_nothing_is_consumed() -> None:
    site = Stored(entitlement(features=(units("tokens", 1),)))
    with pytest.raises(RefusedDocument, match="of which nothing is consumed"):
        site.install(commands={"cmd_1": reset_of(ENT)}, seconds=1)


def test_a_return_tells_what_was_used_of_a_feature_that_is_not_sold_any_more() -> None:
    terms = entitlement(features=(counted("frames", 10, grant("a", 3)),))
    site = Stored(terms)
    site.seat("a")
    site.use(7, "r")
    site.install(replace(terms, sequence=2, features=()), seconds=10)
    returned = site.ledger.return_entitlement(ENT, force=True, actor="ada", now=at(20))
    assert isinstance(returned, ReturnedEntitlement)
    (meter,) = json.loads(returned.meters)
    assert ("frames", "usage_count", "frame", 7) == tuple(
        meter[name] for name in ("feature", "type", "unit", "consumed")
    )


def test_a_seat_that_is_still_borrowed_undoes_nothing_of_the_session_before() -> None:
    terms = entitlement(
        seats=3,
        borrow=BorrowTerms(max_seconds=30 * DAY, max_seats=1),
        features=(counted("frames", 10, undo_seconds=DAY),),
    )
    site = Stored(terms)
    site.seat("a")
    site.use(10, "r")
    site.ledger.borrow("a", secret=secret_of("a"), until=at(DAY).wall, fingerprint="seat of a", now=at())
    site.ledger.return_entitlement(ENT, force=True, actor="ada", now=at(10))
    site.commit(at(10))
    site.install(replace(terms, session_id=f"ses_{'B' * 22}"), seconds=20)
    site.seat("b", at(30))
    site.use(10, "r2", by="b", now=at(30))
    for _ in range(2):
        with pytest.raises(UndoTooLate):
            site.undo(10, "r", at(40))
        site.restart(at(40))


def test_a_lease_id_that_comes_again_undoes_nothing_of_another_entitlement() -> None:
    """Its first lease is long forgotten, the use is not: its units would go back where they were never taken."""
    feature = counted("frames", 10, undo_seconds=30 * DAY)
    ledger = ledger_of(entitlement(features=(feature,)), entitlement("cam", product="cam", features=(feature,)))
    secret, again = secret_of("a"), at(26 * 3_600)

    def use(amount: int, request_id: str, now: Now) -> None:
        ledger.feature(
            "a", secret=secret, key="frames", act=FeatureAct.USE, amount=amount, request_id=request_id, now=now
        )

    ledger.checkout(checkout("a"), now=at())
    use(5, "r", at())
    ledger.checkin("a", secret=secret, now=at(1))
    ledger.sweep(now=again)
    assert isinstance(ledger.checkout(checkout("a", product="cam"), now=again), Seated)
    use(9, "r2", again)
    with pytest.raises(NotHeld):
        ledger.undo("a", secret=secret, key="frames", amount=5, request_id="r", now=again)
    ledger.settle()
    assert [1] == [level.available for level in ledger.feature_levels(ledger.leases["a"], again)]


def test_a_lease_id_that_comes_again_answers_for_its_use_at_the_grant_in_the_same_row() -> None:
    """Else the elder one, which may be undone for longer, would stand up again with a restart."""
    site = Stored(entitlement(features=(counted("frames", 10, undo_seconds=30 * DAY),)))
    for now, amount in ((at(), 5), (at(26 * 3_600), 2)):
        site.ledger.sweep(now=now)
        assert isinstance(site.ledger.checkout(checkout("a", features=(("frames", amount),)), now=now), Seated)
        site.ledger.checkin("a", secret=secret_of("a"), now=now)
        site.commit(now)
    assert [(2,)] == site.database.execute("SELECT amount FROM requests").fetchall()


def test_requests_of_a_future_that_was_taken_back_are_written_as_closed() -> None:
    site = Stored(entitlement(lease_seconds=30 * DAY, features=(counted("frames", 10, undo_seconds=3_600),)))
    late = at(10 * DAY)
    site.seat("a", late)
    site.use(10, "r", now=late)
    back = at()._replace(elapsed=late.elapsed + 10)
    site.ledger.sweep(now=back)
    assert not site.ledger.batch.empty
    site.commit(back)
    site.restart(back)
    with pytest.raises(UndoTooLate):
        site.undo(10, "r", back)
    (kept,) = site.database.execute("SELECT kept_until FROM requests").fetchone()
    assert (back.wall + timedelta(hours=25)).timestamp() * 10**6 == kept
    with pytest.raises(UndoTooLate):
        site.undo(10, "r", late._replace(elapsed=late.elapsed + 20))
