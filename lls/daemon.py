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
from lls.clock import GuardedClock, system_elapsed, system_wall
from lls.config import Address, ClientCertificate, Config, LogFormat, Server, TlsMode, addresses
from lls.events import Herald, Looking, Outbox, Sender, certificate_conditions, destinations
from lls.faults import Fault, SetupFault
from lls.host import host_components
from lls.identity import load_identity, new_id
from lls.licensing.ledger import Setting
from lls.schedule import look_at_certificate, scheduled
from lls.store.sqlite import SqliteStore
from lls.telemetry import Metrics, metrics, set_up_logging
from lls.tls import Doors
from lls.writer import Writer

ADMIN_GROUP: Final = "lls-admin"
GARBAGE: Final = 20_000
PROBE_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


def serve(config: Config) -> int:
    """Run until SIGTERM or SIGINT; the exit status. Raises SetupFault before the doors open."""
    set_up_logging(level=config.server.log_level.value, as_json=config.server.log_format is LogFormat.JSON)
    os.umask(0o077)  # whatever we write is ours alone, the database's side files too
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config))


async def _serve(config: Config) -> int:
    daemon = Daemon(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, daemon.reload)
    try:
        await daemon.start()
        _notify("READY=1")
        feeding = asyncio.create_task(_feed_watchdog(daemon))
        ended = asyncio.create_task(daemon.writer.wait_closed())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        feeding.cancel()
        stopping.cancel()
        _notify("STOPPING=1")
        if not ended.done():
            ended.cancel()
            return 0
        return _why_it_ended(ended)
    finally:
        await daemon.stop()


def _why_it_ended(ended: asyncio.Task[None]) -> int:
    error = ended.exception()
    _log.critical("writer_ended", extra={"fields": {"why": str(error)}}, exc_info=error)
    return 1


class Daemon:
    """One server in this process: ``start``, then ``stop``. Tests use it in a loop of their own."""

    def __init__(self, config: Config, *, clock: Callable[[GuardedClock], GuardedClock] | None = None) -> None:
        self.config = config
        self.metrics: Metrics = metrics()
        self.writer: Writer
        self.airgap: Airgap
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
        store = _store(config, state_dir)
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
            vendor_keys=_read_vendor_keys(Path(config.trust.keys)),
            store=store,
            clock=clock,
            state_dir=state_dir,
            setting=setting,
            host=partial(host_components, identity.server_id, state_dir),
            policy_file=Path(config.policy.file) if config.policy.file else None,
        )
        self.writer = self.airgap.writer = Writer(
            store,
            clock=clock,
            build=self.airgap.build,
            observer=_Counting(self.metrics),
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
        await self._open_doors(state_dir)
        await self._send_heralds(state_dir)
        housekeeping = scheduled(self.airgap, self.edge.doors)
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
            looks=[looking, partial(certificate_conditions, edge.doors, now)],
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
        """SIGHUP: read the site's policy and certificate again. A refused one is logged; the present one stays."""
        if hasattr(self, "edge"):
            self._reloading = asyncio.create_task(self._reload())

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

    async def _open_doors(self, state_dir: Path) -> None:
        config = self.config
        doors = _tls(config, state_dir)
        context = None if doors is None else doors.context
        self.edge = Edge(
            writer=self.writer,
            airgap=self.airgap,
            metrics=self.metrics,
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
        await self._listen_admin(await self._door(init_admin_app(self.edge)))
        app, gate = await self._door(init_app(self.edge)), Gate(most=most_connections())
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

    def committed(self, *, verbs: int, seconds: float) -> None:
        self.metrics.commits.inc()
        self.metrics.commit_seconds.observe(seconds)
        self.metrics.commit_group_size.observe(verbs)

    def failed(self) -> None:
        self.metrics.commit_failures.inc()


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


def _read_vendor_keys(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except FileNotFoundError:
        raise SetupFault(
            f"The vendor's key set {path} (trust.keys) is not there;"
            " put the .llskeys file that came with your software at that place."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SetupFault(f"The vendor's key set {path} (trust.keys) cannot be read.") from error


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


def _notify(state: str) -> None:
    """Tell systemd, when it started us (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        notify.sendall(state.encode())


async def _feed_watchdog(daemon: Daemon) -> None:
    """Feed systemd's watchdog only while the store itself answers: a server that cannot commit is restarted."""
    microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    if not microseconds:
        return
    while True:
        await asyncio.sleep(microseconds / 2_000_000)
        try:
            await daemon.writer.prove()
        except Fault as fault:
            _log.error("watchdog_not_fed", extra={"fields": {"why": fault.detail}})
            continue
        _notify("WATCHDOG=1")
