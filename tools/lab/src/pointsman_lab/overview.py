"""Sums up each task's paths from exported records: ratings, costs and seconds, as the gateway's console shows them."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import inf
from typing import Any

from pointsman_gateway.domain import PathEvidence
from pointsman_gateway.extensions.policy import Requirements
from pointsman_gateway.request_log.evidence import Counts, EvidenceKey, evidence_of

from pointsman_lab.parquet.evidence import LatestAnswer, count_day, latest_answers
from pointsman_lab.parquet.log import ParquetRequestLog
from pointsman_lab.report import Progress, Report, Section

ANSWERS_PER_PRICE = 1000


def overview(log: ParquetRequestLog, since_seconds: float, progress: Progress) -> Report:
    """Returns a report on the paths of each task that have answered in the last `since_seconds`, in whole UTC days.

    The facts have `days` and `tasks`; each path has its answers, ratings, dollars for 1,000 answers and 95th percentile
    of seconds. If a path's configuration or adapter version has changed, only the version that answered last is
    reported. Raises FailedPrecondition if the files of `log` cannot be read.
    """
    first = "" if since_seconds == inf else time.strftime("%Y-%m-%d", time.gmtime(time.time() - since_seconds))
    days = [day for day in log.files.days("decisions") if day >= first]
    sums: Counts = {}
    latest: dict[EvidenceKey, LatestAnswer] = {}
    for number, day in enumerate(days, 1):
        for key, counts in count_day(log.files, day).items():
            total = sums.setdefault(key, {})
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count
        for key, answer in latest_answers(log.files, day).items():
            is_priced = answer.is_priced and (key not in latest or latest[key].is_priced)
            latest[key] = replace(answer, is_priced=is_priced)
        progress("days", number, len(days))
    tasks: dict[str, list[dict[str, Any]]] = {}
    for key in sorted(_current(latest)):
        found = evidence_of(sums[key]).with_evaluations(Requirements().max_evaluation_ratings)
        tasks.setdefault(key.task, []).append(_path(key, latest[key], found))
    listed = [{"task": task, "paths": paths} for task, paths in tasks.items()]
    return Report({"days": days, "tasks": listed}, tuple(_sections(listed)))


def _current(latest: Mapping[EvidenceKey, LatestAnswer]) -> Iterator[EvidenceKey]:
    newest = dict[tuple[str, str], EvidenceKey]()
    for key in sorted(latest, key=lambda key: latest[key].unix_seconds):
        if key.task:
            newest[key.task, key.path] = key
    yield from newest.values()


def _path(key: EvidenceKey, latest: LatestAnswer, found: PathEvidence) -> dict[str, Any]:
    return {
        "path": key.path,
        "kind": latest.kind,
        "role": "",
        "version": key.version,
        "answers": found.answers,
        "quality": {"ratings": found.ratings, "mean": found.quality} if found.ratings > 0 else None,
        "usd_per_1k": found.mean_cost_usd * ANSWERS_PER_PRICE if latest.is_priced else None,
        "estimated": False,
        "p95_seconds": found.p95_seconds,
    }


def _sections(tasks: list[dict[str, Any]]) -> Iterator[Section]:
    for task in tasks:
        rows = tuple(
            (
                one["path"],
                one["kind"],
                f"{one['answers']:,.0f}",
                f"{one['quality']['ratings']:g}" if one["quality"] else "0",
                f"{one['quality']['mean']:.3f}" if one["quality"] else "-",
                "-" if one["usd_per_1k"] is None else f"{one['usd_per_1k']:.4f}",
                f"{one['p95_seconds']:.2f}",
            )
            for one in task["paths"]
        )
        columns = ("path", "kind", "answers", "ratings", "mean", "$ per 1,000", "p95 s")
        yield Section(task["task"], (), columns, rows)
