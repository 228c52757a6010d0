"""Advice from the figures of a running gateway.

`advise --live` recommends a path for each task, by people's ratings of its answers. `advise --against MODEL` compares
the dollars per million tokens of the gateway's engines with a provider's list price.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
from pointsman_servicekit.confidence_sequences import limits
from pointsman_servicekit.http_client import open_client
from pointsman_servicekit.prices import PricedModel
from pointsman_servicekit.statistics import lower_limit_of_difference, two_sided_z, wilson_interval
from rich.console import Group, RenderableType
from rich.text import Text

from pointsman_cli.advise.recommendation import MARGIN, VERDICTS, allowed_gap
from pointsman_cli.errors import CommandError
from pointsman_cli.gateway_http import unreachable
from pointsman_cli.options import bearer
from pointsman_cli.tables import FittingTable
from pointsman_cli.top.metrics import Scrape

CONFIDENCE = 0.95
TIMEOUT_SECONDS = 10.0
NO_RATINGS = "no path of its policy has ratings yet: send feedback, or turn shadow requests on"

MILLION = 1e6
TOKEN_TYPES = ("prompt", "cached", "completion")


@dataclass(frozen=True, slots=True)
class RatedPath:
    """The users' ratings and the cost of one path (way to answer) of a task, as a running gateway reports them."""

    path: str
    kind: str
    """The kind of path: "prompt", "rag", "lora", "tuned" or "hybrid"."""
    ratings: float
    """The number of ratings of the path's answers."""
    mean: float
    """The mean rating, 0 to 1."""
    low: float
    """The lower 95 % confidence limit of the mean, which stays valid however often you look while ratings arrive."""
    high: float
    """The upper 95 % confidence limit of the mean, which stays valid however often you look while ratings arrive."""
    low_now: float
    """The lower end of Wilson's 95 % interval of the mean, which is valid only if you look at the ratings once."""
    high_now: float
    """The upper end of Wilson's 95 % interval of the mean, which is valid only if you look at the ratings once."""
    usd_per_1000: float | None
    """The dollars of 1,000 requests, by the mean of the path's receipts; None if unknown."""
    is_estimate: bool
    """Whether `usd_per_1000` is the expected cost instead of a mean, because the path has not answered yet."""
    p95_seconds: float
    """The 95th percentile of the latency of the path's answers, in seconds."""


@dataclass(frozen=True, slots=True)
class LiveAdvice:
    """The recommended path of one task, by the ratings of its answers in a running gateway, with the reasons."""

    task: str
    verdict: str
    """The verdict in words: a value of VERDICTS, or NO_RATINGS."""
    path: str
    """The name of the recommended path; empty if no path of the task has ratings."""
    settled: bool
    """Whether the ratings decide each comparison of the recommended path with another; False if there is no other."""
    further_ratings: Mapping[str, int]
    """How many further ratings each path needs to decide all comparisons, if the mean ratings do not change.

    Paths that need no further ratings are left out.
    """
    unrated: tuple[str, ...]
    """The names of the task's paths without a rating, except the default path."""
    paths: tuple[RatedPath, ...]
    """The task's rated paths."""
    reasons: tuple[str, ...]
    """Sentences on the ratings and the comparisons."""


