"""A price may change as long as no other path would be recommended; the certificate states up to which bound."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from pointsman_cli.certificate.catalog_checks import catalog_checks
from pointsman_cli.certificate.checks import Outcome, overall
from pointsman_cli.certificate.statement import Statement
from pointsman_cli.eval.catalog import Catalog

from tests.cli.certificate.reports import catalog_of, path_of, report_of, statement_of

RIGHT = [1.0] * 300
NEAR = report_of(path_of("one", RIGHT, 1.0), path_of("two", RIGHT, 1.1))
"""Two equally good paths; the second costs a tenth more."""


def at_prices(prices: Mapping[tuple[str, str], float], search_usd: float = 0.001) -> Catalog:
    catalog = catalog_of(NEAR)
    models = dict(catalog.base_models)
    for (model, kind), usd in prices.items():
        models[model] = replace(models[model], prices={**(models[model].prices or {}), kind: usd})
    return replace(catalog, base_models=models, search_usd=search_usd)


def result_of(statement: Statement, catalog: Catalog) -> dict[str, str]:
    """Returns the details of all checks that did not pass, by subject."""
    checks = list(catalog_checks(statement, catalog, {}))
    assert overall(checks) == ("invalid" if any(check.outcome is Outcome.INVALID for check in checks) else "valid")
    return {check.subject: check.detail for check in checks if check.outcome is not Outcome.OK}


def test_a_bound_is_narrower_than_allowed_where_another_path_would_be_named() -> None:
    bounds = {(bound.model, bound.kind): bound for bound in statement_of(NEAR).price_bounds}
    assert set(bounds) == {(f"model of {path}", kind) for path in ("one", "two") for kind in ("prompt", "completion")}
    # The first path's prompts cost 0.75 of its 1.0 dollars: 13 % more make 1.0975, and 14 % more 1.105 dollars.
    one = bounds["model of one", "prompt"]
    assert (one.usd, one.low, one.high) == (1.0, pytest.approx(0.8), pytest.approx(1.13))
    # The second path's cost 0.825 of 1.1 dollars: 12 % less make 1.001, and 13 % less 0.993 dollars.
    two = bounds["model of two", "prompt"]
    assert (two.low, two.high) == (pytest.approx(0.88), pytest.approx(1.2))


def test_changes_within_the_bounds_leave_the_certificate_valid() -> None:
    statement = statement_of(NEAR)
    assert result_of(statement, at_prices({})) == {}
    assert result_of(statement, at_prices({("model of one", "prompt"): 1.13})) == {}
    assert result_of(statement, at_prices({("model of one", "cached"): 99.0})) == {}  # no path has used it


@pytest.mark.parametrize("usd", [1.15, 0.79, 0.0])
def test_a_change_beyond_the_bound_is_invalid(usd: float) -> None:
    found = result_of(statement_of(NEAR), at_prices({("model of one", "prompt"): usd}))
    assert found == {
        "price model of one prompt": f"it was $1, and is ${usd:g} now; it may be $0.8 to $1.13",
    }


def test_changes_that_name_another_path_together_are_invalid() -> None:
    changed = {("model of one", "prompt"): 1.1, ("model of two", "prompt"): 0.9}
    assert result_of(statement_of(NEAR), at_prices(changed)) == {"prices together": "triage: two instead of one"}


def test_a_price_that_is_unknown_now_is_invalid() -> None:
    catalog = at_prices({})
    models = {name: replace(facts, prices=None) for name, facts in catalog.base_models.items()}
    found = result_of(statement_of(NEAR), replace(catalog, base_models=models))
    assert found["price model of one prompt"] == "it was $1, and is unknown now"


def test_the_price_of_a_search_has_a_bound_if_a_path_searches() -> None:
    searching = path_of("searching", RIGHT, 1.0, usd_per_1000={"prompt": 0.5, "retrieval": 0.5})
    statement = statement_of(report_of(searching))
    (search,) = (bound for bound in statement.price_bounds if bound.kind == "retrieval")
    assert (search.model, search.usd, search.high) == ("", 0.001, pytest.approx(0.0012))
    catalog = replace(catalog_of(report_of(searching)), search_usd=0.002)
    assert "price of searches" in {check.subject for check in catalog_checks(statement, catalog, {})}
    assert result_of(statement, catalog) == {
        "price of searches": "it was $0.001, and is $0.002 now; it may be $0.0008 to $0.0012"
    }


def test_no_price_may_change_if_no_change_is_allowed() -> None:
    for bound in statement_of(NEAR, max_price_change=0).price_bounds:
        assert bound.low == bound.usd == bound.high
