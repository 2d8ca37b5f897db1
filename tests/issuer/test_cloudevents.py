"""Billing lines as events that a receiver may drop by their id, and nothing but what it knows."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.issuer import Issuer
from lls.issuer.billing import COLUMNS, billing_document
from lls.issuer.cloudevents import source_of, usage_events
from tests.issuer.appliance import NOW, Appliance, hosted, reported


def events(issuer: Issuer) -> list[dict[str, Any]]:
    data = usage_events(issuer.usage(), source=source_of(issuer.keyring.version(1)))
    return [json.loads(line) for line in data.decode("ascii").splitlines()]


@pytest.fixture
def entitlement_id(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> str:
    key = hosted(issuer, appliance).entitlements[0].entitlement_id
    appliance.grant(key)
    appliance.wait(hours=1)
    reported(issuer, appliance, tmp_path / "1")
    return key


def test_an_event_has_what_the_specification_asks_for(issuer: Issuer, entitlement_id: str) -> None:
    for event, line in zip(events(issuer), issuer.usage(), strict=True):
        assert {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"} == set(event)
        assert ("1.0", "lls.usage.v1", "application/json") == (
            event["specversion"], event["type"], event["datacontenttype"],
        )  # fmt: skip
        assert ("ACME", "2026-11-21T08:00:00Z") == (event["subject"], event["time"])
        assert billing_document(line) == event["data"]
        assert list(COLUMNS) == list(event["data"])
        assert event["source"].startswith("urn:lls-issuer:")


def test_the_same_content_has_the_same_id(issuer: Issuer, entitlement_id: str) -> None:
    before = events(issuer)
    assert before == events(issuer)
    assert len(before) == len({event["id"] for event in before})


def test_other_content_is_another_event_of_the_same_line(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    before = events(issuer)
    appliance.wait(hours=1)
    reported(issuer, appliance, tmp_path / "2", after=appliance.reported)
    after = events(issuer)
    assert not {event["id"] for event in before} & {event["id"] for event in after}
    assert [event["data"]["line_id"] for event in before] == [event["data"]["line_id"] for event in after]


def test_a_closed_line_has_one_event_for_ever(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    issuer.closing.close("2026-11", now=NOW + timedelta(days=20), anyway=True)
    closed = events(issuer)
    appliance.wait(hours=1)
    reported(issuer, appliance, tmp_path / "2", after=appliance.reported)
    assert closed == [event for event in events(issuer) if event["data"]["closed"]]
    assert [event["data"]["used_in"] for event in events(issuer) if not event["data"]["closed"]] == ["2026-11"]


def test_the_source_outlives_a_rotation_of_the_keys(issuer: Issuer, entitlement_id: str) -> None:
    before = {event["source"] for event in events(issuer)}
    issuer.rotate_keys(now=NOW)
    assert before == {event["source"] for event in events(issuer)}
