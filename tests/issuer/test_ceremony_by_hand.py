"""Several people, several machines, the commands as they type them."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner, Result

from lls.issuer.cli import app
from lls.signed.jose import SigningKey
from lls.signed.keys import read_key_set
from tests.issuer.appliance import Appliance, order
from tests.issuer.test_signers import TOKEN


class Desk:
    """A folder of somebody's, with the commands typed there."""

    def __init__(self, folder: Path, *, home: Path | None = None) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._home = [] if home is None else ["--home", str(home)]

    def run(self, line: str, *, typed: str | None = None) -> Result:
        words = [str(self.folder / word[1:]) if word.startswith("@") else word for word in shlex.split(line)]
        words = [
            f"{word.partition('=@')[0]}={self.folder / word.partition('=@')[2]}" if "=@" in word else word
            for word in words
        ]
        return CliRunner().invoke(app, [*self._home, *words], input=typed)

    def done(self, line: str, *, typed: str | None = None) -> str:
        result = self.run(line, typed=typed)
        assert 0 == result.exit_code, result.output
        return result.stdout

    def json(self, line: str) -> Any:
        return json.loads(self.done(f"{line} --json"))

    def refused(self, line: str) -> str:
        result = self.run(line)
        assert 1 == result.exit_code, result.output
        return result.stderr.splitlines()[-1]

    def carries(self, name: str, to: Desk) -> None:
        (to.folder / name).write_bytes((self.folder / name).read_bytes())


@pytest.fixture
def desks(tmp_path: Path) -> tuple[Desk, Desk, Desk]:
    """The office, and the desks of two people with keys."""
    office = Desk(tmp_path / "office", home=tmp_path / "office" / "home")
    people = (Desk(tmp_path / "ann"), Desk(tmp_path / "bob"))
    for name, desk in zip(("ann", "bob"), people, strict=True):
        (desk.folder / "secret").write_text(f"{name}'s passphrase\n")
        desk.done(f"keys make --name {name} --key @{name}.pem -o @{name}.llskey --passphrase-file @secret")
        desk.carries(f"{name}.llskey", office)
    return office, *people


def passed_around(office: Desk, people: tuple[Desk, ...], noun: str, name: str) -> None:
    """The file goes from desk to desk and back."""
    last = office
    for desk in people:
        last.carries(name, desk)
        desk.done(f"{noun} sign @{name} --key @{desk.folder.name}.pem --passphrase-file @secret --yes")
        last = desk
    last.carries(name, office)


def test_from_keys_to_a_bundle_that_two_people_signed(desks: tuple[Desk, Desk, Desk], appliance: Appliance) -> None:
    office, *people = desks
    appliance.now = datetime.now(UTC)
    whose = " ".join(f"--keys {role}=@{name}.llskey" for role in ("root", "bundle") for name in ("ann", "bob"))
    office.done(f"init --no-passphrase --threshold root=2,bundle=2,certificate=1 {whose}")
    office.done("catalog load @home/catalog.toml")
    (office.folder / "keys.pending").write_bytes((office.folder / "home" / "keys.pending").read_bytes())
    assert "keys seal" in office.refused("keys show")
    passed_around(office, tuple(people), "keys", "keys.pending")
    assert 1 == office.json("keys seal @keys.pending")["version"]
    office.done("keys export -o @vendor.llskeys")

    (office.folder / "site.llsreq").write_text(appliance.request())
    (office.folder / "order.json").write_bytes(order(appliance))
    office.done("server register @site.llsreq")
    office.done("order fulfil @order.json")
    assert "--unsigned" in office.refused(f"bundle issue --server {appliance.server_id} -o @b.llsbundle")
    made = office.json(f"bundle issue --server {appliance.server_id} --unsigned -o @b.pending")
    assert [("certificate", 1, 1), ("bundle", 0, 2)] == [
        (one["paper"], len(one["signed"]), one["threshold"]) for one in made["needs"]
    ]
    assert "2 more on the bundle" in office.refused("bundle seal @b.pending -o @b.llsbundle")
    assert "No key of this home" in office.refused("bundle sign @b.pending --yes")
    office.carries("vendor.llskeys", people[0])
    office.carries("b.pending", people[0])
    text = people[0].run("bundle sign @b.pending --key @ann.pem --trust @vendor.llskeys", typed="n\n")
    assert 1 == text.exit_code
    assert "50 seats of cad" in text.stdout
    assert "Nothing was signed" in text.stderr
    passed_around(office, tuple(people), "bundle", "b.pending")
    sealed = office.json("bundle seal @b.pending -o @b.llsbundle")
    bundle, _ = appliance.open(
        (office.folder / "b.llsbundle").read_bytes(), read_key_set((office.folder / "vendor.llskeys").read_bytes())
    )
    assert sealed["bundle_id"] == bundle.bundle_id

    report_id = appliance.report(office.folder / "u.llsreport")
    office.done("report ingest @u.llsreport")
    office.done(f"receipt issue --report {report_id} --unsigned -o @r.pending")
    assert "becomes a receipt" in office.refused("bundle seal @r.pending -o @x")
    passed_around(office, tuple(people), "receipt", "r.pending")
    assert report_id == office.json("receipt seal @r.pending -o @r.llsreceipt")["report_id"]


