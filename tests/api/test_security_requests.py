"""What a request may not smuggle in, on raw sockets: one meaning or none, and never a second request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from typing import Any, Final

import pytest
from yarl import URL

from lls.api import connections
from tests.api.conftest import Seat, World
from tests.api.people import ON, add_key, add_user, asked, credentials, key_headers
from tests.vendor import entitlement

LIVE: Final = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
POST: Final = b"POST /v1/leases HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED: Final = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
END: Final = b"0\r\n\r\n"


@pytest.fixture
def setting() -> dict[str, Any]:
    """Administration over the network is on; failures are not what is looked at."""
    return {**ON, "failures_per_minute": 10_000, "request_seconds": 2}


@pytest.fixture(autouse=True)
def short_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is let run out after a refusal is not waited for here."""
    monkeypatch.setattr(connections, "GOODBYE_SECONDS", 0.3)


async def heard(world: World, *pieces: bytes, seconds: float = 4) -> tuple[list[int], bool]:
    """The statuses of all answers, and whether the server closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    answers, closed = b"", False
    try:
        async with asyncio.timeout(seconds):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                if piece is not pieces[-1]:
                    await asyncio.sleep(0.05)
            while data := await reader.read(65_536):
                answers += data
            closed = True
    except TimeoutError:
        pass
    except ConnectionError:
        closed = True
    finally:
        writer.close()
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answers)], closed


TWO_MEANINGS: Final = {
    "length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + END,
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "one length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length with a sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a length in hexadecimal": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length beyond every number": POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "a space before the colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "a coding that sounds alike": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + END,
    "chunks, but not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + END,
    "a coding of nothing": POST + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
    "a coding twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + END,
    "a coding with a space": POST + b"Transfer-Encoding : chunked\r\n\r\n" + END,
    "a coding after a vertical tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + END,
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + END,
    "chunks of HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + END,
    "a chunk's extension with a line feed": CHUNKED + b"2;\n{}\r\n" + END,
    "chunks with bare line feeds": CHUNKED + b"2\n{}\n0\n\n",
    "a chunk's size with a prefix": CHUNKED + b"0x2\r\n{}\r\n" + END,
    "a chunk's size with a sign": CHUNKED + b"-2\r\n{}\r\n" + END,
    "a chunk's size with a space": CHUNKED + b"2 \r\n{}\r\n" + END,
    "a chunk's size beyond every number": CHUNKED + b"fffffffffffffffff\r\n{}\r\n" + END,
    "a chunk longer than its size": CHUNKED + b"2\r\n{}XX\r\n" + END,
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: x\n\n",
    "a bare line feed": LIVE + b"X: y\nZ: z\r\n\r\n",
    "a bare carriage return between headers": LIVE + b"X: y\rZ: z\r\n\r\n",
    "a folded header": LIVE + b"X: a\r\n b\r\n\r\n",
    "a folded first header": b"GET /livez HTTP/1.1\r\n Host: x\r\n\r\n",
    "a null byte in a value": LIVE + b"X: a\x00b\r\n\r\n",
    "a null byte in a name": LIVE + b"X\x00: a\r\n\r\n",
    "a null byte in the target": b"GET /liv\x00ez HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in a name": LIVE + b"X Y: a\r\n\r\n",
    "a name of nothing": LIVE + b": a\r\n\r\n",
    "a header without a colon": LIVE + b"nothing\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": LIVE + b"Host: y\r\n\r\n",
    "another version": b"GET /livez HTTP/1.2\r\nHost: x\r\n\r\n",
    "no version": b"GET /livez\r\n\r\n",
    "half a version": b"GET /livez HTTP/11\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a name of other letters": LIVE + b"X\xff: a\r\n\r\n",
    "a method in small letters": b"get /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target with a space": b"GET /livez x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long value": LIVE + b"X: " + b"a" * 9_000 + b"\r\n\r\n",
    "a long name": LIVE + b"a" * 9_000 + b": x\r\n\r\n",
    "a long target": b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "thousands of headers": LIVE + b"".join(b"X%d: a\r\n" % n for n in range(5_000)) + b"\r\n",
}


@pytest.mark.parametrize("name", TWO_MEANINGS)
async def test_what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_heard(world: World, name: str) -> None:
    assert ([400], True) == await heard(world, TWO_MEANINGS[name] + SMUGGLED)
    assert {} == world.writer.ledger.leases


ONE_MEANING: Final = {
    "a body that looks like a request": (LIVE + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED, [200]),
    "chunks that look like a request": (CHUNKED + b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n" + END, [401]),
    "a chunk's extension": (CHUNKED + b"2;a=b\r\n{}\r\n" + END, [401]),
    "a trailer that would be a credential": (CHUNKED + b"2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\n\r\n", [401]),
    "another method in a header": (LIVE + b"X-HTTP-Method-Override: DELETE\r\n\r\n", [200]),
    "another address in a header": (LIVE + b"X-Original-URL: /v1/admin/users\r\nX-Rewrite-URL: /x\r\n\r\n", [200]),
    "a whole address": (b"GET http://evil.example/v1/admin/server HTTP/1.1\r\nHost: x\r\n\r\n", [401]),
}


@pytest.mark.parametrize("name", ONE_MEANING)
async def test_what_has_one_meaning_is_one_request(world: World, name: str) -> None:
    data, statuses = ONE_MEANING[name]
    assert statuses == (await heard(world, data, seconds=0.5))[0]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"anything"])
async def test_nothing_is_upgraded_and_nothing_behind_the_wish_is_heard(world: World, protocol: bytes) -> None:
    """A parser that drops the head of what follows would take its body for a request."""
    wish = LIVE + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\n\r\n"
    following = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    assert ([200], True) == await heard(world, wish + following, SMUGGLED)


async def test_a_tunnel_is_refused_and_closed(world: World) -> None:
    statuses, closed = await heard(world, b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", SMUGGLED)
    assert ([404], True) == (statuses, closed)


async def said(world: World, data: bytes) -> list[tuple[bytes, bytes]]:
    """Head and body of each answer, as a client or a proxy tells them apart."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(data)
    answers: list[tuple[bytes, bytes]] = []
    text = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while piece := await reader.read(65_536):
                text += piece
    writer.close()
    while text:
        head, _, text = text.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        size = 0 if data.startswith(b"HEAD") and not answers else int(length[1]) if length else 0
        answers.append((head, text[:size]))
        text = text[size:]
    return answers


