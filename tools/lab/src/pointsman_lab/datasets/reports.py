"""Reports about a data set and about a retraining plan."""

import json
from collections.abc import Mapping
from typing import Any

from pointsman_gateway.config.load import Config
from pointsman_gateway.config.schema import Flywheel, PathConfig

from pointsman_lab.datasets.build import flywheel_of
from pointsman_lab.datasets.files import WrittenDataSet
from pointsman_lab.report import Report, Section


def data_report(written: WrittenDataSet) -> Report:
    manifest = written.manifest
    facts = {"folder": str(written.folder), "new": written.is_new, "manifest": dict(manifest)}
    counts = manifest["counts"]
    lines = [
        f"{written.folder}" + ("" if written.is_new else ", as it was: nothing has changed since"),
        f"{counts['train']} rows to learn from, {counts['heldout']} held out; "
        f"{counts['pairs']} pairs of answers, {counts['heldout_pairs']} held out",
        f"it follows {manifest['parent'] or 'none'}",
    ]
    if manifest["withdrawn"]:
        lines.append(f"{manifest['withdrawn']} answers are gone: their tenants do not consent any more")
    page = (
        Section(f"Data set of {manifest['task']}, version {manifest['name']}", tuple(lines)),
        _counted("Rows to learn from, by whose word they have", manifest["sources"]["train"]),
        _counted("Left out, by why", manifest["dropped"]),
    )
    return Report(facts, page)


def _counted(heading: str, counts: Mapping[str, Any]) -> Section:
    if not counts:
        return Section(heading, ("none",))
    return Section(heading, columns=("rows", "which"), rows=tuple((str(n), name) for name, n in counts.items()))


def plan_report(config: Config, task: str) -> Report:
    """Report how a task would be retrained. Raises ConfigError."""
    flywheel = flywheel_of(config, task)
    metric = config.tasks.tasks[task].metric
    student = config.paths.paths[flywheel.student]
    facts = {
        "task": task,
        "generation": config.digest,
        "alias": student.adapter,
        "asking": _asking(student),
        "metric": metric.model_dump(exclude_unset=True) if metric else {"exact": True},
        "heldout": str((config.folder / flywheel.heldout).resolve()) if flywheel.heldout else "",
        "collections": _topic(config, task, flywheel),
        **flywheel.model_dump(exclude={"heldout"}),
    }
    lines = tuple(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.items())
    return Report(facts, (Section(f"The flywheel of {task}", lines),))


def _topic(config: Config, task: str, flywheel: Flywheel) -> list[str]:
    """Return the collections that any path of the task searches."""
    stated = config.tasks.tasks[task]
    stale = (stated.stale.path,) if stated.stale else ()
    names = (flywheel.teacher, *stated.policy.paths, *stated.fallback, *stale)
    strategies = (strategy for name in names for strategy in config.paths.paths[name].strategies)
    return list(dict.fromkeys(strategy.retrieval.collection for strategy in strategies if strategy.retrieval))


def _asking(student: PathConfig) -> dict[str, Any]:
    """Return the model name and parameters with which the student is called. A version without a path is called in the
    same way."""
    asked = {"max_tokens": student.max_tokens, "temperature": student.temperature, "stop": list(student.stop) or None}
    return {name: value for name, value in asked.items() if value is not None}
