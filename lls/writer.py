"""The writer: the membrane between requests and ledger. It alone reads the clock, calls verbs and awaits the store.

Rules (design §2)
1. One task takes everything that waits (at most 512), runs each verb on the ledger, commits once, then answers all.
   While a commit runs, the next group gathers. There is no batching timer.
2. The queue is bounded: when it is full the answer is ``overloaded``, at once.
3. Nobody is answered before the commit. A group that posted nothing needs none.
4. Heartbeats and reads do not queue. One that meets a lease of the group in flight waits for that commit's outcome.
5. A commit that fails, however: everyone in the group gets ``store_down``. The old ledger goes on answering heartbeats
   of leases that the group did not touch, while a new one is loaded beside it, with back-off, and swapped in one step.
6. When the loop finds that it did not run for more than five seconds (host suspended, process frozen), writership is
   proved again and every lease is extended *before* anything is swept. Otherwise a laptop lid would end every lease of
   a site.

With SQLite writership is a kernel lock, so there can be no second writer while we live. The ``(epoch, seq)`` fence
stays all the same: it is the witness that turns a lost lock (a copied directory, a network disk that lies) into a stop
instead of a fork.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Generic, Protocol, TypeVar

from lls.clock import Clock
from lls.faults import Draining, Fault, Overloaded, StoreDown, WritershipLost
from lls.licensing.changes import Loaded
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout, Lease
from lls.licensing.ledger import Ledger, Queued, Seated, Verdict
from lls.licensing.seating import Denial
from lls.store import Store

T = TypeVar("T")

MOST_IN_GROUP: Final = 512
ANSWERS_IN_SLICE: Final = 32
"""About 2 ms of signing: a large group's answers never hold the loop longer."""
PULSE_SECONDS: Final = 1.0
FROZEN_SECONDS: Final = 5.0
STAMP_SECONDS: Final = 60.0
SLOW_SECONDS: Final = 1.0
LONGEST_BACK_OFF_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """Who counts what the writer does."""

    def committed(self, *, verbs: int, seconds: float) -> None:
        """A group was taken by the store."""

    def failed(self) -> None:
        """A group was not."""


@dataclass(slots=True)
class _Wish(Generic[T]):
    verb: Callable[[Ledger, Now], T]
    answer: asyncio.Future[T]


