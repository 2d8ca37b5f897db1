"""What the edge refuses, limits and tells: malformed input, failures per address, documents, operation."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import threading
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lls.api import problems, status
from lls.api.app import ADMIN_ROUTES, LAN_ROUTES
from lls.api.auth import MOST_ADDRESSES, FailureLimit
from lls.api.edge import Route
from lls.faults import Fault, StoreDown, TooManyRequests
from lls.signed.capability import STATEMENT
from lls.signed.jose import verify
from lls.telemetry import set_up_logging
from tests.api.conftest import Seat, World, nonce_of, raw_request
from tests.vendor import entitlement

BODY: dict[str, Any] = Seat("alice").body()


def changed(**members: Any) -> bytes:
    return json.dumps({**BODY, **members}).encode()


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "an array": b"[]",
    "null": b"null",
    "trailing text": changed() + b"x",
    "byte order mark": b"\xef\xbb\xbf" + changed(),
    "not UTF-8": changed(version="X").replace(b"X", b"\xff"),
    "a lone surrogate": changed(version="X").replace(b"X", rb"\ud800"),
    "a name twice": changed().replace(b'{"lease_id"', b'{"product": "cad", "lease_id"', 1),
    "a name twice, deeper": changed().replace(b'{"seat_id"', b'{"user": "x", "seat_id"', 1),
    "an unknown field": changed(colour="red"),
    "an unknown field, deeper": changed(holder={"seat_id": "x", "mac": "y"}),
    "NaN": changed(seats=0).replace(b'"seats": 0', b'"seats": NaN'),
    "a huge integer": changed(seats=0).replace(b'"seats": 0', b'"seats": ' + b"9" * 5_000),
    "a float": changed(seats=1.0),
    "a boolean": changed(seats=True),
    "a text for a number": changed(seats="1"),
    "no seats": changed(seats=0),
    "too many seats": changed(seats=1_000_001),
    "deep nesting": changed(features=0).replace(b'"features": 0', b'"features": ' + b'{"a":' * 9_000),
    "a deep array": b"[" * 60_000,
    "no UUID": changed(lease_id="0d9c"),
    "a UUID and a line break": changed(lease_id=BODY["lease_id"] + "\n"),
    "a product with a space": changed(product="c ad"),
    "a product and a line break": changed(product="cad\n"),
    "a long product": changed(product="c" * 51),
    "an empty seat id": changed(holder={"seat_id": ""}),
    "a long seat id": changed(holder={"seat_id": "x" * 101}),
    "a control character": changed(holder={"seat_id": "x", "user": "a\u0007"}),
    "a long user": changed(holder={"seat_id": "x", "user": "u" * 201}),
    "a short nonce": changed(nonce="A" * 20),
    "a long nonce": changed(nonce="A" * 87),
    "a nonce of no bytes": changed(nonce="A" * 25),
    "a padded nonce": changed(nonce="A" * 22 + "=="),
    "a feature of nothing": changed(features={"render": 0}),
    "no date": changed(released_on="2026-02-30"),
    "a long version": changed(version="1" * 51),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_checkouts_are_refused_and_nothing_is_granted(world: World, name: str) -> None:
    await world.host()
    headers = {**Seat("alice").headers, "Content-Type": "application/json"}
    status, problem = await world.call("POST", "/v1/leases", data=MALFORMED[name], headers=headers)
    assert (400, "bad_request") == (status, problem["code"])
    assert {} == world.writer.ledger.leases


@pytest.mark.parametrize(
    "body",
    [
        b'{"beat": 1, "beat": 2, "nonce": "N"}',
        b'{"beat": -1, "nonce": "N"}',
        b'{"beat": 9007199254740992, "nonce": "N"}',
        b'{"beat": 1e3, "nonce": "N"}',
        b'{"beat": 1}',
        b'{"beat": 1, "nonce": "N", "x": {"a": 1}}',
    ],
)
async def test_malformed_beats_are_refused(world: World, body: bytes) -> None:
    seat = Seat("alice")
    headers = {**seat.headers, "Content-Type": "application/json"}
    data = body.replace(b"N", nonce_of("n").encode())
    status, problem = await world.call("POST", f"/v1/leases/{seat.lease_id}/heartbeat", data=data, headers=headers)
    assert (400, "bad_request") == (status, problem["code"])


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer short",
        "Basic eDp5",
        "Bearer " + "A" * 42 + "B",
        "Bearer " + "A" * 44,
        "Bearer " + "=" * 43,
    ],
)
async def test_a_missing_or_malformed_secret_is_unauthenticated(world: World, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with world.http.post("/v1/leases", json=BODY, headers=headers) as response:
        assert (401, "unauthenticated") == (response.status, (await response.json(content_type=None))["code"])
        assert "Bearer" == response.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("method", "path", "more", "status", "code"),
    [
        ("GET", "/v1/nothing", {}, 404, "not_found"),
        ("PUT", "/v1/leases", {}, 405, "method_not_allowed"),
        (
            "POST",
            "/v1/leases",
            {"data": b"{}", "headers": {"Content-Type": "text/plain"}},
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            "/v1/leases",
            {"data": b" " * 65_537, "headers": {"Content-Type": "application/json"}},
            413,
            "too_large",
        ),
        ("GET", "/v1/server?nonce=short", {}, 400, "bad_request"),
        ("GET", "/v1/server?colour=red", {}, 400, "bad_request"),
        ("GET", "/v1/keys?since=-1", {}, 400, "bad_request"),
        ("GET", "/v1/keys?since=1&since=2", {}, 400, "bad_request"),
        ("GET", "/v1/leases/0d9c", {}, 400, "bad_request"),
        ("GET", "/v1/admin/server", {}, 404, "not_found"),
    ],
)
async def test_what_http_itself_refuses_is_a_problem_too(  # noqa: PLR0917  # a table row and the world
    world: World, method: str, path: str, more: dict[str, Any], status: int, code: str
) -> None:
    headers = {**Seat("alice").headers, **more.pop("headers", {})}
    async with world.http.request(method, path, headers=headers, **more) as response:
        problem = await response.json(content_type=None)
        assert (status, code, "application/problem+json") == (response.status, problem["code"], response.content_type)


@pytest.mark.parametrize("setting", [{"request_seconds": 0.1}])
async def test_a_body_that_does_not_arrive_in_time_is_a_timeout(world: World) -> None:
    head = (
        "POST /v1/leases HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n"
        f"Authorization: {Seat('a').headers['Authorization']}\r\n\r\n{{"
    )
    answer = await raw_request(world, head.encode())
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"timeout"' in answer


# ---------------------------------------------------------------- failures per address


def test_failures_are_limited_and_the_allowance_comes_back() -> None:
    limit = FailureLimit(per_minute=60)
    for _ in range(60):
        limit.fail("192.0.2.1", elapsed=5.0)
    with pytest.raises(TooManyRequests) as refused:
        limit.fail("192.0.2.1", elapsed=5.0)
    assert {"retry_after_seconds": 1} == refused.value.fields
    limit.check("192.0.2.2", elapsed=5.0)
    limit.fail("192.0.2.1", elapsed=6.0)


def test_a_network_of_ipv6_counts_once_and_a_mapped_address_as_itself() -> None:
    limit = FailureLimit(per_minute=1)
    limit.fail("2001:db8::1", elapsed=0.0)
    limit.fail("::ffff:192.0.2.1", elapsed=0.0)
    for same in ("2001:db8::2%eth0", "192.0.2.1"):
        with pytest.raises(TooManyRequests):
            limit.check(same, elapsed=0.0)


def test_the_memory_of_failures_is_bounded() -> None:
    limit = FailureLimit(per_minute=1)
    for number in range(MOST_ADDRESSES + 10):
        limit.fail(f"host {number}", elapsed=0.0)
    assert MOST_ADDRESSES == len(limit)


@pytest.mark.parametrize("setting", [{"failures_per_minute": 3}])
async def test_after_too_many_failures_codes_are_not_judged_and_leases_go_on(world: World) -> None:
    await world.host(entitlement(activation_codes=["GOOD"]))
    seat = Seat("alice", wish={"activation_code": "GOOD"})
    assert 201 == (await world.checkout(seat))[0]
    guesses = [(await world.checkout(Seat("bob"), activation_code=f"TRY {n}"))[0] for n in range(4)]
    assert [401, 401, 401, 429] == guesses
    bob = Seat("bob")
    async with world.http.post("/v1/leases", headers=bob.headers, json=bob.body(activation_code="GOOD")) as response:
        assert (429, "20") == (response.status, response.headers["Retry-After"])
    assert 200 == (await world.beat(seat, 1))[0]
    assert 204 == (await world.checkin(seat))[0]


@pytest.mark.parametrize("setting", [{"failures_per_minute": 3}])
async def test_malformed_requests_lock_out_nobody_who_has_a_code(world: World) -> None:
    await world.host(entitlement(activation_codes=["GOOD"]))
    json_ = {"Content-Type": "application/json", **Seat("x").headers}
    broken = [(await world.call("POST", "/v1/leases", data=b"{", headers=json_))[0] for _ in range(4)]
    assert [400, 400, 400, 429] == broken
    assert 201 == (await world.checkout(Seat("alice"), activation_code="GOOD"))[0]
    assert 401 == (await world.checkout(Seat("bob"), activation_code="BAD"))[0]


# ---------------------------------------------------------------- documents


async def test_the_server_proves_itself_over_the_callers_nonce(world: World) -> None:
    nonce = nonce_of("hello")
    _, bare = await world.call("GET", "/v1/server")
    assert (None, "9.9", True) == (bare["certificate"], bare["version"], bare["primary"])
    await world.host()
    _, told = await world.call("GET", f"/v1/server?nonce={nonce}")
    assert world.airgap.certificate() == told["certificate"]
    key = world.site.signing.public
    said = verify(told["statement"], typ=STATEMENT, key_of=lambda kid: key if kid == key.kid else None).payload
    assert {"server_id": world.site.server_id, "tls_spki_sha256": ["A" * 43], "nonce": nonce} == {
        name: said[name] for name in ("server_id", "tls_spki_sha256", "nonce")
    }


async def test_key_sets_come_after_the_version_that_is_known(world: World) -> None:
    assert (200, {"keys": [world.vendor.key_sets[0]]}) == await world.call("GET", "/v1/keys")
    assert (200, {"keys": []}) == await world.call("GET", "/v1/keys?since=1")


# ---------------------------------------------------------------- operation


async def test_ready_asks_the_store_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (200, True) == ((answer := await world.call("GET", "/readyz"))[0], answer[1]["ready"])

    async def broken(*, epoch: int) -> None:
        raise StoreDown("The disk is full.")

    monkeypatch.setattr(world.store, "verify", broken)
    status, told = await world.call("GET", "/readyz")
    assert (503, [{"code": "store_down", "detail": "The disk is full."}]) == (status, told["troubles"])
    assert (200, {"status": "ok"}) == await world.call("GET", "/livez")


async def test_what_is_no_fault_is_told_as_internal_and_logged(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world.airgap, "certificate", broken)
    status, problem = await world.call("GET", "/v1/server")
    assert (500, "internal") == (status, problem["code"])
    assert ["request_failed"] == [record.message for record in caplog.records if record.name == "lls.api.app"]


async def test_whoever_asks_for_metrics_again_and_again_holds_nobody_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    def render(registry: CollectorRegistry) -> bytes:
        made.append(threading.current_thread() is threading.main_thread())
        return generate_latest(registry)

    monkeypatch.setattr(status, "generate_latest", render)
    answers = await asyncio.gather(*(world.call("GET", "/livez") for _ in range(3)), *(_page(world) for _ in range(20)))
    assert {200} == {answer if isinstance(answer, int) else answer[0] for answer in answers}
    assert False is any(made)
    assert len(made) < 20


async def _page(world: World) -> int:
    async with world.http.get("/metrics") as response:
        assert "lls_store_up 1.0" in await response.text()
        return response.status


async def test_metrics_show_the_last_commit(world: World) -> None:
    await world.host(entitlement(seats=1))
    await world.checkout(Seat("alice"))
    await world.checkout(Seat("bob"))
    await world.beat(Seat("alice"), 1)
    async with world.http.get("/metrics") as response:
        text = await response.text()
    labels = f'{{entitlement="{entitlement()["entitlement_id"]}",product="cad"}}'
    for line in (
        f"lls_seats{labels} 1.0",
        f"lls_seats_in_use{labels} 1.0",
        f"lls_grants_total{labels} 1.0",
        'lls_denials_total{code="no_seat"} 1.0',
        "lls_heartbeats_total 1.0",
        'lls_leases_live{mode="floating"} 1.0',
        "lls_store_up 1.0",
        'lls_http_requests_total{route="/v1/leases",status="409"} 1.0',
    ):
        assert line in text.splitlines()
    assert "_created" not in text


# ---------------------------------------------------------------- the tables


def all_codes(kind: type[Fault]) -> set[str]:
    ours = [one for one in kind.__subclasses__() if one.__module__ == Fault.__module__]  # the vendor's side has its own
    return {kind.code}.union(*(all_codes(one) for one in ours))


def test_every_fault_has_its_line_in_the_table() -> None:
    ours = {code for code in all_codes(Fault) if code != "setup"}  # a program that does not start answers nobody
    assert set() == ours - set(problems.KINDS)


@pytest.mark.parametrize("route", [*LAN_ROUTES, *ADMIN_ROUTES], ids=lambda route: f"{route.method} {route.path}")
def test_every_code_of_a_route_is_in_the_table(route: Route) -> None:
    assert set() == set(route.faults) - set(problems.KINDS)


@pytest.mark.parametrize("where", ["lan", "admin"])
async def test_the_openapi_document_is_whole(world: World, where: str) -> None:
    session = world.http if where == "lan" else world.admin
    async with session.get("/openapi.json") as response:
        document = await response.json()
    assert "3.1.0" == document["openapi"]
    served = {(route.method, route.path) for route in (LAN_ROUTES if where == "lan" else ADMIN_ROUTES)}
    told = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert served == told
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    for path, item in document["paths"].items():
        for operation in item.values():
            given = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert set(re.findall(r"{(\w+)}", path)) == given
            assert all(re.fullmatch("[1-5][0-9]{2}", status) for status in operation["responses"])
    info = {"title": "Local License Server", "version": "1" if where == "lan" else world.edge.setting.version}
    assert info == document["info"], "what exactly runs here is no stranger's business"
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])


@pytest.mark.parametrize("level", ["debug", "info", "error"])
def test_libraries_write_nothing_of_what_passes_through_them(level: str) -> None:
    root, stream = logging.getLogger(), io.StringIO()
    before = root.level
    handler = set_up_logging(level=level, as_json=False, stream=stream)
    try:
        for name in ("aiosqlite", "asyncio"):
            logging.getLogger(name).debug("executing INSERT with alice and bob")
        logging.getLogger("aiohttp.server").error("Error handling request from 127.0.0.1: Bearer alice")
        logging.getLogger("lls.api.app").error("seen")
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert ("alice" not in stream.getvalue(), "seen" in stream.getvalue()) == (True, True)
