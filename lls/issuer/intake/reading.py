"""What several sources write in several ways: whole numbers, instants, references, and who bought.

Everything raises RefusedDocument with the place. It refuses to guess: five and a half seats, or an instant without a
zone, are not made into something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from lls.issuer.intake.facts import Buyer, Nothing
from lls.issuer.intake.settings import Account, Source
from lls.licensing.entitlement import MOST_SEATS
from lls.licensing.fields import LARGEST, LONGEST_TEXT, Fields, malformed

LONGEST_ID: Final = 80
"""An id of a source; with the source's name before it, it still is a reference of an order."""
_LATEST_SECOND: Final = 253_402_300_799
_MICRO: Final = 7
"""A full stop and six digits."""
_WHOLE: Final = re.compile(r"(-?[0-9]{1,9})(?:[.,]0{1,10})?")
_INSTANT: Final = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d{1,9})? ?(Z|UTC|[+-]\d\d:?\d\d)")


class Told(Fields):
    """An object in somebody else's words."""

    __slots__ = ()

    def raw(self, key: str) -> Any:
        """The member as it is, or None."""
        return self._document.get(key)

    def part(self, key: str) -> Told:
        """A member that is an object; an empty one where it is null, absent, or of another kind (``[]`` for none)."""
        value = self.raw(key)
        return Told(value if isinstance(value, dict) else {}, place=f"{self.place}.{key}")

    def parts(self, *keys: str) -> list[Told]:
        """An array of objects below a path of members; absent means empty."""
        here = self
        for key in keys[:-1]:
            here = here.part(key)
        return [Told(item, place=f"{here.place}.{keys[-1]}[{n}]") for n, item in enumerate(here.list(keys[-1]))]

    def ref(self, *keys: str) -> str:
        """An id, or the object that was put in its place, of which the ``id`` is meant; the first key that is there."""
        key = next((key for key in keys if self.has(key)), keys[0])
        if isinstance(self.raw(key), dict):
            return self.part(key).text("id", most=LONGEST_ID)
        if isinstance(self.raw(key), int) and not isinstance(self.raw(key), bool):
            return str(self.integer(key))
        return self.text(key, most=LONGEST_ID)

    def optional_ref(self, *keys: str) -> str | None:
        """The same, or None where none is there."""
        return self.ref(*keys) if any(self.has(key) for key in keys) else None

    def short(self, key: str) -> str | None:
        """A text for people, as far as it can be printed: blanks once, 200 characters; None where there is none."""
        value = self.raw(key)
        if not isinstance(value, str):
            return None
        text = "".join(letter for letter in " ".join(value.split()) if letter.isprintable())
        return text[:LONGEST_TEXT].strip() or None

    def whole(self, key: str, *, least: int = 0, otherwise: int | None = None) -> int:
        """A whole number, as a number or as a text, such as 5, 5.0 or ``"5.00"``."""
        value = self.raw(key)
        if value is None and otherwise is not None:
            return otherwise
        found = _WHOLE.fullmatch(value.strip()) if isinstance(value, str) else None
        number = int(found[1]) if found else value
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= MOST_SEATS:
            raise malformed(f"{self.place}.{key}", f"must be a whole number from {least} to {MOST_SEATS}")
        return number

    def moment(self, key: str, *, per_second: int = 1) -> datetime:
        """An instant as a number (seconds since 1970, or so many parts of one) or a text with its zone."""
        value = self.raw(key)
        if isinstance(value, str):
            return self._zoned(key, value)
        number = self.integer(key, most=min(_LATEST_SECOND * per_second, LARGEST))
        # Parts of a second decide which of two states is the newer.
        second, part = divmod(number, per_second)
        return datetime.fromtimestamp(second, UTC) + timedelta(microseconds=part * 1_000_000 // per_second)

    def optional_moment(self, *keys: str, per_second: int = 1) -> datetime | None:
        """The first that is there, or None."""
        key = next((key for key in keys if self.raw(key) not in (None, "")), None)
        return None if key is None else self.moment(key, per_second=per_second)

    def _zoned(self, key: str, text: str) -> datetime:
        found = _INSTANT.fullmatch(text.strip())
        try:
            if found is not None:
                part = (found[3] or "")[:_MICRO]
                zone = "+00:00" if found[4] in ("Z", "UTC") else f"{found[4][:3]}:{found[4][-2:]}"
                return datetime.fromisoformat(f"{found[1]}T{found[2]}{part}{zone}").astimezone(UTC)
        except (ValueError, OverflowError):
            pass  # February 30th, or the year 1 in a zone to the east; the sentence below fits it
        raise malformed(f"{self.place}.{key}", "must be an instant with its zone")


def buyer(source: Source, *, own: Told, customer: str | None, name: str | None, account: str | None = None) -> Buyer:
    """Who bought. ``own`` holds what the vendor told the shop (``account_ref``, ``server_id``).

    ``customer`` is the source's id of them; ``account`` the vendor's reference, where the source has a place for it.
    """
    account_ref = own.short("account_ref") or account
    if source.account is Account.SOURCE:
        account_ref = customer
    return Buyer(account_ref=account_ref, name=own.short("customer_name") or name, server_id=own.short("server_id"))


def order_of(order_ref: str, who: Buyer, lines: Sequence[Mapping[str, object]], *, place: str) -> dict[str, object]:
    """An order in the neutral form. ``place`` is where the account reference should have been."""
    if who.account_ref is None:
        raise malformed(place, "is missing, so nobody knows for whom this is")
    order: dict[str, object] = {"order_ref": order_ref, "account_ref": who.account_ref, "lines": list(lines)}
    if who.server_id is not None:
        order["server_id"] = who.server_id
    if who.name is not None:
        order["customer"] = {"name": who.name}
    return order


def trial(told: Told, key: str, source: Source) -> Nothing | None:
    """An event whose member says that it is no sale but a trial, paid with a card that shops publish for it."""
    if told.raw(key) is not False or source.test_events:
        return None
    return Nothing(
        why=f"It is a trial of the shop's own ({key} is false), so nothing was paid. To take such events for sales, "
        f"set test_events = true in [{source.name}]."
    )


def quiet(value: object) -> str:
    """A subject for the inbox: an id, or nothing where it is none."""
    return value if isinstance(value, str) and len(value) <= LONGEST_ID and value.isprintable() else ""
