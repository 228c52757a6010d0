"""Writes the results of docs/experiment-public.md and the details in benchmarks/history/: makes tables and charts from
the stored results."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from pointsman_cli.eval.report import read_report
from pointsman_cli.eval.report_tables import probability
from pointsman_scoring.intervals import Interval

from benchmarks.experiment.folder import ROOT, Row
from benchmarks.experiment.table import insert
from benchmarks.experiment_public import charts, mixed, predicted, scoring
from benchmarks.experiment_public.cells import ALL_ROWS, CURVE_ROWS, SETS, all_cells
from benchmarks.experiment_public.evidence import Evidence, PathResult, kind
from benchmarks.experiment_public.mixed import CHOSEN, REPORT
from benchmarks.experiment_public.result_files import ResultFolder

PAGE = ROOT / "docs/experiment-public.md"
DETAILS = ROOT / "benchmarks/history/experiment-public.md"
BEGIN = "<!-- results: written by `make experiment-public` -->"
RESERVED_MODELS = ("Qwen2.5-0.5B-Instruct", "Llama-3.1-8B-Instruct")
"""Models that have not been measured yet and get an empty row; each needs `--base-model`, the second one a GPU."""
_EXAMPLES, _CHARACTERS = 3, 90
PATH_NAMES = {cell.path_name: cell.path for cell in mixed.cells()}
"""The paths of the mixed stream, by their names in the gateway's configuration."""


def write(
    results: Path, main_model: str, tests: Mapping[str, Sequence[Row]], page: Path = PAGE, details: Path = DETAILS
) -> None:
    """Writes the page with its charts, and the details.

    `results` has a folder of results for each base model; `tests` has the test rows of each set.
    """
    evidence = Evidence(ResultFolder(results / main_model))
    for name in SETS:
        chart = page.with_name(f"{page.stem}-{name}.svg")
        chart.write_text(charts.draw_costs(name, evidence.paths(name)), encoding="utf-8")
    page.with_name(f"{page.stem}-curves.svg").write_text(charts.draw_curves(evidence), encoding="utf-8")
    _insert(page, (*_progress(evidence), *_curves_chart(page.stem)))
    others = sorted({file.parent.name for file in results.glob("*/*.json")} - {main_model})
    lines = [line for name in SETS for line in _set(evidence, name, tests[name])]
    of_mixed = (*_mixed(results / main_model), "", *_mixed_details(results / main_model))
    _insert(details, (*lines, *_curves(evidence), *of_mixed, *_models(results, (main_model, *others))))


def _insert(file: Path, lines: Sequence[str]) -> None:
    file.write_text(insert(file.read_text("utf-8"), BEGIN, "\n".join(lines)), encoding="utf-8")


def _progress(evidence: Evidence) -> Iterator[str]:
    cells = all_cells()
    done = [summary for cell in cells if (summary := evidence.results.summary(cell))]
    missing = "" if len(done) == len(cells) else " The tables say *not run* for the other runs."
    yield f"{len(done)} of {len(cells)} planned runs are done.{missing}"
    yield ""


def _set(evidence: Evidence, name: str, test: Sequence[Row]) -> Iterator[str]:
    results = evidence.paths(name)
    yield from (f"### {name}", "")
    second = [scoring.SECONDARY[name][0]] if name in scoring.SECONDARY else []
    columns = [
        "path", "kind", "score", "95 % interval", "seeds", *second, "tokens in (cached)", "out", "$ per 1,000",
        "training",
    ]  # fmt: skip
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    yield from (_row(result) for result in results)
    for path in evidence.missing(name):
        yield f"| {_words(path)} | {kind(path)} | *not run* |" + " |" * (len(columns) - 3)
    yield ""
    for difference in evidence.comparisons(name):
        yield (
            f"* {_words(difference.first)} minus {_words(difference.second)}: "
            f"{_points(difference.found.difference)}, p {probability(difference.found.p_value)}"
        )
    yield from _by_part(evidence, name, results)
    yield from _losses(evidence, name, test)
    yield ""


