"""Connections: how many, how long silent, and what speaks no HTTP. Real sockets; times are made short."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from lls.api import connections, init_app
from lls.api.connections import RESERVED, Gate, most_connections
from lls.tls import make_certificate, server_context
from tests.api.conftest import Seat, World, bound, raw_request, served, until
from tests.vendor import NOW, entitlement

ALIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE_SECONDS = 5


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield reader, writer
    finally:
        writer.close()


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(ALIVE)
    return (await reader.readuntil(b"}"))[:15]


async def cut_off(reader: asyncio.StreamReader) -> bool:
    """Whether it ends without a word."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def turned_away(world: World) -> bool:
    """Whether a newcomer is cut off, at its connecting or right after."""
    try:
        async with connected(world) as (reader, _):
            return await cut_off(reader)
    except ConnectionResetError:
        return True


# ---------------------------------------------------------------- how many


@pytest.mark.parametrize("setting", [{"most": 2}])
async def test_a_full_door_turns_the_next_away_and_lets_in_again_when_somebody_leaves(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(world) as (reader, writer), connected(world):
        await until(lambda: world.gate.inside == 2)
        for _ in range(3):
            assert await turned_away(world)
        assert b"HTTP/1.1 200 OK" == await asked(reader, writer), "who is inside stays"
        assert 200 == (await world.ask("GET", "/server"))[0], "the admin socket has places of its own"
    await until(lambda: world.gate.inside == 0)
    async with connected(world) as (reader, writer):
        assert b"HTTP/1.1 200 OK" == await asked(reader, writer)
    assert ["connections_full"] == [one.message for one in caplog.records if one.name == "lls.api.connections"]


def test_a_full_door_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(most=0)
    assert [False] * 4 == [gate.enter(at) for at in (1_000.0, 1_001.0, 1_059.0, 1_061.0)]
    assert 2 == len(caplog.records)


def test_the_limit_on_descriptors_is_raised_and_some_are_kept_back() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = before[1] if before[1] != resource.RLIM_INFINITY else 1 << 20
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, most), before[1]))
        assert min(most, 1 << 20) - RESERVED == most_connections()
        assert most == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_handshake_counts_from_its_first_moment_and_ends(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.3)
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    make_certificate(certificate, key, names=["127.0.0.1"], now=NOW)
    gate, listener = Gate(most=10), bound(socket.AF_INET, ("127.0.0.1", 0))
    context = server_context(certificate, key)
    runner, site = await served(init_app(world.edge), listener, world.edge, gate=gate, ssl_context=context)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            trust = ssl.create_default_context(cafile=str(certificate))
            trust.check_hostname = False
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=trust)
            assert b"HTTP/1.1 200 OK" == await asked(reader, writer)
            writer.close()
            await until(lambda: gate.inside == 0)
            silent, silence = await asyncio.open_connection("127.0.0.1", site.port)
            await until(lambda: gate.inside == 1)
            assert b"" == await silent.read()
            silence.close()
            await until(lambda: gate.inside == 0)
            _, plain = await asyncio.open_connection("127.0.0.1", site.port)
            plain.write(ALIVE)
            await until(lambda: gate.inside == 1)
            await until(lambda: gate.inside == 0)
            plain.close()
    finally:
        await runner.cleanup()


async def test_who_shows_no_certificate_is_told_nothing_and_logged_with_the_reason_once_a_minute(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    make_certificate(certificate, key, names=["127.0.0.1"], now=NOW)
    gate, listener = Gate(most=10), bound(socket.AF_INET, ("127.0.0.1", 0))
    context = server_context(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate)
    runner, site = await served(init_app(world.edge), listener, world.edge, gate=gate, ssl_context=context)
    trust = ssl.create_default_context(cafile=str(certificate))
    trust.check_hostname = False
    try:
        for _ in range(2):
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=trust)
                writer.write(ALIVE)
                assert b"" == await reader.read()
            await until(lambda: gate.inside == 0)
    finally:
        await runner.cleanup()
    (told,) = [record for record in caplog.records if record.message == "handshake_failed"]
    fields = told.__dict__["fields"]
    assert ("127.0.0.1", 1) == (fields["address"], fields["count"])
    assert "CERTIFICATE" in fields["why"].upper()


# ---------------------------------------------------------------- how long silent


