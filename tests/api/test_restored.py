"""A restored server at its doors: loans that are shown, uses that are refused, backups that are handed out."""
# ruff: noqa: SLF001 - a fact is put there as a restore would

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.backup import Backups, look_into
from lls.faults import StoreDown
from lls.licensing.changes import Fact
from lls.licensing.fields import write_instant
from lls.signed.capability import terms_claims
from tests.api.conftest import Seat, World, nonce_of
from tests.backup.state import Known
from tests.vendor import NOW, entitlement

LENDS = {"max_seconds": 1_209_600, "max_seats": 5}


async def restored(world: World, *, since: datetime, until: datetime) -> None:
    """As if the server had been put back, and what happened between were lost."""
    lost = json.dumps([[write_instant(since), write_instant(until)]])
    await world.writer.do(lambda ledger, _now: ledger._posting.set_facts({Fact.LOST_TIMES: lost}))


def capability(world: World, seat: Seat, *, key: str | None = None, mode: str = "borrowed", lease_id: str = "") -> str:
    """What the server signed in the time that was lost."""
    issued_at = int(NOW.timestamp())
    signer = world.airgap.capabilities
    message = signer.prepare(
        product="cad",
        lease_id=lease_id or seat.lease_id,
        issued_at=issued_at,
        expires_at=issued_at + 86_400,
        ttl=86_400,
        nonce=nonce_of("lost"),
        mode=mode,
        entitlement_id=next(iter(world.writer.ledger.pools)),
        seats=1,
        seat_id=f"machine of {seat.name}",
        terms=terms_claims({}, {}),
        cnf={"jkt": key} if key else {"fingerprint": f"machine of {seat.name}"},
    )
    return signer.signed(message)


async def shown(world: World, seat: Seat, token: str) -> tuple[int, object]:
    body = {"beat": 0, "nonce": nonce_of("shown"), "capability": token}
    status, answer = await world.call("POST", f"/v1/leases/{seat.lease_id}/heartbeat", headers=seat.headers, json=body)
    return status, answer if status == 200 else answer["code"]


async def test_a_loan_that_the_backup_does_not_know_is_counted_when_it_is_shown(world: World) -> None:
    await world.host(entitlement(borrow=LENDS, seats=1))
    seat, laptop = Seat("alice"), Seat("laptop")
    assert 201 == (await world.checkout(seat))[0]
    await restored(world, since=NOW - timedelta(hours=1), until=NOW + timedelta(hours=1))

    status, answer = await shown(world, laptop, capability(world, laptop))

    assert 200 == status
    assert "borrowed" == world.claims(answer)["mode"]
    _, away = await world.ask("GET", "/borrows")
    assert [laptop.lease_id] == [one["lease_id"] for one in away["borrows"]]
    assert (200, 200) == ((await shown(world, laptop, capability(world, laptop)))[0], (await world.beat(seat, 1))[0])
    assert 204 == (await world.checkin(laptop))[0]


async def test_what_proves_nothing_counts_nothing(world: World) -> None:
    await world.host(entitlement(borrow=LENDS))
    laptop = Seat("laptop")
    assert (404, "unknown_lease") == await shown(world, laptop, capability(world, laptop))
    await restored(world, since=NOW - timedelta(hours=1), until=NOW + timedelta(hours=1))
    own = capability(world, laptop)
    for token in (
        capability(world, laptop, key="k" * 43),
        capability(world, laptop, mode="floating"),
        capability(world, laptop, lease_id=Seat("another").lease_id),
        own[:-8] + "AAAAAAAA",
        "no.token",
    ):
        assert (422, "refused_document") == await shown(world, laptop, token)
    await restored(world, since=NOW - timedelta(hours=9), until=NOW - timedelta(hours=8))
    assert (404, "unknown_lease") == await shown(world, laptop, own)
    assert {} == world.writer.ledger.leases


def backups(world: World, folder: Path) -> Backups:
    return Backups(
        world.store,
        state_dir=folder,
        server_id=world.airgap.identity.server_id,
        name="lls",
        version="1",
        now=lambda: NOW,
        others={},
    )


async def test_a_backup_is_handed_out_once_with_its_hash(world: World, tmp_path: Path) -> None:
    world.edge.backups = backups(world, tmp_path)
    async with world.admin.post("/v1/admin/backup", json={"passphrase": "a passphrase for tests"}) as answer:
        data = await answer.read()
        assert (200, "application/octet-stream") == (answer.status, answer.content_type)
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        assert f"sha-256=:{digest}:" == answer.headers["Content-Digest"]
    file = tmp_path / "got.llsbackup"
    file.write_bytes(data)
    assert world.airgap.identity.server_id == look_into(file, Known(), room=tmp_path).manifest.server_id
    assert [] == list((tmp_path / ".backup-out").iterdir())
    status, told = await world.ask("GET", "/backup")
    assert (200, None, False) == (status, told["folder"], told["sealed"])
    status, problem = await world.ask("POST", "/backup", json={"passphrase": "short"})
    assert (422, "refused_document") == (status, problem["code"])
    status, problem = await world.ask("POST", "/backup", json={"passphrase": "x" * 20, "recipient": "y"})
    assert (400, "bad_request") == (status, problem["code"])


async def test_a_backup_that_nobody_gets_leaves_no_copy_of_the_keys(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.edge.backups = backups(world, tmp_path)

    async def refuse(*_given: Any) -> None:
        raise StoreDown("The disk is full.")

    monkeypatch.setattr(world.writer, "do", refuse)
    status, problem = await world.ask("POST", "/backup", json={})
    assert (503, "store_down") == (status, problem["code"])
    assert [] == list((tmp_path / ".backup-out").iterdir())


async def test_backups_that_are_asked_for_at_one_instant_wait_for_each_other_and_all_succeed(
    world: World, tmp_path: Path
) -> None:
    world.edge.backups = backups(world, tmp_path)

    async def one() -> tuple[int, bytes, str]:
        async with world.admin.post("/v1/admin/backup", json={"passphrase": "a passphrase for tests"}) as answer:
            return answer.status, await answer.read(), answer.headers.get("Content-Digest", "")

    got = await asyncio.gather(*(one() for _ in range(4)))
    assert [200] * 4 == [status for status, _, _ in got]
    told = [f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:" for _, data, _ in got]
    assert told == [digest for _, _, digest in got]
    assert [] == list((tmp_path / ".backup-out").iterdir())


async def test_a_store_with_backups_of_its_own_has_none_here(world: World) -> None:
    status, problem = await world.ask("POST", "/backup", json={})
    assert (404, "not_found") == (status, problem["code"])