def _row(result: PathResult) -> str:
    runs = result.runs
    second = [run.secondary for run in runs if run.secondary is not None]
    trained = [run.training for run in runs if run.training]
    cells = (
        _words(result.path),
        kind(result.path),
        f"**{result.score.mean:.3f}**",
        f"{result.score.low:.3f} to {result.score.high:.3f}",
        ", ".join(f"{run.score.mean:.3f}" for run in runs),
        *([f"{fmean(second):.3f}"] if second else []),
        f"{fmean(run.prompt_tokens for run in runs):.0f} ({fmean(run.cached_tokens for run in runs):.0f})",
        f"{fmean(run.completion_tokens for run in runs):.0f}",
        f"{result.usd_per_1000:.4f}",
        f"{fmean(training['seconds'] for training in trained) / 60:.0f} min" if trained else "",
    )
    return f"| {' | '.join(cells)} |"


def _by_part(evidence: Evidence, name: str, results: Sequence[PathResult]) -> Iterator[str]:
    """Yields the scores on held-out questions about paragraphs of the training, and about other paragraphs."""
    for result in results if name == "xquad" else ():
        if kind(result.path) in ("lora", "tuned", "hybrid"):
            answers = [answer for run in result.runs for answer in evidence.answers(run.cell)]
            means = {
                part: fmean([answer.score for answer in answers if answer.row.startswith(part)] or [0.0])
                for part in ("seen", "unseen")
            }
            yield (
                f"* {_words(result.path)}: {means['seen']:.3f} on held-out questions of trained paragraphs, "
                f"{means['unseen']:.3f} on the other half"
            )


def _losses(evidence: Evidence, name: str, test: Sequence[Row]) -> Iterator[str]:
    """Yields rows that the best trained path answers wrongly and the best untrained one correctly, and the reverse."""
    sides = [evidence.best(name, kinds) for kinds in (("lora", "tuned", "hybrid"), ("prompt", "rag"))]
    if sides[0] is None or sides[1] is None:
        return
    rows = {row["id"]: row for row in test}
    scored = [{answer.row: answer for answer in evidence.answers(side.runs[0].cell)} for side in sides if side]
    pair = list(zip(sides, scored, strict=True))
    for (loser, losing), (winner, winning) in (pair, pair[::-1]):
        assert loser
        assert winner
        lost = [row for row in losing if losing[row].score < winning[row].score]
        yield (
            f"* {_words(loser.path)} is wrong on {len(lost)} of {len(losing)} rows "
            f"that {_words(winner.path)} answers correctly"
        )
        for row in sorted(lost)[:_EXAMPLES]:
            texts = (rows[row]["text"], rows[row]["output"], losing[row].text)
            yield "    * {}: expected {}, answered {}".format(*map(_quoted, texts))


def _curves_chart(stem: str) -> Iterator[str]:
    yield from ("### Learning curves", "", f"![Score by number of training rows on three sets]({stem}-curves.svg)", "")


def _curves(evidence: Evidence) -> Iterator[str]:
    yield from ("### Learning curves", "")
    yield "| set | rows | LoRA | 8 nearest examples | LoRA minus nearest | nearest neighbour's answer |"
    yield "|---|---|---|---|---|---|"
    for name in SETS:
        for rows in (*CURVE_ROWS, ALL_ROWS):
            found = [evidence.path(name, path, rows) for path in ("lora", "nearest_8", "nearest")]
            difference = evidence.difference(name, "lora", "nearest_8", rows)
            apart = f"{_points(difference.found.difference)}" if difference else ""
            lora, prompt, baseline = (_score(result.score) if result else "*not run*" for result in found)
            yield f"| {name} | {_row_count(name, rows, found)} | {lora} | {prompt} | {apart} | {baseline} |"
    yield ""


def _row_count(name: str, rows: int, found: Sequence[PathResult | None]) -> str:
    """Returns the number of training rows as the table shows it: the number that was used, since a set may have fewer
    than `rows`.
    """
    trained = [run.training["rows"] for result in found if result for run in result.runs if run.training]
    return f"{min([rows, *trained]):,}" if trained or rows < ALL_ROWS else f"all, up to {rows:,}"


