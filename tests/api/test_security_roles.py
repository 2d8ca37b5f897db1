"""Every call, by every kind of caller: exactly what is allowed, and nothing by accident."""

from __future__ import annotations

from typing import Any, Final

import pytest

from lls.api.app import NETWORK_ADMIN_ROUTES
from lls.api.edge import BYTES, Route
from lls.licensing.account import Role
from tests.api.conftest import World
from tests.api.people import ON, PASSWORD, add_key, add_user, asked, credentials, key_headers, log_in

CALLERS: Final = ("nobody", "viewer", "operator", "admin", "viewer key", "operator key", "admin key", "scoped key")

# Written out, not derived: what stands here is what the manual promises. v/o/a: least role of a person; a small letter
# "k" after it: keys, too; "s": a key with the scopes leases and reports:read, too; "*": anybody.
ALLOWED: Final = {
    "POST /v1/admin/session": "*",
    "POST /v1/admin/invitation": "*",
    "GET /v1/admin/session": "v",
    "DELETE /v1/admin/session": "v",
    "PUT /v1/admin/session/password": "v",
    "POST /v1/admin/session/totp": "v",
    "PUT /v1/admin/session/totp": "v",
    "GET /v1/admin/server": "vk",
    "POST /v1/admin/server/request": "ok",
    "GET /v1/admin/clock": "vk",
    "POST /v1/admin/clock": "ak",
    "POST /v1/admin/bundles": "ok",
    "GET /v1/admin/bundles": "vk",
    "GET /v1/admin/entitlements": "vk",
    "GET /v1/admin/leases": "vks",
    "DELETE /v1/admin/leases/{lease_id}": "oks",
    "GET /v1/admin/denials": "vk",
    "GET /v1/admin/usage": "vk",
    "GET /v1/admin/usage/what-if": "vk",
    "GET /v1/admin/journal": "vk",
    "GET /v1/admin/journal/verify": "vk",
    "GET /v1/admin/reports/preview": "vks",
    "POST /v1/admin/reports": "ok",
    "GET /v1/admin/reports": "vks",
    "GET /v1/admin/reports/{report_id}": "ok",
    "POST /v1/admin/receipts": "ok",
    "GET /v1/admin/borrows": "vk",
    "POST /v1/admin/borrows": "ok",
    "POST /v1/admin/borrows/return": "ok",
    "POST /v1/admin/entitlements/{entitlement_id}/return": "ak",
    "DELETE /v1/admin/entitlements/{entitlement_id}/return": "ak",
    "POST /v1/admin/entitlements/{entitlement_id}/users/{user}": "ok",
    "DELETE /v1/admin/entitlements/{entitlement_id}/users/{user}": "ok",
    "GET /v1/admin/policy": "vk",
    "POST /v1/admin/policy/check": "vk",
    "GET /v1/admin/policy/explain": "vk",
    "POST /v1/admin/reload": "ok",
    "GET /v1/admin/backup": "vk",
    "POST /v1/admin/backup": "a",
    "GET /v1/admin/doctor": "vk",
    "GET /v1/admin/log": "vk",
    "POST /v1/admin/log": "ok",
    "POST /v1/admin/journal/archive": "ok",
    "GET /v1/admin/support": "ok",
    "GET /v1/admin/events": "vk",
    "POST /v1/admin/events": "ok",
    "GET /v1/admin/tls": "vk",
    "POST /v1/admin/tls": "ak",
    "GET /v1/admin/users": "a",
    "POST /v1/admin/users": "a",
    "DELETE /v1/admin/users/{name}": "a",
    "PUT /v1/admin/users/{name}/password": "a",
    "POST /v1/admin/users/{name}/invitation": "a",
    "PUT /v1/admin/users/{name}/role": "a",
    "POST /v1/admin/users/{name}/totp": "a",
    "PUT /v1/admin/users/{name}/totp": "a",
    "DELETE /v1/admin/users/{name}/totp": "a",
    "GET /v1/admin/keys": "a",
    "POST /v1/admin/keys": "a",
    "DELETE /v1/admin/keys/{key_id}": "a",
}
_LEAST: Final = {"v": Role.VIEWER, "o": Role.OPERATOR, "a": Role.ADMIN}


