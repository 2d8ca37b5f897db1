"""The asyncio interface keeps the same promises and never keeps the loop waiting."""

from __future__ import annotations

import asyncio

import pytest

from lls.client import Event, EventKind, Refused, aio
from tests.client.fakes import FakeServer, Vendor


async def test_five_lines_hold_a_seat_and_give_it_back(server: FakeServer, vendor: Vendor) -> None:
    async with aio.checkout("cad", servers=server.url, vendor_keys=vendor.first) as seat:
        assert seat.valid
        assert 2 == (await seat.use("render", 2)).amount
        assert "active" == (await seat.refresh()).state
        assert 1 == len(server.active())
    assert 0 == len(server.active())


async def test_events_arrive_in_the_loop_and_may_be_awaited(brisk: FakeServer, vendor: Vendor) -> None:
    heard: asyncio.Queue[EventKind] = asyncio.Queue()

    async def hear(event: Event) -> None:
        await heard.put(event.kind)

    async with aio.checkout("cad", servers=brisk.url, vendor_keys=vendor.first, on_event=hear):
        brisk.end("expired")
        assert EventKind.LEASE_ENDED == await asyncio.wait_for(heard.get(), 8)
        assert EventKind.REGAINED == await asyncio.wait_for(heard.get(), 8)


async def test_a_cancelled_checkout_leaves_the_queue(server: FakeServer, vendor: Vendor) -> None:
    server.seats = 0
    task = asyncio.create_task(aio.checkout("cad", servers=server.url, vendor_keys=vendor.first, wait=30).enter())
    await asyncio.to_thread(server.until, lambda: bool(server.lease_calls()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(server.until, lambda: bool(server.deleted_unknown))
    assert 0 == len(server.active())


async def test_a_refusal_is_raised_where_it_is_awaited(server: FakeServer, vendor: Vendor) -> None:
    with pytest.raises(Refused):
        await aio.checkout("cam", servers=server.url, vendor_keys=vendor.first).enter()
