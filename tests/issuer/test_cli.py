"""The commands as a vendor's person types them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lls.issuer.cli import app
from lls.signed.keys import read_key_set
from tests.issuer.appliance import METERED, Appliance, line, meter, order


class Terminal:
    """Runs commands and says what they printed."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *words: str | Path) -> Result:
        return CliRunner().invoke(app, ["--home", str(self.home), *map(str, words)])

    def done(self, *words: str | Path) -> str:
        result = self.run(*words)
        assert 0 == result.exit_code, result.output
        return result.stdout

    def json(self, *words: str | Path) -> Any:
        return json.loads(self.done(*words, "--json"))

    def refused(self, *words: str | Path) -> str:
        result = self.run(*words)
        assert (1, "") == (result.exit_code, result.stdout)
        assert result.stderr.startswith("lls-issuer: ")
        assert 1 == result.stderr.count("\n")
        return result.stderr


@pytest.fixture
def terminal(home: Path) -> Terminal:
    terminal = Terminal(home)
    terminal.done("init", "--no-passphrase")
    terminal.done("catalog", "load", home / "catalog.toml")
    return terminal


def test_the_loop_by_hand(terminal: Terminal, appliance: Appliance, tmp_path: Path) -> None:
    appliance.now = datetime.now(UTC)  # the commands read the real clock
    (tmp_path / "site.llsreq").write_text(appliance.request())
    (tmp_path / "order.json").write_bytes(order(appliance, line(1), line(2, sku="CAD-PRO-TRIAL", quantity=1)))
    terminal.done("keys", "export", "-o", tmp_path / "vendor.llskeys")
    server = terminal.json("server", "register", tmp_path / "site.llsreq")
    (fulfilled,) = terminal.json("order", "fulfil", tmp_path / "order.json")["orders"]
    entitlement_id = fulfilled["entitlements"][0]["entitlement_id"]
    bundle = terminal.json("bundle", "issue", "--server", server["server_id"], "-o", tmp_path / "b.llsbundle")
    opened, _ = appliance.open(
        (tmp_path / "b.llsbundle").read_bytes(), read_key_set((tmp_path / "vendor.llskeys").read_bytes())
    )
    assert bundle["bundle_id"] == opened.bundle_id

    appliance.grant(entitlement_id, seats=5)
    appliance.wait(hours=1)
    report_id = appliance.report(tmp_path / "u.llsreport")
    (taken,) = terminal.json("report", "ingest", tmp_path / "u.llsreport")["reports"]
    assert (report_id, False, 3) == (taken["report_id"], taken["already_ingested"], taken["new_lines"])
    receipt = terminal.json("receipt", "issue", "--report", report_id, "-o", tmp_path / "r.llsreceipt")
    (listed,) = terminal.json("report", "list")["reports"]
    assert (receipt["receipt_id"], 3) == (listed["receipt_id"], receipt["up_to_seq"])
    lines = json.loads(terminal.done("usage", "export", "--format", "json", "--period", taken["usage"][0]["day"][:7]))
    assert "5.0000" in [each["quantity"] for each in lines["lines"] if each["sku"] == "CAD-PRO-1Y"]
    assert terminal.done("usage", "export", "--customer", "ACME").startswith("line_id,period,customer_id,")


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "show"),
        ("catalog", "show"),
        ("customer", "list"),
        ("server", "list"),
        ("entitlement", "list"),
        ("report", "list"),
    ],
)
def test_every_reading_command_speaks_json(terminal: Terminal, words: tuple[str, ...]) -> None:
    assert isinstance(terminal.json(*words), dict)
    assert terminal.done(*words)


