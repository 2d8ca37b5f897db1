"""Policy, borrowing, and what is done with a hosted entitlement: the conversation with the daemon, word for word."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Daemon, Lls

ID = "ent_CCCCCCCCCCCCCCCCCCCCCC"
RETURN = f"POST entitlements/{ID}/return"
DRAINING: dict[str, Any] = {"state": "draining", "leases": 2, "document": None}
RETURNED: dict[str, Any] = {"state": "returned", "leases": None, "document": "signed.return.document"}

HOSTED: dict[str, Any] = {
    "entitlement_id": ID,
    "order_ref": "SO-1",
    "product": "cad",
    "product_name": "CAD",
    "sku": "CAD-1Y",
    "offering": "CAD for a year",
    "edition": "pro",
    "status": "active",
    "standing": "active",
    "starts_at": "2026-11-20T07:00:00Z",
    "started_at": "2026-11-20T07:00:00Z",
    "expires_at": "2027-11-20T07:00:00Z",
    "maintenance_expires_on": None,
    "seats": 5,
    "in_use": 3,
    "concurrency": "named_user",
    "borrow": {"max_seconds": 1_209_600, "max_seats": 2},
    "borrowed": 1,
    "named_users": ["alice", "bob"],
    "named_user_assignment": {"by_site": True, "changes_per_month": 2},
    "assigned": ["carol"],
    "returning": True,
    "features": [
        {"key": "export", "type": "bool", "value": 1, "unit": None, "currency": None, "held": 0}
        | {"available": None, "total": None, "consumed": 0, "overage": 0, "ends_at": None},
        {"key": "render", "type": "usage_count", "value": 100, "unit": "frame", "currency": None, "held": 0}
        | {"available": None, "total": 100, "consumed": 120, "overage": 20, "ends_at": "2026-12-01T00:00:00Z"},
    ],
}


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the command would have slept, each time."""
    taken: list[float] = []
    monkeypatch.setattr("lls.cli.entitlement.time.sleep", taken.append)
    return taken


# ---------------------------------------------------------------- entitlements


def test_an_entitlement_is_shown_with_its_kind_its_names_and_its_figures(lls: Lls, daemon: Daemon) -> None:
    daemon.says("GET entitlements", {"entitlements": [HOSTED]})
    shown = lls("entitlement", "show", ID)
    assert (0, "") == (shown.status, shown.err)
    assert shown.out == (
        f"Entitlement  {ID}\n"
        "Product      CAD (cad)\n"
        "Offering     CAD for a year (CAD-1Y)\n"
        "Edition      pro\n"
        "Order        SO-1\n"
        "Standing     active, being returned\n"
        "Starts       2026-11-20 07:00:00Z\n"
        "Started      2026-11-20 07:00:00Z\n"
        "Expires      2027-11-20 07:00:00Z\n"
        "Maintenance  –\n"
        "Seats        3 of 5 in use\n"
        "Kind         named user\n"
        "Borrowed     1 of 2 seats, for 14 d at most\n"
        "Named        alice, bob\n"
        "Assigned     carol\n"
        "Changes      2 a month\n"
        "\n"
        "FEATURE  KIND         UNIT   BOUGHT       LEFT  CONSUMED  OVERAGE  ENDS\n"
        "export   bool         –      yes             –         –        –  –\n"
        "render   usage count  frame  100     unlimited       120       20  2026-12-01 00:00:00Z\n"
    )
    assert HOSTED == json.loads(lls("entitlement", "show", ID, "--json").out)


def test_an_entitlement_that_is_not_here_is_named(lls: Lls, daemon: Daemon) -> None:
    daemon.says("GET entitlements", {"entitlements": [HOSTED]})
    shown = lls("entitlement", "show", "ent_other")
    assert (1, "") == (shown.status, shown.out)
    assert "ent_other" in shown.err
    assert "lls entitlement list" in shown.err


