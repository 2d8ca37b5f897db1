"""A vendor's terms for one license server, and what a support person wants to see of it.

Rules
1. Terms stand in the register and go out with every bundle to that server; ``bundle issue`` may say others for one
   bundle. What is not said is the standard (:class:`~lls.issuer.issue.Terms`).
2. A licence that would end in the past is refused: to take seats away, disable entitlements, which is seen and undone;
   to stop serving a server, retire it.
3. ``clock_reset`` lets a server believe its own clock again after it once believed one that was far ahead. It is
   carried out once and rides in every bundle until a report shows that it was. Asked again before that, it is the same
   order. It is confirmed by the server's name, because guarded time is what dates are judged by.

It refuses to own where entitlements live (``hosting``) and bundles (``issuing``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from lls.faults import RefusedDocument
from lls.issuer.binding import check_bindable
from lls.issuer.history import Deed
from lls.issuer.ids import Random, new_id
from lls.issuer.issue import Terms
from lls.issuer.issuing import NO_TERMS, check_served
from lls.issuer.lookup import server_in
from lls.issuer.pending_register import PendingRegister, Waiting
from lls.issuer.refusals import Conflict
from lls.issuer.register import Command, IngestedReport, IssuedBundle, Json, Register, Server, Sold
from lls.licensing.fields import Fields, write_instant
from lls.licensing.terms import CLOCK_RESET
from lls.signed.certificate import ServerCertificate, read_certificate
from lls.signed.keys import KeySet

_DAY: Final = timedelta(days=1)
_MOST_DAYS: Final[Mapping[str, int]] = {
    "valid_days": 3650,
    "certificate_days": 36_500,
    "sync_days": 36_500,
    "rebind_grace_days": 3650,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    server_id: str
    document: Json
    done_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A server with all that hangs on it; ``certificate`` None: it has none, or an earlier key set signed it."""

    server: Server
    terms: Terms
    certificate: ServerCertificate | None
    entitlements: tuple[Sold, ...]
    last_bundle: IssuedBundle | None
    last_report: IngestedReport | None
    report_due_at: datetime | None
    commands: tuple[Command, ...]
    waiting: tuple[Waiting, ...]
    """What still waits for signatures, some of it perhaps for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """A command that the next bundle carries; ``again`` when it was waiting already."""

    server: Server
    command: Command
    again: bool


class Serving:
    """See the module. Each method is one transaction."""

    def __init__(self, register: Register, *, random: Random) -> None:
        self._register = register
        self._random = random

    def terms(self, server_id: str, said: Json = NO_TERMS) -> Terms:
        """The standing terms of a server; with what is ``said`` of one bundle alone, see :func:`with_terms`."""
        return with_terms(with_terms(Terms(), self._said(server_id)), said)

    def _said(self, server_id: str) -> Json:
        rows = self._register.select(_Row, "SELECT * FROM server_terms WHERE server_id = ?", server_id)
        return rows[0].document if rows else {}

    def agree(self, server_id: str, said: Json, *, binding: str | None = None, now: datetime) -> tuple[Server, Terms]:
        """Other standing terms: ``said`` as in :func:`with_terms`; None there takes a term back to the standard.

        Raises Conflict and NotKnown.
        """
        with self._register.transaction():
            server = server_in(self._register, server_id)
            check_served(server)
            before = self._said(server_id)
            document = {name: value for name, value in {**before, **said}.items() if value is not None}
            terms = with_terms(Terms(), document)
            if "license_until" in said and terms.license_until is not None and terms.license_until <= now:
                raise Conflict(
                    f"The licence would have ended at {write_instant(terms.license_until)}. To take seats away, "
                    "disable entitlements; to stop serving this server, retire it."
                )
            chosen = binding or server.binding
            check_bindable(server_id, server.host, binding=chosen, required=terms.required)
            changed = replace(server, binding=chosen)
            if changed != server:
                self._register.put_server(changed)
            self._register.insert(
                "server_terms",
                _Row(server_id=server_id, document=document, done_at=now),
                otherwise="ON CONFLICT DO UPDATE SET document = excluded.document, done_at = excluded.done_at",
            )
            self._register.note(
                Deed.SERVER_TERMS,
                at=now,
                customer_id=server.customer_id,
                server_id=server_id,
                what={"before": dict(before), "after": document, "binding": chosen},
            )
        return changed, terms

    def reset_clock(self, server_id: str, *, confirm: str | None, now: datetime) -> Ordered:
        """Let the next bundle lower a server's guarded clock to its issue time. Raises Conflict, NotKnown."""
        with self._register.transaction():
            server = server_in(self._register, server_id)
            check_served(server)
            if confirm != server.name:
                raise Conflict(
                    f"After this the server {server_id} judges every date by its own clock again, even one that is "
                    f"behind. To confirm, give the server's name: --confirm {server.name!r}."
                )
            waiting = [one for one in self._register.pending_commands(server_id) if one.document["type"] == CLOCK_RESET]
            if waiting:
                return Ordered(server=server, command=waiting[0], again=True)
            command_id = new_id("cmd", self._random)
            command = Command(
                command_id=command_id,
                server_id=server_id,
                document={"command_id": command_id, "type": CLOCK_RESET},
                ordered_at=now,
            )
            self._register.add_command(command)
            self._register.note(
                Deed.CLOCK_RESET,
                at=now,
                customer_id=server.customer_id,
                server_id=server_id,
                what={"command_id": command_id},
            )
        return Ordered(server=server, command=command, again=False)

    def show(self, server_id: str, *, keys: KeySet) -> Shown:
        """All that hangs on a server. Raises NotKnown."""
        server = server_in(self._register, server_id)
        bundles, reports = self._register.bundles(server_id), self._register.reports(server_id=server_id)
        return Shown(
            server=server,
            terms=self.terms(server_id),
            certificate=_certificate(server, keys),
            entitlements=tuple(self._register.entitlements(server_id=server_id)),
            last_bundle=bundles[-1] if bundles else None,
            last_report=reports[-1] if reports else None,
            report_due_at=self._report_due(server_id, bundles, reports),
            commands=tuple(self._register.pending_commands(server_id)),
            waiting=tuple(PendingRegister(self._register).waiting(server_id)),
        )

    def _report_due(
        self, server_id: str, bundles: list[IssuedBundle], reports: list[IngestedReport]
    ) -> datetime | None:
        """When the server refuses new checkouts, by the newest bundle; from the last acknowledged report on."""
        if not bundles:
            return None
        days = Fields(bundles[-1].payload, place="bundle").object("server_license").integer("sync_within_days")
        receipts = self._register.receipts(server_id)
        if not receipts:
            return bundles[0].issued_at + timedelta(days=days)
        made = {report.report_id: report.made_at for report in reports}
        return made[receipts[-1].report_id] + timedelta(days=days)


def with_terms(terms: Terms, said: Json) -> Terms:
    """``terms`` with what somebody said: days as whole numbers, ``license_until`` an instant. Raises Conflict."""
    try:
        fields = Fields(said, place="terms")
        days = {name: fields.optional_integer(name, least=1, most=most) for name, most in _MOST_DAYS.items()}
        changes: dict[str, Any] = {
            "bundle_life": days["valid_days"] and days["valid_days"] * _DAY,
            "certificate_life": days["certificate_days"] and days["certificate_days"] * _DAY,
            "sync_within_days": days["sync_days"],
            "rebind_grace": days["rebind_grace_days"] and days["rebind_grace_days"] * _DAY,
            "required": fields.optional_integer("required", least=1, most=64),
            "license_until": fields.optional_instant("license_until"),
        }
    except RefusedDocument as refused:
        raise Conflict(f"These terms were refused: {refused.detail}") from refused
    return replace(terms, **{name: value for name, value in changes.items() if value is not None})


def _certificate(server: Server, keys: KeySet) -> ServerCertificate | None:
    if server.certificate is None:
        return None
    try:
        return read_certificate(server.certificate, keys)
    except RefusedDocument:
        return None  # signed before a rotation; the next bundle brings a new one
