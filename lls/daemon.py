"""The daemon: the only place where objects meet. Build, start, drain, stop.

Rules
1. Start in an order in which nothing can be half done: keys, writership, ledger, then doors. Whatever is wrong before
   the doors open is one sentence and exit status 1.
2. Stop in the opposite order: refuse new checkouts, end the waits, let requests under way finish, close the doors,
   commit what waits, give the writership back.
3. When the writer ends by itself (another daemon has written), the process ends with it: a server that cannot commit
   must not look alive.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import grp
import logging
import os
import signal
import socket
import ssl
import stat
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from aiohttp import web

from lls import __version__
from lls.airgap import Airgap
from lls.api import Edge, EdgeSetting, init_admin_app, init_app, refuse
from lls.api.connections import MOST_ADMINISTRATORS, Gate, Site, most_connections
from lls.api.origin import ForwardedHeader, Networks
from lls.backup import Backups, Plan, Taken, refuse_unfinished
from lls.care.disk import DiskWatch, make_room
from lls.care.doctor import read_vendor_keys
from lls.care.drop import DropFolder
from lls.care.log import Logs
from lls.care.machine import watched_folders
from lls.care.retention import Retention
from lls.care.upkeep import Care
from lls.clock import GuardedClock, system_elapsed, system_wall
from lls.config import Address, ClientCertificate, Config, Server, TlsMode, addresses
from lls.events import (
    Herald,
    Looking,
    Outbox,
    Sender,
    backup_conditions,
    certificate_conditions,
    destinations,
    disk_conditions,
)
from lls.faults import Fault, SetupFault
from lls.host import host_components
from lls.identity import load_identity, new_id
from lls.licensing.ledger import Setting
from lls.schedule import look_at_certificate, schedule_backups, scheduled
from lls.store import Store
from lls.store.sqlite import SqliteStore
from lls.telemetry import Metrics, metrics
from lls.tls import Doors
from lls.watchdog import SelfCheck, feed, interval_seconds, notify
from lls.writer import Writer

ADMIN_GROUP: Final = "lls-admin"
GARBAGE: Final = 20_000
PROBE_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


def serve(config: Config, *, source: Path | None = None) -> int:
    """Run until SIGTERM or SIGINT; the exit status. Raises SetupFault before the doors open.

    ``source`` is the settings' file, for backups.
    """
    logs = Logs.set_up(config)
    faulthandler.enable()  # a watchdog's SIGABRT says where every thread stood
    os.umask(0o077)  # whatever we write is ours alone, the database's side files too
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config, logs, source))


async def _serve(config: Config, logs: Logs, source: Path | None) -> int:
    daemon = Daemon(config, logs=logs, source=source)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, daemon.reload)
    try:
        await daemon.start()
        notify("READY=1")
        feeding = asyncio.create_task(_feed_watchdog(daemon))
        ended = asyncio.create_task(daemon.writer.wait_closed())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        feeding.cancel()
        stopping.cancel()
        notify("STOPPING=1")
        if not ended.done():
            ended.cancel()
            return 0
        return _why_it_ended(ended)
    finally:
        await daemon.stop()


async def _feed_watchdog(daemon: Daemon) -> None:
    every = interval_seconds()
    if not every:
        return
    server = daemon.config.server
    check = SelfCheck(
        writer=daemon.writer,
        admin_socket=Path(server.admin_socket),
        state_dir=Path(server.state_dir),
        patience_seconds=every / 2,
    )
    await feed(check, every_seconds=every)


def _why_it_ended(ended: asyncio.Task[None]) -> int:
    error = ended.exception()
    _log.critical("writer_ended", extra={"fields": {"why": str(error)}}, exc_info=error)
    return 1


class Daemon:
    """One server in this process: ``start``, then ``stop``. Tests use it in a loop of their own."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[GuardedClock], GuardedClock] | None = None,
        logs: Logs | None = None,
        source: Path | None = None,
    ) -> None:
        self.config, self._source = config, source
        self.logs = logs or Logs(usual=config.server.log_level)
        self.metrics: Metrics = metrics()
        self.store: Store
        self.writer: Writer
        self.airgap: Airgap
        self.backups: Backups
        self.edge: Edge
        self.urls: list[str] = []
        self._adjust = clock
        self._reloading: asyncio.Task[None] | None = None  # the loop itself keeps weak references only
        self._doors: list[web.AppRunner] = []
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Become the writer, load, verify, open the doors. Raises SetupFault; nothing stays open then."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config = self.config
        state_dir = Path(config.server.state_dir)
        _make_folder(state_dir)
        refuse_unfinished(state_dir)
        make_room(state_dir)
        store = self.store = _store(config, state_dir)
        self._stack.push_async_callback(store.close)
        epoch = await store.take_writership()
        clock = await self._clock(store)
        setting = Setting(
            grace_seconds=float(config.lease.grace_seconds), heartbeats_per_second=config.lease.heartbeats_per_second
        )
        identity = load_identity(state_dir / "keys")
        self.airgap = Airgap(
            identity=identity,
            name=config.server.name,
            version=__version__,
            vendor_keys=read_vendor_keys(Path(config.trust.keys)),
            store=store,
            clock=clock,
            state_dir=state_dir,
            setting=setting,
            host=partial(host_components, identity.server_id, state_dir),
            policy_file=Path(config.policy.file) if config.policy.file else None,
            archive_dir=Path(config.journal.archive_dir) if config.journal.archive_dir else None,
        )
        self.writer = self.airgap.writer = Writer(
            store,
            clock=clock,
            build=self.airgap.build,
            observer=_Counting(self.metrics, self._look_at_disk),
            begin=self.airgap.govern,
            queue_limit=config.server.queue_limit,
        )
        self._stack.push_async_callback(self.writer.stop)
        try:
            await self.writer.start(epoch)
        except Fault as fault:
            raise SetupFault(f"The server cannot start: {fault.detail}") from fault
        # What was loaded stays for good: without this the collector walks a hundred thousand leases again and again.
        # Not even once before: a start leaves no garbage (measured: none), and the look costs 25 to 90 ms.
        gc.freeze()
        # A request leaves hundreds of objects behind and no cycle; at the default of 700 every third pays for a look.
        gc.set_threshold(GARBAGE, 10, 10)
        self.backups = self._backups(store, state_dir)
        await self._open_doors(state_dir)
        await self._send_heralds(state_dir)
        housekeeping = scheduled(self.airgap, self.edge.doors, self.edge.care)
        if config.backup.folder:
            schedule_backups(housekeeping, self.backups, every_hours=config.backup.every_hours)
        housekeeping.start()
        self._stack.callback(housekeeping.shutdown, wait=False)

    async def _send_heralds(self, state_dir: Path) -> None:
        settings, edge = self.config.events, self.edge
        sender = Sender(server_id=self.airgap.identity.server_id, name=self.config.server.name)
        looking = Looking(
            self.writer,
            denied=lambda: edge.denied,
            seats_percent=settings.seats_percent,
            denials_per_hour=settings.denials_per_hour,
        )

        def now() -> datetime:
            return self.writer.now().wall

        herald = Herald(
            Outbox(state_dir),
            looks=[
                looking,
                partial(certificate_conditions, edge.doors, now),
                partial(backup_conditions, self.backups),
                *([] if edge.care is None else [partial(disk_conditions, edge.care.disk)]),
            ],
            destinations=destinations(settings, sender, now=now),
            now=now,
            new_id=partial(new_id, "evt_"),
            retry_for=timedelta(hours=settings.retry_hours),
        )
        try:
            await herald.start()
        except OSError as error:
            raise SetupFault(str(error)) from error
        self._stack.push_async_callback(herald.stop)
        edge.herald = herald

    async def stop(self) -> None:
        """Drain and close; safe to call at any point of the start."""
        if hasattr(self, "edge"):
            self.edge.drain()
        for runner in self._doors:
            await runner.cleanup()
        self._doors.clear()
        await self._stack.aclose()

    def reload(self) -> None:
        """SIGHUP: open the log's file anew, read policy and certificate again. A refused one leaves the present."""
        self.logs.reopen()
        if hasattr(self, "edge"):
            self._reloading = asyncio.create_task(self._reload())

    def _drop_folder(self, state_dir: Path) -> DropFolder | None:
        drop = self.config.drop
        if not drop.folder:
            return None
        return DropFolder(
            Path(drop.folder),
            airgap=self.airgap,
            writer=self.writer,
            state_dir=state_dir,
            report_every=drop.report_every,
            pseudonymise=drop.pseudonymise,
        )

    def _look_at_disk(self) -> None:
        if hasattr(self, "edge") and self.edge.care is not None:
            self.edge.care.disk.hurry()

    async def _reload(self) -> None:
        try:
            await self.airgap.reload_policy(actor="SIGHUP")
        except Fault as fault:
            _log.error("policy_refused", extra={"fields": {"why": fault.detail}})
        if self.edge.doors is not None:
            await look_at_certificate(self.edge.doors)

    async def _clock(self, store: SqliteStore) -> GuardedClock:
        clock = GuardedClock(
            wall=system_wall,
            elapsed=system_elapsed,
            mark=await store.mark(),
            tolerance=timedelta(seconds=self.config.clock.tolerance_seconds),
        )
        return clock if self._adjust is None else self._adjust(clock)

    def _backups(self, store: SqliteStore, state_dir: Path) -> Backups:
        config, asked = self.config, self.config.backup
        others = {"vendor.llskeys": Path(config.trust.keys)}
        if config.policy.file:
            others["policy.toml"] = Path(config.policy.file)
        if self._source is not None:
            others["lls.toml"] = self._source
        plan = None
        if asked.folder:
            plan = Plan(
                folder=Path(asked.folder),
                keep=asked.keep,
                passphrase_file=Path(asked.passphrase_file) if asked.passphrase_file else None,
                recipient_file=Path(asked.recipient_file) if asked.recipient_file else None,
            )
        return Backups(
            store,
            state_dir=state_dir,
            server_id=self.airgap.identity.server_id,
            name=config.server.name,
            version=__version__,
            now=lambda: self.writer.now().wall,
            others=others,
            plan=plan,
            observed=self._count_backup,
        )

    def _count_backup(self, taken: Taken | None) -> None:
        if taken is None:
            self.metrics.backup_failures.inc()
        else:
            self.metrics.backup_made.set(taken.manifest.made_at.timestamp())

    async def _open_doors(self, state_dir: Path) -> None:
        config = self.config
        doors = _tls(config, state_dir)
        context = None if doors is None else doors.context
        self.edge = Edge(
            writer=self.writer,
            airgap=self.airgap,
            metrics=self.metrics,
            backups=self.backups,
            doors=doors,
            setting=EdgeSetting(
                name=config.server.name,
                version=__version__,
                started_at=self.writer.now().wall,
                body_bytes=config.server.body_bytes,
                request_seconds=config.server.request_seconds,
                failures_per_minute=config.server.failures_per_minute,
                show_products=config.server.show_products,
                tls_spki_sha256=config.server.proxy_spki_sha256,
                admin_group=ADMIN_GROUP,
                admin_http=config.admin.http,
                admin_networks=Networks(config.admin.allow),
                networks=Networks(config.access.allow),
                trusted_proxies=Networks(config.access.trusted_proxies),
                forwarded_header=ForwardedHeader(config.access.forwarded_header),
                session_idle_seconds=config.admin.session_idle_seconds,
                session_seconds=config.admin.session_seconds,
            ),
        )
        most = most_connections()
        self.edge.care = Care(
            config=config,
            airgap=self.airgap,
            writer=self.writer,
            store=self.store,
            logs=self.logs,
            disk=DiskWatch(watched_folders(config), setting=config.disk, writer=self.writer, metrics=self.metrics),
            drop=self._drop_folder(state_dir),
            retention=Retention(
                airgap=self.airgap,
                writer=self.writer,
                store=self.store,
                keep=timedelta(days=config.journal.keep_days) if config.journal.keep_days else None,
            ),
            most_connections=most,
        )
        await self._listen_admin(await self._door(init_admin_app(self.edge)))
        app, gate = await self._door(init_app(self.edge)), Gate(most=most)
        for address in addresses(config.server):
            await self._listen(app, address, context, gate)

    async def _door(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=float(self.config.server.drain_seconds))
        await runner.setup()
        self._doors.append(runner)
        return runner

    async def _listen(
        self, runner: web.AppRunner, address: Address, context: ssl.SSLContext | None, gate: Gate
    ) -> None:
        try:
            listeners = await _network_sockets(address)
            for listener in listeners:
                site = self._site(runner, listener, gate, context)
                await site.start()
                url = f"{'http' if context is None else 'https'}://{_for_url(address.host)}:{site.port}"
                self.urls.append(url)
                _log.info("listening", extra={"fields": {"url": url}})
        except OSError as error:
            place, why = f"{address.host}:{address.port}", error.strerror or error
            raise SetupFault(f"Cannot listen on {place}: {why}; is another server running there?") from error

    async def _listen_admin(self, runner: web.AppRunner) -> None:
        path = Path(self.config.server.admin_socket)
        try:
            site = self._site(runner, _admin_socket(path), Gate(most=MOST_ADMINISTRATORS))
            await site.start()
        except OSError as error:
            raise SetupFault(f"The admin socket {path} cannot be made: {error.strerror or error}.") from error
        self._stack.callback(path.unlink, missing_ok=True)

    def _site(
        self, runner: web.AppRunner, listener: socket.socket, gate: Gate, context: ssl.SSLContext | None = None
    ) -> Site:
        return Site(runner, listener, edge=self.edge, gate=gate, refuse=refuse(self.edge), ssl_context=context)


