"""The writer over a real SQLite store whose commits can be held up or made to fail."""

from __future__ import annotations

import asyncio
import gc
import traceback
import weakref
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from lls.clock import GuardedClock
from lls.faults import LeaseEnded, Overloaded, StoreDown, WritershipLost
from lls.licensing.changes import Batch, Loaded
from lls.licensing.entitlement import Entitlement
from lls.licensing.instant import Now
from lls.licensing.journal import parse_line
from lls.licensing.ledger import Ledger, Seated
from lls.licensing.policy_file import read_policy
from lls.licensing.seating import Denial
from lls.store.sqlite import SqliteStore
from lls.writer import Writer
from tests.ledgers import GRACE, T0, Vendor, checkout, entitlement, secret_of

BOUND = 5.0


class Held(SqliteStore):
    """The real store; a test may hold its commits, or have them fail before or after they were written."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self.open = asyncio.Event()
        self.open.set()
        self.held = asyncio.Event()
        self.fails: str | None = None
        self.loads_that_fail = 0
        self.groups: list[int] = []

    async def commit(self, batch: Batch, *, epoch: int, mark: datetime) -> None:
        self.held.set()
        await self.open.wait()
        if self.fails in {"before", "twice"}:
            self.fails = "before" if self.fails == "twice" else None
            raise StoreDown("The disk is full.")
        await super().commit(batch, epoch=epoch, mark=mark)
        self.groups.append(len(batch.entries))
        if self.fails == "after":
            self.fails = None
            raise StoreDown("The connection was lost.")

    async def load(self) -> Loaded:
        if self.loads_that_fail:
            self.loads_that_fail -= 1
            raise StoreDown("The disk is away.")
        return await super().load()

    def hold(self) -> None:
        self.open.clear()
        self.held.clear()


class Count:
    """What the writer tells its observer."""

    def __init__(self) -> None:
        self.verbs: list[int] = []
        self.failures = 0

    def committed(self, *, verbs: int, seconds: float) -> None:
        assert seconds >= 0
        self.verbs.append(verbs)

    def failed(self) -> None:
        self.failures += 1


class Site:
    """A writer, its store and a clock that stands still until a test moves it."""

    def __init__(self, folder: Path) -> None:
        self.seconds = 0.0
        self.store, self.vendor, self.count = Held(folder), Vendor(), Count()
        self.clock = GuardedClock(
            wall=lambda: T0 + timedelta(seconds=self.seconds), elapsed=lambda: 1_000.0 + self.seconds
        )
        self.writer = Writer(self.store, clock=self.clock, build=self.vendor.build, observer=self.count, queue_limit=20)

    async def begin(self, *entitlements: Entitlement) -> Writer:
        await self.writer.start(await self.store.take_writership())
        bundle = self.vendor.bundle(*entitlements)
        await self.writer.do(lambda ledger, now: ledger.install(bundle, actor="admin", now=now))
        return self.writer

    async def stored(self) -> list[str]:
        return sorted(lease.lease_id for lease in (await self.store.load()).leases)

    async def lines(self, kind: str) -> list[dict[str, object]]:
        head = (await self.store.load()).head
        read = [parse_line(line) async for some in self.store.lines(after=0, upto=head.seq) for line in some]
        return [line["data"] for line in read if line["kind"] == kind]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    yield made
    made.store.open.set()
    async with asyncio.timeout(BOUND):
        await made.writer.stop()
    await made.store.close()


async def until(true: Callable[[], bool]) -> None:
    """Let the loop turn until something holds; fails after a bound."""
    async with asyncio.timeout(BOUND):
        while not true():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(0)


async def beat(writer: Writer, lease_id: str, number: int) -> None:
    await writer.heartbeat(lease_id, secret=secret_of(lease_id), beat=number, nonce=f"nonce {number}")


async def test_what_waits_while_a_commit_runs_is_one_group(site: Site) -> None:
    writer = await site.begin(entitlement())
    site.store.hold()
    first = asyncio.create_task(writer.checkout(checkout("first")))
    await site.store.held.wait()
    others = [asyncio.create_task(writer.checkout(checkout(f"other-{n}"))) for n in range(10)]
    await until(lambda: writer.queued == 10)
    assert not first.done()
    assert [] == [lease.lease_id for lease in writer.ledger.committed_leases()]
    site.store.groups.clear()
    site.store.open.set()
    await asyncio.gather(first, *others)
    assert [1, 10] == site.store.groups


async def test_a_full_queue_is_refused_at_once(site: Site) -> None:
    writer = await site.begin(entitlement())
    site.store.hold()
    tasks = [asyncio.create_task(writer.checkout(checkout("first")))]
    await site.store.held.wait()
    tasks += [asyncio.create_task(writer.checkout(checkout(f"other-{n}"))) for n in range(20)]
    await until(lambda: writer.queued >= 20)
    with pytest.raises(Overloaded):
        await writer.checkout(checkout("one too many"))
    site.store.open.set()
    assert all(isinstance(answer, Seated) for answer in await asyncio.gather(*tasks))


async def test_a_stalled_disk_holds_up_only_the_leases_that_the_group_touches(site: Site) -> None:
    writer = await site.begin(entitlement())
    for name in ("untouched", "leaving"):
        await writer.checkout(checkout(name))
    site.store.hold()
    leaving = asyncio.create_task(
        writer.do(lambda ledger, now: ledger.checkin("leaving", secret=secret_of("leaving"), now=now))
    )
    await site.store.held.wait()
    site.seconds += 4
    async with asyncio.timeout(BOUND):
        await beat(writer, "untouched", 1)
    late = asyncio.create_task(beat(writer, "leaving", 1))
    await until(lambda: writer.queued >= 0)
    assert not late.done()
    assert {"untouched", "leaving"} == {lease.lease_id for lease in writer.ledger.committed_leases()}
    site.store.open.set()
    await leaving
    with pytest.raises(LeaseEnded):
        await late


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_a_failed_commit_fails_its_whole_group_and_the_new_ledger_is_the_stores(site: Site, fails: str) -> None:
    writer = await site.begin(entitlement())
    await writer.checkout(checkout("old"))
    site.store.hold()
    tasks = [asyncio.create_task(writer.checkout(checkout(name))) for name in ("a", "b")]
    await site.store.held.wait()
    site.seconds += 3
    await beat(writer, "old", 7)
    deadline = writer.ledger.leases["old"].deadline
    site.store.fails = fails
    before = writer.ledger
    site.store.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [StoreDown, StoreDown] == [type(answer) for answer in answers]
    await until(lambda: writer.ledger is not before)
    assert sorted(writer.ledger.leases) == await site.stored()
    assert (["old"] if fails == "before" else ["a", "b", "old"]) == await site.stored()
    assert 7 == writer.ledger.leases["old"].beat
    assert deadline <= writer.ledger.leases["old"].deadline
    again = await writer.checkout(checkout("a"))
    assert isinstance(again, Seated)
    assert (fails == "after") == again.again
    assert 1 == site.count.failures


async def test_waiters_are_seated_in_order_and_who_has_gone_gets_nothing(site: Site) -> None:
    writer = await site.begin(entitlement(seats=1))
    await writer.checkout(checkout("holder"))
    waiting = []
    for place, name in enumerate(("gone", "second", "third"), start=1):
        waiting.append(asyncio.create_task(writer.checkout(checkout(name), wait_seconds=60)))
        await until(lambda place=place: writer.ledger.waiting.length("cad") == place)  # type: ignore[misc]
    await until(lambda: writer.queued == 0)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    await writer.do(lambda ledger, now: ledger.checkin("holder", secret=secret_of("holder"), now=now))
    async with asyncio.timeout(BOUND):
        second = await waiting[1]
    assert isinstance(second, Seated)
    assert ["second"] == await site.stored()
    assert not waiting[2].done()
    waiting[2].cancel()


async def test_who_goes_while_the_commit_of_its_question_runs_holds_nobody_up(site: Site) -> None:
    writer = await site.begin(entitlement(seats=1))
    await writer.checkout(checkout("holder"))
    site.store.hold()
    noise = asyncio.create_task(writer.checkout(checkout("noise", seats=5)))
    asks = asyncio.create_task(writer.checkout(checkout("gone"), wait_seconds=60))
    await site.store.held.wait()
    await until(lambda: writer.ledger.waiting.length("cad") == 1)
    asks.cancel()
    await asyncio.wait([asks])
    site.store.open.set()
    assert isinstance(await noise, Denial)
    await writer.do(lambda ledger, now: ledger.checkin("holder", secret=secret_of("holder"), now=now))
    assert [] == await site.stored()


async def test_a_seat_that_comes_free_in_the_group_of_the_question_is_answered_at_once(site: Site) -> None:
    writer = await site.begin(entitlement(seats=1))
    await writer.checkout(checkout("holder"))
    asks = asyncio.create_task(writer.checkout(checkout("next"), wait_seconds=60))
    leaves = asyncio.create_task(
        writer.do(lambda ledger, now: ledger.checkin("holder", secret=secret_of("holder"), now=now))
    )
    async with asyncio.timeout(BOUND):
        await leaves
        assert isinstance(await asks, Seated)


async def test_a_wait_that_ends_is_a_denial_with_the_place(site: Site) -> None:
    writer = await site.begin(entitlement(seats=1))
    await writer.checkout(checkout("holder"))
    denied = await writer.checkout(checkout("next"), wait_seconds=0.01)
    assert isinstance(denied, Denial)
    assert ("no_seat", 1) == (denied.code, denied.queue_position)
    again = await writer.checkout(checkout("next"))
    assert isinstance(again, Denial)


async def test_a_frozen_process_extends_its_leases_before_it_sweeps(site: Site) -> None:
    writer = await site.begin(entitlement(lease_seconds=60))
    await writer.checkout(checkout("a"))
    site.seconds += 4_000
    assert not await writer.do(lambda ledger, now: ledger.sweep(now=now))
    assert ["a"] == await site.stored()
    assert 1_000 + 4_000 + 60 + GRACE == writer.ledger.leases["a"].deadline
    assert ["suspended"] == [line["cause"] for line in await site.lines("Resumed")]


async def test_a_stop_posts_the_repeats_of_the_running_minute(site: Site) -> None:
    writer = await site.begin(entitlement(seats=1))
    await writer.checkout(checkout("holder"))
    for _ in range(4):
        await writer.checkout(checkout("denied"))
    await writer.stop()
    assert [1, 3] == [line["count"] for line in await site.lines("Denied")]


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_repeats_whose_commit_failed_before_or_after_it_was_written_are_posted_once(
    site: Site, fails: str
) -> None:
    writer = await site.begin(entitlement(seats=1))
    await writer.checkout(checkout("holder"))
    for _ in range(4):
        await writer.checkout(checkout("denied"))
    site.store.fails = fails
    before = writer.ledger
    with pytest.raises(StoreDown):
        await writer.do(lambda ledger, now: ledger.post_folded(now))
    await until(lambda: writer.ledger is not before and writer.down is None)
    await writer.do(lambda ledger, now: ledger.post_folded(now))
    assert [1, 3] == [line["count"] for line in await site.lines("Denied")]


async def test_a_waiter_whose_seat_was_lost_with_a_commit_keeps_its_place(site: Site) -> None:
    writer = await site.begin(entitlement(seats=1))
    await writer.checkout(checkout("holder"))

    async def ask(name: str) -> asyncio.Task[Seated | Denial]:
        asked = asyncio.create_task(writer.checkout(checkout(name), wait_seconds=BOUND))
        await until(lambda: any(one.checkout.lease_id == name and one.open for one in writer.ledger.waiting))
        return asked

    async def return_it() -> None:
        await writer.do(lambda ledger, now: ledger.checkin("holder", secret=secret_of("holder"), now=now))

    first, second = await ask("first"), await ask("second")
    site.store.fails = "before"
    for lost in (return_it(), first):
        with pytest.raises(StoreDown):
            await lost
    await until(lambda: writer.down is None)
    first = await ask("first")
    await return_it()
    await until(first.done)
    assert isinstance(first.result(), Seated)
    assert not second.done()
    second.cancel()


async def test_an_outage_keeps_neither_the_ledgers_before_nor_who_was_refused(site: Site) -> None:
    """What is frozen out of the collector's sight must go by itself: a ledger may be a hundred megabytes."""
    text = 'format = 1\n[[limit]]\nproduct = "cad"\nseats = 9\nper = "user"\n'
    writer = await site.begin(entitlement())
    await writer.do(lambda ledger, now: ledger.govern(read_policy(text), text=text, actor="ada", now=now))
    frozen = []
    for _ in range(4):
        ledger = weakref.ref(writer.ledger)
        site.store.fails, site.store.loads_that_fail = "before", 1
        with pytest.raises(StoreDown):
            await writer.checkout(checkout("lost"))
        await until(lambda: writer.down is not None)
        down = writer.down
        for _caller in range(30):
            with pytest.raises(StoreDown):
                writer.put(lambda _ledger, _now: None)
        assert down is not None
        assert 10 > sum(1 for _ in traceback.walk_tb(down.__traceback__)), "frames of those that were refused"
        del down
        await until(lambda: writer.down is None)
        await writer.do(lambda _ledger, _now: None)
        assert ledger() is None
        frozen.append(gc.get_freeze_count())
    assert frozen[-1] - frozen[1] < 200, frozen


