"""``lls user`` and ``lls key``: a conversation over the admin socket; no password is ever an argument."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer

if TYPE_CHECKING:
    from tests.cli.conftest import Daemon, Lls

PASSWORD = "correct horse battery"
USER = {"name": "alice", "role": "admin", "state": "active", "totp": True, "made_at": "2026-11-21T07:00:00Z"}
INVITATION = {"user": "bob", "token": "llsi_AAAA", "until": "2026-11-22T07:00:00Z"}
KEY = {
    "key_id": "key_AAAAAAAAAAAAAAAAAAAAAA",
    "name": "grafana",
    "role": "viewer",
    "scopes": ["leases:read", "metrics"],
    "expires_at": "2027-12-31T00:00:00Z",
    "expired": False,
    "made_at": "2026-11-21T07:00:00Z",
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password on standard input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\nnot read\n"))


def heard(daemon: Daemon) -> list[tuple[str, str, Any]]:
    return [
        (one.method, one.target.removeprefix("/v1/admin/"), json.loads(one.body) if one.body else None)
        for one in daemon.heard
    ]


def test_a_user_is_added_with_the_password_of_standard_input(daemon: Daemon, lls: Lls, piped: None) -> None:
    daemon.says("POST users", {"user": USER, "invitation": None}, status=201)
    ended = lls("user", "add", "alice", "--role", "admin")
    assert (0, "alice may log in as admin.\n", "") == (ended.status, ended.out, ended.err)
    assert [("POST", "users", {"name": "alice", "role": "admin", "password": PASSWORD})] == heard(daemon)


@pytest.mark.parametrize(("second", "status"), [(PASSWORD, 0), ("something else", 1), ("", 1)])
def test_at_a_terminal_a_password_is_typed_twice_and_not_shown(
    daemon: Daemon, lls: Lls, monkeypatch: pytest.MonkeyPatch, second: str, status: int
) -> None:
    typed, hidden = [PASSWORD, second], []

    def prompt(*_words: object, **more: object) -> str:
        hidden.append(more["hide_input"])
        return typed.pop(0)

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(typer, "prompt", prompt)
    daemon.says("PUT users/alice/password", status=204)
    ended = lls("user", "password", "alice")
    assert (status, [True, True], 1 - status) == (ended.status, hidden, len(daemon.heard))
    assert PASSWORD not in ended.out + ended.err


def test_no_password_is_taken_from_the_arguments(daemon: Daemon, lls: Lls, piped: None) -> None:
    for words in (("add", "alice", PASSWORD, "--role", "admin"), ("password", "alice", "--password", PASSWORD)):
        assert 2 == lls("user", *words).status
    assert [] == daemon.heard


def test_nothing_on_standard_input_changes_nothing(daemon: Daemon, lls: Lls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    ended = lls("user", "password", "alice")
    assert (1, []) == (ended.status, daemon.heard)


def test_an_invitation_is_printed_once(daemon: Daemon, lls: Lls) -> None:
    daemon.says("POST users", {"user": USER, "invitation": INVITATION}, status=201)
    daemon.says("POST users/bob/invitation", INVITATION)
    first = lls("user", "add", "bob", "--role", "viewer", "--invite", "--hours", "2")
    second = lls("user", "password", "bob", "--invite")
    assert "llsi_AAAA" in first.out
    assert "llsi_AAAA" in second.out
    assert [{"name": "bob", "role": "viewer", "invite_hours": 2}, {"hours": 24}] == [one[2] for one in heard(daemon)]


def test_users_are_listed_for_people_and_for_programs(daemon: Daemon, lls: Lls) -> None:
    daemon.says("GET users", {"users": [USER]})
    assert ["alice", "admin", "active", "yes"] == lls("user", "list").out.splitlines()[1].split()[:4]
    assert {"users": [USER]} == json.loads(lls("user", "list", "--json").out)


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (("user", "role", "alice", "viewer"), ("PUT", "users/alice/role", {"role": "viewer"})),
        (("user", "totp", "alice", "--off"), ("DELETE", "users/alice/totp", {})),
        (("user", "remove", "alice"), ("DELETE", "users/alice", {})),
        (("key", "revoke", KEY["key_id"]), ("DELETE", f"keys/{KEY['key_id']}", {})),
    ],
)
def test_what_is_changed_is_one_call(
    daemon: Daemon, lls: Lls, words: tuple[str, ...], call: tuple[str, str, Any]
) -> None:
    daemon.says(f"{call[0]} {call[1]}", status=204)
    assert 0 == lls(*words).status
    assert [call] == heard(daemon)


def test_a_second_factor_is_set_once_a_code_of_it_came_back(
    daemon: Daemon, lls: Lls, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.says("POST users/alice/totp", {"secret": "JBSWY3DP", "uri": "otpauth://totp/x"})
    daemon.says("PUT users/alice/totp", status=204)
    monkeypatch.setattr(sys, "stdin", io.StringIO("123456\n"))
    ended = lls("user", "totp", "alice")
    assert 0 == ended.status
    assert "otpauth://totp/x" in ended.out
    assert ("PUT", "users/alice/totp", {"secret": "JBSWY3DP", "totp": "123456"}) == heard(daemon)[-1]


def test_a_key_is_made_and_printed_once(daemon: Daemon, lls: Lls) -> None:
    daemon.says("POST keys", {"key": KEY, "secret": "llsk_BBBB"}, status=201)
    daemon.says("GET keys", {"keys": [KEY]})
    words = ("key", "add", "grafana", "--role", "viewer", "--scope", "metrics", "--scope", "leases:read")
    made = lls(*words, "--expires", "2027-12-31")
    assert (0, "llsk_BBBB") == (made.status, made.out.splitlines()[0])
    body = {"name": "grafana", "role": "viewer", "scopes": ["metrics", "leases:read"]}
    assert [("POST", "keys", body | {"expires_at": "2027-12-31T00:00:00Z"})] == heard(daemon)
    assert "llsk_" not in lls("key", "list").out
    assert {"keys": [KEY]} == json.loads(lls("key", "list", "--json").out)


@pytest.mark.parametrize(
    "words",
    [
        ("user", "add", "alice", "--role", "god"),
        ("user", "role", "alice", "god"),
        ("user", "role", "../x", "admin"),
        ("user", "remove", ".."),
        ("key", "add", "x", "--role", "god"),
        ("key", "add", "x", "--role", "viewer", "--expires", "soon"),
        ("key", "revoke", "a/b"),
        ("user", "add", "alice", "--role", "viewer", "--invite", "--hours", "0"),
    ],
)
def test_wrong_words_are_wrong_usage_and_ask_nothing(daemon: Daemon, lls: Lls, words: tuple[str, ...]) -> None:
    assert 2 == lls(*words).status
    assert [] == daemon.heard


def test_a_refusal_is_one_sentence(daemon: Daemon, lls: Lls, piped: None) -> None:
    daemon.refuses("POST users", 409, "name_taken", "There is a user alice already.")
    ended = lls("user", "add", "alice", "--role", "admin")
    assert (1, "lls: There is a user alice already. [name_taken]\n") == (ended.status, ended.err)