@dataclass(frozen=True, slots=True)
class _Counting:
    """What the writer does, as metrics."""

    metrics: Metrics
    on_failure: Callable[[], None]

    def committed(self, *, verbs: int, seconds: float) -> None:
        self.metrics.commits.inc()
        self.metrics.commit_seconds.observe(seconds)
        self.metrics.commit_group_size.observe(verbs)

    def failed(self) -> None:
        self.metrics.commit_failures.inc()
        self.on_failure()


async def _network_sockets(address: Address) -> list[socket.socket]:
    """One bound socket for each address that a name stands for. Raises OSError, and leaves none open then."""
    loop = asyncio.get_running_loop()
    known = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with ExitStack() as made:
        listeners = []
        for family, place in dict.fromkeys((family, place) for family, _, _, _, place in known):
            listener = made.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(place)
            listener.listen()  # here and not when it opens: who else has bound the port is told only now
            listeners.append(listener)
        made.pop_all()
        return listeners


def _admin_socket(path: Path) -> socket.socket:
    """A socket that the owner and the admin group may connect to; between bind and chmod nobody but us may."""
    _make_way(path.parent)
    _vacate(path)
    with ExitStack() as undo:
        made = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
        previous = os.umask(0o177)
        try:
            made.bind(str(path))
        finally:
            os.umask(previous)
        with suppress(KeyError, PermissionError):  # no such group: root and our own user remain
            os.chown(path, -1, grp.getgrnam(ADMIN_GROUP).gr_gid)
        path.chmod(0o660)
        undo.pop_all()
    return made


