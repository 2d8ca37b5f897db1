"""What an order does: new entitlements, and changes of those that are there.

Rules
1. An order is all or none, and so is a file of orders: one line that cannot be fulfilled refuses all, and the sentence
   names the order and the line.
2. An order is known by its reference and each of its lines by its number. A line fulfilled before changes nothing; with
   other content it is refused. A later file of the same order may bring more lines, for the same customer, server and
   invoice.
3. A line does its action, or, where it names none, all actions of its SKU in the catalogue's order. Beside ``new``
   another action must be named: what is sold cannot be renewed by the line that sells it.
4. What a line changes is named by ``entitlement_id``; or by ``of_sku``, under which it was sold; else the SKU itself
   says it, being sold new, or by its product and edition. It is the customer's, on the order's server where that names
   one, and there must be exactly one. What of its seats was renewed as a part is never meant by a SKU to be renewed.
5. Lines that contradict each other are refused: one entitlement renewed or upgraded twice, seats of it added and taken.
6. ``quantity`` is seats where something has seats. A renewal or an upgrade that names fewer than there are is of so
   many of them: they become an entitlement of their own (``parting``). It is left out where all are meant.
7. A renewal gives what its SKU grants from the beginning of the new term on.
8. An order that describes its customer adds it, but never one that was deleted: orders come again for years, in exports
   and from shops.

It refuses to own reading (``orders``, ``order_table``) and what each change means (``amending``, ``balances``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeAlias

from lls.faults import RefusedDocument
from lls.issuer.amending import Amending
from lls.issuer.balances import Balances
from lls.issuer.catalog import Action, Catalog, Offering
from lls.issuer.catalog_file import one_of
from lls.issuer.changing import read_back
from lls.issuer.history import Deed
from lls.issuer.ids import Random
from lls.issuer.orders import NewCustomer, Order, OrderLine
from lls.issuer.parting import Parting, Seats, renewed_seats
from lls.issuer.refusals import Conflict, NotKnown, OrderRefused
from lls.issuer.register import Customer, Json, Register, Sale, SaleLine, Sold
from lls.issuer.resolving import grants_of, resolve, seats_of
from lls.licensing.entitlement import normalise_code
from lls.licensing.fields import Fields, malformed, read_instant

AddCustomer: TypeAlias = Callable[[str, NewCustomer], Customer]
"""An account reference and how the order describes it → the customer, added."""
InForce: TypeAlias = Callable[[], tuple[Catalog, int]]
"""The catalogue in force and its version; refused where there is none."""
_MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FulfilledLine:
    """What became of a line; ``outcome`` is ``{actions, entitlement_id, …}``, ``again`` when it was done before."""

    line: int
    sku: str
    outcome: Json
    sold: Sold
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fulfilled:
    """What became of an order; ``again`` when all of it had been fulfilled before. ``server_id`` None: none named."""

    order_ref: str
    server_id: str | None
    customer: Customer
    lines: tuple[FulfilledLine, ...]
    again: bool

    @property
    def entitlements(self) -> tuple[Sold, ...]:
        """What it sold and changed, each once, in the order of its lines."""
        return tuple({one.sold.entitlement_id: one.sold for one in self.lines}.values())

    @property
    def server_ids(self) -> list[str]:
        """The servers whose next bundle brings it."""
        return sorted({sold.server_id for sold in self.entitlements if sold.server_id is not None})


class Ordering:
    """See the module."""

    def __init__(
        self,
        register: Register,
        *,
        amending: Amending,
        balances: Balances,
        add_customer: Callable[[str, NewCustomer, datetime], Customer],
        in_force: InForce,
        random: Random,
    ) -> None:
        self._register = register
        self._amending = amending
        self._balances = balances
        self._parting = Parting(register, random=random)
        self._add_customer = add_customer
        self._in_force = in_force
        self._random = random

    def fulfil(self, orders: Iterable[Order], *, now: datetime) -> list[Fulfilled]:
        """All of them or none, in one transaction. Raises OrderRefused, and CatalogRefused where there is none."""
        with self._register.transaction():
            return [self._fulfil(order, now=now) for order in orders]

    def fulfilled(self, order_ref: str) -> Fulfilled:
        """An order that was fulfilled, with its entitlements as they are now. Raises NotKnown."""
        sale = self._register.sale(order_ref)
        if sale is None:
            raise NotKnown(f"No order {order_ref} was fulfilled; see lls-issuer order list.")
        lines = tuple(self._line_before(line) for line in self._register.sale_lines(order_ref))
        return Fulfilled(
            order_ref=order_ref, server_id=sale.server_id, customer=self._customer(sale), lines=lines, again=True
        )

    def sales(self, *, customer_id: str | None = None) -> list[Sale]:
        """The orders that were fulfilled, oldest first."""
        return self._register.select(
            Sale,
            "SELECT * FROM sale WHERE ?1 IS NULL OR customer_id = ?1 ORDER BY fulfilled_at, rowid",
            customer_id,
        )

    def _fulfil(self, order: Order, *, now: datetime) -> Fulfilled:
        try:
            customer = self._checked(order, now=now)
            before = {line.line: line for line in self._register.sale_lines(order.order_ref)}
            fresh = [line for line in order.lines if not _done(line, before.get(line.line))]
            if not before:
                self._register.add_sale(_sale(order, customer, now=now))
            if fresh:
                _check_sold_to(customer)
            done = self._fulfil_lines(order, fresh, customer, now=now) if fresh else {}
        except (RefusedDocument, Conflict, NotKnown) as refused:
            raise OrderRefused(f"The order {order.order_ref} was refused: {refused.detail}") from refused
        if fresh:
            self._note(order, customer, done, now=now)
        lines = tuple(
            self._current(done[line.line]) if line.line in done else self._line_before(before[line.line])
            for line in order.lines
        )
        return Fulfilled(
            order_ref=order.order_ref, server_id=order.server_id, customer=customer, lines=lines, again=not fresh
        )

    # -- whose, and where ---------------------------------------------------------------------------------------------

    def _checked(self, order: Order, *, now: datetime) -> Customer:
        sale = self._register.sale(order.order_ref)
        if sale is not None:
            if sale.sha256 != order.sha256:
                raise Conflict(
                    "it was fulfilled before with other content (customer, server or invoice); "
                    "a new order needs a new order_ref."
                )
            return self._customer(sale)
        server = None if order.server_id is None else self._register.server(order.server_id)
        if order.server_id is not None and server is None:
            raise NotKnown(
                f"the server {order.server_id} is not registered; "
                "register its request first: lls-issuer server register REQUEST."
            )
        if server is not None and server.retired_at is not None:
            raise Conflict(
                f"the server {server.server_id} was retired on {server.retired_at:%Y-%m-%d}; name another server of "
                "this customer."
            )
        customer = self._buyer(order, now=now)
        if server is not None and server.customer_id is None:
            self._register.put_server(replace(server, customer_id=customer.customer_id))
        elif server is not None and server.customer_id != customer.customer_id:
            owner = self._register.customer(str(server.customer_id))
            raise Conflict(
                f"it is for the account {order.account_ref}, but the server {server.server_id} belongs to "
                f"{owner.account_ref if owner else server.customer_id}."
            )
        return customer

    def _buyer(self, order: Order, *, now: datetime) -> Customer:
        known = self._register.customer_by_account(order.account_ref)
        if known is not None and known.disabled_at is not None:
            raise Conflict(
                f"the customer {order.account_ref} is disabled since {known.disabled_at:%Y-%m-%d}; enable it first: "
                f"lls-issuer customer enable {order.account_ref}."
            )
        if known is not None:
            return known
        if order.customer is None:
            raise NotKnown(
                f"there is no customer {order.account_ref}; "
                "add it (lls-issuer customer add), or describe it in the order's member customer."
            )
        self._refuse_deleted(order.account_ref)
        return self._add_customer(order.account_ref, order.customer, now)

    def _refuse_deleted(self, account_ref: str) -> None:
        """Rule 8. The history is asked, because of the deleted nothing else is left."""
        (found,) = self._register.select(
            dict,
            """SELECT max(at) AS deleted_at FROM history
               WHERE kind = 'customer_deleted' AND json_extract(line, '$.data.what.account_ref') = ?""",
            account_ref,
        )
        if found["deleted_at"] is not None:
            raise Conflict(
                f"the customer {account_ref} was deleted on {found['deleted_at'][:10]}, and no order brings it back. "
                f"If it buys again, add it first: lls-issuer customer add {account_ref}."
            )

    def _customer(self, sale: Sale) -> Customer:
        customer = self._register.customer(sale.customer_id)
        if customer is None:
            raise NotKnown(f"the customer {sale.customer_id} of the order {sale.order_ref} is not in the register.")
        return customer

    def _sold(self, entitlement_id: str) -> Sold:
        sold = self._register.entitlement(entitlement_id)
        if sold is None:
            raise NotKnown(f"there is no entitlement {entitlement_id}; see lls-issuer entitlement list.")
        return sold

    def _line_before(self, done: SaleLine) -> FulfilledLine:
        sku = Fields(done.document, place="line").word("sku")
        sold = self._sold(str(done.outcome["entitlement_id"]))
        return FulfilledLine(line=done.line, sku=sku, outcome=done.outcome, sold=sold, again=True)

    def _current(self, done: FulfilledLine) -> FulfilledLine:
        """A later line may have changed the same entitlement."""
        return replace(done, sold=self._sold(done.sold.entitlement_id))

    def _note(self, order: Order, customer: Customer, done: Mapping[int, FulfilledLine], *, now: datetime) -> None:
        told = {"order_ref": order.order_ref, "sha256": order.sha256, "lines": sorted(done)}
        self._register.note(
            Deed.ORDER_FULFILLED, at=now, customer_id=customer.customer_id, server_id=order.server_id, what=told
        )

    # -- lines --------------------------------------------------------------------------------------------------------

    def _fulfil_lines(
        self, order: Order, lines: Iterable[OrderLine], customer: Customer, *, now: datetime
    ) -> dict[int, FulfilledLine]:
        catalog, version = self._in_force()
        done: dict[int, FulfilledLine] = {}
        seen: dict[tuple[str, Action], tuple[int, int]] = {}
        for line in lines:
            task = _Task(order=order, line=line, customer=customer, catalog=catalog, version=version, now=now)
            try:
                done[line.line] = self._fulfil_line(task, seen)
            except (Conflict, NotKnown) as refused:
                raise Conflict(f"{line.place}: {refused.detail}") from refused
        return done

    def _fulfil_line(self, task: _Task, seen: dict[tuple[str, Action], tuple[int, int]]) -> FulfilledLine:
        actions = task.actions()
        task.line.check(actions)
        if actions == (Action.NEW,):
            sold = self._sell(task)
            outcome: dict[str, Any] = {}
        else:
            sold = self._target(task, actions)
            some = _part_of(task, actions, sold)
            if some is None:
                for action in actions:
                    _check_contradiction(task.line, action, sold, seen)
                outcome = self._change(task, actions, sold)
            else:
                sold, outcome = self._change_part(task, actions[0], sold, some)
            sold = self._sold(sold.entitlement_id)
        told = {"actions": [action.value for action in actions], "entitlement_id": sold.entitlement_id, **outcome}
        self._register.insert(
            "sale_line",
            SaleLine(
                order_ref=task.order.order_ref,
                line=task.line.line,
                sha256=task.line.sha256,
                document=task.line.document,
                outcome=told,
                fulfilled_at=task.now,
            ),
        )
        return FulfilledLine(line=task.line.line, sku=task.line.sku, outcome=told, sold=sold, again=False)

    def _sell(self, task: _Task) -> Sold:
        resolved = resolve(
            task.order.order_ref,
            task.line,
            task.offering,
            task.catalog,
            version=task.version,
            now=task.now,
            random=self._random,
        )
        read_back(resolved.document, place=task.line.place)
        document, rows = self._balances.opened(
            resolved.document, resolved.grants, invoice_ref=task.order.invoice_ref, now=task.now
        )
        sold = Sold(
            entitlement_id=str(document["entitlement_id"]),
            order_ref=task.order.order_ref,
            line=task.line.line,
            customer_id=task.customer.customer_id,
            server_id=task.order.server_id,
            document=document,
            created_at=task.now,
            origins=resolved.origins,
        )
        codes = Fields(document, place="entitlement").texts("activation_codes")
        self._register.add_entitlement(sold, [normalise_code(code) for code in codes])
        self._register.note_change(Deed.SOLD, was=None, became=sold, at=task.now)
        self._balances.record(rows, sold, now=task.now)
        return sold

    def _change(self, task: _Task, actions: Iterable[Action], sold: Sold) -> dict[str, Any]:
        """Does the actions in their order; what they made."""
        key, line, now = sold.entitlement_id, task.line, task.now
        outcome: dict[str, Any] = {}
        begins: datetime | None = None
        for action in actions:
            match action:
                case Action.RENEW:
                    outcome |= self._amending.renew(key, plan=task.catalog.plan_of(task.offering), now=now).outcome
                    begins = read_instant(outcome["begins"], place="begins")
                case Action.ADD_SEATS:
                    names = Fields(line.document, place=line.place).texts("named_users")
                    seats = seats_of(task.offering, line)
                    if seats is None:
                        raise malformed(f"{line.place}.sku", "names unlimited seats, which cannot be added")
                    outcome |= self._amending.add_seats(key, seats, named_users=names, now=now).outcome
                case Action.UPGRADE:
                    upgraded = self._amending.upgrade(key, task.offering, task.catalog, version=task.version, now=now)
                    outcome |= upgraded.outcome
                case Action.ADD_GRANT | Action.NEW:
                    pass  # grants are given once, below, whichever action brings them
        return outcome | self._give(task, actions, key, begins=begins)

    def _change_part(self, task: _Task, action: Action, sold: Sold, seats: int) -> tuple[Sold, dict[str, Any]]:
        """Renews or upgrades some of the seats (rule 6): what they became."""
        names = Fields(task.line.document, place=task.line.place).texts("named_users")
        some = Seats(order_ref=task.order.order_ref, line=task.line.line, count=seats, named_users=names)
        begins: datetime | None = None
        if action is Action.RENEW:
            plan = task.catalog.plan_of(task.offering)
            part, begins = self._parting.renew(sold, some, plan=plan, now=task.now)
        else:
            part = self._parting.upgrade(sold, some, task.offering, task.catalog, version=task.version, now=task.now)
        told: Any = part.document
        outcome = {
            "part_of": sold.entitlement_id,
            **{name: told[name] for name in ("seats", "edition", "starts_at", "expires_at")},
        }
        return part, outcome | self._give(task, (action,), part.entitlement_id, begins=begins)

    def _give(
        self, task: _Task, actions: Iterable[Action], entitlement_id: str, *, begins: datetime | None
    ) -> dict[str, Any]:
        if not {Action.RENEW, Action.ADD_GRANT} & set(actions):
            return {}
        grants = grants_of(task.offering, task.line, task.catalog.products[task.offering.product])
        if not grants and Action.ADD_GRANT in actions:
            raise malformed(f"{task.line.place}.grants", f"is missing: {task.offering.sku} itself gives nothing")
        given = [
            self._balances.add(
                entitlement_id,
                replace(grant, active_from=grant.active_from or begins),
                invoice_ref=task.order.invoice_ref,
                now=task.now,
            ).outcome
            for grant in grants
        ]
        return {"grants": given} if given else {}

    # -- which entitlement --------------------------------------------------------------------------------------------

    def _target(self, task: _Task, actions: Iterable[Action]) -> Sold:
        """Rule 4."""
        line, server_id = task.line, task.order.server_id
        if line.entitlement_id is None:
            return _only(self._candidates(task, actions), task)
        sold = self._sold(line.entitlement_id)
        if sold.customer_id != task.customer.customer_id:
            raise Conflict(
                f"the entitlement {sold.entitlement_id} belongs to another customer than {task.order.account_ref}."
            )
        if server_id is not None and sold.server_id != server_id:
            raise Conflict(
                f"the order is for the server {server_id}, but the entitlement {sold.entitlement_id} is hosted by "
                f"{sold.server_id or 'none'}."
            )
        if not _fits(sold, task.offering, actions, of_sku=None, by_sku=False):
            raise Conflict(f"the entitlement {sold.entitlement_id} is {_kind(sold)}, which {line.sku} is not for.")
        return sold

    def _candidates(self, task: _Task, actions: Iterable[Action]) -> list[Sold]:
        if task.line.of_sku is not None:
            known = self._register.entitlements(customer_id=task.customer.customer_id)
            skus = {_sku(sold) for sold in known} | set(task.catalog.offerings)
            one_of(task.line.of_sku, sorted(skus), place=f"{task.line.place}.of_sku", what="SKU")
        return [
            sold
            for sold in self._register.entitlements(
                customer_id=task.customer.customer_id, server_id=task.order.server_id
            )
            if _fits(sold, task.offering, actions, of_sku=task.line.of_sku, by_sku=True)
            and not (Action.RENEW in actions and renewed_seats(self._register, sold.entitlement_id))
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A line with everything that judging it takes."""

    order: Order
    line: OrderLine
    customer: Customer
    catalog: Catalog
    version: int
    now: datetime

    @property
    def offering(self) -> Offering:
        known = self.catalog.offerings
        return known[one_of(self.line.sku, known, place=f"{self.line.place}.sku", what="SKU in the catalogue")]

    def actions(self) -> tuple[Action, ...]:
        """Rule 3."""
        action, offered = self.line.action, self.offering.actions
        if action is None and len(offered) > 1 and Action.NEW in offered:
            raise malformed(
                f"{self.line.place}.action",
                f"is missing: {self.line.sku} does {', '.join(offered)}; say which is meant",
            )
        if action is not None and action not in offered:
            raise malformed(
                f"{self.line.place}.action",
                f"is {action}, but {self.line.sku} is for {', '.join(offered)}; its actions are in the catalogue",
            )
        actions = offered if action is None else (action,)
        if self.line.quantity is not None and self.line.quantity < 1 and actions != (Action.ADD_SEATS,):
            raise malformed(f"{self.line.place}.quantity", "must be above zero: only seats can be taken away")
        return actions


