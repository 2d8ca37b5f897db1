"""Users, sessions and keys, as tests make and use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any

import pyotp
from yarl import URL

from lls.api.sessions import COOKIE, TOKEN_HEADER
from tests.api.conftest import World

PASSWORD = "correct horse battery"
ON: dict[str, Any] = {"admin_http": True}


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str | None:
        return self.body.get("code") if isinstance(self.body, dict) else None

    @property
    def session_id(self) -> str:
        cookie = SimpleCookie(self.headers.get("Set-Cookie", ""))
        return cookie[COOKIE].value


async def asked(world: World, method: str, path: str | URL, **more: Any) -> Answer:
    """A call on the network with nothing but what is given."""
    async with world.http.request(method, path, **more) as response:
        data = await response.read()
        body = await response.json(content_type=None) if data and "json" in response.content_type else data
        return Answer(status=response.status, body=body, headers=dict(response.headers))


async def add_user(world: World, name: str, role: str = "admin", password: str = PASSWORD) -> None:
    status, body = await world.ask("POST", "/users", json={"name": name, "role": role, "password": password})
    assert 201 == status, body


async def add_key(world: World, role: str = "admin", **more: Any) -> str:
    status, body = await world.ask("POST", "/keys", json={"name": "probe", "role": role, **more})
    assert 201 == status, body
    return str(body["secret"])


async def log_in(world: World, name: str, password: str = PASSWORD, **more: Any) -> Answer:
    headers = more.pop("headers", {})
    body = {"user": name, "password": password, **more}
    return await asked(world, "POST", "/v1/admin/session", json=body, headers=headers)


async def credentials(world: World, name: str, password: str = PASSWORD) -> dict[str, str]:
    """The headers of somebody who has logged in."""
    answer = await log_in(world, name, password)
    assert 200 == answer.status, answer.body
    return session_headers(answer)


def session_headers(answer: Answer) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={answer.session_id}", TOKEN_HEADER: answer.body["token"]}


def key_headers(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def enrol(world: World, name: str) -> pyotp.TOTP:
    """A second factor for a user; the code of this moment is used up by that."""
    _, made = await world.ask("POST", f"/users/{name}/totp")
    totp = pyotp.TOTP(made["secret"])
    body = {"secret": made["secret"], "totp": totp.at(int(world.machine.wall.timestamp()))}
    assert 204 == (await world.ask("PUT", f"/users/{name}/totp", json=body))[0]
    return totp


def code_of(world: World, totp: pyotp.TOTP) -> str:
    return totp.at(int(world.machine.wall.timestamp()))


async def journal(world: World, act: str) -> list[dict[str, Any]]:
    """The ``AdminActed`` lines of that act."""
    async with world.admin.get("/v1/admin/journal?limit=10000") as response:
        lines = [json.loads(line) for line in (await response.read()).splitlines()]
    return [line["data"] for line in lines if line["kind"] == "AdminActed" and line["data"]["act"] == act]