def test_a_key_is_added_taken_out_and_shown_with_its_holder(desks: tuple[Desk, Desk, Desk]) -> None:
    office, *_ = desks
    office.done("init --no-passphrase")
    added = office.json("keys add @ann.llskey @bob.llskey --role bundle --threshold bundle=2")
    assert (2, 3) == (added["roles"]["bundle"]["threshold"], len(added["roles"]["bundle"]["kids"]))
    held = added["roles"]["bundle"]["held_by"]
    assert ["ann (somebody else)", "bob (somebody else)", "this home"] == sorted(held.values())
    (bob,) = (kid for kid, holder in held.items() if holder.startswith("bob"))
    assert "can never be" in office.refused(f"keys remove {bob} --threshold bundle=3")
    assert bob not in office.json(f"keys remove {bob}")["roles"]["bundle"]["kids"]
    assert 4 == office.json("keys rotate")["version"]
    assert "ann" in office.done("keys show")


def test_another_key_set_than_the_signers_own_is_not_signed(desks: tuple[Desk, Desk, Desk], tmp_path: Path) -> None:
    office, ann, _ = desks
    office.done("init --no-passphrase --keys root=own --keys root=@ann.llskey --threshold root=2")
    (ann.folder / "keys.pending").write_bytes((office.folder / "home" / "keys.pending").read_bytes())
    other = Desk(tmp_path / "other", home=tmp_path / "other" / "home")
    other.done("init --no-passphrase")
    other.done("keys export -o @vendor.llskeys")
    other.carries("vendor.llskeys", ann)
    said = "keys sign @keys.pending --key @ann.pem --passphrase-file @secret --yes"
    assert "another key set in force" in ann.refused(f"{said} --trust @vendor.llskeys")
    ann.done(said)
    assert "signed this already" in ann.refused(said)
    ann.carries("keys.pending", office)
    office.done("keys seal @keys.pending")
    assert "needs root signatures" in office.refused("keys rotate")
    office.done("keys rotate -o @next.pending")
    office.carries("next.pending", ann)
    ann.done("keys sign @next.pending --key @ann.pem --passphrase-file @secret --yes")
    ann.carries("next.pending", office)
    assert 2 == office.json("keys seal @next.pending")["version"]


def test_a_token_signs_for_a_person_and_for_the_office(desks: tuple[Desk, Desk, Desk]) -> None:
    office, *_ = desks
    key = SigningKey.generate()
    (office.folder / "token.pem").write_bytes(key.to_pem())
    (office.folder / "signing_tool.py").write_text(TOKEN)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = key.public.native.public_bytes(serialization.Encoding.PEM, form)
    (office.folder / "token.pub").write_bytes(pem)
    tool = shlex.join(
        [sys.executable, *(str(office.folder / name) for name in ("signing_tool.py", "token.pem")), "raw digest"]
    )
    command = shlex.quote(f"{tool} {{digest}} {{output}}")
    office.done(f"keys make --name hsm --sign-with {command} --public-key @token.pub -o @hsm.llskey")
    office.done("init --no-passphrase --keys certificate=@hsm.llskey --keys root=@hsm.llskey")
    pending = office.folder / "home" / "keys.pending"
    office.done(f"keys sign {pending} --key @hsm.llskey --sign-with {command} --yes")
    office.done(f"keys seal {pending}")
    office.done(f"keys hold @hsm.llskey --sign-with {command}")
    assert 2 == office.json("keys rotate")["version"]


@pytest.mark.parametrize(
    "line",
    [
        "keys make --name x -o @x",
        "keys make --name x -o @x --key @k --public-key @p",
        "init --no-passphrase --threshold root=0",
        "init --no-passphrase --threshold ruler=1",
        "init --no-passphrase --threshold root=1,root=2",
        "init --no-passphrase --keys root",
        "keys hold @ann.llskey",
        "bundle issue --server x -o @x --license-until tomorrow",
    ],
)
def test_wrong_usage_is_exit_status_2(desks: tuple[Desk, Desk, Desk], line: str) -> None:
    assert 2 == desks[0].run(line).exit_code


def test_a_server_is_shown_its_terms_agreed_and_its_clock_taken_back(
    desks: tuple[Desk, Desk, Desk], appliance: Appliance
) -> None:
    office, *_ = desks
    appliance.now = datetime.now(UTC)
    office.done("init --no-passphrase")
    (office.folder / "site.llsreq").write_text(appliance.request())
    office.done("server register @site.llsreq")
    terms = f"server terms {appliance.server_id} --license-until 2099-01-01 --sync-days 30 --required 1 --binding host"
    assert {"license_until": "2099-01-01T00:00:00Z", "sync_days": 30, "required": 1}.items() <= (
        office.json(terms)["terms"].items()
    )
    assert "--confirm 'site'" in office.refused(f"server reset-clock {appliance.server_id}")
    ordered = office.json(f"server reset-clock {appliance.server_id} --confirm site")
    shown = office.json(f"server show {appliance.server_id}")
    assert [ordered["command_id"]] == [one["command_id"] for one in shown["commands"]]
    text = office.done(f"server show {appliance.server_id}")
    assert "until 2099-01-01T00:00:00Z" in text
    assert "clock_reset" in text
    assert (
        office.json(f"server terms {appliance.server_id} --license-until certificate")["terms"]["license_until"] is None
    )
