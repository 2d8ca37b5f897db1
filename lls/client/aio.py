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

from .borrowing import Borrowed
from .environment import server_urls
from .errors import NoAnswer, NotBorrowed, SeatLost, Untrusted, Unusable
from .seat import LicenseServers, Seat, Use
from .tls import ClientCertificate
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
        client_certificate: ClientCertificate | None = None,
        allow_http: bool = False,
        server_id: str | None = None,
        borrowed_folder: str | Path | None = None,
    ) -> None:
        self._blocking = LicenseServers(
            servers,
            vendor_keys=vendor_keys,
            timeout=timeout,
            ca_file=ca_file,
            client_certificate=client_certificate,
            allow_http=allow_http,
            server_id=server_id,
            borrowed_folder=borrowed_folder,
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

    async def borrowed(self, product: str, *, fingerprint: str | None = None) -> AsyncBorrowed:
        """The seat of the product that was borrowed on this machine and counts now; waits for no server."""
        return AsyncBorrowed(await _in_thread(self._blocking.borrowed, product, fingerprint=fingerprint))

    async def seat_or_borrowed(
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
    ) -> AsyncSeat | AsyncBorrowed:
        """The seat that was borrowed on this machine, else a held one of :meth:`checkout`; ``async with await`` it."""
        try:
            return await self.borrowed(product, fingerprint=holder.seat_id if holder else None)
        except (Unusable, SeatLost, Untrusted) as problem:
            reason = problem
        seat = self.checkout(
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
            on_event=on_event,
        )
        return await _entered(seat, reason)

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
        """Waits until the seat is held; ``Refused`` or ``NoAnswer`` otherwise. Again: nothing more is asked."""
        if self._loop is not None:
            return self
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

    async def checkout_feature(self, key: str, amount: int = 1, *, request_id: str | None = None) -> Feature:
        """Takes units of an element pool into this lease; all of them or none."""
        return await _in_thread(self._seat.checkout_feature, key, amount, request_id=request_id)

    async def return_feature(self, key: str, amount: int = 1, *, request_id: str | None = None) -> Feature:
        """Gives units of an element pool back."""
        return await _in_thread(self._seat.return_feature, key, amount, request_id=request_id)

    async def use(self, key: str, amount: int = 1, *, request_id: str | None = None) -> Use:
        """Consumes a usage count or a credit, once; all of it or nothing."""
        return await _in_thread(self._seat.use, key, amount, request_id=request_id)

    async def undo(self, use: Use) -> Feature:
        """Takes a consumption back."""
        return await _in_thread(self._seat.undo, use)

    async def borrow(self, until: datetime, *, fingerprint: str | None = None) -> AsyncBorrowed:
        """A seat that needs no server until ``until`` (aware); kept on disk."""
        return AsyncBorrowed(await _in_thread(self._seat.borrow, until, fingerprint=fingerprint))

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


class AsyncBorrowed:
    """A borrowed seat; what needs no network needs no ``await`` (its clock's mark is written once a minute at most)."""

    def __init__(self, borrowed: Borrowed) -> None:
        self.blocking = borrowed

    def __repr__(self) -> str:
        return repr(self.blocking)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives nothing back."""

    @property
    def valid(self) -> bool:
        """Does it count at this moment."""
        return self.blocking.valid

    @property
    def valid_seconds(self) -> float:
        """For how long it goes on counting."""
        return self.blocking.valid_seconds

    @property
    def until(self) -> datetime:
        """Its end, as the server signed it."""
        return self.blocking.until

    @property
    def lease(self) -> Lease:
        """The lease as the server showed it when it was lent."""
        return self.blocking.lease

    @property
    def capability(self) -> Capability:
        """The server's signed and verified statement."""
        return self.blocking.capability

    def check(self) -> None:
        """``SeatLost`` or ``ClockSetBack`` unless it counts."""
        self.blocking.check()

    async def extend(self, until: datetime) -> None:
        """Asks its server for a later end (aware)."""
        await _in_thread(self.blocking.extend, until)

    async def announce(self) -> bool:
        """Shows its server the lease, should that one have been restored from an older backup."""
        return await _in_thread(self.blocking.announce)

    def announce_soon(self) -> None:
        """The same in the background, twice a day at most."""
        self.blocking.announce_soon()

    async def give_back(self) -> bool:
        """Returns the seat before its end; ``False`` when no server confirmed it."""
        return await _in_thread(self.blocking.give_back)

    async def release(self) -> bool:
        """The same under a seat's name for it."""
        return await self.give_back()


async def load_borrowed(
    product: str,
    *,
    vendor_keys: str | bytes | Path | None = None,
    folder: str | Path | None = None,
    fingerprint: str | None = None,
    servers: str | Sequence[str] | None = None,
    server_id: str | None = None,
) -> AsyncBorrowed:
    """:meth:`Borrowed.load` for asyncio."""
    return AsyncBorrowed(
        await _in_thread(
            Borrowed.load,
            product,
            vendor_keys=vendor_keys,
            folder=folder,
            fingerprint=fingerprint,
            servers=servers,
            server_id=server_id,
        )
    )


async def seat_or_borrowed(
    product: str,
    *,
    servers: str | Sequence[str] | None = None,
    vendor_keys: str | bytes | Path | None = None,
    borrowed_folder: str | Path | None = None,
    wait: float = 0.0,
    on_event: OnAsyncEvent | None = None,
    activation_code: str | None = None,
    version: str | None = None,
    server_id: str | None = None,
) -> AsyncSeat | AsyncBorrowed:
    """The seat that was borrowed on this machine, else a held one; to be awaited, then entered by ``async with``."""
    try:
        return await load_borrowed(
            product, vendor_keys=vendor_keys, folder=borrowed_folder, servers=servers, server_id=server_id
        )
    except (Unusable, SeatLost, Untrusted) as problem:
        # A machine that knows no server has nobody else to ask.
        if not server_urls(servers) and not isinstance(problem, NotBorrowed):
            raise
        reason = problem
    known = AsyncLicenseServers(servers, vendor_keys=vendor_keys, server_id=server_id, borrowed_folder=borrowed_folder)
    seat = known.checkout(product, wait=wait, on_event=on_event, activation_code=activation_code, version=version)
    return await _entered(seat, reason)


async def _entered(seat: AsyncSeat, reason: Exception) -> AsyncSeat:
    """``reason``: why no borrowed seat counts; told when nobody answers either, unless there never was one."""
    try:
        return await seat.enter()
    except NoAnswer as silence:
        if isinstance(reason, NotBorrowed):
            raise
        raise reason from silence


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
