"""What every handler leans on: the ``Edge`` of this process, a route's description, reading a body, writing an answer.

Rules
1. Handlers are found through their ``Route``: method, path, types and codes stand in one list, so that the router and
   the OpenAPI document cannot disagree.
2. A body is read within a size and a time; one that has arrived whole costs neither a timer nor a turn of the loop.
3. Answers are bytes made once; nothing here logs a request (design §8: the access log costs more than half).
4. Query parameters are judged by the calls that have any: an unknown or repeated name is ``bad_request``, because a
   filter that is silently ignored shows the wrong leases. Calls without parameters ignore the query.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from lls.airgap import Airgap
from lls.api.auth import FailureLimit
from lls.api.costly import Costly
from lls.api.credentials import MEMORY_KIB, PASSES, Passwords
from lls.api.origin import NO_NETWORKS, ForwardedHeader, Networks, Origin
from lls.api.sessions import Lockout, Sessions
from lls.api.signing import Signing
from lls.api.wire import Form, T
from lls.backup import Backups
from lls.care.upkeep import Care
from lls.events import Herald
from lls.faults import BadRequest, RefusedDocument, Timeout, TooLarge, UnsupportedMediaType
from lls.licensing.entitlement import Entitlement
from lls.licensing.fields import read_instant
from lls.telemetry import Metrics
from lls.tls import Doors
from lls.writer import Writer

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
SERVER: Final = "lls"
"""Who answers; of what Python and what library would help nobody but an attacker."""
DOCUMENT_BYTES: Final = 64 * 1024 * 1024
"""Bundles and receipts on the admin socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSetting:
    """What the daemon takes from its configuration. ``*_seconds`` are seconds, ``*_bytes`` bytes."""

    name: str = "lls"
    version: str
    started_at: datetime
    store_kind: str = "sqlite"
    request_seconds: float = 10
    body_bytes: int = 65_536
    failures_per_minute: int = 60
    ready_seconds: float = 2
    show_products: bool = True
    admin_group: str = "lls-admin"
    admin_http: bool = False
    admin_networks: Networks = NO_NETWORKS
    networks: Networks = NO_NETWORKS
    trusted_proxies: Networks = NO_NETWORKS
    forwarded_header: ForwardedHeader = ForwardedHeader.X_FORWARDED_FOR
    session_idle_seconds: float = 900
    session_seconds: float = 43_200
    password_memory_kib: int = MEMORY_KIB
    password_passes: int = PASSES
    tls_spki_sha256: tuple[str, ...] = ()
    """The TLS keys that clients may meet beside those of our own doors: a proxy's (contract §2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What every lease of an entitlement shows alike, made once: new terms are another object."""

    terms: Entitlement
    claims: str
    switches: Mapping[str, bool]
    attributes: dict[str, str | int]
    expires_at: str | None