def _check_sold_to(customer: Customer) -> None:
    if customer.disabled_at is not None:
        raise Conflict(
            f"the customer {customer.account_ref} is disabled, so nothing is sold to it; "
            f"enable it first: lls-issuer customer enable {customer.account_ref}."
        )


def _done(line: OrderLine, before: SaleLine | None) -> bool:
    """Rule 2."""
    if before is None:
        return False
    if before.sha256 != line.sha256:
        raise Conflict(
            f"{line.place} was fulfilled before with other content; a further change needs a line of its own, or a new "
            "order."
        )
    return True


def _sale(order: Order, customer: Customer, *, now: datetime) -> Sale:
    return Sale(
        order_ref=order.order_ref,
        sha256=order.sha256,
        customer_id=customer.customer_id,
        server_id=order.server_id,
        document=order.document,
        fulfilled_at=now,
    )


def _check_contradiction(
    line: OrderLine, action: Action, sold: Sold, seen: dict[tuple[str, Action], tuple[int, int]]
) -> None:
    """Rule 5."""
    sign = -1 if (line.quantity or 1) < 0 else 1
    number, other_sign = seen.setdefault((sold.entitlement_id, action), (line.line, sign))
    if number == line.line or action is Action.ADD_GRANT:
        return
    if action is Action.ADD_SEATS and sign == other_sign:
        return
    what = "adds and takes seats of" if action is Action.ADD_SEATS else f"does {action} twice for"
    raise Conflict(f"it contradicts line {number}: together the order {what} {sold.entitlement_id}.")


