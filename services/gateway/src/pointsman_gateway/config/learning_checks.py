"""Whether what tasks.yaml says of learning fits the tasks and the paths."""

import re

from pointsman_gateway.config.problems import ConfigError, must_be_known
from pointsman_gateway.config.schema import Flywheel, PathsFile, Stale, TasksFile

_ALIAS = re.compile(r"[a-z0-9_-]+@(?![0-9a-f]{12}$)[a-z0-9_-]+")
"""Not a version, which ends in a hash."""


def check_learning(paths: PathsFile, tasks: TasksFile) -> None:
    """Raises ConfigError."""
    for name in tasks.learning.tasks if tasks.learning else ():
        must_be_known("tasks.yaml: learning names task", name, tasks.tasks)
    for name, task in tasks.tasks.items():
        if task.stale:
            _check_stale(name, task.stale, paths)
        if task.flywheel:
            _check_flywheel(name, task.flywheel, paths)


def _check_stale(name: str, stale: Stale, paths: PathsFile) -> None:
    must_be_known(f"tasks.yaml: task '{name}': stale names path", stale.path, paths.paths)
    if not any(strategy.retrieval for strategy in paths.paths[stale.path].strategies):
        raise ConfigError(f"tasks.yaml: task '{name}': stale names path '{stale.path}', which looks nothing up")


def _check_flywheel(name: str, flywheel: Flywheel, paths: PathsFile) -> None:
    owner = f"tasks.yaml: the flywheel of task '{name}'"
    for path in filter(None, (flywheel.student, flywheel.teacher, flywheel.incumbent)):
        must_be_known(f"{owner} names path", path, paths.paths)
    student = paths.paths[flywheel.student]
    if not _ALIAS.fullmatch(student.adapter):
        raise ConfigError(f"{owner}: its student '{flywheel.student}' has no adapter's alias (adapter: NAME@prod)")
    if student.strategies:
        raise ConfigError(
            f"{owner}: its student '{flywheel.student}' has strategies; what is learnt is the bare message"
        )
