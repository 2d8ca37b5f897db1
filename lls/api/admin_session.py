"""Logging in and out, and what people do with their own account. On the network only: the admin socket needs no login.

Rules
1. A login is judged in one order: the address's failures, the user's pauses, the password (for somebody who is not
   there: another one), the one-time code. Every refusal is the same answer.
2. A failure is logged with its address and counted, never journalled: the journal is no target. The name is logged
   where there is such a user; whatever else was typed there may have been a password.
3. A change of one's own password or second factor asks for the password again, ends every session of the user, and
   begins a new one.
4. An invitation sets a password once; it is judged like a login.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiohttp import web

from lls.api.account_wire import (
    EnrolmentView,
    LoginForm,
    OwnPasswordForm,
    OwnTotpForm,
    RedeemForm,
    SessionView,
)
from lls.api.admin import ALWAYS, BODY, WRITES
from lls.api.callers import CALLER, Caller
from lls.api.credentials import digest, enrolment, is_secret, judge_password, new_secret, step_of
from lls.api.edge import EDGE, Edge, Route, answer, done, read_form
from lls.api.sessions import COOKIE, Session
from lls.api.wire import Form
from lls.faults import BadLogin, BadRequest, Fault, Overloaded, TooManyRequests, Unauthenticated
from lls.licensing.account import User
from lls.licensing.instant import ClockState

_ATTRIBUTES: Final = "Path=/; Secure; HttpOnly; SameSite=Strict"
_GONE: Final = f"{COOKIE}=; {_ATTRIBUTES}; Max-Age=0"
_LOGIN, _REDEEM = Form(LoginForm), Form(RedeemForm)
_OWN_PASSWORD, _OWN_TOTP = Form(OwnPasswordForm), Form(OwnTotpForm)

_log = logging.getLogger(__name__)


async def login(request: web.Request) -> web.StreamResponse:
    """Begin a session."""
    edge = request.app[EDGE]
    form = await read_form(request, edge, _LOGIN)
    try:
        user = await _recognised(request, edge, form)
    except Fault as fault:
        _note_refusal(request, edge, form.user, fault)
        raise
    former = request.cookies.get(COOKIE)
    if former:
        edge.sessions.end(former)
    edge.metrics.logins.labels("ok").inc()
    _log.info("logged_in", extra={"fields": {"user": user.name, "address": edge.origin.address(request)}})
    return _begun(edge, user)


async def session(request: web.Request) -> web.StreamResponse:
    """Whose session it is."""
    edge = request.app[EDGE]
    user, mine = _self(request[CALLER])
    return answer(_session_view(edge, user, mine))


async def logout(request: web.Request) -> web.StreamResponse:
    """End the session."""
    request.app[EDGE].sessions.end(request.cookies.get(COOKIE, ""))
    response = done()
    response.headers["Set-Cookie"] = _GONE
    return response


async def change_password(request: web.Request) -> web.StreamResponse:
    """Another password of one's own."""
    edge = request.app[EDGE]
    user, _mine = _self(request[CALLER])
    form = await read_form(request, edge, _OWN_PASSWORD)
    judge_password(form.new_password, user=user.name)
    await _sure(request, edge, user, form.password)
    kept = await edge.passwords.hash(form.new_password)
    _unchanged(edge, user)
    await asyncio.shield(
        edge.writer.do(
            lambda ledger, now: ledger.accounts.set_password(user.name, kept, actor=f"user:{user.name}", now=now)
        )
    )
    return _begun(edge, _known(edge, user.name))


async def begin_totp(request: web.Request) -> web.StreamResponse:
    """A shared secret to put into an authenticator; nothing is changed yet."""
    user, _mine = _self(request[CALLER])
    return answer(enrolment_view(request.app[EDGE], user.name))


