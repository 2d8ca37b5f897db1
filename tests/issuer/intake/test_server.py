"""The server as its sources meet it: real HTTP on this machine."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lls.issuer import Issuer
from lls.issuer.intake import answers
from lls.issuer.intake.inbox import Inbox
from lls.issuer.intake.processing import ADAPTERS, Intake
from lls.issuer.intake.server import Server
from lls.issuer.intake.settings import Settings
from lls.issuer.refusals import HomeRefused
from tests.issuer.appliance import NOW
from tests.issuer.intake.sources import SECRETS, body_of, fastspring, invoice, proof, session, stripe

LARGEST = 10_000
HEADERS = {
    "generic": "LLS-Signature", "stripe": "Stripe-Signature", "fastspring": "X-FS-Signature",
    "chargify": "X-Chargify-Webhook-Signature-Hmac-Sha-256", "zuora": "Authorization", "salesforce": "LLS-Signature",
    "netsuite": "LLS-Signature",
}  # fmt: skip
PAID = stripe("evt_2", "invoice.paid", invoice(metadata={"account_ref": "C-42"}, customer_name="Works"), created=NOW)


@dataclass
class Site:
    """A running server and somebody who sends."""

    url: str
    http: aiohttp.ClientSession
    told: list[str]
    spoken: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self, source: str, body: bytes, **headers: str) -> tuple[int, Any]:
        given = {"Content-Type": "application/json", HEADERS[source]: proof(source, body, NOW), **headers}
        async with self.http.post(f"{self.url}/v1/events/{source}", data=body, headers=given) as answer:
            return answer.status, await answer.json(content_type=None)

    async def said(self, words: str) -> str:
        async with asyncio.timeout(20):
            while not (found := [one for one in self.told if words in one]):
                self.spoken.clear()
                await self.spoken.wait()
        return found[0]


@pytest.fixture
async def site(issuer: Issuer, home: Path, settings: Settings) -> AsyncIterator[Site]:
    told: list[str] = []
    spoken = asyncio.Event()

    def tell(sentence: str) -> None:
        told.append(sentence)
        spoken.set()

    server = Server(home, settings, clock=lambda: NOW, tell=tell, largest_body=LARGEST)
    host, port = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as http:
        yield Site(url=f"http://{host}:{port}", http=http, told=told, spoken=spoken)
    await server.stop()


async def test_an_event_is_stored_before_its_answer_and_processed_after_it(site: Site, issuer: Issuer) -> None:
    body, _ = body_of("stripe", PAID)
    assert (200, {"events": [{"event_id": "evt_2", "status": "stored"}]}) == await site.post("stripe", body)
    assert ["evt_2"] == [stored.event_id for stored in Inbox(issuer.register).listed()]
    assert "is fulfilled" in await site.said("Event 1, invoice.paid of stripe: done.")
    assert 1 == len(issuer.register.entitlements())
    assert (200, {"events": [{"event_id": "evt_2", "status": "known"}]}) == await site.post("stripe", body)


async def test_what_waited_before_the_start_is_processed(issuer: Issuer, home: Path, settings: Settings) -> None:
    adapter = ADAPTERS["stripe"]
    (event,) = adapter.events(json.dumps(PAID).encode(), "application/json")
    Inbox(issuer.register).add("stripe", event, now=NOW)
    told: asyncio.Queue[str] = asyncio.Queue()
    server = Server(home, settings, clock=lambda: NOW, tell=told.put_nowait)
    await server.start("127.0.0.1", 0)
    async with asyncio.timeout(20):
        assert "done" in await told.get()
    await server.stop()


@pytest.mark.parametrize("source", list(HEADERS))
async def test_nobody_is_believed_without_the_secret(site: Site, issuer: Issuer, source: str) -> None:
    body, media = body_of(source, PAID)
    for given in ("", "t=1,v1=00", "Basic Zm9vOmJhcg=="):
        status, problem = await site.post(source, body, **{HEADERS[source]: given, "Content-Type": media})
        assert (401, "unauthenticated") == (status, problem["code"])
        assert SECRETS[source] not in json.dumps(problem)
    assert [] == Inbox(issuer.register).listed()


async def test_zuora_is_asked_for_its_password(site: Site) -> None:
    url = f"{site.url}/v1/events/zuora"
    async with site.http.post(url, data=b"{}", headers={"Content-Type": "application/json"}) as answer:
        assert (401, 'Basic realm="lls-issuer"') == (answer.status, answer.headers["WWW-Authenticate"])
        assert "lls-issuer" == answer.headers["Server"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, "bad_request"),
        (b"[]", {}, 400, "bad_request"),
        (b'{"id":1,"id":1}', {}, 400, "bad_request"),
        (b'{"id":NaN}', {}, 400, "bad_request"),
        (b'{"id":1e999}', {}, 400, "bad_request"),
        (b'{"id":"\\ud800"}', {}, 400, "bad_request"),
        (b"\xff", {}, 400, "bad_request"),
        (b"[" * 5_000, {}, 400, "bad_request"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, {}, 400, "bad_request"),
        (b'{"id":' + b"9" * 5_000 + b"}", {}, 400, "bad_request"),
        (b'{"id":"evt","type":"x","created":-1}', {}, 400, "bad_request"),
        (b'{"id":"evt","type":"x","created":99999999999999}', {}, 400, "bad_request"),
        (b" " * (LARGEST + 1), {}, 413, "too_large"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": ""}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
    ],
)
async def test_a_bad_body_has_its_own_answer(
    site: Site, issuer: Issuer, *, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    given = gzip.compress(body) if "Content-Encoding" in headers else body
    answered, problem = await site.post("stripe", given, **headers)
    assert (status, code, status) == (answered, problem["code"], problem["status"])
    assert [] == Inbox(issuer.register).listed()


async def test_one_wrong_event_of_a_post_stores_none_of_it(site: Site, issuer: Issuer) -> None:
    good = {"id": "e1", "type": "subscription.canceled", "created": 1, "data": {"id": "s"}}
    body = json.dumps(fastspring(good, {"id": 7})).encode()
    assert 400 == (await site.post("fastspring", body))[0]
    assert [] == Inbox(issuer.register).listed()


async def test_a_chunked_body_has_the_same_limit(site: Site) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 1_000

    headers = {"Content-Type": "application/json", "Stripe-Signature": "t=1,v1=0"}
    async with site.http.post(f"{site.url}/v1/events/stripe", data=pieces(), headers=headers) as answer:
        assert 413 == answer.status


async def test_other_content_under_a_known_id_is_a_conflict(site: Site) -> None:
    await site.post("stripe", body_of("stripe", PAID)[0])
    other = stripe("evt_2", "checkout.session.completed", session(), created=NOW)
    status, problem = await site.post("stripe", body_of("stripe", other)[0])
    assert (409, "conflict") == (status, problem["code"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/events/stripe", 405),
        ("POST", "/v1/events/paddle", 404),
        ("GET", "/", 404),
        ("PUT", "/v1/health", 405),
    ],
)
async def test_other_addresses_and_methods_are_answered_in_form(
    site: Site, method: str, path: str, status: int
) -> None:
    async with site.http.request(method, site.url + path) as answer:
        problem = await answer.json(content_type=answers.PROBLEM)
    assert (status, status) == (answer.status, problem["status"])


async def test_a_register_that_cannot_be_written_is_come_again(
    site: Site, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_args: object, **_kwargs: object) -> object:
        raise HomeRefused(f"The register {home} did not take the change.")

    monkeypatch.setattr(Intake, "receive", locked)
    given = {"Content-Type": "application/json"}
    async with site.http.post(f"{site.url}/v1/events/stripe", data=b"{}", headers=given) as answer:
        assert (503, str(answers.RETRY_SECONDS)) == (answer.status, answer.headers["Retry-After"])
        assert str(home) not in await answer.text()


async def test_health_counts_what_is_open(site: Site) -> None:
    await site.post("stripe", body_of("stripe", PAID)[0])
    await site.said("Event 1")
    async with site.http.get(f"{site.url}/v1/health") as answer:
        assert {"status": "ok", "waiting": 0, "failed": 0} == await answer.json()


async def test_the_openapi_document_lists_every_route_and_status(site: Site, settings: Settings) -> None:
    async with site.http.get(f"{site.url}/v1/openapi.json") as answer:
        document = await answer.json()
    assert "3.1.0" == document["openapi"]
    assert {*(f"/v1/events/{name}" for name in HEADERS), "/v1/openapi.json", "/v1/health"} == set(document["paths"])
    for name, header in HEADERS.items():
        operation = document["paths"][f"/v1/events/{name}"]["post"]
        assert [header] == [one["name"] for one in operation["parameters"]]
        assert set(ADAPTERS[name].media) == set(operation["requestBody"]["content"])
        assert {"200", "400", "401", "408", "409", "413", "415", "503"} == set(operation["responses"])


async def test_no_secret_is_in_the_register(site: Site, home: Path) -> None:
    await site.post("stripe", body_of("stripe", PAID)[0])
    await site.post("zuora", b'{"EventType":"x","EventDate":"2026-11-21T07:00:00Z"}')
    await site.said("Event 2")
    with sqlite3.connect(home / "register.sqlite") as register:
        dump = "\n".join(register.iterdump())
    register.close()
    assert "evt_2" in dump
    assert [] == [name for name, secret in SECRETS.items() if secret in dump or secret in "".join(site.told)]
