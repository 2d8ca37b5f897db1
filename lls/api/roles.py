"""The one table of administration: which call asks for which role, and to which group of scopes it belongs.

Rules
1. Every administrative route stands here; a test of the house fails for one that does not, and until then it asks for
   ``admin``.
2. A viewer reads; an operator releases leases and carries files in and out; an admin manages who may do what, the
   clock, and what leaves for good.
3. A scope of an API key is a group (``leases``) or a group's reading (``leases:read``): the calls of it that a viewer
   may make. A key with scopes may make the calls of its scopes that its role allows; one without, all that its role
   allows.
4. ``people`` only: who may act, and with what, is not for programs: a key that makes keys would outlive its own end
   and outgrow its own scopes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lls.licensing.account import Role

READ: Final = ":read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Who may make a call. ``least`` None: whoever is about to log in."""

    least: Role | None
    group: str
    people: bool = False

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that open it."""
        reads = frozenset({self.group + READ}) if self.least is Role.VIEWER else frozenset[str]()
        return frozenset({self.group}) | reads


def rule_of(method: str, path: str) -> Rule:
    """Rule 1, for a route's own method and pattern."""
    return RULES.get((method, path)) or Rule(least=Role.ADMIN, group=_group(path), people=True)


def _group(path: str) -> str:
    return path.removeprefix("/v1/admin/").strip("/").partition("/")[0]


_ENTITLEMENT: Final = "/v1/admin/entitlements/{entitlement_id}"
_USER: Final = "/v1/admin/users/{name}"

_VIEWER: Final = (
    ("GET", "/v1/admin/server"),
    ("GET", "/v1/admin/clock"),
    ("GET", "/v1/admin/bundles"),
    ("GET", "/v1/admin/entitlements"),
    ("GET", "/v1/admin/leases"),
    ("GET", "/v1/admin/borrows"),
    ("GET", "/v1/admin/policy"),
    ("POST", "/v1/admin/policy/check"),
    ("GET", "/v1/admin/policy/explain"),
    ("GET", "/v1/admin/denials"),
    ("GET", "/v1/admin/usage"),
    ("GET", "/v1/admin/usage/what-if"),
    ("GET", "/v1/admin/journal"),
    ("GET", "/v1/admin/journal/verify"),
    ("GET", "/v1/admin/reports"),
    ("GET", "/v1/admin/reports/preview"),
    ("GET", "/v1/admin/doctor"),
    ("GET", "/v1/admin/backup"),
    ("GET", "/v1/admin/log"),
    ("GET", "/v1/admin/events"),
    ("GET", "/v1/admin/tls"),
    ("GET", "/metrics"),
)
_OPERATOR: Final = (
    ("POST", "/v1/admin/server/request"),
    ("POST", "/v1/admin/bundles"),
    ("DELETE", "/v1/admin/leases/{lease_id}"),
    ("POST", f"{_ENTITLEMENT}/users/{{user}}"),
    ("DELETE", f"{_ENTITLEMENT}/users/{{user}}"),
    ("POST", "/v1/admin/borrows"),
    ("POST", "/v1/admin/borrows/return"),
    ("POST", "/v1/admin/reports"),
    ("GET", "/v1/admin/reports/{report_id}"),
    ("POST", "/v1/admin/receipts"),
    ("POST", "/v1/admin/reload"),
    ("POST", "/v1/admin/log"),
    ("POST", "/v1/admin/journal/archive"),
    ("GET", "/v1/admin/support"),
    ("POST", "/v1/admin/events"),
)
_ADMIN: Final = (
    ("POST", "/v1/admin/clock"),
    ("POST", "/v1/admin/tls"),
    ("POST", f"{_ENTITLEMENT}/return"),
    ("DELETE", f"{_ENTITLEMENT}/return"),
)
_ADMIN_PEOPLE: Final = (
    ("POST", "/v1/admin/backup"),
    ("GET", "/v1/admin/users"),
    ("POST", "/v1/admin/users"),
    ("DELETE", _USER),
    ("PUT", f"{_USER}/password"),
    ("POST", f"{_USER}/invitation"),
    ("PUT", f"{_USER}/role"),
    ("POST", f"{_USER}/totp"),
    ("PUT", f"{_USER}/totp"),
    ("DELETE", f"{_USER}/totp"),
    ("GET", "/v1/admin/keys"),
    ("POST", "/v1/admin/keys"),
    ("DELETE", "/v1/admin/keys/{key_id}"),
)
_OWN: Final = (
    ("GET", "/v1/admin/session"),
    ("DELETE", "/v1/admin/session"),
    ("PUT", "/v1/admin/session/password"),
    ("POST", "/v1/admin/session/totp"),
    ("PUT", "/v1/admin/session/totp"),
)
_NOBODY_YET: Final = (
    ("POST", "/v1/admin/session"),
    ("POST", "/v1/admin/invitation"),
)

RULES: Final[Mapping[tuple[str, str], Rule]] = {
    **{call: Rule(least=Role.VIEWER, group=_group(call[1])) for call in _VIEWER},
    **{call: Rule(least=Role.OPERATOR, group=_group(call[1])) for call in _OPERATOR},
    **{call: Rule(least=Role.ADMIN, group=_group(call[1])) for call in _ADMIN},
    **{call: Rule(least=Role.ADMIN, group=_group(call[1]), people=True) for call in _ADMIN_PEOPLE},
    **{call: Rule(least=Role.VIEWER, group="session", people=True) for call in _OWN},
    **{call: Rule(least=None, group="session", people=True) for call in _NOBODY_YET},
}

SCOPES: Final = frozenset().union(*(rule.scopes for rule in RULES.values() if not rule.people))
"""Every scope that a key can have."""