@pytest.fixture
def setting() -> dict[str, Any]:
    """Administration over the network is on, and failures are not what is looked at."""
    return {**ON, "failures_per_minute": 10_000}


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


def expected(caller: str, allowed: str) -> bool:
    if allowed == "*":
        return True
    if caller == "nobody":
        return False
    role = Role.OPERATOR if caller == "scoped key" else Role(caller.split(maxsplit=1)[0])
    if not role.covers(_LEAST[allowed[0]]):
        return False
    return caller in ("viewer", "operator", "admin") or ("s" if caller == "scoped key" else "k") in allowed


async def identify(world: World, caller: str) -> dict[str, str]:
    if caller == "nobody":
        return {}
    if caller.endswith("key"):
        scopes = {"scopes": ["leases", "reports:read"]} if caller == "scoped key" else {}
        role = "operator" if caller == "scoped key" else caller.split(maxsplit=1)[0]
        return key_headers(await add_key(world, role, **scopes))
    await add_user(world, caller, caller)
    return await credentials(world, caller)


def sent(route: Route) -> tuple[str, dict[str, Any]]:
    """A request that the guard lets through and that no handler carries out: its body or its place is wrong."""
    path = route.path
    for name in ("lease_id", "entitlement_id", "user", "report_id", "name", "key_id"):
        path = path.replace(f"{{{name}}}", "nothing-here")
    if route.form is not None:
        return path, {"data": b"{", "headers": {"Content-Type": "application/json"}}
    return path, {"data": b"?", "headers": {"Content-Type": BYTES}} if route.media else {}


@pytest.mark.parametrize("caller", CALLERS)
async def test_each_caller_may_call_exactly_what_the_table_allows(world: World, caller: str) -> None:
    assert {name_of(route) for route in NETWORK_ADMIN_ROUTES} == set(ALLOWED)
    headers = await identify(world, caller)
    wrong = []
    for route in sorted(NETWORK_ADMIN_ROUTES, key=lambda one: name_of(one) == "DELETE /v1/admin/session"):
        path, more = sent(route)
        answer = await asked(world, route.method, path, **more | {"headers": {**more.get("headers", {}), **headers}})
        let_in = answer.status not in (401, 403)
        if let_in != expected(caller, ALLOWED[name_of(route)]) or answer.status == 500:
            wrong.append((name_of(route), answer.status, answer.body))
        if not let_in:
            assert ("unauthenticated" if caller == "nobody" else "forbidden") == answer.code
    assert [] == wrong


async def test_a_role_that_is_taken_away_counts_at_once_for_a_key_and_ends_a_session(world: World) -> None:
    await add_user(world, "alice")
    headers = await credentials(world, "alice")
    assert 200 == (await asked(world, "GET", "/v1/admin/users", headers=headers)).status
    assert 204 == (await world.ask("PUT", "/users/alice/role", json={"role": "viewer"}))[0]
    assert 401 == (await asked(world, "GET", "/v1/admin/users", headers=headers)).status
    headers = await credentials(world, "alice")
    assert 403 == (await asked(world, "GET", "/v1/admin/users", headers=headers)).status


@pytest.mark.parametrize("least", ["viewer", "operator"])
async def test_nobody_gives_themselves_more(world: World, least: str) -> None:
    await add_user(world, "mallory", least)
    key = await add_key(world, "admin")
    more = {"json": {"role": "admin"}}
    for headers in (await credentials(world, "mallory"), key_headers(key)):
        assert 403 == (await asked(world, "PUT", "/v1/admin/users/mallory/role", headers=headers, **more)).status
        body = {"name": "x", "role": "admin"}
        assert 403 == (await asked(world, "POST", "/v1/admin/keys", headers=headers, json=body)).status
    smuggled = await log_in(world, "mallory", role="admin")
    assert (400, "bad_request") == (smuggled.status, smuggled.code)


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer llsk_" + "A" * 43,
        "Bearer llsk_",
        "Bearer " + "A" * 43,
        "Basic YWxpY2U6cGFzc3dvcmQ=",
        "bearer",
        "",
        "Bearer llsk_" + "A" * 43 + ", Bearer x",
    ],
)
async def test_a_credential_that_is_wrong_is_not_made_good_by_a_cookie(world: World, authorization: str) -> None:
    await add_user(world, "alice")
    headers = {**await credentials(world, "alice"), "Authorization": authorization}
    answer = await asked(world, "GET", "/v1/admin/server", headers=headers)
    assert (401, "unauthenticated") == (answer.status, answer.code)


