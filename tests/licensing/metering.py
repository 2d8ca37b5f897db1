"""Meters with a store that keeps rows and a journal, for the tests of features."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lls.licensing.changes import AnsweredRequest, Batch, FeatureAct, LotUse
from lls.licensing.denial import Denial
from lls.licensing.entitlement import (
    Concurrency,
    Entitlement,
    Feature,
    FeatureType,
    Grant,
    GrantExpiry,
    LicenseType,
    Overdraft,
    Sharing,
    Start,
    Status,
)
from lls.licensing.instant import Now
from lls.licensing.journal import Head
from lls.licensing.lease import Holder, Lease
from lls.licensing.meters import FeatureLevel, Meters
from lls.licensing.posting import Posting

T0 = datetime(2026, 11, 20, 7, 0, tzinfo=UTC)
ENT = "ent_cad"
INSTANT = timedelta(microseconds=1)
DAY = timedelta(days=1)


def now_at(at: datetime, *, ahead: timedelta = timedelta(0)) -> Now:
    """Guarded time; ``ahead`` is by how much the raw clock was put forward."""
    return Now(wall=at, strict=at + ahead, elapsed=(at - T0).total_seconds())


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def grant(name: str, amount: int = 10, expiry: GrantExpiry = GrantExpiry.NEVER, **changes: Any) -> Grant:
    return replace(Grant(grant_id=f"grt_{name}", amount=amount, active_from=T0, expiry=expiry), **changes)


def uses(value: int = 0, *grants: Grant, key: str = "frames", **changes: Any) -> Feature:
    made = Feature(key=key, type=FeatureType.USAGE_COUNT, value=value, unit="frame", grants=grants)
    return replace(made, **changes)


def pool(value: int = 0, *grants: Grant, key: str = "render", **changes: Any) -> Feature:
    return replace(Feature(key=key, type=FeatureType.ELEMENT_POOL, value=value, grants=grants), **changes)


def switch(value: int = 1, *, key: str = "simulate", tracked: bool = True) -> Feature:
    return Feature(key=key, type=FeatureType.BOOL, value=value, tracked=tracked)


def terms(*features: Feature, **changes: Any) -> Entitlement:
    made = Entitlement(
        entitlement_id=ENT,
        group_id="egr_",
        session_id="ses_",
        sequence=1,
        order_ref="SO-1",
        activation_codes=frozenset(),
        product="cad",
        product_name="CAD",
        sku="CAD",
        offering="CAD",
        edition=None,
        license_type=LicenseType.SUBSCRIPTION,
        start=Start.FIXED,
        status=Status.ACTIVE,
        starts_at=T0,
        expires_at=None,
        grace=timedelta(0),
        maintenance_expires_on=None,
        concurrency=Concurrency.CONCURRENT,
        max_version=None,
        seats=50,
        overdraft=Overdraft(),
        sharing=Sharing.NONE,
        lease_seconds=600,
        linger_seconds=0,
        features=features,
        attributes={},
    )
    return replace(made, **changes)


def lease(name: str = "one", **features: int) -> Lease:
    return Lease(
        lease_id=name,
        secret=b"",
        content=b"",
        product="cad",
        entitlement_id=ENT,
        holder=Holder(seat_id="alpha"),
        seats=1,
        ttl=600,
        overdraft=False,
        granted_at=T0,
        features=features,
    )


class Site:
    """The meters of a server with a store that keeps rows, and a journal."""

    def __init__(self, entitlement: Entitlement, *, at: datetime = T0, ahead: timedelta = timedelta(0)) -> None:
        self.rows: dict[tuple[str, str, str], LotUse] = {}
        self.requests: dict[tuple[str, str], AnsweredRequest] = {}
        self.journal: list[dict[str, Any]] = []
        self.forgotten: list[datetime] = []
        self.leases: dict[str, Lease] = {}
        self.entitlement = entitlement
        self.at, self.ahead, self.calls = at, ahead, 0
        self.posting = Posting(Head(), {}, commit_to=str)
        self.meters = Meters(self.posting)
        self.meters.open(entitlement, now=self.now)
        self.commit()

    @property
    def now(self) -> Now:
        return now_at(self.at, ahead=self.ahead)

    def commit(self) -> list[dict[str, Any]]:
        """The store takes the group; its lines."""
        batch: Batch = self.posting.batch
        for key, row in batch.lots.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        self.requests.update(batch.requests)
        if batch.forget_requests_before is not None:
            self.forgotten.append(batch.forget_requests_before)
            before = batch.forget_requests_before
            self.requests = {key: one for key, one in self.requests.items() if kept_until(one) >= before}
        lines = [{"kind": str(one.kind), **json.loads(one.line)["data"]} for one in batch.entries]
        self.journal += lines
        self.posting.settle()
        self.meters.settle()
        return lines

    def restart(self) -> None:
        """Nothing but rows and leases comes back."""
        kept = sorted(self.requests.values(), key=lambda one: one.at)
        self.meters = Meters(self.posting, lots=self.rows.values(), requests=kept)
        self.meters.open(self.entitlement, now=None)
        for one in self.leases.values():
            self.meters.add(one)
        self.meters.resume(self.now)

    def distrust(self) -> None:
        """Start without the terms: they did not verify again. The counters wait."""
        kept = sorted(self.requests.values(), key=lambda one: one.at)
        self.meters = Meters(self.posting, lots=self.rows.values(), requests=kept)
        for one in self.leases.values():
            self.meters.add(one)
        self.meters.resume(self.now)

    def update(self, entitlement: Entitlement) -> list[dict[str, Any]]:
        self.entitlement = entitlement
        self.meters.open(entitlement, now=self.now)
        return self.commit()

    def sweep(self, *, limit: int = 2_000) -> list[dict[str, Any]]:
        while self.meters.sweep(self.now, limit=limit):
            pass
        return self.commit()

    def act(
        self,
        key: str,
        amount: int = 1,
        *,
        act: FeatureAct = FeatureAct.USE,
        request_id: str | None = None,
        by: str = "one",
    ) -> FeatureLevel | Denial:
        self.calls += 1
        held = self.leases.setdefault(by, lease(by))
        did = self.meters.act(
            held, key, act=act, amount=amount, request_id=request_id or f"call {self.calls}", now=self.now
        )
        if isinstance(did, Denial):
            return did
        self.leases[by] = replace(held, features=did[0])
        self.commit()
        return did[1]

    def use(self, amount: int = 1, *, key: str = "frames", **call: Any) -> FeatureLevel:
        """A use that is expected to be granted."""
        level = self.act(key, amount, **call)
        assert isinstance(level, FeatureLevel)
        return level

    def refused(self, amount: int = 1, *, key: str = "frames", **call: Any) -> Denial:
        denial = self.act(key, amount, **call)
        assert isinstance(denial, Denial)
        assert not self.posting.batch.requests, "a refusal is kept by nobody"
        return denial

    def check_out(self, amount: int = 1, *, key: str = "render", **call: Any) -> FeatureLevel | Denial:
        return self.act(key, amount, act=FeatureAct.CHECKOUT, **call)

    def give_back(self, amount: int = 1, *, key: str = "render", **call: Any) -> FeatureLevel | Denial:
        return self.act(key, amount, act=FeatureAct.RETURN, **call)

    def undo(self, amount: int, request_id: str, *, key: str = "frames", by: str = "one") -> FeatureLevel:
        level = self.meters.undo(self.leases[by], key, amount=amount, request_id=request_id, now=self.now)
        self.commit()
        return level

    def request(self, request_id: str, *, by: str = "one") -> AnsweredRequest:
        known = self.meters.answered(by, request_id)
        assert known is not None
        return known

    def level(self, key: str = "frames", *, committed: bool = True) -> FeatureLevel:
        return self.meters.level(None, ENT, key, now=self.now, committed=committed)

    def used(self, key: str = "frames") -> dict[str, int]:
        """By lot, as the store has it."""
        return {row.lot: row.used for row in self.rows.values() if row.feature == key and row.used}

    def ended(self) -> list[dict[str, Any]]:
        return [line for line in self.journal if line["kind"] == "GrantEnded"]


def kept_until(request: AnsweredRequest) -> datetime:
    return request.kept_until or request.at + timedelta(hours=25)


def figures(level: FeatureLevel) -> tuple[int | None, int | None, int, int]:
    return level.available, level.total, level.consumed, level.overage
