"""Connections: how many there may be, how long each may be silent, and what one hears that speaks no HTTP.

Rules
1. Connections are counted from the moment they are accepted, TLS handshakes included, because each is a descriptor. A
   full door aborts the next one at once. Every door has a number of its own, so that the network cannot starve the
   admin socket, nor both of them the store.
2. A TLS handshake has ten seconds; a request's head has ``request_seconds`` from the connection's first or the head's
   first byte; between requests a connection may be silent for a quarter of an hour. (Heartbeats may be ten days apart,
   and clients connect again when they must; an idle connection is cheap, and nobody needs thousands of them.)
3. No timer is made for a request: one is made for a connection, and one for a head that comes in pieces.
4. What is no HTTP is a ``bad_request`` like any other: answered as a problem, counted against its address, and never
   logged, since it may hold a secret that strayed.
5. Nothing is ever upgraded: who asks for another protocol is answered in this one, once, and the connection closes.
   What stands behind such a request in the same bytes is lost in aiohttp's parser, and the rest of it would be read as
   a request of its own: behind a proxy, somebody else's.
6. A body that nobody will read is let run out for five seconds, so that its sender can read the refusal.
7. Who fails to shake hands (no certificate where one is asked for, a stranger's, plain HTTP) is told nothing and logged
   by address and reason, at most one a minute: the administrator must be able to say why, and nobody to fill the log.
8. Every answer says who answers and no version of anything; and every refusal is a problem of ours: what comes to no
   route (``CONNECT``, ``OPTIONS *``) or is refused before its handler (an unknown ``Expect``), too.

Limits: a peer that takes no answers off its connection keeps it; it counts like every other.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from aiohttp import web

from lls.api import problems
from lls.api.edge import SERVER, Edge
from lls.faults import BadRequest, Fault

Refuse: TypeAlias = Callable[[web.BaseRequest, Fault], web.StreamResponse]
"""Makes the answer, and counts it."""

HANDSHAKE_SECONDS: Final = 10.0
GOODBYE_SECONDS: Final = 5.0
"""For the other side's half of closing TLS, and for a refused body's rest."""
IDLE_SECONDS: Final = 900.0
RESERVED: Final = 64
"""Descriptors for the store, the log, the admin socket and the files that it hands out."""
MOST_ADMINISTRATORS: Final = 32
BACKLOG: Final = 4096
_ACCEPTED_AT_ONCE: Final = 64
_PAUSE_SECONDS: Final = 1.0
_TOLD_EACH_SECONDS: Final = 60.0
_MOST_DESCRIPTORS: Final = 1 << 20
_REFUSED: Final = 400
_NOT_OURS: Final = "text/plain"
_ABORTED: Final = struct.pack("ii", 1, 0)

_log = logging.getLogger(__name__)


def most_connections() -> int:
    """Raise this process's limit on descriptors as far as it may go; what that leaves for the network's connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft not in (resource.RLIM_INFINITY, wanted):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError) as error:  # some systems name a limit that they do not grant
            _log.warning("descriptors_limited", extra={"fields": {"limit": soft, "why": str(error)}})
    return max(RESERVED, min(soft if soft != resource.RLIM_INFINITY else wanted, _MOST_DESCRIPTORS) - RESERVED)


