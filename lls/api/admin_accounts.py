"""Users and API keys, as an administrator manages them: on the admin socket, and by people who have logged in.

Rules
1. A password is hashed before the writer is asked; a token is made here, shown once, and kept as its digest.
2. A second factor is in force once a code of it came back: a secret that no authenticator holds locks its user out.
3. The way back for whoever has lost a password or an authenticator is the host's shell: the admin socket asks for
   neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from aiohttp import web

from lls.api.account_wire import (
    EnrolmentView,
    InvitationForm,
    InvitationView,
    KeyAddedView,
    KeyForm,
    KeysView,
    KeyView,
    PasswordForm,
    RoleForm,
    TotpForm,
    UserAddedView,
    UserForm,
    UsersView,
    UserView,
)
from lls.api.admin import ALWAYS, BODY, WRITES
from lls.api.admin_session import enrolment_view, proved_step
from lls.api.credentials import INVITE_PREFIX, KEY_PREFIX, digest, judge_password, new_key_id, new_token
from lls.api.edge import ACTOR, EDGE, Edge, Route, answer, created, done, instant, read_form
from lls.api.roles import SCOPES
from lls.api.wire import Form
from lls.faults import BadRequest, NotFound, RefusedDocument
from lls.licensing.account import ApiKey, User, is_user_name
from lls.licensing.fields import read_instant
from lls.licensing.instant import Now
from lls.licensing.ledger import Ledger

_USER, _PASSWORD, _INVITATION = Form(UserForm), Form(PasswordForm), Form(InvitationForm)
_ROLE, _TOTP, _KEY = Form(RoleForm), Form(TotpForm), Form(KeyForm)


async def users(request: web.Request) -> web.StreamResponse:
    """Who may log in."""
    edge = request.app[EDGE]
    now = edge.writer.now()
    return answer(UsersView(users=[_user_view(user, now) for user in edge.writer.ledger.accounts.users]))


async def add_user(request: web.Request) -> web.StreamResponse:
    """Somebody new, with a password or an invitation."""
    edge, actor = request.app[EDGE], request[ACTOR]
    form = await read_form(request, edge, _USER)
    now, invitation = edge.writer.now(), None
    user = User(name=form.name, role=form.role, made_at=now.wall)
    if form.password is not None:
        judge_password(form.password, user=form.name)
        user = User(name=form.name, role=form.role, made_at=now.wall, password=await edge.passwords.hash(form.password))
    else:
        invitation = _invitation(form.name, form.invite_hours or 1, now)
        token = digest(invitation.token)
        user = User(name=form.name, role=form.role, made_at=now.wall, invite=token, invite_until=invitation.until)
    await _carried_out(edge, lambda ledger, at: ledger.accounts.add_user(user, actor=actor, now=at))
    return created(UserAddedView(user=_user_view(user, now), invitation=invitation))


async def set_password(request: web.Request) -> web.StreamResponse:
    """Another password; the user's sessions end."""
    edge, actor, name = request.app[EDGE], request[ACTOR], _name(request)
    form = await read_form(request, edge, _PASSWORD)
    judge_password(form.password, user=name)
    kept = await edge.passwords.hash(form.password)
    await _carried_out(edge, lambda ledger, now: ledger.accounts.set_password(name, kept, actor=actor, now=now))
    edge.lockout.forgive(name)
    return done()


async def invite(request: web.Request) -> web.StreamResponse:
    """A one-time token for a new password; the present one opens nothing any more."""
    edge, actor, name = request.app[EDGE], request[ACTOR], _name(request)
    form = await read_form(request, edge, _INVITATION)
    made = _invitation(name, form.hours, edge.writer.now())
    token, until = digest(made.token), made.until
    await _carried_out(edge, lambda ledger, now: ledger.accounts.invite(name, token, until=until, actor=actor, now=now))
    edge.lockout.forgive(name)
    return answer(made)


