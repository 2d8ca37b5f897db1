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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from .elapsed import read_clocks
from .errors import BadSetup, NoAnswer, OtherKey, Refused, SeatLost, Unreachable, Untrusted
from .session import Phase, Question, Session
from .transport import Answer, Channel, Request, Route, VendorKeys
from .trust import Capability, KeySet, nonce_text
from .values import (
    Event,
    Feature,
    Grant,
    Holder,
    Lease,
    Order,
    Product,
    heartbeat_seconds,
    products_from_json,
)

OnEvent = Callable[[Event], object]

_NAP_SECONDS = 2.0
_GOODBYE_SECONDS = 3.0
_ATTEMPTS = 3
_LONGEST_PAUSE_SECONDS = 10.0


class LicenseServers:
    """A vendor's license servers as this application sees them: where they are and whose word counts.

    ``servers``: URLs, asked in this order, the one that answered last first (default: ``LLS_SERVER``, comma-separated).
    ``vendor_keys``: the vendor's key set, as a document or as a path to one (default: the file named by
    ``LLS_VENDOR_KEYS``). ``timeout``: seconds for one answer. ``ca_file``: check TLS by these certificates (or
    ``"system"``) instead of the server's signed list. ``allow_http``: permit plain http to other machines; everyone
    on the way can then take the seat. ``server_id``: talk to that server alone (``lls_…``, as ``lls server show`` tells
    it); without it any server that the vendor certified may lend the seat, another customer's too.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | None = None,
        *,
        vendor_keys: str | bytes | Path | None = None,
        timeout: float = 10.0,
        ca_file: str | None = None,
        allow_http: bool = False,
        server_id: str | None = None,
    ) -> None:
        self._keys = VendorKeys(_read_vendor_keys(vendor_keys))
        self._timeout = timeout
        self._route = Route(
            _urls(servers),
            keys=self._keys,
            timeout=timeout,
            ca_file=ca_file,
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
            activation_code=activation_code or os.environ.get("LLS_CODE") or None,
            seats=seats,
            features=features or {},
            edition=edition,
            version=version,
            released_on=released_on,
        )
        return Seat(self._route, order, wait=wait, patience=patience, on_event=on_event)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrowed:
    """A lease for the road.

    ``capability`` proves it without any server until ``until``, against ``certificate``; ``secret`` returns it early.
    """

    lease: Lease
    until: datetime
    capability: str = field(repr=False)
    secret: str = field(repr=False)
    certificate: str = field(repr=False)


class Seat:
    """One held seat. Made by :meth:`LicenseServers.checkout`; use it as a context manager."""

    def __init__(self, route: Route, order: Order, *, wait: float, patience: float, on_event: OnEvent | None) -> None:
        self._route = route
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
        self._certificate = ""
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
        with self._lock:
            return self._session.valid(read_clocks())

    @property
    def valid_seconds(self) -> float:
        """For how long the last proof still counts, if no other follows."""
        with self._lock:
            return self._session.valid_seconds(read_clocks())

    def check(self) -> None:
        """``SeatLost`` unless the seat is valid. Cheap enough for every expensive step of an application."""
        if not self.valid:
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
        answer, _ = self._of_lease("GET", "")
        lease = Lease.from_json(answer.body.get("lease", answer.body))
        with self._lock:
            self._session.refresh(lease)
        return lease

    def checkout_feature(self, key: str, amount: int = 1) -> Feature:
        """Takes units of an element pool into this lease."""
        return self._feature(key, "checkout", amount, str(uuid.uuid4()))

    def return_feature(self, key: str, amount: int = 1) -> Feature:
        """Gives units of an element pool back."""
        return self._feature(key, "return", amount, str(uuid.uuid4()))

    def use(self, key: str, amount: int = 1) -> Use:
        """Consumes a usage count or a credit, once, however often the answer is lost."""
        request_id = str(uuid.uuid4())
        return Use(feature=self._feature(key, "use", amount, request_id), amount=amount, request_id=request_id)

    def undo(self, use: Use) -> Feature:
        """Takes a consumption back, within the time that the vendor allows. The use is named by its ``request_id``."""
        return self._feature(use.feature.key, "undo", use.amount, use.request_id)

    def borrow(self, until: datetime, *, fingerprint: str | None = None) -> Borrowed:
        """Turns the seat into one that needs no server until ``until`` (aware). It is not returned at exit."""
        if until.tzinfo is None:
            raise BadSetup("`until` needs a time zone.")
        nonce = nonce_text(os.urandom(32))
        stamp = until.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        wanted = fingerprint or self._session.order.holder.seat_id
        answer, channel = self._of_lease("POST", "/borrow", {"until": stamp, "fingerprint": wanted, "nonce": nonce})
        lease = Lease.from_json(answer.body.get("lease"))
        capability = self._proved(answer, channel, nonce=nonce, lease_id=lease.lease_id)
        with self._lock:
            self._session.borrowed(lease, capability)
            secret = self._session.secret
        return Borrowed(
            lease=lease, until=until, capability=capability.token, secret=secret, certificate=self._certificate
        )

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
        if not self._stop():
            return True
        confirmed = phase is Phase.PARKED or self._delete(lease_id, secret)
        self._clean_up()
        return confirmed

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
        capability = self._proved(answer, channel, nonce=question.nonce, lease_id=question.lease_id)
        shown = Lease.from_json(answer.body.get("lease")) if question.is_checkout else None
        interval = shown.heartbeat_seconds if shown else heartbeat_seconds(answer.body)
        if question.is_checkout:
            self._server_id = capability.server_id
        return Grant(capability=capability, heartbeat_seconds=interval, lease=shown)

    def _proved(self, answer: Answer, channel: Channel, *, nonce: str, lease_id: str) -> Capability:
        token, product = answer.body.get("capability"), self._session.order.product
        try:
            certificate = channel.certificate()
            try:
                found = certificate.capability(token, nonce=nonce, lease_id=lease_id, product=product)
            except OtherKey:
                # The server may have a newer certificate than the one we know.
                certificate = channel.certificate(renew=True)
                found = certificate.capability(token, nonce=nonce, lease_id=lease_id, product=product)
        except Untrusted:
            self._route.avoid(channel)
            raise
        self._certificate = certificate.token
        return found

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
        body = {"amount": amount, "request_id": request_id}
        answer, _ = self._of_lease("POST", f"/features/{quote(key, safe='')}/{verb}", body)
        feature = Feature.from_json(answer.body.get("feature", answer.body))
        with self._lock:
            if self._session.lease is not None:
                self._session.refresh(self._session.lease.with_feature(feature))
        return feature

    def _of_lease(self, method: str, rest: str, body: Mapping[str, object] | None = None) -> tuple[Answer, Channel]:
        """One call of this lease, repeated unchanged a few times while nobody answers: each is safe to repeat."""
        with self._lock:
            lease_id, secret, server_id = self._session.lease_id, self._session.secret, self._server_id
        request = Request(method=method, path=f"/v1/leases/{lease_id}{rest}", body=body, secret=secret)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._route.ask(request, server_id=server_id)
            except NoAnswer as failure:
                pause = failure.retry_after_seconds or 0.5 * attempt
                if attempt == _ATTEMPTS or pause > _LONGEST_PAUSE_SECONDS or self._closed.wait(pause):
                    raise
        raise Unreachable("No server answered.")

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


def _urls(servers: str | Sequence[str] | None) -> list[str]:
    listed = servers if servers is not None else os.environ.get("LLS_SERVER", "")
    if isinstance(listed, str):
        listed = listed.split(",")
    return [url.strip() for url in listed if url.strip()]


def _read_vendor_keys(document: str | bytes | Path | None) -> KeySet:
    found = document if document is not None else os.environ.get("LLS_VENDOR_KEYS") or None
    if found is None:
        raise BadSetup("The vendor's keys are missing: pass `vendor_keys`, or set LLS_VENDOR_KEYS to the file.")
    if isinstance(found, str) and not found.lstrip().startswith(("{", "eyJ")):
        found = Path(found)
    if isinstance(found, Path):
        try:
            found = found.read_bytes()
        except OSError as error:
            raise BadSetup(f"The vendor's keys cannot be read: {error}.") from error
    try:
        return KeySet.read(found)
    except Untrusted as error:
        raise BadSetup(f"The vendor's keys are not usable: {error}") from error


def _show_exception() -> None:
    """To where an uncaught exception of a thread goes, without ending the thread."""
    kind, error, trace = sys.exc_info()
    if kind is not None:
        threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))
