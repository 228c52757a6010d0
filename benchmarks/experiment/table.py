"""Writes the experiment's claims with their results, its tables and the advice, as Markdown."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pointsman_cli.advise.costs import CostTerms, read_training_costs
from pointsman_cli.advise.recommendation import Requirements, advise
from pointsman_cli.eval.report import EvaluatedPath, Report, TaskReport
from pointsman_cli.eval.report_tables import probability

from benchmarks.experiment.folder import EXAMPLE
from benchmarks.experiment.tasks import short

BEGIN, END = "<!-- results: written by `make experiment` -->", "<!-- end of results -->"
USD_PER_HOUR = 0.04
"""The price of the machine in dollars per hour, as in models.yaml."""
REQUESTS_PER_MONTH = 100_000


def insert_details(page: str, reports: Mapping[str, Report], costs: Mapping[str, float]) -> str:
    """Returns the page with the claims and whether they hold, a table of all paths for each task, and the advice."""
    claims = _claims({task: report.tasks[0] for task, report in reports.items()})
    lines = [line for task, report in reports.items() for line in ("", *_task(task, report, costs))]
    return insert(page, BEGIN, "\n".join((*claims, *lines)))


def insert(page: str, begin: str, results: str) -> str:
    """Returns the page with new text between the marker `begin` and `END`."""
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(END)
    return f"{before}{begin}\n\n{results}\n{END}{after}"


def training_costs(folder: Path) -> dict[str, float]:
    """Returns the dollars that each adapter's training cost, of the example and in `folder`, at USD_PER_HOUR."""
    files = [*(EXAMPLE / "adapters").glob("*/training.json"), *folder.glob("*/training.json")]
    return read_training_costs(files, USD_PER_HOUR, ())


def _claims(tasks: Mapping[str, TaskReport]) -> Iterator[str]:
    yield "| claim | measured | holds |"
    yield "|---|---|---|"
    yield from _triage(tasks["triage"])
    yield from _policy(tasks["policy_question"])
    for name, task in tasks.items():
        yield from _hybrid(name, task)


def _triage(task: TaskReport) -> Iterator[str]:
    adapter, prompting = _best(task, ["lora"]), _best(task, ["prompt", "rag"])
    points = 100 * (adapter.mean - prompting.mean)
    share = adapter.prompt_tokens / prompting.prompt_tokens
    yield (
        "| triage: the adapter beats the best path without one by 20 points of exact match or more | "
        f"{adapter.mean:.3f} against {prompting.mean:.3f} ({prompting.path}): {points:+.1f} points"
        f"{_significance(task, adapter, prompting)} | {_yes(points >= 20)} |"
    )
    yield (
        "| triage: at no more than a third of its prompt tokens | "
        f"{adapter.prompt_tokens:.0f} against {prompting.prompt_tokens:.0f}: {share:.2f} | {_yes(share <= 1 / 3)} |"
    )


def _policy(task: TaskReport) -> Iterator[str]:
    rag, adapter = _best(task, ["rag"]), _best(task, ["lora"])
    yield (
        f"| policy questions: retrieval beats the adapter | {rag.mean:.3f} ({rag.path}) against {adapter.mean:.3f}"
        f"{_significance(task, rag, adapter)} | {_yes(rag.mean > adapter.mean)} |"
    )


def _hybrid(name: str, task: TaskReport) -> Iterator[str]:
    hybrid, alone, untrained = _best(task, ["hybrid"]), _best(task, ["lora"]), _best(task, ["prompt", "rag"])
    better = hybrid.mean > max(alone.mean, untrained.mean)
    measured = [f"{hybrid.mean:.3f} ({hybrid.path})"]
    for other in (alone, untrained):
        measured.append(f"{other.mean:.3f} ({other.path}){_significance(task, hybrid, other)}")
    yield f"| {name}: a hybrid beats both | {' against '.join(measured[:2])}, {measured[2]} | {_yes(better)} |"


def _task(name: str, report: Report, costs: Mapping[str, float]) -> Iterator[str]:
    (task,) = report.tasks
    yield f"### {name}"
    yield ""
    yield f"{task.rows} rows, scored by `{task.metric}`."
    yield ""
    yield "| path | kind | score | interval | form | tokens in (cached) | out | p50, p95 s | $ per 1,000 | front |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for path in sorted(task.paths, key=lambda path: path.mean, reverse=True):
        yield _row(path, short(path.path, name))
    failed = [f"{path.path} {json.dumps(dict(path.failures))}" for path in task.paths if path.failed]
    if failed:
        yield ""
        yield f"Failed, and scored 0: {'; '.join(failed)}."
    yield ""
    yield from _advice(report, costs)


def _row(path: EvaluatedPath, name: str) -> str:
    assert path.score is not None
    assert path.total is not None
    cells = (
        name,
        path.kind,
        f"**{path.score.mean:.3f}**",
        f"{path.score.low:.2f} to {path.score.high:.2f}",
        f"{path.well_formed:.0%}",
        f"{path.prompt_tokens:.0f} ({path.cached_tokens:.0f})",
        f"{path.completion_tokens:.0f}",
        f"{path.total.p50:.2f}, {path.total.p95:.2f}",
        f"{path.cost:.4f}",
        "yes" if path.on_front else "",
    )
    return f"| {' | '.join(cells)} |"


def _advice(report: Report, costs: Mapping[str, float]) -> Iterator[str]:
    (advice,) = advise(report, Requirements(), CostTerms(training=costs, monthly=REQUESTS_PER_MONTH))
    said = advice.recommendation
    yield f"`pointsman advise` at {REQUESTS_PER_MONTH:,} requests a month: **{said.verdict}** ({said.path})."
    if advice.compared_pair:
        pair = next(each for each in advice.break_evens if (each.trained, each.untrained) == advice.compared_pair)
        earned = "never" if pair.requests is None else f"after {pair.requests:,.0f} requests"
        right = "never" if pair.right_answers is None else f"after {pair.right_answers:,.0f} of them"
        yield (
            f"Against {pair.untrained}, {pair.trained} earns its training back by what a request costs: {earned}; "
            f"by what a right answer costs: {right}."
        )


def _best(task: TaskReport, kinds: Iterable[str]) -> EvaluatedPath:
    """Returns the path with the highest mean score; the cheaper one in a tie."""
    return max((path for path in task.paths if path.kind in kinds), key=lambda path: (path.mean, -path.cost))


def _significance(task: TaskReport, one: EvaluatedPath, other: EvaluatedPath) -> str:
    for pair in task.pairs:
        if {pair.first, pair.second} == {one.path, other.path}:
            return f", p {probability(pair.p_adjusted)}"
    return ""


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"
