"""A seat for the road: proved from a file, without any server, until its end.

What proves a borrowed lease, anew in each process, and each step only when the one above it has held:

1. The application's own key set, then the later ones that were kept, each signed by the root of the one before.
2. The server's certificate, signed by *any* version of that chain. (Asking for the newest alone would win nothing:
   whoever writes the file could leave the newest out.) Its dates are not judged: an expired certificate stops new
   leases, never a running one (design §4). Where the application names its server (``server_id``), it is that one's.
3. The capability, signed by that server's key, for this product and this lease, in the mode ``borrowed``.
4. The machine: ``seat_id`` is this machine's fingerprint, and ``cnf`` binds to one thing: that fingerprint again, or
   (``jkt``) the key that was made here for a lease by file.
5. The time: the wall clock is before ``exp``, and it is not set back (``ClockSetBack``): not more than five minutes
   below ``iat`` or below the highest clock believed (``elapsed``). The mark is taken at each look and written at most
   once a minute. Once it has reached ``exp``, the lease stays ended.

What a lease *is* the signed capability says: what the file shows beside it may be edited, and only decorates.

Giving it back: first its server is asked about the lease; once that answered, the lease is marked ``returning`` on disk
and counts no more; then it is returned, also where the server said that it knows it no more: only the answer to the
return itself is a confirmation. So a seat is never used here and lent there because an answer was lost, and nobody
loses a seat over a cable that was not plugged in. The file goes when the return was confirmed.

Limits: an owner of the disk who puts an old copy of the file back is not seen. After a return the seat then counts here
until its end while the server lends it again; with the old time put back as well, even beyond it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from .announcing import announce_soon, announcement
from .elapsed import HighWater, Reading, read_clocks
from .environment import client_certificate, read_vendor_keys, server_urls
from .errors import (
    BadSetup,
    ClockSetBack,
    Damaged,
    LlsError,
    NoAnswer,
    NotBorrowed,
    OtherKey,
    Refused,
    SeatLost,
    Unreachable,
    Untrusted,
    Unusable,
    WrongMachine,
)
from .keeping import Kept, State, Store
from .machine_key import MachineKey
from .tls import Tls
from .transport import Answer, Channel, Request, Route, VendorKeys
from .trust import Capability, KeySet, ServerCertificate, nonce_text
from .values import Lease, machine_fingerprint

TOLERANCE_SECONDS = 300.0

_BETWEEN_WRITES_SECONDS = 60.0
_KEEP_ENDED_SECONDS = 30 * 86400.0
_NO_DATE = 1e11  # the year 5138: beyond it a NumericDate is a mistake, and none that `datetime` can hold
_BORROWED = "borrowed"
_GONE = frozenset({"lease_ended", "unknown_lease"})
_WITHOUT_TERMS = "borrowed"  # the server counts the seat, and has nothing to show of it: its entitlement went back


class Borrowed:
    """A borrowed lease that proved itself; made by :meth:`Seat.borrow`, :meth:`load` or ``accept_grant``.

    It answers like a seat (``valid``, ``check``, ``lease``, ``with`` …), so that an application need not know which of
    the two it holds. Leaving the ``with`` block gives nothing back.
    """

    def __init__(self, kept: Kept, capability: Capability, *, store: Store, route: Callable[[], Route]) -> None:
        self._kept, self._capability = kept, capability
        self._store, self._route = store, route
        self._clock = kept.clock or HighWater.at(capability.issued_at, read_clocks())
        self._gone = ""
        self._warned = False
        self._read_at = read_clocks().elapsed
        self._lock = threading.Lock()
        _in_use.add(self)

    @classmethod
    def load(
        cls,
        product: str,
        *,
        vendor_keys: str | bytes | Path | None = None,
        folder: str | Path | None = None,
        fingerprint: str | None = None,
        servers: str | Sequence[str] | None = None,
        server_id: str | None = None,
    ) -> Borrowed:
        """The borrowed lease of a product that counts now; of several the one that lasts longest. Needs no network.

        ``folder``: where it is kept, when not in the user's state folder. ``fingerprint``: the ``seat_id`` it was
        borrowed under, when not this machine's own. ``servers``: for ``extend`` and ``give_back``, when not those it
        came from; where they are named, or ``LLS_SERVER`` is set, the lease is shown to them (:meth:`announce_soon`).
        ``server_id``: lent by that server alone; ``Untrusted`` when by another.
        ``NotBorrowed``, ``ClockSetBack``, ``WrongMachine``, ``Damaged``, ``SeatLost`` (it ended) or ``Untrusted``.
        """
        found = borrowed_leases(
            vendor_keys=vendor_keys, folder=folder, fingerprint=fingerprint, servers=servers, server_id=server_id
        )
        return best(found, product, announced=bool(server_urls(servers)))

    def __repr__(self) -> str:
        return f"<Borrowed {self.product} until {self.until.isoformat()} {self.lease_id}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what the application asks --

    @property
    def valid(self) -> bool:
        """Does it count at this moment? Needs no network; writes the clock's mark now and then."""
        return self._look()[0] is None

    @property
    def valid_seconds(self) -> float:
        """For how long it goes on counting; 0 when it does not."""
        problem, now = self._look()
        return self._capability.expires_at - now.wall if problem is None else 0.0

    def check(self) -> None:
        """``SeatLost`` when it ended or was given back, ``ClockSetBack`` when the time cannot be believed."""
        problem, _ = self._look()
        if problem is not None:
            raise problem

    @property
    def product(self) -> str:
        """The product key."""
        return self._kept.product

    @property
    def lease_id(self) -> str:
        """The lease's id, the same as at the server."""
        return self._kept.lease_id

    @property
    def server_id(self) -> str:
        """The id of the server that lent it."""
        return self._capability.server_id

    @property
    def until(self) -> datetime:
        """Its end, as the server signed it."""
        return datetime.fromtimestamp(self._capability.expires_at, UTC)

    @property
    def lease(self) -> Lease:
        """The lease as the server showed it when it was lent.

        Edition, seats, attributes, switches and the units held are the signed ones, whatever the file says of them. A
        switch that is not signed as on is not there. All other figures are those of that day, to be shown and not to
        be relied upon; ``raw`` is empty.
        """
        return _signed(_lease(self._kept), self._capability)

    @property
    def capability(self) -> Capability:
        """The server's signed and verified statement; ``capability.token`` is for other verifiers."""
        return self._capability

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self._store.folder

    @property
    def by_file(self) -> bool:
        """Was it granted by file: then it is returned by file too (``make_return``)."""
        return bool(self._kept.key)

    def extend(self, until: datetime) -> None:
        """Asks its server for a later end (aware). ``Refused`` and ``NoAnswer`` leave it as it is.

        Other processes see the later end when they load the lease anew.
        """
        self._needs_network("extended", "BorrowRequest.extend")
        route, nonce = self._route(), nonce_text(os.urandom(32))
        asked = borrow_request(
            self.lease_id, self._kept.secret, until=until, fingerprint=self._capability.seat_id, nonce=nonce
        )
        try:
            answer, channel = route.insist(asked, server_id=self.server_id)
        except Refused as refusal:
            if refusal.code not in _GONE or not self._announced(route):
                raise
            answer, channel = route.insist(asked, server_id=self.server_id)
        capability, certificate = proved_answer(
            answer, channel, route=route, lease_id=self.lease_id, product=self.product, nonce=nonce
        )
        require_borrowed(capability, fingerprint=self._capability.seat_id)
        shown = Lease.from_json(answer.body.get("lease"))
        with self._lock, self._store.changing():
            kept = self._store.read(self.lease_id)
            if kept.state is not State.HELD:
                raise SeatLost("The borrowed seat was given back meanwhile.")
            self._kept = replace(
                kept,
                until=capability.expires_at,
                lease=shown.as_json(),
                capability=capability.token,
                certificate=certificate.token,
                keys=route.keys.later,
            )
            self._store.write(self._kept)
            self._capability = capability

    def announce(self) -> bool:
        """Shows its server the lease, with the server's own signed word for it. ``False``: no server took it.

        A server that was restored from an older backup does not know the lease; it counts it again when it is shown.
        ``extend`` does this by itself, loading it does so in the background. Costs one call, and changes nothing where
        the lease is known.
        """
        self._needs_network("announced", "BorrowRequest.extend")
        return self._announced(self._route())

    def _announced(self, route: Route) -> bool:
        try:
            route.insist(announcement(self._kept, self._capability.token), server_id=self.server_id)
        except (Refused, NoAnswer):
            return False
        return True

    def announce_soon(self) -> None:
        """The same in the background, twice a day at most, and nothing to wait for (``announcing``).

        Loading a loan does it where servers are named. Worth a call now and then in a program that runs for weeks.
        """
        announce_soon(
            self._kept, self._capability.token, server_id=self.server_id, store=self._store, route=self._route
        )

    def give_back(self) -> bool:
        """Returns the seat before its end. ``False``: no server confirmed it; call again when one can be reached.

        When nobody answered at all, the seat is still borrowed and goes on counting here; when the answer to the return
        alone was lost, it counts here no more. ``valid`` says which.
        """
        self._needs_network("given back", "make_return")
        return give_back(self._kept, store=self._store, route=self._route(), leaving=self._leave)

    def release(self) -> bool:
        """The same under a seat's name for it."""
        return self.give_back()

    def close(self) -> None:
        """Gives nothing back; it is there so that a seat and a borrowed seat may be closed alike."""

    # -- behind them --

    def _needs_network(self, act: str, instead: str) -> None:
        if self.by_file:
            raise BadSetup(f"This lease was granted by file and is {act} by file: see `{instead}`.")

    def _leave(self) -> None:
        with self._lock:
            self._gone = "The borrowed seat was given back."

    def _look(self) -> tuple[LlsError | None, Reading]:
        with self._lock:
            now = read_clocks()
            problem = self._problem(now)
            if not self._gone and not isinstance(problem, ClockSetBack):
                self._remember(now)
                problem = self._problem(now)
            return problem, now

    def _problem(self, now: Reading) -> LlsError | None:
        capability = self._capability
        seen = max(self._clock.mark, capability.issued_at)
        if self._gone:
            return SeatLost(self._gone)
        if max(now.wall, self._clock.mark) >= capability.expires_at:
            return SeatLost(f"The borrowed seat ended on {_words(capability.expires_at)}.")
        if now.wall < seen - TOLERANCE_SECONDS:
            return clock_set_back(now.wall, seen)
        return None

    def _remember(self, now: Reading) -> None:
        self._clock = self._clock.raised(now, at_most=self._capability.expires_at)
        written = self._kept.clock.mark if self._kept.clock else 0.0
        # Also where the clock stands below its mark: what another process gave back is to be noticed.
        due = max(self._clock.mark - written, now.elapsed - self._read_at) >= _BETWEEN_WRITES_SECONDS
        if not due and not written < self._capability.expires_at <= self._clock.mark:
            return
        self._read_at = now.elapsed
        try:
            with self._store.changing():
                self._write_mark()
        except NotBorrowed:
            self._gone = "The borrowed seat was given back."
        except Damaged as damage:
            self._gone = str(damage)
        except OSError as error:
            # A full disk must cost nobody their seat; this process goes on guarding the clock in memory.
            if not self._warned:
                self._warned = True
                warnings.warn(f"The borrowed lease's clock cannot be kept: {error}.", RuntimeWarning, stacklevel=5)

    def _write_mark(self) -> None:
        kept = self._store.read(self.lease_id)
        if kept.state is not State.HELD:
            self._gone = "The borrowed seat was given back."
        elif kept.clock is None or kept.clock.mark < self._clock.mark:
            kept = replace(kept, clock=self._clock)
            self._store.write(kept)
        else:
            self._clock = replace(self._clock, mark=min(kept.clock.mark, self._capability.expires_at))
        self._kept = replace(self._kept, clock=kept.clock)

    def _forget_in_child(self) -> None:
        """After a fork: the lock may have been held by a thread that this process does not have."""
        self._lock = threading.Lock()