class Writer:
    """Owns the ledger of this process.

    ``build`` makes one from what was loaded (and verifies its bundles again); ``begin`` posts what a start changes.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        build: Callable[[Loaded, Now], Ledger],
        observer: Observer,
        begin: Callable[[Ledger, Now], None] = lambda _ledger, _now: None,
        queue_limit: int = 10_000,
    ) -> None:
        self._store = store
        self._clock = clock
        self._build = build
        self._observer = observer
        self._begin = begin
        self._queue_limit = queue_limit
        self._queue: deque[_Wish[Any]] = deque()
        self._wake = asyncio.Event()
        self._waiters: dict[str, list[asyncio.Future[Verdict]]] = {}
        self._settled: asyncio.Future[None] | None = None
        self._ticked_at = 0.0
        self._ticker: asyncio.TimerHandle | None = None
        self._committed_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._told: frozenset[str] = frozenset()
        """The entitlements out of force of which the journal says so."""
        self.ledger: Ledger
        self.epoch = 0
        self.down: StoreDown | WritershipLost | None = None

    # ---------------------------------------------------------------- life

    async def start(self, epoch: int) -> None:
        """Load, extend every lease, post ``Resumed``, and begin to serve. Raises what the store raises."""
        self.epoch = epoch
        loaded = await self._store.load()
        now = self._clock.now()
        self.ledger = self._build(loaded, now)
        self.ledger.note_restored(since=loaded.last_at or now.wall, now=now)
        self.ledger.note_problems(now=now)
        self.ledger.server.note_binding(now=now)
        self.ledger.server.note_clock(now=now)
        if loaded.last_at is not None:
            self.ledger.resume(outage_from=loaded.last_at, outage_to=now.wall, cause="start", now=now)
        self._begin(self.ledger, now)
        self._ticked_at = self._committed_at = now.elapsed
        await self._commit(verbs=1, now=now)
        self.ledger.settle()
        self._tick()
        self._tasks = [
            asyncio.create_task(self._serve(), name="writer"),
            asyncio.create_task(self._pulse(), name="pulse"),
        ]

    async def stop(self) -> None:
        """Commit what waits, post the folded denials, and end. Nothing is answered after this."""
        if not self._tasks:
            return
        writer, pulse = self._tasks
        pulse.cancel()
        if self._ticker is not None:
            self._ticker.cancel()
        if self.down is None and not writer.done():
            self._enqueue(lambda ledger, now: ledger.post_folded(now))
        self._stopping = True
        self._wake.set()
        await asyncio.gather(writer, pulse, return_exceptions=True)
        for futures in self._waiters.values():
            self._fail(Draining(retry_after_seconds=1), futures)

    async def wait_closed(self) -> None:
        """Return when the writer ended by itself. Raises what ended it."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    # ---------------------------------------------------------------- doors

    def now(self) -> Now:
        """One reading of the guarded clock."""
        return self._clock.now()

    @property
    def queued(self) -> int:
        """How many requests wait for a group."""
        return len(self._queue)

    async def do(self, verb: Callable[[Ledger, Now], T]) -> T:
        """Run a verb in the next group and return its result after the commit.

        Raises what the verb raises, Overloaded when too many wait, StoreDown when the commit failed.
        """
        return await self.put(verb)

    def put(self, verb: Callable[[Ledger, Now], T]) -> asyncio.Future[T]:
        """The same as a future, for who shields it: a verb whose future is cancelled before its group is not run."""
        self._refuse_down()
        if self._stopping:
            raise Draining(retry_after_seconds=1)
        if len(self._queue) >= self._queue_limit:
            raise Overloaded(retry_after_seconds=1)
        return self._enqueue(verb)

    async def checkout(self, request: Checkout, *, wait_seconds: float = 0.0) -> Seated | Denial:
        """Check out, waiting for a seat for at most so many seconds while the caller is there.

        When the caller goes away (the task is cancelled) its place is kept and nothing is granted to it.
        """
        if not wait_seconds:
            return _seated_or_denied(await self.do(lambda ledger, now: ledger.checkout(request, now=now)))
        # Registered before the ledger is asked: a seat may come free in the very next group.
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(request.lease_id, []).append(future)
        try:
            verdict = await self.do(lambda ledger, now: ledger.checkout(request, now=now, wait=True))
            if not isinstance(verdict, Queued):
                return verdict
            return _raised(await self._wait(request.lease_id, future, wait_seconds))
        finally:
            self._leave(request, future)

    async def heartbeat(self, lease_id: str, *, secret: bytes, beat: int, nonce: str) -> tuple[Lease, Now]:
        """Prolong a lease without the disk. Raises UnknownLease, LeaseEnded, LeaseCloned, StoreDown."""
        if self.ledger.is_pending(lease_id) or self.ledger.installing:
            await self._outcome(lease_id)
        now = self._clock.now()
        return self.ledger.heartbeat(lease_id, secret=secret, beat=beat, nonce=nonce, now=now), now

    async def lease(self, lease_id: str, *, secret: bytes) -> tuple[Lease, Now]:
        """A live lease. Raises UnknownLease, LeaseEnded, StoreDown."""
        if self.ledger.is_pending(lease_id) or self.ledger.installing:
            await self._outcome(lease_id)
        now = self._clock.now()
        return self.ledger.lease(lease_id, secret=secret, now=now), now

    async def settled(self) -> Ledger:
        """The ledger for a wide read; waits only while an import is in flight, whose terms are not committed yet."""
        while self.ledger.changing and self._settled and not self._settled.done() and self.down is None:
            await asyncio.shield(self._settled)
        return self.ledger

    async def prove(self) -> None:
        """Ask the store itself. Raises StoreDown, WritershipLost."""
        self._refuse_down()
        await self._store.verify(epoch=self.epoch)

    # ---------------------------------------------------------------- groups

    async def _serve(self) -> None:
        while not (self._stopping and not self._queue):
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                group = [self._queue.popleft() for _ in range(min(len(self._queue), MOST_IN_GROUP))]
                await self._run(group)

    async def _run(self, group: list[_Wish[Any]]) -> None:
        now = self._clock.now()
        self._settled = asyncio.get_running_loop().create_future()
        try:
            await self._resume_if_frozen(now)
            self.ledger.server.note_clock(now=now)
            answers = [(wish, _attempt(wish.verb, self.ledger, now)) for wish in group if not wish.answer.cancelled()]
            waiters = self.ledger.resolved
            await self._commit(verbs=len(group), now=now)
        except StoreDown as fault:
            await self._recover(fault, group)
            return
        except WritershipLost as fault:
            self._give_up(fault, group)
            raise
        except _Broken as broken:
            _log.exception("verb_failed", exc_info=broken.__cause__)
            await self._recover(StoreDown("The server met an internal error; nothing was changed, try again."), group)
            return
        self._settle(now)
        self._settled.set_result(None)
        await asyncio.sleep(0)  # beats that waited for this commit come before the next group's sweep
        await self._answer(answers, waiters)

    def _settle(self, begun: Now) -> None:
        now = self._clock.now()
        self.ledger.settle(now=now if now.elapsed - begun.elapsed > SLOW_SECONDS else None)

    async def _commit(self, *, verbs: int, now: Now) -> None:
        batch = self.ledger.batch
        if now.elapsed - self._committed_at >= STAMP_SECONDS:
            batch.stamp = True
        if batch.empty:
            return
        begun = asyncio.get_running_loop().time()
        await self._store.commit(batch, epoch=self.epoch, mark=self._clock.mark)
        self._committed_at = now.elapsed
        self._told = frozenset(self.ledger.problems)  # the first group of a ledger tells those that are new
        self._observer.committed(verbs=verbs, seconds=asyncio.get_running_loop().time() - begun)

    async def _answer(self, answers: list[tuple[_Wish[Any], Any]], waiters: dict[str, Verdict]) -> None:
        for lease_id, verdict in waiters.items():
            for future in self._waiters.pop(lease_id, ()):
                if not future.done():
                    future.set_result(verdict)
        for count, (wish, outcome) in enumerate(answers, start=1):
            if not wish.answer.done():
                if isinstance(outcome, Fault):
                    _refuse(wish.answer, outcome)
                else:
                    wish.answer.set_result(outcome)
            if count % ANSWERS_IN_SLICE == 0:
                await asyncio.sleep(0)

    async def _resume_if_frozen(self, now: Now) -> None:
        away = now.elapsed - self._ticked_at
        if away <= FROZEN_SECONDS:
            return
        self._ticked_at = now.elapsed
        _log.warning("frozen", extra={"fields": {"seconds": int(away)}})
        await self._store.verify(epoch=self.epoch)
        since = now.wall - timedelta(seconds=away)
        self.ledger.resume(outage_from=since, outage_to=now.wall, cause="suspended", now=now)

    # ---------------------------------------------------------------- failure

    async def _recover(self, fault: StoreDown, group: list[_Wish[Any]]) -> None:
        """Throw the ledger away and load another one; the old one answers untouched heartbeats meanwhile."""
        self.down = fault
        self._observer.failed()
        _log.error("commit_failed", extra={"fields": {"why": fault.detail, "group": len(group)}})
        self._fail(fault, [wish.answer for wish in group])
        for lease_id in self.ledger.resolved:
            self._fail(fault, self._waiters.pop(lease_id, []))
        self.ledger.abandon()
        if self._settled is not None:
            self._settled.set_result(None)
        back_off = 0.05
        while True:
            self._fail(fault, [wish.answer for wish in self._queue])
            self._queue.clear()
            if self._stopping:
                return  # nothing may run on the ledger that is half changed
            loaded = await self._load_again()
            if isinstance(loaded, StoreDown):
                self.down = fault = loaded
                await asyncio.sleep(back_off)
                back_off = min(back_off * 2, LONGEST_BACK_OFF_SECONDS)
                continue
            ledger = await asyncio.to_thread(self._build, loaded, self._clock.now())
            ledger.adopt(self.ledger)
            self.ledger, self.down = ledger, None
            if ledger.problems.keys() - self._told:
                self._enqueue(_telling_problems(self._told))
            gc.freeze()  # as after the start: the collector need not walk the leases again and again
            _log.info("reloaded", extra={"fields": {"seq": loaded.head.seq, "leases": len(loaded.leases)}})
            return

    async def _load_again(self) -> Loaded | StoreDown:
        """A failure as a value: raised through ``_recover`` it would hold that frame, and with it a ledger for ever."""
        try:
            return await self._store.load()
        except StoreDown as fault:
            return fault

    def _give_up(self, fault: WritershipLost, group: list[_Wish[Any]]) -> None:
        self.down = fault
        self._fail(fault, [wish.answer for wish in (*group, *self._queue)])
        self._queue.clear()
        for waiters in self._waiters.values():
            self._fail(fault, waiters)
        self.ledger.abandon()
        if self._settled is not None:
            self._settled.set_result(None)

    @staticmethod
    def _fail(fault: Fault, futures: list[asyncio.Future[Any]]) -> None:
        for future in futures:
            if not future.done():
                _refuse(future, fault)

    # ---------------------------------------------------------------- beside the groups

    def _tick(self) -> None:
        """The loop runs. A gap is left as it is for the next group: only there can leases be extended first."""
        elapsed = self._clock.now().elapsed
        if elapsed - self._ticked_at <= FROZEN_SECONDS:
            self._ticked_at = elapsed
        self._ticker = asyncio.get_running_loop().call_later(PULSE_SECONDS, self._tick)

    async def _pulse(self) -> None:
        """A sweep a second. More than one turn's work is taken up at once, in groups of its own."""
        while True:
            await asyncio.sleep(PULSE_SECONDS)
            if self.down is not None:
                continue
            more = True
            while more:
                try:
                    more = await self._enqueue(lambda ledger, now: ledger.sweep(now=now))
                except StoreDown:
                    break  # the writer has logged it and loads anew; the next pulse sweeps

    async def _wait(self, lease_id: str, future: asyncio.Future[Verdict], seconds: float) -> Verdict:
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(future)
        except TimeoutError:
            self._refuse_down()
            verdict = await self._enqueue(
                lambda ledger, now: ledger.stop_waiting(
                    lease_id, now=now, keep=len(self._waiters.get(lease_id, ())) > 1
                )
            )
            # What a group decided in the last moment counts; ``stop_waiting`` no longer knew the place then.
            return future.result() if future.done() else verdict

    def _leave(self, request: Checkout, future: asyncio.Future[Verdict]) -> None:
        """Nobody listens to this future any more. When it was the last one, its place must not hold the others up."""
        futures = self._waiters.get(request.lease_id, [])
        if future in futures:
            futures.remove(future)
        if futures:
            return
        self._waiters.pop(request.lease_id, None)
        waiter = self.ledger.waiting.get(request.lease_id)
        if waiter is not None and waiter.open:
            self.ledger.waiting.close(request.lease_id, elapsed=self._clock.now().elapsed)
            if self.down is None:
                self._enqueue(lambda ledger, now: ledger.serve(request.product, now=now))

    async def _outcome(self, lease_id: str) -> None:
        """Wait until the commit that touches this lease or its terms has succeeded, else raise StoreDown."""
        await self.settled()
        while self.ledger.is_pending(lease_id):
            self._refuse_down()
            if self._settled is None:
                return
            await asyncio.shield(self._settled)

    def _refuse_down(self) -> None:
        """Raise why nothing can be committed now, as if for the first time: it must not keep every caller's frames."""
        if self.down is not None:
            raise self.down.with_traceback(None) from None

    def _enqueue(self, verb: Callable[[Ledger, Now], T]) -> asyncio.Future[T]:
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append(_Wish(verb, answer))
        self._wake.set()
        return answer


class _Broken(Exception):
    """A verb raised something that is no fault: the ledger may be half changed and must go."""


def _attempt(verb: Callable[[Ledger, Now], T], ledger: Ledger, now: Now) -> T | Fault:
    try:
        return verb(ledger, now)
    except Fault as fault:
        return fault
    except Exception as error:
        raise _Broken from error


def _telling_problems(known: Collection[str]) -> Callable[[Ledger, Now], None]:
    """What went bad on the disk since the last load is told at once."""
    return lambda ledger, now: ledger.note_problems(now=now, known=known)


def _raised(verdict: Verdict) -> Seated | Denial:
    if isinstance(verdict, Fault):
        raise verdict
    return verdict


def _seated_or_denied(verdict: Seated | Denial | Queued) -> Seated | Denial:
    if isinstance(verdict, Queued):
        raise TypeError("a checkout that does not wait was queued")
    return verdict


def _refuse(future: asyncio.Future[Any], fault: Fault) -> None:
    """Fail it, and read the failure at once: nobody may be left to do so, and asyncio must not complain of it.

    (A callback on every answer would do the same at a cost that a loaded server feels: one more turn for each request.)
    """
    future.set_exception(fault)
    future.exception()