def fetch_tasks(url: str, key: str) -> Sequence[Mapping[str, Any]]:
    """Returns the tasks with ratings and costs of their paths, from the overview page of the gateway's console.

    Each task is a JSON object with its name as `task` and a list `paths` of objects. `url` is the gateway's base URL,
    and `key` an API key; empty: none is sent. Raises CommandError if the gateway cannot be reached, has no console, or
    rejects the request.
    """
    headers = {"x-pointsman-console": "advise", **bearer(key)}
    try:
        with open_client(headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            answer = client.get(f"{url}/console/api/overview")
        content = answer.json()
        if answer.is_success:
            return list(content["overview"]["tasks"])
        reason = content["error"]["message"]
    except httpx.ConnectError as error:
        raise unreachable(url, error, "--gateway") from error
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{url} cannot be read: {error or type(error).__name__}; is its console on?") from error
    raise CommandError(f"{url} does not show its ratings: {reason}")


def live_advice(task: Mapping[str, Any]) -> LiveAdvice:
    """Recommends the cheapest of a task's paths that are rated about as well as the best-rated one.

    `task` is one of the tasks that `fetch_tasks` returns. A path is rated about as well if its mean rating is at most
    `allowed_gap` below the best mean, and the difference is not significant. A path of unknown cost counts as the most
    expensive. If no path of the task has ratings, the result's `path` is empty.
    """
    rated = tuple(_rated(path) for path in task["paths"] if path["quality"])
    unrated = tuple(str(path["path"]) for path in task["paths"] if not path["quality"] and path["role"] != "default")
    if not rated:
        return LiveAdvice(task["task"], NO_RATINGS, "", False, {}, unrated, (), ())
    best = max(rated, key=lambda path: path.mean)
    gap = allowed_gap(best.mean)
    equals = [path for path in rated if best.mean - path.mean <= gap and difference(best, path)[0] <= 0]
    chosen = min(equals, key=lambda path: math.inf if path.usd_per_1000 is None else path.usd_per_1000)
    others = [path for path in rated if path is not chosen]
    open_comparisons = [path for path in others if not _is_settled(chosen, path)]
    needed: dict[str, int] = {}
    for other in open_comparisons:
        target = ratings_to_settle(chosen, other)
        for path in (chosen, other):
            more = max(0, math.ceil(target - path.ratings))
            needed[path.path] = max(needed.get(path.path, 0), more)
    return LiveAdvice(
        task=task["task"],
        verdict=VERDICTS[chosen.kind],
        path=chosen.path,
        settled=bool(others) and not open_comparisons,
        further_ratings={path: more for path, more in needed.items() if more},
        unrated=unrated,
        paths=rated,
        reasons=tuple(_reasons(chosen, others, open_comparisons)),
    )


def _rated(path: Mapping[str, Any]) -> RatedPath:
    ratings, mean = path["quality"]["ratings"], path["quality"]["mean"]
    low, high = limits(mean, ratings, CONFIDENCE)
    low_now, high_now = wilson_interval(mean, ratings, two_sided_z(CONFIDENCE))
    return RatedPath(
        path=path["path"],
        kind=path["kind"],
        ratings=ratings,
        mean=mean,
        low=low,
        high=high,
        low_now=low_now,
        high_now=high_now,
        usd_per_1000=path["usd_per_1k"],
        is_estimate=path["estimated"],
        p95_seconds=path["p95_seconds"],
    )


def difference(one: RatedPath, other: RatedPath) -> tuple[float, float]:
    """Returns the 95 % confidence limits (low, high) of the mean rating of path `one` minus that of path `other`.

    The limits are valid at any number of ratings, so the comparison may be repeated as ratings arrive.
    """
    low = lower_limit_of_difference(one.mean, one.low, other.mean, other.high)
    return low, -lower_limit_of_difference(other.mean, other.low, one.mean, one.high)


def _is_settled(chosen: RatedPath, other: RatedPath) -> bool:
    """Returns whether one of two paths is significantly better, or the interval of their difference is within MARGIN.

    For low ratings `allowed_gap` is smaller, but MARGIN is used here too: a wrong choice costs at most 3 right answers
    in 100.
    """
    low, high = difference(chosen, other)
    return low > 0 or high < 0 or (low >= -MARGIN and high <= MARGIN)


def ratings_to_settle(one: RatedPath, other: RatedPath) -> int:
    """Returns the number of ratings, old and new, that each of two paths needs until their comparison is decided.

    A comparison is decided if one path is significantly better, or if both 95 % confidence limits of the difference of
    the means are within `MARGIN` of 0. It is assumed that further ratings leave the means as they are. The result is at
    most 1 % (or one rating) too large.
    """
    too_few, enough = 0, 1
    while not _is_settled(_with_ratings(one, enough), _with_ratings(other, enough)):
        too_few, enough = enough, 2 * enough
    while enough - too_few > max(1, enough // 100):
        middle = (too_few + enough) // 2
        if _is_settled(_with_ratings(one, middle), _with_ratings(other, middle)):
            enough = middle
        else:
            too_few = middle
    return enough


def _with_ratings(path: RatedPath, ratings: int) -> RatedPath:
    low, high = limits(path.mean, ratings, CONFIDENCE)
    return replace(path, ratings=ratings, low=low, high=high)


def _reasons(chosen: RatedPath, others: Sequence[RatedPath], undecided: Sequence[RatedPath]) -> Iterator[str]:
    now = f"{chosen.low_now:.2f} to {chosen.high_now:.2f} now"
    at_any_time = f"{chosen.low:.2f} to {chosen.high:.2f} if you look at any time"
    yield f"{chosen.path} is rated {chosen.mean:.3f} ({now}; {at_any_time}; {chosen.ratings:g} ratings)"
    for other in sorted(others, key=lambda path: path.mean, reverse=True):
        low, high = difference(chosen, other)
        state = "not settled" if other in undecided else "settled"
        yield f"against {other.path}: {chosen.mean - other.mean:+.3f} ({low:+.2f} to {high:+.2f} at any time), {state}"


def live_lines(advice: LiveAdvice) -> RenderableType:
    lines: list[RenderableType] = [
        Text(f"\n{advice.task}: {advice.verdict}" + (f" ({advice.path})" if advice.path else ""), style="bold")
    ]
    lines += [Text(f"  {reason}") for reason in advice.reasons]
    if advice.further_ratings:
        needed = ", ".join(f"{more:,} of {path}" for path, more in advice.further_ratings.items())
        lines.append(Text(f"  further ratings that would settle it: {needed}"))
    if advice.unrated:
        lines.append(Text(f"  not rated at all: {', '.join(advice.unrated)}"))
    if advice.paths:
        lines += [_table(advice.paths), *_cost_notes(advice.paths)]
    return Group(*lines)


def _table(paths: Sequence[RatedPath]) -> FittingTable:
    columns, rows = ("kind", "ratings", "mean", "now", "at any time", "$ per 1,000", "p95 s"), []
    for path in paths:
        usd = "-" if path.usd_per_1000 is None else f"{'about ' if path.is_estimate else ''}{path.usd_per_1000:.4f}"
        now, at_any_time = f"{path.low_now:.2f} to {path.high_now:.2f}", f"{path.low:.2f} to {path.high:.2f}"
        figures = (f"{path.ratings:g}", f"{path.mean:.3f}", now, at_any_time, usd, f"{path.p95_seconds:.2f}")
        rows.append((path.path, path.kind, *figures))
    return FittingTable(("path", *columns), rows, right=columns)


def _cost_notes(paths: Sequence[RatedPath]) -> Iterator[Text]:
    has_estimate = any(path.is_estimate for path in paths)
    about = "; about: expected, since the path has not answered as auto yet" if has_estimate else ""
    yield Text(f"  $ per 1,000: mean of the receipts, with an adapter's share of its training{about}", style="dim")


# -- own hardware, compared with a provider


@dataclass(frozen=True, slots=True)
class HardwareCost:
    """The cost of a gateway's tokens since its start on its own engines, and at a provider's list prices.

    Only engines with a price per hour count, and only the tokens of paths that these engines answered.
    """

    against: str
    """The name of the provider's model."""
    engines: tuple[str, ...]
    """The names of the engines that have a price per hour."""
    tokens: Mapping[str, float]
    """The number of tokens by type: "prompt", "cached", "completion"."""
    utilisation: float
    """The share (0 to 1) of the engines' cost that fell into times when they answered requests."""
    own_usd_per_million: float
    """Dollars for a million tokens on the engines, including their idle time."""
    own_usd_per_million_at_full_use: float
    """Dollars for a million tokens if the engines were never idle and answered as many requests at once as now."""
    list_usd_per_million: float
    """Dollars for a million tokens at the provider, with the same shares of prompt, cached and completion tokens."""
    break_even_utilisation: float
    """The utilisation from which the engines are cheaper than the provider; if it is above 1, they never are."""


def hardware_cost(scrape: Scrape, against: str, price: PricedModel) -> HardwareCost:
    """Compares the cost of a gateway's own engines with a provider's list price.

    `scrape` are the gateway's metrics, `against` is the name of the provider's model, and `price` its price. Raises
    CommandError if no engine has a price per hour, the engines with one have not answered yet, or the provider's price
    is 0.
    """
    dollars = scrape.samples.get("pointsman_engine_cost_usd_total", {})
    shares = [(dict(labels)["engine"], dict(labels)["path"], usd) for labels, usd in dollars.items() if usd > 0]
    total = sum(usd for _, _, usd in shares)
    if not total:
        raise CommandError("no engine of this gateway has a price per hour; write usd_per_hour in models.yaml")
    busy = sum(usd for _, path, usd in shares if path != "idle")
    paths = {path for _, path, _ in shares}
    tokens = dict.fromkeys(TOKEN_TYPES, 0.0)
    for labels, number in scrape.samples.get("pointsman_tokens_total", {}).items():
        kind = dict(labels)["type"]
        if kind in tokens and dict(labels)["path"] in paths:
            tokens[kind] += number
    millions = sum(tokens.values()) / MILLION
    if not millions or not busy:
        raise CommandError("the engines with a price per hour have answered nothing yet")
    listed = sum(getattr(price, kind) * number for kind, number in tokens.items()) / MILLION
    if not listed:
        raise CommandError(f"'{against}' costs nothing by the price list: there is nothing to compare with")
    utilisation = busy / total
    return HardwareCost(
        against=against,
        engines=tuple(sorted({engine for engine, _, _ in shares})),
        tokens=tokens,
        utilisation=utilisation,
        own_usd_per_million=total / millions,
        own_usd_per_million_at_full_use=busy / millions,
        list_usd_per_million=listed / millions,
        break_even_utilisation=utilisation * total / listed,
    )


def hardware_lines(cost: HardwareCost, as_of: str) -> Iterator[str]:
    counts = ", ".join(f"{number:,.0f} {kind}" for kind, number in cost.tokens.items())
    yield f"engines {', '.join(cost.engines)} since the gateway's start: {counts} tokens"
    yield f"own hardware: ${cost.own_usd_per_million:,.4f} per million tokens at {cost.utilisation:.1%} utilisation"
    yield f"              ${cost.own_usd_per_million_at_full_use:,.4f} if it were never idle"
    yield f"{cost.against}: ${cost.list_usd_per_million:,.4f} per million of the same tokens (list price of {as_of})"
    if cost.break_even_utilisation > 1:
        yield "break-even: never at this rate of tokens; more answers at once make each cheaper"
    else:
        yield f"break-even: from {cost.break_even_utilisation:.1%} utilisation on your hardware is cheaper"
