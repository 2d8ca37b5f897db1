"""Metrics and log lines: one list, one form, and never a secret."""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime

import pytest
from prometheus_client import generate_latest

from lls.telemetry import Metrics, fact, metrics, redacted, set_up_logging

SECRET = "q0C3mZb1x_-Ue7YtHs2kPvN5wLrJdFgA9oXiTzQ4M8c"
TOKEN = "eyJ0eXAiOiJsbHMtY2FwYWJpbGl0eStqd3QifQ.eyJzdWIiOiIwZDljIn0.c2lnbmF0dXJl"
CODE = "Y64E-G6QX-56EW-W1BG"
UUID = "0d9c1f6a-3b7e-4c55-9a10-7f2d8e6b4c21"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    yield from _captured(as_json=False)


@pytest.fixture
def json_lines() -> Iterator[io.StringIO]:
    yield from _captured(as_json=True)


def _captured(*, as_json: bool) -> Iterator[io.StringIO]:
    root, stream = logging.getLogger(), io.StringIO()
    before = root.level
    handler = set_up_logging(level="info", as_json=as_json, stream=stream)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)


LOG = logging.getLogger("lls.writer")


def test_a_line_is_one_fact_with_its_fields(lines: io.StringIO) -> None:
    at = datetime(2026, 11, 21, 7, tzinfo=UTC)
    LOG.info("granted", extra=fact(lease_id=UUID, seats=2, overdraft=False, edition=None, host="ws 17", at=at))
    LOG.debug("not at this level")
    stamp, _, rest = lines.getvalue().partition(" ")
    assert (24, "Z") == (len(stamp), stamp[-1])
    assert (
        f"INFO lls.writer granted lease_id={UUID} seats=2 overdraft=false edition=null "
        'host="ws 17" at=2026-11-21T07:00:00.000Z\n'
    ) == rest


def test_a_newline_in_a_value_forges_no_second_line(lines: io.StringIO) -> None:
    LOG.info("odd\nevent", extra=fact(name="a\n2026 INFO forged"))
    assert 1 == lines.getvalue().count("\n")


def test_json_carries_the_same_facts(json_lines: io.StringIO) -> None:
    LOG.warning("store is %s", "down", extra=fact(epoch=3, level="not the line's"))
    line = json.loads(json_lines.getvalue())
    assert ("WARNING", "lls.writer", "store is down", 3) == (
        line["level"],
        line["logger"],
        line["event"],
        line["epoch"],
    )


def test_a_failure_is_one_line_with_its_trace(lines: io.StringIO) -> None:
    try:
        int(f"Bearer {SECRET}")
    except ValueError:
        LOG.exception("unexpected")
    assert "ValueError" in lines.getvalue()
    assert SECRET not in lines.getvalue()
    assert 1 == lines.getvalue().count("\n")


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: bearer {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f"key llsk_{SECRET} refused",
        f'{{"kty": "EC", "d": "{SECRET}"}}',
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
        f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}",
    ],
)
def test_what_reads_like_a_secret_is_never_written(text: str, lines: io.StringIO, json_lines: io.StringIO) -> None:
    LOG.info("%s", text)
    LOG.info("seen", extra=fact(text=text))
    assert 4 == (lines.getvalue() + json_lines.getvalue()).count("[removed]")
    assert SECRET not in lines.getvalue() + json_lines.getvalue()


@pytest.mark.parametrize("text", [TOKEN, f"capability {TOKEN}.", CODE, f"code {CODE} refused", CODE.lower()])
def test_capabilities_and_activation_codes_are_never_written(text: str) -> None:
    assert "[removed]" in redacted(text)
    assert TOKEN not in redacted(text)
    assert CODE not in redacted(text)


@pytest.mark.parametrize(
    "name",
    [
        "secret",
        "lease_secret",
        "password",
        "token",
        "capability",
        "Authorization",
        "cookie",
        "nonce",
        "activation_code",
    ],
)
def test_fields_with_a_secrets_name_are_never_written(name: str, lines: io.StringIO) -> None:
    LOG.info("seen", extra={"fields": {name: "plain-looking"}})
    assert f"{name}=[removed]" in lines.getvalue()


@pytest.mark.parametrize(
    "text",
    [f"lease {UUID} expired", "lls_AAAAAAAAAAAAAAAAAAAAAA", "bearer", "https://10.0.0.7:6501/v1/leases", "a" * 64],
)
def test_what_an_administrator_needs_stays_readable(text: str) -> None:
    assert text == redacted(text)


def test_every_metric_has_its_meaning_and_our_prefix() -> None:
    found = list(metrics().registry.collect())
    assert len(fields(Metrics)) - 1 == len(found)
    assert [] == [one.name for one in found if not one.name.startswith("lls_") or not one.documentation.endswith(".")]


def test_two_servers_in_one_process_share_no_number() -> None:
    one, other = metrics(), metrics()
    one.heartbeats.inc()
    one.denials.labels(code="no_seat").inc(3)
    assert b"lls_heartbeats_total 1.0" in generate_latest(one.registry)
    assert b'lls_denials_total{code="no_seat"} 3.0' in generate_latest(one.registry)
    assert b"lls_heartbeats_total 0.0" in generate_latest(other.registry)
