"""``lls-issuer catalog``: what can be sold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lls.issuer.catalog import Catalog, Offering, in_force
from lls.issuer.catalog_file import LARGEST_CATALOG_BYTES, read_catalog
from lls.issuer.cli.frame import (
    MOST_ROWS,
    AsJson,
    group,
    now,
    open_issuer,
    overdraft_text,
    plain,
    print_json,
    say,
    show,
    stdout,
)
from lls.issuer.files import read_bounded
from lls.issuer.refusals import CatalogRefused, HomeRefused
from lls.licensing.fields import write_instant

noun = group("What can be sold.")


@noun.command("load")
def catalog_load(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="TOML file.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a catalogue into force for new orders."""
    data = read_bounded(file, what="catalogue", most=LARGEST_CATALOG_BYTES)
    if file.suffix.lower() in {".yaml", ".yml", ".json"}:
        raise CatalogRefused(f"{file}: a catalogue is TOML; the sample that init wrote shows how it looks.")
    try:
        text = data.decode()
    except UnicodeDecodeError as failure:
        raise HomeRefused(f"The catalogue {file} is not UTF-8 (byte {failure.start}).") from failure
    if dry_run:
        catalog = read_catalog(text)
        if as_json:
            print_json({"version": None, **_counts(catalog)})
            return
        say(f"It holds {_counted(catalog)}, and nothing is wrong with it. Nothing was loaded.")
        return
    with open_issuer(ctx) as issuer:
        catalog = issuer.load_catalog(text, now=now())
        _, kept = issuer.catalog_version()
    if as_json:
        print_json({"version": kept.version, **_counts(catalog)})
        return
    say(f"Loaded {_counted(catalog)}: version {kept.version} is in force.")


def _counts(catalog: Catalog) -> dict[str, int]:
    return {"products": len(catalog.products), "plans": len(catalog.plans), "offerings": len(catalog.offerings)}


def _counted(catalog: Catalog) -> str:
    return f"{len(catalog.products)} products, {len(catalog.plans)} plans and {len(catalog.offerings)} offerings"


@noun.command("list")
def catalog_list(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Every version of the catalogue; the last is in force."""
    with open_issuer(ctx) as issuer:
        kept = issuer.register.catalogs()
    listed = [{"version": one.version, "sha256": one.sha256, "loaded_at": write_instant(one.loaded_at)} for one in kept]
    rows = ([str(one["version"]), str(one["loaded_at"]), str(one["sha256"])] for one in listed)
    show("catalogs", listed, as_json, ("version", "loaded_at", "sha256"), rows)


@noun.command("show")
def catalog_show(
    ctx: typer.Context,
    version: Annotated[
        int | None, typer.Option("--version", min=1, max=MOST_ROWS, help="An earlier one; else the one in force.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="The TOML as it was loaded.")] = False,
    as_json: AsJson = False,
) -> None:
    """The offerings of a catalogue."""
    with open_issuer(ctx) as issuer:
        catalog, kept = issuer.catalog_version(version)
    if text:
        typer.echo(kept.text, nl=False)
    elif as_json:
        print_json({"version": kept.version, "loaded_at": write_instant(kept.loaded_at), **plain(catalog)})
    else:
        stdout.print(_catalog_table(catalog, version=kept.version))


def _catalog_table(catalog: Catalog, *, version: int) -> Table:
    table = Table(
        "SKU", "name", "actions", "product", "edition", "plan", "seats", "overdraft", "features", "codes",
        title=f"Offerings, version {version}",
    )  # fmt: skip
    for offering in catalog.offerings.values():
        product, plan = catalog.products[offering.product], catalog.plan_of(offering)
        chains = catalog.chains(product, offering.edition, offering=offering)
        features = (key for key in product.features if in_force(chains[f"features.{key}"]))
        overdraft: Any = in_force(chains["overdraft"])
        resale = " (not for resale)" if plan and plan.not_for_resale else ""
        table.add_row(
            offering.sku, offering.name, ", ".join(offering.actions), offering.product, _edition(offering),
            f"{offering.plan or '-'}{resale}", "unlimited" if offering.seats is None else str(offering.seats),
            overdraft_text(overdraft), ", ".join(features) or "-", "yes" if offering.activation_codes else "no",
        )  # fmt: skip
    return table


def _edition(offering: Offering) -> str:
    return (
        f"{', '.join(offering.upgrade_from)} → {offering.edition}" if offering.upgrade_from else offering.edition or "-"
    )
