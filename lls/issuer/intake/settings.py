"""The intake's TOML: which sources may send, how they prove it, and what their products are called here.

    listen = "127.0.0.1:6510"
    keep_days = 90

    [skus]
    price_123 = "CAD-PRO-1Y"
    price_topup = { sku = "CLOUD-1000", action = "add_grant" }
    price_setup = ""                     # sells no licence

    [stripe]
    secret_file = "stripe.secret"        # or secret_env = "STRIPE_SECRET"

Rules
1. Read strictly: an unknown name or a wrong type refuses the whole file and names the place.
2. A secret is in a file or in an environment variable that the TOML names; in the TOML itself it would be in every
   backup and every question to support. Several, one a line, are good at once.
3. Only a source that has a table may send anything.
4. The body of an event names people. It is kept for as long as the event is open, and then for ``keep_days``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from lls.faults import RefusedDocument
from lls.issuer.catalog import Action
from lls.issuer.catalog_file import only, table
from lls.issuer.files import read_bounded
from lls.issuer.intake.signatures import Proof, Scheme
from lls.issuer.refusals import IntakeRefused
from lls.licensing.fields import Fields, malformed

DEFAULT_LISTEN: Final = "127.0.0.1:6510"
LARGEST_SETTINGS_BYTES: Final = 1 << 20
LARGEST_SECRET_BYTES: Final = 4_096
LONGEST_TOLERANCE_SECONDS: Final = 86_400
DEFAULT_KEEP_DAYS: Final = 90
_MOST_KEEP_DAYS: Final = 36_500
_TOP: Final = ("listen", "keep_days", "skus")
_OTHERS: Final = (Action.RENEW, Action.ADD_SEATS, Action.UPGRADE)
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_COLUMNS: Final = frozenset(
    {
        "order_ref",
        "account_ref",
        "customer",
        "server_id",
        "line",
        "sku",
        "quantity",
        "action",
        "entitlement_id",
        "status",
    }
)


NO_PROOF: Final = Proof(scheme=Scheme.TIMESTAMPED, header="LLS-Signature", secrets=())
"""Nothing fits it: of a source that sends nothing."""


class Account(StrEnum):
    """What in an event is the customer's account reference."""

    REFERENCE = "reference"
    """The vendor's own, which the shop was told when it sold (``account_ref`` in its metadata, tags, reference)."""
    SOURCE = "source"
    """The source's own id of the customer."""


class OnEnd(StrEnum):
    """When a subscription that was ended at its source ends here."""

    PERIOD_END = "period_end"
    AT_ONCE = "at_once"


class FulfilOn(StrEnum):
    """Which of Stripe's invoice events fulfils and renews."""

    PAID = "invoice.paid"
    FINALIZED = "invoice.finalized"
    CREATED = "invoice.created"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """What a product of a source is called here; ``sku`` empty: it sells no licence.

    ``action`` is what a purchase of it does, None: what the catalogue says. ``others`` are the SKUs of the other
    actions, for a vendor who has one for renewals and another for seats.
    """

    sku: str
    action: Action | None = None
    others: Mapping[Action, str] = field(default_factory=dict)

    def sku_of(self, action: Action) -> str:
        """The SKU of a line that does this."""
        return self.others.get(action, self.sku)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One source's table."""

    name: str
    proof: Proof
    account: Account = Account.REFERENCE
    on_end: OnEnd = OnEnd.PERIOD_END
    fulfil_on: FulfilOn = FulfilOn.PAID
    test_events: bool = False
    """Whether what the source marks as a trial of its own counts as bought."""
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole file."""

    listen: str = DEFAULT_LISTEN
    keep: timedelta = timedelta(days=DEFAULT_KEEP_DAYS)
    """For how long the bodies of settled events are kept."""
    skus: Mapping[str, Sale] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Custom:
    """What a source's table may say beside its secret, and its scheme and header unless that says otherwise."""

    scheme: Scheme
    header: str
    names: tuple[str, ...] = ()
    schemes: tuple[Scheme, ...] = ()


_OWN_HEADER: Final = "LLS-Signature"
_ENDS: Final = ("account", "on_end")
CUSTOMS: Final[Mapping[str, Custom]] = {
    "generic": Custom(scheme=Scheme.TIMESTAMPED, header=_OWN_HEADER, names=("tolerance_seconds", "on_end")),
    "stripe": Custom(
        scheme=Scheme.TIMESTAMPED,
        header="Stripe-Signature",
        names=("tolerance_seconds", "fulfil_on", "test_events", *_ENDS),
    ),
    "fastspring": Custom(scheme=Scheme.BASE64, header="X-FS-Signature", names=("test_events", *_ENDS)),
    "chargify": Custom(scheme=Scheme.HEX, header="X-Chargify-Webhook-Signature-Hmac-Sha-256", names=_ENDS),
    "zuora": Custom(
        scheme=Scheme.BASIC,
        header="Authorization",
        names=("scheme", "header", "username", *_ENDS),
        schemes=(Scheme.BASIC, Scheme.BASE64, Scheme.HEX),
    ),
    "salesforce": Custom(scheme=Scheme.TIMESTAMPED, header=_OWN_HEADER, names=("tolerance_seconds", "columns")),
    "netsuite": Custom(scheme=Scheme.TIMESTAMPED, header=_OWN_HEADER, names=("tolerance_seconds", "columns")),
}
"""Source -> what its table may say."""