_in_use: weakref.WeakSet[Borrowed] = weakref.WeakSet()


def _forget_all_in_child() -> None:
    for borrowed in list(_in_use):
        borrowed._forget_in_child()  # noqa: SLF001  (same module)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all_in_child)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One file of the folder: ``borrowed`` when its chain holds, ``problem`` when it does not count here and now.

    ``product``, ``until`` and ``state`` are what the file says, unproved; empty where it cannot be read.
    """

    lease_id: str
    product: str = ""
    until: datetime | None = None
    state: State | None = None
    by_file: bool = False
    borrowed: Borrowed | None = None
    problem: LlsError | None = None


def borrowed_leases(
    *,
    vendor_keys: str | bytes | Path | None = None,
    folder: str | Path | None = None,
    fingerprint: str | None = None,
    servers: str | Sequence[str] | None = None,
    server_id: str | None = None,
) -> list[Found]:
    """Everything that is kept on this disk, the one that lasts longest first. Parameters as for ``Borrowed.load``."""
    keys = read_vendor_keys(vendor_keys)
    route = route_of(keys, servers)
    return found_in(Store(folder), keys=keys, fingerprint=fingerprint, server_id=server_id, route=route)


def found_in(
    store: Store,
    *,
    keys: KeySet,
    fingerprint: str | None,
    server_id: str | None,
    route: Callable[[Kept], Callable[[], Route]],
) -> list[Found]:
    """The same with everything at hand; ``route`` makes the way to a lease's server when it is needed."""
    here = fingerprint or machine_fingerprint()
    found = [
        _found(lease_id, kept, store=store, keys=keys, here=here, server_id=server_id, route=route)
        for lease_id, kept in store.all()
    ]
    return sorted(found, key=lambda one: one.until or datetime.min.replace(tzinfo=UTC), reverse=True)


