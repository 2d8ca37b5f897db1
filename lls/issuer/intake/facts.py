"""What an event says, in words that belong to no shop: the middle between the adapters and ``processing``.

Rules
1. An adapter turns one stored event into one fact and knows nothing of the register; ``processing`` turns facts into
   orders and knows nothing of any shop.
2. A subscription is named by its source's own id, and each thing in it by an item of that source's own. An item that
   was changed keeps its name.
3. Products are the source's own (a price id, a product path, an item code); the settings' ``[skus]`` translates them.
4. ``stage`` is how far the invoice has come that the fact is about; grants may wait for a later one.
5. ``at`` says when the source saw it so, and ``sequence`` which of two of one instant was later, where the source
   counts. They put what arrives into its right order (``course``); they never become the date of anything sold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from lls.issuer.catalog import Stage

if TYPE_CHECKING:
    from lls.issuer.intake.settings import Source

Document: TypeAlias = Mapping[str, Any]
"""An event as it is stored: a JSON object, nothing known of it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Buyer:
    """Who bought, as far as an event tells; ``server_id`` hosts what was bought."""

    account_ref: str | None = None
    name: str | None = None
    server_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing in a subscription or a purchase, so many of it."""

    item: str
    product: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """The event changes nothing here; ``why`` is a sentence for ``inbox list``."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """Orders in the neutral form of ``lls.issuer.orders``, but for the SKUs, which are the source's products."""

    orders: tuple[Document, ...]
    stage: Stage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoiced:
    """How far an invoice has come; ``ref`` is the order's ``invoice_ref``, or else its reference."""

    ref: str
    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduced:
    """Whose a subscription is; what is in it comes with another event, before or after."""

    subscription: str
    buyer: Buyer


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A subscription was bought; ``ref`` is the source's number of the purchase."""

    subscription: str
    ref: str
    buyer: Buyer
    items: tuple[Item, ...]
    stage: Stage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """Single things on an invoice of a subscription, which are not renewed with it; ``lines`` as those of an order."""

    subscription: str
    ref: str
    lines: tuple[Document, ...]
    stage: Stage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """Another term was sold; ``ref`` is the source's number of the invoice or charge.

    ``only`` names the items that it is for; None: whatever was in the subscription at that time.
    """

    subscription: str
    ref: str
    at: datetime
    sequence: int = 0
    only: frozenset[str] | None = None
    stage: Stage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What a subscription holds now.

    ``items`` None: nothing is said of them. ``whole``: an item that is not listed was taken out. ``active`` False: not
    paid for, or paused; None: nothing is said.
    """

    subscription: str
    at: datetime
    sequence: int = 0
    items: tuple[Item, ...] | None = None
    whole: bool = True
    active: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A subscription is over; ``paid_until`` is the end of what was paid for, where the source tells it."""

    subscription: str
    at: datetime
    sequence: int = 0
    paid_until: datetime | None


Fact: TypeAlias = Nothing | Ordered | Invoiced | Introduced | Bought | Started | Renewed | Changed | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a source, read but not understood. ``subject`` is its subscription, or empty.

    ``volatile`` names members of the document that may differ between two deliveries of the same event.
    """

    event_id: str
    kind: str
    document: Document
    subject: str = ""
    sent_at: datetime | None = None
    volatile: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def sha256(self) -> str:
        """Over the content, whatever the spacing and order of members."""
        lasting = {key: value for key, value in self.document.items() if key not in self.volatile}
        return hashlib.sha256(json.dumps(lasting, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One source's language.

    ``events`` reads a body whose signature held (bytes, media type) and raises BadRequest; ``fact`` says what a stored
    event means and raises RefusedDocument where it is not of the form that its source publishes.
    """

    source: str
    about: str
    media: tuple[str, ...]
    events: Callable[[bytes, str], list[Event]]
    fact: Callable[[Event, Source], Fact]
