"""What the configuration says of a task's flywheel, for whoever turns it."""

import json
from typing import Any

from pointsman_gateway.config.load import Config
from pointsman_gateway.config.schema import Flywheel, PathConfig
from pointsman_gateway.workbench.datasets.building import flywheel_of
from pointsman_gateway.workbench.report import Report, Section


def plan_report(config: Config, task: str) -> Report:
    """Raises ConfigError."""
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
    """The collections that any path of the task looks things up in."""
    stated = config.tasks.tasks[task]
    stale = (stated.stale.path,) if stated.stale else ()
    names = (flywheel.teacher, *stated.policy.paths, *stated.fallback, *stale)
    strategies = (strategy for name in names for strategy in config.paths.paths[name].strategies)
    return list(dict.fromkeys(strategy.retrieval.collection for strategy in strategies if strategy.retrieval))


def _asking(student: PathConfig) -> dict[str, Any]:
    """How the student is asked; a version that no path names yet is asked the same way."""
    asked = {"max_tokens": student.max_tokens, "temperature": student.temperature, "stop": list(student.stop) or None}
    return {name: value for name, value in asked.items() if value is not None}
