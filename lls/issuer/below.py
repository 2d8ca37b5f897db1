"""What hangs below a row of the register, as its own references say: counted, and deleted from the leaves up.

The schema is asked, not a list of tables: a table that comes later and refers to a customer, or to what is a
customer's, is counted and deleted with it from its first day. A row belongs below if any of its references leads there.

It refuses to own whether something may be deleted (``customers``).
"""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import TopologicalSorter

from lls.issuer.register import Register


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One column of a reference from a table to another."""

    child: str
    reference: int
    child_column: str
    parent: str
    parent_column: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Count:
    rows: int


def below(register: Register, table: str, *, key: str, value: str) -> dict[str, int]:
    """How many rows of each table hang below the one whose ``key`` is ``value``; tables with none are left out."""
    counts = {}
    for name, condition in list(_conditions(register, table, key=key).items())[1:]:
        (count,) = register.select(_Count, f"SELECT count(*) AS rows FROM {name} WHERE {condition}", value)  # noqa: S608 - the schema's own names
        if count.rows:
            counts[name] = count.rows
    return counts


def delete(register: Register, table: str, *, key: str, value: str) -> None:
    """Deletes the row with all that hangs below it, inside the transaction of whoever decided that."""
    for name, condition in reversed(_conditions(register, table, key=key).items()):
        register.change(f"DELETE FROM {name} WHERE {condition}", value)  # noqa: S608 - the schema's own names


def _conditions(register: Register, table: str, *, key: str) -> dict[str, str]:
    """Each table that can hang below with what is true of its rows that do; parents before their children."""
    columns = register.select(
        _Column,
        """SELECT own.name AS child, ref.id AS reference, ref."from" AS child_column, ref."table" AS parent,
                  coalesce(
                      ref."to", (SELECT name FROM pragma_table_info(ref."table") WHERE pk = ref.seq + 1)
                  ) AS parent_column
           FROM sqlite_schema AS own JOIN pragma_foreign_key_list(own.name) AS ref
           WHERE own.type = 'table' AND own.name <> ref."table" ORDER BY own.name, ref.id, ref.seq""",
    )
    references: dict[tuple[str, str, int], list[_Column]] = {}
    parents: dict[str, set[str]] = {}
    for column in columns:
        references.setdefault((column.child, column.parent, column.reference), []).append(column)
        parents.setdefault(column.child, set()).add(column.parent)
    conditions = {table: f"{key} = ?1"}
    for name in TopologicalSorter(parents).static_order():
        leads = [
            _leads(own, parent, conditions[parent])
            for (child, parent, _), own in references.items()
            if child == name and parent in conditions
        ]
        if leads and name != table:
            conditions[name] = " OR ".join(leads)
    return conditions


def _leads(columns: list[_Column], parent: str, condition: str) -> str:
    own = ", ".join(column.child_column for column in columns)
    theirs = ", ".join(column.parent_column for column in columns)
    return f"({own}) IN (SELECT {theirs} FROM {parent} WHERE {condition})"  # noqa: S608 - the schema's own names
