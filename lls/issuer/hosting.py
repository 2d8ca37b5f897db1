"""Where entitlements live: each on one server at a time, in a session that a return or a loss ends.

Rules
1. A return is the server's signed word. It is accepted once everything up to its own journal line was reported and that
   line is the one that it names: else units might be given out again that nobody has counted. Accepted again, it
   changes nothing.
2. A server that is lost is retired on somebody's word, confirmed by its name. Its sessions end; what it used up is
   known as far as it was reported.
3. An entitlement that went back may be hosted elsewhere once no seat of it can be borrowed any more: after a return
   from ``borrowed_until`` on, after a loss from the latest instant at which anything borrowed there could end. On the
   very server that returned it at once: there the borrowed seats are still counted.
4. Hosting it makes a new session; its sequence goes on, and it carries what is left of its lots (``consumption``).
5. To a server that was retired nothing is issued or sold any more, so its certificate is never renewed. Its reports are
   taken in all the same: what was used was used.

It refuses to own terms (``amending``) and bundles (``office``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from lls.issuer.changing import in_new_session
from lls.issuer.consumption import added, begins_anew, of_journal, of_return
from lls.issuer.history import Deed
from lls.issuer.ids import Random, new_id
from lls.issuer.lookup import entitlement_in, server_in
from lls.issuer.refusals import Conflict, NotKnown
from lls.issuer.register import Register, Server, Session, SessionEnd, Sold
from lls.licensing.entitlement import read_entitlement
from lls.licensing.fields import Fields, write_instant
from lls.licensing.journal import Kind
from lls.signed.returned import EntitlementReturn, FinalMeter, read_return, server_named_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A return that ended a session; ``again`` when it had been accepted before."""

    sold: Sold
    session: Session
    meters: tuple[FinalMeter, ...]
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """A server that gets nothing any more, and the entitlements that came free by it."""

    server: Server
    freed: tuple[Sold, ...]
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """An entitlement on its new server; ``again`` when it was there already. ``warnings`` are sentences."""

    sold: Sold
    again: bool
    warnings: tuple[str, ...] = ()


