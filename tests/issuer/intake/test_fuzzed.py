"""Whatever somebody sends who has the secret: an answer below 500, and each event stored whole or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lls.faults import Fault
from lls.issuer.intake.answers import STATUSES
from lls.issuer.intake.bodies import read_csv, read_form, read_json
from lls.issuer.intake.inbox import Status
from lls.issuer.intake.processing import ADAPTERS
from lls.issuer.intake.server import Server
from tests.issuer.appliance import NOW
from tests.issuer.intake import sources
from tests.issuer.intake.conftest import Desk
from tests.issuer.intake.test_order_files import NETSUITE_RECORDS, SALESFORCE_QUERY

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.sampled_from(
    ["sub_1", "price_pro", "2026-11-21T07:00:00Z", "5.0", 5, "0", -1, 2**63, 1e300, "\ud800", "\x00", "=cmd()", [], {}]
)  # fmt: skip
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip

SAMPLES: dict[str, list[Any]] = {
    "generic": [
        {"event_id": "e1", "type": "subscription.started", "occurred_at": "2026-11-21T07:00:00Z", "subscription": "S",
         "ref": "R", "account_ref": "C-42", "customer_name": "W",
         "items": [{"item": "a", "product": "CAD-PRO", "quantity": 5}]},
        {"event_id": "e2", "type": "order", "occurred_at": "2026-11-21T07:00:00Z", "order": {
            "order_ref": "SO", "account_ref": "C-42", "lines": [{"line": 1, "sku": "CAD-PRO", "quantity": 1}]}},
    ],
    "stripe": [
        sources.stripe("evt_1", "checkout.session.completed", sources.session(), created=NOW),
        sources.stripe("evt_2", "invoice.paid", sources.invoice(), created=NOW),
        sources.stripe("evt_3", "customer.subscription.updated", sources.subscription(ends=NOW), created=NOW),
        sources.stripe("evt_4", "customer.subscription.deleted", sources.subscription(ends=NOW), created=NOW),
    ],
    "fastspring": [
        sources.fastspring(
            sources.fs_event("e1", "subscription.activated", sources.fs_subscription(changed=NOW), created=NOW),
            sources.fs_event("e2", "order.completed", {"id": "o", "items": [{"product": "cad-pro"}]}, created=NOW),
        )
    ],
    "chargify": [
        sources.chargify(1, "signup_success", "2026-11-21T07:00:00Z", {}),
        sources.chargify(2, "component_allocation_change", "2026-11-21T07:00:00Z", {}, new_allocation=3,
                         component={"id": 1}),
    ],
    "zuora": [
        sources.zuora(kind, "2026-11-21T07:00:00Z", 1) for kind in ("SubscriptionCreated", "SubscriptionUpdated")
    ],
    "salesforce": [SALESFORCE_QUERY],
    "netsuite": [NETSUITE_RECORDS],
}  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The document with another value at one place; ``...``: with nothing there."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if new is ... and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@st.composite
def nearly_right(draw: Callable[[Any], Any]) -> tuple[str, Any]:
    """A source and one of its documents with some places changed or taken out."""
    source = draw(st.sampled_from(sorted(SAMPLES)))
    document = draw(st.sampled_from(SAMPLES[source]))
    for _ in range(draw(st.integers(1, 3))):
        inside = [path for path in places(document) if path]
        if inside:
            document = changed(document, draw(st.sampled_from(inside)), draw(VALUES | st.just(...)))
    return source, document


def code_of(call: Callable[[], Any]) -> str | None:
    """The code of the refusal, or None where there was none."""
    try:
        call()
    except Fault as fault:
        return fault.code
    return None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=nearly_right())
def test_a_signed_event_is_refused_in_form_or_stored_and_settled(desk: Desk, sent: tuple[str, Any]) -> None:
    source, document = sent
    before = len(desk.statuses())
    body = json.dumps(document).encode()
    signed = sources.proof(source, body, NOW)
    refused = code_of(lambda: desk.intake.receive(source, body, media="application/json", proof=signed, now=NOW))
    if refused is not None:
        assert refused in STATUSES
        assert before == len(desk.statuses())
        return
    for fate in desk.intake.process(now=NOW):  # a fault of the program would be raised
        assert fate.status in (Status.DONE, Status.IGNORED, Status.HELD, Status.FAILED)
        assert fate.outcome
    assert "waiting" not in desk.statuses()


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
@pytest.mark.parametrize("read", [read_json, read_form, read_csv])
def test_bytes_are_read_or_refused(read: Callable[[bytes], Any], data: bytes) -> None:
    code = code_of(lambda: json.dumps(read(data), ensure_ascii=False, allow_nan=False).encode())
    assert code in (None, "bad_request")


@settings(max_examples=200, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(
            st.sampled_from(["a", "a[b]", "a[]", "a[][c]", "a[][]", "a[b][]", "[", "a]", ""]), st.text(max_size=3)
        )
    )
)
def test_forms_are_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    assert code_of(lambda: read_form(urlencode(pairs).encode())) in (None, "bad_request")


@pytest.fixture
async def address(desk: Desk, home: Path) -> AsyncIterator[tuple[str, int]]:
    server = Server(home, desk.intake._settings, clock=lambda: NOW, tell=lambda _told: None)  # noqa: SLF001
    yield await server.start("127.0.0.1", 0)
    await server.stop()


STRIPE = "POST /v1/events/stripe HTTP/1.1\r\nHost: x\r\n"
JSON = "Content-Type: application/json\r\n"
EMPTY, TWO = "Content-Length: 0\r\n\r\n", "Content-Length: 2\r\n\r\n{}"
REQUESTS = [
    f"{STRIPE}Content-Length: -1\r\n\r\n",
    f"{STRIPE}Content-Type: \xff\r\n{EMPTY}",
    f"{STRIPE}{JSON}Stripe-Signature: \xff\xfe\r\n{TWO}",
    f"{STRIPE}{JSON}Stripe-Signature: a\r\nStripe-Signature: b\r\n{TWO}",
    f"{STRIPE}{JSON}Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    f"{STRIPE}Content-Type: application/json; charset=nope\r\nStripe-Signature: t=1,v1=0\r\n{TWO}",
    f"{STRIPE}Expect: what\r\n{EMPTY}",
    f"POST /v1/events/zuora HTTP/1.1\r\nHost: x\r\n{JSON}Authorization: Basic \xe9\r\n{TWO}",
    f"POST /v1/events/%00%ff HTTP/1.1\r\nHost: x\r\n{EMPTY}",
    f"POST /v1/events/../../etc HTTP/1.1\r\nHost: x\r\n{EMPTY}",
    f"GET /{'a' * 20_000} HTTP/1.1\r\nHost: x\r\n\r\n",
    "\x00\x01\x02\r\n\r\n",
]


@pytest.mark.parametrize("sent", REQUESTS)
async def test_no_request_is_answered_with_a_fault_of_the_server(
    desk: Desk, address: tuple[str, int], sent: str
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent.encode("latin-1"))
    async with asyncio.timeout(20):
        line = await reader.readline()
    writer.close()
    assert 400 <= int(line.split()[1]) < 500, line
    assert [] == desk.statuses()


async def test_random_bodies_with_good_signatures_are_never_a_fault_of_the_server(
    desk: Desk, address: tuple[str, int]
) -> None:
    samples: list[tuple[str, bytes]] = []

    @settings(max_examples=150, deadline=None, database=None)
    @given(sent=nearly_right(), raw=st.binary(max_size=60))
    def draw(sent: tuple[str, Any], raw: bytes) -> None:
        samples.extend([(sent[0], json.dumps(sent[1]).encode()), (sent[0], raw)])

    draw()
    async with aiohttp.ClientSession() as http:
        for source, body in samples:
            headers = {
                "Content-Type": ADAPTERS[source].media[-1],
                desk.intake.source(source).proof.header: sources.proof(source, body, NOW),
            }
            url = f"http://{address[0]}:{address[1]}/v1/events/{source}"
            async with http.post(url, data=body, headers=headers) as answer:
                assert answer.status in (200, 400, 409), (source, body)
