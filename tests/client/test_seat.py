"""Promises of the seat against a real socket: held, kept through trouble, given back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from lls.client import BadSetup, Event, EventKind, LicenseServers, Refused, SeatLost, Unreachable, checkout
from tests.client.fakes import FakeServer, TlsKey, Vendor, running, twin_of
from tests.client.heard import Heard


def test_five_lines_hold_a_seat_and_give_it_back(server: FakeServer, vendor: Vendor) -> None:
    with checkout("cad", servers=server.url, vendor_keys=vendor.first) as seat:
        assert 590 < seat.valid_seconds <= 600
        assert 64 == seat.lease.attributes["max_layers"]
        assert "active" == seat.lease.entitlement.status
        assert 4 == seat.lease.features["render"].available
        assert 1 == len(server.active())
    assert not seat.valid
    assert 0 == len(server.active())


def test_servers_code_and_keys_come_from_the_environment(
    server: FakeServer, vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "vendor.llskeys"
    keys.write_text(vendor.first)
    monkeypatch.setenv("LLS_SERVER", f"https://127.0.0.1:1, {server.url}")
    monkeypatch.setenv("LLS_CODE", "Y64E-G6QX")
    monkeypatch.setenv("LLS_VENDOR_KEYS", str(keys))
    with checkout("cad"):
        assert ["Y64E-G6QX"] == [call[3]["activation_code"] for call in server.lease_calls()]


def test_heartbeats_come_at_the_servers_interval_with_rising_beats_and_fresh_nonces(
    brisk: FakeServer, connect: Callable[..., LicenseServers]
) -> None:
    with connect(brisk).checkout("cad"):
        brisk.until(lambda: 4 <= len(brisk.lease_calls()))
    beats = [call[3] for call in brisk.lease_calls() if call[1].endswith("/heartbeat")]
    assert list(range(1, len(beats) + 1)) == [body["beat"] for body in beats]
    assert len(beats) == len({body["nonce"] for body in beats})


def test_a_refusal_says_which_rule_and_leaves_nothing_behind(
    server: FakeServer, connect: Callable[..., LicenseServers]
) -> None:
    with pytest.raises(Refused) as caught:
        connect(server).checkout("cam")
    assert ("unknown_product", 404, "No such product here.") == (
        caught.value.code, caught.value.status, str(caught.value),
    )  # fmt: skip
    assert ["POST"] == [call[0] for call in server.lease_calls()]


def test_no_seat_without_waiting_is_told_at_once(server: FakeServer, connect: Callable[..., LicenseServers]) -> None:
    server.seats = 0
    with pytest.raises(Refused) as caught:
        connect(server).checkout("cad")
    assert ("no_seat", 1) == (caught.value.code, caught.value.fields["queue_position"])


def test_waiting_gets_the_seat_that_is_given_back(server: FakeServer, connect: Callable[..., LicenseServers]) -> None:
    server.seats = 1
    first = connect(server).checkout("cad")
    threading.Timer(0.3, first.release).start()
    with connect(server).checkout("cad", wait=20) as second:
        assert second.valid
    assert "wait=20" == server.lease_calls()[1][2]["Prefer"]


def test_waiting_goes_on_under_the_same_lease_id_and_leaves_the_queue_in_the_end(
    server: FakeServer, connect: Callable[..., LicenseServers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lls.client.session._LONGEST_ASK_SECONDS", 1)
    server.seats = 0
    with pytest.raises(Refused):
        connect(server).checkout("cad", wait=2)
    calls = server.lease_calls()
    assert ["POST", "POST", "DELETE"] == [call[0] for call in calls]
    assert 1 == len({call[3]["lease_id"] for call in calls[:2]})
    assert calls[0][3]["lease_id"] in server.deleted_unknown


def test_a_lost_answer_to_the_checkout_costs_no_second_seat(
    server: FakeServer, connect: Callable[..., LicenseServers]
) -> None:
    server.lies.lose_answers = 1
    with connect(server).checkout("cad") as seat:
        assert seat.valid
        assert 1 == len(server.leases)
    first, second = server.lease_calls()[:2]
    assert first[3] == second[3]


def test_an_unanswered_beat_is_repeated_with_its_nonce(
    brisk: FakeServer, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with connect(brisk).checkout("cad", on_event=heard):
        brisk.lies.lose_answers = 2
        heard.wait_for(EventKind.REGAINED)
    beats = [call[3] for call in brisk.lease_calls() if call[1].endswith("/heartbeat")]
    repeated = [(a, b) for a, b in pairwise(beats) if a["beat"] == b["beat"]]
    assert repeated
    assert all(a["nonce"] == b["nonce"] for a, b in repeated)
    assert EventKind.NETWORK == heard.kinds[0]
    assert EventKind.CLONED not in heard.kinds


def test_a_restarted_server_costs_no_seat(
    brisk: FakeServer, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with connect(brisk).checkout("cad", on_event=heard) as seat:
        lease_id = seat.lease.lease_id
        brisk.restart()
        beats = len(brisk.lease_calls())
        brisk.until(lambda: len(brisk.lease_calls()) > beats + 1)
        assert seat.valid
        assert lease_id == seat.lease.lease_id


def test_a_server_that_forgot_the_lease_gives_another_under_a_new_id_and_secret(
    brisk: FakeServer, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with connect(brisk).checkout("cad", on_event=heard) as seat:
        before, secret = seat.lease.lease_id, next(iter(brisk.leases.values())).secret
        brisk.leases.clear()
        heard.wait_for(EventKind.REGAINED)
        assert EventKind.LEASE_ENDED == heard.kinds[0]
        assert "unknown_lease" == heard.events[0].code
        assert before != seat.lease.lease_id
        assert secret != brisk.active()[0].secret
        assert seat.valid


def test_an_expired_lease_is_checked_out_again(
    brisk: FakeServer, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with connect(brisk).checkout("cad", on_event=heard):
        brisk.end("expired")
        heard.wait_for(EventKind.REGAINED)
    assert ("expired", False) == (heard.events[0].reason, heard.events[0].held)


def test_a_seat_taken_back_is_not_taken_again_until_the_person_asks(
    brisk: FakeServer, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with connect(brisk).checkout("cad", on_event=heard) as seat:
        brisk.end("released")
        event = heard.wait_for(EventKind.TAKEN_BACK)
        assert (False, False) == (event.held, event.regaining)
        assert event.ttl_left_seconds > 0
        assert 0 == seat.valid_seconds
        with pytest.raises(SeatLost):
            seat.check()
        assert 0 == len(brisk.active())
        seat.regain()
        heard.wait_for(EventKind.REGAINED)
        assert seat.valid


def test_a_cloned_lease_is_dropped_without_delete(
    brisk: FakeServer, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with connect(brisk).checkout("cad", on_event=heard) as seat:
        before = seat.lease.lease_id
        brisk.leases[before].beat = 1_000_000
        heard.wait_for(EventKind.REGAINED)
        assert EventKind.CLONED == heard.kinds[0]
        assert before != seat.lease.lease_id
    assert f"/v1/leases/{before}" not in [call[1] for call in brisk.asked if call[0] == "DELETE"]


def test_a_dead_network_keeps_the_lease_until_its_ttl_and_then_says_so(
    brisk: FakeServer, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with connect(brisk, timeout=0.3).checkout("cad", on_event=heard) as seat:
        brisk.stop()
        event = heard.wait_for(EventKind.NETWORK)
        assert (True, True) == (event.held, event.regaining)
        ended = heard.wait_for(EventKind.LEASE_ENDED)
        assert ("unproved", False) == (ended.reason, ended.held)
        assert 0 == seat.valid_seconds
        brisk.start()
        heard.wait_for(EventKind.REGAINED)
        assert seat.valid
    assert [EventKind.NETWORK, EventKind.LEASE_ENDED, EventKind.REGAINED] == heard.kinds


def test_retry_after_is_a_lower_bound(server: FakeServer, connect: Callable[..., LicenseServers]) -> None:
    server.lies.busy = [(503, {"code": "overloaded", "detail": "Later."}, {"Retry-After": "1"})]
    begun = time.monotonic()
    with connect(server).checkout("cad"):
        assert time.monotonic() - begun >= 1.0


def test_a_refused_beat_keeps_the_lease_until_its_ttl(
    brisk: FakeServer, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with connect(brisk).checkout("cad", on_event=heard) as seat:
        brisk.lies.refuse_beat = [(403, {"code": "of_a_newer_server", "detail": "No."})]
        event = heard.wait_for(EventKind.REFUSED)
        assert ("of_a_newer_server", True) == (event.code, event.held)
        assert seat.valid


def test_an_exception_in_the_callback_costs_no_seat_and_is_shown(
    brisk: FakeServer, connect: Callable[..., LicenseServers], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(args.exc_type))

    def broken(event: Event) -> None:
        raise ZeroDivisionError

    with connect(brisk).checkout("cad", on_event=broken) as seat:
        brisk.leases.clear()
        brisk.until(lambda: 1 == len(brisk.active()))
        calls = len(brisk.lease_calls())
        brisk.until(lambda: len(brisk.lease_calls()) > calls + 2)
        assert seat.valid
    assert ZeroDivisionError in shown


def test_the_unanswered_beat_goes_to_another_address_of_the_same_server(
    vendor: Vendor, tls: TlsKey, brisk: FakeServer, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with running(twin_of(brisk)) as other, connect(brisk, other, timeout=0.5).checkout("cad", on_event=heard) as seat:
        brisk.stop()
        other.until(lambda: 3 <= len(other.lease_calls()))
        assert seat.valid
        assert [] == heard.kinds


def test_a_lease_is_never_shown_to_another_server_of_the_list(
    vendor: Vendor, tmp_path: Path, brisk: FakeServer, connect: Callable[..., LicenseServers], heard: Heard
) -> None:
    with (
        running(FakeServer(vendor, tls=TlsKey(tmp_path), ttl=2, beat=0)) as stranger,
        connect(brisk, stranger, timeout=0.5).checkout("cad", on_event=heard),
    ):
        brisk.stop()
        heard.wait_for(EventKind.NETWORK)
        assert [] == stranger.lease_calls()


def test_a_stand_by_that_names_the_primary_leads_there(
    server: FakeServer, connect: Callable[..., LicenseServers]
) -> None:
    with running(twin_of(server)) as standby:
        fields = {"code": "not_primary", "primary": server.url}
        standby.lies.busy = [(503, fields, {"Retry-After": "5"})] * 3
        with connect(standby).checkout("cad") as seat:
            assert seat.valid
            assert 1 == len(server.lease_calls())


def test_a_checkout_nobody_answers_ends_in_time(connect: Callable[..., LicenseServers], server: FakeServer) -> None:
    server.stop()
    with pytest.raises(Unreachable):
        connect(server).checkout("cad", patience=0.5)


def test_releasing_is_idempotent_and_says_whether_a_server_confirmed(
    server: FakeServer, connect: Callable[..., LicenseServers]
) -> None:
    seat = connect(server).checkout("cad")
    assert seat.release()
    assert seat.release()
    assert 1 == [call[0] for call in server.lease_calls()].count("DELETE")


def test_a_release_into_the_void_says_so(server: FakeServer, connect: Callable[..., LicenseServers]) -> None:
    seat = connect(server, timeout=0.3).checkout("cad")
    server.stop()
    assert not seat.release()


def test_products_are_listed_without_a_lease(server: FakeServer, connect: Callable[..., LicenseServers]) -> None:
    assert [("cad", 5, 0, 5)] == [(p.key, p.seats, p.in_use, p.available) for p in connect(server).products()]


def test_the_end_of_the_interpreter_gives_the_seat_back(server: FakeServer, vendor: Vendor, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(vendor.first)
    script = "import lls.client,sys; s=lls.client.checkout('cad',servers=sys.argv[1],vendor_keys=sys.argv[2])"
    subprocess.run([sys.executable, "-c", script, server.url, str(keys)], check=True, timeout=30)
    assert (1, 0) == (len(server.leases), len(server.active()))


def test_a_forked_child_does_not_give_its_parents_seat_back(server: FakeServer, vendor: Vendor, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(vendor.first)
    script = (
        "import lls.client,os,sys\n"
        "s=lls.client.checkout('cad',servers=sys.argv[1],vendor_keys=sys.argv[2])\n"
        "pid=os.fork()\n"
        "if pid==0: sys.exit(0)\n"
        "os.waitpid(pid,0); assert s.refresh().state=='active'\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, server.url, str(keys)]
    subprocess.run(command, check=True, timeout=30)
    assert 1 == [call[0] for call in server.lease_calls()].count("DELETE")


def test_no_secret_shows_in_any_repr(server: FakeServer, connect: Callable[..., LicenseServers]) -> None:
    with connect(server).checkout("cad", activation_code="Y64E-G6QX") as seat:
        secret, token = next(iter(server.leases.values())).secret, seat.capability.token
        shown = "".join(map(repr, (seat, seat.capability, seat.lease, vars(seat), vars(seat)["_session"].order)))
    assert not [hidden for hidden in (secret, token, "Y64E-G6QX") if hidden in shown]


@pytest.mark.parametrize("url", ["http://lls.example:6501", "ftp://127.0.0.1", "https://", "https://user@host"])
def test_an_address_that_cannot_be_safe_is_refused_before_anything_is_sent(url: str, vendor: Vendor) -> None:
    with pytest.raises(BadSetup):
        checkout("cad", servers=url, vendor_keys=vendor.first)


def test_plain_http_reaches_this_machine(vendor: Vendor, connect: Callable[..., LicenseServers]) -> None:
    with running(FakeServer(vendor)) as plain, connect(plain).checkout("cad") as seat:
        assert seat.valid
