"""Administration over the real UNIX socket."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import timedelta
from typing import Any

import pytest

from lls.api import auth
from lls.api.admin_views import leases_view
from lls.api.edge import encode
from lls.api.wire import CheckoutForm, Form
from tests.api.conftest import Held, Seat, World, until
from tests.vendor import entitlement, new_id

FILE = {"Content-Type": "application/octet-stream"}


async def test_the_server_shows_itself(world: World) -> None:
    status, shown = await world.ask("GET", "/server")
    assert (200, None, "unlicensed") == (status, shown["customer"], shown["license"]["state"])
    await world.host()
    await world.checkout(Seat("alice"))
    _, shown = await world.ask("GET", "/server")
    head = world.writer.ledger.batch.before
    assert {"customer_id": new_id("cus_", "acme"), "name": "Acme GmbH", "account_ref": "ACME-1"} == shown["customer"]
    assert ("active", 90) == (shown["license"]["state"], shown["license"]["sync_within_days"])
    assert {"epoch": world.writer.epoch, "seq": head.seq, "head": head.hash} == shown["writership"]
    assert (1, 1, {"kind": "sqlite", "up": True}, "ok") == tuple(
        shown[name] for name in ("leases", "bundle_sequence", "store", "chain")
    )


async def test_a_request_goes_out_as_a_file(world: World) -> None:
    async with world.admin.post("/v1/admin/server/request") as response:
        assert "application/octet-stream" == response.content_type
        assert ".llsreq" in response.headers["Content-Disposition"]
        assert 2 == (await response.read()).count(b".")


async def test_a_bundle_is_shown_then_applied_then_known(world: World) -> None:
    data = world.vendor.bundle(world.site)
    _, dry = await world.ask("POST", "/bundles?dry_run=1", data=data, headers=FILE)
    assert (True, False, "new") == (dry["dry_run"], dry["applied"], dry["entitlements"][0]["change"])
    assert (200, {"entitlements": []}) == await world.ask("GET", "/entitlements")
    _, real = await world.ask("POST", "/bundles", data=data, headers=FILE)
    _, again = await world.ask("POST", "/bundles", data=data, headers=FILE)
    assert [(True, False), (False, True)] == [(one["applied"], one["already_applied"]) for one in (real, again)]
    _, listed = await world.ask("GET", "/bundles")
    assert [(1, 1, "applied")] == [(one["sequence"], one["entitlements"], one["state"]) for one in listed["bundles"]]


async def test_an_update_shows_what_differs_and_no_codes(world: World) -> None:
    await world.host(entitlement(activation_codes=["SECRET-CODE"]))
    data = world.vendor.bundle(world.site, entitlements=[entitlement(sequence=2, seats=60)])
    async with world.admin.post("/v1/admin/bundles?dry_run=1", data=data, headers=FILE) as response:
        text = await response.text()
    (step,) = json.loads(text)["entitlements"]
    assert "updated" == step["change"]
    assert {"field": "seats", "old": 50, "new": 60} in step["differences"]
    assert "SECRET-CODE" not in text


async def test_a_refused_bundle_says_why(world: World) -> None:
    status, problem = await world.ask("POST", "/bundles", data=b"no bundle", headers=FILE)
    assert (422, "refused_document", "malformed") == (status, problem["code"], problem["reason"])


async def test_entitlements_leases_and_waiters_are_listed(world: World) -> None:
    await world.host(entitlement(seats=1))
    await world.checkout(Seat("alice"))
    waiting = asyncio.create_task(world.checkout(Seat("bob"), wait=30))
    for _ in range(400):
        if world.writer.ledger.waiting.length("cad"):
            break
        await asyncio.sleep(0.005)
    _, hosted = await world.ask("GET", "/entitlements")
    (one,) = hosted["entitlements"]
    assert (1, 1, 0, 0, 1, "active", "active") == tuple(
        one[name] for name in ("seats", "in_use", "available", "overdraft", "waiting", "status", "standing")
    )
    _, listed = await world.ask("GET", "/leases")
    assert [Seat("alice").lease_id] == [lease["lease_id"] for lease in listed["leases"]]
    assert [(Seat("bob").lease_id, 1, True)] == [(w["lease_id"], w["position"], w["open"]) for w in listed["waiting"]]
    _, nobody = await world.ask("GET", "/leases?holder=carol")
    _, somebody = await world.ask("GET", "/leases?product=cad&holder=ALI")
    assert (([], []), 1) == ((nobody["leases"], nobody["waiting"]), len(somebody["leases"]))
    await world.ask("DELETE", f"/leases/{Seat('alice').lease_id}", json={"reason": "needed elsewhere"})
    assert 201 == (await waiting)[0]


async def test_a_long_list_is_made_in_slices_and_stays_in_order(world: World) -> None:
    await world.host(entitlement(seats=None))
    read = Form(CheckoutForm)
    names = [f"seat {number}" for number in range(600)]
    for name in names:
        world.machine.pass_(0.001)
        await world.writer.checkout(read.read(encode(Seat(name).body())).as_checkout(name.encode()))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    view = await leases_view(world.writer.ledger, world.writer.now())
    beside.cancel()
    assert turns >= 5
    assert [Seat(name).lease_id for name in names] == [lease.lease_id for lease in view.leases]
    _, listed = await world.ask("GET", "/leases")
    assert json.loads(encode(view)) == listed
    _, one = await world.ask("GET", "/leases?holder=seat%20599")
    assert ([Seat("seat 599").lease_id], []) == ([lease["lease_id"] for lease in one["leases"]], one["waiting"])


async def test_a_release_whose_caller_is_gone_is_carried_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.host()
    alice = Seat("alice")
    await world.checkout(alice)
    held = Held(world, monkeypatch)
    other = asyncio.create_task(world.checkout(Seat("bob")))
    await held.waiting.wait()
    releasing = asyncio.create_task(world.ask("DELETE", f"/leases/{alice.lease_id}", json={"reason": "gone"}))
    await until(lambda: world.writer.queued == 1)
    releasing.cancel()
    await until(releasing.done)
    held.let_go()
    assert 201 == (await other)[0]
    await until(lambda: alice.lease_id not in world.writer.ledger.leases)


async def test_a_clock_that_jumped_is_shown_and_accepted(world: World) -> None:
    _, calm = await world.ask("GET", "/clock")
    assert ("ok", 0) == (calm["state"], calm["behind_seconds"])
    world.machine.wall += timedelta(days=3)
    _, jumped = await world.ask("GET", "/clock")
    assert ("jumped", "2026-11-24T07:00:00Z", "2026-11-21T07:00:00Z") == (
        jumped["state"],
        jumped["now"],
        jumped["mark"],
    )
    assert 400 == (await world.ask("POST", "/clock", json={"act": "reset"}))[0]
    status, believed = await world.ask("POST", "/clock", json={"act": "accept"})
    assert (200, "ok", "2026-11-24T07:00:00Z") == (status, believed["state"], believed["mark"])
    async with world.admin.get("/v1/admin/journal?after=0&limit=100") as response:
        kinds = [json.loads(line)["kind"] for line in (await response.text()).splitlines()]
    assert "AdminActed" in kinds


async def test_a_machine_that_is_not_the_licensed_one_is_visible_everywhere(world: World) -> None:
    async def told() -> tuple[str, str, bool]:
        _, shown = await world.ask("GET", "/server")
        _, ready = await world.call("GET", "/readyz")
        async with world.admin.get("/metrics") as response:
            metric = "lls_unbound 1.0" in (await response.text()).splitlines()
        await world.airgap.look_at_host()
        return shown["binding"]["state"], ready["binding"], metric

    assert ("key_only", "key_only", False) == await told()
    world.parts |= {"machine_id": "1", "disk": "2", "macs": "3 4"}
    terms = {"policy": "host", "required": 2, "components": dict(world.parts), "grace_seconds": 86_400}
    license_ = {"expires_at": "2027-11-21T07:00:00Z", "sync_within_days": 90, "binding": terms}
    await world.host(server_license=license_)
    assert ("bound", "bound", False) == await told()

    world.parts |= {"disk": "a new one", "macs": "4 5"}
    assert ("bound", "bound", False) == await told()
    _, shown = await world.ask("GET", "/server")
    assert ["disk"] == shown["binding"]["changed"]

    del world.parts["machine_id"]
    await world.airgap.look_at_host()
    assert ("unbound", "unbound", True) == await told()
    _, shown = await world.ask("GET", "/server")
    assert {
        "state": "unbound",
        "since": "2026-11-21T07:00:00Z",
        "ends_at": "2026-11-22T07:00:00Z",
        "changed": ["machine_id", "disk"],
        "required": 2,
        "enrolled": 3,
    } == shown["binding"]

    terms["components"] = dict(world.parts)
    terms["required"] = 1
    await world.host(server_license=license_)
    assert ("bound", "bound", False) == await told()
    async with world.admin.get("/v1/admin/journal?after=0&limit=100") as response:
        lines = [json.loads(line) for line in (await response.text()).splitlines()]
    assert [("Unbound", {"required": 2, "changed": ["machine_id", "disk"]}), ("Rebound", {})] == [
        (line["kind"], line["data"]) for line in lines if "bound" in line["kind"]
    ]


async def test_a_seat_is_taken_back(world: World) -> None:
    await world.host()
    alice = Seat("alice")
    await world.checkout(alice)
    path = f"/leases/{alice.lease_id}"
    assert (204, None) == await world.ask("DELETE", path, json={"reason": "gone home"})
    assert (410, "released") == ((answer := await world.beat(alice, 1))[0], answer[1]["reason"])
    assert 404 == (await world.ask("DELETE", path, json={"reason": "again"}))[0]
    assert 400 == (await world.ask("DELETE", path, json={"reason": ""}))[0]


async def test_denials_and_usage_are_told_in_clear(world: World) -> None:
    await world.host(entitlement(seats=0))
    await world.checkout(Seat("alice"))
    _, told = await world.ask("GET", "/denials?since=2026-11-21")
    (denial,) = told["denials"]
    assert ("no_seat", "cad", 1) == (denial["code"], denial["product"], denial["count"])
    assert "machine of alice" in denial["holder"].values()
    _, by_day = await world.ask("GET", "/usage?bucket=day")
    _, by_hour = await world.ask("GET", "/usage?bucket=hour&from=2026-11-21")
    assert "2026-11-21" == by_day["lines"][0]["day"]
    assert "day" not in by_hour["lines"][0]
    assert by_hour["lines"][0]["bucket"].startswith("2026-11-21T07")


async def test_the_journal_is_told_line_by_line_and_checked(world: World) -> None:
    await world.host()
    async with world.admin.get("/v1/admin/journal?after=0&limit=2") as response:
        lines = (await response.text()).splitlines()
        assert "application/x-ndjson" == response.content_type
    assert list(range(1, len(lines) + 1)) == [json.loads(line)["seq"] for line in lines]
    _, check = await world.ask("GET", "/journal/verify")
    assert (True, world.writer.ledger.batch.before.seq, None) == (check["ok"], check["lines"], check["problem"])


async def test_a_report_goes_out_again_and_its_receipt_comes_in_twice(world: World) -> None:
    await world.host()
    await world.checkout(Seat("alice"))
    _, preview = await world.ask("GET", "/reports/preview")
    assert (1, 1) == (preview["from_seq"], preview["kinds"]["Granted"])
    async with world.admin.post("/v1/admin/reports", json={"pseudonymise": True}) as response:
        report_id, first = response.headers["X-Report-Id"], await response.read()
    async with world.admin.get(f"/v1/admin/reports/{report_id}") as response:
        assert first == await response.read()
    _, listed = await world.ask("GET", "/reports")
    assert [(report_id, False)] == [(one["report_id"], one["acknowledged"]) for one in listed["reports"]]
    sealed = world.writer.ledger.reports[report_id]
    receipt = world.vendor.receipt(world.site, report_id=report_id, up_to_seq=sealed.to_seq, head=sealed.head)
    answers = [await world.ask("POST", "/receipts", data=receipt.encode(), headers=FILE) for _ in range(2)]
    assert [(200, False), (200, True)] == [(status, told["already_applied"]) for status, told in answers]
    assert 404 == (await world.ask("GET", "/reports/rpt_nothing"))[0]


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("GET", "/leases?colour=red", {}),
        ("GET", "/usage?bucket=week", {}),
        ("GET", "/usage?from=yesterday", {}),
        ("GET", "/journal?after=x", {}),
        ("GET", "/journal?limit=100001", {}),
        ("GET", "/denials?since=2026-02-30", {}),
        ("POST", "/bundles?dry_run=yes", {"data": b"x", "headers": FILE}),
        ("POST", "/reports", {"json": {"pseudonymize": True}}),
    ],
)
async def test_wrong_values_are_refused(world: World, method: str, path: str, more: dict[str, Any]) -> None:
    assert (400, "bad_request") == ((answer := await world.ask(method, path, **more))[0], answer[1]["code"])


async def test_only_whom_the_kernel_names_may_administer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "peer", lambda _request: auth.Peer(uid=54_321, gid=54_321))
    assert (403, "forbidden") == ((answer := await world.ask("GET", "/server"))[0], answer[1]["code"])


def test_an_account_belongs_to_its_own_group_and_to_no_unknown_one() -> None:
    me = auth.Peer(uid=os.getuid(), gid=os.getgid())
    assert not me.belongs_to("no-such-group-here")
    assert "uid:54321" == auth.Peer(uid=54_321, gid=0).name