def test_a_machine_bound_entitlement_says_when_a_seat_comes_free(lls: Lls, daemon: Daemon) -> None:
    locked = {"concurrency": "node_lock", "node_lock_release_after_seconds": 86_400, "borrow": None, "borrowed": 0}
    daemon.says("GET entitlements", {"entitlements": [HOSTED | locked | {"starts_at": None, "started_at": None}]})
    shown = lls("entitlement", "show", ID).out
    assert "Kind         node lock, a machine's seat comes free after 1 d\n" in shown
    assert "Borrowed     not allowed\n" in shown
    assert "Starts       with the first lease\n" in shown
    assert "Named" not in shown


@pytest.mark.parametrize(
    ("words", "request_", "said"),
    [
        (("assign", ID, "Ann Lee"), f"POST entitlements/{ID}/users/Ann%20Lee", f"Ann Lee may use {ID}.\n"),
        (
            ("unassign", ID, "DOM\\bob"),
            f"DELETE entitlements/{ID}/users/DOM%5Cbob",
            f"DOM\\bob may use {ID} no more; a seat that DOM\\bob has borrowed stays away until its end.\n",
        ),
        (("assign", ID, "CORP/ann"), f"POST entitlements/{ID}/users/CORP%2Fann", f"CORP/ann may use {ID}.\n"),
        (("keep", ID), f"DELETE entitlements/{ID}/return", f"{ID} stays; seats of it are granted again.\n"),
    ],
)
def test_who_is_named_and_what_stays_is_told_to_the_daemon(
    lls: Lls, daemon: Daemon, words: tuple[str, ...], request_: str, said: str
) -> None:
    daemon.says(request_, status=204)
    done = lls("entitlement", *words)
    assert (0, said, "") == (done.status, done.out, done.err)


@pytest.mark.parametrize("words", [("assign", ID, ".."), ("assign", " ", "ann"), ("keep", ".")])
def test_what_cannot_stand_in_an_address_is_wrong_usage(lls: Lls, daemon: Daemon, words: tuple[str, ...]) -> None:
    assert 2 == lls("entitlement", *words).status
    assert [] == daemon.heard


# ---------------------------------------------------------------- giving back


def test_a_return_waits_for_the_last_lease_and_says_how_many_are_left(
    lls: Lls, daemon: Daemon, folder: Path, naps: list[float]
) -> None:
    for answer in (DRAINING, DRAINING, DRAINING | {"leases": 1}, RETURNED):
        daemon.says(RETURN, answer)
    done = lls("entitlement", "return", ID, "-o", folder / "out")
    assert 0 == done.status
    assert ["2 leases are", "1 lease is"] == [line.split("; ")[1].split(" still")[0] for line in done.err.splitlines()]
    assert "signed.return.document" == (folder / "out").read_text()
    assert "lls report export" in done.out
    assert 3 == len(naps)
    assert [{"force": False}] * 4 == [json.loads(heard.body) for heard in daemon.heard]


def test_a_return_again_writes_the_identical_document(lls: Lls, daemon: Daemon, folder: Path) -> None:
    daemon.says(RETURN, RETURNED)
    for name in ("first", "second"):
        assert 0 == lls("entitlement", "return", ID, "-o", folder / name, "--force").status
    assert (folder / "first").read_bytes() == (folder / "second").read_bytes()
    assert {"force": True} == json.loads(daemon.heard[0].body)


def test_who_does_not_wait_is_told_that_nothing_was_written(
    lls: Lls, daemon: Daemon, folder: Path, naps: list[float]
) -> None:
    daemon.says(RETURN, DRAINING)
    done = lls("entitlement", "return", ID, "-o", folder / "out", "--no-wait")
    assert (4, "") == (done.status, done.out)
    assert "2 leases are still held; nothing was written" in done.err
    assert f"lls entitlement keep {ID}" in done.err
    assert ["admin.sock"] == names(folder)
    assert [] == naps


