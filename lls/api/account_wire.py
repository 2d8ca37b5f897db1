"""What people send and see of sessions, users and API keys. Secrets stand in no ``repr``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta, Struct

from lls.api.wire import Instant
from lls.licensing.account import USER_PATTERN, Role

MOST_SCOPES: Final = 50
MOST_HOURS: Final = 168

UserName = Annotated[str, Meta(pattern=USER_PATTERN, description="lower case: a-z, 0-9, . _ @ -; at most 64")]
AnyName = Annotated[str, Meta(min_length=1, max_length=200)]
Password = Annotated[str, Meta(min_length=1, max_length=1_024, description="12 to 256 characters")]
Code = Annotated[str, Meta(pattern=r"^[0-9]{6}$(?!\n)", description="the authenticator's six digits")]
Token = Annotated[str, Meta(min_length=1, max_length=100)]
Base32 = Annotated[str, Meta(pattern=r"^[A-Z2-7]{32,64}$(?!\n)", description="as it was enrolled, in base32")]
Hours = Annotated[int, Meta(ge=1, le=MOST_HOURS)]
KeyName = Annotated[str, Meta(min_length=1, max_length=100)]
Scope = Annotated[str, Meta(max_length=50, pattern=r"^[a-z]+(:read)?$(?!\n)")]


class _Secret(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A form of which nothing is shown."""

    def __repr__(self) -> str:
        """Without its values."""
        return f"{type(self).__name__}(…)"


class LoginForm(_Secret, kw_only=True, frozen=True):
    """``POST /v1/admin/session``."""

    user: AnyName
    password: Password
    totp: Code | None = None


class OwnPasswordForm(_Secret, kw_only=True, frozen=True):
    """``PUT /v1/admin/session/password``."""

    password: Password
    new_password: Password


class OwnTotpForm(_Secret, kw_only=True, frozen=True):
    """``PUT /v1/admin/session/totp``."""

    password: Password
    secret: Base32
    totp: Code


class RedeemForm(_Secret, kw_only=True, frozen=True):
    """``POST /v1/admin/invitation``."""

    user: AnyName
    token: Token
    password: Password


class UserForm(_Secret, kw_only=True, frozen=True):
    """``POST /v1/admin/users``: with a password, or with an invitation that lasts so many hours."""

    name: UserName
    role: Role
    password: Password | None = None
    invite_hours: Hours | None = None

    def __post_init__(self) -> None:
        """One of the two."""
        if (self.password is None) == (self.invite_hours is None):
            raise ValueError("give either `password` or `invite_hours`")


class PasswordForm(_Secret, kw_only=True, frozen=True):
    """``PUT /v1/admin/users/{name}/password``."""

    password: Password


class TotpForm(_Secret, kw_only=True, frozen=True):
    """``PUT /v1/admin/users/{name}/totp``."""

    secret: Base32
    totp: Code


class InvitationForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/admin/users/{name}/invitation``."""

    hours: Hours = 24


class RoleForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``PUT /v1/admin/users/{name}/role``."""

    role: Role


class KeyForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/admin/keys``."""

    name: KeyName
    role: Role
    scopes: Annotated[list[Scope], Meta(max_length=MOST_SCOPES)] = []
    expires_at: Instant | None = None

    def __post_init__(self) -> None:
        """The name is shown in lists."""
        if not self.name.isprintable():
            raise ValueError("`name` holds a character that cannot be printed")


# ---------------------------------------------------------------- answers


class SessionView(Struct, kw_only=True, frozen=True):
    """Who is logged in. ``token`` goes as X-LLS-Token with every request that changes something."""

    user: str
    role: Role
    token: str
    ends_in_seconds: int


class EnrolmentView(Struct, kw_only=True, frozen=True):
    """A shared secret that is not in force yet: it is once a code of it was sent back."""

    secret: str
    uri: str


class UserView(Struct, kw_only=True, frozen=True):
    """A user. ``state``: active, invited (until ``invite_until``), or expired (the invitation is over)."""

    name: str
    role: Role
    state: str
    totp: bool
    made_at: datetime
    invite_until: datetime | None


class UsersView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/users``, by name."""

    users: list[UserView]


class InvitationView(Struct, kw_only=True, frozen=True):
    """A one-time token that sets a password; it is shown once."""

    user: str
    token: str
    until: datetime


class UserAddedView(Struct, kw_only=True, frozen=True):
    """``POST /v1/admin/users``."""

    user: UserView
    invitation: InvitationView | None


class KeyView(Struct, kw_only=True, frozen=True):
    """An API key, without what opens."""

    key_id: str
    name: str
    role: Role
    scopes: list[str]
    expires_at: datetime | None
    expired: bool
    made_at: datetime


class KeysView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/keys``, oldest first."""

    keys: list[KeyView]


class KeyAddedView(Struct, kw_only=True, frozen=True):
    """``POST /v1/admin/keys``: ``secret`` is the key itself and is shown once."""

    key: KeyView
    secret: str
