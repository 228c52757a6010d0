"""Compares the prices in a certificate with the present prices: each with its allowed range, and all together."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isclose

from pointsman_cli.certificate.checks import Check, Outcome, verdict_terms
from pointsman_cli.certificate.statement import PriceBound, Statement
from pointsman_cli.certificate.task_verdicts import CHARGES, RETRIEVAL, PriceList, named_paths, reprice
from pointsman_cli.eval.catalog import Catalog, ModelFacts
from pointsman_cli.eval.report import EvaluatedPath

ROUNDING = 1e-9
"""The share of a bound by which a price may lie outside of its range, since floating-point results are rounded."""


def price_checks(statement: Statement, catalog: Catalog) -> Iterator[Check]:
    """Yields checks that compare the present prices, which are in `catalog`, with the certified prices.

    There is a check for each price that has bounds in the certificate. If prices without bounds have changed for a
    model and are part of a path's cost, there is a check for the model. If all these checks are OK, a last check says
    whether all new prices together change a verdict.
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
    """Yields a check for each model with changed prices that have no bounds, but are part of a path's cost.

    They are prices of long prompts, service tiers, embeddings and training. They are part of the cost if the listed
    prices do not explain it.
    """
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
    """Returns whether the listed prices explain a path's cost of tokens, and exist for all other parts of its cost."""
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
    """Checks whether the verdicts name the same paths at the new prices.

    Several price changes together may change a verdict although none of them does alone.
    """
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
