"""The intake's HTTP server: ``lls-issuer serve``.

    server = Server(home, settings, clock=now, tell=say)
    await server.start("127.0.0.1", 6510)      # processes what waited from before
    …
    await server.stop()

Rules
1. One thread owns the office: it is opened, used and closed there, one call at a time. Storing and processing take
   turns event by event, so that a long queue of events does not keep a new one from being stored.
2. A body is read within a size and a time, and not unpacked: what was signed are the bytes that came.
3. An answer of 200 means that the events are committed. A register that cannot be written is 503, and the source comes
   again.
4. The worker processes whenever something was stored, and every few seconds: for what became due, and for what was
   retried at a terminal. An event that shows a fault of this program is marked as failed and told; the others go on.
5. Once an hour the bodies that were kept long enough are removed.
6. Nothing of a body, a header or a secret is told; only numbers of the inbox, ids and outcomes.

TLS is a proxy's: this listens on the machine itself, unless it is told otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from aiohttp import web

from lls import __version__
from lls.faults import BadRequest, Fault, MethodNotAllowed, NotFound, Timeout, TooLarge, UnsupportedMediaType
from lls.issuer.intake import answers
from lls.issuer.intake.inbox import Status
from lls.issuer.intake.processing import ADAPTERS, Fate, Intake
from lls.issuer.intake.settings import Settings
from lls.issuer.office import Issuer
from lls.issuer.refusals import HomeRefused

Clock: TypeAlias = Callable[[], datetime]
Tell: TypeAlias = Callable[[str], None]
T = TypeVar("T")

LARGEST_BODY_BYTES: Final = 4 << 20
BODY_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 5.0
TIDY_EVERY: Final = timedelta(hours=1)
_LARGEST_LINE: Final = 8_190


async def _name_no_version(_request: web.Request, response: web.StreamResponse) -> None:
    """Which library of which version answers is nobody's business: it only helps to choose an attack."""
    response.headers["Server"] = "lls-issuer"