def best(found: Sequence[Found], product: str, *, announced: bool) -> Borrowed:
    """The lease of the product that counts now, or the most telling reason why there is none.

    ``announced``: servers are named, so it is shown to them.
    """
    of_it = [one for one in found if one.product == product]
    for one in of_it:
        if one.borrowed is not None and one.problem is None:
            if announced:
                one.borrowed.announce_soon()
            return one.borrowed
    # A file that cannot be read may have been this product's.
    problems = [one.problem for one in (*of_it, *found) if one.problem and (one.product == product or not one.product)]
    for kind in (ClockSetBack, WrongMachine, Untrusted, Damaged, SeatLost):
        for problem in problems:
            if isinstance(problem, kind):
                raise problem
    raise NotBorrowed(f"No seat of {product} is borrowed on this machine.")


def _found(
    lease_id: str,
    kept: Kept | Damaged,
    *,
    store: Store,
    keys: KeySet,
    here: str,
    server_id: str | None,
    route: Callable[[Kept], Callable[[], Route]],
) -> Found:
    if isinstance(kept, Damaged):
        return Found(lease_id=lease_id, problem=kept)
    about = Found(
        lease_id=lease_id,
        product=kept.product,
        until=datetime.fromtimestamp(0, UTC) + timedelta(seconds=min(kept.until, 2e11)),
        state=kept.state,
        by_file=bool(kept.key),
    )
    if kept.state is not State.HELD:
        return replace(about, problem=_NOT_HELD[kept.state](kept))
    try:
        capability = proved(kept, keys=keys, fingerprint=here, server_id=server_id)
        _lease(kept)
    except (Unusable, Untrusted) as problem:
        return replace(about, problem=problem)
    borrowed = Borrowed(kept, capability, store=store, route=route(kept))
    return replace(about, borrowed=borrowed, until=borrowed.until, problem=_trouble(borrowed))