def test_codes_are_shown_where_they_are_asked_for_only(
    terminal: Terminal, appliance: Appliance, tmp_path: Path
) -> None:
    (tmp_path / "site.llsreq").write_text(appliance.request())
    (tmp_path / "order.json").write_bytes(order(appliance, line(sku="CAD-PRO-TRIAL")))
    terminal.done("server", "register", tmp_path / "site.llsreq")
    (fulfilled,) = terminal.json("order", "fulfil", tmp_path / "order.json")["orders"]
    (sold,) = fulfilled["entitlements"]
    (code,) = sold["activation_codes"]
    assert code not in terminal.done("entitlement", "list") + terminal.done("entitlement", "list", "--json")
    assert code in terminal.done("entitlement", "show", sold["entitlement_id"])
    assert code in terminal.done("order", "fulfil", tmp_path / "order.json")


def test_refusals_are_one_sentence_and_leave_no_file(terminal: Terminal, appliance: Appliance, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"\x00junk")
    out = tmp_path / "out"
    for words in (
        ("init", "--no-passphrase"),
        ("catalog", "load", tmp_path / "junk"),
        ("catalog", "load", tmp_path / "missing"),
        ("catalog", "load", tmp_path),
        ("order", "fulfil", tmp_path / "junk"),
        ("server", "register", tmp_path / "junk"),
        ("bundle", "issue", "--server", "lls_nobody", "-o", out),
        ("bundle", "issue", "--server", "lls_nobody", "-o", tmp_path / "no such" / "out"),
        ("report", "ingest", tmp_path / "junk"),
        ("report", "ingest", tmp_path / "missing"),
        ("receipt", "issue", "--report", "rpt_none", "-o", out),
        ("entitlement", "show", "ent_none"),
        ("entitlement", "list", "--customer", "NOBODY"),
        ("report", "list", "--server", "lls_none"),
        ("keys", "export", "-o", out, "--version", "2"),
        ("usage", "export", "--customer", "NOBODY"),
        ("return", "accept", tmp_path / "junk"),
        ("return", "accept", tmp_path / "missing"),
        ("server", "retire", "lls_none"),
        ("entitlement", "disable", "ent_none"),
        ("entitlement", "enable", "ent_none"),
        ("entitlement", "renew", "ent_none"),
        ("entitlement", "reset-usage", "ent_none"),
        ("entitlement", "host", "ent_none", "--server", "lls_none"),
        ("grant", "add", "ent_none", "--feature", "frames", "--amount", "1"),
        ("grant", "add", "ent_none", "--feature", "frames", "--amount", "1", "--expiry", "custom"),
        ("grant", "add", "ent_none", "--feature", "frames", "--amount", "1", "--expiry", "at", "--at", "soon"),
        ("grant", "add", "ent_none", "--feature", "frames", "--amount", "1", "--active-from", "soon"),
        ("grant", "revoke", "grt_none"),
    ):
        assert terminal.refused(*words)
    assert not out.exists()
    assert "no issuer's home" in Terminal(tmp_path / "elsewhere").refused("keys", "show")


def test_wrong_usage_is_exit_status_2(terminal: Terminal, tmp_path: Path) -> None:
    for words in (
        ("bundle", "issue"),
        ("usage", "export", "--period", "2026-13"),
        ("customer", "add", "ACME", "Acme", "--field", "novalue"),
        ("nonsense",),
        ("grant", "add", "ent_none", "--feature", "frames", "--amount", "0"),
        ("grant", "add", "ent_none", "--feature", "frames", "--amount", "1", "--expiry", "soon"),
        ("entitlement", "host", "ent_none"),
        ("init", "--no-passphrase", "--passphrase-file", tmp_path / "p"),
    ):
        assert 2 == terminal.run(*words).exit_code
    assert 2 == CliRunner().invoke(app, ["keys", "show"]).exit_code
    assert 2 == Terminal(tmp_path / "new").run("init").exit_code


