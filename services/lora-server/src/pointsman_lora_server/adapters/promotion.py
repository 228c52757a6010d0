"""Moves the alias that a registration has requested, and rolls back canaries that are significantly worse than the
stable version or no longer READY.

A protected alias is not moved to a version that scored no better than prompting the base model, unless the move is
forced.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping

from pointsman_servicekit.canary_reports import RequestCounts
from pointsman_servicekit.confidence_sequences import lower_limit, upper_limit
from pointsman_servicekit.errors import FailedPrecondition, NotFound
from pointsman_servicekit.statistics import CANARY_LATENCY_BUCKETS, lower_limit_of_difference, wilson_interval

from pointsman_lora_server.domain import AdapterVersion, Alias, CanaryTerms, DesiredState, Phase
from pointsman_lora_server.registry import AdapterRegistry

log = logging.getLogger(__name__)

METRICS = ("exact", "json_f1", "word_f1")
"""Names of the scores on held-out rows, the strictest first: share of exact answers, F1 of JSON fields, F1 of words."""


Z_95 = 1.96
"""Half the width of a two-sided 95 % confidence interval, in standard deviations."""

ROLLBACK_AUTHOR = "pointsman"
"""The author of automatic rollbacks in the history of changes."""

ALPHA = 0.05 / 4
"""The probability that one of a canary's four limits rolls back a canary that is not worse, over all checks together.

