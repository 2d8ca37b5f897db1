"""The load generator: each connection is a small state machine that sends its next request when the last is answered.

Rules
1. Requests are prepared; what differs from one to the next (beat, nonce, lease id) is written by one ``%``.
2. Of an answer the status and the length are read, nothing else: about 10 µs a request, so that one core of ours can
   keep one core of the server busy.
3. Closed loop: as many requests are under way as there are connections. Rates are comparable, latencies are those of
   a full server.
4. Bounded: a run ends at its deadline plus at most ``LONGEST_WAIT_SECONDS`` for what is under way. What has no answer
   then is counted as unanswered.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

from tests.bench.machine import cpu_seconds

LONGEST_WAIT_SECONDS: Final = 30.0
HOST: Final = "127.0.0.1"
SECRET: Final = "YmVuY2htYXJrYmVuY2htYXJrYmVuY2htYXJrYmVuY2g"

_BLANK: Final = b"\r\n\r\n"
_LENGTH: Final = b"Content-Length: "


class Script(Protocol):
    """What one connection sends: ``timed`` says whether the request just made counts for latencies."""

    timed: bool

    def __call__(self) -> bytes:
        """The next request."""


def head(method: str, path: str, length: int | None = None) -> bytes:
    """A request up to its body."""
    body = "" if length is None else f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
    return (f"{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {SECRET}\r\n{body}\r\n").encode("ascii")


def with_body(method: str, path: str, form: bytes, *values: int) -> bytes:
    """A ``%`` pattern of a whole request; ``values`` are of the size of all that will be filled in."""
    return head(method, path, len(form % values)) + form


class Beats:
    """Heartbeats of one lease: a new beat and a new nonce each time."""

    timed = True

    def __init__(self, lease_id: str, *, path: str = "/v1/leases/{}/heartbeat") -> None:
        form = b'{"beat":%08d,"nonce":"bench-nonce-00%08d"}'.replace(b"%08d", b"1%07d", 1)
        self._pattern = with_body("POST", path.format(lease_id), form, 0, 0)
        self._beat = 0

    def __call__(self) -> bytes:
        self._beat += 1
        return self._pattern % (self._beat, self._beat)


class Seats:
    """Checkouts and checkins by turns, each pair of a lease of its own; without ``checkins`` it only takes."""

    timed = False

    def __init__(self, number: int, *, checkins: bool = True, checkin_path: str | None = None) -> None:
        form = (
            b'{"lease_id":"%%08x-0000-4000-8000-%012x","product":"cad","holder":{"seat_id":"machine-%06d","user":"user-%06d",'
            b'"host":"ws-%06d","process":"4711"},"seats":1,"nonce":"bench-nonce-00%%08d"}'
        ) % (number, number, number, number)
        self._out = with_body("POST", "/v1/leases", form, 0, 0)
        self._in = head("DELETE", checkin_path or f"/v1/leases/%08x-0000-4000-8000-{number:012x}")
        self._own_paths, self._checkins = checkin_path is None, checkins
        self._count, self._held = 0, False

    def __call__(self) -> bytes:
        if self._held:
            self._held = False
            return self._in % self._count if self._own_paths else self._in
        self._count += 1
        self._held = self._checkins
        return self._out % (self._count, self._count)


class Uses:
    """Units of a usage count by one lease, each under a request id of its own."""

    timed = True

    def __init__(self, lease_id: str, *, number: int) -> None:
        form = b'{"amount":1,"request_id":"%%08x-0000-4000-8000-%012x"}' % number
        self._pattern = with_body("POST", f"/v1/leases/{lease_id}/features/frames/use", form, 0)
        self._count = 0

    def __call__(self) -> bytes:
        self._count += 1
        return self._pattern % self._count


class Units:
    """Units of an element pool taken into a lease and given back, by turns."""

    timed = True

    def __init__(self, lease_id: str, *, number: int) -> None:
        form = b'{"amount":1,"request_id":"%%08x-0000-4000-9000-%012x"}' % number
        acts = ("checkout", "return")
        self._patterns = [with_body("POST", f"/v1/leases/{lease_id}/features/render/{act}", form, 0) for act in acts]
        self._count = 0

    def __call__(self) -> bytes:
        self._count += 1
        return self._patterns[(self._count - 1) % 2] % self._count


class Mixed:
    """Heartbeats, and every tenth request a checkout of another lease."""

    def __init__(self, beats: Beats, seats: Seats) -> None:
        self._beats, self._seats = beats, seats
        self._turn = 0
        self.timed = True

    def __call__(self) -> bytes:
        self._turn += 1
        self.timed = self._turn % 10 != 0
        return self._beats() if self.timed else self._seats()


class Once:
    """One prepared request, then nothing more: for connections that send a single one."""

    timed = True

    def __init__(self, request: bytes) -> None:
        self._request = request

    def __call__(self) -> bytes:
        return self._request


@dataclass(slots=True, kw_only=True)
class Tally:
    """What came of a run. ``latencies`` are seconds."""

    seconds: float = 0.0
    within: int = 0
    unanswered: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: array[float] = field(default_factory=lambda: array("d"))
    bodies: list[bytes] = field(default_factory=list)
    own_cpu: float = 0.0
    their_cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second, those after the deadline left out."""
        return self.within / self.seconds

    @property
    def effort(self) -> float:
        """Answers per second of the server's processor time."""
        return self.within / self.seconds / self.their_cpu

    @property
    def p99(self) -> float:
        """The latency that one in a hundred exceeds, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[int(len(ordered) * 0.99)] if ordered else float("nan")


class _Connection(asyncio.Protocol):
    def __init__(self, script: Script, tally: Tally, *, keep_bodies: bool) -> None:
        self._script, self._tally, self._keep = script, tally, keep_bodies
        self._rest = b""
        self._sent = self._until = 0.0
        self._transport: asyncio.Transport
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its type

    def go(self, *, until: float) -> None:
        """Send the first request; ``until`` 0 makes it the only one."""
        self._until = until
        request = self._script()
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        end = data.find(_BLANK) + 4
        at = data.find(_LENGTH, 0, end) if end > 3 else -1
        whole = end + (int(data[at + 16 : data.find(b"\r", at)]) if at >= 0 else 0)
        if end == 3 or len(data) < whole:
            self._rest = data
            return
        self._rest = b""
        now, tally = time.perf_counter(), self._tally
        tally.statuses[int(data[9:12])] += 1
        if self._script.timed:
            tally.latencies.append(now - self._sent)
        if self._keep:
            tally.bodies.append(data[end:whole])
        if now < self._until:
            tally.within += 1
            request = self._script()
            self._sent = now
            self._transport.write(request)
        elif not self.done.done():
            self.done.set_result(True)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # asyncio names it
        if not self.done.done():
            self.done.set_result(False)

    def close(self) -> None:
        self._transport.abort()


async def drive(port: int, scripts: Sequence[Script], *, seconds: float, pid: int) -> Tally:
    """Keep one connection a script busy for so long; ``pid`` is the server's, for its processor time."""
    tally = Tally(seconds=seconds)
    connections = [await _connect(port, script, tally) for script in scripts]
    ours, theirs = time.process_time(), cpu_seconds(pid)
    until = time.perf_counter() + seconds
    for connection in connections:
        connection.go(until=until)
    await asyncio.wait([one.done for one in connections], timeout=seconds + LONGEST_WAIT_SECONDS)
    tally.own_cpu, tally.their_cpu = (time.process_time() - ours) / seconds, (cpu_seconds(pid) - theirs) / seconds
    _close(connections, tally)
    return tally


