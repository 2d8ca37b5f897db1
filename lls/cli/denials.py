"""``lls denials``: who was refused, why, and what would have helped.

Those whom more seats or units would have served stand first: they are what a purchase is decided by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import typer

from lls.cli import show, when
from lls.cli.admin import admin
from lls.cli.frame import AsJson
from lls.cli.show import column


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("denials")(denials)


def denials(
    ctx: typer.Context,
    since: Annotated[str | None, typer.Option(metavar="T", help=when.HELP, show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List who was refused a seat, why, and what would have helped."""
    answer = admin(ctx).get("denials", since=when.instant(since, "--since"))
    if as_json:
        show.document(answer)
        return
    groups = _groups(answer.get("denials", []))
    if not groups:
        show.say("Nobody was refused.")
    for place, (title, rows) in enumerate(groups):
        if place:
            show.say()
        show.say(f"{title}: {show.count(_times(rows), 'request')}")
        show.table(rows, _COLUMNS, empty="")
    show.archived(answer)


def _groups(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The rows by what stood behind them; a cause that this release does not know stands with the last."""
    groups: dict[str, list[Mapping[str, Any]]] = {title: [] for title in (*_TITLES.values(), _ELSE)}
    for row in rows:
        groups[_TITLES.get(str(row.get("cause")), _ELSE)].append(row)
    return [(title, group) for title, group in groups.items() if group]


def _times(rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(row["count"] if isinstance(row.get("count"), int) else 1 for row in rows)


_TITLES: Final = {
    "capacity": "Nobody could have been served (true denials)",
    "policy": "Refused by this site's policy, not by the number of seats",
}
_ELSE: Final = "Refused by the terms of what was bought"

# The codes of contract §2, in an administrator's words. A code that is not here is shown as it is.
_WHY: Final = {
    "no_seat": "all seats are taken",
    "reserved": "the free seats are reserved for others",
    "holder_limit": "the site's limit for this holder is reached",
    "no_feature_units": "not enough of the feature is left",
    "not_entitled": "no entitlement covers it",
    "entitlement_not_started": "the entitlement has not begun",
    "entitlement_expired": "the entitlement has ended",
    "entitlement_disabled": "the entitlement is disabled",
    "edition_not_covered": "the edition is not covered",
    "version_not_covered": "the version is not covered",
    "excluded": "the site's policy excludes this holder",
    "not_a_named_user": "not one of the named users",
    "wrong_machine": "the seat belongs to another machine",
    "borrow_not_allowed": "borrowing is not allowed",
    "borrow_too_long": "borrowing for so long is not allowed",
    "server_not_licensed": "this server is not licensed",
    "report_overdue": "a usage report is overdue",
    "unknown_product": "no such product is hosted",
    "bad_activation_code": "the activation code is wrong",
    "restored": "restored from a backup; the vendor must say where to go on",
    "clock_behind": "the clock is behind",
    "unbound": "this machine is not the licensed one",
}


def _why(row: Mapping[str, Any]) -> str:
    code = str(row.get("code") or "")
    return f"{_WHY[code]} [{code}]" if code in _WHY else show.said(code)


def _what(row: Mapping[str, Any]) -> object:
    return f"{row.get('product')} ({row['feature']})" if row.get("feature") else row.get("product")


def _use(row: Mapping[str, Any]) -> object:
    if row.get("in_use") is None:
        return None
    limit = row.get("limit", row.get("seats"))
    return row["in_use"] if limit is None else f"{row['in_use']} of {limit}"


_COLUMNS: Final = (
    column("AT", lambda row: show.instant(row.get("at"))),
    column("HOLDER", lambda row: show.holder(row.get("holder"))),
    column("PRODUCT", _what),
    column("WHY", _why),
    column("RULE", "rule"),
    column("IN USE", _use, number=True),
    column("TIMES", "count", number=True),
    column("WHAT WOULD HELP", "remedy"),
)