@pytest.mark.parametrize("path", ["/v1/admin/leases", "/v1/admin/journal", "/v1/admin/entitlements", "/openapi.json"])
async def test_the_answer_to_head_is_a_head_and_nothing_stands_before_the_next_one(world: World, path: str) -> None:
    await world.host(entitlement())
    await world.checkout(Seat("HTTP/1.1 200 OK"))
    key = key_headers(await add_key(world, "viewer"))["Authorization"]
    head = f"HEAD {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n".encode()
    (first, _), (second, body) = await said(world, head + SMUGGLED)
    assert (b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK") == (first[:15], second[:15])
    assert b'{"status":"ok"}' == body


REFUSED: Final = {
    "an expectation that is none": POST + b"Expect: the-unexpected\r\nContent-Length: 2\r\n\r\n{}",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "the whole server": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "no such address": b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
    "no HTTP": b"nothing\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_every_refusal_is_a_problem_of_ours_and_names_no_version(world: World, name: str) -> None:
    ((head, body),) = await said(world, REFUSED[name])
    wanted = "bad_request" if name in ("an expectation that is none", "no HTTP") else "not_found"
    assert wanted == json.loads(body)["code"]
    assert b"Content-Type: application/problem+json" in head
    assert [b"lls"] == re.findall(rb"(?i)\r\nserver: ([^\r]*)", head)


@pytest.mark.parametrize("path", ["/livez", "/openapi.json", "/v1/products", "/metrics", "/v1/admin/leases"])
async def test_no_answer_names_a_version(world: World, path: str) -> None:
    answer = await asked(world, "GET", path, headers=key_headers(await add_key(world)))
    assert (200, "lls") == (answer.status, answer.headers["Server"])


async def test_bytes_that_are_no_text_in_a_cookie_or_token_are_a_wrong_credential(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await add_user(world, "alice")
    mine = (await credentials(world, "alice"))["Cookie"].encode()
    for lines in (b"Cookie: __Host-lls=\xff\xfe\r\n", b"Cookie: " + mine + b"\r\nX-LLS-Token: \xff\r\n"):
        ((head, _),) = await said(world, b"POST /v1/admin/reload HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")
        assert head[:12] in (b"HTTP/1.1 401", b"HTTP/1.1 403")
    assert "request_failed" not in caplog.messages


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "path",
    [
        "/livez/../v1/admin/users",
        "/./v1/admin/users",
        "//v1//admin//users",
        "/v1/admin/users/",
        "/v1/admin;x=y/users",
        "/v1/ADMIN/users",
        "/%76%31/admin/users",
        "/v1/admin/%75sers",
        "/v1/admin/users?role=admin",
        "/v1/admin/users#x",
        "/v1/admin%2fusers",
        "/v1/admin%00/users",
        "/v1/leases/..%2f..%2fadmin%2fusers",
    ],
)
async def test_however_a_path_is_written_the_guard_stands_before_it(world: World, path: str) -> None:
    viewer = key_headers(await add_key(world, "viewer"))["Authorization"].encode()
    for credential, allowed in ((b"", {400, 401, 404, 405}), (viewer, {400, 401, 403, 404, 405})):
        head = b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        head += b"Authorization: " + credential + b"\r\n" if credential else b""
        (status,), _closed = await heard(world, head + b"\r\n")
        assert status in allowed


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2flls.sqlite3",
        "%2e%2e",
        "..%5c..%5ckeys",
        "%2fetc%2fpasswd",
        "rpt_%00",
        "%ff%fe",
        "a" * 5_000,
        "*",
        "%25",
    ],
)
async def test_a_name_in_a_path_is_a_name_and_no_path(world: World, name: str) -> None:
    await add_user(world, "alice")
    callers = key_headers(await add_key(world, "admin")), await credentials(world, "alice")
    for path in PLACES:
        for method, headers in itertools.product(("GET", "DELETE"), callers):
            url = URL(f"/v1/admin/{path.format(name)}", encoded=True)
            answer = await asked(world, method, url, headers=headers)
            assert answer.status in (400, 403, 404, 405, 415), answer.body
    assert (world.policy.parent / "lls.sqlite3").exists()


