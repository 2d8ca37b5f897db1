"""Who calls, and whether the call is theirs: the guard of administration on the network.

The order in which a request is judged; the first that refuses answers:
1. Its address is in ``admin.allow``, where that names any.
2. Its way is private (``origin``, rule 4): no credential is asked for, or looked at, on a way on which it can be read.
3. A browser's own word: a request that changes something comes from this server's own pages (``Sec-Fetch-Site``,
   ``Origin``). This holds for the login too, or a stranger's page could log its visitor in as somebody else.
4. A credential. ``Authorization: Bearer llsk_…`` is an API key, and then no cookie is looked at; else the session's
   cookie. A key or session that is not open is ``unauthenticated``, whatever was wrong with it.
5. By cookie, what changes something carries the session's token in ``X-LLS-Token``: a form of another site cannot.
6. The role, then the scopes (``roles``).

On the UNIX socket the kernel's word is enough (``auth``): whoever is let in there is an administrator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohttp import web

from lls.api.credentials import KEY_PREFIX, digest
from lls.api.sessions import COOKIE, TOKEN_HEADER, Session, right_token
from lls.faults import Forbidden, Unauthenticated
from lls.licensing.account import Role, User

if TYPE_CHECKING:
    from lls.api.edge import Edge
    from lls.api.roles import Rule

SAFE: Final = frozenset({"GET", "HEAD"})
_BEARER: Final = re.compile(rf"(?i:bearer) +({KEY_PREFIX}[A-Za-z0-9_-]{{43}})")
_PRIVATE: Final = (
    "Administration is not answered on a way that others can read: use https, or set access.trusted_proxies if a TLS"
    " proxy stands in front."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who acts. ``actor`` is what the journal commits to: ``user:NAME``, ``key:ID``, or an account of the host."""

    actor: str
    role: Role
    scopes: tuple[str, ...] = ()
    user: User | None = None
    session: Session | None = None


CALLER: Final = web.RequestKey("caller", Caller)


def admitted(request: web.Request, edge: Edge, rule: Rule) -> Caller | None:
    """Rules 1 to 6; None where nobody has to be known yet. Raises Forbidden, Unauthenticated."""
    approach(request, edge)
    if rule.least is None:
        return None
    caller = _caller(request, edge)
    if caller.session is None and rule.people:
        raise Forbidden("That is for people, not for API keys.")
    if not caller.role.covers(rule.least):
        raise Forbidden(f"That needs the role {rule.least}; yours is {caller.role}.")
    if caller.scopes and not rule.scopes & set(caller.scopes):
        raise Forbidden(f"That is outside the scopes of this API key; it needs {' or '.join(sorted(rule.scopes))}.")
    return caller


def approach(request: web.Request, edge: Edge) -> None:
    """Rules 1 to 3. Raises Forbidden."""
    allowed = edge.setting.admin_networks
    if allowed and not allowed.hold(edge.origin.address(request)):
        raise Forbidden("Administration is not answered to this address (admin.allow).")
    if not edge.origin.private(request):
        raise Forbidden(_PRIVATE)
    if request.method not in SAFE:
        _refuse_other_sites(request)


def _refuse_other_sites(request: web.Request) -> None:
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    origin = request.headers.get("Origin")
    if site != "same-origin" or (origin is not None and not _is_ours(origin, request.headers.get("Host", ""))):
        raise Forbidden("That was asked by a page of another site.")


def _is_ours(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and bool(host) and parts.netloc.lower() == host.lower()


def _caller(request: web.Request, edge: Edge) -> Caller:
    if "Authorization" in request.headers:
        return _of_key(request, edge)
    session_id = request.cookies.get(COOKIE)
    if not session_id:
        raise Unauthenticated("Log in, or send an API key as Authorization: Bearer llsk_….")
    session, user = open_session(edge, session_id)
    if request.method not in SAFE and not right_token(session, request.headers.get(TOKEN_HEADER)):
        raise Forbidden(f"A request that changes something carries the session's token as {TOKEN_HEADER}.")
    return Caller(actor=f"user:{user.name}", role=user.role, user=user, session=session)


def open_session(edge: Edge, session_id: str) -> tuple[Session, User]:
    """The session and its user as of the last commit. Raises Unauthenticated."""
    session = edge.sessions.find(session_id, elapsed=edge.writer.now().elapsed)
    user = None if session is None else edge.writer.ledger.accounts.user(session.user)
    if session is None or user is None or user.version != session.version:
        edge.sessions.end(session_id)
        raise Unauthenticated("The session has ended; log in again.")
    return session, user


def _of_key(request: web.Request, edge: Edge) -> Caller:
    found = _BEARER.fullmatch(request.headers["Authorization"])
    key = None if found is None else edge.writer.ledger.accounts.key_of(digest(found[1]), at=_latest(edge))
    if key is None:
        raise Unauthenticated("That API key is not known here, or it has expired or was revoked.")
    return Caller(actor=f"key:{key.key_id}", role=key.role, scopes=key.scopes)


def _latest(edge: Edge) -> datetime:
    """A clock in doubt must not lengthen a key's life."""
    now = edge.writer.now()
    return max(now.wall, now.strict)
