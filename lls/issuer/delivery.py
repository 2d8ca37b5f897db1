"""What the customer gets for an order: bundles, activation codes, and a letter that the vendor's mailer can send.

    DIR/letter.txt  letter.html  letter.eml  delivery.json  <server id>.llsbundle …

Rules
1. A bundle is issued for every server that hosts what the order sold or changed. Where no server is known yet, the
   letter says how the site asks for one.
2. The letter's words are a template (``string.Template``): the vendor's own, ``letter.txt`` and ``letter.html`` in the
   home, or those that come with this package. A placeholder that nobody fills refuses the delivery: a customer must
   not read ``$custmer``.
3. Everything that goes into HTML is escaped here; a customer's name is somebody else's text.
4. The directory is there whole or not at all, and only its owner can read it: activation codes are worth money.

It refuses to own prices, and the sending.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Final

from lls.issuer.files import PRIVATE, read_bounded, write_whole
from lls.issuer.issuing import WrittenBundle
from lls.issuer.office import Issuer
from lls.issuer.ordering import Fulfilled, FulfilledLine
from lls.issuer.refusals import Conflict, HomeRefused
from lls.licensing.fields import write_instant

TEXT: Final = "letter.txt"
HTML: Final = "letter.html"
_LARGEST_TEMPLATE: Final = 1 << 20
_DAY: Final = 10
PLACEHOLDERS: Final = ("order_ref", "customer", "account_ref", "date", "lines", "next_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An order's files; ``bundles`` by the name of their file."""

    fulfilled: Fulfilled
    bundles: Mapping[str, WrittenBundle]
    text: str
    html: str

    def told(self) -> dict[str, Any]:
        """What ``delivery.json`` says: for a shop that writes its own letter."""
        return {
            "order_ref": self.fulfilled.order_ref,
            "account_ref": self.fulfilled.customer.account_ref,
            "customer": self.fulfilled.customer.name,
            "bundles": [
                {
                    "file": name,
                    "server_id": written.bundle.server_id,
                    "sequence": written.bundle.sequence,
                    "not_after": write_instant(written.bundle.not_after),
                    "warnings": list(written.warnings),
                }
                for name, written in self.bundles.items()
            ],
            "lines": [_told(line) for line in self.fulfilled.lines],
        }


def deliver(issuer: Issuer, order_ref: str, *, directory: Path, now: datetime) -> Delivery:
    """The delivery of an order that was fulfilled. Raises NotKnown, HomeRefused and Conflict.

    Whatever can be found wrong is found before a bundle is issued: ``directory`` must not be there yet.
    """
    _check_free(directory)
    fulfilled = issuer.ordering.fulfilled(order_ref)
    templates = {name: _template(issuer.home, name) for name in (TEXT, HTML)}
    issued = issuer.issuing.issue_bundles(fulfilled.server_ids, now=now)  # two servers' bundles are one delivery
    if issuer.ordering.fulfilled(order_ref) != fulfilled:
        raise Conflict(
            f"What was sold with the order {order_ref} was changed while its bundles were signed, so the letter would "
            "not say what they hold, and nothing was written. Deliver it again."
        )
    bundles = {f"{server_id}.llsbundle": written for server_id, written in issued.items()}
    steps = _next_steps(fulfilled, bundles)
    words = {
        "order_ref": fulfilled.order_ref,
        "customer": fulfilled.customer.name,
        "account_ref": fulfilled.customer.account_ref,
        "date": f"{now:%Y-%m-%d}",
    }
    return Delivery(
        fulfilled=fulfilled,
        bundles=bundles,
        text=templates[TEXT].substitute(words, lines=_text_lines(fulfilled), next_steps="\n\n".join(steps)),
        html=templates[HTML].substitute(
            {name: escape(word) for name, word in words.items()},
            lines=_html_lines(fulfilled),
            next_steps="\n".join(f"<p>{escape(step)}</p>" for step in steps),
        ),
    )


def write_delivery(delivery: Delivery, directory: Path) -> list[Path]:
    """Makes the directory with all files, or nothing; their paths."""
    files = {
        TEXT: delivery.text.encode(),
        HTML: delivery.html.encode(),
        "letter.eml": mail_of(delivery).as_bytes(),
        "delivery.json": json.dumps(delivery.told(), indent=2).encode(),
        **{name: written.data for name, written in delivery.bundles.items()},
    }
    _check_free(directory)
    beside = Path(tempfile.mkdtemp(dir=directory.absolute().parent, prefix=f".{directory.name}."))
    try:
        for name, data in files.items():
            write_whole(beside / name, data, mode=PRIVATE)
        beside.rename(directory)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return [directory / name for name in files]