async def change_totp(request: web.Request) -> web.StreamResponse:
    """A second factor of one's own, from now on."""
    edge = request.app[EDGE]
    user, _mine = _self(request[CALLER])
    form = await read_form(request, edge, _OWN_TOTP)
    step = proved_step(edge, form.secret, form.totp)
    await _sure(request, edge, user, form.password)
    _unchanged(edge, user)
    await asyncio.shield(
        edge.writer.do(
            lambda ledger, now: ledger.accounts.set_totp(
                user.name, form.secret, step=step, actor=f"user:{user.name}", now=now
            )
        )
    )
    return _begun(edge, _known(edge, user.name))


async def redeem(request: web.Request) -> web.StreamResponse:
    """Set a password with a one-time token."""
    edge = request.app[EDGE]
    form = await read_form(request, edge, _REDEEM)
    judge_password(form.password, user=form.user.casefold())
    token = digest(form.token)
    try:
        _attempt(request, edge, form.user)
        user = edge.writer.ledger.accounts.user(form.user)
        if user is None or user.invite != token:
            raise BadLogin
        kept = await edge.passwords.hash(form.password)
        await asyncio.shield(
            edge.writer.do(lambda ledger, now: ledger.accounts.redeem(form.user, token, kept, now=now))
        )
    except Fault as fault:
        _note_refusal(request, edge, form.user, fault)
        raise
    edge.lockout.succeeded(form.user, address=edge.origin.address(request))
    return done()


# ---------------------------------------------------------------- parts


async def _recognised(request: web.Request, edge: Edge, form: LoginForm) -> User:
    _attempt(request, edge, form.user)
    user = edge.writer.ledger.accounts.user(form.user)
    right = await edge.passwords.fits(None if user is None else user.password, form.password)
    if user is None or not right:
        raise BadLogin
    if user.totp is not None:
        step = step_of(user.totp, form.totp or "", seconds=machine_seconds(edge))
        if step is None or step <= user.totp_step:
            raise BadLogin
        try:
            await asyncio.shield(edge.writer.do(lambda ledger, _now: ledger.accounts.use_step(user, step)))
        except Unauthenticated:
            raise BadLogin from None
    _unchanged(edge, user)
    edge.lockout.succeeded(user.name, address=edge.origin.address(request))
    return user


def _attempt(request: web.Request, edge: Edge, name: str) -> None:
    """Count before judging. Raises TooManyRequests."""
    elapsed, address = edge.writer.now().elapsed, edge.origin.address(request)
    edge.logins.fail(address, elapsed=elapsed)
    known = edge.writer.ledger.accounts.user(name) is not None
    edge.lockout.attempt(name, address=address, known=known, elapsed=elapsed)


async def _sure(request: web.Request, edge: Edge, user: User, password: str) -> None:
    """The password again, by the rules of a login. Raises BadLogin, TooManyRequests."""
    try:
        _attempt(request, edge, user.name)
        if not await edge.passwords.fits(user.password, password):
            raise BadLogin
    except Fault as fault:
        _note_refusal(request, edge, user.name, fault)
        raise
    edge.lockout.succeeded(user.name, address=edge.origin.address(request))


def _unchanged(edge: Edge, user: User) -> None:
    """Hashing takes a while: who was removed or changed meanwhile does not get in. Raises BadLogin."""
    known = edge.writer.ledger.accounts.user(user.name)
    if known is None or known.version != user.version:
        raise BadLogin


def _note_refusal(request: web.Request, edge: Edge, name: str, fault: Fault) -> None:
    outcome = {TooManyRequests: "paused", Overloaded: "busy"}.get(type(fault), "refused")
    edge.metrics.logins.labels(outcome).inc()
    if outcome != "refused":  # those may come in thousands
        return
    known = edge.writer.ledger.accounts.user(name)
    told = {"user": known.name if known else None, "address": edge.origin.address(request), "why": fault.code}
    _log.warning("login_refused", extra={"fields": told})


