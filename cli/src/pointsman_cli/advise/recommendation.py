"""Recommends for each task whether to prompt, retrieve or train, from the report of an evaluation, with reasons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pointsman_cli.advise.costs import (
    TRAINING,
    BreakEven,
    CostTerms,
    Sensitivity,
    break_even,
    path_cost,
    sensitivities,
    training_cost_of,
)
from pointsman_cli.eval.report import EvaluatedPath, Pair, Report, TaskReport
from pointsman_cli.eval.report_tables import probability

_LONG_PROMPT_SHARE = 0.5  # share of the context window from which the length of a prompt is mentioned
_LOW_SCORE = 0.5  # scores below this are called low

SIGNIFICANCE_LEVEL = 0.05
MARGIN = 0.03
"""The greatest difference of mean scores (0 to 1) up to which a path counts as equally good as the best path.

A test of significance alone is not enough: on a small data set it finds few differences.
"""
RELATIVE_MARGIN = 0.1
"""The greatest such difference as a share of the best score, for low scores; the smaller of both margins applies.

With a best mean score of 0.04, a path with 0.01 is not equally good, although the difference is within MARGIN.
"""

VERDICTS = {
    "prompt": "stay with prompting",
    "rag": "add retrieval",
    "lora": "train",
    "tuned": "use the fully fine-tuned model",
    "hybrid": "both: train, and keep examples or passages in the prompt",
}
NONE_GOOD_ENOUGH = "none of them is good enough yet"


def reasons(
    task: TaskReport,
    scored: Sequence[EvaluatedPath],
    equals: Sequence[EvaluatedPath],
    chosen: EvaluatedPath,
    terms: CostTerms,
) -> Iterator[str]:
    """Yields sentences that explain why a path is recommended for a task: by its score, valid form, latency or cost.

    `scored` are the task's paths with a score and a cost. `equals` are the paths among them that are good enough to be
    recommended, and `chosen` is the recommended path.
    """
    yield from _accuracy_reason(task, scored, equals, chosen)
    yield from _validity_reason(scored, chosen)
    yield from _latency_reason(scored, chosen)
    yield from _cost_reason(scored, equals, chosen, terms)
    yield from _freshness_reason(scored, chosen, terms)
    yield from _training_reason(scored, terms)
    yield from _window_reason(scored)


def _accuracy_reason(
    task: TaskReport, scored: Sequence[EvaluatedPath], equals: Sequence[EvaluatedPath], chosen: EvaluatedPath
) -> Iterator[str]:
    assert chosen.score is not None
    yield f"accuracy: {chosen.path} scores {chosen.score.mean:.3f} ({chosen.score.low:.2f} to {chosen.score.high:.2f})"
    if chosen.score.mean < _LOW_SCORE:
        yield "that is low: --min-score sets the score that you need"
    others = [path for path in equals if path.path != chosen.path]
    if others:
        yield f"good enough too: {', '.join(f'{path.path} {path.mean:.3f}' for path in others)}"
    below = sorted((path for path in scored if path not in equals), key=lambda path: path.mean, reverse=True)
    if below:
        yield f"below: {', '.join(f'{path.path} {path.mean:.3f}{_chance(task, chosen, path)}' for path in below)}"


def _chance(task: TaskReport, one: EvaluatedPath, other: EvaluatedPath) -> str:
    for pair in task.pairs:
        if {pair.first, pair.second} == {one.path, other.path}:
            return f" (p {probability(pair.p_adjusted)})"
    return ""


def _validity_reason(scored: Sequence[EvaluatedPath], chosen: EvaluatedPath) -> Iterator[str]:
    worst = min(scored, key=lambda path: path.well_formed)
    if worst.well_formed < 1:
        yield f"form: {chosen.well_formed:.0%} of {chosen.path}'s answers are well-formed; {_shares(scored, chosen)}"


def _shares(scored: Sequence[EvaluatedPath], chosen: EvaluatedPath) -> str:
    return ", ".join(f"{path.path} {path.well_formed:.0%}" for path in scored if path.path != chosen.path) or "no other"


def _latency_reason(scored: Sequence[EvaluatedPath], chosen: EvaluatedPath) -> Iterator[str]:
    timed = [path for path in scored if path.total and path.path != chosen.path]
    if chosen.total and timed:
        fastest = min(timed, key=lambda path: path.total.p95 if path.total else 0.0)
        assert fastest.total is not None
        yield (
            f"latency: {chosen.path} takes {chosen.total.p95:.2f} s at p95; the fastest other, {fastest.path}, "
            f"{fastest.total.p95:.2f} s"
        )


def _cost_reason(
    scored: Sequence[EvaluatedPath], equals: Sequence[EvaluatedPath], chosen: EvaluatedPath, terms: CostTerms
) -> Iterator[str]:
    share = _training_share(chosen)
    yield f"cost: {chosen.path} costs ${chosen.cost:.4f} per 1,000 answers, as receipts state it{share}"
    if terms.monthly is not None:
        spent = path_cost(chosen, terms).monthly(terms.monthly, terms.months)
        dearer = [path for path in equals if path.path != chosen.path]
        than = "".join(
            f"; {path.path} {path_cost(path, terms).monthly(terms.monthly, terms.months):.4f}" for path in dearer
        )
        yield f"at {terms.monthly:,.0f} requests a month, {spent:.4f} dollars a month with its training{than}"
    elif not chosen.adapter:
        for trained in (path for path in equals if path.adapter):
            volume = break_even(trained, chosen, terms).requests
            when = "never pays at these prices" if volume is None else f"pays from {volume:,.0f} requests on"
            yield f"an adapter would be as good: {trained.path} {when}; give --requests-per-month to compare costs"


def _training_share(path: EvaluatedPath) -> str:
    share = path.usd_per_1000.get(TRAINING, 0.0)
    return f": ${share:.4f} of it for its training, which counts as a whole in all that follows" if share else ""


def _freshness_reason(scored: Sequence[EvaluatedPath], chosen: EvaluatedPath, terms: CostTerms) -> Iterator[str]:
    looks_up = any(path.kind == "rag" or "retrieval" in path.usd_per_1000 for path in scored)
    if chosen.kind == "lora" and terms.trainings_a_month:
        spent = path_cost(chosen, terms).month
        yield f"knowledge: keeping the adapter up to date costs {spent:.4f} dollars a month, which is in its cost"
    elif chosen.kind in ("lora", "tuned") and looks_up:
        trained = "an adapter" if chosen.kind == "lora" else "a fine-tuned model"
        yield f"knowledge: {trained} knows what it was trained on; where facts change, say how often (--retrain-days)"
    elif "retrieval" in chosen.usd_per_1000:
        yield "knowledge: passages follow the documents at once; nothing is to be trained again when they change"


def _training_reason(scored: Sequence[EvaluatedPath], terms: CostTerms) -> Iterator[str]:
    for path in scored:
        if epochs := terms.unfinished.get(path.adapter.partition("@")[0]):
            yield f"training: {path.path}'s adapter was still improving when its time ended ({epochs}): train it longer"


def _window_reason(scored: Sequence[EvaluatedPath]) -> Iterator[str]:
    for path in scored:
        share = path.prompt_tokens_p95 / path.context_window
        if share >= _LONG_PROMPT_SHARE:
            yield (
                f"prompt length: {path.path} fills {share:.0%} of the {path.context_window:,} tokens of the window at "
                "p95; an adapter needs no examples in its prompt"
            )


@dataclass(frozen=True, slots=True)
class Requirements:
    """The minimum score, the minimum share of valid answers and the maximum latency that the user requires of a path.

    A field is None if the user has no such requirement.
    """

    floor: float | None = None
    """The minimum (0 to 1) for the lower confidence limit of the path's mean score."""
    form: float | None = None
    """The minimum share (0 to 1) of the path's answers that are well-formed."""
    p95_seconds: float | None = None
    """The maximum of the 95th percentile of the path's latency, in seconds."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The recommended path for a task, with the reasons."""

    task: str
    verdict: str
    """The verdict in words: a value of VERDICTS, or NONE_GOOD_ENOUGH."""
    path: str
    """The name of the recommended path; empty if no path is good enough."""
    reasons: tuple[str, ...] = field(default_factory=tuple)


