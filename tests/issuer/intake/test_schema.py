"""The intake's own OpenAPI document, turned against it: nothing that fits or breaks it is answered with a 5xx."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok

from lls.issuer import Issuer
from lls.issuer.intake.inbox import Inbox
from lls.issuer.intake.server import Server
from lls.issuer.intake.settings import read_settings
from tests.issuer.appliance import NOW, Chance
from tests.issuer.intake.conftest import CATALOG, INTAKE
from tests.issuer.intake.sources import SECRETS, proof

LARGEST = 10_000
BOUNDED = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running intake, in a loop of its own; afterwards every event that it took is whole."""
    home = tmp_path_factory.mktemp("schema") / "office"
    with Issuer.create(home, now=NOW, passphrase=None, random=Chance(1)) as office:
        office.load_catalog(CATALOG, now=NOW)
    for name, secret in SECRETS.items():
        (home / f"{name}.secret").write_text(secret, "utf-8")
    (home / "intake.toml").write_text(INTAKE, "utf-8")
    loop = asyncio.new_event_loop()
    runner = threading.Thread(target=loop.run_forever)
    runner.start()
    server = Server(home, read_settings(home / "intake.toml"), clock=lambda: NOW, tell=print, largest_body=LARGEST)
    try:
        host, port = asyncio.run_coroutine_threadsafe(server.start("127.0.0.1", 0), loop).result(30)
        yield f"http://{host}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        runner.join(30)
        loop.close()
    with Issuer(home, now=NOW) as office:
        assert all(event.event_id and event.source for event in Inbox(office.register).listed())


@pytest.fixture(scope="module")
def operations(url: str) -> list[Any]:
    """Every call that the document names."""
    schema = schemathesis.openapi.from_url(f"{url}/v1/openapi.json")
    return [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]


def test_whatever_is_sent_is_answered_as_the_document_says(operations: list[Any]) -> None:
    labels = {f"POST /v1/events/{name}" for name in SECRETS} | {"GET /v1/health"}
    assert labels == {one.label for one in operations}
    for operation in operations:

        @BOUNDED
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            case.call_and_validate()

        send()


def test_whatever_a_source_has_signed_is_stored_or_refused_with_a_reason(operations: list[Any], url: str) -> None:
    seen: set[int] = set()
    for operation in operations:
        source = operation.path.rsplit("/", 1)[1]
        if source in SECRETS:
            seen |= signed_and_sent(operation, source, url)
    assert 401 not in seen, "a right signature was refused"
    assert 400 in seen


def signed_and_sent(operation: Any, source: str, url: str) -> set[int]:
    """The statuses with which a source's calls were answered."""
    seen: set[int] = set()
    (header,) = (one["name"] for one in operation.definition.raw["parameters"] if one["in"] == "header")

    @BOUNDED
    @given(case=operation.as_strategy())
    def send(case: Any) -> None:
        sent = requests.Request(**case.as_transport_kwargs(base_url=url)).prepare()
        body = sent.body.encode() if isinstance(sent.body, str) else sent.body or b""
        assert isinstance(body, bytes)
        sent.headers[header] = proof(source, body, NOW)
        with requests.Session() as session:
            answer = session.send(sent, timeout=20)
        assert answer.status_code < 500, answer.text
        told = answer.json()
        assert told["events"] if answer.status_code == 200 else told["code"]
        seen.add(answer.status_code)

    send()
    return seen
