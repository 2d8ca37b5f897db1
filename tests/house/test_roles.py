"""Who may call what: every route of administration stands in the one table, and the table names nothing else."""

from __future__ import annotations

import pytest

from lls.api.app import LAN_ROUTES, NETWORK_ADMIN_ROUTES
from lls.api.edge import Route
from lls.api.roles import RULES, SCOPES, rule_of
from lls.licensing.account import Role


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


def test_every_administrative_route_has_its_line_in_the_table_and_no_other() -> None:
    """A new route fails here: add it to lls/api/roles.py with the least role that it needs."""
    served = {(route.method, route.path) for route in NETWORK_ADMIN_ROUTES} | {("GET", "/metrics")}
    assert served == set(RULES)


def test_a_route_that_is_forgotten_is_for_administrators_in_person() -> None:
    rule = rule_of("POST", "/v1/admin/not-there-yet")
    assert (Role.ADMIN, True) == (rule.least, rule.people)


@pytest.mark.parametrize("route", NETWORK_ADMIN_ROUTES, ids=name_of)
def test_nobody_but_who_logs_in_gets_by_without_a_role(route: Route) -> None:
    assert ("login" == route.by) == (rule_of(route.method, route.path).least is None)


@pytest.mark.parametrize("route", NETWORK_ADMIN_ROUTES, ids=name_of)
def test_a_viewer_changes_nothing(route: Route) -> None:
    rule = rule_of(route.method, route.path)
    if rule.least is Role.VIEWER and rule.group != "session":
        assert "GET" == route.method or route.path.endswith("/check")


def test_no_application_route_stands_under_administration() -> None:
    assert [] == [route.path for route in LAN_ROUTES if route.path.startswith("/v1/admin")]


def test_no_scope_opens_users_or_keys() -> None:
    assert {"leases", "leases:read", "metrics", "reports"} <= SCOPES
    assert not {"users", "keys", "session", "users:read", "keys:read"} & SCOPES
