"""A whole server in the test's own process: real store, writer, errands, HTTP. Time stands still until it is moved."""

from __future__ import annotations

import asyncio
import socket
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lls.airgap import Airgap
from lls.api import Edge, EdgeSetting, init_admin_app, init_app, refuse
from lls.api.connections import Gate, Site
from lls.clock import GuardedClock
from lls.identity import load_identity
from lls.licensing.fields import write_instant
from lls.licensing.ledger import Setting
from lls.signed.capability import verify_capability
from lls.signed.certificate import read_certificate
from lls.store.sqlite import SqliteStore
from lls.telemetry import metrics
from lls.writer import Writer
from tests.vendor import NOW, Document, Vendor, entitlement
from tests.vendor import Site as Customer

CLOSING_SECONDS = 20


@dataclass
class Machine:
    """The two raw clocks under the guarded one."""

    wall: datetime = NOW
    elapsed: float = 1_000.0

    def pass_(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.elapsed += seconds


class Silent:
    """Nobody counts the commits."""

    def committed(self, *, verbs: int, seconds: float) -> None: ...

    def failed(self) -> None: ...


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def nonce_of(name: str) -> str:
    return b64(sha256(name.encode()).digest())


@dataclass
class Seat:
    """One client's lease: id, secret, and what it asks for."""

    name: str
    product: str = "cad"
    wish: dict[str, Any] = field(default_factory=dict)

    @property
    def lease_id(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, self.name))

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {b64(sha256(f'secret {self.name}'.encode()).digest())}"}

    @property
    def secret(self) -> str:
        return self.headers["Authorization"].removeprefix("Bearer ")

    def body(self, **changes: Any) -> dict[str, Any]:
        return {
            "lease_id": self.lease_id,
            "product": self.product,
            "holder": {"seat_id": f"machine of {self.name}", "user": self.name},
            "nonce": nonce_of(self.name),
            **self.wish,
            **changes,
        }


@dataclass
class World:
    vendor: Vendor
    site: Customer
    machine: Machine
    store: SqliteStore
    writer: Writer
    airgap: Airgap
    edge: Edge
    gate: Gate
    policy: Path
    port: int
    http: aiohttp.ClientSession
    admin: aiohttp.ClientSession
    parts: dict[str, str]

    async def host(self, *entitlements: Document, **members: Any) -> None:
        """Import a bundle with these entitlements."""
        data = self.vendor.bundle(self.site, entitlements=list(entitlements) or [entitlement()], **members)
        await self.airgap.import_bundle(data, actor="test", dry_run=False)

    async def checkout(self, seat: Seat, *, wait: int = 0, **changes: Any) -> tuple[int, Any]:
        headers = {**seat.headers, **({"Prefer": f"wait={wait}"} if wait else {})}
        return await self.call("POST", "/v1/leases", headers=headers, json=seat.body(**changes))

    async def beat(self, seat: Seat, beat: int, *, nonce: str | None = None) -> tuple[int, Any]:
        body = {"beat": beat, "nonce": nonce or nonce_of(f"{seat.name} {beat}")}
        return await self.call("POST", f"/v1/leases/{seat.lease_id}/heartbeat", headers=seat.headers, json=body)

    async def act(
        self, seat: Seat, act: str, key: str, amount: int = 1, *, request: str | None = None
    ) -> tuple[int, Any]:
        """Do something with a feature; ``request`` names the request id, which is new if left out."""
        request_id = str(uuid.uuid4() if request is None else uuid.uuid5(uuid.NAMESPACE_URL, request))
        path = f"/v1/leases/{seat.lease_id}/features/{key}/{act}"
        return await self.call("POST", path, headers=seat.headers, json={"amount": amount, "request_id": request_id})

    async def borrow(self, seat: Seat, ends_at: datetime, **changes: Any) -> tuple[int, Any]:
        body = {
            "until": write_instant(ends_at),
            "fingerprint": f"machine of {seat.name}",
            "nonce": nonce_of(f"{seat.name} borrows"),
            **changes,
        }
        return await self.call("POST", f"/v1/leases/{seat.lease_id}/borrow", headers=seat.headers, json=body)

    def claims(self, answer: Any) -> Any:
        """What the capability of an answer says, verified."""
        token = self.airgap.certificate()
        assert token is not None
        return verify_capability(answer["capability"], certificate=read_certificate(token, keys=self.vendor.keys))

    async def govern(self, text: str) -> tuple[int, Any]:
        """Put a site policy in force."""
        self.policy.write_text(f"format = 1\n{text}")
        return await self.ask("POST", "/reload")

    async def checkin(self, seat: Seat) -> tuple[int, Any]:
        return await self.call("DELETE", f"/v1/leases/{seat.lease_id}", headers=seat.headers)

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self.http.request(method, path, **more) as response:
            return response.status, await response.json(content_type=None) if await response.read() else None

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """On the admin socket."""
        async with self.admin.request(method, f"/v1/admin{path}", **more) as response:
            return response.status, await response.json(content_type=None) if await response.read() else None


