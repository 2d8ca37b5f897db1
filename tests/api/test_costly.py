"""Costly readings: one of each kind at a time, shared by who asks for the same, and bounded for who asks otherwise."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lls.api.costly import MOST_UNDER_WAY, Costly
from lls.care.findings import Finding, good
from lls.care.upkeep import Care
from lls.faults import StoreDown
from tests.api.conftest import World, until


class Held:
    """A reading of the errands that ends when the test says so; ``began`` is with what, one by one."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.began: list[dict[str, Any]] = []
        self.most = self.inside = 0
        self.go = asyncio.Event()
        self._real = getattr(world.airgap, name)
        monkeypatch.setattr(world.airgap, name, self._read)

    async def _read(self, *given: Any, **named: Any) -> Any:
        self.began.append(named)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.go.wait()
            return await self._real(*given, **named)
        finally:
            self.inside -= 1


@pytest.fixture
def asked(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which kinds were asked for so far."""
    kinds, read = list[str](), world.edge.costly.read

    async def noted(kind: str, *given: Any, **named: Any) -> Any:
        kinds.append(kind)
        return await read(kind, *given, **named)

    monkeypatch.setattr(world.edge.costly, "read", noted)
    return kinds


def days(count: int) -> list[str]:
    return [f"/usage?from=2026-11-{day:02}" for day in range(1, count + 1)]


async def test_who_asks_for_the_same_meanwhile_gets_its_outcome_and_who_asks_later_a_new_one(
    world: World, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    await world.host()
    held = Held(world, monkeypatch, "verify_journal")
    asking = [asyncio.create_task(world.ask("GET", "/journal/verify")) for _ in range(6)]
    await until(lambda: 6 == len(asked))
    held.go.set()
    answers = await asyncio.gather(*asking)
    assert ([200] * 6, 1) == ([status for status, _ in answers], len(held.began))
    assert all(answers[0][1] == check for _, check in answers)
    await world.ask("GET", "/journal/verify")
    assert 2 == len(held.began)


async def test_other_questions_wait_their_turn_and_one_too_many_is_told_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    await world.host()
    held = Held(world, monkeypatch, "usage")
    asking = [asyncio.create_task(world.ask("GET", path)) for path in days(MOST_UNDER_WAY)]
    await until(lambda: MOST_UNDER_WAY == len(asked))
    async with world.admin.get("/v1/admin/usage?from=2026-11-20") as one_more:
        problem = await one_more.json(content_type=None)
        assert (503, "overloaded") == (one_more.status, problem["code"])
        assert int(one_more.headers["Retry-After"]) >= 1
    held.go.set()
    assert [200] * MOST_UNDER_WAY == [status for status, _ in await asyncio.gather(*asking)]
    assert (MOST_UNDER_WAY, 1) == (len(held.began), held.most)


async def test_who_hangs_up_and_asks_again_starts_no_second_one(
    world: World, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    await world.host()
    held = Held(world, monkeypatch, "verify_journal")
    for count in range(1, 4):
        asking = asyncio.create_task(world.ask("GET", "/journal/verify"))
        await until(lambda count=count: count == len(asked))  # type: ignore[misc] # bound now
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    again = asyncio.create_task(world.ask("GET", "/journal/verify"))
    await until(lambda: 4 == len(asked))
    held.go.set()
    assert 200 == (await again)[0]
    assert 1 == len(held.began)


async def test_a_reading_that_fails_fails_for_all_who_share_it_and_is_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        await asyncio.sleep(0)
        raise StoreDown

    with monkeypatch.context() as patched:
        patched.setattr(world.airgap, "verify_journal", broken)
        answers = await asyncio.gather(*(world.ask("GET", "/journal/verify") for _ in range(3)))
        assert {(503, "store_down")} == {(status, problem["code"]) for status, problem in answers}
    assert 200 == (await world.ask("GET", "/journal/verify"))[0]


async def test_a_reading_that_fails_keeps_nothing_alive() -> None:
    """What the collector has to find may be frozen out of its sight by the end of an outage: a ledger, for ever."""
    costly, seen = Costly(), list[weakref.ref[Costly]]()

    async def broken() -> None:
        ledger = Costly()
        seen.append(weakref.ref(ledger))
        await asyncio.sleep(0)
        raise StoreDown

    async def asks() -> None:
        with suppress(StoreDown):
            await costly.read("usage", broken)

    gc.disable()
    try:
        await asyncio.gather(asks(), asks())
        assert [None] == [one() for one in seen]
    finally:
        gc.enable()


async def test_an_examination_that_runs_is_shared_and_a_full_one_is_another(world: World, asked: list[str]) -> None:
    began, go = list[bool](), asyncio.Event()

    async def examine(*, full: bool) -> list[Finding]:
        began.append(full)
        await go.wait()
        return [good("server", "It runs.")]

    world.edge.care = cast("Care", SimpleNamespace(examine=examine))
    paths = ["/doctor?full=1", "/doctor?full=1", "/doctor", "/doctor"]
    asking = [asyncio.create_task(world.ask("GET", path)) for path in paths]
    await until(lambda: 4 == len(asked))
    await until(lambda: 2 == len(began))  # a quick one waits for no full one
    go.set()
    assert [(200, "It runs.")] * 4 == [
        (status, told["findings"][0]["said"]) for status, told in await asyncio.gather(*asking)
    ]
    assert [False, True] == sorted(began)
