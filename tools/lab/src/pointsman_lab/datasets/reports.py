"""The reports of `data` (what a data set holds) and `plan` (a task's flywheel configuration)."""

import json
from collections.abc import Mapping
from typing import Any

from pointsman_gateway.config.load import Config
from pointsman_gateway.config.schema import FlywheelConfig, PathConfig

from pointsman_lab.datasets.build import flywheel_of
from pointsman_lab.datasets.files import WrittenDataSet
from pointsman_lab.report import Report, Section


def data_report(written: WrittenDataSet) -> Report:
    manifest = written.manifest
    facts = {"folder": str(written.folder), "new": written.is_new, "manifest": dict(manifest)}
    counts = manifest["counts"]
    lines = [
        f"{written.folder}" + ("" if written.is_new else ", unchanged since the last build"),
        f"{counts['train']} training rows, {counts['heldout']} held out; "
        f"{counts['pairs']} preference pairs, {counts['heldout_pairs']} held out",
        f"previous version: {manifest['parent'] or 'none'}",
    ]
    if manifest["withdrawn"]:
        lines.append(f"{manifest['withdrawn']} answers were deleted: their tenants have withdrawn consent")
    page = (
        Section(f"Data set of {manifest['task']}, version {manifest['name']}", tuple(lines)),
        _counted("Training rows by source", manifest["sources"]["train"]),
        _counted("Dropped rows by reason", manifest["dropped"]),
    )
    return Report(facts, page)


def _counted(heading: str, counts: Mapping[str, Any]) -> Section:
    if not counts:
        return Section(heading, ("none",))
    return Section(heading, columns=("rows", "which"), rows=tuple((str(n), name) for name, n in counts.items()))


def plan_report(config: Config, task: str) -> Report:
    """What `pointsman distill` needs to know of a task. Raises ConfigError."""
    flywheel = flywheel_of(config, task)
    metric = config.tasks.tasks[task].metric
    student = config.paths.paths[flywheel.student]
    facts = {
        "task": task,
        "generation": config.digest,
        "alias": student.adapter,
        "sampling": _sampling(student),
        "metric": metric.model_dump(exclude_unset=True) if metric else {"exact": True},
        "heldout": str((config.folder / flywheel.eval_data).resolve()) if flywheel.eval_data else "",
        "collections": _collections(config, task, flywheel),
        **flywheel.model_dump(exclude={"heldout"}),
    }
    lines = tuple(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.items())
    return Report(facts, (Section(f"The flywheel of {task}", lines),))


def _collections(config: Config, task: str, flywheel: FlywheelConfig) -> list[str]:
    """The collections that any path of the task retrieves from."""
    task_config = config.tasks.tasks[task]
    stale = (task_config.stale.path,) if task_config.stale else ()
    names = (flywheel.teacher, *task_config.policy.paths, *task_config.fallback, *stale)
    strategies = (strategy for name in names for strategy in config.paths.paths[name].strategies)
    return list(dict.fromkeys(name for strategy in strategies for name in strategy.resources.collections))


def _sampling(student: PathConfig) -> dict[str, Any]:
    """The student's sampling parameters, also used for a version that no path names yet."""
    values = {"max_tokens": student.max_tokens, "temperature": student.temperature, "stop": list(student.stop) or None}
    return {name: value for name, value in values.items() if value is not None}