def _trouble(borrowed: Borrowed) -> LlsError | None:
    try:
        borrowed.check()
    except (SeatLost, ClockSetBack) as problem:
        return problem
    return None


_NOT_HELD: dict[State, Callable[[Kept], LlsError]] = {
    State.ASKED: lambda kept: NotBorrowed(f"{kept.product}: the answer of the license server was lost."),
    State.REQUESTED: lambda kept: NotBorrowed(f"{kept.product} was requested by file; the grant is not here yet."),
    State.RETURNING: lambda kept: SeatLost(f"{kept.product} is being given back; no server confirmed it yet."),
    State.RETURNED: lambda kept: SeatLost(f"{kept.product} was given back by file."),
}


# -- proving -------------------------------------------------------------------------------------------------------


def proved(kept: Kept, *, keys: KeySet, fingerprint: str, server_id: str | None) -> Capability:
    """Steps 1 to 4: the capability of a kept lease. ``Untrusted``, ``WrongMachine`` or ``Damaged`` otherwise.

    ``server_id``: the one server whose word counts; ``None``: every certified one's.
    """
    certificate = certified(kept.certificate, chain(keys, kept.keys))
    if server_id not in (None, certificate.server_id):
        raise Untrusted(f"The seat was lent by the license server {certificate.server_id}, not by {server_id}.")
    capability = certificate.capability(kept.capability, nonce=None, lease_id=kept.lease_id, product=kept.product)
    # Over the network the answer was compared with its nonce when it came.
    if kept.nonce and capability.nonce not in (kept.nonce, *kept.nonces):
        raise Untrusted("The grant was made for another request than those made here.")
    jkt = MachineKey.read(kept.key).thumbprint if kept.key else None
    require_borrowed(capability, fingerprint=fingerprint, jkt=jkt)
    return capability


