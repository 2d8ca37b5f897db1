"""Who may administer over the network: people with a password, programs with a key. Values only; ``accounts`` acts.

Rules
1. Three roles, each of which may what the one before may: viewer, operator, admin. Which call asks for which role is
   the edge's table.
2. A user's name is in lower case and plain ASCII, so that no two look alike.
3. ``version`` is the number of the journal line that changed the user last in a way that must end what was begun:
   password, role, second factor. So somebody of the same name who comes later is somebody else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

USER_PATTERN: Final = r"^[a-z0-9][a-z0-9._@-]{0,63}$(?!\n)"
_USER = re.compile(USER_PATTERN)


class Role(StrEnum):
    """What somebody may do; the order is that of power."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, least: Role) -> bool:
        """Whether this role may what that one may."""
        return _POWER[self] >= _POWER[least]


_POWER: Final = {role: power for power, role in enumerate(Role)}


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person. ``password`` is an argon2id hash, None until it is set; ``invite`` the digest of a one-time token."""

    name: str
    role: Role
    made_at: datetime
    password: str | None = field(default=None, repr=False)
    totp: str | None = field(default=None, repr=False)
    totp_step: int = 0
    invite: bytes | None = field(default=None, repr=False)
    invite_until: datetime | None = None
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A program's key: its digest alone is known. ``scopes`` narrow the role; none: whatever the role may."""

    key_id: str
    name: str
    role: Role
    made_at: datetime
    digest: bytes = field(repr=False)
    scopes: tuple[str, ...] = ()
    expires_at: datetime | None = None


def is_user_name(name: str) -> bool:
    """Whether it can be a user's name."""
    return _USER.fullmatch(name) is not None
