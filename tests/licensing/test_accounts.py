"""Users and keys in the ledger: what the last commit says counts, and each change has its line."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from lls.faults import NameTaken, NotFound, TooLarge, Unauthenticated
from lls.licensing import accounts
from lls.licensing.account import ApiKey, Role, User, is_user_name
from lls.licensing.accounts import Accounts
from lls.licensing.changes import Loaded
from lls.licensing.journal import Head, Kind
from lls.licensing.posting import Posting
from tests.ledgers import T0, at, commit_to

ALICE = User(name="alice", role=Role.ADMIN, made_at=T0, password="$argon2id$…")
KEY = ApiKey(key_id="key_1", name="grafana", role=Role.VIEWER, made_at=T0, digest=b"d" * 32)


@pytest.fixture
def posting() -> Posting:
    return Posting(Head(), {}, commit_to=commit_to)


@pytest.fixture
def kept(posting: Posting) -> Accounts:
    """With alice and a key, committed."""
    one = Accounts(posting, users=[], keys=[])
    one.add_user(ALICE, actor="root", now=at())
    one.add_key(KEY, actor="root", now=at())
    settle(one, posting)
    return one


def settle(one: Accounts, posting: Posting) -> None:
    one.settle()
    posting.settle()


def test_the_roles_have_one_order() -> None:
    assert [True, False, False, True, True, False, True, True, True] == [
        mine.covers(least) for mine in Role for least in Role
    ]


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("alice", True),
        ("a.b_c@d-1", True),
        ("Alice", False),
        ("älice", False),
        ("a" * 65, False),
        ("", False),
        ("-a", False),
        ("alice\n", False),
        ("..", False),
        ("a/b", False),
    ],
)
def test_a_users_name_is_plain_and_in_lower_case(name: str, fits: bool) -> None:
    assert fits == is_user_name(name)


def test_a_group_in_flight_opens_nothing_and_closes_nothing_yet(kept: Accounts, posting: Posting) -> None:
    kept.add_user(replace(ALICE, name="bob"), actor="root", now=at())
    kept.remove_user("alice", actor="root", now=at())
    kept.revoke_key("key_1", actor="root", now=at())
    kept.add_key(replace(KEY, key_id="key_2", digest=b"e" * 32), actor="root", now=at())
    assert (None, ["alice"], ["key_1"]) == (
        kept.user("bob"),
        [user.name for user in kept.users],
        [key.key_id for key in kept.keys],
    )
    assert kept.key_of(b"d" * 32, at=T0)
    assert kept.key_of(b"e" * 32, at=T0) is None
    settle(kept, posting)
    assert (["bob"], ["key_2"]) == ([user.name for user in kept.users], [key.key_id for key in kept.keys])
    assert kept.key_of(b"d" * 32, at=T0) is None
    assert kept.key_of(b"e" * 32, at=T0)


def test_a_group_that_failed_leaves_everything_as_it_was(kept: Accounts, posting: Posting) -> None:
    before = kept.users, kept.keys
    kept.set_role("alice", Role.VIEWER, actor="root", now=at())
    kept.set_password("alice", "$other", actor="root", now=at())
    kept.revoke_key("key_1", actor="root", now=at())
    kept.add_user(replace(ALICE, name="bob"), actor="root", now=at())
    kept.abandon()
    assert before == (kept.users, kept.keys)
    assert ({}, {}) == (posting.batch.users, posting.batch.api_keys)
    assert kept.key_of(b"d" * 32, at=T0)


def test_every_change_has_its_line_and_no_name_in_it(kept: Accounts, posting: Posting) -> None:
    kept.invite("alice", b"t" * 32, until=T0 + timedelta(hours=1), actor="user:chief", now=at())
    kept.redeem("alice", b"t" * 32, "$new", now=at())
    kept.set_totp("alice", "SECRET", step=7, actor="user:alice", now=at())
    lines = [(entry.kind, entry.data["act"], entry.data["actor"]) for entry in posting.batch.entries]
    chief, alice = commit_to("user:chief"), commit_to("user:alice")
    assert [
        (Kind.ADMIN_ACTED, "user_invited", chief),
        (Kind.ADMIN_ACTED, "user_password_set", alice),
        (Kind.ADMIN_ACTED, "user_totp_set", alice),
    ] == lines
    assert {commit_to("alice")} == {entry.data["user"] for entry in posting.batch.entries}
    assert not any(b"alice" in entry.line or b"SECRET" in entry.line for entry in posting.batch.entries)


def test_every_change_that_ends_sessions_gives_another_version_and_a_login_does_not(kept: Accounts) -> None:
    def version() -> int:
        kept.settle()
        user = kept.user("alice")
        assert user is not None
        return user.version

    seen = [version()]
    kept.set_password("alice", "$2", actor="root", now=at())
    seen.append(version())
    kept.set_role("alice", Role.VIEWER, actor="root", now=at())
    seen.append(version())
    kept.set_totp("alice", "S", step=3, actor="root", now=at())
    seen.append(version())
    kept.invite("alice", b"t", until=T0, actor="root", now=at())
    seen.append(version())
    kept.remove_user("alice", actor="root", now=at())
    kept.add_user(ALICE, actor="root", now=at())
    seen.append(version())
    assert seen == sorted(set(seen))
    user = kept.user("alice")
    assert user is not None
    kept.use_step(user, 4)
    assert seen[-1] == version()


@pytest.mark.parametrize("step", [0, 6, 7])
def test_a_step_is_used_once_and_none_before_it(kept: Accounts, posting: Posting, step: int) -> None:
    kept.set_totp("alice", "S", step=7, actor="root", now=at())
    settle(kept, posting)
    user = kept.user("alice")
    assert user is not None
    with pytest.raises(Unauthenticated):
        kept.use_step(user, step)
    kept.use_step(user, 8)
    with pytest.raises(Unauthenticated):
        kept.use_step(user, 8)
    assert ([], False) == (posting.batch.entries, posting.batch.empty)


def test_an_invitation_is_good_once_and_until_its_hour(kept: Accounts) -> None:
    kept.invite("alice", b"t" * 32, until=T0 + timedelta(seconds=60), actor="root", now=at())
    for name, token, seconds in (("alice", b"u" * 32, 0), ("bob", b"t" * 32, 0), ("alice", b"t" * 32, 60)):
        with pytest.raises(Unauthenticated):
            kept.redeem(name, token, "$new", now=at(seconds))
    kept.redeem("alice", b"t" * 32, "$new", now=at(59))
    with pytest.raises(Unauthenticated):
        kept.redeem("alice", b"t" * 32, "$newer", now=at(59))


def test_a_key_opens_until_its_end_and_not_at_it(posting: Posting) -> None:
    one = Accounts(posting, users=[], keys=[replace(KEY, expires_at=T0 + timedelta(days=1))])
    assert one.key_of(b"d" * 32, at=T0 + timedelta(days=1, microseconds=-1))
    assert one.key_of(b"d" * 32, at=T0 + timedelta(days=1)) is None


def test_what_is_not_there_or_there_already_or_too_many_is_refused(
    kept: Accounts, posting: Posting, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NameTaken):
        kept.add_user(ALICE, actor="root", now=at())
    for verb in (kept.remove_user, kept.revoke_key):
        with pytest.raises(NotFound):
            verb("nobody", actor="root", now=at())
    monkeypatch.setattr(accounts, "MOST_USERS", 1)
    monkeypatch.setattr(accounts, "MOST_KEYS", 1)
    with pytest.raises(TooLarge):
        kept.add_user(replace(ALICE, name="bob"), actor="root", now=at())
    with pytest.raises(TooLarge):
        kept.add_key(replace(KEY, key_id="key_2"), actor="root", now=at())
    assert posting.batch.empty


def test_nothing_secret_stands_in_a_users_or_keys_own_words() -> None:
    shown = repr(replace(ALICE, totp="SECRET", invite=b"token")) + repr(KEY)
    assert not any(secret in shown for secret in ("argon2", "SECRET", "token", "dddd"))
    assert ((), ()) == (Loaded().users, Loaded().api_keys)