def test_who_breaks_the_waiting_off_is_told_that_it_drains_on(
    lls: Lls, daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.says(RETURN, DRAINING)

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lls.cli.entitlement.time.sleep", interrupted)
    done = lls("entitlement", "return", ID, "-o", folder / "out")
    assert (4, "") == (done.status, done.out)
    assert "drained all the same" in done.err
    assert f"lls entitlement keep {ID}" in done.err
    assert ["admin.sock"] == names(folder)


def test_a_file_that_exists_stays_and_the_daemon_hears_nothing(lls: Lls, daemon: Daemon, folder: Path) -> None:
    daemon.says(RETURN, RETURNED)
    (folder / "out").write_text("old")
    refused = lls("entitlement", "return", ID, "-o", folder / "out", "--force")
    assert 1 == refused.status
    assert "replace it with --overwrite" in refused.err
    assert ([], "old") == (daemon.heard, (folder / "out").read_text())
    assert 0 == lls("entitlement", "return", ID, "-o", folder / "out", "--overwrite").status
    assert "signed.return.document" == (folder / "out").read_text()


def test_a_return_that_cannot_be_written_is_returned_all_the_same(lls: Lls, daemon: Daemon, folder: Path) -> None:
    daemon.says(RETURN, RETURNED)
    done = lls("entitlement", "return", ID, "-o", folder / "nowhere" / "out")
    assert 1 == done.status
    assert "returned all the same; the same command writes the same document" in done.err


# ---------------------------------------------------------------- borrowing


def test_a_request_is_carried_in_and_the_grant_out(lls: Lls, daemon: Daemon, folder: Path) -> None:
    (folder / "request").write_bytes(b"signed request")
    daemon.says("POST borrows", body=b'{"format": 1}')
    done = lls("borrow", "grant", folder / "request", "-o", folder / "grant")
    assert (0, "") == (done.status, done.err)
    assert b'{"format": 1}' == (folder / "grant").read_bytes()
    assert [(b"signed request", "application/octet-stream")] == [(one.body, one.kind) for one in daemon.heard]
    assert "python -m lls.client accept grant" in done.out
    assert 1 == lls("borrow", "grant", folder / "request", "-o", folder / "grant").status
    assert 0 == lls("borrow", "grant", folder / "request", "-o", folder / "grant", "--force").status


def test_a_refused_request_leaves_no_file(lls: Lls, daemon: Daemon, folder: Path) -> None:
    (folder / "request").write_bytes(b"signed request")
    daemon.refuses("POST borrows", 403, "borrow_not_allowed", "The vendor does not lend seats of cad.")
    done = lls("borrow", "grant", folder / "request", "-o", folder / "grant")
    assert (1, "lls: The vendor does not lend seats of cad. [borrow_not_allowed]\n") == (done.status, done.err)
    assert ["admin.sock", "request"] == names(folder)


def test_a_seat_comes_back_by_a_file(lls: Lls, daemon: Daemon, folder: Path) -> None:
    (folder / "return").write_bytes(b"signed return")
    daemon.says("POST borrows/return", {"lease_id": "b-1"})
    done = lls("borrow", "return", folder / "return")
    assert (0, "Lease b-1 is returned; its seat is free.\n") == (done.status, done.out)
    assert {"lease_id": "b-1"} == json.loads(lls("borrow", "return", folder / "return", "--json").out)


def test_borrowed_seats_are_listed_with_their_ends(lls: Lls, daemon: Daemon) -> None:
    away: dict[str, Any] = {
        "lease_id": "b-1",
        "state": "active",
        "mode": "borrowed",
        "product": "cad",
        "seats": 1,
        "holder": {"seat_id": "f1", "user": "alice", "host": "laptop"},
        "granted_at": "2026-11-21T09:00:00Z",
        "expires_in_seconds": 86_400,
        "until": "2026-11-22T10:00:00Z",
        "by_file": True,
        "features": {"render": 3, "export": 1},
    }
    daemon.says("GET borrows", {"borrows": [away]})
    assert lls("borrow", "list").out == (
        "LEASE  PRODUCT  SEATS  HOLDER        SINCE                 EXPIRES                        STATE"
        "              FEATURES\n"
        "b-1    cad          1  alice@laptop  2026-11-21 09:00:00Z  2026-11-22 10:00:00Z (in 1 d)  borrowed, by file"
        "  export 1, render 3\n"
    )
    daemon.says("GET leases", {"leases": [away], "waiting": []})
    assert "borrowed, by file" in lls("lease", "list").out


# ---------------------------------------------------------------- the site's policy

RULE = {"rule": "reserve[1]", "name": "design", "product": "cad"}


def test_the_rules_in_force_are_shown_and_what_is_odd_about_them(lls: Lls, daemon: Daemon) -> None:
    daemon.says("GET policy", {"text": "format = 1\n# ours\n", "rules": [RULE], "doubts": ["No cam is hosted."]})
    shown = lls("policy", "show")
    assert shown.out == ("RULE        PRODUCT  NAME\nreserve[1]  cad      design\nWarning: No cam is hosted.\n")
    assert "format = 1\n# ours\n" == lls("policy", "show", "--text").out
    assert 2 == lls("policy", "show", "--text", "--json").status


def test_a_reload_says_what_came_and_what_went(lls: Lls, daemon: Daemon) -> None:
    change = {"added": ["limit[1]"], "removed": ["deny[1]"], "rules": 2, "doubts": []}
    daemon.says("POST reload", {"policy": change})
    daemon.says("POST reload", {"policy": {"added": [], "removed": [], "rules": 1, "doubts": ["Too many."]}})
    assert "+ limit[1]\n- deny[1]\nThe policy is in force: 2 rules.\n" == lls("reload").out
    assert "Nothing has changed: 1 rule.\nWarning: Too many.\n" == lls("reload").out


def test_a_refused_policy_says_why(lls: Lls, daemon: Daemon) -> None:
    daemon.refuses("POST reload", 422, "refused_document", "reserve[1].seats is missing.", reason="malformed")
    done = lls("reload")
    assert (1, "lls: reserve[1].seats is missing. [refused_document: malformed]\n") == (done.status, done.err)


def test_all_that_is_wrong_with_a_policy_has_a_line_of_its_own(
    lls: Lls, daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = ["limit[1].seats must be an integer from 1 to 9.", "limit[1].\x1bspace is unknown."]
    fields = {"reason": "malformed", "problems": wrong}
    daemon.refuses("POST reload", 422, "refused_document", " ".join(wrong), **fields)
    done = lls("reload")
    assert (1, "") == (done.status, done.out)
    assert done.err == (
        "lls: Refused, nothing was changed: there are 2 problems. [refused_document: malformed]\n"
        "  limit[1].seats must be an integer from 1 to 9.\n"
        "  limit[1].\N{REPLACEMENT CHARACTER}space is unknown.\n"
    )
    file = folder / "policy.toml"
    file.write_text(GOOD.replace("seats = 2", "seats = 0\nspace = 1"))
    lines = lls("policy", "check", file).err.splitlines()
    assert f"lls: {file} has 2 problems; mend them and check again." == lines[0]
    assert ["  limit[1].space", "  limit[1].seats"] == [line.split(" is ")[0].split(" must")[0] for line in lines[1:]]
    monkeypatch.setenv("LLS__POLICY__FILE", str(file))
    checked = lls("config", "check")
    assert 1 == checked.status
    assert 2 == len([line for line in checked.out.splitlines() if line.startswith(f"[policy] file: {file}: limit[1]")])


@pytest.mark.parametrize("how", ["environment", "piped"])
def test_an_activation_code_is_asked_about_without_standing_in_the_arguments(
    lls: Lls, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    daemon.says("GET policy/explain", {"steps": STEPS, "granted": True, "outcome": {"entitlement_id": ID}})
    monkeypatch.delenv("LLS_CODE", raising=False)
    if how == "environment":
        monkeypatch.setenv("LLS_CODE", "Y64E-G6QX")
    monkeypatch.setattr("sys.stdin", io.StringIO(" Y64E-G6QX \nmore\n" if how == "piped" else ""))
    assert 0 == lls("policy", "explain", "--product", "cad", "--with-code").status
    assert "/v1/admin/policy/explain?product=cad&seats=1&activation_code=Y64E-G6QX" == daemon.heard[0].target
    assert 0 == lls("policy", "explain", "--product", "cad").status
    assert "activation_code" not in daemon.heard[1].target


def test_where_no_code_comes_nothing_is_asked(lls: Lls, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLS_CODE", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert 2 == lls("policy", "explain", "--product", "cad", "--with-code").status
    assert 2 == lls("policy", "explain", "--product", "cad", "--activation-code", "Y64E").status
    assert [] == daemon.heard


STEPS = [
    {"rule": "status", "verdict": "passes", "words": "It is active.", "entitlement_id": ID},
    {"rule": "reserve[1]", "verdict": "refuses", "words": "10 seats are kept.", "entitlement_id": None},
]


@pytest.mark.parametrize(
    ("granted", "outcome", "said"),
    [
        (True, {"entitlement_id": ID, "taken": 1, "overdraft": False}, f"A seat of {ID} would be granted.\n"),
        (
            True,
            {"entitlement_id": ID, "taken": 1, "overdraft": True},
            f"A seat of {ID} would be granted, in overdraft.\n",
        ),
        (
            False,
            {"code": "reserved", "detail": "The free seats are kept.", "remedy": "Change reserve[1]."},
            "Refused [reserved]: The free seats are kept. Change reserve[1].\n",
        ),
    ],
)
def test_an_explanation_shows_every_rule_and_ends_with_the_outcome(
    lls: Lls,
    daemon: Daemon,
    granted: bool,
    outcome: dict[str, Any],
    said: str,
) -> None:
    daemon.says("GET policy/explain", {"steps": STEPS, "granted": granted, "outcome": outcome})
    shown = lls("policy", "explain", "--product", "cad", "--user", "ann", "--seats", "2")
    assert 0 == shown.status
    assert shown.out == (
        "RULE        VERDICT  WHY                 ENTITLEMENT\n"
        f"status      passes   It is active.       {ID}\n"
        "reserve[1]  refuses  10 seats are kept.  –\n"
        f"\n{said}"
    )
    assert "/v1/admin/policy/explain?product=cad&user=ann&seats=2" == daemon.heard[0].target


GOOD = 'format = 1\n\n[[limit]]\nproduct = "cad"\nseats = 2\nper = "user"\n'


def test_a_policy_is_checked_against_what_is_hosted(lls: Lls, daemon: Daemon, folder: Path) -> None:
    file = folder / "policy.toml"
    file.write_text(GOOD)
    daemon.says("POST policy/check", {"rules": 1, "doubts": []})
    daemon.says("POST policy/check", {"rules": 1, "doubts": ["The product cad is not hosted here."]})
    right, doubtful = lls("policy", "check", file), lls("policy", "check", file)
    assert (0, f"{file} is right: 1 rule.") == (right.status, right.out.splitlines()[0])
    assert GOOD.encode() == daemon.heard[0].body
    assert (1, "lls: The product cad is not hosted here.\n") == (doubtful.status, doubtful.err)


def test_without_the_server_a_policy_is_checked_for_its_form(
    lls: Lls, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLS__SERVER__ADMIN_SOCKET", str(folder / "nobody.sock"))
    file = folder / "policy.toml"
    file.write_text(GOOD)
    done = lls("policy", "check", file)
    assert 0 == done.status
    assert "is well-formed: 1 rule" in done.out
    assert "does not run" in done.out
    file.write_text(GOOD.replace("seats = 2", "seats = 0\nspace = 1"))
    wrong = lls("policy", "check", file)
    assert (1, "") == (wrong.status, wrong.out)
    assert "limit[1].seats" in wrong.err
    assert "limit[1].space" in wrong.err
    file.write_bytes(b"\xff")
    assert "is not UTF-8" in lls("policy", "check", file).err


def test_names_of_the_site_that_do_not_count_now_are_shown_as_such(lls: Lls, daemon: Daemon) -> None:
    vendors_own = HOSTED | {"named_user_assignment": {"by_site": False, "changes_per_month": 0}}
    daemon.says("GET entitlements", {"entitlements": [vendors_own]})
    shown = lls("entitlement", "show", ID).out
    assert "Assigned     carol; not in force: the vendor names the users now\n" in shown
    assert "Changes" not in shown