def recommend(task: TaskReport, needs: Requirements, terms: CostTerms) -> Recommendation:
    """Recommends the cheapest of the task's paths that meet the requirements, with reasons.

    Paths without a score or a cost are left out. If `needs.floor` is None, the path must also be about as good as the
    best path that meets the requirements: its mean score is at most `allowed_gap` lower, and the difference is not
    significant. If `terms.monthly` is None, paths without an adapter are preferred. If no path meets the requirements,
    the result's `path` is empty. The `adapter` of each path that has one must be a key of `terms.training`.
    """
    scored = [path for path in task.paths if path.score and path.usd_per_1000]
    eligible = [path for path in scored if not any(unmet(path, needs))]
    if not eligible:
        missing = tuple(f"{path.path} {missed}" for path in scored for missed in unmet(path, needs))
        return Recommendation(
            task.task, NONE_GOOD_ENOUGH, "", missing or ("no path gave an answer that could be scored",)
        )
    equals = eligible if needs.floor is not None else _as_good_as_the_best(eligible, task.pairs)
    chosen = _cheapest(equals, terms)
    return Recommendation(
        task.task, VERDICTS[chosen.kind], chosen.path, tuple(reasons(task, scored, equals, chosen, terms))
    )


def unmet(path: EvaluatedPath, needs: Requirements) -> Iterator[str]:
    """Yields a sentence for each of the user's requirements that a path, which must have a score, does not meet.

    The sentence lacks its subject, the path's name: "takes 3.10 s at p95: 2 s are allowed".
    """
    assert path.score is not None
    if needs.floor is not None and path.score.low < needs.floor:
        yield f"scores {path.score.mean:.3f}, surely no less than {path.score.low:.3f}: the floor is {needs.floor:g}"
    if needs.form is not None and path.well_formed < needs.form:
        yield f"is well-formed in {path.well_formed:.1%}: {needs.form:.1%} are needed"
    if needs.p95_seconds is not None and path.total and path.total.p95 > needs.p95_seconds:
        yield f"takes {path.total.p95:.2f} s at p95: {needs.p95_seconds:g} s are allowed"