async def set_role(request: web.Request) -> web.StreamResponse:
    """Another role; the user's sessions end."""
    edge, actor, name = request.app[EDGE], request[ACTOR], _name(request)
    form = await read_form(request, edge, _ROLE)
    await _carried_out(edge, lambda ledger, now: ledger.accounts.set_role(name, form.role, actor=actor, now=now))
    return done()


async def begin_totp(request: web.Request) -> web.StreamResponse:
    """A shared secret for somebody's authenticator; nothing is changed yet."""
    edge, name = request.app[EDGE], _name(request)
    if edge.writer.ledger.accounts.user(name) is None:
        raise NotFound(NO_USER)
    return answer(enrolment_view(edge, name))


async def set_totp(request: web.Request) -> web.StreamResponse:
    """A second factor from now on; the user's sessions end."""
    edge, actor, name = request.app[EDGE], request[ACTOR], _name(request)
    form = await read_form(request, edge, _TOTP)
    step = proved_step(edge, form.secret, form.totp)
    await _carried_out(
        edge, lambda ledger, now: ledger.accounts.set_totp(name, form.secret, step=step, actor=actor, now=now)
    )
    return done()


async def remove_totp(request: web.Request) -> web.StreamResponse:
    """No second factor any more; the user's sessions end."""
    edge, actor, name = request.app[EDGE], request[ACTOR], _name(request)
    await _carried_out(edge, lambda ledger, now: ledger.accounts.set_totp(name, None, actor=actor, now=now))
    return done()


async def remove_user(request: web.Request) -> web.StreamResponse:
    """Gone, with every session."""
    edge, actor, name = request.app[EDGE], request[ACTOR], _name(request)
    await _carried_out(edge, lambda ledger, now: ledger.accounts.remove_user(name, actor=actor, now=now))
    return done()


async def keys(request: web.Request) -> web.StreamResponse:
    """Every API key, without what opens."""
    edge = request.app[EDGE]
    now = edge.writer.now()
    return answer(KeysView(keys=[_key_view(key, now) for key in edge.writer.ledger.accounts.keys]))


async def add_key(request: web.Request) -> web.StreamResponse:
    """A new API key; this is the only time that it is shown."""
    edge, actor = request.app[EDGE], request[ACTOR]
    form = await read_form(request, edge, _KEY)
    now, secret = edge.writer.now(), new_token(KEY_PREFIX)
    key = ApiKey(
        key_id=new_key_id(),
        name=form.name,
        digest=digest(secret),
        role=form.role,
        scopes=_scopes(form.scopes),
        expires_at=_expiry(form.expires_at, now),
        made_at=now.wall,
    )
    await _carried_out(edge, lambda ledger, at: ledger.accounts.add_key(key, actor=actor, now=at))
    return created(KeyAddedView(key=_key_view(key, now), secret=secret))


async def revoke_key(request: web.Request) -> web.StreamResponse:
    """It opens nothing any more."""
    edge, actor, key_id = request.app[EDGE], request[ACTOR], request.match_info["key_id"]
    await _carried_out(edge, lambda ledger, now: ledger.accounts.revoke_key(key_id, actor=actor, now=now))
    return done()


# ---------------------------------------------------------------- parts

NO_USER: Final = "There is no user of that name; `lls user list` shows them."


async def _carried_out(edge: Edge, verb: Callable[[Ledger, Now], None]) -> None:
    """What was asked for is done even if the caller has gone."""
    await asyncio.shield(edge.writer.do(verb))


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    if not is_user_name(name):
        raise NotFound(NO_USER)
    return name


def _invitation(name: str, hours: int, now: Now) -> InvitationView:
    until = (now.wall + timedelta(hours=hours)).replace(microsecond=0)
    return InvitationView(user=name, token=new_token(INVITE_PREFIX), until=until)


def _scopes(given: list[str]) -> tuple[str, ...]:
    unknown = sorted(set(given) - SCOPES)
    if unknown:
        raise BadRequest(f"There is no scope {unknown[0]}; there are {', '.join(sorted(SCOPES))}.")
    return tuple(sorted(set(given)))