def _check_free(directory: Path) -> None:
    # A link that points nowhere is there, too: no rename puts a directory in its place.
    if os.path.lexists(directory) or not os.access(directory.absolute().parent, os.W_OK):
        raise HomeRefused(
            f"{directory} cannot be made: it is there already, or its parent is missing or closed to you."
        )


def mail_of(delivery: Delivery) -> EmailMessage:
    """Both letters and the bundles as one message (RFC 5322), without sender and receiver."""
    mail = EmailMessage(policy=SMTP)
    # What begins an encoded word (RFC 2047) would be decoded, lines and all, and become headers.
    mail["Subject"] = f"Your licences, order {delivery.fulfilled.order_ref.replace('=?', '= ?')}"
    mail.set_content(delivery.text)
    mail.add_alternative(delivery.html, subtype="html")
    for name, written in delivery.bundles.items():
        mail.add_attachment(written.data, maintype="application", subtype="octet-stream", filename=name)
    return mail


def _template(home: Path, name: str) -> Template:
    own = home / name
    if own.exists():
        data = read_bounded(own, what="letter's template", most=_LARGEST_TEMPLATE)
        try:
            template = Template(data.decode())
        except UnicodeDecodeError as failure:
            raise HomeRefused(f"The letter's template {own} is not UTF-8 (byte {failure.start}).") from failure
    else:
        template = Template(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))
    unknown = sorted(set(template.get_identifiers()) - set(PLACEHOLDERS)) if template.is_valid() else ["$"]
    if unknown:
        raise HomeRefused(
            f"The letter's template {own} has the placeholder {unknown[0]!r}, which nothing fills; there are "
            f"{', '.join('$' + name for name in PLACEHOLDERS)}, and $$ for a dollar sign."
        )
    return template


def _told(line: FulfilledLine) -> dict[str, Any]:
    document: Any = line.sold.document
    return {
        "line": line.line,
        "sku": line.sku,
        "actions": line.outcome["actions"],
        "entitlement_id": line.sold.entitlement_id,
        "server_id": line.sold.server_id,
        "product": document["product"]["name"],
        "offering": document["offering"]["name"],
        "edition": document["edition"],
        "seats": document["seats"],
        "starts_at": document["starts_at"],
        "expires_at": document["expires_at"],
        "activation_codes": document["activation_codes"],
    }


_ACTIONS: Final[Mapping[str, str]] = {
    "new": "new",
    "renew": "renewed",
    "add_seats": "seats changed",
    "upgrade": "upgraded",
    "add_grant": "units added",
}


def _described(line: FulfilledLine) -> list[tuple[str, str]]:
    """What the letter says of a line, as (what, how it is now)."""
    document: Any = line.sold.document
    actions: Any = line.outcome["actions"]
    ends = document["expires_at"]
    waits = any(grant["state"] == "pending" for grant in _grants(line))
    return [
        ("Line", f"{line.line}: {document['offering']['name']} ({', '.join(_ACTIONS[one] for one in actions)})"),
        ("Seats", "unlimited" if document["seats"] is None else str(document["seats"])),
        ("Valid until", ends[:_DAY] if ends else _open_end(document)),
        *([("Units", "given when the invoice has been settled")] if waits else []),
        *(("Activation code", code) for code in document["activation_codes"]),
    ]


def _grants(line: FulfilledLine) -> Sequence[Mapping[str, Any]]:
    grants: Any = line.outcome.get("grants", ())
    return list(grants)


def _open_end(document: Mapping[str, Any]) -> str:
    term = document["plan"]["term"]
    if term and document["starts_at"] is None:
        return f"{term['count']} {term['unit']}{'s' if term['count'] > 1 else ''} from the first use on"
    return "without end"


def _text_lines(fulfilled: Fulfilled) -> str:
    blocks = ("\n".join(f"  {what + ':':<17}{value}" for what, value in _described(line)) for line in fulfilled.lines)
    return "\n\n".join(blocks)


def _html_lines(fulfilled: Fulfilled) -> str:
    tables = (
        "".join(f"<tr><th>{escape(what)}</th><td>{escape(value)}</td></tr>\n" for what, value in _described(line))
        for line in fulfilled.lines
    )
    return "\n".join(f"<table>\n{rows}</table>" for rows in tables)


def _next_steps(fulfilled: Fulfilled, bundles: Mapping[str, WrittenBundle]) -> list[str]:
    steps = [
        f"For the license server {written.bundle.server_id}: carry the attached file {name} to it and import it by "
        f"{written.bundle.not_after:%Y-%m-%d} with: lls bundle import {name}"
        for name, written in bundles.items()
    ]
    if any(sold.server_id is None for sold in fulfilled.entitlements):
        steps.append(
            "We do not know yet which license server will host what you bought. Please send us its activation request: "
            "lls server request -o site.llsreq. You get the licence file for it in return."
        )
    return steps
