"""Takes a canary back where it is worse than the version beside it by more than its terms allow, and not by chance."""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Protocol

from pointsman_servicekit.errors import FailedPrecondition, NotFound

from pointsman_lora_server.domain import Alias, CanaryTerms, DesiredState, Phase
from pointsman_lora_server.registry.outcomes import RequestCounts

log = logging.getLogger(__name__)

ROLLBACK_AUTHOR = "pointsman"

Z = 2.58
"""Standard deviations that a limit lies away, so that chance passes one side once in two hundred looks. A canary is
looked at each second: of 2,000 simulated ones as good as their stable version (2 to 10 % errors, up to 2,000 requests,
a look after each 20), 0.2 % were taken back at a weight of 0.5 and 1 % at 0.1. With 1.645 it were 5 and 7 %, with a
bare comparison 60 %. For that, one with a fifth of errors against none is found after 47 of its requests (median)."""

HOPELESS = 0.5
"""The error rate at which a canary does not wait for the stable version's count."""

_TAIL = 0.95


class CanaryRegistry(Protocol):
    async def counts(self, alias: Alias) -> Mapping[str, RequestCounts]: ...
    async def rollback(
        self,
        alias: str,
        expected: str = "",
        author: str = "",
        reason: str = "",
        expected_revision: int | None = None,
    ) -> Alias: ...


async def roll_back_failing_canaries(registry: CanaryRegistry, desired: DesiredState) -> None:
    """Takes back each canary that is found wanting. Raises Unavailable.

    Of several lora-servers that see it at once one does it; and none undoes what somebody changed since `desired`.
    """
    for alias in desired.aliases:
        reason = await _reason_against(registry, alias, desired)
        if reason is None:
            continue
        try:
            await registry.rollback(
                alias.alias, author=ROLLBACK_AUTHOR, reason=reason, expected_revision=alias.revision
            )
        except (FailedPrecondition, NotFound):
            continue
        log.warning("the canary of %s is taken back: %s", alias.alias, reason)


async def _reason_against(registry: CanaryRegistry, alias: Alias, desired: DesiredState) -> str | None:
    if alias.canary is None:
        return None
    standing = desired.standings.get(alias.canary.version)
    if standing is None or standing.phase is not Phase.READY:
        return "it cannot be served any more" + (f": {standing.error}" if standing and standing.error else "")
    counts = await registry.counts(alias)
    nothing = RequestCounts()
    return rollback_reason(
        alias.canary.terms, counts.get(alias.version, nothing), counts.get(alias.canary.version, nothing)
    )


def rollback_reason(terms: CanaryTerms, stable: RequestCounts, canary: RequestCounts) -> str | None:
    """The reason to take the canary back, in words; None where there is none, or not enough is known.

    A rate is worse where the lower limit of the difference is above the margin: Newcombe's interval 10 from Wilson's
    limits (Statistics in Medicine 17, 1998, 873-890), which holds for small counts and for rates near 0, too. With a
    bare comparison one error in the first 20 answers would be 3 points too many. A time is worse where the lower limit
    of the ratio of both p95s is above the one allowed, found in the same way in their logarithms (MOVER: Zou and
    Donner, Statistics in Medicine 27, 2008, 1693-1702).

    Nothing is judged below `min_requests` of both; but a canary that fails more often than not, by its lower limit,
    does not wait for the stable version's count, which at a weight of 1 never comes. Where the stable version fails as
    often, as far as it is known, it is not the canary's fault.
    """
    if canary.requests < terms.min_requests:
        return None
    if stable.requests < terms.min_requests:
        return _hopeless(stable, canary)
    return next(_reasons(terms, stable, canary), None)


def _reasons(terms: CanaryTerms, stable: RequestCounts, canary: RequestCounts) -> Iterator[str]:
    asked = stable.requests, canary.requests
    answered = stable.requests - stable.errors, canary.requests - canary.errors
    if min_rate_excess((stable.errors, canary.errors), asked) > terms.max_error_excess:
        yield _in_words("error rate", (stable.errors, canary.errors), asked)
    if min(answered) > 0 and min_rate_excess((stable.invalid, canary.invalid), answered) > terms.max_invalid_excess:
        yield _in_words("rate of invalid answers", (stable.invalid, canary.invalid), answered)
    timed = sum(stable.milliseconds.values()), sum(canary.milliseconds.values())
    if min(timed) > 0 and _slowness(stable.milliseconds, canary.milliseconds) > terms.max_latency_ratio:
        p95s = quantile(stable.milliseconds, _TAIL), quantile(canary.milliseconds, _TAIL)
        yield f"p95 {p95s[1]:.0f} ms of {timed[1]} against {p95s[0]:.0f} ms of {timed[0]}"


def _hopeless(stable: RequestCounts, canary: RequestCounts) -> str | None:
    if stable.errors > HOPELESS * stable.requests:
        return None
    if wilson(canary.errors, canary.requests)[0] <= HOPELESS:
        return None
    return _in_words("error rate", (stable.errors, canary.errors), (stable.requests, canary.requests))


def _in_words(what: str, hits: tuple[int, int], of: tuple[int, int]) -> str:
    stable, canary = (f"{_rate(*each):.2f} of {each[1]}" for each in zip(hits, of, strict=True))
    return f"{what} {canary} against {stable}"


def min_rate_excess(hits: tuple[int, int], of: tuple[int, int], z: float = Z) -> float:
    """The lower limit of the second's rate less the first's."""
    stable, canary = (_rate(*each) for each in zip(hits, of, strict=True))
    upper_of_stable, lower_of_canary = wilson(hits[0], of[0], z)[1], wilson(hits[1], of[1], z)[0]
    return canary - stable - math.hypot(canary - lower_of_canary, upper_of_stable - stable)


def _rate(hits: int, of: int) -> float:
    return min(hits, of) / of if of else 0.0


def wilson(hits: float, of: int, z: float = Z) -> tuple[float, float]:
    """The limits of a rate (Wilson, JASA 22, 1927, 209-212); 0 and 1 of nothing."""
    if of == 0:
        return 0.0, 1.0
    rate, weight = min(hits, of) / of, z**2 / of
    middle = (rate + weight / 2) / (1 + weight)
    half = z * math.sqrt(rate * (1 - rate) / of + weight / (4 * of)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def _slowness(stable: Mapping[int, int], canary: Mapping[int, int]) -> float:
    """The lower limit of the ratio of the second's p95 to the first's."""
    middle, _, upper = map(math.log, _tail(stable))
    middle_of_canary, lower, _ = map(math.log, _tail(canary))
    return math.exp(middle_of_canary - middle - math.hypot(middle_of_canary - lower, upper - middle))


def _tail(milliseconds: Mapping[int, int]) -> tuple[float, float, float]:
    """p95 and its limits: the quantiles at the limits of a rate of 0.95, since chance decides how many lie below."""
    total = sum(milliseconds.values())
    lower, upper = wilson(_TAIL * total, total)
    return quantile(milliseconds, _TAIL), quantile(milliseconds, lower), quantile(milliseconds, upper)


def quantile(milliseconds: Mapping[int, int], share: float) -> float:
    """Of times in buckets (`Counts` says which), in milliseconds; within a bucket they are taken as spread evenly.

    In the logarithm, as the buckets are: a bucket is 1.19 times as long as the one before.
    """
    total = sum(milliseconds.values())
    rank, below = share * total, 0
    for bucket, count in sorted(milliseconds.items()):
        if count and below + count >= rank:
            return float(2 ** ((bucket - 1 + (rank - below) / count) / 4))
        below += count
    return float(2 ** (max(milliseconds) / 4))