class Edge:
    """One process's edge, shared by its applications. ``setting`` may be replaced on reload; ``drain`` is one-way."""

    def __init__(
        self,
        *,
        writer: Writer,
        airgap: Airgap,
        metrics: Metrics,
        setting: EdgeSetting,
        backups: Backups | None = None,
        doors: Doors | None = None,
    ) -> None:
        self.writer, self.airgap, self.metrics, self.setting = writer, airgap, metrics, setting
        self.backups, self.doors = backups, doors
        self.herald: Herald | None = None
        self.failures = FailureLimit(per_minute=setting.failures_per_minute)
        self.guesses = FailureLimit(per_minute=setting.failures_per_minute)
        self.care: Care | None = None
        """The upkeep; the daemon sets it before the doors open."""
        self.logins = FailureLimit(per_minute=setting.failures_per_minute)
        self.origin = Origin(proxies=setting.trusted_proxies, header=setting.forwarded_header)
        self.passwords = Passwords(memory_kib=setting.password_memory_kib, passes=setting.password_passes)
        self.sessions = Sessions(idle=setting.session_idle_seconds, most=setting.session_seconds)
        self.lockout = Lockout()
        self.costly = Costly()
        self.draining = False
        self.waiting: set[asyncio.Timeout] = set()
        self.page: asyncio.Task[bytes] | None = None
        """The page of metrics that is being made, or was."""
        self.tallies: dict[str, Counter[int]] = {}
        self.beats = self.clones = 0
        self.signing = Signing(airgap.capabilities)
        self.grants: Counter[tuple[str, str]] = Counter()
        self.denials: Counter[str] = Counter()
        self.denied: Counter[str] = Counter()
        """Denials by product since the start; never handed over, so that somebody else may take differences."""
        self.shown: dict[str, Shown] = {}

    def drain(self) -> None:
        """No new checkouts from now on; who waits for a seat is told at once. Heartbeats and checkins go on."""
        self.draining = True
        now = asyncio.get_running_loop().time()
        for patience in self.waiting:
            patience.reschedule(now)

    @property
    def tls_spki_sha256(self) -> tuple[str, ...]:
        """Every TLS key that a client may meet: that of now, older ones of living connections, a proxy's."""
        own = () if self.doors is None else self.doors.spki_sha256
        return (*own, *self.setting.tls_spki_sha256)

    def tally(self, route: str) -> Counter[int]:
        """How often a route was answered with each status. Plain numbers: a metric's lock costs more than the count."""
        return self.tallies.setdefault(route, Counter())

    def count(self) -> None:
        """Hand what was tallied since the last time to the metrics."""
        for route, statuses in self.tallies.items():
            for status, answers in statuses.items():
                self.metrics.http_requests.labels(route, status).inc(answers)
            statuses.clear()
        self.metrics.heartbeats.inc(self.beats)
        self.metrics.clones.inc(self.clones)
        self.beats = self.clones = 0
        for labels, grants in self.grants.items():
            self.metrics.grants.labels(*labels).inc(grants)
        for code, denials in self.denials.items():
            self.metrics.denials.labels(code).inc(denials)
        self.grants.clear()
        self.denials.clear()


