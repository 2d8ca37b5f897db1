"""``lls-issuer catalog``: what can be sold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from lls.issuer.catalog import LARGEST_CATALOG_BYTES, Catalog
from lls.issuer.cli.frame import AsJson, group, now, open_issuer, overdraft_text, plain, print_json, say, stdout
from lls.issuer.files import read_bounded
from lls.issuer.refusals import HomeRefused

noun = group("What can be sold.")


@noun.command("load")
def catalog_load(ctx: typer.Context, file: Annotated[Path, typer.Argument(help="TOML file.")]) -> None:
    """Put a catalogue into force for new orders."""
    data = read_bounded(file, what="catalogue", most=LARGEST_CATALOG_BYTES)
    try:
        text = data.decode()
    except UnicodeDecodeError as failure:
        raise HomeRefused(f"The catalogue {file} is not UTF-8 (byte {failure.start}).") from failure
    with open_issuer(ctx) as issuer:
        catalog = issuer.load_catalog(text, now=now())
    say(f"Loaded {len(catalog.products)} products, {len(catalog.plans)} plans and {len(catalog.offerings)} offerings.")


@noun.command("show")
def catalog_show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """The offerings in force."""
    with open_issuer(ctx) as issuer:
        catalog = issuer.catalog()
    if as_json:
        print_json(plain(catalog))
    else:
        stdout.print(_catalog_table(catalog))


def _catalog_table(catalog: Catalog) -> Table:
    table = Table(
        "SKU", "name", "product", "edition", "plan", "seats", "overdraft", "features", "codes", title="Offerings"
    )
    for offering in catalog.offerings.values():
        features = (terms.key for terms, value in catalog.feature_values(offering, overrides={}) if value)
        table.add_row(
            offering.sku, offering.name, offering.product, offering.edition or "-", offering.plan,
            "unlimited" if offering.seats is None else str(offering.seats),
            overdraft_text(offering.overdraft.document()),
            ", ".join(features) or "-", "yes" if offering.activation_codes else "no",
        )  # fmt: skip
    return table