def _mixed(folder: Path) -> Iterator[str]:
    yield from ("### Choices on the mixed stream", "")
    found = read_report(folder / REPORT).mixed if (folder / REPORT).is_file() else None
    if found is None:
        yield from ("*not run*", "")
        return
    yield ", ".join(f"{share:.0%} {task}" for task, share in found.shares.items())
    yield from ("", "| choice | score | $ per 1,000 | `auto` minus this choice |", "|---|---|---|---|")
    for choice in found.choices:
        cells = (choice.name, _score(choice.score), f"{choice.usd_per_1000:.4f}", _points(choice.auto_difference))
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        f"{found.misrouted:.1%} of the requests got a wrong task and {found.abstained:.1%} none. Both together cost "
        f"{100 * found.lost_score:.1f} points and change the price by {found.lost_usd_per_1000:+.4f} dollars "
        "per 1,000 requests."
    )


def _mixed_details(folder: Path) -> Iterator[str]:
    yield from ("### Paths of the mixed stream", "")
    if not (folder / REPORT).is_file():
        yield from ("*not run*", "")
        return
    yield from _mixed_paths(folder)
    yield from _predicted(folder)


def _mixed_paths(folder: Path) -> Iterator[str]:
    """Yields the paths among which the validation rows chose, without the default path."""
    on_validation, on_test = (read_report(folder / name).tasks for name in (CHOSEN, REPORT))
    known = {path.path: path for task in on_validation for path in task.paths}
    yield from ("| task | path | validation rows | test rows | $ per 1,000 |", "|---|---|---|---|---|")
    for task in on_test:
        for path in task.paths:
            if path.path in PATH_NAMES and path.score:
                of_validation = f"{known[path.path].mean:.3f}"
                cells = (task.task, _plain(path.path), of_validation, _score(path.score), f"{path.cost:.4f}")
                yield f"| {' | '.join(cells)} |"
    yield ""


def _predicted(folder: Path) -> Iterator[str]:
    """Yields the comparison of the policy `predicted` with fixed paths."""
    columns = (
        "task | rows to learn from | accepted | its choices | score | $ per 1,000 | gain at equal cost | best path"
    )
    yield from (f"| {columns} |", f"|{'---|' * 8}")
    for each in predicted.read(folder):
        shares = ", ".join(f"{share:.0%} {_plain(path)}" for path, share in each.shares.items() if share)
        gain = f"{100 * each.gain:+.1f} points (at least {100 * each.bound:+.1f})"
        best = f"{_plain(each.fixed)}: {each.fixed_score:.3f} for {each.fixed_usd_per_1000:.4f}"
        accepted = "yes" if each.accepted else "no"
        cells = (each.task, str(each.learned), accepted, shares, f"{each.score:.3f}", f"{each.usd_per_1000:.4f}", gain)
        yield f"| {' | '.join(cells)} | {best} |"
    yield ""


def _plain(path: str) -> str:
    """Returns a path's name in the tables, such as "nearest 8" for the gateway's "clinc150_nearest_8_1000_2"."""
    return _words(PATH_NAMES.get(path, path))


def _models(results: Path, measured: Sequence[str]) -> Iterator[str]:
    yield from ("### Other models", "", "| model | set | best prompt | RAG | LoRA | best hybrid |")
    yield "|---|---|---|---|---|---|"
    for model in measured:
        evidence = Evidence(ResultFolder(results / model))
        for name in SETS:
            best = [evidence.best(name, (each,)) for each in ("prompt", "rag", "lora", "hybrid")]
            cells = [f"{_score(each.score)} {_words(each.path)}" if each else "*not run*" for each in best]
            yield f"| {model} | {name} | {' | '.join(cells)} |"
    for model in RESERVED_MODELS:
        if model not in measured:
            yield f"| {model} | all | *not run* | *not run* | *not run* | *not run* |"


def _score(score: Interval) -> str:
    return f"{score.mean:.3f} ({score.low:.2f} to {score.high:.2f})"


def _points(difference: Interval) -> str:
    return f"{100 * difference.mean:+.1f} points ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


def _words(path: str) -> str:
    return path.replace("_", " ")


def _quoted(value: str) -> str:
    """Returns the first `_CHARACTERS` of a text as one line of Markdown code."""
    line = json.dumps(value, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("`", "'")
    return f"`{line if len(line) <= _CHARACTERS else line[:_CHARACTERS] + '…'}`"
