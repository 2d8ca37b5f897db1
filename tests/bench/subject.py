"""Starts the real daemon for a benchmark, on core 0, with what only a benchmark may put into it.

The order (JSON in the first argument)
- ``task``: ``serve`` (then lines on standard input: ``stall``), ``fill``, ``select``, ``journal``
- ``state_dir``; ``seats`` (null: unlimited)
- ``unsigned``: the server's key answers 64 zeros. Everything else of a capability is still made.
- ``commit_delay``: seconds added to each commit, as a slower disk would take them.
- ``most_in_group``: 1 for groups of one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import uvloop

import lls.daemon
import lls.writer
from lls.config import Config, Lease, LogLevel, Server, Tls, TlsMode, Trust
from lls.daemon import Daemon
from lls.licensing.changes import Batch
from lls.licensing.fields import write_instant
from lls.licensing.journal import Head, head_of, verify_line
from lls.licensing.lease import Checkout, Holder
from lls.signed.jose import SigningKey
from lls.signed.report import open_report
from lls.store.rows import LEASE_COLUMNS
from lls.store.sqlite import DATABASE, SqliteStore
from tests.bench.machine import SUBJECT_CORE, Broken, forget_peak, memory_kb, pin
from tests.vendor import Site, Vendor, entitlement

STALL_SECONDS: Final = 2.0
FILL_GROUP: Final = 512
FILL_HOLDERS: Final = 1_000


class BenchStore(SqliteStore):
    """The embedded store on a disk that is slower by so much, and that hangs once when told to."""

    delay = 0.0
    stall = 0.0

    async def commit(self, batch: Batch, *, epoch: int, mark: datetime) -> None:
        wait, BenchStore.stall = self.delay + self.stall, 0.0
        if wait:
            await asyncio.sleep(wait)
        await super().commit(batch, epoch=epoch, mark=mark)


async def prepared(order: Mapping[str, Any]) -> tuple[Daemon, float]:
    """A running daemon with a bundle, and how long its start took."""
    vendor = Vendor(now=datetime.now(UTC))
    daemon = Daemon(_config(Path(order["state_dir"]), vendor))
    begun = time.perf_counter()
    await daemon.start()
    seconds = time.perf_counter() - begun
    if not daemon.writer.ledger.pools:
        await daemon.airgap.import_bundle(_bundle(daemon, vendor, order.get("seats")), actor="bench", dry_run=False)
    return daemon, seconds


def _config(state_dir: Path, vendor: Vendor) -> Config:
    """The defaults, but for the places, plain HTTP on loopback, and quiet. Puts the vendor's key set in its place."""
    keys = state_dir / "vendor.llskeys"
    if not keys.exists():  # a second one would be another: it says until when it holds
        state_dir.mkdir(parents=True, exist_ok=True)
        keys.write_text(vendor.key_sets[0], "ascii")
    return Config(
        server=Server(
            listen=("127.0.0.1:0",),
            state_dir=str(state_dir),
            admin_socket=str(state_dir / "admin.sock"),
            log_level=LogLevel.WARNING,
        ),
        tls=Tls(mode=TlsMode.OFF),
        trust=Trust(keys=str(keys)),
        lease=Lease(),
    )


def _bundle(daemon: Daemon, vendor: Vendor, seats: int | None) -> bytes:
    identity = daemon.airgap.identity
    site = Site(server_id=identity.server_id, signing=identity.signing, encryption=identity.encryption)
    bought = entitlement(
        seats=seats,
        features=[
            {"key": "frames", "type": "usage_count", "value": 10**12, "unit": "frame", "undo_seconds": 60},
            {"key": "render", "type": "element_pool", "value": 10**6, "unit": "core"},
        ],
        starts_at=write_instant(vendor.now - timedelta(days=1)),
        expires_at=write_instant(vendor.now + timedelta(days=365)),
    )
    return vendor.bundle(site, entitlements=[bought])


def inject(order: Mapping[str, Any]) -> None:
    """Put the benchmark's own parts in place of the product's, before anything is built."""
    BenchStore.delay = order.get("commit_delay", 0.0)
    setattr(lls.daemon, "SqliteStore", BenchStore)  # noqa: B010  # a name that mypy knows as a class
    if "most_in_group" in order:
        setattr(lls.writer, "MOST_IN_GROUP", order["most_in_group"])  # noqa: B010  # it is Final


class _Mute:
    """A key that signs nothing; what is around a signature still has to be done."""

    def sign(self, _message: bytes) -> bytes:
        return bytes(64)