def _as_good_as_the_best(paths: Sequence[EvaluatedPath], pairs: Sequence[Pair]) -> list[EvaluatedPath]:
    """Returns the path with the best mean score, and those within `allowed_gap` of it without a significant difference.

    The significance is that of `pairs`, which compare the paths.
    """
    best = max(paths, key=lambda path: path.mean)
    worse = {
        pair.second if pair.first == best.path else pair.first
        for pair in pairs
        if best.path in (pair.first, pair.second) and pair.p_adjusted < SIGNIFICANCE_LEVEL
    }
    return [path for path in paths if path.path not in worse and best.mean - path.mean <= allowed_gap(best.mean)]


def allowed_gap(best: float) -> float:
    """Returns by how much a path's mean score may be below `best`, the best mean score, to count as equally good.

    It is MARGIN (0.03), but at most a tenth of `best`.
    """
    return min(MARGIN, RELATIVE_MARGIN * best)


def _cheapest(paths: Sequence[EvaluatedPath], terms: CostTerms) -> EvaluatedPath:
    return by_preference(paths, terms)[0]


def by_preference(paths: Sequence[EvaluatedPath], terms: CostTerms) -> list[EvaluatedPath]:
    """Returns the paths, which must be equally good, in order of preference: the cheapest path first.

    The cost is that of a month with `terms.monthly` requests. If `terms.monthly` is None, the order is by the cost per
    request, and paths without an adapter come before paths with one.
    """
    monthly = terms.monthly
    if monthly is not None:
        return sorted(paths, key=lambda path: path_cost(path, terms).monthly(monthly, terms.months))
    return sorted(paths, key=lambda path: (bool(path.adapter), path_cost(path, terms).request))


def best_path(paths: Sequence[EvaluatedPath]) -> EvaluatedPath | None:
    """Returns the path with the highest mean score, or None if `paths` is empty; of equal paths, the cheapest."""
    return max(paths, key=lambda path: (path.mean, -path.cost), default=None)


def best_pair(task: TaskReport) -> tuple[EvaluatedPath, EvaluatedPath] | None:
    """Returns the task's best path with an adapter and its best path without one; None if the task lacks either.

    Paths without a score or a cost are left out.
    """
    scored = [path for path in task.paths if path.score and path.usd_per_1000]
    trained = best_path([path for path in scored if path.adapter])
    untrained = best_path([path for path in scored if not path.adapter])
    return (trained, untrained) if trained and untrained else None


@dataclass(frozen=True, slots=True)
class TaskAdvice:
    """The recommended path of one task, and the volumes of requests from which an adapter pays off."""

    task: str
    recommendation: Recommendation
    break_evens: tuple[BreakEven, ...]
    """The comparisons of each path that has an adapter with each path that has none."""
    compared_pair: tuple[str, str] | None
    """The names of the two paths that `sensitivities` compares: the best path with an adapter, the best one without.

    None if the task has no path of either kind.
    """
    sensitivities: tuple[Sensitivity, ...]


def advise(report: Report, needs: Requirements, terms: CostTerms) -> tuple[TaskAdvice, ...]:
    """Recommends a path for each task of the evaluation's report.

    The keys of `terms.training` are names of adapters. Raises UsageError if an adapter of the report is no key of it.
    """
    priced = by_alias(report, terms)
    return tuple(_advise_task(task, needs, priced) for task in report.tasks)


def _advise_task(task: TaskReport, needs: Requirements, terms: CostTerms) -> TaskAdvice:
    scored = [path for path in task.paths if path.score and path.usd_per_1000]
    pairs = [(one, other) for one in scored if one.adapter for other in scored if not other.adapter]
    best = best_pair(task)
    return TaskAdvice(
        task=task.task,
        recommendation=recommend(task, needs, terms),
        break_evens=tuple(break_even(one, other, terms) for one, other in pairs),
        compared_pair=(best[0].path, best[1].path) if best else None,
        sensitivities=sensitivities(*best, terms) if best else (),
    )


def by_alias(report: Report, terms: CostTerms) -> CostTerms:
    """Returns `terms` with the report's adapters ("triage@prod") as keys of `training`, in place of names ("triage").

    Raises UsageError if the training cost of an adapter in the report is missing.
    """
    aliases = {path.adapter for task in report.tasks for path in task.paths if path.adapter}
    return replace(terms, training={alias: training_cost_of(alias, terms.training) for alias in sorted(aliases)})