@pytest.mark.parametrize("setting", [{"request_seconds": 0.2}])
@pytest.mark.parametrize("first", [b"", b"G", ALIVE[:-2]])
async def test_a_head_that_does_not_arrive_in_time_ends_the_connection(world: World, first: bytes) -> None:
    async with connected(world) as (reader, writer):
        writer.write(first)
        assert await cut_off(reader)
    await until(lambda: world.gate.inside == 0)


@pytest.mark.parametrize("setting", [{"request_seconds": 0.3}])
async def test_a_later_head_that_trickles_ends_the_connection_and_a_silent_one_does_not(world: World) -> None:
    async with connected(world) as (reader, writer), connected(world) as (quiet, asking):
        assert b"HTTP/1.1 200 OK" == await asked(reader, writer)
        assert b"HTTP/1.1 200 OK" == await asked(quiet, asking)
        for byte in ALIVE[:-1]:
            if reader.at_eof() or world.gate.inside == 1:
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        else:
            pytest.fail("one may drip for ever")
        assert b"HTTP/1.1 200 OK" == await asked(quiet, asking)


@pytest.mark.parametrize("setting", [{"request_seconds": 0.2}])
async def test_a_head_in_two_pieces_is_whole_and_leaves_no_timer(world: World) -> None:
    async with connected(world) as (reader, writer):
        for piece in (ALIVE[:5], ALIVE[5:]):
            writer.write(piece)
            await asyncio.sleep(0.02)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.3)
        assert b"HTTP/1.1 200 OK" == await asked(reader, writer)


@pytest.mark.parametrize("setting", [{"idle_seconds": 0.2}])
async def test_an_idle_connection_is_closed_and_one_that_waits_for_a_seat_is_not(world: World) -> None:
    await world.host(entitlement(seats=1))
    await world.checkout(Seat("alice"))
    waiting = asyncio.create_task(world.checkout(Seat("bob"), wait=30))
    async with connected(world) as (reader, writer):
        assert b"HTTP/1.1 200 OK" == await asked(reader, writer)
        assert b"" == await reader.read()
    await world.checkin(Seat("alice"))
    assert 201 == (await waiting)[0]


# ---------------------------------------------------------------- what speaks no HTTP

STRAY = "Bearer-of-a-secret"


@pytest.mark.parametrize(
    "data",
    [
        f"BLAH {STRAY}\r\n\r\n",
        f"GET /livez HTTP/1.1\r\nHost: x\r\nX: {STRAY}\x01\r\n\r\n",
        f"GET /livez HTTP/1.1\r\nHost: x\r\nX: {STRAY}{'a' * 9_000}\r\n\r\n",
        f"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}{STRAY} x\r\n\r\n",
        f"\x16\x03\x01{STRAY}\r\n\r\n",
    ],
    ids=["no method", "control character", "long header", "stray rest", "TLS"],
)
async def test_what_is_no_http_is_a_problem_that_nobody_writes_down(
    world: World, data: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    head, _, body = (await raw_request(world, data.encode())).rpartition(b"\r\n\r\n")
    assert b"HTTP/1.1 400" in head or b"HTTP/1.0 400" in head
    assert b"application/problem+json" in head
    assert "bad_request" == json.loads(body)["code"]
    assert STRAY.encode() not in body
    assert [] == [one for one in caplog.records if STRAY in one.getMessage() or one.name.startswith("aiohttp")]
    assert [] == [one.message for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("setting", [{"failures_per_minute": 3}])
async def test_what_is_no_http_counts_as_a_failure_of_its_address(world: World) -> None:
    answers = [(await raw_request(world, b"BLAH\r\n\r\n")).split(b" ")[1] for _ in range(4)]
    assert [b"400", b"400", b"400", b"429"] == answers
    assert 1 == world.edge.tallies["malformed"][429]


async def test_chunks_that_break_off_are_a_bad_request_that_nobody_writes_down(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    secret = Seat("a").headers["Authorization"]
    head = "POST /v1/leases HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    answer = await raw_request(world, f"{head}Authorization: {secret}\r\n\r\nnothing {STRAY}\r\n\r\n".encode())
    assert b"bad_request" in answer
    assert [] == caplog.records


async def test_a_packed_body_is_not_unpacked(world: World) -> None:
    await world.host()
    headers = {**Seat("a").headers, "Content-Type": "application/json", "Content-Encoding": "gzip"}
    data = gzip.compress(json.dumps(Seat("a").body()).encode())
    assert 400 == (await world.call("POST", "/v1/leases", data=data, headers=headers))[0]