def _make_way(folder: Path) -> None:
    """The folders that are missing, open to pass through: our umask would lock the admin group out of its socket."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        one.chmod(0o755)


def _vacate(path: Path) -> None:
    """Remove the socket that a daemon has left behind, and nothing else: a mistyped path must not cost a file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SetupFault(f"At {path} (server.admin_socket) stands something that is no socket; name another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except TimeoutError:  # somebody listens and is busy
            pass
    raise SetupFault(f"The admin socket {path} (server.admin_socket) is in use by another program; name another path.")


def _store(config: Config, state_dir: Path) -> SqliteStore:
    if config.store.url:
        raise SetupFault(
            "store.url names a database that this version cannot use; leave it empty for the embedded store."
        )
    return SqliteStore(state_dir)


def _make_folder(state_dir: Path) -> None:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupFault(f"The state directory {state_dir} cannot be made: {error.strerror}.") from error


def _tls(config: Config, state_dir: Path) -> Doors | None:
    """What the doors show; None without TLS."""
    if config.tls.mode is TlsMode.OFF:
        return None
    self_made = config.tls.mode is TlsMode.SELF
    return Doors(
        state_dir / "tls.crt" if self_made else Path(config.tls.cert),
        state_dir / "tls.key" if self_made else Path(config.tls.key),
        names=partial(_own_names, config.server) if self_made else None,
        now=system_wall,
        client_ca=Path(config.access.client_ca) if config.access.client_ca else None,
        required=config.access.client_certificate is ClientCertificate.REQUIRED,
    )


def _own_names(server: Server) -> list[str]:
    hosts = {socket.gethostname(), "localhost", "127.0.0.1"}
    return sorted(hosts | {address.host for address in addresses(server)} - {"0.0.0.0", "::"})  # noqa: S104 - names


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:  # no wheel for this platform; everything works without, more slowly
        return None
    return uvloop.new_event_loop


def _for_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