def _expiry(text: str | None, now: Now) -> datetime | None:
    if text is None:
        return None
    try:
        at = read_instant(text, place="expires_at")
    except RefusedDocument as fault:
        raise BadRequest(fault.detail) from None
    if at <= now.wall:
        raise BadRequest(f"expires_at is past; it is {instant(now.wall)} here.")
    return at


def _user_view(user: User, now: Now) -> UserView:
    state = "active"
    if user.password is None:
        state = "invited" if user.invite_until is not None and user.invite_until > now.wall else "expired"
    return UserView(
        name=user.name,
        role=user.role,
        state=state,
        totp=user.totp is not None,
        made_at=user.made_at,
        invite_until=user.invite_until,
    )


def _key_view(key: ApiKey, now: Now) -> KeyView:
    return KeyView(
        key_id=key.key_id,
        name=key.name,
        role=key.role,
        scopes=list(key.scopes),
        expires_at=key.expires_at,
        expired=key.expires_at is not None and key.expires_at <= max(now.wall, now.strict),
        made_at=key.made_at,
    )


# ---------------------------------------------------------------- routes

_ONE_USER: Final = "/v1/admin/users/{name}"
_WRITES: Final = (*ALWAYS, *WRITES, "not_found")
_FORMS: Final = (*_WRITES, *BODY)

ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/users",
        handler=users,
        summary="Who may log in",
        answers={200: UsersView},
        faults=ALWAYS,
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/users",
        handler=add_user,
        summary="A new user, with a password or an invitation",
        answers={201: UserAddedView},
        form=UserForm,
        faults=(*ALWAYS, *BODY, *WRITES, "name_taken"),
        by="administrator",
    ),
    Route(
        method="DELETE",
        path=_ONE_USER,
        handler=remove_user,
        summary="Remove a user; the last administrator, too",
        answers={204: None},
        faults=_WRITES,
        by="administrator",
    ),
    Route(
        method="PUT",
        path=f"{_ONE_USER}/password",
        handler=set_password,
        summary="Another password; the user's sessions end",
        answers={204: None},
        form=PasswordForm,
        faults=_FORMS,
        by="administrator",
    ),
    Route(
        method="POST",
        path=f"{_ONE_USER}/invitation",
        handler=invite,
        summary="A one-time token that sets a password; the present one opens nothing any more",
        answers={200: InvitationView},
        form=InvitationForm,
        faults=_FORMS,
        by="administrator",
    ),
    Route(
        method="PUT",
        path=f"{_ONE_USER}/role",
        handler=set_role,
        summary="Another role; the user's sessions end",
        answers={204: None},
        form=RoleForm,
        faults=_FORMS,
        by="administrator",
    ),
    Route(
        method="POST",
        path=f"{_ONE_USER}/totp",
        handler=begin_totp,
        summary="A shared secret for the user's authenticator; not in force yet",
        answers={200: EnrolmentView},
        faults=(*ALWAYS, "not_found"),
        by="administrator",
    ),
    Route(
        method="PUT",
        path=f"{_ONE_USER}/totp",
        handler=set_totp,
        summary="A second factor, proved by a code; the user's sessions end",
        answers={204: None},
        form=TotpForm,
        faults=_FORMS,
        by="administrator",
    ),
    Route(
        method="DELETE",
        path=f"{_ONE_USER}/totp",
        handler=remove_totp,
        summary="No second factor any more; the user's sessions end",
        answers={204: None},
        faults=_WRITES,
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/keys",
        handler=keys,
        summary="Every API key",
        answers={200: KeysView},
        faults=ALWAYS,
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/keys",
        handler=add_key,
        summary="A new API key, shown once",
        answers={201: KeyAddedView},
        form=KeyForm,
        faults=(*ALWAYS, *BODY, *WRITES),
        by="administrator",
    ),
    Route(
        method="DELETE",
        path="/v1/admin/keys/{key_id}",
        handler=revoke_key,
        summary="Revoke an API key",
        answers={204: None},
        faults=_WRITES,
        by="administrator",
    ),
)
