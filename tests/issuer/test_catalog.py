"""A catalogue is taken whole or refused with the name of the place."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lls.issuer import sample_catalog
from lls.issuer.catalog import in_force
from lls.issuer.catalog_file import read_catalog
from lls.issuer.refusals import CatalogRefused

SMALL = """
format = 1
[products.cad]
name = "CAD"
[products.cad.features.render]
type = "bool"
[products.cad.features.frames]
type = "usage_count"
unit = "frame"
reset = "monthly"
overdraft = { type = "absolute", value = 5 }
[products.cad.attributes.until]
type = "date"
value = 2026-11-21
[products.cad.editions.pro]
features = { render = true, frames = 100 }
[plans.year]
license_type = "subscription"
term = { unit = "year", count = 1 }
[offerings.CAD]
name = "CAD"
product = "cad"
edition = "pro"
plan = "year"
"""


def test_the_sample_is_a_catalogue() -> None:
    skus = {"CAD-PRO-RENEW", "CAD-SEATS-10", "CAD-TO-PRO", "CLOUD-1000", "CAD-PRO-PARTNER"}
    skus |= {"CAD-PRO-1Y", "CAD-STD-1Y", "CAD-STD-NAMED", "CAD-STD-NODE", "CAD-PRO-TRIAL", "VIEWER-SITE"}
    assert skus == set(read_catalog(sample_catalog()).offerings)


def test_metered_features_are_read_and_kept() -> None:
    catalog = read_catalog(SMALL)
    frames = catalog.products["cad"].features["frames"]
    assert ("usage_count", "frame", "monthly", 5) == (frames.type, frames.unit, frames.reset, frames.overdraft.value)
    chains = catalog.chains(catalog.products["cad"], "pro", offering=catalog.offerings["CAD"])
    assert (1, 100) == (in_force(chains["features.render"]), in_force(chains["features.frames"]))


def test_an_instant_of_toml_is_an_instant() -> None:
    given = 'grants = [{ feature = "frames", amount = 1, expiry = { type = "at", at = 2027-01-01T01:00:00+01:00 } }]'
    (grant,) = read_catalog(SMALL + given).offerings["CAD"].grants
    assert datetime(2027, 1, 1, tzinfo=UTC) == grant.at


def test_a_day_of_toml_is_a_date() -> None:
    assert "2026-11-21" == read_catalog(SMALL).products["cad"].attributes["until"].value


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ('plan = "year"', 'plan = "yaer"', r"CAD\.plan names 'yaer', but there is no such plan; perhaps 'year'"),
        ('edition = "pro"', "", r"offerings\.CAD\.edition is missing: cad has pro"),
        ('product = "cad"', 'product = "cam"', r"offerings\.CAD\.product names 'cam'.*perhaps 'cad'"),
        ("render = true", "rendering = true", r"cad\.editions\.pro\.features names 'rendering'.*perhaps 'render'"),
        ("render = true", "render = 1", r"products\.cad\.editions\.pro\.features\.render must be true or false"),
        ("frames = 100", "frames = -1", r"features\.frames.value must be an integer from 0"),
        ("2026-11-21", '"soon"', r"attributes\.until\.value must be a day|must be a day"),
        ("term = {", "trem = {", r"plans\.year\.trem is not known here; perhaps 'term'"),
        ('term = { unit = "year", count = 1 }', "", r"plans\.year\.term is missing: a subscription ends"),
        ('"subscription"', '"perpetual"', r"plans\.year\.term must be left out"),
        ('unit = "year"', 'unit = "eon"', r"plans\.year\.term\.unit must be one of day, week, month, year"),
        ("format = 1", "format = 2", r"format must be 1"),
        ("format = 1", "", r"format is missing"),
        ("[offerings.CAD]", '[offerings."CAD PRO"]', r"offerings\.'CAD PRO' must be named"),
        ("[plans.year]", "[plans", r"not valid TOML"),
        ('plan = "year"', 'plan = "year"\noverdraft = { type = "none", value = 3 }', r"overdraft\.value must be left"),
        ('plan = "year"', 'plan = "year"\nseats = 0', r"offerings\.CAD\.seats must be an integer from 1"),
        ('unit = "frame"', 'unit = "frame"\ncurrency = "EUR"', r"frames\.currency must be left out: it means nothing"),
        ('unit = "frame"', 'unit = "frame"\ntracked = true', r"frames\.tracked must be left out: it means nothing"),
        ('unit = "frame"', 'unit = "frame"\nundo_seconds = -1', r"frames\.undo_seconds must be an integer from 0"),
        ('"bool"', '"bool"\nunit = "x"', r"render\.unit must be left out: it means nothing for bool"),
        ('"bool"', '"bool"\nreset = "monthly"', r"render\.reset must be left out"),
        ('"bool"', '"credit"', r"render\.currency is missing: a credit is money"),
        ('"bool"', '"credit"\ncurrency = "eur"', r"currency must be an ISO 4217 code"),
        ('"bool"', '"element_pool"\nreset = "never"', r"render\.reset must be left out: it means nothing for"),
        ("frames = 100", "frames = 1000000000000001", r"frames.value must be an integer from 0 to 1000000000000000"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(before: str, after: str, sentence: str) -> None:
    assert before in SMALL
    with pytest.raises(CatalogRefused, match=sentence):
        read_catalog(SMALL.replace(before, after, 1))


def granted(grant: str) -> str:
    return f'grants = [{{ feature = "frames", amount = 1, {grant} }}]'


@pytest.mark.parametrize(
    ("member", "sentence"),
    [
        ("node_lock_release_after_seconds = 9", r"release_after_seconds must be left out: the seats are concurrent"),
        ('concurrency = "node_lock"\nnode_lock_release_after_seconds = 0', r"must be an integer from 1"),
        ("named_user_assignment = { by_site = true }", r"assignment must be left out: the seats are concurrent"),
        ('concurrency = "named_user"\nnamed_user_assignment = { by_site = true }', r"changes_per_month is missing"),
        ('concurrency = "named_user"\nnamed_user_assignment = true', r"assignment must be a table"),
        ('grants = [{ feature = "frame", amount = 1 }]', r"grants\[0\]\.feature names 'frame'"),
        ('grants = [{ feature = "render", amount = 1 }]', r"names render, which is a switch"),
        ('grants = [{ feature = "frames", amount = 0 }]', r"grants\[0\]\.amount must be an integer from 1"),
        ('grants = [{ feature = "frames" }]', r"grants\[0\]\.amount is missing"),
        (granted('until = "soon"'), r"grants\[0\]\.until is not known here"),
        (granted('expiry = { type = "soon" }'), r"grants\[0\]\.expiry\.type must be one of never"),
        (granted('expiry = { type = "custom" }'), r"grants\[0\]\.expiry\.unit is missing"),
        (granted('expiry = { type = "custom", unit = "day", count = 0 }'), r"count must be an integer from 1"),
        (granted('expiry = { type = "never", count = 1 }'), r"expiry\.count is not known here"),
        (granted('expiry = { type = "at", at = 2027-01-01 }'), r"expiry\.at must be an instant"),
        (granted("active_from = 2027-01-01T00:00:00"), r"active_from must be an instant"),
        ("grants = 7", r"offerings\.CAD\.grants must be an array"),
        ("borrow = { max_seconds = 315360001, max_seats = 1 }", r"borrow\.max_seconds must be an integer"),
        ("borrow = { max_seconds = 1 }", r"borrow\.max_seats is missing"),
    ],
)
def test_a_mistake_in_an_offering_is_named_with_its_place(member: str, sentence: str) -> None:
    with pytest.raises(CatalogRefused, match=sentence):
        read_catalog(f"{SMALL}{member}\n")


@pytest.mark.parametrize("text", ["a = " + "[" * 3000 + "]" * 3000, "format = " + "9" * 5000])
def test_toml_that_exhausts_its_reader_is_refused_in_words(text: str) -> None:
    with pytest.raises(CatalogRefused, match="not valid TOML"):
        read_catalog(text)


# -- what a line does -------------------------------------------------------------------------------------------------


def offered(members: str) -> str:
    return f'{SMALL}[offerings.MORE]\nname = "More"\nproduct = "cad"\n{members}\n'


@pytest.mark.parametrize(
    ("members", "actions"),
    [
        ('actions = ["renew"]', ["renew"]),
        ('actions = ["renew"]\nplan = "year"\nedition = "pro"', ["renew"]),
        ('actions = ["add_seats"]\nseats = 10', ["add_seats"]),
        ('actions = ["upgrade"]\nedition = "pro"\nbecomes = "CAD"', ["upgrade"]),
        ('actions = ["add_grant"]\ngrants = [{ feature = "frames", amount = 1 }]', ["add_grant"]),
        ('actions = ["renew", "add_seats"]\nseats = 2', ["renew", "add_seats"]),
        ('plan = "year"\nedition = "pro"', ["new"]),
    ],
)
def test_a_sku_says_what_a_line_of_it_does(members: str, actions: list[str]) -> None:
    assert actions == list(read_catalog(offered(members)).offerings["MORE"].actions)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ('actions = ["renw"]', r"MORE\.actions names 'renw', .*perhaps 'renew'"),
        ("actions = []", r"MORE\.actions is empty"),
        ('actions = "renew"', r"MORE\.actions must be an array"),
        ('actions = ["renew", "renew"]', r"MORE\.actions names an action twice"),
        (
            'actions = ["renew"]\nactivation_codes = true',
            r"activation_codes must be left out: .* for new, .* are renew",
        ),
        ('actions = ["add_seats"]\nplan = "year"', r"MORE\.plan must be left out: it means something for new or renew"),
        ('actions = ["add_seats"]\nseats = "unlimited"', r"MORE\.seats must be a number"),
        ('actions = ["upgrade"]', r"MORE\.edition is missing: cad has pro"),
        ('actions = ["upgrade"]\nedition = "pro"\nupgrade_from = ["std"]', r"upgrade_from names 'std'"),
        ('actions = ["upgrade"]\nedition = "pro"\nupgrade_from = ["pro"]', r"the edition that the upgrade leads to"),
        ('actions = ["upgrade"]\nedition = "pro"\nbecomes = "CAT"', r"becomes names 'CAT', .*perhaps 'CAD'"),
        ('actions = ["upgrade"]\nedition = "pro"\nbecomes = "MORE"', r"becomes names MORE, which is not sold new"),
        ('actions = ["add_grant"]', r"MORE\.grants is missing"),
        (
            'actions = ["renew"]\nplan = "ever"\n[plans.ever]\nlicense_type = "perpetual"',
            r"neither term nor maintenance",
        ),
        (
            'actions = ["add_grant"]\ngrants = [{ feature = "frames", amount = 1, price = { amount = 1 } }]',
            r"grants\[0\]\.price\.currency is missing",
        ),
        (
            'actions = ["add_grant"]\ngrants = [{ feature = "frames", amount = 1, given_on = "payday" }]',
            r"given_on must be one of invoice_created",
        ),
        ('plan = "year"', r"MORE\.edition is missing"),
        ('edition = "pro"', r"MORE\.plan is missing"),
    ],
)
def test_what_means_nothing_for_what_it_does_is_refused(members: str, sentence: str) -> None:
    with pytest.raises(CatalogRefused, match=sentence):
        read_catalog(offered(members))


# -- who says a value -------------------------------------------------------------------------------------------------

LEVELS = """
format = 1
[defaults]
lease_seconds = 100
linger_seconds = 1
sharing = "user"
[attributes.support]
type = "string"
value = "mail"
[features.export]
type = "bool"
[products.cad]
name = "CAD"
[products.cad.defaults]
lease_seconds = 200
[products.cad.editions.pro]
features = { export = true }
attributes = { support = "telephone" }
[products.cad.editions.pro.defaults]
lease_seconds = 300
[products.viewer]
name = "Viewer"
[products.viewer.attributes.support]
type = "string"
value = "none"
[plans.year]
license_type = "subscription"
not_for_resale = true
term = { unit = "year", count = 1 }
grace_seconds = 60
[offerings.CAD]
name = "CAD"
product = "cad"
edition = "pro"
plan = "year"
lease_seconds = 400
[offerings.VIEWER]
name = "Viewer"
product = "viewer"
plan = "year"
"""


def test_the_last_level_that_names_a_value_wins_and_the_chain_tells_all() -> None:
    catalog = read_catalog(LEVELS)
    chains = catalog.chains(catalog.products["cad"], "pro", offering=catalog.offerings["CAD"])
    assert [
        ("built_in", 600), ("global", 100), ("product", 200), ("edition", 300), ("offering", 400),
    ] == chains["lease_seconds"]  # fmt: skip
    assert [("built_in", 0), ("global", 1)] == chains["linger_seconds"]
    assert [("built_in", 0), ("plan", 60)] == chains["grace_seconds"]
    assert [("global", 0), ("edition", 1)] == chains["features.export"]
    assert [("global", "mail"), ("edition", "telephone")] == chains["attributes.support"]


def test_a_product_that_defines_the_same_key_means_its_own() -> None:
    catalog = read_catalog(LEVELS)
    chains = catalog.chains(catalog.products["viewer"], None, offering=catalog.offerings["VIEWER"])
    assert ([("product", "none")], [("global", 0)]) == (chains["attributes.support"], chains["features.export"])
    assert catalog.plans["year"].not_for_resale


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("[defaults]", "[defaults]\nseats = 1", r"defaults\.seats is not known here"),
        (
            "lease_seconds = 200",
            "lease_seconds = 1",
            r"products\.cad\.defaults\.lease_seconds must be an integer from 3",
        ),
        ('sharing = "user"', 'sharing = "all"', r"defaults\.sharing must be one of"),
        ("not_for_resale = true", "not_for_resale = 1", r"plans\.year\.not_for_resale must be true or false"),
        ('type = "bool"', 'type = "boolean"', r"features\.export\.type must be one of"),
    ],
)
def test_a_mistake_in_a_default_is_named_with_its_place(before: str, after: str, sentence: str) -> None:
    assert before in LEVELS
    with pytest.raises(CatalogRefused, match=sentence):
        read_catalog(LEVELS.replace(before, after, 1))
