"""``lls user``: who may log in over the network, with which role; passwords, invitations, second factors.

A password is typed at a prompt or comes as the first line of standard input, never as an argument: arguments can be
read by everybody on the machine. All of it goes over the admin socket, so it is also the way back for whoever has lost
a password or an authenticator.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias

import typer

from lls.cli import show
from lls.cli.admin import Admin, Document, admin
from lls.cli.frame import AsJson, Failure, noun
from lls.cli.show import column

app = noun("user", "People who may administer over the network.")

ROLES: Final = ("viewer", "operator", "admin")
_MOST_LINE: Final = 4_096

Name: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="In lower case: a-z, 0-9, . _ @ -")]
RoleOption: TypeAlias = Annotated[
    str, typer.Option("--role", metavar="ROLE", help="viewer reads; operator runs it; admin manages who may.")
]
Invite: TypeAlias = Annotated[
    bool, typer.Option("--invite", help="Print a one-time token instead, with which the user sets a password.")
]
Hours: TypeAlias = Annotated[int, typer.Option(min=1, max=168, help="How long the token is good.")]


@app.command()
def add(
    ctx: typer.Context,
    name: Name,
    role: RoleOption,
    *,
    invite: Invite = False,
    hours: Hours = 24,
    as_json: AsJson = False,
) -> None:
    """Add a user. The password is asked for, or read from standard input."""
    judge_role(role)
    daemon = admin(ctx)
    added = add_user(daemon, name, role=role, password=None if invite else asked_password(), hours=hours)
    if as_json:
        show.document(added)
        return
    show.say(f"{name} may log in as {role}.")
    if invite:
        _read_out(added.get("invitation") or {})


def add_user(daemon: Admin, name: str, *, role: str, password: str | None, hours: int = 24) -> Document:
    """A new user, with a password or (None) an invitation: the daemon's answer."""
    way: Document = {"invite_hours": hours} if password is None else {"password": password}
    return daemon.tell("POST", "users", {"name": name, "role": role, **way})


@app.command("list")
def list_command(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List who may log in."""
    answer = admin(ctx).get("users")
    if as_json:
        show.document(answer)
        return
    show.table(answer.get("users", []), _USERS, empty="There are no users: lls user add NAME --role admin makes one.")


@app.command()
def password(
    ctx: typer.Context, name: Name, *, invite: Invite = False, hours: Hours = 24, as_json: AsJson = False
) -> None:
    """Set a user's password. It is asked for, or read from standard input; the user's sessions end."""
    daemon = admin(ctx)
    if not invite:
        daemon.send("PUT", _of(name, "password"), {"password": asked_password()})
        if as_json:
            show.document({"user": name})
        else:
            show.say(f"The password of {name} is set; whoever was logged in as {name} has to log in again.")
        return
    made = daemon.tell("POST", _of(name, "invitation"), {"hours": hours})
    if as_json:
        show.document(made)
    else:
        _read_out(made)


@app.command()
def role(ctx: typer.Context, name: Name, role: Annotated[str, typer.Argument(metavar="ROLE")]) -> None:
    """Give a user another role; the user's sessions end."""
    judge_role(role)
    admin(ctx).send("PUT", _of(name, "role"), {"role": role})
    show.say(f"{name} is {role} now.")


@app.command()
def totp(
    ctx: typer.Context,
    name: Name,
    *,
    off: Annotated[bool, typer.Option("--off", help="Take the second factor away.")] = False,
) -> None:
    """Give a user a second factor: one-time codes of an authenticator. The user's sessions end."""
    daemon = admin(ctx)
    if off:
        daemon.send("DELETE", _of(name, "totp"), {})
        show.say(f"{name} logs in without a code now.")
        return
    made = daemon.tell("POST", _of(name, "totp"), {})
    show.say(str(made.get("uri", "")))
    show.say(f"Secret, to type in: {made.get('secret', '')}")
    show.say("Put it into the authenticator; it is not shown again.")
    code = _line("Code that it shows now: ", hidden=False)
    daemon.send("PUT", _of(name, "totp"), {"secret": made.get("secret"), "totp": code})
    show.say(f"{name} logs in with a code from now on.")


@app.command()
def remove(ctx: typer.Context, name: Name) -> None:
    """Remove a user; the user's sessions end. The last administrator may go, too: the admin socket stays."""
    admin(ctx).send("DELETE", _of(name), {})
    show.say(f"{name} is removed.")


def asked_password() -> str:
    """A password from the terminal, typed twice, or the first line of standard input."""
    given = _line("Password: ", hidden=True)
    if sys.stdin.isatty() and _line("Again: ", hidden=True) != given:
        raise Failure("The two passwords are not the same; nothing was changed.")
    return given


def judge_role(role: str) -> None:
    """Usage error for what is no role."""
    if role not in ROLES:
        raise typer.BadParameter(f"must be one of {', '.join(ROLES)}.", param_hint="ROLE")


def _line(prompt: str, *, hidden: bool) -> str:
    if sys.stdin.isatty():
        given = str(typer.prompt(prompt.rstrip(": "), hide_input=hidden, err=True, default="", show_default=False))
    else:
        given = sys.stdin.readline(_MOST_LINE).rstrip("\r\n")
    if not given:
        raise Failure("Nothing was typed, so nothing was changed.")
    return given


def _of(name: str, part: str = "") -> str:
    if not name.strip() or "/" in name or name in (".", ".."):
        raise typer.BadParameter("is not a user's name; lls user list shows them.", param_hint="NAME")
    return f"users/{name}/{part}" if part else f"users/{name}"


def _read_out(made: Mapping[str, Any]) -> None:
    show.say(f"One-time token: {made.get('token', '')}")
    show.say(f"It sets a password once, until {show.instant(made.get('until'))}, and is not shown again.")


_USERS: Final = (
    column("USER", "name", whole=True),
    column("ROLE", "role"),
    column("STATE", "state"),
    column("CODE", lambda row: bool(row.get("totp"))),
    column("SINCE", lambda row: show.instant(row.get("made_at"))),
)
