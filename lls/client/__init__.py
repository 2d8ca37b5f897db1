"""Hold a seat of a license server, from Python: the standard library and ``cryptography``, nothing else.

This package may be copied into an application as it stands. The five lines::

    from lls.client import checkout

    with checkout("cad", vendor_keys=KEYS, on_event=print) as seat:
        print(seat.lease.attributes)
        run_the_application()

Which file decides what: ``trust`` whom to believe, ``session`` what to say next, ``transport`` how it travels, ``tls``
what a connection shows of us, ``seat`` and ``aio`` the blocking and the asyncio interface, ``borrowing`` what counts
on the road, ``announcing`` when a server is shown what it lent, ``carried`` the same by file (``requesting`` what a
request may say, ``machine_key`` its key), ``keeping`` the disk, ``values`` and ``errors`` what callers see,
``elapsed`` the clocks, ``environment`` what need not be said. ``python -m lls.client`` borrows by file.
"""

from . import aio
from .borrowing import Borrowed, Found, borrowed_leases
from .carried import BorrowRequest, accept_grant, discard, make_return
from .errors import (
    BadSetup,
    Busy,
    ClockSetBack,
    Damaged,
    LlsError,
    NoAnswer,
    NotBorrowed,
    Refused,
    SeatLost,
    Unreachable,
    Untrusted,
    Unusable,
    WrongMachine,
)
from .seat import LicenseServers, Seat, Use, checkout, seat_or_borrowed
from .tls import ClientCertificate
from .values import Entitlement, Event, EventKind, Feature, Holder, Lease, Order, Product, machine_fingerprint

__all__ = [
    "BadSetup",
    "BorrowRequest",
    "Borrowed",
    "Busy",
    "ClientCertificate",
    "ClockSetBack",
    "Damaged",
    "Entitlement",
    "Event",
    "EventKind",
    "Feature",
    "Found",
    "Holder",
    "Lease",
    "LicenseServers",
    "LlsError",
    "NoAnswer",
    "NotBorrowed",
    "Order",
    "Product",
    "Refused",
    "Seat",
    "SeatLost",
    "Unreachable",
    "Untrusted",
    "Unusable",
    "Use",
    "WrongMachine",
    "accept_grant",
    "aio",
    "borrowed_leases",
    "checkout",
    "discard",
    "machine_fingerprint",
    "make_return",
    "seat_or_borrowed",
]
