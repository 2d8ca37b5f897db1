"""``lls-issuer keys``: the key set that applications and servers trust."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from lls.issuer.cli.frame import AsJson, Output, PassphraseFile, group, now, open_issuer, print_json, say, stdout
from lls.issuer.files import write_whole
from lls.licensing.fields import write_instant
from lls.signed.keys import KeySet

noun = group("The key set: what applications and servers trust.")


@noun.command("show")
def keys_show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Every version of the key set, with its keys' ids."""
    with open_issuer(ctx) as issuer:
        versions = [_key_set_document(keys, newest=keys is issuer.keyring.newest) for keys in issuer.keyring.versions]
    if as_json:
        print_json({"key_sets": versions})
        return
    table = Table("version", "expires_at", "role", "threshold", "kid", title="Key sets")
    for version in versions:
        for role, terms in version["roles"].items():
            table.add_row(
                str(version["version"]), version["expires_at"], role, str(terms["threshold"]), "\n".join(terms["kids"])
            )
    stdout.print(table)


@noun.command("rotate")
def keys_rotate(ctx: typer.Context, passphrase_file: PassphraseFile = None, as_json: AsJson = False) -> None:
    """New keys for every role: the next version, signed by the old root and the new one."""
    with open_issuer(ctx, passphrase_file, signs=True) as issuer:
        keys = issuer.rotate_keys(now=now())
    if as_json:
        print_json(_key_set_document(keys, newest=True))
    else:
        say(
            f"Key set {keys.version} is in force until {write_instant(keys.expires_at)}; "
            "each server's next bundle carries it."
        )


@noun.command("export")
def keys_export(
    ctx: typer.Context,
    output: Output,
    version: Annotated[int | None, typer.Option("--version", help="Which version; the newest if left out.")] = None,
) -> None:
    """Write a key set (.llskeys) for servers and applications to trust."""
    with open_issuer(ctx) as issuer:
        keys = issuer.keyring.newest if version is None else issuer.keyring.version(version)
    write_whole(output, keys.token.encode())
    say(f"Wrote key set {keys.version} to {output}.")


def _key_set_document(keys: KeySet, *, newest: bool) -> dict[str, Any]:
    return {
        "version": keys.version,
        "in_force": newest,
        "expires_at": write_instant(keys.expires_at),
        "roles": {name: {"threshold": role.threshold, "kids": sorted(role.kids)} for name, role in keys.roles.items()},
    }