def test_a_passphrase_comes_from_a_file_or_the_environment(
    tmp_path: Path, appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "passphrase").write_text("correct horse\n")
    terminal = Terminal(tmp_path / "v")
    terminal.done("init", "--passphrase-file", tmp_path / "passphrase")
    assert "encrypted" in terminal.refused("keys", "rotate")
    terminal.done("keys", "rotate", "--passphrase-file", tmp_path / "passphrase")
    monkeypatch.setenv("LLS_ISSUER_PASSPHRASE", "battery staple")
    assert "does not open" in terminal.refused("keys", "rotate")
    monkeypatch.setenv("LLS_ISSUER_PASSPHRASE", "correct horse")
    terminal.done("keys", "rotate")
    assert [1, 2, 3] == [each["version"] for each in terminal.json("keys", "show")["key_sets"]]


def test_the_reports_before_a_refused_one_stay_in(terminal: Terminal, appliance: Appliance, tmp_path: Path) -> None:
    (tmp_path / "site.llsreq").write_text(appliance.request())
    terminal.done("server", "register", tmp_path / "site.llsreq")
    appliance.report(tmp_path / "1")
    appliance.report(tmp_path / "lost", after=1)
    appliance.report(tmp_path / "3", after=2)
    result = terminal.run("report", "ingest", tmp_path / "1", tmp_path / "3")
    assert 1 == result.exit_code
    assert "Line 2 is missing" in result.stderr
    assert "1 of 2 reports are taken in, 1 refused." in result.stderr
    assert 1 == len(terminal.json("report", "list")["reports"])


def test_names_are_printed_as_they_are(terminal: Terminal) -> None:
    terminal.done("customer", "add", "ACME", "[red]Acme[/red] 株式会社", "--field", "region=eu")
    assert "[red]Acme[/red] 株式会社" in terminal.done("customer", "list")
    assert {"region": "eu"} == terminal.json("customer", "list")["customers"][0]["custom_fields"]


def test_json_is_ascii_whatever_names_hold(terminal: Terminal) -> None:
    name = "Äcme ü"
    assert terminal.done("customer", "add", "C-1", name, "--json").isascii()
    assert name == terminal.json("customer", "list")["customers"][0]["name"]


def test_a_passphrase_that_no_key_file_takes_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal(tmp_path / "new")
    (tmp_path / "pass").write_bytes(b"x" * 1024)
    assert "longer than 1023 bytes" in terminal.refused("init", "--passphrase-file", tmp_path / "pass")
    monkeypatch.setenv("LLS_ISSUER_PASSPHRASE", "\udcff\udcfe")
    assert "not UTF-8" in terminal.refused("init")
    assert not (terminal.home / "keys").exists()


def test_an_output_that_cannot_be_written_is_named_as_it_was_asked_for(terminal: Terminal, tmp_path: Path) -> None:
    for output in (tmp_path, tmp_path / "no" / "such"):
        assert terminal.refused("usage", "export", "-o", output).startswith(f"lls-issuer: {output} cannot be written")


@pytest.fixture
def sold(terminal: Terminal, appliance: Appliance, tmp_path: Path) -> str:
    """An entitlement with counted features, on a server of the customer."""
    appliance.now = datetime.now(UTC)
    (tmp_path / "metered.toml").write_text(METERED)
    (tmp_path / "site.llsreq").write_text(appliance.request())
    (tmp_path / "order.json").write_bytes(order(appliance, line(sku="CAD")))
    terminal.done("catalog", "load", tmp_path / "metered.toml")
    terminal.done("server", "register", tmp_path / "site.llsreq")
    (fulfilled,) = terminal.json("order", "fulfil", tmp_path / "order.json")["orders"]
    return str(fulfilled["entitlements"][0]["entitlement_id"])