async def test_a_lease_secret_administers_nothing_and_a_key_holds_no_lease(world: World) -> None:
    key = key_headers(await add_key(world))
    path = "/v1/leases/0d9c1f6a-3b7e-4c55-9a10-7f2d8e6b4c21"
    assert 401 == (await asked(world, "GET", path, headers=key)).status
    assert (
        401 == (await asked(world, "GET", "/v1/admin/server", headers={"Authorization": "Bearer " + "A" * 43})).status
    )


async def test_an_unknown_scope_is_refused_with_those_that_there_are(world: World) -> None:
    status, problem = await world.ask("POST", "/keys", json={"name": "x", "role": "viewer", "scopes": ["users"]})
    assert 400 == status
    assert "leases:read" in problem["detail"]


@pytest.mark.parametrize("setting", [{**ON, "show_products": False}])
async def test_a_key_with_the_scope_metrics_reads_metrics_where_nobody_else_may(world: World) -> None:
    watching = key_headers(await add_key(world, "viewer", scopes=["metrics"]))
    other = key_headers(await add_key(world, "viewer", scopes=["leases"]))
    statuses = [(await asked(world, "GET", "/metrics", headers=one)).status for one in ({}, other, watching)]
    assert [401, 403, 200] == statuses
    assert 403 == (await asked(world, "GET", "/v1/admin/leases", headers=watching)).status


async def test_the_last_administrator_may_go_and_the_socket_stays(world: World) -> None:
    await add_user(world, "alice")
    headers = await credentials(world, "alice")
    assert 204 == (await asked(world, "DELETE", "/v1/admin/users/alice", headers=headers)).status
    assert (200, {"users": []}) == await world.ask("GET", "/users")
    assert 401 == (await log_in(world, "alice", PASSWORD)).status


# ---------------------------------------------------------------- other sites' pages


@pytest.fixture
async def alice(world: World) -> dict[str, str]:
    await add_user(world, "alice")
    return await credentials(world, "alice")


HERE: Final = "http://{host}"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": HERE}, 200),
        ({"X-LLS-Token": None}, 403),
        ({"X-LLS-Token": ""}, 403),
        ({"X-LLS-Token": "A" * 43}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"{HERE}.evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://[broken"}, 403),
        ({"Origin": "https://evil.example", "Host": "evil.example"}, 403),
    ],
)
async def test_a_page_of_another_site_changes_nothing(
    world: World, alice: dict[str, str], change: dict[str, str | None], status: int
) -> None:
    host = f"127.0.0.1:{world.port}"
    headers = {name: value.format(host=host) for name, value in ({**alice, **change}).items() if value is not None}
    if "Host" in change:
        headers.pop("X-LLS-Token")
    answer = await asked(world, "POST", "/v1/admin/reload", headers=headers)
    assert status == answer.status
    if status == 403:
        assert "forbidden" == answer.code


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_form_of_another_site_can_send_no_json(world: World, alice: dict[str, str], kind: str) -> None:
    body = b'{"user": "alice", "password": "correct horse battery"}'
    headers = {"Content-Type": kind} if kind else {"Content-Type": "text/html"}
    assert 415 == (await asked(world, "POST", "/v1/admin/session", data=body, headers=headers)).status
    more = {**alice, **headers}
    assert 415 == (await asked(world, "POST", "/v1/admin/reports", data=b"{}", headers=more)).status


async def test_a_stranger_logs_nobody_in_from_a_page_of_another_site(world: World, alice: dict[str, str]) -> None:
    answer = await log_in(world, "alice", headers={"Origin": "https://evil.example"})
    assert (403, "forbidden", None) == (answer.status, answer.code, answer.headers.get("Set-Cookie"))


async def test_no_answer_lets_another_site_read_it(world: World, alice: dict[str, str]) -> None:
    for method in ("GET", "OPTIONS"):
        answer = await asked(
            world,
            method,
            "/v1/admin/leases",
            headers={**alice, "Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
        )
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
