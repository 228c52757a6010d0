"""Compares the prices in a certificate with the present ones: each with its allowed range, and all of them together."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isclose

from pointsman_cli.certificate.checks import Check, Outcome, verdict_terms
from pointsman_cli.certificate.statement import PriceBound, Statement
from pointsman_cli.certificate.task_verdicts import CHARGES, RETRIEVAL, PriceList, named_paths, reprice
from pointsman_cli.eval.catalog import Catalog, ModelFacts
from pointsman_cli.eval.report import EvaluatedPath

ROUNDING = 1e-9
"""The share by which a price may lie outside of its range because of rounding."""


def price_checks(statement: Statement, catalog: Catalog) -> Iterator[Check]:
    """Yields checks of the prices in `catalog`, the present ones, against the certified ones.

    There is a check for each price that has bounds, and one for each model whose other prices have changed and are part
    of a path's cost. If all of these are OK, a last check says whether all prices together change a verdict.
    """
    old = PriceList(statement.paths, statement.models, statement.search_usd)
    models = {name: catalog.base_models.get(name, facts) for name, facts in statement.models.items()}
    new = replace(old, models=models, search_usd=catalog.search_usd)
    checks = [_price_check(bound, new.usd(bound.model, bound.kind)) for bound in statement.price_bounds]
    checks += _other_prices_checks(statement, models)
    yield from checks
    if all(check.outcome is Outcome.OK for check in checks):
        yield _together_check(statement, old, new)


def _price_check(bound: PriceBound, now: float | None) -> Check:
    subject = f"price {bound.model} {bound.kind}" if bound.model else "price of searches"
    if now is None:
        return Check(subject, Outcome.INVALID, f"it was ${bound.usd:g}, and is unknown now")
    limits = f"it may be ${bound.low:g} to ${bound.high:g}"
    if not bound.low * (1 - ROUNDING) <= now <= bound.high * (1 + ROUNDING):
        return Check(subject, Outcome.INVALID, f"it was ${bound.usd:g}, and is ${now:g} now; {limits}")
    was = "" if now == bound.usd else f" now, and was ${bound.usd:g}"
    return Check(subject, Outcome.OK, f"${now:g}{was}; {limits}")


def _other_prices_checks(statement: Statement, models: Mapping[str, ModelFacts]) -> Iterator[Check]:
    """Finds changes of the prices that a catalog does not list, if the listed ones do not explain a path's cost."""
    for name, facts in statement.models.items():
        if models[name].other_prices == facts.other_prices:
            continue
        paths = (path for task in statement.report.tasks for path in task.paths)
        of_model = [path for path in paths if statement.paths[path.path].model == name]
        unexplained = [path.path for path in of_model if not _is_priced_as_listed(path, facts.prices or {})]
        if unexplained:
            detail = "those of long prompts, service tiers, embeddings or training have changed, which are part of the "
            yield Check(f"other prices {name}", Outcome.INVALID, f"{detail}cost of {', '.join(unexplained)}")


def _is_priced_as_listed(path: EvaluatedPath, prices: Mapping[str, float]) -> bool:
    """Returns whether a path's tokens at the listed prices cost what they did, and all else has a listed price."""
    tokens = {
        "prompt": path.prompt_tokens - path.cached_tokens,
        "cached": path.cached_tokens,
        "completion": path.completion_tokens,
    }
    if not path.usd_per_1000.keys() <= {*tokens, *CHARGES, RETRIEVAL} or not tokens.keys() <= prices.keys():
        return False
    listed = sum(count * prices[kind] for kind, count in tokens.items()) / 1000  # per million tokens, 1,000 answers
    cost = sum(path.usd_per_1000.get(kind, 0.0) for kind in tokens)
    return isclose(listed, cost, rel_tol=1e-3, abs_tol=1e-9)


def _together_check(statement: Statement, old: PriceList, new: PriceList) -> Check:
    """Names the paths again at the new prices, which may change a verdict together although none does alone."""
    given, report = verdict_terms(statement), statement.report
    before = named_paths(report, statement.verdicts, given)
    after = named_paths(reprice(report, old, new), statement.verdicts, given)
    changed = [
        f"{verdict.task}: {two or 'none'} instead of {one or 'none'}"
        for verdict, one, two in zip(statement.verdicts, before, after, strict=True)
        if one != two
    ]
    if changed:
        return Check("prices together", Outcome.INVALID, "; ".join(changed))
    return Check("prices together", Outcome.OK, "the same paths are named at the prices of now")