async def each_once(port: int, requests: Sequence[bytes], *, at_once: bool = False) -> Tally:
    """Send each request on a connection of its own and keep the bodies of the answers, in the order of their coming.

    ``at_once`` connects and sends without waiting for anybody else.
    """
    tally = Tally()
    begun = time.perf_counter()
    connections: list[_Connection] = []

    async def one(request: bytes) -> None:
        connection = await _connect(port, Once(request), tally, keep_bodies=True)
        connections.append(connection)
        connection.go(until=0.0)
        await asyncio.wait([connection.done], timeout=LONGEST_WAIT_SECONDS)

    if at_once:
        ended = await asyncio.gather(*map(one, requests), return_exceptions=True)
        tally.unanswered += sum(1 for outcome in ended if isinstance(outcome, OSError))
    else:
        for request in requests:
            await one(request)
    tally.seconds = time.perf_counter() - begun
    tally.within = tally.statuses.total()
    _close(connections, tally)
    return tally


async def _connect(port: int, script: Script, tally: Tally, *, keep_bodies: bool = False) -> _Connection:
    loop = asyncio.get_running_loop()
    _transport, connection = await loop.create_connection(
        lambda: _Connection(script, tally, keep_bodies=keep_bodies), HOST, port
    )
    return connection


def _close(connections: Sequence[_Connection], tally: Tally) -> None:
    for connection in connections:
        if not connection.done.done() or not connection.done.result():
            tally.unanswered += 1
        connection.close()
