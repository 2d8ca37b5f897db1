"""Customers and the history as a vendor's person types them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.issuer.appliance import Appliance, order
from tests.issuer.test_cli import Terminal

SCHEMA = """
format = 1
[fields.region]
type = "choice"
choices = ["north", "south"]
in_bundle = true
"""


@pytest.fixture
def terminal(home: Path) -> Terminal:
    terminal = Terminal(home)
    terminal.done("init", "--no-passphrase")
    terminal.done("catalog", "load", home / "catalog.toml")
    return terminal


def test_a_file_is_imported_as_it_was_rehearsed(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "crm.csv"
    file.write_text("account_ref;name;field.region\nC-1;One;north\nC-2;;north\nC-3;Three;west\n")
    (tmp_path / "fields.toml").write_text(SCHEMA)
    terminal.done("customer", "fields", "load", tmp_path / "fields.toml")
    assert ["north", "south"] == terminal.json("customer", "fields", "show")["fields"][0]["choices"]
    for words, told in {
        (
            "--dry-run",
        ): "A dry run, nothing was written. It would be: 1 added, 0 changed, 0 as they were, 2 rows refused.",
        ("--all-or-nothing",): "Nothing was written, because of 2 rows refused.",
        (): "Customers: 1 added, 0 changed, 0 as they were, 2 rows refused.",
    }.items():
        result = terminal.run("customer", "import", file, *words)
        assert (1, "") == (result.exit_code, result.stdout)
        assert told in result.stderr
        assert "Row 3, column name: is missing, and there is no such customer yet." in result.stderr
        assert "Row 4, column field.region: must be one of north, south." in result.stderr
    assert ["C-1"] == [one["account_ref"] for one in terminal.json("customer", "list")["customers"]]
    file.write_text("account_ref;name\nC-1;Eins\n")
    imported = terminal.json("customer", "import", file)
    assert (1, [], True, False) == (imported["changed"], imported["refused"], imported["kept"], imported["dry_run"])


def test_a_refused_file_is_one_sentence_and_hundreds_of_refused_rows_are_a_page(
    terminal: Terminal, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes("account_ref,name\nC-1,Äcme".encode("cp1252"))
    assert "--encoding cp1252" in terminal.refused("customer", "import", tmp_path / "a.csv")
    terminal.done("customer", "import", tmp_path / "a.csv", "--encoding", "cp1252")
    assert "Äcme" == terminal.json("customer", "show", "C-1")["name"]
    (tmp_path / "b.csv").write_text("account_ref,name\n" + "C-2,=\n" * 300)
    told = terminal.run("customer", "import", tmp_path / "b.csv").stderr
    assert "300 rows refused" in told
    assert len(told.splitlines()) < 60
    whole = terminal.run("customer", "import", tmp_path / "b.csv", "--json")
    assert (1, 600) == (whole.exit_code, len(json.loads(whole.stdout)["refused"]))


def test_a_customer_is_edited_and_shown(terminal: Terminal) -> None:
    terminal.done("customer", "add", "C-1", "One", "--field", "colour=red")
    words = ("--contact", "Ada <ada@one.example>, buyer, +49 1", "--contact", "<it@one.example>", "--note", "Hello")
    whole = terminal.json("customer", "edit", "C-1", *words, "--name", "Eins", "--no-field", "colour")
    assert ("Eins", {}) == (whole["name"], whole["custom_fields"])
    assert [
        {"email": "ada@one.example", "name": "Ada", "phone": "+49 1", "role": "buyer"},
        {"email": "it@one.example", "name": None, "phone": None, "role": None},
    ] == whole["contacts"]
    shown = terminal.done("customer", "show", "C-1")
    assert "Ada, ada@one.example, buyer, +49 1" in shown
    assert "contacts (2), notes (1)" in shown
    for wrong in (("--contact", "Ada"), ("--field", "colour")):
        assert 2 == terminal.run("customer", "edit", "C-1", *wrong).exit_code
    assert "There is no customer C-9" in terminal.refused("customer", "edit", "C-9", "--name", "Nine")


def test_disable_enable_and_delete_say_what_comes_next(
    terminal: Terminal, appliance: Appliance, tmp_path: Path
) -> None:
    appliance.now = datetime.now(UTC)
    (tmp_path / "site.llsreq").write_text(appliance.request())
    (tmp_path / "order.json").write_bytes(order(appliance))
    terminal.done("server", "register", tmp_path / "site.llsreq")
    terminal.done("order", "fulfil", tmp_path / "order.json")
    told = terminal.run("customer", "disable", "ACME").stderr
    assert (
        f"ACME is disabled, with 1 entitlements.\nNext: lls-issuer bundle issue --server {appliance.server_id}" in told
    )
    assert "nothing changed" in terminal.run("customer", "disable", "ACME").stderr
    assert not terminal.json("customer", "enable", "ACME")["already_done"]
    assert "cannot be deleted: the server" in terminal.refused("customer", "delete", "ACME")
    terminal.done("server", "retire", appliance.server_id, "--lost", "--confirm", "site")
    name = terminal.json("customer", "show", "ACME")["name"]
    assert f"--confirm {name!r}" in terminal.refused("customer", "delete", "ACME")
    deleted = terminal.json("customer", "delete", "ACME", "--confirm", name)
    assert (1, 1) == (deleted["below"]["server"], deleted["below"]["entitlement"])
    assert "customer_deleted" == terminal.json("audit", "--customer", "ACME")["history"][-1]["kind"]


def test_the_history_says_who_and_why(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    terminal.done("--by", "Ada", "--reason", "fair in May", "customer", "add", "C-1", "[red]One")
    monkeypatch.setenv("LLS_ISSUER_ACTOR", "Bob")
    terminal.done("customer", "edit", "C-1", "--note", "Hello")
    first, second = terminal.json("audit", "--customer", "C-1")["history"]
    assert ("Ada", "fair in May", "customer_added") == (first["by"], first["reason"], first["kind"])
    assert ("Bob", None, True) == (second["by"], second["reason"], second["what"]["note"])
    assert "Hello" not in terminal.done("audit")
    assert "[red]One" in terminal.done("audit", "--since", "2026-01-01")
    assert [] == terminal.json("audit", "--since", "2999-01-01T00:00:00Z")["history"]
    assert 2 == terminal.run("audit", "--since", "yesterday").exit_code
    assert "printable" in terminal.refused("--by", "A\x1b[2J", "customer", "list")
    verified = terminal.json("audit", "verify")
    assert verified == terminal.json("audit", "verify", "--head", verified["head"])
    assert "cut off" in terminal.refused("audit", "verify", "--head", "ab" * 32)


@pytest.mark.parametrize("data", [b"\xff", b"format = 7", b""])
def test_a_schema_that_is_none_is_one_sentence(terminal: Terminal, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f.toml").write_bytes(data)
    terminal.refused("customer", "fields", "load", tmp_path / "f.toml")
