"""The same seat for asyncio programs.

Rules
1. One engine: the blocking seat does the work, with its own renewal thread; this room only keeps the loop from
   waiting. A loop that is blocked for a minute by the application therefore loses no seat.
2. ``on_event`` is called in the loop. A coroutine function is fine too.
3. A cancelled checkout gives back what it may have got.

Each call runs in a daemon thread of its own: a checkout may queue for minutes, and the loop's default pool would
then have one worker less for everybody and hold up the interpreter's exit.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from .seat import Borrowed, LicenseServers, Seat, Use
from .trust import Capability
from .values import Event, Feature, Holder, Lease, Product

P = ParamSpec("P")
T = TypeVar("T")
OnAsyncEvent = Callable[[Event], object | Awaitable[object]]


class AsyncLicenseServers:
    """:class:`~lls.client.seat.LicenseServers` for asyncio; the parameters are the same."""

    def __init__(
        self,
        servers: str | Sequence[str] | None = None,
        *,
        vendor_keys: str | bytes | Path | None = None,
        timeout: float = 10.0,
        ca_file: str | None = None,
        allow_http: bool = False,
        server_id: str | None = None,
    ) -> None:
        self._blocking = LicenseServers(
            servers,
            vendor_keys=vendor_keys,
            timeout=timeout,
            ca_file=ca_file,
            allow_http=allow_http,
            server_id=server_id,
        )

    def checkout(
        self,
        product: str,
        *,
        activation_code: str | None = None,
        seats: int = 1,
        features: Mapping[str, int] | None = None,
        edition: str | None = None,
        version: str | None = None,
        released_on: str | None = None,
        holder: Holder | None = None,
        wait: float = 0.0,
        patience: float = 10.0,
        on_event: OnAsyncEvent | None = None,
    ) -> AsyncSeat:
        """A seat that is not held yet: ``async with`` it, or ``await seat.enter()``."""

        def prepare(relay: Callable[[Event], object]) -> Seat:
            return self._blocking.prepare(
                product,
                activation_code=activation_code,
                seats=seats,
                features=features,
                edition=edition,
                version=version,
                released_on=released_on,
                holder=holder,
                wait=wait,
                patience=patience,
                on_event=relay,
            )

        return AsyncSeat(prepare, on_event)

    async def products(self) -> Sequence[Product]:
        """What is hosted and how much of it is free."""
        return await _in_thread(self._blocking.products)

    @property
    def vendor_keys(self) -> str:
        """The newest key set proved so far."""
        return self._blocking.vendor_keys


class AsyncSeat:
    """One seat; the properties need no ``await`` because they need no network."""

    def __init__(self, prepare: Callable[[Callable[[Event], object]], Seat], on_event: OnAsyncEvent | None) -> None:
        self._seat = prepare(self._relay)
        self._on_event = on_event
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Future[object]] = set()

    async def enter(self) -> AsyncSeat:
        """Waits until the seat is held; ``Refused`` or ``NoAnswer`` otherwise."""
        self._loop = asyncio.get_running_loop()
        try:
            await _in_thread(self._seat.enter)
        except asyncio.CancelledError:
            # The DELETE also answers for a grant that is on its way: a checkout that arrives after it gets `410`.
            threading.Thread(target=self._seat.release, name="lls-seat-give-up", daemon=True).start()
            raise
        return self

    async def __aenter__(self) -> Self:
        await self.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _in_thread(self._seat.close)

    @property
    def valid(self) -> bool:
        """Is the seat held at this moment."""
        return self._seat.valid

    @property
    def valid_seconds(self) -> float:
        """For how long the last proof still counts."""
        return self._seat.valid_seconds

    @property
    def lease(self) -> Lease:
        """The lease as the server last showed it."""
        return self._seat.lease

    @property
    def capability(self) -> Capability:
        """The server's verified statement about the lease."""
        return self._seat.capability

    def check(self) -> None:
        """``SeatLost`` unless the seat is valid."""
        self._seat.check()

    def regain(self) -> None:
        """Asks for the seat now; the outcome arrives as an event."""
        self._seat.regain()

    async def refresh(self) -> Lease:
        """Asks the server for the lease anew."""
        return await _in_thread(self._seat.refresh)

    async def checkout_feature(self, key: str, amount: int = 1) -> Feature:
        """Takes units of an element pool into this lease."""
        return await _in_thread(self._seat.checkout_feature, key, amount)

    async def return_feature(self, key: str, amount: int = 1) -> Feature:
        """Gives units of an element pool back."""
        return await _in_thread(self._seat.return_feature, key, amount)

    async def use(self, key: str, amount: int = 1) -> Use:
        """Consumes a usage count or a credit, once."""
        return await _in_thread(self._seat.use, key, amount)

    async def undo(self, use: Use) -> Feature:
        """Takes a consumption back."""
        return await _in_thread(self._seat.undo, use)

    async def borrow(self, until: datetime, *, fingerprint: str | None = None) -> Borrowed:
        """A seat that needs no server until ``until`` (aware)."""
        return await _in_thread(self._seat.borrow, until, fingerprint=fingerprint)

    async def release(self) -> bool:
        """Gives the seat back; ``False`` when no server confirmed it."""
        return await _in_thread(self._seat.release)

    def _relay(self, event: Event) -> None:
        """Runs in the renewal thread. A loop that is closed has nobody left to tell."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._call, event)

    def _call(self, event: Event) -> None:
        # An exception here reaches the loop's exception handler, which is where asyncio shows such things.
        told = self._on_event(event) if self._on_event else None
        if inspect.isawaitable(told):
            task = asyncio.ensure_future(told)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def checkout(
    product: str,
    *,
    servers: str | Sequence[str] | None = None,
    vendor_keys: str | bytes | Path | None = None,
    wait: float = 0.0,
    on_event: OnAsyncEvent | None = None,
    activation_code: str | None = None,
    version: str | None = None,
    server_id: str | None = None,
) -> AsyncSeat:
    """A seat to be held by ``async with``, in five lines."""
    found = AsyncLicenseServers(servers, vendor_keys=vendor_keys, server_id=server_id)
    return found.checkout(product, wait=wait, on_event=on_event, activation_code=activation_code, version=version)


async def _in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None is a T where the call returns None

    def work() -> None:
        result: T | None = None
        failed: BaseException | None = None
        try:
            result = call(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001  (carried to the awaiting task, not swallowed)
            failed = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=work, name="lls-call", daemon=True).start()
    return await future
