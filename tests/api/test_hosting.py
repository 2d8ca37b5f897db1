"""What the administrator does with what is hosted: seats by file, named users, giving back; and the site's policy."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from lls.signed.returned import read_return
from tests.api.conftest import Seat, World, until
from tests.vendor import NOW, Machine, entitlement, new_id

FILE = {"Content-Type": "application/octet-stream"}
LENDS = {"max_seconds": 14 * 86_400, "max_seats": 2}
CAD = new_id("ent_", "cad")
ALICE, BOB = Seat("alice"), Seat("bob")


async def uploaded(world: World, path: str, data: str | bytes) -> tuple[int, Any]:
    return await world.ask("POST", path, data=data, headers=FILE)


# ---------------------------------------------------------------- borrowing by file


async def test_a_machine_without_the_network_borrows_by_a_file(world: World) -> None:
    await world.host(entitlement(borrow=LENDS))
    laptop = Machine.named()
    status, grant = await uploaded(world, "/borrows", laptop.borrow_request())
    claims = world.claims(grant)
    assert (200, 1, laptop.lease_id) == (status, grant["format"], grant["lease"]["lease_id"])
    assert ("borrowed", {"jkt": laptop.key.kid}, int((NOW + timedelta(days=7)).timestamp())) == (
        *(claims[name] for name in ("mode", "cnf", "exp")),
    )
    assert "n" * 43 == claims["nonce"]
    assert world.airgap.certificate() == grant["certificate"]
    status, again = await uploaded(world, "/borrows", laptop.borrow_request())
    assert (200, grant["lease"]) == (status, again["lease"])
    _, listed = await world.ask("GET", "/borrows")
    assert [(laptop.lease_id, "2026-11-28T07:00:00Z", True)] == [
        (one["lease_id"], one["until"], one["by_file"]) for one in listed["borrows"]
    ]
    _, hosted = await world.ask("GET", "/entitlements")
    assert (1, 1, LENDS) == tuple(hosted["entitlements"][0][name] for name in ("in_use", "borrowed", "borrow"))


async def test_a_grant_is_a_file_with_a_name(world: World) -> None:
    await world.host(entitlement(borrow=LENDS))
    laptop = Machine.named()
    async with world.admin.post("/v1/admin/borrows", data=laptop.borrow_request(), headers=FILE) as response:
        assert f'attachment; filename="{laptop.lease_id}.llsborrow"' == response.headers["Content-Disposition"]
        assert "application/octet-stream" == response.content_type


async def test_a_seat_that_is_away_is_not_released_and_comes_back_by_a_file(world: World) -> None:
    await world.host(entitlement(borrow=LENDS))
    laptop = Machine.named()
    await uploaded(world, "/borrows", laptop.borrow_request())
    status, problem = await world.ask("DELETE", f"/leases/{laptop.lease_id}", json={"reason": "needed"})
    assert (409, "borrowed", "2026-11-28T07:00:00Z") == (status, problem["code"], problem["until"])
    status, _ = await uploaded(world, "/borrows/return", Machine.named("thief").borrow_return(world.site.server_id))
    assert 404 == status
    for _ in range(2):
        status, back = await uploaded(world, "/borrows/return", laptop.borrow_return(world.site.server_id))
        assert (200, laptop.lease_id) == (status, back["lease_id"])
    assert [] == (await world.ask("GET", "/borrows"))[1]["borrows"]


@pytest.mark.parametrize(
    ("lends", "members", "status", "code"),
    [
        ({"max_seconds": 0, "max_seats": 0}, {}, 403, "borrow_not_allowed"),
        (LENDS, {"until": "2026-12-20T07:00:00Z"}, 409, "borrow_too_long"),
        (LENDS, {"fingerprint": "another"}, 403, "wrong_machine"),
        (LENDS, {"product": "cam"}, 404, "unknown_product"),
    ],
)
async def test_a_request_that_may_not_be_granted_is_a_denial(
    world: World, lends: dict[str, int], members: dict[str, Any], status: int, code: str
) -> None:
    await world.host(entitlement(borrow=lends))
    answered, problem = await uploaded(world, "/borrows", Machine.named().borrow_request(**members))
    assert (status, code) == (answered, problem["code"])
    assert {} == world.writer.ledger.leases


async def test_a_file_that_is_none_is_refused(world: World) -> None:
    for path in ("/borrows", "/borrows/return"):
        status, problem = await uploaded(world, path, b"no document")
        assert (422, "malformed") == (status, problem["reason"])


# ---------------------------------------------------------------- named users


async def test_the_site_names_users_where_the_vendor_lets_it(world: World) -> None:
    await world.host(entitlement(concurrency="named_user", seats=2, named_users=["bob"]))
    status, refused = await world.checkout(ALICE)
    assert (403, "not_a_named_user", "terms") == (status, refused["code"], refused["cause"])
    assert (204, None) == await world.ask("POST", f"/entitlements/{CAD}/users/Alice")
    assert 201 == (await world.checkout(ALICE))[0]
    _, hosted = await world.ask("GET", "/entitlements")
    (one,) = hosted["entitlements"]
    assert ("named_user", ["bob"], ["Alice"], {"by_site": True, "changes_per_month": 2}) == tuple(
        one[name] for name in ("concurrency", "named_users", "assigned", "named_user_assignment")
    )
    status, full = await world.ask("POST", f"/entitlements/{CAD}/users/carol")
    assert (403, "forbidden") == (status, full["code"])
    assert (204, None) == await world.ask("DELETE", f"/entitlements/{CAD}/users/ALICE")
    status, ended = await world.beat(ALICE, 1)
    assert (410, "released") == (status, ended["reason"])


@pytest.mark.parametrize(("path", "status"), [("ent_none/users/ann", 404), (f"{CAD}/users/a%0Ab", 400)])
async def test_a_name_that_cannot_be_given_is_refused(world: World, path: str, status: int) -> None:
    await world.host(entitlement(concurrency="named_user", seats=2))
    assert status == (await world.ask("POST", f"/entitlements/{path}"))[0]


# ---------------------------------------------------------------- giving back


async def test_an_entitlement_drains_and_then_goes_back_signed(world: World) -> None:
    features = [{"key": "exports", "type": "usage_count", "value": 10, "unit": "export"}]
    await world.host(entitlement(features=features))
    await world.checkout(ALICE)
    await world.act(ALICE, "use", "exports", 4)
    path = f"/entitlements/{CAD}/return"
    assert (200, {"state": "draining", "leases": 1, "document": None}) == await world.ask("POST", path, json={})
    _, hosted = await world.ask("GET", "/entitlements")
    assert hosted["entitlements"][0]["returning"]
    status, refused = await world.checkout(BOB)
    assert (403, "entitlement_disabled", "returning") == (status, refused["code"], refused["rule"])
    assert 200 == (await world.beat(ALICE, 1))[0]
    await world.checkin(ALICE)
    status, returned = await world.ask("POST", path, json={"force": False})
    assert (200, "returned") == (status, returned["state"])
    told = read_return(returned["document"], server_jwk=world.site.signing_jwk, server_id=world.site.server_id)
    assert (CAD, [4], None) == (told.entitlement_id, [meter.consumed for meter in told.meters], told.borrowed_until)
    assert {"entitlements": []} == (await world.ask("GET", "/entitlements"))[1]
    assert (200, returned) == await world.ask("POST", path, json={"force": True})


async def test_a_drain_is_taken_back(world: World) -> None:
    await world.host()
    await world.checkout(ALICE)
    path = f"/entitlements/{CAD}/return"
    assert 404 == (await world.ask("DELETE", path))[0]
    await world.ask("POST", path, json={})
    assert (204, None) == await world.ask("DELETE", path)
    assert 201 == (await world.checkout(BOB))[0]


async def test_who_forces_ends_what_is_held_and_leaves_what_is_borrowed(world: World) -> None:
    await world.host(entitlement(borrow=LENDS))
    for seat in (ALICE, BOB):
        await world.checkout(seat)
    await world.borrow(BOB, NOW + timedelta(days=3))
    _, returned = await world.ask("POST", f"/entitlements/{CAD}/return", json={"force": True})
    told = read_return(returned["document"], server_jwk=world.site.signing_jwk, server_id=world.site.server_id)
    assert NOW + timedelta(days=3) == told.borrowed_until
    assert 410 == (await world.beat(ALICE, 1))[0]
    _, listed = await world.ask("GET", "/borrows")
    assert [BOB.lease_id] == [one["lease_id"] for one in listed["borrows"]]
    assert 404 == (await world.ask("POST", "/entitlements/ent_none/return", json={}))[0]


# ---------------------------------------------------------------- lists


async def test_leases_tell_their_kind_their_end_and_what_they_hold(world: World) -> None:
    features = [{"key": "nodes", "type": "element_pool", "value": 4}]
    await world.host(entitlement(borrow=LENDS, features=features))
    await world.checkout(ALICE, features={"nodes": 2})
    await world.borrow(ALICE, NOW + timedelta(days=3))
    _, listed = await world.ask("GET", "/leases")
    (lease,) = listed["leases"]
    assert ("borrowed", "2026-11-24T07:00:00Z", "2026-11-24T07:00:00Z", False, {"nodes": 2}, "127.0.0.1") == tuple(
        lease[name] for name in ("mode", "until", "expires_at", "by_file", "features", "address")
    )
    _, hosted = await world.ask("GET", "/entitlements")
    (nodes,) = hosted["entitlements"][0]["features"]
    assert (0, 2, 4) == (nodes["held"], nodes["available"], nodes["total"])


async def test_an_update_of_features_and_kinds_is_shown_before_it_is_applied(world: World) -> None:
    nodes = {"key": "nodes", "type": "element_pool", "value": 4}
    grant = {"grant_id": new_id("grt_", "one"), "amount": 2, "active_from": "2026-11-21T07:00:00Z"}
    await world.host(entitlement(features=[nodes]))
    grown = {**nodes, "grants": [{**grant, "expiry": {"type": "custom", "unit": "month", "count": 3}}]}
    changes: dict[str, Any] = {"features": [grown], "borrow": LENDS, "node_lock_release_after_seconds": 60}
    data = world.vendor.bundle(world.site, entitlements=[entitlement(sequence=2, **changes)])
    status, dry = await world.ask("POST", "/bundles?dry_run=1", data=data, headers=FILE)
    told = {one["field"]: (one["old"], one["new"]) for one in dry["entitlements"][0]["differences"]}
    assert (200, {"features", "borrow", "node_lock_release"}) == (status, set(told))
    assert (None, 60) == told["node_lock_release"]
    assert LENDS == told["borrow"][1]


async def test_a_term_that_the_first_lease_starts_has_its_dates_then(world: World) -> None:
    plan = {"license_type": "trial", "start": "on_first_lease", "term": {"unit": "day", "count": 30}}
    await world.host(entitlement(plan=plan, starts_at=None, expires_at=None))
    before = (await world.ask("GET", "/entitlements"))[1]["entitlements"][0]
    await world.checkout(ALICE)
    after = (await world.ask("GET", "/entitlements"))[1]["entitlements"][0]
    assert (None, None, None) == tuple(before[name] for name in ("starts_at", "expires_at", "started_at"))
    assert ("2026-11-21T07:00:00Z", "2026-12-21T07:00:00Z", "2026-11-21T07:00:00Z") == tuple(
        after[name] for name in ("starts_at", "expires_at", "started_at")
    )


async def test_a_denial_is_listed_with_its_cause_and_what_would_have_helped(world: World) -> None:
    await world.host(entitlement(seats=1))
    await world.checkout(ALICE)
    await world.checkout(BOB)
    _, listed = await world.ask("GET", "/denials")
    (denial,) = listed["denials"]
    assert ("no_seat", "capacity", None) == tuple(denial[name] for name in ("code", "cause", "feature"))
    assert denial["remedy"]


# ---------------------------------------------------------------- the site's policy

DENY = '[[deny]]\nname = "kiosks"\nproduct = "cad"\nfor = { users = ["alice"] }\n'
RESERVE = '[[reserve]]\nproduct = "cad"\nseats = 50\nfor = { users = ["bob"] }\n'


async def test_a_policy_is_read_again_and_decides_from_then_on(world: World) -> None:
    await world.host()
    await world.checkout(ALICE)
    status, reloaded = await world.govern(DENY)
    assert (200, [], 1) == (status, reloaded["policy"]["removed"], reloaded["policy"]["rules"])
    assert 1 == len(reloaded["policy"]["added"])
    assert 200 == (await world.beat(ALICE, 1))[0]  # no lease ends by it
    await world.checkin(ALICE)
    another = Seat("second", wish={"holder": {"seat_id": "another", "user": "ALICE"}})
    status, refused = await world.checkout(another)
    assert (403, "excluded", "deny[1]", "policy") == (status, *(refused[name] for name in ("code", "rule", "cause")))
    _, shown = await world.ask("GET", "/policy")
    assert (f"format = 1\n{DENY}", ["cad"], []) == (
        shown["text"],
        [rule["product"] for rule in shown["rules"]],
        shown["doubts"],
    )
    assert ["kiosks"] == [rule["name"] for rule in shown["rules"]]


async def test_a_policy_with_a_mistake_changes_nothing(world: World) -> None:
    await world.host()
    await world.govern(DENY)
    status, refused = await world.govern("[[deny]]\nproduct = 7\n")
    assert (422, "refused_document", "malformed") == (status, refused["code"], refused["reason"])
    _, shown = await world.ask("GET", "/policy")
    assert f"format = 1\n{DENY}" == shown["text"]


async def test_another_policy_is_judged_without_changing_anything(world: World) -> None:
    await world.host(entitlement(seats=10))
    status, checked = await uploaded(world, "/policy/check", f"format = 1\n{DENY}")
    assert (200, {"rules": 1, "doubts": []}) == (status, checked)
    _, doubtful = await uploaded(world, "/policy/check", f"format = 1\n{RESERVE}")
    assert 1 == len(doubtful["doubts"])
    for wrong in (b"\xff", b"format = 2"):
        assert 422 == (await uploaded(world, "/policy/check", wrong))[0]
    assert [] == (await world.ask("GET", "/policy"))[1]["rules"]


async def test_an_explanation_names_the_rule_that_decides_and_grants_nothing(world: World) -> None:
    await world.host()
    await world.govern(DENY)
    status, told = await world.ask("GET", "/policy/explain?product=cad&user=alice")
    assert (200, False, "excluded", "deny[1]") == (
        status,
        told["granted"],
        told["outcome"]["code"],
        told["outcome"]["rule"],
    )
    assert "deny[1]" in {step["rule"] for step in told["steps"]}
    assert all(step["words"] for step in told["steps"])
    _, told = await world.ask("GET", "/policy/explain?product=cad&user=bob&seats=2")
    assert (True, CAD, 2) == (told["granted"], told["outcome"]["entitlement_id"], told["outcome"]["taken"])
    head = world.writer.ledger.head
    await world.ask("GET", "/policy/explain?product=cad&user=alice")
    assert head == world.writer.ledger.head
    assert {} == world.writer.ledger.leases


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("product=", 400), ("product=none", 404), ("product=cad&seats=0", 400), ("product=cad&age=7", 400)],
)
async def test_an_explanation_of_nothing_is_refused(world: World, query: str, status: int) -> None:
    await world.host()
    assert status == (await world.ask("GET", f"/policy/explain?{query}"))[0]


# ---------------------------------------------------------------- what if


@pytest.mark.parametrize(("seats", "remain"), [(1, 1), (2, 0)])
async def test_what_more_seats_would_have_done_is_told(world: World, seats: int, remain: int) -> None:
    await world.host(entitlement(seats=1))
    for seat in (ALICE, BOB):
        await world.checkout(seat)
    status, told = await world.ask("GET", f"/usage/what-if?product=cad&seats={seats}&from=2026-11-21")
    assert (200, "cad", seats, 2, 1) == (status, *(told[name] for name in ("product", "seats", "requests", "denials")))
    assert remain == told["would_remain"]


async def test_what_if_knows_hosted_products_only(world: World) -> None:
    status, problem = await world.ask("GET", "/usage/what-if?product=none&seats=1")
    assert (404, "unknown_product") == (status, problem["code"])


@pytest.mark.parametrize("query", ["", "product=cad", "seats=3", "product=cad&seats=many"])
async def test_what_if_needs_a_product_and_a_number(world: World, query: str) -> None:
    status, problem = await world.ask("GET", f"/usage/what-if?{query}")
    assert (400, "bad_request") == (status, problem["code"])


async def test_the_document_describes_every_call_of_the_administrator(world: World) -> None:
    async with world.admin.get("/openapi.json") as response:
        described = json.loads(await response.read())
    paths = described["paths"]
    assert {"get", "post"} == set(paths["/v1/admin/borrows"])
    assert "ReturnView" in json.dumps(paths["/v1/admin/entitlements/{entitlement_id}/return"])
    assert "would_remain" in json.dumps(described["components"]["schemas"]["Outcome"])


async def test_a_seat_that_is_away_of_a_returned_entitlement_answers_borrowed_and_comes_back(world: World) -> None:
    await world.host(entitlement(borrow=LENDS))
    await world.checkout(ALICE)
    await world.borrow(ALICE, NOW + timedelta(days=3))
    status, returned = await world.ask("POST", f"/entitlements/{CAD}/return", json={"force": True})
    assert (200, "returned") == (status, returned["state"])
    for status, problem in (
        await world.call("GET", f"/v1/leases/{ALICE.lease_id}", headers=ALICE.headers),
        await world.beat(ALICE, 1),
        await world.checkout(ALICE),
        await world.borrow(ALICE, NOW + timedelta(days=4)),
    ):
        assert (409, "borrowed", "2026-11-24T07:00:00Z") == (status, problem["code"], problem["until"])
    assert 404 == (await world.call("GET", f"/v1/leases/{ALICE.lease_id}", headers=BOB.headers))[0]
    assert [ALICE.lease_id] == [one["lease_id"] for one in (await world.ask("GET", "/borrows"))[1]["borrows"]]
    assert 204 == (await world.checkin(ALICE))[0]
    assert [] == (await world.ask("GET", "/borrows"))[1]["borrows"]


async def test_a_return_that_no_line_could_tell_is_too_large_and_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = {"key": "frames", "type": "usage_count", "value": 10, "unit": "frame"}
    await world.host(entitlement(features=[frames]))
    monkeypatch.setattr("lls.licensing.hosting.LONGEST_METERS", 10)
    status, problem = await world.ask("POST", f"/entitlements/{CAD}/return", json={"force": True})
    assert (413, "too_large") == (status, problem["code"])
    assert "import it, then return the entitlement" in problem["detail"]
    _, hosted = await world.ask("GET", "/entitlements")
    assert [(CAD, False)] == [(one["entitlement_id"], one["returning"]) for one in hosted["entitlements"]]
    assert 201 == (await world.checkout(ALICE))[0]


async def test_an_explanation_knows_who_waits(world: World) -> None:
    await world.host(entitlement(seats=2))
    await world.checkout(ALICE)
    async with asyncio.TaskGroup() as running:
        waiting = running.create_task(world.checkout(BOB, wait=30, seats=2))
        await until(lambda: world.writer.ledger.waiting.length("cad") == 1)
        _, told = await world.ask("GET", "/policy/explain?product=cad&user=cy")
        await world.checkin(ALICE)
        assert 201 == (await waiting)[0]
    assert (False, "no_seat", "queue") == (told["granted"], told["outcome"]["code"], told["outcome"]["rule"])
