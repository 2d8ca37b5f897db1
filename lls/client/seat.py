"""Holding a seat: the blocking interface, its renewal thread and its release.

Rules
1. One thread per seat renews it, and no exception ends that thread: not the network's, not the server's, not one of the
   application's own callback (which goes to ``threading.excepthook``, so that it is seen).
2. Questions are asked outside the lock; an answer is judged inside it. So ``seat.valid`` never waits for the network.
3. A seat is given back at the end of the ``with`` block, at ``release()``, and at the end of the interpreter,
   whichever is first. A forked child neither renews nor gives back: the seat is its parent's.
4. A checkout that is given up (time is over, Ctrl-C) is followed by a DELETE: the server may have granted it just
   now, and a waiting place would block others.

Not ours: what to say next (``session``), how to say it (``transport``), whom to believe (``trust``).
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from .borrowing import (
    TOLERANCE_SECONDS,
    Borrowed,
    best,
    borrow_request,
    clock_set_back,
    found_in,
    keep,
    proved_answer,
    require_borrowed,
    wire_end,
)
from .elapsed import HighWater, read_clocks
from .environment import activation_code as code_or_environment
from .environment import client_certificate as certificate_or_environment
from .environment import read_vendor_keys, server_urls
from .errors import NoAnswer, NotBorrowed, Refused, SeatLost, Unreachable, Untrusted, Unusable
from .keeping import Kept, State, Store
from .session import Phase, Question, Session
from .tls import ClientCertificate, Tls
from .transport import Answer, Request, Route, VendorKeys
from .trust import Capability, nonce_text
from .values import Event, Feature, Grant, Holder, Lease, Order, Product, heartbeat_seconds, products_from_json

OnEvent = Callable[[Event], object]

_NAP_SECONDS = 2.0
_GOODBYE_SECONDS = 3.0


class LicenseServers:
    """A vendor's license servers as this application sees them: where they are and whose word counts.

    ``servers``: URLs, asked in this order, the one that answered last first (default: ``LLS_SERVER``, comma-separated).
    ``vendor_keys``: the vendor's key set, as a document or as a path to one (default: the file named by
    ``LLS_VENDOR_KEYS``). ``timeout``: seconds for one answer. ``ca_file``: check TLS by these certificates (or
    ``"system"``) instead of the server's signed list. ``client_certificate``: what to show to a server that asks for
    one (default: the files that ``LLS_CLIENT_CERT`` and ``LLS_CLIENT_KEY`` name). ``allow_http``: permit plain http to
    other machines; everyone on the way can then take the seat. ``server_id``: talk to that server alone (``lls_…``, as
    ``lls server show`` tells it); without it any server that the vendor certified may lend the seat, another customer's
    too. ``borrowed_folder``: where borrowed seats are kept (default: the user's state folder, see
    ``keeping.default_folder``).
    """

    def __init__(
        self,
        servers: str | Sequence[str] | None = None,
        *,
        vendor_keys: str | bytes | Path | None = None,
        timeout: float = 10.0,
        ca_file: str | None = None,
        client_certificate: ClientCertificate | None = None,
        allow_http: bool = False,
        server_id: str | None = None,
        borrowed_folder: str | Path | None = None,
    ) -> None:
        self._keys = VendorKeys(read_vendor_keys(vendor_keys))
        self._store = Store(borrowed_folder)
        self._server_id = server_id
        self._route = Route(
            server_urls(servers),
            keys=self._keys,
            timeout=timeout,
            tls=Tls(ca_file=ca_file, ours=certificate_or_environment(client_certificate)),
            allow_http=allow_http,
            server_id=server_id,
        )

    def checkout(
        self,
        product: str,
        *,
        activation_code: str | None = None,
        seats: int = 1,
        features: Mapping[str, int] | None = None,
        edition: str | None = None,
        version: str | None = None,
        released_on: str | None = None,
        holder: Holder | None = None,
        wait: float = 0.0,
        patience: float = 10.0,
        on_event: OnEvent | None = None,
    ) -> Seat:
        """A held seat, or ``Refused`` / ``NoAnswer``.

        ``wait``: seconds to queue for a seat when all are taken. ``patience``: seconds to keep trying while no
        server gives an answer. ``activation_code`` defaults to ``LLS_CODE``.
        """
        seat = self.prepare(
            product,
            activation_code=activation_code,
            seats=seats,
            features=features,
            edition=edition,
            version=version,
            released_on=released_on,
            holder=holder,
            wait=wait,
            patience=patience,
            on_event=on_event,
        )
        seat.enter()
        return seat

    def prepare(
        self,
        product: str,
        *,
        activation_code: str | None = None,
        seats: int = 1,
        features: Mapping[str, int] | None = None,
        edition: str | None = None,
        version: str | None = None,
        released_on: str | None = None,
        holder: Holder | None = None,
        wait: float = 0.0,
        patience: float = 10.0,
        on_event: OnEvent | None = None,
    ) -> Seat:
        """The same seat, not asked for yet: ``enter`` does it. For callers that need the object before it is held."""
        order = Order(
            product=product,
            holder=holder or Holder.this_process(),
            activation_code=code_or_environment(activation_code),
            seats=seats,
            features=features or {},
            edition=edition,
            version=version,
            released_on=released_on,
        )
        return Seat(self._route, order, store=self._store, wait=wait, patience=patience, on_event=on_event)

    def borrowed(self, product: str, *, fingerprint: str | None = None) -> Borrowed:
        """The seat of the product that was borrowed on this machine and counts now; waits for no server.

        ``fingerprint``: the ``seat_id`` it was borrowed under, when not this machine's own. Errors as for
        :meth:`Borrowed.load`.
        """
        keys = self._keys.anchor
        found = found_in(
            self._store,
            keys=keys,
            fingerprint=fingerprint,
            server_id=self._server_id,
            route=lambda _: lambda: self._route,
        )
        return best(found, product, announced=True)

    def seat_or_borrowed(
        self,
        product: str,
        *,
        activation_code: str | None = None,
        seats: int = 1,
        features: Mapping[str, int] | None = None,
        edition: str | None = None,
        version: str | None = None,
        released_on: str | None = None,
        holder: Holder | None = None,
        wait: float = 0.0,
        patience: float = 10.0,
        on_event: OnEvent | None = None,
    ) -> Seat | Borrowed:
        """The seat that was borrowed on this machine, else one of :meth:`checkout`: for the office and for the road.

        The borrowed one comes first also where a server can be reached: a second seat would be one too many. It is
        what was borrowed; ``seats``, ``features`` and the rest speak to a server only. When a borrowed seat does not
        count here and now (``ClockSetBack`` …) a server is asked, and that reason is told if none answers.
        """
        try:
            return self.borrowed(product, fingerprint=holder.seat_id if holder else None)
        except (Unusable, SeatLost, Untrusted) as problem:
            reason = problem
        try:
            return self.checkout(
                product,
                activation_code=activation_code,
                seats=seats,
                features=features,
                edition=edition,
                version=version,
                released_on=released_on,
                holder=holder,
                wait=wait,
                patience=patience,
                on_event=on_event,
            )
        except NoAnswer as silence:
            if isinstance(reason, NotBorrowed):
                raise
            raise reason from silence

    def products(self) -> Sequence[Product]:
        """What is hosted and how much of it is free; ``Refused`` where the site switched the list off."""
        answer, _ = self._route.ask(Request(method="GET", path="/v1/products"))
        return products_from_json(answer.body)

    @property
    def vendor_keys(self) -> str:
        """The newest key set proved so far. Save it and pass it next time, and a later start begins from there."""
        return self._keys.newest.token

    def close(self) -> None:
        """Closes kept connections. Seats go on: they open new ones."""
        self._route.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def seat_or_borrowed(
    product: str,
    *,
    servers: str | Sequence[str] | None = None,
    vendor_keys: str | bytes | Path | None = None,
    borrowed_folder: str | Path | None = None,
    wait: float = 0.0,
    on_event: OnEvent | None = None,
    activation_code: str | None = None,
    version: str | None = None,
    server_id: str | None = None,
) -> Seat | Borrowed:
    """:func:`checkout`, unless a seat of the product was borrowed on this machine: then that one, without any network.

    >>> with seat_or_borrowed("cad", vendor_keys=KEYS) as seat:  # doctest: +SKIP
    ...     print(seat.lease.attributes)
    """
    try:
        return Borrowed.load(
            product, vendor_keys=vendor_keys, folder=borrowed_folder, servers=servers, server_id=server_id
        )
    except (Unusable, SeatLost, Untrusted) as problem:
        # A machine that knows no server has nobody else to ask.
        if not server_urls(servers) and not isinstance(problem, NotBorrowed):
            raise
        reason = problem
    found = LicenseServers(servers, vendor_keys=vendor_keys, server_id=server_id, borrowed_folder=borrowed_folder)
    try:
        seat = found.checkout(product, wait=wait, on_event=on_event, activation_code=activation_code, version=version)
    except BaseException as error:
        found.close()
        if isinstance(error, NoAnswer) and not isinstance(reason, NotBorrowed):
            raise reason from error
        raise
    seat.after_close(found.close)
    return seat


def checkout(
    product: str,
    *,
    servers: str | Sequence[str] | None = None,
    vendor_keys: str | bytes | Path | None = None,
    wait: float = 0.0,
    on_event: OnEvent | None = None,
    activation_code: str | None = None,
    version: str | None = None,
    server_id: str | None = None,
) -> Seat:
    """The five-line form of :meth:`LicenseServers.checkout`.

    >>> with checkout("cad", vendor_keys=KEYS) as seat:  # doctest: +SKIP
    ...     print(seat.lease.attributes)
    """
    found = LicenseServers(servers, vendor_keys=vendor_keys, server_id=server_id)
    try:
        seat = found.checkout(product, wait=wait, on_event=on_event, activation_code=activation_code, version=version)
    except BaseException:
        found.close()
        raise
    seat.after_close(found.close)
    return seat


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One consumption, as a receipt to take it back with :meth:`Seat.undo`."""

    feature: Feature
    amount: int
    request_id: str


