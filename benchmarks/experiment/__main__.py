"""Compares prompts, retrieval and adapters on the help desk's held-out requests, and writes the chart of
docs/experiment.md, and the claims and tables of benchmarks/history/experiment.md.

    make experiment                       # an hour on two cores, 8 minutes more if adapters have to be trained
    make experiment ARGS="--only triage --limit 20 --no-write"
    make experiment ARGS="--write-only"   # only regenerates tables and chart from the stored results

An interrupted run resumes from its answers in .pointsman/experiment/answers. All requests have temperature 0; training
and bootstrap resampling use the seed 7.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pointsman_cli.eval.report import Report, read_report

from benchmarks.experiment import adapters, chart, table
from benchmarks.experiment.folder import EXAMPLE, HERE, ROOT, write_folder
from benchmarks.experiment.services import evaluate, run_services
from benchmarks.experiment.tasks import OWN_ADAPTERS, TASKS, paths_of
from benchmarks.gateway_load.machine import CannotMeasure

WORK = ROOT / ".pointsman/experiment"
RESULTS = HERE / "results"
DETAILS = ROOT / "benchmarks/history/experiment.md"
CHART = ROOT / "docs/experiment.svg"
CONCURRENCY = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=TASKS, help="measure only this task; can be repeated")
    parser.add_argument("--limit", type=int, help="use only the first rows of each set")
    parser.add_argument("--no-write", action="store_true", help="do not update results and docs")
    parser.add_argument("--write-only", action="store_true", help="only regenerate tables and chart")
    options = parser.parse_args()
    try:
        if not options.write_only:
            measure(options.only or TASKS, options.limit, WORK if options.no_write or options.limit else RESULTS)
    except CannotMeasure as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not (options.no_write or options.limit):
        write()
    return 0


def measure(tasks: Sequence[str], limit: int | None, results: Path) -> None:
    """Writes one report per task to `results`; HTML pages with the answers go to the working folder."""
    trained = adapters.train_missing(WORK / "adapters", {OWN_ADAPTERS[task] for task in tasks if task in OWN_ADAPTERS})
    example = write_folder(WORK / "helpdesk", trained)
    results.mkdir(parents=True, exist_ok=True)
    with run_services(example, WORK / "home") as url:
        for task in tasks:
            started, answers = time.monotonic(), WORK / "answers" / f"{task}.jsonl"
            evaluate(EXAMPLE / "heldout" / f"{task}.jsonl", url, WORK, answers, *_options(task, limit, results))
            answers.replace(answers.with_suffix(".last.jsonl"))
            print(f"{task}: {time.monotonic() - started:.0f} s", flush=True)


def _options(task: str, limit: int | None, results: Path) -> list[str]:
    return [
        "--task", task, "--paths", ",".join(paths_of(task)), "--concurrency", str(CONCURRENCY), "--examples", "5",
        "--json", str(results / f"{task}.json"), "--html", str(WORK / f"{task}.html"),
        *(["--limit", str(limit)] if limit else []),
    ]  # fmt: skip


def write() -> None:
    """Writes the generated part of the details, and the chart, if there are results of all tasks."""
    missing = [task for task in TASKS if not (RESULTS / f"{task}.json").is_file()]
    if missing:
        print(f"the details are not updated; results are missing for {', '.join(missing)}")
        return
    reports: dict[str, Report] = {task: read_report(RESULTS / f"{task}.json") for task in TASKS}
    CHART.write_text(chart.draw_chart(reports), encoding="utf-8")
    costs = table.training_costs(WORK / "adapters")
    DETAILS.write_text(table.insert_details(DETAILS.read_text("utf-8"), reports, costs), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