async def test_a_verb_that_explodes_poisons_nothing(site: Site) -> None:
    writer = await site.begin(entitlement())
    before = writer.ledger

    def explode(ledger: Ledger, now: Now) -> None:
        ledger.checkout(checkout("half"), now=now)
        raise ZeroDivisionError

    with pytest.raises(StoreDown):
        await writer.do(explode)
    await until(lambda: writer.ledger is not before and writer.down is None)
    assert isinstance(await writer.checkout(checkout("next")), Seated)
    assert ["next"] == await site.stored()


async def test_a_lost_writership_ends_the_writer(site: Site) -> None:
    writer = await site.begin(entitlement())
    writer.epoch -= 1
    with pytest.raises(WritershipLost):
        await writer.checkout(checkout("a"))
    with pytest.raises(WritershipLost):
        await writer.checkout(checkout("b"))
    async with asyncio.timeout(BOUND):
        with pytest.raises(WritershipLost):
            await writer.wait_closed()
    assert [] == await site.stored()


async def test_a_line_that_nobody_could_read_costs_its_group_and_not_the_server(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await site.begin(entitlement())
    before = writer.ledger
    monkeypatch.setattr("lls.licensing.posting.LONGEST_LINE", 1_000)
    half = asyncio.create_task(writer.checkout(checkout("half")))
    with pytest.raises(StoreDown):
        await writer.do(lambda ledger, now: ledger.note_act("x" * 1_000, actor="ada", now=now))
    with pytest.raises(StoreDown):
        await half
    await until(lambda: writer.ledger is not before and writer.down is None)
    assert isinstance(await writer.checkout(checkout("next")), Seated)
    assert ["next"] == await site.stored()
    assert [] == await site.lines("AdminActed")


async def test_what_went_bad_on_the_disk_is_journalled_when_a_failed_commit_has_it_read_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await site.begin(entitlement())
    before = writer.ledger
    monkeypatch.setattr(site.vendor, "verified", lambda _loaded, **_more: {})
    site.store.fails = "before"
    with pytest.raises(StoreDown):
        await writer.checkout(checkout("lost"))
    await until(lambda: writer.ledger is not before and writer.down is None)
    await writer.do(lambda _ledger, _now: None)
    assert [entitlement().entitlement_id] == [line["entitlement_id"] for line in await site.lines("Distrusted")]
    site.store.fails = "before"
    with pytest.raises(StoreDown):
        await writer.do(lambda ledger, now: ledger.note_act("anything", actor="ada", now=now))
    await until(lambda: writer.down is None)
    await writer.do(lambda _ledger, _now: None)
    assert 1 == len(await site.lines("Distrusted")), "what is known is not told again by each failure"


async def test_what_went_bad_is_journalled_although_the_commit_that_tells_it_fails_too(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await site.begin(entitlement())
    monkeypatch.setattr(site.vendor, "verified", lambda _loaded, **_more: {})
    site.store.fails = "twice"
    with pytest.raises(StoreDown):
        await writer.checkout(checkout("lost"))
    await until(lambda: site.count.failures == 2 and writer.down is None)
    await writer.do(lambda _ledger, _now: None)
    assert [entitlement().entitlement_id] == [line["entitlement_id"] for line in await site.lines("Distrusted")]
