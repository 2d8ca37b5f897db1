"""The users and API keys of one server: how they come, change and go, each with its line in the journal.

Rules
1. Every change is one row and one ``AdminActed`` line in the same transaction; names enter the line as commitments.
2. What is asked here is the last commit's: a key that a group in flight has made opens nothing yet, and one that it
   revokes still opens until the store has taken that.
3. What ends a user's sessions gives it another ``version``. A login does not.
4. A step of the second factor is used once: it is written before the login is answered, so that neither a second
   login in the same moment nor one after a restart gets in with the code that somebody has seen.
5. The last administrator may go: the host's own socket remains.

It refuses to own hashing, tokens and sessions (``api``).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar

from lls.faults import NameTaken, NotFound, TooLarge, Unauthenticated
from lls.licensing.account import ApiKey, Role, User
from lls.licensing.instant import Now
from lls.licensing.journal import Kind
from lls.licensing.posting import Posting

T = TypeVar("T", User, ApiKey)

MOST_USERS: Final = 1_000
MOST_KEYS: Final = 1_000


class Accounts:
    """See the module. ``actor`` is who acts, ``now`` the writer's time."""

    def __init__(self, posting: Posting, *, users: Iterable[User], keys: Iterable[ApiKey]) -> None:
        self._posting = posting
        self._users = {user.name: user for user in users}
        self._keys = {key.key_id: key for key in keys}
        self._users_before: dict[str, User | None] = {}
        self._keys_before: dict[str, ApiKey | None] = {}
        self._by_digest = {key.digest: key.key_id for key in self._keys.values()}

    # ---------------------------------------------------------------- as of the last commit

    @property
    def users(self) -> list[User]:
        """Everybody, by name."""
        known = {**self._users, **self._users_before}
        return sorted((user for user in known.values() if user is not None), key=lambda user: user.name)

    @property
    def keys(self) -> list[ApiKey]:
        """Every key, the oldest first."""
        known = {**self._keys, **self._keys_before}
        return sorted((key for key in known.values() if key is not None), key=lambda key: (key.made_at, key.key_id))

    def user(self, name: str) -> User | None:
        """Somebody, if there."""
        return self._users_before[name] if name in self._users_before else self._users.get(name)

    def key_of(self, digest: bytes, *, at: datetime) -> ApiKey | None:
        """The key with this digest, unless it has expired."""
        key_id = self._by_digest.get(digest)
        if key_id is None:
            return None
        key = self._keys_before[key_id] if key_id in self._keys_before else self._keys.get(key_id)
        if key is None or not hmac.compare_digest(key.digest, digest):
            return None
        return None if key.expires_at is not None and key.expires_at <= at else key

    # ---------------------------------------------------------------- the group in flight

    def settle(self) -> None:
        """The store has taken the group."""
        self._users_before.clear()
        self._keys_before.clear()
        if len(self._by_digest) != len(self._keys):
            self._by_digest = {key.digest: key.key_id for key in self._keys.values()}

    def abandon(self) -> None:
        """The store has not taken the group."""
        for name, user in self._users_before.items():
            _put_back(self._users, name, user)
        for key_id, key in self._keys_before.items():
            _put_back(self._keys, key_id, key)
        self._posting.batch.users.clear()
        self._posting.batch.api_keys.clear()
        self.settle()

    # ---------------------------------------------------------------- verbs: users

    def add_user(self, user: User, *, actor: str, now: Now) -> None:
        """Somebody new. Raises NameTaken, TooLarge."""
        if user.name in self._users:
            raise NameTaken(f"There is a user {user.name} already.")
        if len(self._users) >= MOST_USERS:
            raise TooLarge(f"There are {MOST_USERS} users; remove one first.")
        self._write_user(user.name, replace(user, version=self._next))
        self._note_user("user_added", user.name, actor, now, role=user.role.value)

    def set_password(self, name: str, password: str, *, actor: str, now: Now) -> None:
        """Another password; a token that was to set one is void. Raises NotFound."""
        user = self._known(name)
        changed = replace(user, password=password, invite=None, invite_until=None, version=self._next)
        self._write_user(name, changed)
        self._note_user("user_password_set", name, actor, now)

    def invite(self, name: str, token: bytes, *, until: datetime, actor: str, now: Now) -> None:
        """Let the user set a password once; the present one opens nothing any more. Raises NotFound."""
        user = self._known(name)
        self._write_user(name, replace(user, password=None, invite=token, invite_until=until, version=self._next))
        self._note_user("user_invited", name, actor, now)

    def redeem(self, name: str, token: bytes, password: str, *, now: Now) -> None:
        """Set the password with the one-time token. Raises Unauthenticated."""
        user = self._users.get(name)
        if user is None or user.invite is None or not hmac.compare_digest(user.invite, token):
            raise Unauthenticated(BAD_INVITE)
        # The stricter of both times: an uncertain clock must not lengthen a token's life.
        if user.invite_until is None or user.invite_until <= max(now.wall, now.strict):
            raise Unauthenticated(BAD_INVITE)
        self.set_password(name, password, actor=f"user:{name}", now=now)

    def set_role(self, name: str, role: Role, *, actor: str, now: Now) -> None:
        """Another role; the same again changes nothing. Raises NotFound."""
        user = self._known(name)
        if user.role is role:
            return
        self._write_user(name, replace(user, role=role, version=self._next))
        self._note_user("user_role_set", name, actor, now, role=role.value)

    def set_totp(self, name: str, secret: str | None, *, step: int = 0, actor: str, now: Now) -> None:
        """A second factor from now on, or none; ``step`` is the one that proved it. Raises NotFound."""
        user = self._known(name)
        self._write_user(name, replace(user, totp=secret, totp_step=step, version=self._next))
        self._note_user("user_totp_set" if secret else "user_totp_removed", name, actor, now)

    def remove_user(self, name: str, *, actor: str, now: Now) -> None:
        """Gone, the last administrator, too. Raises NotFound."""
        self._known(name)
        self._write_user(name, None)
        self._note_user("user_removed", name, actor, now)

    def use_step(self, user: User, step: int) -> None:
        """Rule 4: no line, because nothing is changed that anybody could see. Raises Unauthenticated."""
        known = self._users.get(user.name)
        if known is None or known.version != user.version or step <= known.totp_step:
            raise Unauthenticated
        self._write_user(user.name, replace(known, totp_step=step))

    # ---------------------------------------------------------------- verbs: keys

    def add_key(self, key: ApiKey, *, actor: str, now: Now) -> None:
        """A new key. Raises TooLarge."""
        if len(self._keys) >= MOST_KEYS:
            raise TooLarge(f"There are {MOST_KEYS} API keys; revoke those that nobody uses.")
        self._write_key(key.key_id, key)
        name = self._posting.name("key", key.name)
        self._note("key_added", actor, now, key_id=key.key_id, key=name, role=key.role.value)

    def revoke_key(self, key_id: str, *, actor: str, now: Now) -> None:
        """It opens nothing any more. Raises NotFound."""
        if key_id not in self._keys:
            raise NotFound("There is no API key of that id; `lls key list` shows them.")
        self._write_key(key_id, None)
        self._note("key_revoked", actor, now, key_id=key_id)

    # ---------------------------------------------------------------- parts

    def _known(self, name: str) -> User:
        user = self._users.get(name)
        if user is None:
            raise NotFound("There is no user of that name; `lls user list` shows them.")
        return user

    @property
    def _next(self) -> int:
        return self._posting.batch.head.seq + 1

    def _write_user(self, name: str, user: User | None) -> None:
        self._users_before.setdefault(name, self._users.get(name))
        _put_back(self._users, name, user)
        self._posting.batch.users[name] = user

    def _write_key(self, key_id: str, key: ApiKey | None) -> None:
        self._keys_before.setdefault(key_id, self._keys.get(key_id))
        _put_back(self._keys, key_id, key)
        if key is not None:
            self._by_digest[key.digest] = key_id
        self._posting.batch.api_keys[key_id] = key

    def _note_user(self, act: str, name: str, actor: str, now: Now, **told: str) -> None:
        self._note(act, actor, now, user=self._posting.name("user", name), **told)

    def _note(self, act: str, actor: str, now: Now, **told: str) -> None:
        data = {"act": act, "actor": self._posting.name("actor", actor), **told}
        self._posting.post(Kind.ADMIN_ACTED, data, now)


BAD_INVITE: Final = "That token is not valid: it was used, has expired, or is not this user's; ask for a new one."


def _put_back(kept: dict[str, T], name: str, value: T | None) -> None:
    if value is None:
        kept.pop(name, None)
    else:
        kept[name] = value