def chain(anchor: KeySet, documents: Sequence[object]) -> list[KeySet]:
    """The application's key set and its proved successors, newest first."""
    keys = VendorKeys(anchor)
    found = [anchor]
    for document in documents:
        newest = keys.advance([document])
        if newest is not found[0]:
            found.insert(0, newest)
    return found


def certified(document: object, versions: Sequence[KeySet]) -> ServerCertificate:
    """The server's certificate under the first version that vouches for it."""
    for version in versions:
        with contextlib.suppress(OtherKey):
            return version.certificate(document)
    raise Untrusted("The server that lent the seat is not certified by this vendor.")


def require_borrowed(capability: Capability, *, fingerprint: str, jkt: str | None = None) -> None:
    """Step 4, and that it is a borrowed lease at all. ``jkt``: the thumbprint of the key that it must be bound to."""
    if capability.mode != _BORROWED:
        raise Untrusted(f"The capability is of a {capability.mode} lease; it counts only while its server answers.")
    if not 0 < capability.issued_at < capability.expires_at < _NO_DATE:
        raise Untrusted("The capability of a borrowed lease has no proper beginning and end.")
    if len({"jkt", "fingerprint"} & capability.bound_to.keys()) != 1:
        raise Untrusted("The capability is not bound to one machine.")
    if jkt is not None:
        if capability.bound_to.get("jkt") != jkt:
            raise WrongMachine("The lease was granted to another request than the one made here.")
    elif capability.bound_to.get("fingerprint") != capability.seat_id:
        raise Untrusted("The capability is not bound to the machine that borrowed.")
    if capability.seat_id != fingerprint:
        raise WrongMachine("The seat was borrowed by another machine; borrow one for this machine.")


# -- asking --------------------------------------------------------------------------------------------------------


def borrow_request(lease_id: str, secret: str, *, until: datetime, fingerprint: str, nonce: str) -> Request:
    """``BadSetup`` when ``until`` is no end that can be asked for (:func:`wire_end`)."""
    body = {"until": wire_end(until), "fingerprint": fingerprint, "nonce": nonce}
    return Request(method="POST", path=f"/v1/leases/{lease_id}/borrow", body=body, secret=secret)


def proved_answer(
    answer: Answer, channel: Channel, *, route: Route, lease_id: str, product: str, nonce: str
) -> tuple[Capability, ServerCertificate]:
    """The capability of an answer, and the certificate that it holds under; a newer one is asked for where needed."""
    token = answer.body.get("capability")
    try:
        certificate = channel.certificate()
        try:
            return certificate.capability(token, nonce=nonce, lease_id=lease_id, product=product), certificate
        except OtherKey:
            # The server may have a newer certificate than the one we know.
            certificate = channel.certificate(renew=True)
            return certificate.capability(token, nonce=nonce, lease_id=lease_id, product=product), certificate
    except Untrusted:
        route.avoid(channel)
        raise


def keep(store: Store, kept: Kept, capability: Capability) -> Kept:
    """Puts a proved lease on disk, where it was asked for, and tidies up what ended long ago by the server's word."""
    with store.changing():
        try:
            state = store.read(kept.lease_id).state
        except NotBorrowed as error:
            raise SeatLost("The borrowed seat was given back meanwhile.") from error
        if state is State.RETURNING:
            raise SeatLost("The borrowed seat was given back meanwhile.")
        store.write(kept)
    tidy_up(store, capability)
    return kept


