"""``lls-issuer customer``: who buys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer
from rich.table import Table

from lls.issuer.cli.frame import (
    AsJson,
    cell,
    group,
    now,
    open_issuer,
    plain,
    print_json,
    progress_bar,
    say,
    show,
    stdout,
)
from lls.issuer.customer_fields import LARGEST_FIELDS_BYTES, CustomerFields
from lls.issuer.customer_file import LARGEST_FILE, Encoding, RowRefused, read_customer_file
from lls.issuer.customers import Contact, Edit, Imported, Switched, Whole, in_words
from lls.issuer.files import read_bounded
from lls.issuer.refusals import HomeRefused
from lls.licensing.fields import write_instant

noun = group("Who buys.")
fields_noun = group("The fields of your own that customers have.")
noun.add_typer(fields_noun, name="fields")

Key: TypeAlias = Annotated[str, typer.Argument(metavar="CUSTOMER", help="Account reference, or cus_….")]
Field: TypeAlias = Annotated[
    list[str] | None, typer.Option("--field", help="A field of your own, KEY=VALUE; repeatable.")
]
_MOST_SHOWN: Final = 50
_CONTACT = re.compile(r"\s*(?P<name>[^<>]*?)\s*<(?P<email>[^<>]+)>\s*(?:,(?P<role>[^,]*))?(?:,(?P<phone>[^,]*))?")


@noun.command("add")
def customer_add(
    ctx: typer.Context,
    account_ref: Annotated[str, typer.Argument(help="Your own number for the customer; it never changes.")],
    name: Annotated[str, typer.Argument(help="The customer's name.")],
    field: Field = None,
    as_json: AsJson = False,
) -> None:
    """Add a customer, or change the one of that account reference."""
    own = dict(_pair(item) for item in field) if field else None
    with open_issuer(ctx) as issuer:
        customer = issuer.put_customer(account_ref, name=name, custom_fields=own, now=now())
    if as_json:
        print_json(plain(customer))
    else:
        say(f"{customer.account_ref} is {customer.name} ({customer.customer_id}).")


@noun.command("edit")
def customer_edit(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    customer: Key,
    name: Annotated[str | None, typer.Option("--name", help="Its name from now on.")] = None,
    field: Field = None,
    no_field: Annotated[
        list[str] | None, typer.Option("--no-field", help="Take the field KEY away; repeatable.")
    ] = None,
    contact: Annotated[
        list[str] | None,
        typer.Option("--contact", help="Somebody there: 'NAME <EMAIL>, ROLE, PHONE'; repeatable."),
    ] = None,
    no_contact: Annotated[
        list[str] | None, typer.Option("--no-contact", help="Take the contact EMAIL away; repeatable.")
    ] = None,
    note: Annotated[str | None, typer.Option("--note", help="Write this down about it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change what is said of a customer; what is not named stays."""
    own = {**dict.fromkeys(no_field or ()), **dict(_pair(item) for item in field or ())}
    edit = Edit(
        name=name,
        own=own or None,
        contacts=[_contact(text) for text in contact or ()],
        no_contacts=no_contact or (),
        note=note,
    )
    with open_issuer(ctx) as issuer:
        whole = issuer.customers.edit(customer, edit, now=now())
    _show_whole(whole, as_json)


@noun.command("show")
def customer_show(ctx: typer.Context, customer: Key, as_json: AsJson = False) -> None:
    """One customer with its fields, contacts and notes, and what hangs below it."""
    with open_issuer(ctx) as issuer:
        whole = issuer.customers.whole(customer)
    _show_whole(whole, as_json)


@noun.command("list")
def customer_list(ctx: typer.Context, as_json: AsJson = False) -> None:
    """All customers."""
    with open_issuer(ctx) as issuer:
        customers = issuer.register.customers()
    columns = ("account_ref", "name", "customer_id", "created_at", "disabled_at")
    rows = (
        (
            each.account_ref,
            each.name,
            each.customer_id,
            write_instant(each.created_at),
            "-" if each.disabled_at is None else write_instant(each.disabled_at),
        )
        for each in customers
    )
    show("customers", customers, as_json, columns, rows)


@noun.command("import")
def customer_import(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV with a row that names the columns.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and write nothing.")] = False,
    all_or_nothing: Annotated[
        bool, typer.Option("--all-or-nothing", help="Write nothing if any row is refused.")
    ] = False,
    encoding: Annotated[Encoding, typer.Option("--encoding", help="How the file is written.")] = Encoding.UTF8,
    as_json: AsJson = False,
) -> None:
    """Add and change customers by a file, each by its account reference; refused rows are named."""
    data = read_bounded(file, what="file of customers", most=LARGEST_FILE)
    with open_issuer(ctx) as issuer, progress_bar() as bar:
        task = bar.add_task(file.name, total=None)
        read = read_customer_file(data, encoding=encoding)
        imported = issuer.customers.take_in(
            read,
            dry_run=dry_run,
            all_or_nothing=all_or_nothing,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            now=now(),
        )
    if as_json:
        print_json({"dry_run": dry_run, **plain(imported)})
    else:
        _say_imported(imported, dry_run=dry_run)
    if imported.refused:
        raise typer.Exit(1)


def _say_imported(imported: Imported, *, dry_run: bool) -> None:
    for one in imported.refused[:_MOST_SHOWN]:
        say(_refusal(one))
    if len(imported.refused) > _MOST_SHOWN:
        say(f"… and {len(imported.refused) - _MOST_SHOWN:,} more; --json lists them all.")
    counts = f"{imported.added:,} added, {imported.changed:,} changed, {imported.unchanged:,} as they were"
    rows = len({one.row for one in imported.refused})
    refused = f"{rows:,} rows refused" if rows != 1 else "1 row refused"
    if dry_run:
        say(f"A dry run, nothing was written. It would be: {counts}, {refused}.")
    elif not imported.kept:
        say(f"Nothing was written, because of {refused}. Without --all-or-nothing it would be: {counts}.")
    else:
        say(f"Customers: {counts}, {refused}.")


