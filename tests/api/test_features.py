"""What a client does with a seat that it holds: features, and borrowing; over real HTTP on a real store."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.api.conftest import Seat, World, nonce_of
from tests.vendor import NOW, Document, entitlement

NODES: Document = {"key": "nodes", "type": "element_pool", "value": 4, "unit": "node", "overdraft": {"type": "none"}}
EXPORTS: Document = {
    "key": "exports",
    "type": "usage_count",
    "value": 10,
    "unit": "export",
    "overdraft": {"type": "absolute", "value": 5},
    "undo_seconds": 60,
}
DRAFT: Document = {"key": "draft", "type": "bool", "value": 1}
SHARED: Document = {"key": "shared", "type": "bool", "value": 1, "tracked": True}
CLOSED: Document = {"key": "closed", "type": "bool", "value": 0}
ALL = [NODES, EXPORTS, DRAFT, SHARED, CLOSED]

ALICE, BOB = Seat("alice"), Seat("bob")


async def held(world: World, *seats: Seat, **members: Any) -> None:
    await world.host(entitlement(features=ALL, borrow={"max_seconds": 14 * 86_400, "max_seats": 1}, **members))
    for seat in seats:
        assert 201 == (await world.checkout(seat))[0]


async def test_units_of_a_pool_are_held_given_back_and_counted_for_everybody(world: World) -> None:
    await held(world, ALICE, BOB)
    status, taken = await world.act(ALICE, "checkout", "nodes", 3)
    assert (200, {"held": 3, "available": 1, "total": 4, "value": 4, "unit": "node"}) == (
        status,
        {name: taken[name] for name in ("held", "available", "total", "value", "unit")},
    )
    status, refused = await world.act(BOB, "checkout", "nodes", 2)
    assert (409, "no_feature_units", "capacity", "nodes", 3) == (
        status,
        *(refused[name] for name in ("code", "cause", "feature", "in_use")),
    )
    assert refused["remedy"]
    assert 1 == world.edge.denials["no_feature_units"]
    _, back = await world.act(ALICE, "return", "nodes", 2)
    assert (1, 3) == (back["held"], back["available"])
    status, problem = await world.act(ALICE, "return", "nodes", 2)
    assert (409, "not_held") == (status, problem["code"])
    _, shown = await world.call("GET", f"/v1/leases/{BOB.lease_id}", headers=BOB.headers)
    nodes = shown["lease"]["features"][0]
    assert ("nodes", 0, 3) == (nodes["key"], nodes["held"], nodes["available"])


async def test_a_repeated_call_takes_nothing_and_gets_the_same_answer(world: World) -> None:
    await held(world, ALICE)
    first = await world.act(ALICE, "use", "exports", 4, request="one")
    await world.act(ALICE, "use", "exports", 1)
    again = await world.act(ALICE, "use", "exports", 4, request="one")
    assert (200, 6, 6) == (first[0], first[1]["available"] - 5, again[1]["available"] - 5)
    status, problem = await world.act(ALICE, "use", "exports", 3, request="one")
    assert (409, "request_id_taken") == (status, problem["code"])
    await world.checkin(ALICE)
    assert 200 == (await world.act(ALICE, "use", "exports", 4, request="one"))[0]
    status, problem = await world.act(ALICE, "use", "exports", 4)
    assert (410, "lease_ended") == (status, problem["code"])


async def test_what_is_consumed_goes_into_the_overdraft_and_may_be_undone(world: World) -> None:
    await held(world, ALICE)
    _, used = await world.act(ALICE, "use", "exports", 12, request="big")
    assert (10, 12, 2, 3) == (used["total"], used["consumed"], used["overage"], used["available"])
    assert 409 == (await world.act(ALICE, "use", "exports", 4))[0]
    _, undone = await world.act(ALICE, "undo", "exports", 12, request="big")
    assert (0, 0, 15) == (undone["consumed"], undone["overage"], undone["available"])
    status, problem = await world.act(ALICE, "undo", "exports", 12, request="big")
    assert (409, "already_undone") == (status, problem["code"])
    await world.act(ALICE, "use", "exports", 1, request="old")
    world.machine.pass_(61)
    status, problem = await world.act(ALICE, "undo", "exports", 1, request="old")
    assert (409, "undo_too_late") == (status, problem["code"])
    status, problem = await world.act(ALICE, "undo", "exports", 1, request="never")
    assert (409, "not_held") == (status, problem["code"])


@pytest.mark.parametrize(
    ("act", "key", "status", "code"),
    [
        ("use", "nodes", 400, "bad_request"),
        ("checkout", "exports", 400, "bad_request"),
        ("checkout", "draft", 400, "bad_request"),
        ("checkout", "closed", 403, "not_entitled"),
        ("checkout", "nothing", 404, "unknown_feature"),
        ("checkout", "a%20b", 404, "unknown_feature"),
        ("borrow", "nodes", 404, "not_found"),
    ],
)
async def test_a_call_that_does_not_fit_the_feature_is_refused(
    world: World, act: str, key: str, status: int, code: str
) -> None:
    await held(world, ALICE)
    answered, problem = await world.act(ALICE, act, key)
    assert (status, code) == (answered, problem["code"])


@pytest.mark.parametrize("change", [{"amount": 0}, {"amount": 1.5}, {"request_id": "x"}, {"unit": "node"}])
async def test_a_malformed_call_is_refused_and_takes_nothing(world: World, change: dict[str, Any]) -> None:
    await held(world, ALICE)
    body = {"amount": 1, "request_id": ALICE.lease_id, **change}
    path = f"/v1/leases/{ALICE.lease_id}/features/nodes/checkout"
    status, problem = await world.call("POST", path, headers=ALICE.headers, json=body)
    assert (400, "bad_request") == (status, problem["code"])
    assert {} == dict(world.writer.ledger.leases[ALICE.lease_id].features)


async def test_features_of_anothers_lease_are_nobodys(world: World) -> None:
    await held(world, ALICE)
    body = {"amount": 1, "request_id": ALICE.lease_id}
    path = f"/v1/leases/{ALICE.lease_id}/features/nodes/checkout"
    status, problem = await world.call("POST", path, headers=BOB.headers, json=body)
    assert (404, "unknown_lease") == (status, problem["code"])


async def test_a_checkout_takes_its_features_all_or_none(world: World) -> None:
    await held(world)
    status, granted = await world.checkout(ALICE, features={"nodes": 3, "exports": 2, "shared": 1, "draft": 1})
    figures = {one["key"]: (one["held"], one["consumed"]) for one in granted["lease"]["features"]}
    assert (201, {"nodes": (3, 0), "exports": (0, 2), "draft": (0, 0), "shared": (1, 0), "closed": (0, 0)}) == (
        status,
        figures,
    )
    status, refused = await world.checkout(BOB, features={"exports": 1, "nodes": 2})
    assert (409, "no_feature_units", "nodes") == (status, refused["code"], refused["feature"])
    assert [ALICE.lease_id] == list(world.writer.ledger.leases)
    await world.checkin(ALICE)
    _, again = await world.checkout(BOB, features={"nodes": 4})
    assert [4, 2] == [again["lease"]["features"][0]["held"], again["lease"]["features"][1]["consumed"]]


async def test_the_capability_names_what_is_held_beside_the_switches(world: World) -> None:
    await held(world, ALICE, BOB)
    await world.act(ALICE, "checkout", "nodes", 2)
    switches = {"draft": True, "shared": True, "closed": False}
    _, of_alice = await world.beat(ALICE, 1)
    _, of_bob = await world.beat(BOB, 1)
    assert switches | {"nodes": 2} == world.claims(of_alice)["features"]
    assert switches == world.claims(of_bob)["features"]
    await world.act(ALICE, "return", "nodes", 2)
    _, of_alice = await world.beat(ALICE, 2)
    assert switches == world.claims(of_alice)["features"]


async def test_while_the_clock_is_behind_things_are_given_back_and_nothing_is_taken(world: World) -> None:
    await held(world, ALICE)
    await world.act(ALICE, "checkout", "nodes", 2)
    await world.act(ALICE, "use", "exports", 2, request="use")
    world.machine.wall -= timedelta(hours=1)
    for act, key in (("checkout", "nodes"), ("use", "exports")):
        status, problem = await world.act(ALICE, act, key)
        assert (503, "clock_behind") == (status, problem["code"])
    assert 503 == (await world.borrow(ALICE, NOW + timedelta(days=1)))[0]
    assert 200 == (await world.act(ALICE, "return", "nodes", 2))[0]
    assert 200 == (await world.act(ALICE, "undo", "exports", 2, request="use"))[0]


# ---------------------------------------------------------------- what the answer says beside


@pytest.mark.parametrize(("days", "told"), [(31, None), (30, 30), (7, 7), (0.5, 0), (-0.5, 0)])
async def test_the_last_days_are_counted(world: World, days: float, told: int | None) -> None:
    ends = (NOW + timedelta(days=days)).isoformat().replace("+00:00", "Z")
    await world.host(entitlement(expires_at=ends))
    _, granted = await world.checkout(ALICE)
    assert told == granted["lease"]["entitlement"]["expires_in_days"]


async def test_the_site_asks_idle_programs_to_return(world: World) -> None:
    await held(world)
    assert 200 == (await world.govern('[[idle]]\nproduct = "cad"\nseconds = 1800\n'))[0]
    _, granted = await world.checkout(ALICE)
    assert 1_800 == granted["lease"]["idle_return_seconds"]


async def test_a_machine_keeps_its_seat(world: World) -> None:
    await world.host(entitlement(concurrency="node_lock", seats=1))
    _, granted = await world.checkout(ALICE)
    assert "node_locked" == granted["lease"]["mode"]
    assert "node_locked" == world.claims(granted)["mode"]
    world.machine.pass_(700)
    await world.writer.do(lambda ledger, now: ledger.sweep(now=now))
    assert 409 == (await world.checkout(BOB))[0]
    again = Seat("alice again", wish={"holder": {"seat_id": "machine of alice"}})
    assert 201 == (await world.checkout(again))[0]


# ---------------------------------------------------------------- borrowing


async def test_a_borrowed_seat_needs_no_heartbeat_until_its_date(world: World) -> None:
    await held(world, ALICE)
    until = NOW + timedelta(days=7)
    status, answer = await world.borrow(ALICE, until + timedelta(microseconds=5))
    claims = world.claims(answer)
    assert (200, "borrowed", "2026-11-28T07:00:00Z", 7 * 86_400) == (
        status,
        *(answer["lease"][name] for name in ("mode", "expires_at", "expires_in_seconds")),
    )
    assert ("borrowed", int(until.timestamp()), 7 * 86_400, {"fingerprint": "machine of alice"}) == (
        *(claims[name] for name in ("mode", "exp", "ttl", "cnf")),
    )
    assert nonce_of("alice borrows") == claims["nonce"]
    world.machine.pass_(6 * 86_400 + 0.75)
    await world.writer.do(lambda ledger, now: ledger.sweep(now=now))
    status, beaten = await world.beat(ALICE, 1)
    assert (200, "2026-11-28T07:00:00Z") == (status, beaten["expires_at"])
    assert ("borrowed", int(until.timestamp())) == tuple(world.claims(beaten)[name] for name in ("mode", "exp"))
    world.machine.pass_(86_400)
    status, problem = await world.beat(ALICE, 2)
    assert (410, "lease_ended", "borrow_ended") == (status, problem["code"], problem["reason"])


async def test_a_later_date_extends_the_same_is_a_repetition_an_earlier_one_is_refused(world: World) -> None:
    await held(world, ALICE)
    day = timedelta(days=1)
    answers = [await world.borrow(ALICE, NOW + count * day) for count in (3, 3, 5)]
    assert ["2026-11-24T07:00:00Z"] * 2 + ["2026-11-26T07:00:00Z"] == [
        answer["lease"]["expires_at"] for _, answer in answers
    ]
    status, problem = await world.borrow(ALICE, NOW + 4 * day)
    assert (409, "borrowed", "2026-11-26T07:00:00Z") == (status, problem["code"], problem["until"])
    assert 204 == (await world.checkin(ALICE))[0]
    assert 201 == (await world.checkout(BOB))[0]


@pytest.mark.parametrize(
    ("after", "change", "status", "code"),
    [
        (timedelta(days=15), {}, 409, "borrow_too_long"),
        (timedelta(days=1), {"fingerprint": "another machine"}, 403, "wrong_machine"),
        (timedelta(days=-1), {}, 400, "bad_request"),
        (timedelta(days=1), {"until": "tomorrow"}, 400, "bad_request"),
        (timedelta(days=1), {"until": "2026-11-23T07:00:00+01:00"}, 400, "bad_request"),
        (timedelta(days=1), {"fingerprint": "a\nb"}, 400, "bad_request"),
        (timedelta(days=1), {"nonce": "short"}, 400, "bad_request"),
    ],
)
async def test_what_may_not_be_borrowed_stays(
    world: World, after: timedelta, change: dict[str, Any], status: int, code: str
) -> None:
    await held(world, ALICE)
    answered, problem = await world.borrow(ALICE, NOW + after, **change)
    assert (status, code) == (answered, problem["code"])
    assert "floating" == world.writer.ledger.leases[ALICE.lease_id].mode


async def test_no_more_seats_leave_than_the_vendor_lends(world: World) -> None:
    await held(world, ALICE, BOB)
    until = NOW + timedelta(days=1)
    assert 200 == (await world.borrow(ALICE, until))[0]
    status, problem = await world.borrow(BOB, until)
    assert (403, "borrow_not_allowed", 1, 1) == (status, *(problem[name] for name in ("code", "in_use", "limit")))
    assert problem["remedy"]


async def test_leases_are_counted_by_what_keeps_them(world: World) -> None:
    await held(world, ALICE, BOB)
    await world.borrow(ALICE, NOW + timedelta(days=1))
    async with world.http.get("/metrics") as response:
        text = await response.text()
    assert 'lls_leases_live{mode="floating"} 1.0' in text
    assert 'lls_leases_live{mode="borrowed"} 1.0' in text
    assert 'lls_leases_live{mode="node_locked"} 0.0' in text