class Gate:
    """Rule 1 for one door: at most ``most`` are inside."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._told_at = -math.inf
        self.inside = 0

    def enter(self, now: float) -> bool:
        """Count one more, unless the door is full; that is told once a minute."""
        if self.inside < self._most:
            self.inside += 1
            return True
        if now - self._told_at >= _TOLD_EACH_SECONDS:
            self._told_at = now
            _log.error("connections_full", extra={"fields": {"most": self._most}})
        return False

    def leave(self) -> None:
        """One less."""
        self.inside -= 1


class Connection(web.RequestHandler):
    """One client's connection. It is counted out at its gate exactly once, however it ends."""

    __slots__ = ("_gate", "_patience", "_refuse", "_request_seconds")

    def __init__(self, server: web.Server, edge: Edge, gate: Gate, refuse: Refuse, idle_seconds: float) -> None:
        # A body that unpacks to a thousand times its size is none that we asked for: encodings are not undone.
        options: dict[str, Any] = {"access_log": None, "keepalive_timeout": idle_seconds, "auto_decompress": False}
        options["lingering_time"] = GOODBYE_SECONDS
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._gate: Gate | None = gate
        self._refuse = refuse
        self._request_seconds = edge.setting.request_seconds
        self._patience: asyncio.TimerHandle | None = None

    def leave(self) -> None:
        """Count this connection out."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Rule 2: the first head is awaited from now on."""
        super().connection_made(transport)
        self._patience = self._loop.call_later(self._request_seconds, self._head_overdue)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is over."""
        self.leave()
        self._be_patient()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Rule 3: bytes that made no request while none is under way are a piece of a head."""
        known = self._request_count
        super().data_received(data)
        if self._request_count != known:
            if any(getattr(message, "upgrade", False) for message, _payload in self._messages):
                self.close()
            if self._patience is not None:
                self._be_patient()
        elif self._patience is None and data and self._waiter is not None and not self._waiter.done():
            self._patience = self._loop.call_later(self._request_seconds, self._head_overdue)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  (it repeats what was sent)
    ) -> web.StreamResponse:
        """Rule 4. What escaped the door itself is our mistake, told by its kind only."""
        fault = BadRequest("That is no HTTP/1.1.") if status == problems.KINDS[BadRequest.code].status else Fault()
        if fault.code == Fault.code:
            _log.error("connection_failed", extra={"fields": {"why": type(exc).__name__}})
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        response = self._refuse(request, fault)
        response.force_close()
        return response

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Rule 8, where aiohttp is about to send what was not begun by its handler."""
        if not resp.prepared:
            if resp.status >= _REFUSED and resp.content_type == _NOT_OURS:
                resp = self._refuse(request, problems.fault_of(resp.status))
                resp.force_close()  # CONNECT: what follows is no request
            resp.headers["Server"] = SERVER
        return super().finish_response(request, resp, start_time)

    def log_exception(self, *_args: Any, exc_info: BaseException | None = None, **_more: Any) -> None:
        """In aiohttp's own words there would be what the client has sent."""
        if not isinstance(exc_info, web.RequestPayloadError):
            _log.error("connection_failed", extra={"fields": {"why": type(exc_info).__name__}})

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _head_overdue(self) -> None:
        self._patience = None
        if self.transport is not None:
            self.transport.abort()


class Site(web.BaseSite):
    """A bound socket that lets connections in. It belongs to its runner, which stops it."""

    __slots__ = (
        *("_edge", "_gate", "_idle_seconds", "_listener", "_loop", "_refuse", "_told_at", "_untold", "_welcomes"),
    )

    def __init__(
        self,
        runner: web.AppRunner,
        listener: socket.socket,
        *,
        edge: Edge,
        gate: Gate,
        refuse: Refuse,
        ssl_context: ssl.SSLContext | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context)
        self._listener, self._edge, self._gate, self._refuse = listener, edge, gate, refuse
        self._idle_seconds = idle_seconds
        self._welcomes: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._told_at, self._untold = -math.inf, 0

    @property
    def name(self) -> str:
        """Where it listens."""
        return str(self._listener.getsockname())

    @property
    def port(self) -> int:
        """The port, where it has one."""
        return int(self._listener.getsockname()[1])

    async def start(self) -> None:
        """Open the door. Raises OSError."""
        await super().start()
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._listen()

    async def stop(self) -> None:
        """Close the door. Who is inside stays; who is still shaking hands does not."""
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for welcome in self._welcomes:
            welcome.cancel()
        await asyncio.gather(*self._welcomes, return_exceptions=True)
        await super().stop()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        """Our own, because a server of asyncio's says nothing of a connection before its handshake is over."""
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("not_accepted", extra={"fields": {"why": errno.errorcode.get(error.errno or 0, "?")}})
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(_PAUSE_SECONDS, self._listen)
                return
            if not self._gate.enter(self._loop.time()):
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTED)
                accepted.close()
                continue
            accepted.setblocking(False)
            welcome = self._loop.create_task(self._welcome(accepted, address))
            self._welcomes.add(welcome)
            welcome.add_done_callback(self._welcomes.discard)

    async def _welcome(self, accepted: socket.socket, address: Any) -> None:
        server = self._runner.server
        if server is None:
            raise RuntimeError("a site listens without its runner")
        connection = Connection(server, self._edge, self._gate, self._refuse, self._idle_seconds)
        tls: dict[str, Any] = {}
        if self._ssl_context is not None:
            times = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": GOODBYE_SECONDS}
            tls = {"ssl": self._ssl_context, **times}
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted, **tls)
        except OSError as error:
            connection.leave()
            self._note_stranger(error, address)
        except BaseException:
            connection.leave()
            raise

    def _note_stranger(self, error: OSError, address: Any) -> None:
        """Rule 7, in the TLS library's own words and never the peer's. Who only knocks (a probe) is no news."""
        if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
            return
        self._untold += 1
        if self._loop.time() - self._told_at < _TOLD_EACH_SECONDS:
            return
        why = getattr(error, "verify_message", None) or getattr(error, "reason", None) or type(error).__name__
        host = address[0] if isinstance(address, tuple) else ""
        _log.warning("handshake_failed", extra={"fields": {"address": host, "why": str(why), "count": self._untold}})
        self._told_at, self._untold = self._loop.time(), 0
