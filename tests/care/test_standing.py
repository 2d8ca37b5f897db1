"""What an examination says of licence, clock, reports, machine and journal, over a real store and real bundles."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.care.findings import Finding, State
from lls.care.standing import examine_chain, examine_standing
from lls.licensing.journal import Head
from lls.licensing.server import RestorePoint
from tests.test_airgap import World
from tests.vendor import entitlement

DAY = timedelta(days=1)
HOST = {"machine_id": "a" * 64, "product_uuid": "b" * 64, "board_serial": "c" * 64}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await World(tmp_path).begin()
    yield world
    await world.end()


def found(world: World, *, host: Mapping[str, str] = HOST) -> dict[str, Finding]:
    now = world.writer.now()
    findings = examine_standing(world.writer.ledger, now=now, raw=world.raw, keys=world.airgap.newest_keys, host=host)
    return {one.check: one for one in findings}


def states(world: World, **more: Any) -> dict[str, State]:
    return {check: one.state for check, one in found(world, **more).items() if one.state is not State.OK}


async def test_a_new_server_has_one_thing_to_do(world: World) -> None:
    assert {"licence": State.WARN} == states(world)
    assert "lls server request" in found(world)["licence"].advice


async def test_a_licensed_server_is_well(world: World) -> None:
    await world.take(world.bundle(entitlements=[entitlement(expires_at="2027-11-21T00:00:00Z")]))
    assert {} == states(world)


async def test_a_restored_server_waits_for_its_vendor(world: World) -> None:
    await world.take(world.bundle(entitlements=[entitlement(expires_at="2027-11-21T00:00:00Z")]))
    point = RestorePoint(restore_id="rst_1", seq=1, head="0" * 64)
    await world.writer.do(lambda ledger, now: ledger.server.note_restore(point, since=now.wall, now=now))
    assert {"restored": State.WARN} == states(world)
    assert "lls server request" in found(world)["restored"].advice


async def test_ends_are_told_before_they_come(world: World) -> None:
    await world.take(world.bundle(entitlements=[entitlement(expires_at="2027-11-21T00:00:00Z")]))
    world.passes(80 * DAY)
    assert {"report": State.WARN} == states(world)
    world.passes(11 * DAY)
    assert {"report": State.FAIL, "licence": State.OK} == {"licence": found(world)["licence"].state} | states(world)
    world.passes(250 * DAY)
    assert State.WARN is states(world)["licence"]
    world.passes(30 * DAY)
    assert State.FAIL is states(world)["licence"]
    assert State.WARN is states(world)["entitlements"]


async def test_a_clock_behind_fails_and_one_that_jumped_is_doubtful(world: World) -> None:
    world.raw -= 3 * DAY
    assert State.FAIL is states(world)["clock"]
    world.raw += 30 * DAY
    assert State.WARN is states(world)["clock"]


def bound(bundle: dict[str, Any]) -> None:
    bundle["server_license"]["binding"] = {
        "policy": "host",
        "required": 2,
        "components": dict(HOST),
        "grace_seconds": 86_400,
    }


@pytest.mark.parametrize(
    ("host", "state"),
    [
        (HOST, State.OK),
        ({**HOST, "machine_id": "d" * 64}, State.WARN),
        ({"board_serial": "c" * 64}, State.FAIL),
        ({}, State.FAIL),
    ],
)
async def test_the_machine_is_told_by_how_much_still_fits(world: World, host: dict[str, str], state: State) -> None:
    await world.take(world.bundle(change=bound))
    one = found(world, host=host)["machine"]
    assert state is one.state
    assert {name for name in HOST if host.get(name) != HOST[name]} == {name for name in HOST if name in one.said}


async def test_a_key_set_that_ends_is_told(world: World) -> None:
    world.passes(3640 * DAY)
    assert State.WARN is states(world)["vendor keys"]


async def test_a_fork_fails(world: World) -> None:
    await world.writer.do(lambda ledger, _now: ledger.server.mark_forked())
    assert State.FAIL is states(world)["journal"]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("harm", "state"),
    [
        ("", State.OK),
        ("UPDATE journal SET line = replace(line, 'noted', 'notEd') WHERE seq = 3", State.FAIL),
        ("DELETE FROM journal WHERE seq = 3", State.FAIL),
        ("DELETE FROM journal WHERE seq > 4", State.FAIL),
    ],
)
async def test_a_line_that_was_changed_or_taken_out_fails(
    world: World, tmp_path: Path, harm: str, full: bool, state: State
) -> None:
    for _ in range(5):
        await world.note()
    if harm:
        with sqlite3.connect(tmp_path / "lls.sqlite3") as thief:
            assert thief.execute(harm).rowcount
        thief.close()
    head = world.writer.ledger.batch.before
    assert state is (await examine_chain(world.store, upto=head, full=full)).state


async def test_an_empty_journal_holds_together(world: World) -> None:
    assert State.OK is (await examine_chain(world.store, upto=Head(), full=True)).state
