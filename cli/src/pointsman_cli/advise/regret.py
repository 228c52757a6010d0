"""`pointsman advise --regret`: compares shadow requests with the paths that were chosen, from the gateway's metrics.

A shadow request is a copy of an answered request that the gateway sends to another path, only to compare both answers.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from pointsman_servicekit.confidence_sequences import limits
from pointsman_servicekit.http_client import open_client
from pointsman_servicekit.statistics import two_sided_z, wilson_interval
from rich.console import Group, RenderableType
from rich.text import Text

from pointsman_cli.errors import CommandError
from pointsman_cli.gateway_http import unreachable
from pointsman_cli.options import plain_table
from pointsman_cli.top.metrics import Scrape, parse_metrics

CONFIDENCE = 0.95
TIMEOUT_SECONDS = 2.0  # of the request for the metrics
_COLUMNS = ("task", "chosen", "shadow", "pairs", "$ per 1k", "seconds", "quality", "scored", "regret $", "regret")


@dataclass(frozen=True, slots=True)
class PathMeans:
    """Mean cost (dollars), latency (seconds) and score of one path's answers to requests that two paths answered."""

    usd: float
    """Mean cost of a request, in dollars."""
    seconds: float
    """Mean latency of a request, in seconds."""
    quality: float | None
    """Mean score, 0 to 1, of the requests for which both paths' answers have scores; None if there are none."""


@dataclass(frozen=True, slots=True)
class PathComparison:
    """Compares, for a task, the answers of the chosen path with those of a shadow path to the same requests.

    The gateway sent a copy of each request to the shadow path only for this comparison. Regret is what the shadow path
    would have saved (dollars) or gained (score), summed over the requests for which it was better.
    """

    task: str
    chosen: str
    shadow: str
    pairs: int
    """The number of requests that both paths answered."""
    scored: int
    """The number of requests, of those in `pairs`, for which both answers have scores."""
    of_chosen: PathMeans
    of_shadow: PathMeans
    regret_usd: float
    """The dollars that the shadow path would have saved.

    Only the scored requests count for which its score was not below that of the chosen path.
    """
    regret_quality: float
    """By how much the shadow path scored higher, summed over the scored requests for which it scored higher."""


@dataclass(frozen=True, slots=True)
class JudgeFigures:
    """The verdicts and costs of a task's judge (a model that compares answers), and how far people agree with it."""

    task: str
    verdicts: Mapping[str, int]
    """The number of comparisons by outcome.

    The outcome is "chosen" or "shadow" for the path with the better answer, "tie", or "disagreement" if the judge's
    choice depended on the order of the answers. Any other outcome says why there is no verdict, such as "unparsable".
    """
    spent_usd: float
    """The cost of the judge, in dollars."""
    rated: int
    """The number of judged answers that people have also rated."""
    agreed: int
    """The number of answers, of those in `rated`, that the judge and people both found good, or both found bad."""
    agreement: tuple[float, float]
    """Wilson's 95 % interval of `agreed` / `rated`, valid only if you look once; (0, 1) without ratings."""
    agreement_at_any_time: tuple[float, float]
    """The 95 % confidence limits of `agreed` / `rated` that stay valid at each look; (0, 1) without ratings."""


@dataclass(frozen=True, slots=True)
class Regrets:
    """All figures on shadow requests (copies sent to another path for comparison) of one gateway since its start."""

    comparisons: tuple[PathComparison, ...]
    outcomes: Mapping[str, int]
    """The number of requests that were sampled for a shadow request, by the outcome of the shadow request.

    The outcome is "ok", the code of an error, or the reason why the gateway sent none, such as "crowded" (the engines
    were busy) or "spent" (the budget of the day was used up).
    """
    spent_usd: float
    """The cost of shadow requests, in dollars."""
    judges: tuple[JudgeFigures, ...] = ()
    """The figures of each task's judge, for tasks that have one."""


def read_regrets(scrape: Scrape) -> Regrets:
    pairs = scrape.samples.get("pointsman_shadow_pairs_total", {})
    outcomes: dict[str, int] = {}
    for labels, number in scrape.samples.get("pointsman_shadow_requests_total", {}).items():
        outcome = dict(labels)["outcome"]
        outcomes[outcome] = outcomes.get(outcome, 0) + round(number)
    comparisons = tuple(_comparison(scrape, dict(labels), round(number)) for labels, number in sorted(pairs.items()))
    verdicts = scrape.samples.get("pointsman_judge_verdicts_total", {})
    judges = tuple(_judge(scrape, task) for task in sorted({dict(labels)["task"] for labels in verdicts}))
    return Regrets(comparisons, outcomes, scrape.value("pointsman_shadow_cost_usd_total") or 0.0, judges)