class Hosting:
    """See the module. Each method is one transaction."""

    def __init__(self, register: Register, *, random: Random) -> None:
        self._register = register
        self._random = random

    def accept_return(self, data: bytes | str, *, now: datetime) -> Accepted:
        """Take a signed return in. Raises RefusedDocument, NotKnown and Conflict."""
        server_id = server_named_in(data)
        with self._register.transaction():
            server = self._register.server(server_id)
            if server is None:
                raise NotKnown(
                    f"The return is from the server {server_id}, which is not registered here; "
                    "it may be another vendor's."
                )
            returned = read_return(data, server_jwk=server.signing_jwk, server_id=server_id)
            sold, session = self._returned_session(returned)
            if session.ending is SessionEnd.RETURNED:
                return Accepted(sold=sold, session=session, meters=returned.meters, again=True)
            self._check_reported(returned)
            carried = added(sold.carried, of_return(returned.meters), but=self._reset_in_vain(session))
            session = replace(
                session,
                ended_at=now,
                ending=SessionEnd.RETURNED,
                borrowed_until=returned.borrowed_until,
                token=returned.token,
            )
            was, sold = sold, self._free(sold, session, carried=carried, free_from=returned.borrowed_until)
            self._register.note_change(
                Deed.RETURNED, was=was, became=sold, at=now, what={"session_id": session.session_id}
            )
        return Accepted(sold=sold, session=session, meters=returned.meters, again=False)

    def _returned_session(self, returned: EntitlementReturn) -> tuple[Sold, Session]:
        session = self._register.session(returned.session_id)
        if session is None or (session.entitlement_id, session.server_id) != (
            returned.entitlement_id,
            returned.server_id,
        ):
            raise NotKnown(
                f"The return names the session {returned.session_id} of {returned.entitlement_id} on "
                f"{returned.server_id}, and no such session was ever opened here."
            )
        if session.ending is SessionEnd.LOST and session.ended_at is not None:
            raise Conflict(
                f"The server {session.server_id} was declared lost on {session.ended_at:%Y-%m-%d}, which ended this "
                "session; there is nothing left to return."
            )
        if session.token is not None and session.token != returned.token:
            raise Conflict(
                f"Another return of the session {session.session_id} was accepted before, and this one says something "
                "else. Two copies of the server may be running; talk to the site."
            )
        return entitlement_in(self._register, session.entitlement_id), session

    def _check_reported(self, returned: EntitlementReturn) -> None:
        """Rule 1."""
        server_id, up_to_seq = returned.server_id, returned.up_to_seq
        end, _ = self._register.journal_end(server_id) or (0, "")
        if end < up_to_seq:
            missing = f"line {up_to_seq} is" if end + 1 == up_to_seq else f"lines {end + 1} to {up_to_seq} are"
            raise Conflict(
                f"The return of {returned.entitlement_id} counts up to line {up_to_seq} of the server {server_id}, and "
                f"{missing} not reported yet. Ingest the report that holds line {up_to_seq} first; the site writes it "
                "with lls report export."
            )
        if self._register.journal_hash(server_id, up_to_seq) != returned.head:
            raise Conflict(
                f"The journal of the server {server_id} is forked: its line {up_to_seq} is not the one that its return "
                "names. Two copies of the server run, or it was set back; nothing was accepted. Talk to the site."
            )
        (raw,) = self._register.journal_lines(server_id, first=up_to_seq, last=up_to_seq)
        line: Mapping[str, Any] = json.loads(raw)
        data = line["data"]
        told = (line["kind"], data.get("entitlement_id"), data.get("session_id"), data.get("meters"))
        meters = [asdict(meter) for meter in returned.meters]
        for meter in meters:
            meter["lots"] = list(meter["lots"])
        if told != (Kind.RETURNED_ENTITLEMENT, returned.entitlement_id, returned.session_id, meters):
            raise Conflict(
                f"Line {up_to_seq} of the server {server_id}, which the return names, does not return "
                f"{returned.entitlement_id}. The return was not made by an unchanged server; talk to the site."
            )

    def _reset_in_vain(self, session: Session) -> set[str | None]:
        """The features that were to begin anew and did not; None among them: all."""
        orders = self._register.unapplied_commands(session.session_id)
        return {Fields(one.document, place="command").optional_text("feature") for one in orders}

    def _free(self, sold: Sold, session: Session, *, carried: dict[str, Any], free_from: datetime | None) -> Sold:
        self._register.end_session(session)
        freed = replace(sold, server_id=None, free_from=free_from, carried=carried)
        self._register.put_entitlement(freed)
        return freed

    def retire(self, server_id: str, *, lost: bool = False, confirm: str | None = None, now: datetime) -> Retired:
        """Issue nothing to a server any more. ``lost``: with all that it hosts; ``confirm`` is then its name.

        Raises Conflict while it hosts something and is not lost, and where the name is another.
        """
        with self._register.transaction():
            server = server_in(self._register, server_id)
            if server.retired_at is not None:
                return Retired(server=server, freed=(), again=True)
            hosted = self._register.entitlements(server_id=server_id)
            if hosted and not lost:
                raise Conflict(
                    f"The server {server_id} still hosts {len(hosted)} entitlements, {hosted[0].entitlement_id} among "
                    "them. Have the site return them (lls entitlement return) and accept the returns; or, if the "
                    "server is gone for good, say --lost --confirm NAME."
                )
            if lost and confirm != server.name:
                raise Conflict(
                    f"Declaring {server_id} lost frees all that it hosts, although it may still run. To confirm, give "
                    f"its name: --confirm {server.name!r}."
                )
            used = self._reported_usage(server_id) if hosted else {}
            freed = tuple(self._lose(sold, used.get(sold.entitlement_id, {}), now=now) for sold in hosted)
            server = replace(server, retired_at=now.replace(microsecond=0), lost=lost)
            self._register.put_server(server)
            self._register.note(
                Deed.SERVER_RETIRED,
                at=now,
                customer_id=server.customer_id,
                server_id=server_id,
                what={"name": server.name, "lost": lost},
            )
        return Retired(server=server, freed=freed, again=False)

    def _reported_usage(self, server_id: str) -> dict[str, dict[str, Any]]:
        end, _ = self._register.journal_end(server_id) or (0, "")
        return of_journal(json.loads(raw) for raw in self._register.journal_lines(server_id, first=1, last=end))

    def _lose(self, sold: Sold, used: dict[str, Any], *, now: datetime) -> Sold:
        session = self._register.session(sold.session_id)
        if session is None:
            raise NotKnown(f"The session {sold.session_id} of {sold.entitlement_id} is not in the register.")
        until = _borrowed_at_most_until(sold, now=now)
        session = replace(session, ended_at=now, ending=SessionEnd.LOST, borrowed_until=until)
        carried = added(sold.carried, used, but=self._reset_in_vain(session))
        freed = self._free(sold, session, carried=carried, free_from=until)
        self._register.note_change(Deed.LOST, was=sold, became=freed, at=now, what={"session_id": session.session_id})
        return freed

    def host(self, entitlement_id: str, *, server_id: str, now: datetime) -> Hosted:
        """Let a server host what nobody hosts. Raises Conflict where it is hosted, or cannot be here or yet."""
        with self._register.transaction():
            sold = entitlement_in(self._register, entitlement_id)
            server = server_in(self._register, server_id)
            if sold.server_id == server_id:
                return Hosted(sold=sold, again=True)
            self._check_hostable(sold, server, now=now)
            document = in_new_session(sold.document, new_id("ses", self._random))
            moved = replace(sold, server_id=server_id, document=document, free_from=None)
            self._register.put_entitlement(moved)
            self._register.add_session(
                Session(session_id=moved.session_id, entitlement_id=entitlement_id, server_id=server_id, began_at=now)
            )
            if server.customer_id is None:
                self._register.put_server(replace(server, customer_id=sold.customer_id))
            self._register.note_change(
                Deed.HOSTED, was=sold, became=moved, at=now, what={"session_id": moved.session_id}
            )
        return Hosted(sold=moved, again=False, warnings=tuple(_warnings(moved)))

    def _check_hostable(self, sold: Sold, server: Server, *, now: datetime) -> None:
        if sold.server_id is not None:
            raise Conflict(
                f"The entitlement {sold.entitlement_id} is hosted by {sold.server_id}. Have that site return it (lls "
                "entitlement return) and accept the return first; or declare the server lost (server retire --lost)."
            )
        if server.retired_at is not None:
            raise Conflict(f"The server {server.server_id} was retired on {server.retired_at:%Y-%m-%d}.")
        if server.customer_id not in (None, sold.customer_id):
            raise Conflict(f"The server {server.server_id} belongs to another customer than {sold.entitlement_id}.")
        last = next(reversed(self._register.sessions(entitlement_id=sold.entitlement_id)), None)
        at_last = last is not None and last.server_id == server.server_id
        if sold.free_from is not None and now < sold.free_from and not at_last:
            raise Conflict(
                f"Seats of {sold.entitlement_id} may be borrowed from its last server until "
                f"{write_instant(sold.free_from)}; another server can host it from then on."
            )


def _borrowed_at_most_until(sold: Sold, *, now: datetime) -> datetime | None:
    """The latest end that a seat borrowed by now can have; None: none can be borrowed."""
    terms = read_entitlement(sold.document)
    if not terms.borrow.allowed:
        return None
    longest = now.replace(microsecond=0) + timedelta(seconds=terms.borrow.max_seconds + 1)
    until = longest if terms.ends_at is None else min(longest, terms.ends_at)
    return until if until > now else None


def _warnings(sold: Sold) -> list[str]:
    return [
        f"The monthly allowance of {feature} begins anew on the new server, whatever was used of it this month."
        for feature in begins_anew(read_entitlement(sold.document))
    ]