EDGE: Final = web.AppKey("edge", Edge)
ACTOR: Final = web.RequestKey("actor", str)
"""Where the guard leaves the administrator's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query parameter; ``kind`` is the JSON type of its value."""

    name: str
    meaning: str
    kind: str = "string"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One call of the API: what the router needs, and what the OpenAPI document says of it.

    ``answers`` maps each success status to the answer's type, a media type for what is no JSON, or None for no body.
    ``by``: who may call: ``anyone``, a lease's ``secret``, an ``administrator`` (on the admin socket, or known by
    session or API key), a person with a ``session``, whoever is about to ``login``.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, type | str | None]
    form: type | None = None
    media: str | None = None
    faults: tuple[str, ...] = ()
    query: tuple[Query, ...] = ()
    by: str = "anyone"
    headers: Mapping[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------- reading


async def read_form(request: web.Request, edge: Edge, form: Form[T], *, least_limit: int = 0) -> T:
    """The JSON body as its type. Raises BadRequest, UnsupportedMediaType, TooLarge, Timeout.

    ``least_limit``: bytes that this call takes even where the setting is smaller.
    """
    if request.headers.get("Content-Type") != JSON and request.content_type != JSON:
        raise UnsupportedMediaType
    setting = edge.setting
    limit = max(least_limit, setting.body_bytes)
    return form.read(await read_body(request, limit=limit, seconds=setting.request_seconds))


async def read_document(request: web.Request) -> bytes:
    """A document as a body of bytes, at most 64 MiB."""
    if request.content_type != BYTES:
        raise UnsupportedMediaType(f"The body must be the file itself with Content-Type {BYTES}.")
    seconds = request.app[EDGE].setting.request_seconds
    return await read_body(request, limit=DOCUMENT_BYTES, seconds=seconds)


async def read_body(request: web.Request, *, limit: int, seconds: float) -> bytes:
    """The whole body. Raises TooLarge, Timeout, BadRequest when it breaks off or its chunks are malformed."""
    content = request.content
    try:
        if content.is_eof():
            body = content.read_nowait()
            if len(body) > limit:
                raise TooLarge(f"The body may have {limit} bytes.")
            return body
        if (request.content_length or 0) > limit:
            raise TooLarge(f"The body may have {limit} bytes.")
        async with asyncio.timeout(seconds):
            return await _read_slowly(content, limit)
    except TimeoutError:
        raise Timeout from None
    except web.RequestPayloadError:
        raise BadRequest("The body broke off or its chunks are malformed.") from None


async def _read_slowly(content: Any, limit: int) -> bytes:
    chunks, size = [], 0
    while chunk := await content.readany():
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"The body may have {limit} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)


def parameters(request: web.Request, *names: str) -> dict[str, str]:
    """The query parameters that were given. Raises BadRequest for an unknown or repeated one."""
    given = request.query
    for name in given:
        if name not in names:
            known = f"known are {', '.join(names)}" if names else "there are none"
            raise BadRequest(f"There is no query parameter of that name here; {known}.")
        if len(given.getall(name)) > 1:
            raise BadRequest(f"The query parameter {name} stands twice.")
    return dict(given)


def number_of(text: str | None, name: str, *, default: int, most: int) -> int:
    """A whole number in the query. Raises BadRequest."""
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or int(text) > most:
        raise BadRequest(f"{name} must be a whole number from 0 to {most}.")
    return int(text)


def instant_of(text: str | None, name: str) -> datetime | None:
    """An instant or a day in the query. Raises BadRequest."""
    if text is None:
        return None
    try:
        return read_instant(f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text, place=name)
    except RefusedDocument as fault:
        raise BadRequest(fault.detail) from None


_NUMBER = re.compile(r"[0-9]{1,16}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

# ---------------------------------------------------------------- writing

# No cache between us and the client may keep an answer: leases and capabilities are private.
_JSON_HEADERS: Final = {"Content-Type": JSON, "Cache-Control": "no-store"}
encode = msgspec.json.Encoder().encode


def answer(value: object) -> web.Response:
    """200 with a value as JSON."""
    return web.Response(body=encode(value), headers=_JSON_HEADERS)


def created(value: object) -> web.Response:
    """201 with a value as JSON."""
    return web.Response(status=201, body=encode(value), headers=_JSON_HEADERS)


class Pieces(web.StreamResponse):
    """200 in pieces; to HEAD its head alone.

    aiohttp would send HEAD the pieces too, and on a kept connection they would stand in the next answer's place.
    """

    def __init__(self, media: str, **headers: str) -> None:
        super().__init__(headers={"Content-Type": media, "Cache-Control": "no-store", "Server": SERVER, **headers})
        self._head_alone = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head."""
        self._head_alone = request.method == "HEAD"
        return await super().prepare(request)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send a piece."""
        if not self._head_alone:
            await super().write(data)


def file_answer(data: bytes, name: str) -> web.Response:
    """200 with a document, under the name that it should have as a file."""
    headers = {
        "Content-Type": BYTES,
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    return web.Response(body=data, headers=headers)


def done() -> web.Response:
    """204."""
    return web.Response(status=204)


def instant(at: datetime) -> str:
    """RFC 3339 in UTC with ``Z`` and whole seconds: what a clock on the wall would say."""
    return (at if at.tzinfo is UTC else at.astimezone(UTC)).isoformat(timespec="seconds")[:-6] + "Z"


def second(epoch: int) -> str:
    """A NumericDate in the same form. Beats of one moment end in few different seconds, so the text is kept."""
    text = _SECONDS.get(epoch)
    if text is None:
        if len(_SECONDS) >= MOST_SECONDS:
            _SECONDS.clear()
        text = _SECONDS[epoch] = instant(datetime.fromtimestamp(epoch, UTC))
    return text


MOST_SECONDS: Final = 1_000
_SECONDS: dict[int, str] = {}


def optional_instant(at: datetime | None) -> str | None:
    """The same, or None."""
    return None if at is None else instant(at)