A canary is checked every second, so its confidence limits must hold at all times together (confidence sequences)."""

HOPELESS_ERROR_RATE = 0.5
"""A canary is rolled back if its error rate is above this with high confidence, even if the stable version has too few
requests for a comparison."""

_TAIL = 0.95


class PromotionGate:
    """Decides whether an adapter version may become the stable version or the canary of a protected alias.

    A version passes if its score on held-out rows is higher than the score of few-shot prompts to the base model, or if
    no metric was measured for both. The trainer has written both scores into the version's metrics.
    """

    def __init__(self, protected: frozenset[str]) -> None:
        """`protected` has the suffixes (the part after the "@") of the protected aliases."""
        self._protected = protected

    def check(self, version: AdapterVersion, alias_suffix: str, force: bool) -> None:
        """Raises FailedPrecondition ("not_better") if the alias is protected and the version does not score better than
        prompting.

        `alias_suffix` is the part of the alias after the "@". If `force` is true, every version passes.
        """
        if force or alias_suffix not in self._protected:
            return
        metric, adapter, prompting = _strictest_scores(version.metrics)
        if adapter > prompting or not metric:
            return
        rows = version.metrics.get("prompt_path_rows", 0.0)
        low, high = wilson_interval(adapter, rows, Z_95)
        known = f" {rows:.0f} rows leave it between {low:.2f} and {high:.2f}." if rows else ""
        raise FailedPrecondition(
            f"{version.version} reached {adapter:.3g} on the held-out rows ({metric}), and prompting the base model "
            f"{prompting:.3g}: it is registered, and not given to users of '{version.name}@{alias_suffix}'.{known} "
            "`pointsman eval` compares it with your own paths; force the move if it is better there, or in another way "
            "(a shorter prompt, a lower price)",
            code="not_better",
            param="alias",
        )


def _strictest_scores(metrics: Mapping[str, float]) -> tuple[str, float, float]:
    """Returns the name of the metric to compare by, the adapter's score, and the score of the few-shot prompts.

    The metric is the strictest one on which either scores above 0, because free text is rarely answered exactly; if
    both score 0 on all metrics, it is the last one. The name is empty if no metric was measured for both.
    """
    scores = "", 0.0, 0.0
    for metric in METRICS:
        adapter, prompting = metrics.get(f"heldout_{metric}"), metrics.get(f"prompt_path_{metric}")
        if adapter is None or prompting is None:
            continue
        scores = metric, adapter, prompting
        if adapter > 0 or prompting > 0:
            break
    return scores


class Promoter:
    """Moves the alias that the caller requested when registering an adapter version."""

    def __init__(
        self,
        registry: AdapterRegistry,
        gate: PromotionGate,
        ensure_loaded: Callable[[AdapterVersion], Awaitable[None]],
    ) -> None:
        """`ensure_loaded` is a function that returns when this server's engine holds a version and can answer with
        it.
        """
        self._registry = registry
        self._gate = gate
        self._ensure_loaded = ensure_loaded

    async def promote(self, version: AdapterVersion, alias_suffix: str, force: bool) -> None:
        """Loads the version, moves the alias NAME@`alias_suffix` to it, and deletes the request for this move from
        Redis.

        If the alias is protected and the version did not score better than prompting, the alias is only moved if
        `force` is true. Otherwise a warning is logged, and only the request is deleted. If the load or the move fails,
        the error is raised and the request stays, so that the move can be retried.
        """
        try:
            self._gate.check(version, alias_suffix, force)
        except FailedPrecondition as error:
            log.warning("%s", error.message)
            await self._registry.clear_alias_request(version.version, alias_suffix)
            return
        await self._ensure_loaded(version)
        alias = await self._registry.move_alias(
            f"{version.name}@{alias_suffix}", version.version, author=version.author, reason="registered for it"
        )
        await self._registry.clear_alias_request(version.version, alias_suffix)
        log.info("%s points to %s (revision %d)", alias.alias, alias.version, alias.revision)


async def roll_back_failing_canaries(
    registry: AdapterRegistry, desired: DesiredState, count_rollback: Callable[[], None] = lambda: None
) -> None:
    """Rolls back each canary in `desired` that is no longer READY, or for which `rollback_reason` returns a reason.

    If several lora-servers detect the same failing canary, only one of them rolls it back. An alias that was changed
    after `desired` was read is not touched. `count_rollback` is called once for each rollback that this call makes.
    Raises Unavailable if Redis does not answer; the remaining canaries are not checked then.
    """
    for alias in desired.aliases:
        reason = await _reason_against(registry, alias, desired)
        if reason is None:
            continue
        try:
            await registry.roll_back(
                alias.alias, author=ROLLBACK_AUTHOR, reason=reason, expected_revision=alias.revision
            )
        except (FailedPrecondition, NotFound):
            continue
        count_rollback()
        log.warning("the canary of %s is rolled back: %s", alias.alias, reason)


async def _reason_against(registry: AdapterRegistry, alias: Alias, desired: DesiredState) -> str | None:
    if alias.canary is None:
        return None
    record = desired.phases.get(alias.canary.version)
    if record is None or record.phase is not Phase.READY:
        return "it cannot be served any more" + (f": {record.error}" if record and record.error else "")
    counts = await registry.canary_counts(alias)
    empty = RequestCounts()
    return rollback_reason(
        alias.canary.terms, counts.get(alias.version, empty), counts.get(alias.canary.version, empty)
    )


def rollback_reason(terms: CanaryTerms, stable: RequestCounts, canary: RequestCounts) -> str | None:
    """Returns the reason to roll the canary back, as a text; None if there is no reason or too little data.

    `stable` and `canary` have the counts of both versions' requests. There is a reason if the canary is worse than the
    stable version by more than a limit in `terms`, with high confidence: the lower confidence limit of the difference
    or ratio is above it. The confidence limits hold at all times together (see `ALPHA`). They are combined by
    `lower_limit_of_difference`, for p95 latencies as logarithms. Mean ratings are only compared if both versions have
    `min_requests` ratings.

    Both versions need `min_requests` requests, with one exception, because at a canary weight of 1 the stable version
    receives none. If only the stable version has too few, the canary is rolled back if the lower limit of its error
    rate is above `HOPELESS_ERROR_RATE` and the stable version's error rate is not.
    """
    if canary.requests < terms.min_requests:
        return None
    if stable.requests < terms.min_requests:
        return _hopeless(stable, canary)
    return next(_reasons(terms, stable, canary), None)


def _reasons(terms: CanaryTerms, stable: RequestCounts, canary: RequestCounts) -> Iterator[str]:
    requests = stable.requests, canary.requests
    answers = stable.requests - stable.errors, canary.requests - canary.errors
    if min_rate_excess((stable.errors, canary.errors), requests) > terms.max_error_excess:
        yield _describe_rates("error rate", (stable.errors, canary.errors), requests)
    if min(answers) > 0 and min_rate_excess((stable.invalid, canary.invalid), answers) > terms.max_invalid_excess:
        yield _describe_rates("rate of invalid answers", (stable.invalid, canary.invalid), answers)
    rated = stable.rated, canary.rated
    lost = stable.rated - stable.rating / 1000, canary.rated - canary.rating / 1000
    if min(rated) >= terms.min_requests and min_rate_excess(lost, rated) > terms.max_rating_loss:
        yield _describe_rates("mean rating", (stable.rating / 1000, canary.rating / 1000), rated)
    timed = sum(stable.milliseconds.values()), sum(canary.milliseconds.values())
    if min(timed) > 0 and _min_p95_ratio(stable.milliseconds, canary.milliseconds) > terms.max_latency_ratio:
        p95s = _quantile_ms(stable.milliseconds, _TAIL), _quantile_ms(canary.milliseconds, _TAIL)
        yield f"p95 {p95s[1]:.0f} ms of {timed[1]} against {p95s[0]:.0f} ms of {timed[0]}"


def _hopeless(stable: RequestCounts, canary: RequestCounts) -> str | None:
    if stable.errors > HOPELESS_ERROR_RATE * stable.requests:
        return None
    if lower_limit(_rate(canary.errors, canary.requests), canary.requests, ALPHA) <= HOPELESS_ERROR_RATE:
        return None
    return _describe_rates("error rate", (stable.errors, canary.errors), (stable.requests, canary.requests))


def _describe_rates(name: str, hits: tuple[float, float], totals: tuple[int, int]) -> str:
    stable, canary = (f"{_rate(*each):.2f} of {each[1]}" for each in zip(hits, totals, strict=True))
    return f"{name} {canary} against {stable}"


def min_rate_excess(hits: tuple[float, float], totals: tuple[int, int]) -> float:
    """Returns the lower confidence limit of the canary's rate minus the stable version's rate.

    `hits` and `totals` are pairs (stable version, canary); a version's rate is its hits divided by its total.
    """
    stable, canary = (_rate(*each) for each in zip(hits, totals, strict=True))
    return lower_limit_of_difference(
        canary, lower_limit(canary, totals[1], ALPHA), stable, upper_limit(stable, totals[0], ALPHA)
    )


def _rate(hits: float, total: int) -> float:
    return min(max(hits, 0.0), total) / total if total else 0.0


def _min_p95_ratio(stable: Mapping[int, int], canary: Mapping[int, int]) -> float:
    """Returns the lower confidence limit of the canary's p95 latency divided by the stable version's."""
    stable_p95, _, stable_upper = map(math.log, _p95_with_limits(stable))
    canary_p95, canary_lower, _ = map(math.log, _p95_with_limits(canary))
    return math.exp(lower_limit_of_difference(canary_p95, canary_lower, stable_p95, stable_upper))


def _p95_with_limits(buckets: Mapping[int, int]) -> tuple[float, float, float]:
    """Returns the p95 latency in milliseconds and its lower and upper confidence limits. `buckets` maps latency bucket
    -> number of requests.

    The limits are the quantiles at the confidence limits of a rate of 0.95.
    """
    count = sum(buckets.values())
    lower, upper = lower_limit(_TAIL, count, ALPHA), upper_limit(_TAIL, count, ALPHA)
    return _quantile_ms(buckets, _TAIL), _quantile_ms(buckets, lower), _quantile_ms(buckets, upper)


def _quantile_ms(buckets: Mapping[int, int], fraction: float) -> float:
    return 1000 * CANARY_LATENCY_BUCKETS.interpolated_quantile(buckets, fraction)