def _part_of(task: _Task, actions: tuple[Action, ...], sold: Sold) -> int | None:
    """Rule 6: how many of the seats a renewal or an upgrade is for; None: all, or it does something else."""
    line, there = task.line, read_back(sold.document).seats
    whole = {Action.RENEW, Action.UPGRADE} & set(actions)
    if not whole or {Action.ADD_SEATS, Action.ADD_GRANT} & set(actions):
        return None  # the quantity is that of what is added
    ordered = None if line.quantity is None else seats_of(task.offering, line)
    if ordered is None or there is None or ordered == there:
        if line.document.get("named_users"):
            raise malformed(f"{line.place}.named_users", "must be left out: the line is for all seats")
        return None
    if len(actions) > 1:
        raise Conflict(
            f"the line is for {ordered} of {there} seats of {sold.entitlement_id}, and {task.line.sku} does "
            f"{' and '.join(actions)} at once: name one of them as the line's action."
        )
    return ordered


def _fits(sold: Sold, offering: Offering, actions: Iterable[Action], *, of_sku: str | None, by_sku: bool) -> bool:
    document: Any = sold.document
    if document["product"]["key"] != offering.product:
        return False
    if of_sku is not None and _sku(sold) != of_sku:
        return False
    if Action.UPGRADE in actions:
        edition = document["edition"]
        return edition in offering.upgrade_from if offering.upgrade_from else edition != offering.edition
    if by_sku and of_sku is None and Action.NEW in offering.actions:
        return _sku(sold) == offering.sku
    return offering.edition is None or document["edition"] == offering.edition


def _only(found: list[Sold], task: _Task) -> Sold:
    if len(found) == 1:
        return found[0]
    where = f" on {task.order.server_id}" if task.order.server_id else ""
    if not found:
        raise NotKnown(
            f"{task.order.account_ref} has nothing{where} that {task.line.sku} is for; "
            f"see lls-issuer entitlement list --customer {task.order.account_ref}."
        )
    named = ", ".join(sold.entitlement_id for sold in found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    raise Conflict(
        f"{task.order.account_ref} has {len(found)} entitlements{where} that {task.line.sku} is for ({named}{more}); "
        "say which in entitlement_id, or in of_sku."
    )


def _sku(sold: Sold) -> str:
    return Fields(sold.document, place="entitlement").object("offering").word("sku")


def _kind(sold: Sold) -> str:
    document: Any = sold.document
    return f"{document['product']['key']} {document['edition'] or ''}".strip()
