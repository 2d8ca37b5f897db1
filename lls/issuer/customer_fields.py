"""The vendor's own fields of a customer: their schema, read from one TOML file, and values judged by it.

Rules
1. Each field has a key, a type (``text``, ``number``, ``date``, ``choice``), and says whether it is required and
   whether it travels in bundles. Whatever is not said to travel stays with the vendor: a credit
   limit must not lie at the site.
2. Values are kept as texts, in one form: a number without a sign too many, a date as ``2026-11-21``.
3. Before any schema is loaded, every field of a fitting name is taken, and none travels.
4. A later schema judges what is written from then on. What lies there already is told where it does not fit, and kept:
   nothing that was written once is lost by a file; what the schema does not know does not travel.

It refuses to own customers (``customers``).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Final

from lls.faults import RefusedDocument
from lls.issuer.catalog_file import only, table
from lls.issuer.refusals import CatalogRefused
from lls.licensing.fields import Fields, malformed

LARGEST_FIELDS_BYTES: Final = 1 << 20
LONGEST_VALUE: Final = 1_000
MOST_FIELDS: Final = 100
MOST_CHOICES: Final = 1_000
_MOST_SHOWN: Final = 20
FIELD_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,50}")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,6})?")


class FieldType(StrEnum):
    """What a field's value is."""

    TEXT = "text"
    NUMBER = "number"
    DATE = "date"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldTerms:
    """One field of the schema; ``choices`` are there for a ``choice`` only."""

    key: str
    name: str
    type: FieldType
    required: bool
    in_bundle: bool
    choices: tuple[str, ...] = ()

    def complaint(self, value: str) -> str | None:
        """What is wrong with a value; None: nothing."""
        match self.type:
            case FieldType.NUMBER if not _NUMBER.fullmatch(value) or value == "-0":
                return "must be a number such as 12 or -0.5, with at most 15 digits and 6 decimals"
            case FieldType.DATE if not _is_day(value):
                return "must be a day such as 2026-11-21"
            case FieldType.CHOICE if value not in self.choices:
                more = ", …" if len(self.choices) > _MOST_SHOWN else ""
                return f"must be one of {', '.join(self.choices[:_MOST_SHOWN])}{more}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerFields:
    """The schema in force; ``loaded`` false: none is, and fields are free."""

    terms: Mapping[str, FieldTerms] = field(default_factory=dict)
    loaded: bool = False

    def complaints(
        self, values: Mapping[str, str], *, given: Mapping[str, str] | None = None
    ) -> Iterator[tuple[str, str]]:
        """What is wrong with a customer's fields, as (key, complaint); ``given``: only those are new, judge them."""
        for key, value in (values if given is None else given).items():
            if not FIELD_KEY.fullmatch(key):
                yield key, "must be named with 1 to 50 characters of A-Z a-z 0-9 . _ -"
            elif self.loaded and key not in self.terms:
                yield key, f"is not among the customers' fields; there are {', '.join(sorted(self.terms)) or 'none'}"
            elif not 1 <= len(value) <= LONGEST_VALUE or not value.isprintable():
                yield key, f"must be a printable text of 1 to {LONGEST_VALUE:,} characters"
            elif self.loaded and (complaint := self.terms[key].complaint(value)) is not None:
                yield key, complaint
        for key, terms in self.terms.items():
            if terms.required and key not in values:
                yield key, "is required and missing"
        if len(values) > MOST_FIELDS:
            yield "", f"must be at most {MOST_FIELDS} fields"

    def check(self, values: Mapping[str, str], *, given: Mapping[str, str] | None = None, place: str) -> None:
        """Raises RefusedDocument with the first complaint."""
        for key, complaint in self.complaints(values, given=given):
            raise malformed(f"{place}.{key}" if key else place, complaint)

    def travelling(self, values: Mapping[str, str]) -> dict[str, str]:
        """Those that bundles carry (rule 1)."""
        return {key: value for key, value in values.items() if key in self.terms and self.terms[key].in_bundle}


def read_customer_fields(text: str) -> CustomerFields:
    """The schema's file → the schema. Raises :class:`CatalogRefused` that names the place."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as failure:
        raise CatalogRefused(f"The customers' fields are not valid TOML: {failure}.") from failure
    try:
        return _read(document)
    except RefusedDocument as refused:
        raise CatalogRefused(f"The customers' fields were refused: {refused.detail}") from refused


def _read(document: Mapping[str, object]) -> CustomerFields:
    only(document, ("format", "fields"), place="")
    if Fields(document, place="").integer("format") != 1:
        raise malformed("format", "must be 1, the only format that this version reads")
    given = table(document.get("fields", {}), place="fields")
    if len(given) > MOST_FIELDS:
        raise malformed("fields", f"must be at most {MOST_FIELDS}")
    return CustomerFields(terms={key: _read_field(key, item) for key, item in given.items()}, loaded=True)


def _read_field(key: str, item: object) -> FieldTerms:
    place = f"fields.{key}"
    if not FIELD_KEY.fullmatch(key):
        raise malformed(f"fields.{key!r}", "must be named with 1 to 50 characters of A-Z a-z 0-9 . _ -")
    only(table(item, place=place), ("name", "type", "required", "in_bundle", "choices"), place=place)
    fields = Fields(item, place=place)
    kind = fields.kind("type", FieldType)
    choices = fields.texts("choices", most=MOST_CHOICES)
    if (kind is FieldType.CHOICE) != bool(choices):
        raise malformed(f"{place}.choices", "must list the choices of a choice, and nothing else has any")
    if len(set(choices)) != len(choices):
        raise malformed(f"{place}.choices", "names one choice twice")
    return FieldTerms(
        key=key,
        name=fields.optional_text("name") or key,
        type=kind,
        required=fields.has("required") and fields.flag("required"),
        in_bundle=fields.has("in_bundle") and fields.flag("in_bundle"),
        choices=choices,
    )


def _is_day(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False