def test_what_changes_of_an_entitlement_is_typed_and_told(terminal: Terminal, sold: str) -> None:
    first = terminal.json("entitlement", "renew", sold, "--ref", "SO-2")
    assert first | {"already_done": True} == terminal.json("entitlement", "renew", sold, "--ref", "SO-2")
    assert 1 == len(first["command_ids"])
    assert 1 == len(terminal.json("entitlement", "reset-usage", sold, "--feature", "cloud")["command_ids"])
    assert "disabled" == terminal.json("entitlement", "disable", sold)["entitlement"]["status"]
    assert "active" == terminal.json("entitlement", "enable", sold)["status"]
    words = ("grant", "add", sold, "--feature", "cloud", "--amount", "500", "--expiry", "custom", "--unit", "month")
    given = terminal.json(*words, "--count", "3", "--ref", "SO-3")
    assert given["grant_id"] in terminal.done("entitlement", "show", sold)
    revoked = terminal.json("grant", "revoke", given["grant_id"])
    assert given["entitlement"]["sequence"] + 1 == revoked["entitlement"]["sequence"]
    for spoken in (
        ("entitlement", "renew", sold), ("entitlement", "reset-usage", sold), ("entitlement", "disable", sold),
        ("entitlement", "disable", sold), ("entitlement", "enable", sold),
        ("grant", "add", sold, "--feature", "gpu", "--amount", "1"),
    ):  # fmt: skip
        result = terminal.run(*spoken)
        assert (0, "") == (result.exit_code, result.stdout)
        assert sold in result.stderr or "Counters begin anew" in result.stderr or "grt_" in result.stderr


def test_an_entitlement_moves_by_its_return(
    terminal: Terminal, appliance: Appliance, sold: str, tmp_path: Path
) -> None:
    terminal.done("keys", "export", "-o", tmp_path / "vendor.llskeys")
    terminal.done("bundle", "issue", "--server", appliance.server_id, "-o", tmp_path / "b")
    opened, _ = appliance.open((tmp_path / "b").read_bytes(), read_key_set((tmp_path / "vendor.llskeys").read_bytes()))
    document = appliance.return_entitlement(opened.entitlements[0], meters=[meter("frames", {"allowance": (100, 40)})])
    (tmp_path / "it.llsreturn").write_text(document)
    assert "Ingest the report" in terminal.refused("return", "accept", tmp_path / "it.llsreturn")
    appliance.report(tmp_path / "r")
    terminal.done("report", "ingest", tmp_path / "r")
    accepted = terminal.json("return", "accept", tmp_path / "it.llsreturn")
    assert (False, sold, 40) == (
        accepted["already_accepted"], accepted["entitlement_id"], accepted["meters"][0]["consumed"],
    )  # fmt: skip
    assert terminal.json("return", "accept", tmp_path / "it.llsreturn")["already_accepted"]
    assert "accepted before" in terminal.run("return", "accept", tmp_path / "it.llsreturn").stderr
    assert [None] == [each["server_id"] for each in terminal.json("entitlement", "list")["entitlements"]]

    second = Appliance.new(seed=50_000)
    second.now = appliance.now
    (tmp_path / "second.llsreq").write_text(second.request())
    terminal.done("server", "register", tmp_path / "second.llsreq", "--customer", "ACME")
    there = terminal.json("entitlement", "host", sold, "--server", second.server_id)
    assert (second.server_id, False) == (there["server_id"], there["already_hosted"])
    assert {"frames": 60, "pages": 10, "cloud": 0, "gpu": 4} == {one["key"]: one["value"] for one in there["features"]}
    assert 1 == len(there["warnings"])
    assert terminal.json("entitlement", "host", sold, "--server", second.server_id)["already_hosted"]


def test_a_lost_server_says_when_what_it_hosted_is_free(terminal: Terminal, appliance: Appliance, sold: str) -> None:
    assert "--lost --confirm NAME" in terminal.refused("server", "retire", appliance.server_id)
    assert "--confirm 'site'" in terminal.refused("server", "retire", appliance.server_id, "--lost")
    words = ("server", "retire", appliance.server_id, "--lost", "--confirm", "site")
    told = terminal.run(*words).stderr
    assert f"{sold} may have borrowed seats until" in told
    again = terminal.json(*words)
    assert (True, True, []) == (again["already_retired"], again["lost"], again["freed"])
    assert "retired" in terminal.refused("bundle", "issue", "--server", appliance.server_id, "-o", terminal.home / "x")
