"""Freezes a release: its state folder after a day's work, its documents, and what a later program must find in them.

Run it with the code of the release itself, once, when the release is made; never again for one that exists:

    python -m tests.releases.freeze 0.1.0

The database is kept as SQL text, so that a reviewer can read it. Its days are in the past and its terms have no end, so
that the fixture grows no older. All keys in it are throw-away keys.
"""
# ruff: noqa: ASYNC240 - nothing else runs in this loop

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sqlite3
import sys
import tempfile
from base64 import urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lls.licensing.changes import FeatureAct
from lls.licensing.ledger import Seated
from lls.licensing.policy_file import read_policy
from tests.ledgers import checkout
from tests.test_airgap import World
from tests.vendor import Vendor, entitlement, new_id

HERE = Path(__file__).parent
THEN = datetime(2025, 1, 15, 7, 0, tzinfo=UTC)
FAR = "2125-01-01T00:00:00Z"
POLICY = """format = 1
[groups.design]
users = ["dora"]
[[reserve]]
product = "cad"
seats = 2
for = { groups = ["design"] }
[[limit]]
product = "cad"
seats = 20
per = "user"
"""


def token(lease_id: str) -> str:
    """The secret that the lease's client would send."""
    return urlsafe_b64encode(hashlib.sha256(f"secret of {lease_id}".encode()).digest()).rstrip(b"=").decode()


def wish(number: int, **more: Any) -> Any:
    lease_id = f"00000000-0000-4000-8000-{number:012}"
    digest = hashlib.sha256(hashlib.sha256(f"secret of {lease_id}".encode()).digest()).digest()
    return replace(checkout(lease_id, seat_id=f"machine-{number}", host=f"ws-{number}", **more), secret=digest)


def entitlements() -> list[dict[str, object]]:
    ever: dict[str, Any] = {
        "starts_at": "2025-01-01T00:00:00Z",
        "expires_at": None,
        "plan": {"license_type": "perpetual", "start": "fixed"},
    }
    frames = {
        "key": "frames",
        "type": "usage_count",
        "value": 0,
        "unit": "frame",
        "overdraft": {"type": "absolute", "value": 5},
        "undo_seconds": 3600,
        "grants": [
            {
                "grant_id": new_id("grt_", "frames"),
                "amount": 100,
                "active_from": "2025-01-01T00:00:00Z",
                "expiry": {"type": "never"},
            }
        ],
    }
    cores = {"key": "cores", "type": "element_pool", "value": 16, "unit": "core"}
    return [
        entitlement(**ever, seats=12, features=[frames, cores], borrow={"max_seconds": 315_360_000, "max_seats": 3}),
        entitlement("cam", **ever, seats=4, concurrency="node_lock"),
        entitlement("names", **ever, product={"key": "cam", "name": "CAM"}, seats=3, concurrency="named_user"),
        entitlement("gone", **ever, product={"key": "cam", "name": "CAM"}, seats=1, edition="old"),
    ]


