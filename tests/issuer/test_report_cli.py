"""Reports in and usage out as somebody types it: many files at once, each judged by itself."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lls.issuer.cli import app
from tests.issuer.appliance import Appliance, line, order


class Desk:
    """A vendor with one server in the field; the commands read the real clock."""

    def __init__(self, home: Path, appliance: Appliance, folder: Path) -> None:
        self.home, self.appliance, self.folder = home, appliance, folder
        appliance.now = datetime.now(UTC) - timedelta(days=70)
        self.run("init", "--no-passphrase")
        self.run("catalog", "load", home / "catalog.toml")
        (folder / "request").write_text(appliance.request())
        (folder / "order").write_bytes(order(appliance, line()))
        self.run("server", "register", folder / "request")
        (fulfilled,) = self.json("order", "fulfil", folder / "order")["orders"]
        self.key = fulfilled["entitlements"][0]["entitlement_id"]
        bundle = folder / "bundle"
        self.run("bundle", "issue", "--server", appliance.server_id, "-o", bundle)

    def run(self, *words: str | Path, code: int = 0) -> Result:
        result = CliRunner().invoke(app, ["--home", str(self.home), *map(str, words)])
        assert code == result.exit_code, result.output
        return result

    def json(self, *words: str | Path, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code).stdout)

    def reports(self, count: int) -> list[Path]:
        """Reports that follow one another."""
        paths = [self.folder / f"{n}.llsreport" for n in range(count)]
        for path in paths:
            self.appliance.grant(self.key)
            self.appliance.wait(hours=1)
            self.appliance.report(path, after=self.appliance.reported)
        return paths


@pytest.fixture
def desk(home: Path, appliance: Appliance, tmp_path: Path) -> Desk:
    return Desk(home, appliance, tmp_path)


def test_reports_are_taken_in_whatever_their_order(desk: Desk) -> None:
    taken = desk.json("report", "ingest", *reversed(desk.reports(4)))
    assert ([1, 3, 5, 7], []) == (sorted(one["from_seq"] for one in taken["reports"]), taken["refused"])


def test_a_refused_report_holds_no_other_one_up_and_is_told_in_the_exit_status(desk: Desk) -> None:
    good = desk.reports(2)
    edited, junk, missing = (desk.folder / name for name in ("edited", "junk", "missing"))
    stranger = Appliance.new(seed=5)
    desk.appliance.report(edited, after=desk.appliance.reported, key=stranger.signing_key)
    junk.write_bytes(b"\x00junk")
    taken = desk.json("report", "ingest", junk, good[0], edited, missing, good[1], code=1)
    assert [1, 3] == [one["from_seq"] for one in taken["reports"]]
    assert {
        ("junk", "refused_document", "malformed"),
        ("edited", "refused_document", "signature"),
        ("missing", "file", "unreadable"),
    } == {(Path(one["file"]).name, one["code"], one["problem"]) for one in taken["refused"]}


def test_refusals_are_sentences_that_say_what_to_do(desk: Desk) -> None:
    first, second, third = desk.reports(3)
    result = desk.run("report", "ingest", third, first, code=1)
    assert f"lls-issuer: {third}: Lines 3 to 4 are missing" in result.stderr
    assert "Ask the site for the report that ends at line 4" in result.stderr
    assert "1 of 2 reports are taken in, 1 refused." in result.stderr
    assert "lls-issuer receipt issue --report" in result.stderr
    junk = desk.folder / "junk"
    junk.write_bytes(b"junk")
    assert "ask the site to write it again" in desk.run("report", "ingest", junk, code=1).stderr
    desk.run("report", "ingest", second, third)


def test_what_was_refused_is_remembered_for_who_is_asked_about_it(desk: Desk) -> None:
    _, second = desk.reports(2)
    edited, junk = desk.folder / "edited", desk.folder / "junk"
    desk.appliance.report(edited, after=desk.appliance.reported, key=Appliance.new(seed=5).signing_key)
    junk.write_bytes(b"\x00junk")
    desk.run("report", "ingest", second, junk, edited, desk.folder / "missing", code=1)
    refused = desk.json("report", "list", "--refused")["refused"]
    assert [
        ("junk", "malformed", None),
        ("edited", "signature", desk.appliance.server_id),
        (second.name, "gap", desk.appliance.server_id),
    ] == [(one["file"], one["problem"], one["server_id"]) for one in refused]
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in (junk, edited, second)] == [
        one["sha256"] for one in refused
    ]
    assert all(one["detail"] and one["refused_by"] and one["refused_at"] for one in refused)
    of_this = desk.json("report", "list", "--refused", "--server", desk.appliance.server_id)["refused"]
    assert ["signature", "gap"] == [one["problem"] for one in of_this]
    told = [line for line in desk.json("audit")["history"] if line["kind"] == "report_refused"]
    assert [one["sha256"] for one in refused] == [line["what"]["sha256"] for line in told]
    assert all("detail" not in line["what"] for line in told)
    desk.run("audit", "verify")
    assert "3 more were refused" in desk.run("report", "list").stderr


def test_what_only_waited_for_another_file_was_not_refused(desk: Desk) -> None:
    desk.run("report", "ingest", *reversed(desk.reports(3)))
    assert [] == desk.json("report", "list", "--refused")["refused"]


def test_a_report_of_nobodys_server_is_remembered_with_what_it_says_to_be(desk: Desk) -> None:
    stranger = Appliance.new(seed=9)
    stranger.report_key = desk.appliance.report_key
    stranger.now = desk.appliance.now
    path = desk.folder / "stranger"
    stranger.report(path)
    desk.run("report", "ingest", path, code=1)
    (refused,) = desk.json("report", "list", "--refused")["refused"]
    assert ("unknown_server", stranger.server_id, None) == tuple(
        refused[name] for name in ("problem", "claimed", "server_id")
    )


def test_a_device_is_no_report_and_leaves_nothing(desk: Desk) -> None:
    """One such as /dev/zero has no end that could be hashed."""
    desk.run("report", "ingest", "/dev/null", code=1)
    assert [] == desk.json("report", "list", "--refused")["refused"]


def test_the_same_file_named_twice_is_read_once(desk: Desk) -> None:
    (path,) = desk.reports(1)
    assert 1 == len(desk.json("report", "ingest", path, path)["reports"])


def test_a_month_is_closed_and_exported_in_every_form(desk: Desk) -> None:
    path = desk.reports(1)[0]
    desk.run("report", "ingest", path)
    month = f"{desk.appliance.now - timedelta(hours=1):%Y-%m}"
    assert "did not report beyond its end" in desk.run("usage", "close", "--period", month, code=1).stderr
    closed = desk.json("usage", "close", "--period", month, "--anyway")
    assert (month, 1, False) == (closed["closed_with"], closed["awaited"], closed["already_closed"])
    assert "nothing changed" in desk.run("usage", "close", "--period", month).stderr
    table = desk.run("usage", "export", "--period", month, "--closed").stdout
    events = desk.run("usage", "export", "--period", month, "--closed", "--format", "cloudevents").stdout.splitlines()
    lines = json.loads(desk.run("usage", "export", "--period", month, "--format", "json").stdout)["lines"]
    assert closed["lines"] == lines == [json.loads(event)["data"] for event in events]
    assert [one["line_id"] for one in lines] == [row["line_id"] for row in csv.DictReader(io.StringIO(table))]
    assert {"true"} == {row["closed"] for row in csv.DictReader(io.StringIO(table))}


@pytest.mark.parametrize("words", [("export", "--period", "2026-13"), ("close", "--period", "x"), ("close",)])
def test_what_is_no_month_is_wrong_usage(desk: Desk, words: tuple[str, ...]) -> None:
    desk.run("usage", *words, code=2)


def test_a_month_that_is_not_over_is_not_closed(desk: Desk) -> None:
    assert "is not over" in desk.run("usage", "close", "--period", "2999-01", code=1).stderr


def test_views_are_shown_and_drawn(desk: Desk) -> None:
    desk.run("report", "ingest", *desk.reports(2))
    picture = desk.folder / "peaks.svg"
    seen = desk.json("view", "customer", "ACME", "--plot", picture)
    assert [2] == [one["in_use"] for one in seen["entitlements"]]
    assert picture.read_bytes().startswith(b"<?xml")
    assert 0o600 == picture.stat().st_mode & 0o777
    shown = desk.run("view", "customer", "ACME").stdout
    assert all(title in shown for title in ("Servers", "Entitlements", "Seats per day", "Refusals"))
    assert desk.key in desk.run("view", "renewals", "--within", "3650").stdout
    assert [] == desk.json("view", "renewals", "--within", "7")["renewals"]
    assert "no customer NOBODY" in desk.run("view", "customer", "NOBODY", code=1).stderr


def test_nothing_is_drawn_of_a_customer_that_never_reported(desk: Desk) -> None:
    result = desk.run("view", "customer", "ACME", "--plot", desk.folder / "none.svg")
    assert "was not written" in result.stderr
    assert not (desk.folder / "none.svg").exists()


def test_the_feed_is_asked_with_its_own_number(desk: Desk) -> None:
    feed = desk.json("feed", "entitlements")
    assert "sold" == feed["changes"][0]["change"]
    assert [] == desk.json("feed", "entitlements", "--since", str(feed["next"]))["changes"]
    assert f"--since {feed['next']}" in desk.run("feed", "entitlements").stderr
    desk.run("feed", "entitlements", "--since", "-1", code=2)
