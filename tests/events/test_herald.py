"""The herald between a world that changes and destinations that fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from lls.events import Condition, Event, Herald, Outbox
from lls.events.outbox import KEPT
from lls.events.senders import NotDelivered

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
FULL = Condition(type="seats_high", key="ent_1", text="All seats are taken.", data={"product": "cad"})


@dataclass
class Desk:
    """A destination that takes, or does not."""

    name: str = "desk"
    down: bool = False
    broken: bool = False
    got: list[Event] = field(default_factory=list)
    tries: int = 0

    async def send(self, event: Event) -> None:
        self.tries += 1
        if self.broken:
            raise ValueError("of which nobody has thought")
        if self.down:
            raise NotDelivered("It is closed.")
        self.got.append(event)


@dataclass
class World:
    folder: Path
    desks: list[Desk] = field(default_factory=lambda: [Desk()])
    holding: list[Condition] = field(default_factory=list)
    now: datetime = NOW
    numbers: count[int] = field(default_factory=lambda: count(1))
    running: list[Herald] = field(default_factory=list)

    def herald(self) -> Herald:
        made = Herald(
            Outbox(self.folder),
            looks=[lambda: self.holding],
            destinations=self.desks,
            now=lambda: self.now,
            new_id=lambda: f"evt_{next(self.numbers)}",
            retry_for=timedelta(hours=1),
            look_seconds=0.01,
            first_pause=timedelta(0),
        )
        self.running.append(made)
        return made


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    for herald in made.running:
        await herald.stop()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what is waited for happens in threads and tells nobody
            await asyncio.sleep(0.005)


async def test_a_change_reaches_every_destination_once(world: World) -> None:
    world.desks = [Desk("hook"), Desk("mail")]
    herald = world.herald()
    await herald.start()
    world.holding = [FULL]
    await until(lambda: all(desk.got for desk in world.desks))
    world.holding = []
    await until(lambda: all(len(desk.got) == 2 for desk in world.desks))
    for desk in world.desks:
        assert [("raised", FULL.text), ("cleared", "No longer so: seats high (ent_1).")] == [
            (event.state, event.text) for event in desk.got
        ]


async def test_a_restart_tells_nobody_again_but_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.holding = [FULL]
    first = world.herald()
    assert ["evt_1"] == [event.event_id for event in await first.look()]
    caplog.clear()
    assert [] == await world.herald().look()
    assert ["condition"] == caplog.messages
    assert 1 == len(first.outbox.events(limit=10))


async def test_one_that_is_closed_holds_up_no_other_and_hears_everything_in_order_later(world: World) -> None:
    closed, open_ = world.desks = [Desk("closed", down=True), Desk("open")]
    herald = world.herald()
    await herald.start()
    for _ in range(3):
        await herald.test()
    await until(lambda: len(open_.got) == 3 and closed.tries > 3)
    assert [] == closed.got
    closed.down = False
    await until(lambda: len(closed.got) == 3)
    assert [event.event_id for event in open_.got] == [event.event_id for event in closed.got]


async def test_what_was_not_delivered_is_delivered_by_the_next_start(world: World) -> None:
    world.desks[0].down = True
    herald = world.herald()
    await herald.start()
    await herald.test()
    await until(lambda: world.desks[0].tries > 0)
    await herald.stop()
    world.desks[0].down = False
    await world.herald().start()
    await until(lambda: len(world.desks[0].got) == 1)


async def test_after_the_last_attempt_it_is_dead_until_somebody_wants_it_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    (desk,) = world.desks
    desk.down = True
    herald = world.herald()
    await herald.test()
    world.now += timedelta(hours=1)
    await herald.start()
    await until(lambda: "event_dead" in caplog.messages)
    assert "event_not_delivered" not in caplog.messages
    assert {"dead": 1} == herald.outbox.count()
    (delivery,) = herald.outbox.deliveries(limit=10)
    assert ("It is closed.", 1) == (delivery.error, delivery.attempts)

    desk.down = False
    assert 1 == await herald.retry()
    await until(lambda: len(desk.got) == 1)
    assert 0 == await herald.retry()


async def test_a_disk_that_fails_is_told_once_and_does_not_end_the_looking(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    herald = world.herald()
    await herald.start()
    aside = world.folder.with_name("aside")
    world.folder.rename(aside)
    world.holding = [FULL]
    await until(lambda: "events_stopped" in caplog.messages)
    aside.rename(world.folder)
    await until(lambda: len(world.desks[0].got) == 1)
    assert caplog.messages.count("events_stopped") in (1, 2), "once by who looks, once by who delivers"


async def test_what_nobody_has_thought_of_ends_neither_the_looking_nor_a_delivery(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    (desk,) = world.desks
    desk.broken = True
    herald = world.herald()
    await herald.start()
    await herald.test()
    await until(lambda: desk.tries > 1)
    assert ["It cannot be sent (ValueError)."] == [one.error for one in herald.outbox.deliveries(limit=10)]
    desk.broken = False
    world.holding = [None]  # type: ignore[list-item]  # a look that fails
    await until(lambda: "events_stopped" in caplog.messages)
    world.holding = [FULL]
    await until(lambda: [event.type for event in desk.got] == ["test", "seats_high"])


async def test_what_is_old_goes_while_the_server_runs(world: World) -> None:
    herald = world.herald()
    await herald.start()
    await herald.test()
    await until(lambda: bool(world.desks[0].got) and herald.outbox.count() == {"sent": 1})
    world.now += KEPT + timedelta(days=1)
    await until(lambda: herald.outbox.events(limit=10) == [])


async def test_ten_thousand_conditions_at_once_leave_the_loop_its_turns(world: World) -> None:
    world.desks = []
    world.holding = [
        Condition(type="entitlement_ends", key=f"ent_{number}", text="It ends.") for number in range(10_000)
    ]
    looking, turns = asyncio.create_task(world.herald().look()), 0
    while not looking.done():
        turns += 1
        await asyncio.sleep(0)
    assert 10_000 == len(looking.result())
    assert turns > 100
