"""Hold a seat of a license server, from Python: the standard library and ``cryptography``, nothing else.

This package may be copied into an application as it stands. The five lines::

    from lls.client import checkout

    with checkout("cad", vendor_keys=KEYS, on_event=print) as seat:
        print(seat.lease.attributes)
        run_the_application()

Which file decides what: ``trust`` whom to believe, ``session`` what to say next, ``transport`` how it travels,
``seat`` and ``aio`` the blocking and the asyncio interface, ``values`` and ``errors`` what callers see, ``elapsed``
the clocks.
"""

from . import aio
from .errors import BadSetup, Busy, LlsError, NoAnswer, Refused, SeatLost, Unreachable, Untrusted
from .seat import Borrowed, LicenseServers, Seat, Use, checkout
from .values import Entitlement, Event, EventKind, Feature, Holder, Lease, Order, Product, machine_fingerprint

__all__ = [
    "BadSetup",
    "Borrowed",
    "Busy",
    "Entitlement",
    "Event",
    "EventKind",
    "Feature",
    "Holder",
    "Lease",
    "LicenseServers",
    "LlsError",
    "NoAnswer",
    "Order",
    "Product",
    "Refused",
    "Seat",
    "SeatLost",
    "Unreachable",
    "Untrusted",
    "Use",
    "aio",
    "checkout",
    "machine_fingerprint",
]