class Seat:
    """One held seat. Made by :meth:`LicenseServers.checkout`; use it as a context manager."""

    def __init__(
        self, route: Route, order: Order, *, store: Store, wait: float, patience: float, on_event: OnEvent | None
    ) -> None:
        self._route = route
        self._store = store
        self._borrowed: Borrowed | None = None
        self._asked_to_borrow = False
        self._undone: set[str] = set()
        self._on_event = on_event
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._owner = os.getpid()
        self._patience = max(wait, patience)
        self._session = Session(
            order, wait_seconds=wait, patience_seconds=patience, entropy=os.urandom, now=read_clocks()
        )
        self._server_id: str | None = None
        self._finally: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<Seat {self._session.order.product} {self._session.phase} {self._session.lease_id}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what the application asks --

    @property
    def valid(self) -> bool:
        """Is the seat held, as far as can be proved, at this moment? Needs no network."""
        if self._borrowed is not None:
            return self._borrowed.valid
        with self._lock:
            return self._session.valid(read_clocks())

    @property
    def valid_seconds(self) -> float:
        """For how long the last proof still counts, if no other follows."""
        if self._borrowed is not None:
            return self._borrowed.valid_seconds
        with self._lock:
            return self._session.valid_seconds(read_clocks())

    def check(self) -> None:
        """``SeatLost`` unless the seat is valid (``ClockSetBack``: a borrowed one, and the time cannot be believed).

        Cheap enough for every expensive step of an application.
        """
        if self._borrowed is not None:
            self._borrowed.check()
        elif not self.valid:
            raise SeatLost("The seat is not held at the moment.")

    @property
    def lease(self) -> Lease:
        """The lease as the server last showed it: features, attributes, the entitlement's dates."""
        with self._lock:
            if self._session.lease is None:
                raise SeatLost("No lease was granted yet.")
            return self._session.lease

    @property
    def capability(self) -> Capability:
        """The server's signed and verified statement about the lease; ``capability.token`` is for other verifiers."""
        with self._lock:
            if self._session.capability is None:
                raise SeatLost("No lease was granted yet.")
            return self._session.capability

    @property
    def server_id(self) -> str:
        """The id of the server that granted the seat."""
        return self.capability.server_id

    def refresh(self) -> Lease:
        """Asks the server for the lease anew (``seat.lease`` shows the answer too)."""
        _, answer = self._of_lease("GET", "")
        lease = Lease.from_json(answer.body.get("lease", answer.body))
        with self._lock:
            self._session.refresh(lease)
        return lease

    def checkout_feature(self, key: str, amount: int = 1, *, request_id: str | None = None) -> Feature:
        """Takes units of an element pool (or the use of a tracked ``bool``) into this lease; all of them or none.

        ``request_id`` (a UUID) names the call. After ``NoAnswer`` nobody knows whether it counted; the same call with
        the same name again finds out, and takes nothing twice.
        """
        return self._feature(key, "checkout", amount, request_id or str(uuid.uuid4()))

    def return_feature(self, key: str, amount: int = 1, *, request_id: str | None = None) -> Feature:
        """Gives units of an element pool back. All of them go back by themselves when the lease ends."""
        return self._feature(key, "return", amount, request_id or str(uuid.uuid4()))

    def use(self, key: str, amount: int = 1, *, request_id: str | None = None) -> Use:
        """Consumes a usage count or a credit, once, however often the answer is lost; all of it or nothing.

        ``request_id`` as for :meth:`checkout_feature`: keep it if you may have to ask again after ``NoAnswer``.
        """
        named = request_id or str(uuid.uuid4())
        return Use(feature=self._feature(key, "use", amount, named), amount=amount, request_id=named)

    def undo(self, use: Use) -> Feature:
        """Takes a consumption back, within the time that the vendor allows. The use is named by its ``request_id``.

        Asking again after ``NoAnswer`` is safe. A second undo of the same use is ``Refused`` (``already_undone``).
        """
        try:
            feature = self._feature(use.feature.key, "undo", use.amount, use.request_id)
        except Refused as refusal:
            # Nobody else has this lease's secret: when we were never told that it is undone, the one who undid it was
            # ourselves, in a question whose answer was lost on the way (perhaps below us, on a dying connection).
            if refusal.code != "already_undone" or use.request_id in self._undone:
                raise
            feature = self._figures(use)
        self._undone.add(use.request_id)
        return feature

    def _figures(self, use: Use) -> Feature:
        """What there is after an undo whose answer was lost."""
        try:
            features = self.refresh().features
        except (NoAnswer, Refused):
            # It is undone all the same, and that is what was asked; the figures are those of before.
            features = self.lease.features
        return features.get(use.feature.key, use.feature)

    def borrow(self, until: datetime, *, fingerprint: str | None = None) -> Borrowed:
        """Turns the seat into one that needs no server until ``until`` (aware), and keeps it on disk.

        It is not returned at exit: ``release`` and :meth:`Borrowed.give_back` return it, also from another process
        (:meth:`Borrowed.load`). Again with a later ``until``: it is extended. ``ClockSetBack``: this machine's clock is
        behind the server's, so that nothing borrowed would count; set it right first. ``OSError``: the disk refused.
        """
        wire_end(until)  # refused before anything is written or asked
        seat_id = fingerprint or self._session.order.holder.seat_id
        self._require_right_clock()
        kept = self._asked_for(until)
        nonce = nonce_text(os.urandom(32))
        asked = borrow_request(kept.lease_id, kept.secret, until=until, fingerprint=seat_id, nonce=nonce)
        try:
            answer, channel = self._route.insist(asked, server_id=kept.server_id, stopped=self._closed.wait)
        except Refused:
            self._not_granted(kept)
            raise
        capability, certificate = proved_answer(
            answer, channel, route=self._route, lease_id=kept.lease_id, product=kept.product, nonce=nonce
        )
        require_borrowed(capability, fingerprint=seat_id)
        lease = Lease.from_json(answer.body.get("lease"))
        kept = replace(
            kept,
            state=State.HELD,
            until=capability.expires_at,
            lease=lease.as_json(),
            capability=capability.token,
            certificate=certificate.token,
            keys=self._route.keys.later,
            clock=kept.clock or HighWater.at(capability.issued_at, read_clocks()),
        )
        borrowed = Borrowed(
            keep(self._store, kept, capability), capability, store=self._store, route=lambda: self._route
        )
        with self._lock:
            self._session.borrowed(lease, capability)
            self._borrowed = borrowed
        return borrowed

    def _require_right_clock(self) -> None:
        """By the last proof, which cannot be younger than now; before anything is lent that would not count."""
        told, wall = self.capability.issued_at, read_clocks().wall
        if wall < told - TOLERANCE_SECONDS:
            raise clock_set_back(wall, told)

    def _asked_for(self, until: datetime) -> Kept:
        """On disk before the question: whatever becomes of the answer, the seat can be given back by its secret."""
        with self._lock:
            lease_id, secret, server_id = self._session.lease_id, self._session.secret, self._server_id or ""
        with self._store.changing():
            try:
                known = self._store.read(lease_id)
            except NotBorrowed:
                known = Kept(
                    lease_id=lease_id,
                    product=self._session.order.product,
                    state=State.ASKED,
                    until=until.timestamp(),
                    server_id=server_id,
                    servers=self._route.urls,
                    secret=secret,
                )
                self._store.write(known)
                self._asked_to_borrow = True
        return known

    def _not_granted(self, kept: Kept) -> None:
        if kept.state is State.ASKED:
            with self._store.changing():
                self._store.remove(kept.lease_id)

    def regain(self) -> None:
        """Asks for the seat now: a “try again” button, also after ``taken_back``. The outcome arrives as an event."""
        with self._lock:
            self._session.beat_now(read_clocks())
        self._wake.set()

    def close(self) -> None:
        """Ends the renewal and gives the seat back, unless it is borrowed."""
        with self._lock:
            borrowed = self._session.phase is Phase.BORROWED
        if borrowed and self._stop():
            self._clean_up()
        elif not borrowed:
            self.release()

    def after_close(self, call: Callable[[], object]) -> None:
        """Called once when the seat was closed or released: for what belongs to this seat alone."""
        self._finally = call

    def release(self) -> bool:
        """Gives the seat back, a borrowed one too.

        ``False``: no server confirmed it, and the seat ends by itself when its time is over.
        """
        with self._lock:
            phase, lease_id, secret = self._session.phase, self._session.lease_id, self._session.secret
        first = self._stop()
        try:
            if self._borrowed is not None:
                # Also after the end of the `with` block, which gives a borrowed seat not back.
                return os.getpid() != self._owner or self._borrowed.give_back()
            if not first:
                return True
            confirmed = phase is Phase.PARKED or self._delete(lease_id, secret)
            if confirmed and self._asked_to_borrow:
                self._store.remove(lease_id)
            return confirmed
        finally:
            if first:
                self._clean_up()

    # -- entering --

    def enter(self) -> None:
        """Blocks until the seat is held; ``Refused`` or ``NoAnswer`` otherwise. Called once, by ``checkout``."""
        give_up_at = read_clocks().elapsed + self._patience + 3 * _GOODBYE_SECONDS
        try:
            while not self._entered(give_up_at):
                self._step()
        except BaseException as error:
            # A plain refusal left nothing behind; everything else may have left a grant or a place in the queue.
            if not isinstance(error, Refused) or error.code == "no_seat":
                self.release()
            self._stop()
            raise
        _open_seats.add(self)
        threading.Thread(target=self._renew, name=f"lls-seat-{self._session.order.product}", daemon=True).start()

    def _entered(self, give_up_at: float) -> bool:
        if self._closed.is_set():
            raise SeatLost("The seat was released before it was granted.")
        with self._lock:
            if self._session.failure is not None:
                raise self._session.failure
            now = read_clocks()
            if self._session.valid(now):
                return True
        if now.elapsed > give_up_at:
            raise Unreachable("No server proved the lease in time.")
        return False

    # -- renewing --

    def _renew(self) -> None:
        while not self._closed.is_set():
            try:
                self._step()
            except Exception:  # noqa: BLE001  (rule 1: the next beat is still due; it is shown, not lost)
                _show_exception()
                self._closed.wait(_NAP_SECONDS)

    def _step(self) -> None:
        """Sleeps a little or asks one question, and tells what happened."""
        now = read_clocks()
        with self._lock:
            events = self._session.tick(now)
            question = self._session.due(now)
            idle = min(_NAP_SECONDS, max(0.0, self._session.next_at - now.elapsed)) or _NAP_SECONDS
        self._tell(events)
        if question is None:
            # Short naps: waiting primitives stand still during sleep, so only a look at the clock sees the waking.
            self._wake.wait(idle)
            self._wake.clear()
            return
        self._tell(self._asked(question))

    def _asked(self, question: Question) -> list[Event]:
        try:
            grant = self._ask(question)
        except Refused as refusal:
            with self._lock:
                return self._session.refused(question, refusal, read_clocks())
        except NoAnswer as failure:
            with self._lock:
                return self._session.unanswered(question, failure, read_clocks())
        with self._lock:
            return self._session.granted(question, grant, read_clocks())

    def _ask(self, question: Question) -> Grant:
        request = _request(question, self._session.order)
        answer, channel = self._route.ask(request, server_id=None if question.is_checkout else self._server_id)
        capability, _ = proved_answer(
            answer,
            channel,
            route=self._route,
            lease_id=question.lease_id,
            product=self._session.order.product,
            nonce=question.nonce,
        )
        shown = Lease.from_json(answer.body.get("lease")) if question.is_checkout else None
        interval = shown.heartbeat_seconds if shown else heartbeat_seconds(answer.body)
        if question.is_checkout:
            self._server_id = capability.server_id
        return Grant(capability=capability, heartbeat_seconds=interval, lease=shown)

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            if self._on_event is None:
                continue
            try:
                self._on_event(event)
            except Exception:  # noqa: BLE001  (rule 1: the application's mistake must not cost it the seat)
                _show_exception()

    # -- single calls --

    def _feature(self, key: str, verb: str, amount: int, request_id: str) -> Feature:
        lease_id, answer = self._of_lease(
            "POST", f"/features/{quote(key, safe='')}/{verb}", {"amount": amount, "request_id": request_id}
        )
        feature = Feature.from_json(answer.body.get("feature", answer.body))
        with self._lock:
            # The seat may have been lost and regained meanwhile; the new lease has figures of its own.
            if self._session.lease is not None and self._session.lease.lease_id == lease_id:
                self._session.refresh(self._session.lease.with_feature(feature))
        return feature

    def _of_lease(self, method: str, rest: str, body: Mapping[str, object] | None = None) -> tuple[str, Answer]:
        """One call of this lease, by which of its ids, and the answer."""
        with self._lock:
            lease_id, secret, server_id = self._session.lease_id, self._session.secret, self._server_id
        request = Request(method=method, path=f"/v1/leases/{lease_id}{rest}", body=body, secret=secret)
        answer, _ = self._route.insist(request, server_id=server_id, stopped=self._closed.wait)
        return lease_id, answer

    def _delete(self, lease_id: str, secret: str) -> bool:
        request = Request(method="DELETE", path=f"/v1/leases/{lease_id}", secret=secret)
        try:
            self._route.ask(request, server_id=self._server_id, timeout=_GOODBYE_SECONDS)
        except Refused as refusal:
            return refusal.status in (404, 410)
        except NoAnswer:
            return False
        return True

    def _clean_up(self) -> None:
        if self._finally is not None:
            self._finally()

    def _stop(self) -> bool:
        """True for the one call that ended it, in the process that owns it."""
        with self._lock:
            first = not self._closed.is_set()
            self._closed.set()
            self._session.close()
        self._wake.set()
        _open_seats.discard(self)
        return first and os.getpid() == self._owner

    def _forget_in_child(self) -> None:
        """After a fork: the lock may have been held by a thread that this process does not have."""
        self._lock = threading.Lock()
        self._closed.set()


_open_seats: weakref.WeakSet[Seat] = weakref.WeakSet()


def _release_all() -> None:
    for seat in list(_open_seats):
        seat.close()


def _forget_all_in_child() -> None:
    for seat in list(_open_seats):
        seat._forget_in_child()  # noqa: SLF001  (same module)
    _open_seats.clear()


atexit.register(_release_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all_in_child)


def _request(question: Question, order: Order) -> Request:
    if question.is_checkout:
        return Request(
            method="POST",
            path="/v1/leases",
            body={"lease_id": question.lease_id, **order.as_json(), "nonce": question.nonce},
            secret=question.secret,
            wait_seconds=question.wait_seconds,
        )
    return Request(
        method="POST",
        path=f"/v1/leases/{question.lease_id}/heartbeat",
        body={"beat": question.beat, "nonce": question.nonce},
        secret=question.secret,
    )


def _show_exception() -> None:
    """To where an uncaught exception of a thread goes, without ending the thread."""
    kind, error, trace = sys.exc_info()
    if kind is not None:
        threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))