async def serve(order: Mapping[str, Any]) -> None:
    """Serve until standard input ends."""
    daemon, seconds = await prepared(order)
    if order.get("unsigned"):
        setattr(daemon.airgap.capabilities, "_key", _Mute())  # noqa: B010  # its documents are signed already
    try:
        port = int(daemon.urls[0].rpartition(":")[2])
        say(port=port, start_seconds=seconds, rss_kb=memory_kb("VmRSS"), leases=len(daemon.writer.ledger.leases))
        while await asyncio.to_thread(sys.stdin.readline):
            BenchStore.stall = STALL_SECONDS
            say(stalls=STALL_SECONDS)
    finally:
        await daemon.stop()


async def fill(order: Mapping[str, Any]) -> None:
    """Check out ``leases`` that stay, then check out and in until the journal has ``lines``."""
    daemon, _seconds = await prepared(order)
    try:
        begun = time.perf_counter()
        for first in range(0, order.get("leases", 0), FILL_GROUP):
            await _take(daemon, range(first, min(first + FILL_GROUP, order["leases"])), stay=True)
        turn = 0
        while daemon.writer.ledger.head.seq < order.get("lines", 0):
            turn += 1
            await _take(daemon, range(turn * FILL_GROUP, (turn + 1) * FILL_GROUP), stay=False)
        say(seconds=time.perf_counter() - begun, lines=daemon.writer.ledger.head.seq)
    finally:
        await daemon.stop()


async def _take(daemon: Daemon, numbers: range, *, stay: bool) -> None:
    writer, stamp = daemon.writer, time.time_ns() & 0xFFFFFFFF
    wishes = [_wish(number, number if stay else number % FILL_HOLDERS, stamp) for number in numbers]
    await asyncio.gather(*(writer.checkout(wish) for wish in wishes))
    if not stay:
        await asyncio.gather(*(writer.do(_checkin(wish)) for wish in wishes))


def _wish(number: int, holder: int, stamp: int) -> Checkout:
    lease_id = f"{stamp:08x}-0000-4000-8000-{number:012x}"
    digest = hashlib.sha256(lease_id.encode()).digest()
    seat = Holder(seat_id=f"machine-{holder:06d}", user=f"user-{holder:06d}", host=f"ws-{holder:06d}", process="4711")
    nonce = "bench-nonce-0000000000"
    return Checkout(lease_id=lease_id, secret=digest, content=digest, product="cad", holder=seat, nonce=nonce)


def _checkin(wish: Checkout) -> Any:
    return lambda ledger, now: ledger.checkin(wish.lease_id, secret=wish.secret, now=now)


async def select(order: Mapping[str, Any]) -> None:
    """The yardstick of a start: the same rows, by nothing but a SELECT."""
    with sqlite3.connect(Path(order["state_dir"]) / DATABASE) as database:
        begun = time.perf_counter()
        found = database.execute(f"SELECT {LEASE_COLUMNS} FROM leases").fetchall()  # noqa: S608  # a constant
        say(seconds=time.perf_counter() - begun, rows=len(found))
    database.close()


async def journal(order: Mapping[str, Any]) -> None:
    """Export everything, verify the stored chain, read the export as the vendor does; the rise of memory of each."""
    daemon, _seconds = await prepared(order)
    rises: dict[str, float] = {}
    try:
        with _measured("export", rises):
            report, path = await daemon.airgap.export_report(pseudonymise=False, actor="bench")
        with _measured("verify", rises):
            check = await daemon.airgap.verify_journal()
        if not check.ok:
            raise Broken(f"The journal does not verify: {check.problem}")
        with _measured("ingest", rises):
            lines = await asyncio.to_thread(_read, path, daemon.airgap.identity.signing)
        say(lines=lines, sealed=report.to_seq, megabytes=path.stat().st_size / 1e6, **rises)
        path.unlink()
    finally:
        await daemon.stop()


def _read(path: Path, key: SigningKey) -> int:
    vendor, lines, after = Vendor(), 0, Head()
    with open_report(path, server_jwk=key.public_jwk(), report_key=vendor.report_key) as report:
        for line in report.lines():
            after = head_of(verify_line(line, after=after))
            lines += 1
    return lines


class _measured:  # noqa: N801  # it reads as a phrase where it is used
    """Notes how long a step took and how far it raised the process's peak memory."""

    def __init__(self, name: str, into: dict[str, float]) -> None:
        self._name, self._into = name, into

    def __enter__(self) -> None:
        forget_peak()
        self._before, self._begun = memory_kb("VmRSS"), time.perf_counter()

    def __exit__(self, *_error: object) -> None:
        self._into[f"{self._name}_seconds"] = time.perf_counter() - self._begun
        self._into[f"{self._name}_rise_mb"] = max(0, memory_kb("VmHWM") - self._before) / 1024


def say(**members: object) -> None:
    """One answer to whoever started us."""
    print(json.dumps(members), flush=True)


TASKS: Final = {"serve": serve, "fill": fill, "select": select, "journal": journal}

if __name__ == "__main__":
    pin(SUBJECT_CORE)
    wanted = json.loads(sys.argv[1])
    inject(wanted)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(TASKS[wanted["task"]](wanted))