async def served(app: web.Application, listener: socket.socket, edge: Edge, **more: Any) -> tuple[web.AppRunner, Site]:
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    more.setdefault("gate", Gate(most=1_000))
    site = Site(runner, listener, edge=edge, refuse=refuse(edge), **more)
    await site.start()
    return runner, site


def bound(family: socket.AddressFamily, place: tuple[str, int] | str) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(place)
    return listener


@pytest.fixture
def setting() -> dict[str, Any]:
    """What a test changes of the edge's setting; override with ``@pytest.mark.parametrize('setting', [...])``."""
    return {}


@pytest.fixture
async def world(tmp_path: Path, setting: dict[str, Any]) -> AsyncIterator[World]:
    vendor, machine, store = Vendor(), Machine(), SqliteStore(tmp_path)
    policy = tmp_path / "policy.toml"
    policy.touch()
    epoch = await store.take_writership()
    clock = GuardedClock(wall=lambda: machine.wall, elapsed=lambda: machine.elapsed)
    identity = load_identity(tmp_path / "keys")
    parts: dict[str, str] = {}
    airgap = Airgap(
        host=parts.copy,
        identity=identity,
        name="site",
        version="9.9",
        vendor_keys=vendor.key_sets[0],
        store=store,
        clock=clock,
        state_dir=tmp_path,
        setting=Setting(),
        policy_file=policy,
    )
    queue_limit, most = setting.pop("queue_limit", 10_000), setting.pop("most", 1_000)
    idle_seconds = setting.pop("idle_seconds", 900.0)
    writer = Writer(
        store, clock=clock, build=airgap.build, observer=Silent(), begin=airgap.govern, queue_limit=queue_limit
    )
    airgap.writer = writer
    await writer.start(epoch)
    cheap: dict[str, Any] = {"password_memory_kib": 64, "password_passes": 1}  # the rules are the same at any cost
    given = cheap | setting
    made = EdgeSetting(version="9.9", name="site", started_at=NOW, tls_spki_sha256=("A" * 43,), **given)
    edge = Edge(writer=writer, airgap=airgap, metrics=metrics(), setting=made)
    gate = Gate(most=most)
    listener = bound(socket.AF_INET, ("127.0.0.1", 0))
    lan, site = await served(init_app(edge), listener, edge, gate=gate, idle_seconds=idle_seconds)
    door = tmp_path / "admin.sock"
    desk, _ = await served(init_admin_app(edge), bound(socket.AF_UNIX, str(door)), edge)
    customer = Customer(
        name="site", server_id=identity.server_id, signing=identity.signing, encryption=identity.encryption
    )
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{site.port}") as http,
        aiohttp.ClientSession("http://admin", connector=aiohttp.UnixConnector(str(door))) as admin,
    ):
        yield World(vendor, customer, machine, store, writer, airgap, edge, gate, policy, site.port, http, admin, parts)
    async with asyncio.timeout(CLOSING_SECONDS):
        await lan.cleanup()
        await desk.cleanup()
        await writer.stop()
        await store.close()


async def raw_request(world: World, data: bytes) -> bytes:
    """What comes back on a connection of its own until the server closes it or is silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(5):
            return await reader.read(65_536)
    finally:
        writer.close()


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(400):
        if holds():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it never came to hold")


class Held:
    """A store whose next commits wait until they are let go."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting, self._go, commit = asyncio.Event(), asyncio.Event(), world.store.commit

        async def held(*given: Any, **more: Any) -> None:
            self.waiting.set()
            async with asyncio.timeout(10):
                await self._go.wait()
            await commit(*given, **more)

        monkeypatch.setattr(world.store, "commit", held)

    def let_go(self) -> None:
        self._go.set()
