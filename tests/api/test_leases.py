"""The lease calls of contract §2, over real HTTP on a real store."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from lls.licensing.fields import write_instant
from lls.signed.capability import verify_capability
from lls.signed.certificate import read_certificate
from tests.api.conftest import Held, Seat, World, nonce_of, until
from tests.vendor import NOW, entitlement, new_id


async def test_a_checkout_is_answered_as_the_contract_shows_it(world: World) -> None:
    features = [{"key": "render", "type": "bool", "value": 1}]
    await world.host(entitlement(features=features, maintenance_expires_on="2027-01-31"))
    seat = Seat("alice")
    status, answer = await world.checkout(seat)
    assert 201 == status
    lease = answer["lease"]
    expected = {
        "lease_id": seat.lease_id,
        "state": "active",
        "mode": "floating",
        "product": "cad",
        "entitlement_id": new_id("ent_", "cad"),
        "edition": "pro",
        "seats": 1,
        "overdraft": False,
        "holder": {"seat_id": "machine of alice", "user": "alice"},
        "granted_at": "2026-11-21T07:00:00Z",
        "expires_at": "2026-11-21T07:10:00Z",
        "expires_in_seconds": 600,
        "heartbeat_seconds": lease["heartbeat_seconds"],
        "idle_return_seconds": None,
        "features": [
            {
                "key": "render",
                "type": "bool",
                "value": 1,
                "unit": None,
                "currency": None,
                "held": 0,
                "available": None,
                "total": None,
                "consumed": 0,
                "overage": 0,
                "ends_at": None,
            }
        ],
        "attributes": {"max_layers": 64},
        "entitlement": {
            "status": "active",
            "expires_at": "2027-11-21T07:00:00Z",
            "expires_in_days": None,
            "grace_expires_at": None,
            "maintenance_expires_on": "2027-01-31",
        },
    }
    assert expected == lease
    assert 50 <= lease["heartbeat_seconds"] <= 70


async def test_the_capability_is_the_servers_word_over_the_clients_nonce(world: World) -> None:
    await world.host(entitlement(features=[{"key": "render", "type": "bool", "value": 0}]))
    seat = Seat("alice")
    _, granted = await world.checkout(seat)
    _, beaten = await world.beat(seat, 1)
    token = world.airgap.certificate()
    assert token is not None
    certificate = read_certificate(token, keys=world.vendor.keys)
    for answer, nonce in ((granted, nonce_of("alice")), (beaten, nonce_of("alice 1"))):
        claims = verify_capability(answer["capability"], certificate=certificate)
        assert (seat.lease_id, "cad", nonce, 600) == (claims["sub"], claims["aud"], claims["nonce"], claims["ttl"])
        assert ({"render": False}, {"max_layers": 64}) == (claims["features"], claims["attributes"])


async def test_in_grace_the_lease_says_until_when(world: World) -> None:
    await world.host(entitlement(expires_at=write_instant(NOW - timedelta(hours=1)), grace_seconds=7_200))
    _, answer = await world.checkout(Seat("alice"))
    shown = answer["lease"]["entitlement"]
    assert ("grace", "2026-11-21T06:00:00Z", "2026-11-21T08:00:00Z") == tuple(
        shown[name] for name in ("status", "expires_at", "grace_expires_at")
    )


async def test_the_same_checkout_again_is_the_same_lease(world: World) -> None:
    await world.host()
    seat = Seat("alice")
    first, granted = await world.checkout(seat)
    again, same = await world.checkout(seat, lease_id=seat.lease_id.upper(), seats=1, nonce=nonce_of("another"))
    assert (201, 200) == (first, again)
    assert granted["lease"] == same["lease"]
    assert 1 == len(world.writer.ledger.leases)


@pytest.mark.parametrize("change", [{"seats": 2}, {"holder": {"seat_id": "other"}}, {"version": "2"}])
async def test_the_same_id_with_other_content_is_taken(world: World, change: dict[str, Any]) -> None:
    await world.host()
    seat = Seat("alice")
    await world.checkout(seat)
    status, problem = await world.checkout(seat, **change)
    assert (409, "lease_id_taken") == (status, problem["code"])


async def test_a_wrong_secret_is_answered_like_an_unknown_lease(world: World) -> None:
    await world.host()
    seat, thief = Seat("alice"), Seat("mallory")
    await world.checkout(seat)
    path = f"/v1/leases/{seat.lease_id}"
    beat = {"beat": 1, "nonce": nonce_of("x")}
    wrong = [
        await world.call("GET", path, headers=thief.headers),
        await world.call("POST", f"{path}/heartbeat", headers=thief.headers, json=beat),
    ]
    unknown = [
        await world.call("GET", f"/v1/leases/{thief.lease_id}", headers=thief.headers),
        await world.call("POST", f"/v1/leases/{thief.lease_id}/heartbeat", headers=thief.headers, json=beat),
    ]
    assert unknown == wrong
    assert [404, 404] == [status for status, _ in wrong]
    assert (204, None) == await world.call("DELETE", path, headers=thief.headers)
    assert 200 == (await world.beat(seat, 1))[0]


async def test_a_checkin_succeeds_again_and_ends_the_id_for_ever(world: World) -> None:
    await world.host()
    seat = Seat("alice")
    await world.checkout(seat)
    assert [(204, None), (204, None)] == [await world.checkin(seat), await world.checkin(seat)]
    status, problem = await world.checkout(seat)
    assert (410, "lease_ended", "checked_in") == (status, problem["code"], problem["reason"])
    assert (410, "lease_ended") == ((answer := await world.beat(seat, 1))[0], answer[1]["code"])


async def test_a_checkout_that_arrives_after_its_checkin_is_not_granted(world: World) -> None:
    await world.host()
    seat = Seat("late")
    assert 204 == (await world.checkin(seat))[0]
    assert 410 == (await world.checkout(seat))[0]


async def test_beats_go_up_repeat_and_never_fork(world: World) -> None:
    await world.host()
    seat = Seat("alice")
    await world.checkout(seat)
    assert 200 == (await world.beat(seat, 7))[0]
    assert 200 == (await world.beat(seat, 7))[0]
    for clone in (await world.beat(seat, 7, nonce=nonce_of("clone")), await world.beat(seat, 3)):
        assert (409, "lease_cloned") == (clone[0], clone[1]["code"])
    status, answer = await world.beat(seat, 8)
    assert {"expires_at", "expires_in_seconds", "heartbeat_seconds", "state", "capability"} == set(answer)
    assert (200, "active") == (status, answer["state"])


async def test_a_live_lease_is_shown(world: World) -> None:
    await world.host()
    seat = Seat("alice")
    _, granted = await world.checkout(seat)
    status, shown = await world.call("GET", f"/v1/leases/{seat.lease_id.upper()}", headers=seat.headers)
    assert (200, {"lease": granted["lease"]}) == (status, shown)


# ---------------------------------------------------------------- denials and faults


DENIED: list[tuple[dict[str, Any], dict[str, Any], int, str]] = [
    ({"seats": 0}, {}, 409, "no_seat"),
    ({}, {"product": "unheard"}, 404, "unknown_product"),
    ({}, {"edition": "ultra"}, 403, "edition_not_covered"),
    ({"max_version": "2026"}, {"version": "2027.1"}, 403, "version_not_covered"),
    ({"maintenance_expires_on": "2026-01-01"}, {"released_on": "2026-01-02"}, 403, "version_not_covered"),
    ({}, {"features": {"render": 1}}, 404, "unknown_feature"),
    ({"features": [{"key": "render", "type": "bool", "value": 0}]}, {"features": {"render": 1}}, 403, "not_entitled"),
    ({"status": "disabled"}, {}, 403, "entitlement_disabled"),
    ({"starts_at": write_instant(NOW + timedelta(days=2))}, {}, 403, "entitlement_not_started"),
    (
        {"expires_at": write_instant(NOW - timedelta(hours=2)), "grace_seconds": 60},
        {},
        403,
        "entitlement_expired",
    ),
    ({"activation_codes": ["Y64E-G6QX-56EW-W1BG"]}, {"activation_code": "WRONG"}, 401, "bad_activation_code"),
    ({"activation_codes": ["Y64E-G6QX-56EW-W1BG"]}, {}, 401, "bad_activation_code"),
]


@pytest.mark.parametrize(("terms", "wish", "status", "code"), DENIED, ids=lambda value: str(value)[:40])
async def test_a_refusal_has_its_status_and_code(
    world: World, terms: dict[str, Any], wish: dict[str, Any], status: int, code: str
) -> None:
    await world.host(entitlement(**terms))
    answered, problem = await world.checkout(Seat("alice"), **wish)
    assert (status, code, status) == (answered, problem["code"], problem["status"])
    assert f"urn:lls:problem:{code}" == problem["type"]
    assert {"title", "detail"} <= set(problem)


async def test_an_activation_code_is_read_as_people_type_it(world: World) -> None:
    await world.host(entitlement(activation_codes=["Y64E-G6QX-56EW-W1BG"]))
    assert 201 == (await world.checkout(Seat("alice"), activation_code=" y64e-g6qx-56ew-w1bg "))[0]


async def test_a_denial_says_which_rule_decided(world: World) -> None:
    await world.host(entitlement(seats=1))
    await world.checkout(Seat("alice"))
    async with world.http.post("/v1/leases", headers=Seat("bob").headers, json=Seat("bob").body()) as response:
        problem = json.loads(await response.read())
        assert (409, "application/problem+json") == (response.status, response.content_type)
        assert "30" == response.headers["Retry-After"]
    assert ("seats", 1, 1, 30) == tuple(problem[key] for key in ("rule", "in_use", "seats", "retry_after_seconds"))


async def test_before_the_first_bundle_no_product_is_known(world: World) -> None:
    assert (404, "unknown_product") == ((answer := await world.checkout(Seat("alice")))[0], answer[1]["code"])


async def test_an_expired_server_licence_refuses_new_leases_only(world: World) -> None:
    license_ = {
        "expires_at": write_instant(NOW + timedelta(seconds=3)),
        "sync_within_days": 90,
        "binding": {"policy": "key_only", "required": 0, "components": {}, "grace_seconds": 604800},
    }
    await world.host(server_license=license_)
    seat = Seat("alice")
    await world.checkout(seat)
    world.machine.pass_(4)
    status, problem = await world.checkout(Seat("bob"))
    assert (403, "server_not_licensed") == (status, problem["code"])
    assert 200 == (await world.beat(seat, 1))[0]


async def test_a_clock_that_is_behind_refuses_new_leases_only(world: World) -> None:
    await world.host()
    seat = Seat("alice")
    await world.checkout(seat)
    world.machine.wall -= timedelta(hours=1)
    async with world.http.post("/v1/leases", headers=Seat("bob").headers, json=Seat("bob").body()) as response:
        assert (503, "clock_behind") == (response.status, (await response.json(content_type=None))["code"])
        assert "60" == response.headers["Retry-After"]
    assert 200 == (await world.beat(seat, 1))[0]


@pytest.mark.parametrize("setting", [{"queue_limit": 0}])
async def test_a_full_queue_is_told_at_once(world: World) -> None:
    async with world.http.post("/v1/leases", headers=Seat("a").headers, json=Seat("a").body()) as response:
        assert (503, "overloaded") == (response.status, (await response.json(content_type=None))["code"])
        assert "1" == response.headers["Retry-After"]


# ---------------------------------------------------------------- waiting


async def test_who_waits_gets_the_seat_when_it_comes_free(world: World) -> None:
    await world.host(entitlement(seats=1))
    alice, bob = Seat("alice"), Seat("bob")
    await world.checkout(alice)
    waiting = asyncio.create_task(world.checkout(bob, wait=20))
    await until(lambda: world.writer.ledger.waiting.length("cad") == 1)
    assert (204, None) == await world.checkin(alice)
    status, answer = await waiting
    assert (201, bob.lease_id) == (status, answer["lease"]["lease_id"])


async def test_the_first_to_ask_is_the_first_to_sit(world: World) -> None:
    await world.host(entitlement(seats=1))
    await world.checkout(Seat("holder"))
    names = ["first", "second", "third"]
    tasks = []
    for count, name in enumerate(names, start=1):
        tasks.append(asyncio.create_task(world.checkout(Seat(name), wait=30)))
        await until(lambda count=count: world.writer.ledger.waiting.length("cad") == count)  # type: ignore[misc]
    current = Seat("holder")
    for name, task in zip(names, tasks, strict=True):
        await world.checkin(current)
        assert 201 == (await task)[0]
        current = Seat(name)


async def test_a_wait_that_ends_without_a_seat_says_the_place(world: World) -> None:
    await world.host(entitlement(seats=1))
    await world.checkout(Seat("alice"))
    bob = Seat("bob")
    async with world.http.post(
        "/v1/leases", headers={**bob.headers, "Prefer": "respond-async, wait=1"}, json=bob.body()
    ) as response:
        problem = await response.json(content_type=None)
        assert (409, "no_seat", 1) == (response.status, problem["code"], problem["queue_position"])
        assert "wait=1" == response.headers["Preference-Applied"]


async def test_who_hangs_up_leaves_the_seat_to_the_next(world: World) -> None:
    await world.host(entitlement(seats=1))
    alice, gone, next_ = Seat("alice"), Seat("gone"), Seat("next")
    await world.checkout(alice)
    hanging = asyncio.create_task(world.checkout(gone, wait=30))
    await until(lambda: world.writer.ledger.waiting.length("cad") == 1)
    waiting = asyncio.create_task(world.checkout(next_, wait=30))
    await until(lambda: world.writer.ledger.waiting.length("cad") == 2)
    hanging.cancel()
    await until(lambda: any(not waiter.open for waiter in world.writer.ledger.waiting))
    await world.checkin(alice)
    assert 201 == (await waiting)[0]
    assert {next_.lease_id} == set(world.writer.ledger.leases)


async def test_a_waiting_lease_leaves_the_queue_by_checkin(world: World) -> None:
    await world.host(entitlement(seats=1))
    await world.checkout(Seat("alice"))
    bob = Seat("bob")
    waiting = asyncio.create_task(world.checkout(bob, wait=30))
    await until(lambda: world.writer.ledger.waiting.length("cad") == 1)
    assert (204, None) == await world.checkin(bob)
    assert (410, "lease_ended") == ((answer := await waiting)[0], answer[1]["code"])


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [("wait=0", None), ("wait=x", None), ("wait=-1", None), ("respond-async", None), ("waiting=9", None)],
)
async def test_a_preference_that_cannot_be_read_is_no_preference(
    world: World, prefer: str, seconds: str | None
) -> None:
    await world.host(entitlement(seats=0))
    seat = Seat("alice")
    async with world.http.post("/v1/leases", headers={**seat.headers, "Prefer": prefer}, json=seat.body()) as response:
        assert (409, seconds) == (response.status, response.headers.get("Preference-Applied"))


async def test_a_longer_wait_is_cut_to_a_minute(world: World) -> None:
    await world.host()
    seat = Seat("alice")
    async with world.http.post(
        "/v1/leases", headers={**seat.headers, "Prefer": 'WAIT="999"; x=y'}, json=seat.body()
    ) as response:
        assert (201, "wait=60") == (response.status, response.headers["Preference-Applied"])


# ---------------------------------------------------------------- many at once


async def test_a_batch_answers_each_in_order_as_if_alone(world: World) -> None:
    await world.host()
    alice, bob, thief = Seat("alice"), Seat("bob"), Seat("mallory")
    await world.checkout(alice)
    await world.checkout(bob)
    await world.checkin(bob)

    def one(seat: Seat, *, secret: str | None = None, beat: int = 1) -> dict[str, Any]:
        return {
            "lease_id": seat.lease_id.upper(),
            "secret": secret or seat.secret,
            "beat": beat,
            "nonce": nonce_of(f"{beat}"),
        }

    beats = [one(alice), one(alice, secret=thief.secret), one(bob), one(alice, beat=0), one(alice, beat=2)]
    status, answer = await world.call("POST", "/v1/heartbeats", json={"leases": beats})
    results = answer["results"]
    assert 200 == status
    assert [200, 404, 410, 409, 200] == [result["status"] for result in results]
    assert [None, "unknown_lease", "lease_ended", "lease_cloned", None] == [result.get("code") for result in results]
    assert [alice.lease_id, alice.lease_id, bob.lease_id] == [result["lease_id"] for result in results[:3]]
    single = {"expires_at", "expires_in_seconds", "heartbeat_seconds", "state", "capability"}
    assert {"lease_id", "status", *single} == set(results[0])


@pytest.mark.parametrize(("count", "status"), [(500, 200), (501, 400), (0, 400)])
async def test_a_batch_has_one_to_five_hundred(world: World, count: int, status: int) -> None:
    seat = Seat("nobody")
    beat = {"lease_id": seat.lease_id, "secret": seat.secret, "beat": 1, "nonce": "A" * 86}
    assert status == (await world.call("POST", "/v1/heartbeats", json={"leases": [beat] * count}))[0]


async def test_one_lease_that_waits_for_a_commit_holds_up_no_other_of_the_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.host()
    alice, bob = Seat("alice"), Seat("bob")
    await world.checkout(alice)
    await world.checkout(bob)
    held = Held(world, monkeypatch)
    leaving = asyncio.create_task(world.checkin(alice))
    await held.waiting.wait()
    world.machine.pass_(4)
    before = world.writer.ledger.leases[bob.lease_id].deadline
    beats = [
        {"lease_id": seat.lease_id, "secret": seat.secret, "beat": beat, "nonce": nonce_of("n")}
        for seat, beat in ((alice, 1), (bob, 1), (alice, 2))
    ]
    batch = asyncio.create_task(world.call("POST", "/v1/heartbeats", json={"leases": beats}))
    await until(lambda: world.writer.ledger.leases[bob.lease_id].deadline > before)
    held.let_go()
    _, answer = await batch
    assert [(alice.lease_id, 410), (bob.lease_id, 200), (alice.lease_id, 410)] == [
        (result["lease_id"], result["status"]) for result in answer["results"]
    ]
    assert (204, None) == await leaving


async def test_a_checkin_whose_client_is_gone_is_carried_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.host()
    alice = Seat("alice")
    await world.checkout(alice)
    held = Held(world, monkeypatch)
    other = asyncio.create_task(world.checkout(Seat("bob")))
    await held.waiting.wait()
    _, writer = await asyncio.open_connection("127.0.0.1", world.port)
    secret = alice.headers["Authorization"]
    writer.write(f"DELETE /v1/leases/{alice.lease_id} HTTP/1.1\r\nHost: x\r\nAuthorization: {secret}\r\n\r\n".encode())
    writer.close()
    await until(lambda: world.writer.queued == 1)
    await until(lambda: world.gate.inside == 1)
    held.let_go()
    assert 201 == (await other)[0]
    await until(lambda: alice.lease_id not in world.writer.ledger.leases)


# ---------------------------------------------------------------- products, draining


async def test_products_show_seats_over_all_entitlements_in_force(world: World) -> None:
    later = write_instant(NOW + timedelta(days=9))
    await world.host(
        entitlement(seats=2, overdraft={"type": "absolute", "value": 1}),
        entitlement("more", seats=3, product={"key": "cad", "name": "CAD"}),
        entitlement("soon", seats=9, product={"key": "cad", "name": "CAD"}, starts_at=later),
        entitlement("free", seats=None, product={"key": "view", "name": "View"}),
        certificate=world.vendor.certificate(world.site, products=["cad", "view"]),
    )
    await world.checkout(Seat("alice"), seats=2)
    status, answer = await world.call("GET", "/v1/products")
    expected = [
        {"product": "cad", "name": "CAD", "seats": 5, "in_use": 2, "available": 4},
        {"product": "view", "name": "View", "seats": None, "in_use": 0, "available": None},
    ]
    assert (200, {"products": expected}) == (status, answer)


@pytest.mark.parametrize("setting", [{"show_products": False}])
async def test_a_site_may_hide_its_products(world: World) -> None:
    assert (403, "forbidden") == ((answer := await world.call("GET", "/v1/products"))[0], answer[1]["code"])


@pytest.mark.parametrize("setting", [{"show_products": False}])
async def test_a_site_that_hides_its_products_hides_its_metrics_from_the_network_only(world: World) -> None:
    assert (403, "forbidden") == ((answer := await world.call("GET", "/metrics"))[0], answer[1]["code"])
    async with world.admin.get("/metrics") as response:
        assert 200 == response.status


async def test_a_server_that_stops_grants_nothing_new_and_keeps_what_is_held(world: World) -> None:
    await world.host(entitlement(seats=1))
    alice, bob = Seat("alice"), Seat("bob")
    await world.checkout(alice)
    waiting = asyncio.create_task(world.checkout(bob, wait=30))
    await until(lambda: world.writer.ledger.waiting.length("cad") == 1)
    world.edge.drain()
    assert (503, "draining") == ((answer := await waiting)[0], answer[1]["code"])
    assert (503, "draining") == ((answer := await world.checkout(Seat("carol")))[0], answer[1]["code"])
    assert 200 == (await world.beat(alice, 1))[0]
    assert (204, None) == await world.checkin(alice)
    assert (503, False) == ((answer := await world.call("GET", "/readyz"))[0], answer[1]["ready"])


@pytest.mark.parametrize(
    ("bought", "asked", "status", "claim"),
    [
        ("pro", None, 201, "pro"),
        ("pro", "pro", 201, "pro"),
        ("pro", "std", 403, None),
        (None, None, 201, None),
        (None, "pro", 403, None),
    ],
)
async def test_the_edition_is_asked_for_judged_here_and_signed(
    world: World, bought: str | None, asked: str | None, status: int, claim: str | None
) -> None:
    await world.host(entitlement(edition=bought))
    seat = Seat("alice")
    answered, answer = await world.checkout(seat, edition=asked)
    assert status == answered
    if answered == 403:
        assert ("edition_not_covered", "edition") == (answer["code"], answer["rule"])
        return
    assert (claim, claim) == (answer["lease"]["edition"], world.claims(answer).get("edition"))
    _, beaten = await world.beat(seat, 1)
    assert claim == world.claims(beaten).get("edition")


async def test_of_two_editions_the_one_that_was_asked_for_is_given(world: World) -> None:
    std = {"entitlement_id": new_id("ent_", "std"), "session_id": new_id("ses_", "std"), "edition": "std"}
    await world.host(entitlement(), entitlement(**std))
    for edition in ("std", "pro", "std"):
        _, answer = await world.checkout(Seat(f"{edition} {world.writer.ledger.head.seq}"), edition=edition)
        assert (edition, edition) == (answer["lease"]["edition"], world.claims(answer)["edition"])