def read_settings(path: Path, environment: Mapping[str, str] = os.environ, *, secrets: bool = True) -> Settings:
    """The file at ``path``. Raises IntakeRefused; ``secrets`` False: they are not read, and nothing can be proved."""
    data = read_bounded(path, what="intake's configuration", most=LARGEST_SETTINGS_BYTES)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as failure:
        raise IntakeRefused(f"The intake's configuration {path} is not UTF-8.") from failure
    except tomllib.TOMLDecodeError as failure:
        raise IntakeRefused(f"The intake's configuration {path} is not valid TOML: {failure}.") from failure
    try:
        only(document, (*_TOP, *CUSTOMS), place="")
        fields = Fields(document, place="")
        sources = {
            name: _source(name, document[name], _Secrets(path.parent, environment, wanted=secrets))
            for name in CUSTOMS
            if name in document
        }
        days = fields.optional_integer("keep_days", least=0, most=_MOST_KEEP_DAYS)
        return Settings(
            listen=fields.optional_text("listen") or DEFAULT_LISTEN,
            keep=timedelta(days=DEFAULT_KEEP_DAYS if days is None else days),
            skus=_skus(document.get("skus", {})),
            sources=sources,
        )
    except RefusedDocument as refused:
        raise IntakeRefused(f"The intake's configuration {path} was refused: {refused.detail}") from refused


def _skus(document: object) -> dict[str, Sale]:
    return {
        product: _sale(value, place=f"skus.{product!r}") for product, value in table(document, place="skus").items()
    }


def _sale(value: object, *, place: str) -> Sale:
    if value == "":
        return Sale(sku="")
    if isinstance(value, str):
        value = {"sku": value}
    only(table(value, place=place), ("sku", "action", *_OTHERS), place=place)
    fields = Fields(value, place=place)
    return Sale(
        sku=fields.word("sku"),
        action=fields.kind("action", Action) if fields.has("action") else None,
        others={action: fields.word(action.value) for action in _OTHERS if fields.has(action.value)},
    )


@dataclass(frozen=True, slots=True)
class _Secrets:
    """Where the secrets are."""

    folder: Path
    environment: Mapping[str, str] = field(repr=False)
    wanted: bool = field(kw_only=True)

    def of(self, fields: Fields) -> tuple[bytes, ...]:
        if not self.wanted:
            return ()
        if fields.has("secret_file") == fields.has("secret_env"):
            raise malformed(fields.place, "must say where its secret is: either secret_file or secret_env")
        if fields.has("secret_file"):
            path = self.folder / fields.text("secret_file", most=1_000)
            text = read_bounded(path, what="secret", most=LARGEST_SECRET_BYTES)
        else:
            name = fields.text("secret_env", most=100)
            if name not in self.environment:
                raise malformed(f"{fields.place}.secret_env", f"names {name}, which the environment does not have")
            text = self.environment[name].encode("utf-8", "surrogateescape")
        secrets = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not secrets:
            raise malformed(fields.place, "names a secret that is empty")
        return secrets


def _source(name: str, document: object, secrets: _Secrets) -> Source:
    custom = CUSTOMS[name]
    own = table(document, place=name)
    only(own, ("secret_file", "secret_env", *custom.names), place=name)
    fields = Fields(own, place=name)
    return Source(
        name=name,
        proof=_proof(fields, custom, secrets.of(fields)),
        account=fields.kind("account", Account) if fields.has("account") else Account.REFERENCE,
        on_end=fields.kind("on_end", OnEnd) if fields.has("on_end") else OnEnd.PERIOD_END,
        fulfil_on=fields.kind("fulfil_on", FulfilOn) if fields.has("fulfil_on") else FulfilOn.PAID,
        test_events=fields.flag("test_events") if fields.has("test_events") else False,
        columns=_columns(own.get("columns", {}), place=f"{name}.columns"),
    )


def _proof(fields: Fields, custom: Custom, secrets: tuple[bytes, ...]) -> Proof:
    scheme = fields.kind("scheme", Scheme) if fields.has("scheme") else custom.scheme
    if custom.schemes and scheme not in custom.schemes:
        raise malformed(f"{fields.place}.scheme", f"must be one of {', '.join(custom.schemes)}")
    header = fields.optional_text("header") or (custom.header if scheme is custom.scheme else "")
    if not _HEADER.fullmatch(header):
        raise malformed(f"{fields.place}.header", "must name the header that carries the signature")
    username = fields.optional_text("username") or ""
    if (scheme is Scheme.BASIC) != bool(username) or ":" in username:
        raise malformed(f"{fields.place}.username", "is needed with the scheme basic, without a colon, and only there")
    seconds = fields.optional_integer("tolerance_seconds", least=1, most=LONGEST_TOLERANCE_SECONDS)
    return Proof(
        scheme=scheme,
        header=header,
        secrets=secrets,
        tolerance=timedelta(seconds=300 if seconds is None else seconds),
        username=username,
    )


def _columns(document: object, *, place: str) -> dict[str, str]:
    given = table(document, place=place)
    only(given, _COLUMNS, place=place)
    return {name: Fields(given, place=place).text(name).casefold() for name in given}