PLACES: Final = (
    *("reports/{}", "users/{}/totp", "keys/{}", "leases/{}"),
    *("entitlements/{}/return", "entitlements/x/users/{}"),
)


# ---------------------------------------------------------------- slow and large


async def test_a_large_body_is_refused_by_its_length_before_it_is_read(world: World) -> None:
    secret = Seat("a").headers["Authorization"].encode()
    head = POST + b"Authorization: " + secret + b"\r\nContent-Length: 1000000000\r\n\r\n"
    assert ([413], True) == await heard(world, head)


async def test_a_large_body_in_chunks_is_refused_as_soon_as_it_is_too_large(world: World) -> None:
    secret = Seat("a").headers["Authorization"].encode()
    head = POST + b"Authorization: " + secret + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert ([413], True) == await heard(world, head + b"11000\r\n" + b" " * 0x11000 + b"\r\n")


@pytest.mark.parametrize(
    "path", [b"/v1/admin/bundles", b"/v1/admin/receipts", b"/v1/admin/users", b"/v1/admin/reports"]
)
async def test_who_is_not_known_is_refused_before_a_body_is_read(world: World, path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
    assert ([401], True) == await heard(world, head + b"Content-Length: 60000000\r\n\r\n" + b"x" * 1_000)


@pytest.mark.parametrize("path", [b"/v1/leases", b"/v1/admin/session", b"/v1/admin/bundles"])
async def test_a_body_that_drips_ends_by_the_clock(world: World, path: bytes) -> None:
    key = await add_key(world)
    secret = key.encode() if b"admin" in path else Seat("a").secret.encode()
    kind = b"application/octet-stream" if b"bundles" in path else b"application/json"
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Type: " + kind + b"\r\nContent-Length: 1000\r\n"
    drops = [b"{"] * 80
    begun = asyncio.get_running_loop().time()
    statuses, closed = await heard(world, head + b"Authorization: Bearer " + secret + b"\r\n\r\n", *drops, seconds=8)
    assert (True, True) == (statuses in ([408], []), closed)
    assert asyncio.get_running_loop().time() - begun < 7


async def test_a_head_that_drips_ends_by_the_clock_and_harms_nobody(world: World) -> None:
    await world.host(entitlement())
    slow = [heard(world, *(bytes([byte]) for byte in LIVE * 3), seconds=8) for _ in range(20)]
    running = asyncio.gather(*slow)
    assert 201 == (await world.checkout(Seat("alice")))[0]
    assert [([], True)] * 20 == await running