def _self(caller: Caller) -> tuple[User, Session]:
    if caller.user is None or caller.session is None:
        raise Unauthenticated
    return caller.user, caller.session


def _known(edge: Edge, name: str) -> User:
    user = edge.writer.ledger.accounts.user(name)
    if user is None:  # removed in the very next group
        raise Unauthenticated("The session has ended; log in again.")
    return user


def _begun(edge: Edge, user: User) -> web.Response:
    session_id, mine = edge.sessions.begin(user, elapsed=edge.writer.now().elapsed)
    response = answer(_session_view(edge, user, mine))
    response.headers["Set-Cookie"] = f"{COOKIE}={session_id}; {_ATTRIBUTES}"
    return response


def _session_view(edge: Edge, user: User, mine: Session) -> SessionView:
    left = edge.sessions.left(mine, elapsed=edge.writer.now().elapsed)
    return SessionView(user=user.name, role=user.role, token=mine.token, ends_in_seconds=left)


def enrolment_view(edge: Edge, name: str) -> EnrolmentView:
    """A new shared secret for somebody's authenticator."""
    secret = new_secret()
    return EnrolmentView(secret=secret, uri=enrolment(name, secret, server=edge.setting.name))


def proved_step(edge: Edge, secret: str, code: str) -> int:
    """The step whose code proves that the authenticator has the secret. Raises BadRequest."""
    if not is_secret(secret):
        raise BadRequest("The secret is not one that was enrolled here.")
    step = step_of(secret, code, seconds=machine_seconds(edge))
    if step is None:
        raise BadRequest(
            "That code is not of this secret and this minute; compare the clocks of the authenticator and the server."
        )
    return step


def machine_seconds(edge: Edge) -> float:
    """What the machine's own clock says: authenticators go by what people call the time, not by guarded time."""
    now = edge.writer.now()
    machine = now.wall.timestamp() - now.behind_seconds if now.state is ClockState.BEHIND else now.strict.timestamp()
    return max(0.0, machine)


# ---------------------------------------------------------------- routes

_SESSION: Final = "/v1/admin/session"
_KNOWN: Final = (*ALWAYS, "unauthenticated")
_JUDGED: Final = (*_KNOWN, *BODY, *WRITES, "too_many_requests")

ROUTES: Final = (
    Route(
        method="POST",
        path=_SESSION,
        handler=login,
        summary="Log in: begin a session, whose id is set as a cookie",
        answers={200: SessionView},
        form=LoginForm,
        faults=_JUDGED,
        by="login",
    ),
    Route(
        method="GET",
        path=_SESSION,
        handler=session,
        summary="Whose session it is, and the token that goes with changes",
        answers={200: SessionView},
        faults=_KNOWN,
        by="session",
    ),
    Route(
        method="DELETE",
        path=_SESSION,
        handler=logout,
        summary="Log out",
        answers={204: None},
        faults=_KNOWN,
        by="session",
    ),
    Route(
        method="PUT",
        path=f"{_SESSION}/password",
        handler=change_password,
        summary="Another password of one's own; every other session of the user ends",
        answers={200: SessionView},
        form=OwnPasswordForm,
        faults=_JUDGED,
        by="session",
    ),
    Route(
        method="POST",
        path=f"{_SESSION}/totp",
        handler=begin_totp,
        summary="A shared secret for an authenticator; not in force yet",
        answers={200: EnrolmentView},
        faults=_KNOWN,
        by="session",
    ),
    Route(
        method="PUT",
        path=f"{_SESSION}/totp",
        handler=change_totp,
        summary="A second factor of one's own, proved by a code",
        answers={200: SessionView},
        form=OwnTotpForm,
        faults=_JUDGED,
        by="session",
    ),
    Route(
        method="POST",
        path="/v1/admin/invitation",
        handler=redeem,
        summary="Set a password with a one-time token",
        answers={204: None},
        form=RedeemForm,
        faults=_JUDGED,
        by="login",
    ),
)