async def lived(world: World) -> None:
    """A day of everything that leaves a row."""
    writer, airgap, vendor = world.writer, world.airgap, world.vendor
    data = world.bundle(
        entitlements=entitlements(),
        certificate=vendor.certificate(world.site, not_after=FAR),
        server_license={
            "expires_at": FAR,
            "sync_within_days": 36_500,
            "binding": {"policy": "key_only", "required": 0, "components": {}, "grace_seconds": 0},
        },
    )
    (world.folder / "site.llsbundle").write_bytes(data)
    (world.folder / "site.llsreq").write_bytes(airgap.request())
    await world.take(data)
    policy = read_policy(POLICY)
    await writer.do(lambda ledger, now: ledger.govern(policy, text=POLICY, actor="ann", now=now))
    world.passes(timedelta(minutes=5))
    for number in range(1, 7):
        await writer.checkout(wish(number, user=f"user-{number}"))
    await writer.checkout(wish(7, user="user-7", product="cam", edition="pro"))
    await airgap.assign_user(new_id("ent_", "names"), "nora", actor="ann")
    first, second, third = wish(1), wish(2), wish(3)
    for amount, request in ((30, "use-1"), (40, "use-2")):
        await writer.do(
            lambda ledger, now, amount=amount, request=request: ledger.feature(  # type: ignore[misc]
                first.lease_id,
                secret=first.secret,
                key="frames",
                act=FeatureAct.USE,
                amount=amount,
                request_id=request,
                now=now,
            )
        )
    await writer.do(
        lambda ledger, now: ledger.undo(
            first.lease_id, secret=first.secret, key="frames", amount=30, request_id="use-1", now=now
        )
    )
    await writer.do(
        lambda ledger, now: ledger.feature(
            second.lease_id,
            secret=second.secret,
            key="cores",
            act=FeatureAct.CHECKOUT,
            amount=4,
            request_id="cores-1",
            now=now,
        )
    )
    lent = await writer.do(
        lambda ledger, now: ledger.borrow(
            third.lease_id,
            secret=third.secret,
            until=datetime(2034, 12, 1, tzinfo=UTC),
            fingerprint="machine-3",
            now=now,
        )
    )
    assert isinstance(lent, Seated), lent
    world.passes(timedelta(minutes=5))
    await writer.checkout(wish(40, user="user-4", seats=30))
    await writer.do(lambda ledger, now: ledger.checkin(wish(5).lease_id, secret=wish(5).secret, now=now))
    await writer.do(lambda ledger, now: ledger.release(wish(6).lease_id, actor="ann", reason="left", now=now))
    await airgap.return_entitlement(new_id("ent_", "gone"), force=True, actor="ann")
    sealed, path = await airgap.export_report(pseudonymise=False, actor="ann")
    shutil.copy(path, world.folder / "site.llsreport")
    receipt = vendor.receipt(world.site, report_id=sealed.report_id, up_to_seq=sealed.to_seq, head=sealed.head)
    (world.folder / "site.llsreceipt").write_text(receipt)
    await airgap.import_receipt(receipt.encode(), actor="ann")
    world.passes(timedelta(minutes=5))
    await world.note()


def expected(world: World) -> dict[str, Any]:
    """What every later program must find."""
    ledger, now = world.writer.ledger, world.writer.now()
    return {
        "server_id": world.site.server_id,
        "head": {"seq": ledger.batch.before.seq, "hash": ledger.batch.before.hash},
        "acknowledged": ledger.server.acknowledged.seq,
        "leases": {
            lease.lease_id: {
                "token": token(lease.lease_id),
                "mode": lease.mode.value,
                "product": lease.product,
                "user": lease.holder.user,
                "features": dict(lease.features),
                "until": None if lease.until is None else lease.until.isoformat(),
            }
            for lease in ledger.leases.values()
        },
        "ended": {lease_id: token(lease_id) for lease_id in (wish(5).lease_id, wish(6).lease_id)},
        "levels": {
            level.key: [level.held, level.available, level.total]
            for level in ledger.meters.levels(None, new_id("ent_", "cad"), now=now, committed=True)
        },
        "assigned": list(ledger.placed[new_id("ent_", "names")].assigned),
        "hosted": sorted(ledger.placed),
        "returned": sorted(ledger.returns),
        "reports": sorted(ledger.reports),
        "rules": [rule.rule for rule in ledger.pools.policy.rules],
    }


async def freeze(release: str) -> None:
    target = HERE / release
    if target.exists():
        raise SystemExit(f"{release} is frozen already.")
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name), vendor=Vendor(now=THEN), raw=THEN)
        await world.begin()
        try:
            async with asyncio.timeout(60):
                await lived(world)
            found = expected(world)
        finally:
            await world.end()
        (target / "keys").mkdir(parents=True)
        site = world.site
        (target / "keys" / "server-id").write_text(site.server_id)
        (target / "keys" / "signing.pem").write_bytes(site.signing.to_pem())
        (target / "keys" / "encryption.pem").write_bytes(site.encryption.to_pem())
        (target / "keys" / "site.key").write_bytes(b"k" * 32)
        (target / "vendor.llskeys").write_text(world.vendor.key_sets[0])
        for document in Path(name).glob("site.lls*"):
            shutil.copy(document, target)
        with sqlite3.connect(Path(name) / "lls.sqlite3") as database:
            (target / "lls.sql").write_text("\n".join(database.iterdump()) + "\n")
        database.close()
        (target / "expected.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    asyncio.run(freeze(sys.argv[1]))
