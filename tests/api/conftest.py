"""A whole server in the test's own process: real store, writer, errands, HTTP. Time stands still until it is moved."""

from __future__ import annotations

import asyncio
import socket
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lls.airgap import Airgap
from lls.api import Edge, EdgeSetting, init_admin_app, init_app
from lls.clock import GuardedClock
from lls.identity import load_identity
from lls.licensing.ledger import Setting
from lls.store.sqlite import SqliteStore
from lls.telemetry import metrics
from lls.writer import Writer
from tests.vendor import NOW, Document, Site, Vendor, entitlement


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
    site: Site
    machine: Machine
    store: SqliteStore
    writer: Writer
    airgap: Airgap
    edge: Edge
    http: aiohttp.ClientSession
    admin: aiohttp.ClientSession

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

    async def checkin(self, seat: Seat) -> tuple[int, Any]:
        return await self.call("DELETE", f"/v1/leases/{seat.lease_id}", headers=seat.headers)

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self.http.request(method, path, **more) as response:
            return response.status, await response.json(content_type=None) if await response.read() else None

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """On the admin socket."""
        async with self.admin.request(method, f"/v1/admin{path}", **more) as response:
            return response.status, await response.json(content_type=None) if await response.read() else None


async def served(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def served_on(app: web.Application, path: Path) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    return runner


@pytest.fixture
def setting() -> dict[str, Any]:
    """What a test changes of the edge's setting; override with ``@pytest.mark.parametrize('setting', [...])``."""
    return {}


@pytest.fixture
async def world(tmp_path: Path, setting: dict[str, Any]) -> AsyncIterator[World]:
    vendor, machine, store = Vendor(), Machine(), SqliteStore(tmp_path)
    epoch = await store.take_writership()
    clock = GuardedClock(wall=lambda: machine.wall, elapsed=lambda: machine.elapsed)
    identity = load_identity(tmp_path / "keys")
    airgap = Airgap(
        identity=identity,
        name="site",
        version="9.9",
        vendor_keys=vendor.key_sets[0],
        store=store,
        clock=clock,
        state_dir=tmp_path,
        setting=Setting(),
    )
    queue_limit = setting.pop("queue_limit", 10_000)
    writer = Writer(store, clock=clock, build=airgap.build, observer=Silent(), queue_limit=queue_limit)
    airgap.writer = writer
    await writer.start(epoch)
    made = EdgeSetting(version="9.9", name="site", started_at=NOW, tls_spki_sha256=("A" * 43,), **setting)
    edge = Edge(writer=writer, airgap=airgap, metrics=metrics(), setting=made)
    lan, url = await served(init_app(edge))
    door = tmp_path / "admin.sock"
    desk = await served_on(init_admin_app(edge), door)
    site = Site(name="site", server_id=identity.server_id, signing=identity.signing, encryption=identity.encryption)
    async with (
        aiohttp.ClientSession(url) as http,
        aiohttp.ClientSession("http://admin", connector=aiohttp.UnixConnector(str(door))) as admin,
    ):
        yield World(vendor, site, machine, store, writer, airgap, edge, http, admin)
    await lan.cleanup()
    await desk.cleanup()
    await writer.stop()
    await store.close()


async def raw_request(world: World, data: bytes) -> bytes:
    """What comes back on a connection of its own until the server closes it or is silent."""
    port = world.http._base_url.port  # type: ignore[union-attr]  # noqa: SLF001  # the session keeps it to itself
    reader, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(5):
            return await reader.read(65_536)
    finally:
        writer.close()