def _judge(scrape: Scrape, task: str) -> JudgeFigures:
    verdicts = {
        dict(labels)["outcome"]: round(number)
        for labels, number in scrape.samples["pointsman_judge_verdicts_total"].items()
        if dict(labels)["task"] == task
    }
    agreements = "pointsman_judge_agreements_total"
    rated = round(_sum(scrape, agreements, {"task": task}))
    agreed = round(sum(_sum(scrape, agreements, {"task": task, "judge": one, "human": one}) for one in ("good", "bad")))
    share = agreed / rated if rated else 0.0
    return JudgeFigures(
        task=task,
        verdicts=verdicts,
        spent_usd=_sum(scrape, "pointsman_judge_cost_usd_total", {"task": task}),
        rated=rated,
        agreed=agreed,
        agreement=wilson_interval(share, rated, two_sided_z(CONFIDENCE)),
        agreement_at_any_time=limits(share, rated, CONFIDENCE),
    )


def _comparison(scrape: Scrape, labels: Mapping[str, str], pairs: int) -> PathComparison:
    scored = round(_sum(scrape, "pointsman_shadow_scored_total", labels))
    chosen, shadow = (_means(scrape, {**labels, "side": side}, pairs, scored) for side in ("chosen", "shadow"))
    return PathComparison(
        labels["task"],
        labels["chosen"],
        labels["path"],
        pairs,
        scored,
        chosen,
        shadow,
        _sum(scrape, "pointsman_regret_usd_total", labels),
        _sum(scrape, "pointsman_regret_quality_total", labels),
    )


def _means(scrape: Scrape, labels: Mapping[str, str], pairs: int, scored: int) -> PathMeans:
    return PathMeans(
        usd=_sum(scrape, "pointsman_shadow_pair_cost_usd_total", labels) / pairs,
        seconds=_sum(scrape, "pointsman_shadow_pair_seconds_total", labels) / pairs,
        quality=_sum(scrape, "pointsman_shadow_quality_total", labels) / scored if scored else None,
    )


def _sum(scrape: Scrape, name: str, labels: Mapping[str, str]) -> float:
    """Sums the values of a metric's series that have all of the given labels."""
    series = scrape.samples.get(name, {})
    return sum(value for found, value in series.items() if labels.items() <= dict(found).items())


def fetch_regrets(url: str) -> Regrets:
    """Reads the figures on shadow requests from `url`, the full URL of a gateway's `/metrics`.

    Raises CommandError if the metrics cannot be read.
    """
    return read_regrets(fetch_metrics(url))


def fetch_metrics(url: str) -> Scrape:
    """Reads the gateway's metrics at `url`, the full URL of `/metrics`; raises CommandError if they cannot be read."""
    try:
        with open_client(timeout=TIMEOUT_SECONDS, trust_env=False, headers={"accept": "text/plain"}) as client:
            answer = client.get(url).raise_for_status()
        return parse_metrics(answer.text, time.monotonic(), ("pointsman_",))
    except httpx.ConnectError as error:
        raise unreachable(url, error, "--gateway") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise CommandError(f"{url} cannot be read: {error or type(error).__name__}") from error


def regret_table(regrets: Regrets) -> RenderableType:
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in sorted(regrets.outcomes.items()))
    summary = Text(f"sampled: {outcomes or 'none'}; ${regrets.spent_usd:.6f} spent on shadows")
    judges = [Text(_judge_line(judge)) for judge in regrets.judges]
    if not regrets.comparisons:
        return Group(Text("no shadow request has been answered; `shadow:` of a task turns them on"), summary)
    table = plain_table(*_COLUMNS[:3], right=_COLUMNS[3:])
    for comparison in regrets.comparisons:
        table.add_row(*_row(comparison))
    return Group(table, summary, *judges)


def _judge_line(judge: JudgeFigures) -> str:
    verdicts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(judge.verdicts.items()))
    (low, high), (lowest, highest) = judge.agreement, judge.agreement_at_any_time
    shares = f"{low:.0%} to {high:.0%} now; {lowest:.0%} to {highest:.0%} if you look at any time"
    agreed = f"{judge.agreed} of {judge.rated} answers ({shares})" if judge.rated else "none rated yet"
    return f"judge of {judge.task}: {verdicts}; ${judge.spent_usd:.6f} spent; agrees with people: {agreed}"


def _row(one: PathComparison) -> tuple[str, ...]:
    chosen, shadow = one.of_chosen, one.of_shadow
    return (
        one.task,
        one.chosen,
        one.shadow,
        str(one.pairs),
        f"{chosen.usd * 1000:.4f} : {shadow.usd * 1000:.4f}",
        f"{chosen.seconds:.2f} : {shadow.seconds:.2f}",
        f"{_quality(chosen)} : {_quality(shadow)}",
        str(one.scored),
        f"{one.regret_usd:.6f}",
        f"{one.regret_quality / one.scored:.2f}" if one.scored else "-",
    )


def _quality(side: PathMeans) -> str:
    return "-" if side.quality is None else f"{side.quality:.2f}"