def tidy_up(store: Store, capability: Capability) -> None:
    """Removes what had ended long before a proved lease was lent."""
    store.tidy(before=capability.issued_at - _KEEP_ENDED_SECONDS)


def give_back(kept: Kept, *, store: Store, route: Route, leaving: Callable[[], object] = lambda: None) -> bool:
    """``True`` when a server confirmed the return, of a lease whose grant was never heard of too.

    ``leaving`` is called when it counts here no more, which is before any server is told.
    """
    path, server_id = f"/v1/leases/{kept.lease_id}", kept.server_id or None
    question, goodbye = (Request(method=method, path=path, secret=kept.secret) for method in ("GET", "DELETE"))
    try:
        with _fine(_GONE | {_WITHOUT_TERMS}):
            route.ask(question, server_id=server_id)
        leaving()
        with store.changing():
            store.write(replace(kept, state=State.RETURNING))
        # Also to a server that knows the lease no more: it may count the seat all the same, until it is returned.
        with _fine(_GONE):
            route.insist(goodbye, server_id=server_id)
    except NoAnswer:
        return False
    with store.changing():
        store.remove(kept.lease_id)
    return True


@contextlib.contextmanager
def _fine(codes: Collection[str]) -> Iterator[None]:
    try:
        yield
    except Refused as refusal:
        if refusal.code not in codes:
            raise


def wire_instant(instant: datetime) -> str:
    """RFC 3339 in UTC, whole seconds. ``BadSetup`` when it names no time zone."""
    if instant.tzinfo is None:
        raise BadSetup("`until` needs a time zone.")
    try:
        return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except OverflowError as error:
        raise BadSetup("`until` is no instant that UTC can name.") from error


def wire_end(until: datetime) -> str:
    """The same of an end that is asked for. ``BadSetup`` also when it is none that could be kept, or any vendor lends.

    It need not lie ahead: over the network that is for the server's clock to say.
    """
    stamp = wire_instant(until)
    if not 0 < until.timestamp() < _NO_DATE:
        raise BadSetup("`until` is no sensible end: it must be a day of our time.")
    return stamp


def clock_set_back(wall: float, seen: float) -> ClockSetBack:
    """The error, in words for the person at the machine."""
    return ClockSetBack(
        f"This machine's clock shows {_words(wall)}, but it has been {_words(seen)} before: it was set back. "
        "Set it right, and the borrowed seat counts again.",
        behind_seconds=seen - wall,
    )


def route_of(keys: KeySet, servers: str | Sequence[str] | None) -> Callable[[Kept], Callable[[], Route]]:
    """How a kept lease's server is found later: by ``servers``, the environment, or the addresses it came from."""

    def of(kept: Kept) -> Callable[[], Route]:
        def make() -> Route:
            known = VendorKeys(keys)
            known.advance(kept.keys)
            urls = server_urls(servers) or list(kept.servers)
            tls = Tls(ca_file=None, ours=client_certificate(None))
            return Route(urls, keys=known, timeout=10.0, tls=tls, allow_http=False)

        return make

    return of


def _lease(kept: Kept) -> Lease:
    try:
        return Lease.from_json(dict(kept.lease))
    except Unreachable as error:
        raise Damaged(f"The kept lease {kept.lease_id} is damaged.") from error


def _signed(shown: Lease, capability: Capability) -> Lease:
    """By the signed claims alone; the shown type may be edited, so it decides nothing but what must be signed as on."""
    features = {}
    for key, one in shown.features.items():
        claim = capability.features.get(key)
        # What the lease holds is signed as its number, of a switch too; every other switch as `true` or `false`.
        units = claim if isinstance(claim, int) and not isinstance(claim, bool) else 0
        if claim is True:
            features[key] = replace(one, type="bool", value=1, held=0, raw={})
        elif claim is not False and (one.type != "bool" or units > 0):
            features[key] = replace(one, held=units, raw={})
    return replace(
        shown,
        lease_id=capability.lease_id,
        product=capability.product,
        mode=capability.mode,
        entitlement_id=capability.entitlement_id,
        edition=capability.edition,
        seats=capability.seats,
        expires_at=datetime.fromtimestamp(capability.expires_at, UTC),
        features=features,
        attributes=capability.attributes,
        raw={},
    )


def _words(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