class Server:
    """See the module. ``clock`` gives the instant, ``tell`` takes a sentence for whoever watches."""

    def __init__(
        self, home: Path, settings: Settings, *, clock: Clock, tell: Tell, largest_body: int = LARGEST_BODY_BYTES
    ) -> None:
        self._home, self._settings, self._clock, self._tell = home, settings, clock, tell
        self._largest_body = largest_body
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="office")
        self._issuer: Issuer | None = None
        self._intake: Intake | None = None
        self._stored = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._worker: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Opens the office and listens; where, if ``port`` is 0. Raises HomeRefused, and OSError for the address."""
        try:
            await self._in_thread(self._open)
            self._runner = web.AppRunner(
                self.application(), access_log=None, max_line_size=_LARGEST_LINE, max_field_size=_LARGEST_LINE
            )
            await self._runner.setup()
            await web.TCPSite(self._runner, host, port).start()
        except BaseException:
            await self.stop()
            raise
        self._worker = asyncio.create_task(self._work())
        bound: Any = self._runner.addresses[0]
        return str(bound[0]), int(bound[1])

    async def stop(self) -> None:
        """Answers what is under way, finishes the event in hand, closes the office."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        # The thread is asked last, so that an event in hand is whole before the register is closed.
        await self._in_thread(self._close)
        self._thread.shutdown()

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._answering], client_max_size=self._largest_body)
        for name in self._settings.sources:
            app.router.add_post(f"/v1/events/{name}", partial(self._events, name))
        app.router.add_get("/v1/openapi.json", self._openapi)
        app.router.add_get("/v1/health", self._health)
        app.on_response_prepare.append(_name_no_version)
        return app

    # -- what is answered ---------------------------------------------------------------------------------------------

    async def _events(self, source: str, request: web.Request) -> web.Response:
        setting = self._settings.sources[source]
        if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise UnsupportedMediaType("Bodies must come as they were signed, without a Content-Encoding.")
        if len(request.headers.getall(setting.proof.header, ())) > 1:
            raise BadRequest(f"The header {setting.proof.header} came more than once.")
        if request.content_type not in ADAPTERS[source].media:
            raise UnsupportedMediaType(f"Events of {source} come as {' or '.join(ADAPTERS[source].media)}.")
        body = await self._body(request)
        taken = await self._in_thread(
            lambda: self._opened().receive(
                source,
                body,
                media=request.content_type,
                proof=request.headers.get(setting.proof.header),
                now=self._clock(),
            )
        )
        self._stored.set()
        return answers.stored(taken)

    async def _body(self, request: web.Request) -> bytes:
        if request.content_length is not None and request.content_length > self._largest_body:
            raise TooLarge(f"A body has at most {self._largest_body} bytes.")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await request.read()
        except TimeoutError as failure:
            raise Timeout("The body did not arrive in time.") from failure
        except web.HTTPRequestEntityTooLarge as failure:
            raise TooLarge(f"A body has at most {self._largest_body} bytes.") from failure

    async def _openapi(self, _request: web.Request) -> web.Response:
        document = answers.openapi(self._settings, ADAPTERS, version=__version__, most_bytes=self._largest_body)
        return web.json_response(document)

    async def _health(self, _request: web.Request) -> web.Response:
        waiting, failed = await self._in_thread(self._counts)
        return web.json_response({"status": "ok", "waiting": waiting, "failed": failed})

    @web.middleware
    async def _answering(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        try:
            answer: web.StreamResponse = await handler(request)
        except Fault as fault:
            return answers.problem(fault, scheme=self._scheme(request))
        except web.HTTPException as refused:
            return self._refused(refused)
        return answer

    def _refused(self, refused: web.HTTPException) -> web.Response:
        if refused.status == HTTPStatus.NOT_FOUND:
            return answers.problem(NotFound())
        if refused.status == HTTPStatus.METHOD_NOT_ALLOWED:
            answer = answers.problem(MethodNotAllowed())
            answer.headers["Allow"] = refused.headers.get("Allow", "POST")
            return answer
        if refused.status < HTTPStatus.BAD_REQUEST:
            raise refused
        return answers.problem(BadRequest("The request is not one that can be read."))

    def _scheme(self, request: web.Request) -> Any:
        name = request.path.rpartition("/")[2]
        return self._settings.sources[name].proof.scheme if name in self._settings.sources else None

    # -- the office's thread ------------------------------------------------------------------------------------------

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _open(self) -> None:
        self._issuer = Issuer(self._home, now=self._clock())
        self._intake = Intake(self._issuer, self._settings)

    def _close(self) -> None:
        if self._issuer is not None:
            self._issuer.close()

    def _opened(self) -> Intake:
        if self._intake is None:
            raise RuntimeError("the office is used before it was opened")
        return self._intake

    def _counts(self) -> tuple[int, int]:
        counts = self._opened().inbox.counts()
        return counts.get(Status.WAITING, 0), counts.get(Status.FAILED, 0)

    # -- the worker ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Rules 4 and 5."""
        tidied: datetime | None = None
        while True:
            self._stored.clear()
            if tidied is None or not timedelta() <= self._clock() - tidied < TIDY_EVERY:
                tidied = self._clock()
                await self._tidy()
            while (fate := await self._next()) is not None:
                self._tell(f"Event {fate.key}, {fate.kind} of {fate.source}: {fate.status}. {fate.outcome}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._stored.wait()

    async def _tidy(self) -> None:
        try:
            removed = await self._in_thread(lambda: self._opened().remove_bodies(now=self._clock()))
        except HomeRefused as refused:
            self._tell(f"{refused.detail} Bodies that were kept long enough are removed later.")
        else:
            if removed:
                self._tell(f"The bodies of {removed} settled events were kept long enough and are removed.")

    async def _next(self) -> Fate | None:
        try:
            return await self._in_thread(lambda: self._opened().process_next(now=self._clock()))
        except HomeRefused as refused:
            self._tell(f"{refused.detail} Events go on being tried.")
        except Exception as failure:  # noqa: BLE001 - told here, marked there; the other events go on
            self._tell("".join(traceback.format_exception(failure)))
        return None
