"""What a person reads: the commands that show something, word for word."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Daemon, Lls

SERVER: dict[str, Any] = {
    "server_id": "lls_AAAAAAAAAAAAAAAAAAAAAA",
    "name": "site-1",
    "version": "0.1.0",
    "keys_version": 2,
    "bundle_sequence": 12,
    "customer": {"customer_id": "cus_BBBBBBBBBBBBBBBBBBBBBB", "name": "Example Works"},
    "license": {
        "state": "active",
        "expires_at": "2027-03-01T00:00:00Z",
        "sync_within_days": 90,
        "sync_due_at": "2026-12-01T10:00:00Z",
    },
    "clock": {"now": "2026-11-21T10:00:00Z", "mark": "2026-11-21T10:00:00Z", "state": "ok", "behind_seconds": 0},
    "binding": {"state": "key_only", "since": None, "ends_at": None},
    "writership": {"epoch": 3, "seq": 1042, "head": "ab" * 32},
    "store": {"kind": "sqlite", "up": True},
    "chain": "ok",
    "started_at": "2026-11-20T09:58:20Z",
    "leases": 12,
}

LEASE: dict[str, Any] = {
    "lease_id": "0d9c8b7a-0000-4000-8000-000000000001",
    "state": "active",
    "mode": "floating",
    "product": "cad",
    "entitlement_id": "ent_CCCCCCCCCCCCCCCCCCCCCC",
    "edition": "pro",
    "seats": 1,
    "overdraft": False,
    "holder": {"seat_id": "f1", "user": "alice", "host": "ws-17"},
    "granted_at": "2026-11-21T09:00:00.123Z",
    "expires_at": "2026-11-21T10:09:40Z",
    "expires_in_seconds": 580,
    "last_beat": 4,
    "clone_alarms": 0,
}

USAGE: dict[str, Any] = {
    "day": "2026-11-20",
    "server_id": "lls_A",
    "customer_ref": "K-1",
    "entitlement_id": "ent_C",
    "sku": "CAD-PRO",
    "product": "cad",
    "feature": "",
    "unit": "seat",
    "seats": None,
    "peak": 7,
    "low": 0,
    "seat_seconds": 5400,
    "checkouts": 9,
    "denials": 1,
    "denied_holders": 1,
    "overdraft_peak": 0,
    "overdraft_seconds": 0,
    "consumed": 0,
    "undone": 0,
    "overage": 0,
    "period_start": "2026-11-20T00:00:00Z",
    "period_end": "2026-11-21T00:00:00Z",
}


def test_a_healthy_server_is_shown_on_one_page(lls: Lls, daemon: Daemon) -> None:
    daemon.says("GET server", SERVER)
    shown = lls("server", "show")
    assert (0, "") == (shown.status, shown.err)
    assert shown.out == (
        "Server         lls_AAAAAAAAAAAAAAAAAAAAAA (site-1), version 0.1.0\n"
        "Started        2026-11-20 09:58:20Z (1 d ago)\n"
        "Customer       Example Works (cus_BBBBBBBBBBBBBBBBBBBBBB)\n"
        "Licence        active, until 2027-03-01 00:00:00Z (in 99 d 14 h)\n"
        "Receipt due    2026-12-01 10:00:00Z (in 10 d), every 90 days\n"
        "Machine        any: the licence is bound to this server's key alone\n"
        "Clock          2026-11-21 10:00:00Z, ok\n"
        "Key set        version 2\n"
        "Last bundle    sequence 12\n"
        "Writership     epoch 3, line 1042\n"
        f"Journal head   {'ab' * 32}\n"
        "Journal chain  whole\n"
        "Store          sqlite, up\n"
        "Leases         12\n"
    )


@pytest.mark.parametrize(
    ("change", "word", "step"),
    [
        ({"license": {"state": "unlicensed"}}, "unlicensed", "lls server request -o FILE"),
        ({"license": {"state": "expired"}}, "expired", "renewed bundle"),
        ({"license": {"state": "report_overdue"}}, "report overdue", "lls report export -o FILE"),
        (
            {"clock": {"now": "2026-11-21T10:00:00Z", "state": "behind", "behind_seconds": 3700}},
            "BEHIND by 1 h 1 min",
            "timedatectl",
        ),
        (
            {"clock": {"now": "2026-11-21T10:00:00Z", "state": "jumped", "mark": "2026-11-01T10:00:00Z"}},
            "JUMPED",
            "lls clock accept",
        ),
        ({"chain": "forked"}, "FORKED", "cloned or rolled back"),
        ({"store": {"kind": "postgres", "up": False}}, "DOWN", "journalctl"),
    ],
)
def test_a_server_in_trouble_says_what_to_do_next(
    lls: Lls, daemon: Daemon, change: dict[str, Any], word: str, step: str
) -> None:
    daemon.says("GET server", SERVER | change)
    shown = lls("server", "show")
    assert 0 == shown.status
    assert word in shown.out
    assert [step] == [step for line in shown.out.splitlines() if line.startswith("Next: ") and step in line]


def test_leases_say_who_holds_what_since_when_and_who_waits(lls: Lls, daemon: Daemon) -> None:
    odd = LEASE | {"holder": {"seat_id": "f2", "seat_name": "Lab"}, "mode": "node_locked", "state": "lingering"}
    odd |= {"clone_alarms": 2, "overdraft": True, "expires_in_seconds": -5}
    waiting: dict[str, Any] = {
        "product": "cad",
        "lease_id": "w-1",
        "holder": {"seat_id": "f3"},
        "seats": 2,
        "position": 1,
    }
    waiting |= {"since": "2026-11-21T09:30:00Z", "open": True}
    daemon.says("GET leases", {"leases": [LEASE, odd], "waiting": [waiting]})
    shown = lls("lease", "list", "--product", "cad", "--holder", "a b&c")
    assert "/v1/admin/leases?product=cad&holder=a+b%26c" == daemon.heard[0].target
    assert shown.out == (
        "LEASE                                 PRODUCT  SEATS  HOLDER       SINCE                 EXPIRES        "
        "STATE\n"
        "0d9c8b7a-0000-4000-8000-000000000001  cad          1  alice@ws-17  2026-11-21 09:00:00Z  in 9 min 40 s  "
        "floating\n"
        "0d9c8b7a-0000-4000-8000-000000000001  cad          1  Lab          2026-11-21 09:00:00Z  5 s ago        "
        "node-locked, lingering, overdraft, CLONED\n"
        "\n"
        "Waiting:\n"
        "LEASE  PRODUCT  SEATS  HOLDER  SINCE                 PLACE  ASKING\n"
        "w-1    cad          2  f3      2026-11-21 09:30:00Z      1  yes\n"
        "\n"
        "A lease marked CLONED was used by two processes at once: its machine was probably copied.\n"
    )


def test_entitlements_show_seats_dates_and_problems(lls: Lls, daemon: Daemon) -> None:
    one: dict[str, Any] = {
        "entitlement_id": "ent_1",
        "product": "cad",
        "edition": "pro",
        "status": "active",
        "standing": "grace",
    }
    one |= {
        "expires_at": "2026-11-01T00:00:00Z",
        "grace_expires_at": "2026-11-30T00:00:00Z",
        "seats": 2,
        "in_use": 3,
        "waiting": 0,
    }
    two = {
        "entitlement_id": "ent_2",
        "product": "cam",
        "standing": "in_force",
        "seats": None,
        "in_use": 0,
        "waiting": 1,
    }
    daemon.says("GET entitlements", {"entitlements": [one, two | {"problem": "Its bundle is no longer believed."}]})
    assert lls("entitlement", "list").out == (
        "ENTITLEMENT  PRODUCT  EDITION  STANDING             IN USE      SEATS  WAITING  EXPIRES\n"
        "ent_1        cad      pro      grace, in overdraft       3          2        0  "
        "2026-11-01 00:00:00Z, grace until 2026-11-30 00:00:00Z\n"
        "ent_2        cam      –        in force                  0  unlimited        1  never\n"
        "\n"
        "ent_2: Its bundle is no longer believed.\n"
    )


DENIAL: dict[str, Any] = {
    "at": "2026-11-21T09:00:00Z",
    "code": "no_seat",
    "rule": "seats",
    "cause": "capacity",
    "remedy": "More seats.",
    "product": "cad",
    "feature": None,
    "in_use": 5,
    "limit": 5,
    "count": 3,
}


def test_denials_say_who_and_why(lls: Lls, daemon: Daemon) -> None:
    one = DENIAL | {"holder": {"user": "bob", "host": "ws-2"}}
    strange = DENIAL | {"holder": {}, "in_use": None, "remedy": None, "count": 1}
    daemon.says("GET denials", {"denials": [one, strange]})
    assert lls("denials", "--since", "2026-11-21").out == (
        "Nobody could have been served (true denials): 4 requests\n"
        "AT                    HOLDER    PRODUCT  WHY                            RULE   IN USE  TIMES"
        "  WHAT WOULD HELP\n"
        "2026-11-21 09:00:00Z  bob@ws-2  cad      all seats are taken [no_seat]  seats  5 of 5      3  More seats.\n"
        "2026-11-21 09:00:00Z  –         cad      all seats are taken [no_seat]  seats       –      1  –\n"
    )
    assert "/v1/admin/denials?since=2026-11-21T00%3A00%3A00Z" == daemon.heard[0].target


def test_true_denials_stand_apart_from_those_that_the_site_or_the_terms_caused(lls: Lls, daemon: Daemon) -> None:
    causes = [
        DENIAL | {"cause": "terms", "code": "entitlement_expired", "remedy": "A renewal.", "count": 1},
        DENIAL | {"cause": "policy", "code": "reserved", "rule": "reserve[2]", "remedy": "A smaller reservation."},
        DENIAL | {"code": "no_feature_units", "feature": "render", "rule": "units", "remedy": "More units."},
        DENIAL | {"cause": "of a later release", "code": "new_code", "remedy": "Tea.", "count": 1},
    ]
    daemon.says("GET denials", {"denials": causes})
    true, policy, terms = lls("denials").out.split("\n\n")
    assert true.startswith("Nobody could have been served (true denials): 3 requests\n")
    assert all(word in true for word in ("cad (render)", "[no_feature_units]", "More units."))
    assert policy.startswith("Refused by this site's policy, not by the number of seats: 3 requests\n")
    assert all(word in policy for word in ("[reserved]", "reserve[2]", "A smaller reservation."))
    assert terms.startswith("Refused by the terms of what was bought: 2 requests\n")
    assert all(word in terms for word in ("[entitlement_expired]", "A renewal.", "new_code", "Tea."))
    assert causes == json.loads(lls("denials", "--json").out)["denials"]


def test_usage_is_a_table_or_the_columns_of_the_report(lls: Lls, daemon: Daemon) -> None:
    daemon.says("GET usage", {"lines": [USAGE]})
    assert lls("usage", "--from", "2026-11-01", "--to", "2026-11-21T10:00+02:00").out == (
        "WHEN        PRODUCT  SKU      METER  LIMIT  PEAK  HOURS  CHECKOUTS  DENIALS  CONSUMED  UNDONE  OVERAGE\n"
        "2026-11-20  cad      CAD-PRO  seats      –     7    1.5          9        1         0       0        0\n"
    )
    assert (
        "/v1/admin/usage?bucket=day&from=2026-11-01T00%3A00%3A00Z&to=2026-11-21T08%3A00%3A00Z" == daemon.heard[0].target
    )
    assert lls("usage", "--csv").out == (
        "day,server_id,customer_ref,entitlement_id,sku,product,feature,unit,seats,peak,low,seat_seconds,checkouts,denials,"
        "denied_holders,overdraft_peak,overdraft_seconds,consumed,undone,overage,period_start,period_end\n"
        "2026-11-20,lls_A,K-1,ent_C,CAD-PRO,cad,,seat,,7,0,5400,9,1,1,0,0,0,0,0,2026-11-20T00:00:00Z,2026-11-21T00:00:00Z\n"
    )


def test_usage_by_the_hour_names_the_hour(lls: Lls, daemon: Daemon) -> None:
    hour = {name: value for name, value in USAGE.items() if name != "day"} | {"bucket": "2026-11-20T08:00:00Z"}
    daemon.says("GET usage", {"lines": [hour]})
    assert "2026-11-20 08:00:00Z  cad" in lls("usage", "--bucket", "hour").out
    assert lls("usage", "--bucket", "hour", "--csv").out.startswith("bucket,server_id")


def test_usage_names_each_feature_and_what_it_counts(lls: Lls, daemon: Daemon) -> None:
    render = USAGE | {"feature": "render", "unit": "core", "seats": 4}
    frames = USAGE | {"feature": "frames", "unit": "frame", "consumed": 90, "undone": 5, "overage": -5}
    daemon.says("GET usage", {"lines": [USAGE, render, frames]})
    assert ["seats", "render (core)", "frames (frame)"] == [
        line[30:44].strip() for line in lls("usage").out.splitlines()[1:]
    ]


OUTCOME: dict[str, Any] = {
    "product": "cad",
    "seats": 60,
    "requests": 120,
    "denials": 20,
    "denied_holders": 4,
    "true_denials": 15,
    "policy_denials": 3,
    "would_remain": 2,
    "would_remain_holders": 1,
    "peak": 60,
    "lines_read": 5_000,
    "assumption": "What was really granted stays granted.",
}


def test_what_other_seats_would_have_done_is_one_answer(lls: Lls, daemon: Daemon) -> None:
    daemon.says("GET usage/what-if", OUTCOME)
    asked = ("usage", "--what-if", "seats=60", "--product", "cad", "--from", "2026-11-01", "--to", "2026-11-21")
    assert lls(*asked).out == (
        "Product          cad\n"
        "Seats            60\n"
        "Requests         120\n"
        "Denials          20, of 4 machines\n"
        "All seats taken  15\n"
        "Site's policy    3\n"
        "Would remain     2, of 1 machine\n"
        "Peak             60\n"
        "\n"
        "Assumed: What was really granted stays granted.\n"
    )
    span = "from=2026-11-01T00%3A00%3A00Z&to=2026-11-21T00%3A00%3A00Z"
    assert f"/v1/admin/usage/what-if?product=cad&seats=60&{span}" == daemon.heard[0].target
    assert OUTCOME == json.loads(lls(*asked, "--json").out)


def test_where_no_seat_was_missing_more_seats_would_have_changed_nothing(lls: Lls, daemon: Daemon) -> None:
    daemon.says("GET usage/what-if", OUTCOME | {"true_denials": 0, "would_remain": 0, "would_remain_holders": 0})
    shown = lls("usage", "--what-if", "seats=1", "--product", "cad")
    assert shown.out.startswith("No request was refused for want of a seat")
    assert "Requests       120\n" in shown.out
    assert "Would remain" not in shown.out
    assert "Assumed" not in shown.out


def test_where_nobody_asked_for_a_seat_that_is_all_that_is_said(lls: Lls, daemon: Daemon) -> None:
    nothing = OUTCOME | {name: 0 for name, value in OUTCOME.items() if isinstance(value, int)} | {"seats": 60}
    daemon.says("GET usage/what-if", nothing)
    asked = ("usage", "--what-if", "seats=60", "--product", "cad")
    assert "Nobody asked for a seat of cad in that time.\n" == lls(*asked).out
    assert nothing == json.loads(lls(*asked, "--json").out)


def test_the_preview_shows_what_would_leave(lls: Lls, daemon: Daemon) -> None:
    daemon.says(
        "GET reports/preview",
        {"from_seq": 5, "to_seq": 9, "lines": 5, "usage": [USAGE], "kinds": {"Granted": 4, "Denied": 1}},
    )
    daemon.says("GET reports/preview", {"from_seq": 10, "to_seq": 9, "lines": 0, "usage": [], "kinds": {}})
    shown = lls("report", "preview").out
    assert shown.startswith("Lines  5, from 5 to 9\n\nKIND     LINES\nDenied       1\nGranted      4\n\nWHEN ")
    assert "--pseudonymise" in shown
    assert "Nothing happened since the last acknowledged report.\n" == lls("report", "preview").out


def test_reports_and_bundles_have_a_history(lls: Lls, daemon: Daemon) -> None:
    made: dict[str, Any] = {
        "report_id": "rpt_1",
        "from_seq": 1,
        "to_seq": 9,
        "made_at": "2026-11-21T09:00:00Z",
        "pseudonymised": True,
    }
    daemon.says("GET reports", {"reports": [made | {"acknowledged": False}]})
    assert lls("report", "list").out == (
        "REPORT  MADE                  FROM LINE  TO LINE  NAMES     ACKNOWLEDGED\n"
        "rpt_1   2026-11-21 09:00:00Z          1        9  left out  no\n"
    )
    bundle = {
        "bundle_id": "bnd_1",
        "sequence": 3,
        "imported_at": "2026-11-21T09:00:00Z",
        "entitlements": 2,
        "state": "applied",
    }
    daemon.says("GET bundles", {"bundles": [bundle | {"issued_at": "2026-11-20T09:00:00Z"}]})
    assert lls("bundle", "list").out == (
        "BUNDLE  SEQUENCE  IMPORTED              ISSUED                ENTITLEMENTS  STATE\n"
        "bnd_1          3  2026-11-21 09:00:00Z  2026-11-20 09:00:00Z             2  applied\n"
    )


@pytest.mark.parametrize(
    ("command", "request_", "answer", "sentence"),
    [
        ("lease list", "GET leases", {"leases": [], "waiting": []}, "No seat is held."),
        ("entitlement list", "GET entitlements", {"entitlements": []}, "lls bundle import FILE"),
        ("bundle list", "GET bundles", {"bundles": []}, "lls server request -o FILE"),
        ("report list", "GET reports", {"reports": []}, "lls report preview"),
        ("denials", "GET denials", {"denials": []}, "Nobody was refused."),
        ("usage", "GET usage", {"lines": []}, "Nothing was used in that time."),
    ],
)
def test_an_empty_list_says_so_in_a_sentence(
    *, lls: Lls, daemon: Daemon, command: str, request_: str, answer: dict[str, Any], sentence: str
) -> None:
    daemon.says(request_, answer)
    shown = lls(*command.split())
    assert 0 == shown.status
    assert sentence in shown.out
    assert 1 == shown.out.count("\n")


@pytest.mark.parametrize(
    ("command", "request_"),
    [
        ("server show", "GET server"),
        ("lease list", "GET leases"),
        ("entitlement list", "GET entitlements"),
        ("bundle list", "GET bundles"),
        ("report list", "GET reports"),
        ("report preview", "GET reports/preview"),
        ("denials", "GET denials"),
        ("usage", "GET usage"),
        ("journal verify", "GET journal/verify"),
    ],
)
def test_json_is_the_daemons_own_answer_in_ascii(lls: Lls, daemon: Daemon, command: str, request_: str) -> None:
    answer = {"ok": True, "name": "Bücher \u202e", "leases": [{"later_field": 1}]}
    daemon.says(request_, answer)
    shown = lls(*command.split(), "--json")
    assert (0, answer) == (shown.status, json.loads(shown.out))
    assert shown.out.isascii()


def test_a_daemon_of_another_release_that_leaves_fields_out_is_still_shown(lls: Lls, daemon: Daemon) -> None:
    for request in ("server", "leases", "entitlements", "bundles", "reports", "reports/preview", "denials", "usage"):
        daemon.says(
            f"GET {request}", {"leases": [{}], "entitlements": [{}], "bundles": [{}], "denials": [{}], "lines": [{}]}
        )
    commands = ("server show", "lease list", "entitlement list", "bundle list", "report list", "denials", "usage")
    assert [0] * len(commands) == [lls(*command.split()).status for command in commands]


def test_names_cannot_steer_the_terminal_or_be_read_as_markup(lls: Lls, daemon: Daemon) -> None:
    hostile = LEASE | {"holder": {"user": "\x1b[2J[red]eve\r\n", "host": "a\u202eb"}}
    daemon.says("GET leases", {"leases": [hostile], "waiting": []})
    shown = lls("lease", "list")
    assert "�[2J[red]eve��@a�b" in shown.out
    assert 2 == shown.out.count("\n")


def test_the_tail_of_the_journal_is_read_page_by_page(lls: Lls, daemon: Daemon) -> None:
    line = {
        "seq": 1041,
        "at": "2026-11-21T09:00:00Z",
        "kind": "Granted",
        "data": {"product": "cad", "holder": "cd" * 32, "taken": 1},
    }
    lines = [json.dumps(line | {"seq": seq}, separators=(",", ":")) for seq in (1041, 1042)]
    daemon.says("GET server", SERVER)
    daemon.says("GET journal", body="\n".join(lines).encode() + b"\n")
    assert lls("journal", "tail", "-n", "2").out == (
        "    1041  2026-11-21 09:00:00Z  Granted        product=cad holder=cdcdcdcdcdcdcdcd… taken=1\n"
        "    1042  2026-11-21 09:00:00Z  Granted        product=cad holder=cdcdcdcdcdcdcdcd… taken=1\n"
    )
    assert "/v1/admin/journal?after=1040&limit=1000" == daemon.heard[1].target
    assert "\n".join([*lines, ""]) == lls("journal", "tail", "-n", "2", "--json").out


def test_following_goes_on_until_ctrl_c(lls: Lls, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.says("GET server", SERVER)
    daemon.says("GET journal", body=b'{"seq":1042,"kind":"Granted"}\n')
    daemon.says("GET journal", body=b'{"seq":1043,"kind":"Returned"}\n')
    pauses = iter((None, KeyboardInterrupt))

    def pause(_seconds: float) -> None:
        if (end := next(pauses)) is not None:
            raise end

    monkeypatch.setattr("lls.cli.journal.time.sleep", pause)
    shown = lls("journal", "tail", "-n", "1", "--follow", "--json")
    assert (0, '{"seq":1042,"kind":"Granted"}\n{"seq":1043,"kind":"Returned"}\n') == (shown.status, shown.out)


def test_a_whole_chain_is_said_and_a_broken_one_fails(lls: Lls, daemon: Daemon) -> None:
    whole = {"ok": True, "lines": 9, "head": "ab", "first_seq": 1, "last_seq": 9, "problem": None}
    daemon.says("GET journal/verify", whole)
    daemon.says("GET journal/verify", whole | {"ok": False, "problem": "line 4 was changed."})
    assert "The chain holds: 9 lines, 1 to 9, head ab.\n" == lls("journal", "verify").out
    broken = lls("journal", "verify", "--json")
    assert (1, False) == (broken.status, json.loads(broken.out)["ok"])
    assert "line 4 was changed. Stop" in broken.err


# ---------------------------------------------------------------- clock


CLOCK = SERVER["clock"]
JUMPED = {**CLOCK, "now": "2027-11-21T10:00:00Z", "state": "jumped"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (CLOCK, ["Machine  2026-11-21 10:00:00Z", "State    ok"]),
        (JUMPED, ["Server   2026-11-21 10:00:00Z (365 d ago)", "State    jumped", "Next: the clock jumped forward"]),
        ({**CLOCK, "state": "behind", "behind_seconds": 3_700}, ["Behind   1 h 1 min", "Next: set this machine's"]),
    ],
)
def test_the_clock_is_shown_with_advice(daemon: Daemon, lls: Lls, answer: dict[str, Any], said: list[str]) -> None:
    daemon.says("GET clock", answer)
    ended = lls("clock", "show")
    assert 0 == ended.status
    for words in said:
        assert words in ended.out
    assert answer == json.loads(lls("clock", "show", "--json").out)


def test_a_clock_that_jumped_is_accepted(daemon: Daemon, lls: Lls) -> None:
    daemon.says("GET clock", JUMPED)
    daemon.says("POST clock", {**JUMPED, "mark": JUMPED["now"], "state": "ok"})
    ended = lls("clock", "accept")
    assert (0, "The server goes by 2027-11-21 10:00:00Z now; what has ended by then ends.\n") == (
        ended.status,
        ended.out,
    )
    assert {"act": "accept"} == json.loads(daemon.heard[-1].body)


def test_a_clock_that_is_right_needs_no_word_and_one_that_is_behind_takes_none(daemon: Daemon, lls: Lls) -> None:
    daemon.says("GET clock", CLOCK)
    daemon.says("GET clock", {**CLOCK, "state": "behind", "behind_seconds": 3_700})
    right, behind = lls("clock", "accept"), lls("clock", "accept")
    assert (0, True) == (right.status, "nothing to accept" in right.out)
    assert (1, "") == (behind.status, behind.out)
    assert "only your vendor can" in behind.err
    assert {"GET"} == {heard.method for heard in daemon.heard}


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ({"state": "key_only"}, "any: the licence is bound to this server's key alone"),
        ({"state": "bound"}, "the licensed one"),
        (
            {"state": "unbound", "since": "2026-11-20T10:00:00Z", "ends_at": "2026-11-27T10:00:00Z"},
            "NOT THE LICENSED ONE since 2026-11-20 10:00:00Z; new leases until 2026-11-27 10:00:00Z (in 6 d)",
        ),
        (
            {"state": "bound", "changed": ["board_serial", "disk"], "required": 3, "enrolled": 5},
            "the licensed one (changed: board serial, disk; 3 of 5 parts must still be there)",
        ),
    ],
)
def test_the_server_says_whether_this_is_its_machine(
    daemon: Daemon, lls: Lls, binding: dict[str, Any], said: str
) -> None:
    daemon.says("GET server", {**SERVER, "binding": binding})
    out = lls("server", "show").out
    assert said in out
    assert ("issues a bundle for this machine" in out) == (binding["state"] == "unbound")
    assert ("a part of this machine was exchanged" in out) == (binding["state"] == "bound" and "changed" in binding)
