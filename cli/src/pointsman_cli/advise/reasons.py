"""The reasons for a recommendation, one sentence for each criterion."""

from collections.abc import Iterator, Sequence

from pointsman_cli.advise.money import Terms, break_even, cost
from pointsman_cli.eval.report import PathFigures, TaskReport
from pointsman_cli.eval.tables import probability

_NEAR_THE_WINDOW = 0.5  # share of the context window from which a prompt's length is worth a word
_FEW = 0.5  # score below which it is worth a word


def reasons(
    task: TaskReport, scored: Sequence[PathFigures], equals: Sequence[PathFigures], chosen: PathFigures, terms: Terms
) -> Iterator[str]:
    """`equals` are those that are as good as is asked for, `chosen` the one of them that was taken."""
    yield from _accuracy(task, scored, equals, chosen)
    yield from _form(scored, chosen)
    yield from _latency(scored, chosen)
    yield from _money(scored, equals, chosen, terms)
    yield from _freshness(scored, chosen, terms)
    yield from _window(scored)


def _accuracy(
    task: TaskReport, scored: Sequence[PathFigures], equals: Sequence[PathFigures], chosen: PathFigures
) -> Iterator[str]:
    assert chosen.score is not None
    yield f"accuracy: {chosen.path} scores {chosen.score.mean:.3f} ({chosen.score.low:.2f} to {chosen.score.high:.2f})"
    if chosen.score.mean < _FEW:
        yield "that is low: --min-score sets the score that you need"
    others = [path for path in equals if path.path != chosen.path]
    if others:
        yield f"good enough too: {', '.join(f'{path.path} {path.mean:.3f}' for path in others)}"
    below = sorted((path for path in scored if path not in equals), key=lambda path: path.mean, reverse=True)
    if below:
        yield f"below: {', '.join(f'{path.path} {path.mean:.3f}{_chance(task, chosen, path)}' for path in below)}"


def _chance(task: TaskReport, one: PathFigures, other: PathFigures) -> str:
    for pair in task.pairs:
        if {pair.first, pair.second} == {one.path, other.path}:
            return f" (p {probability(pair.p_adjusted)})"
    return ""


def _form(scored: Sequence[PathFigures], chosen: PathFigures) -> Iterator[str]:
    worst = min(scored, key=lambda path: path.well_formed)
    if worst.well_formed < 1:
        yield f"form: {chosen.well_formed:.0%} of {chosen.path}'s answers are well-formed; {_shares(scored, chosen)}"


def _shares(scored: Sequence[PathFigures], chosen: PathFigures) -> str:
    return ", ".join(f"{path.path} {path.well_formed:.0%}" for path in scored if path.path != chosen.path) or "no other"


def _latency(scored: Sequence[PathFigures], chosen: PathFigures) -> Iterator[str]:
    timed = [path for path in scored if path.total and path.path != chosen.path]
    if chosen.total and timed:
        fastest = min(timed, key=lambda path: path.total.p95 if path.total else 0.0)
        assert fastest.total is not None
        yield (
            f"latency: {chosen.path} takes {chosen.total.p95:.2f} s at p95; the fastest other, {fastest.path}, "
            f"{fastest.total.p95:.2f} s"
        )


def _money(
    scored: Sequence[PathFigures], equals: Sequence[PathFigures], chosen: PathFigures, terms: Terms
) -> Iterator[str]:
    yield f"cost: {chosen.path} costs {1000 * cost(chosen, terms).tokens:.4f} dollars for 1,000 answers"
    if terms.monthly is not None:
        spent = cost(chosen, terms).monthly(terms.monthly, terms.months)
        dearer = [path for path in equals if path.path != chosen.path]
        than = "".join(f"; {path.path} {cost(path, terms).monthly(terms.monthly, terms.months):.4f}" for path in dearer)
        yield f"at {terms.monthly:,.0f} requests a month, {spent:.4f} dollars a month with its training{than}"
    elif not chosen.adapter:
        for trained in (path for path in equals if path.adapter):
            volume = break_even(trained, chosen, terms).requests
            when = "never pays at these prices" if volume is None else f"pays from {volume:,.0f} requests on"
            yield f"an adapter would be as good: {trained.path} {when}; give --requests-per-month to compare costs"


def _freshness(scored: Sequence[PathFigures], chosen: PathFigures, terms: Terms) -> Iterator[str]:
    looks_up = any(path.kind == "rag" or "retrieval" in path.usd_per_1000 for path in scored)
    if chosen.kind == "lora" and terms.trainings_a_month:
        spent = cost(chosen, terms).month
        yield f"knowledge: keeping the adapter up to date costs {spent:.4f} dollars a month, which is in its cost"
    elif chosen.kind == "lora" and looks_up:
        yield "knowledge: an adapter knows what it was trained on; where facts change, say how often (--retrain-days)"
    elif "retrieval" in chosen.usd_per_1000:
        yield "knowledge: passages follow the documents at once; nothing is to be trained again when they change"


def _window(scored: Sequence[PathFigures]) -> Iterator[str]:
    for path in scored:
        share = path.prompt_tokens_p95 / path.context_window
        if share >= _NEAR_THE_WINDOW:
            yield (
                f"prompt length: {path.path} fills {share:.0%} of the {path.context_window:,} tokens of the window at "
                "p95; an adapter needs no examples in its prompt"
            )