def _refusal(one: RowRefused) -> str:
    return f"Row {one.row}{f', column {one.column}' if one.column else ''}: {one.why}."


@noun.command("disable")
def customer_disable(ctx: typer.Context, customer: Key, as_json: AsJson = False) -> None:
    """Let all that it bought rest for a time, with the next bundle of each of its servers."""
    with open_issuer(ctx) as issuer:
        switched = issuer.customers.disable(customer, now=now())
    _show_switched(switched, "disabled", as_json)


@noun.command("enable")
def customer_enable(ctx: typer.Context, customer: Key, as_json: AsJson = False) -> None:
    """Take a disabling back."""
    with open_issuer(ctx) as issuer:
        switched = issuer.customers.enable(customer, now=now())
    _show_switched(switched, "enabled", as_json)


def _show_switched(switched: Switched, now_is: str, as_json: bool) -> None:
    if as_json:
        ids = [sold.entitlement_id for sold in switched.entitlements]
        print_json({
            **plain(switched.customer), "already_done": switched.again, "entitlements": ids,
            "server_ids": list(switched.server_ids),
        })  # fmt: skip
        return
    if switched.again:
        say(f"{switched.customer.account_ref} was {now_is} before; nothing changed.")
        return
    say(f"{switched.customer.account_ref} is {now_is}, with {len(switched.entitlements)} entitlements.")
    for server_id in switched.server_ids:
        say(f"Next: lls-issuer bundle issue --server {server_id} -o FILE")


@noun.command("delete")
def customer_delete(
    ctx: typer.Context,
    customer: Key,
    confirm: Annotated[
        str | None, typer.Option("--confirm", help="The customer's name; without it, the command says what would go.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete a customer for good, with all that hangs below it; refused while a server hosts."""
    with open_issuer(ctx) as issuer:
        deleted = issuer.customers.delete(customer, confirm=confirm, now=now())
    if as_json:
        print_json({**plain(deleted.customer), "below": dict(deleted.below)})
    else:
        say(f"{deleted.customer.account_ref} is deleted, and with it: {in_words(deleted.below)}.")


@fields_noun.command("load")
def fields_load(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(help="TOML file.")], as_json: AsJson = False
) -> None:
    """Put the schema of customers' fields into force."""
    data = read_bounded(file, what="file of customers' fields", most=LARGEST_FIELDS_BYTES)
    try:
        text = data.decode()
    except UnicodeDecodeError as failure:
        raise HomeRefused(f"The file of customers' fields {file} is not UTF-8 (byte {failure.start}).") from failure
    with open_issuer(ctx) as issuer:
        loaded = issuer.customers.load_fields(text, now=now())
    if as_json:
        misfits = [{"account_ref": ref, "why": why} for ref, why in loaded.misfits]
        print_json({"fields": _fields_document(loaded.fields), "misfits": misfits})
        return
    say(f"Loaded {len(loaded.fields.terms)} fields.")
    for ref, why in loaded.misfits[:_MOST_SHOWN]:
        say(f"Note: {ref} does not fit: {why}.")
    if len(loaded.misfits) > _MOST_SHOWN:
        say(f"… and {len(loaded.misfits) - _MOST_SHOWN:,} more; --json lists them all.")


@fields_noun.command("show")
def fields_show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """The schema in force."""
    with open_issuer(ctx) as issuer:
        fields = issuer.customers.fields()
    columns = ("key", "name", "type", "required", "in_bundle", "choices")
    documents = _fields_document(fields)
    rows = (
        [", ".join(one[name]) or "-" if name == "choices" else cell(one[name]) for name in columns] for one in documents
    )
    show("fields", documents, as_json, columns, rows)


def _fields_document(fields: CustomerFields) -> list[dict[str, Any]]:
    return [plain(terms) for terms in fields.terms.values()]


def _show_whole(whole: Whole, as_json: bool) -> None:
    if as_json:
        print_json({
            **plain(whole.customer), "contacts": plain(whole.contacts), "notes": plain(whole.notes),
            "below": dict(whole.below),
        })  # fmt: skip
        return
    customer = whole.customer
    table = Table(show_header=False, title=customer.account_ref)
    for key, value in (("name", customer.name), ("customer_id", customer.customer_id)):
        table.add_row(key, value)
    table.add_row("disabled_at", "-" if customer.disabled_at is None else write_instant(customer.disabled_at))
    for key, value in customer.custom_fields.items():
        table.add_row(f"field {key}", value)
    for contact in whole.contacts:
        said = (contact.name, contact.email, contact.role, contact.phone)
        table.add_row("contact", ", ".join(text for text in said if text))
    for note in whole.notes:
        table.add_row(f"note {note.made_at:%Y-%m-%d} {note.author}", note.text)
    table.add_row("below it", in_words(whole.below))
    stdout.print(table)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise typer.BadParameter(f"--field takes KEY=VALUE, not {text!r}.")
    return key, value


def _contact(text: str) -> Contact:
    found = _CONTACT.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"--contact takes 'NAME <EMAIL>, ROLE, PHONE', not {text!r}.")
    given = {key: (value or "").strip() or None for key, value in found.groupdict().items()}
    return Contact(email=given["email"] or "", name=given["name"], role=given["role"], phone=given["phone"])
