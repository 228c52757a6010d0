"""Checks that the tasks of tasks.yaml fit the other configuration files: policies, shadows, metrics and learning."""

import re
from collections.abc import Mapping

from pointsman_scoring import MetricError, metric_from

from pointsman_gateway.config.field_types import NAME_PATTERN, ConfigError, PolicyConfig, must_be_known
from pointsman_gateway.config.flywheel import FlywheelConfig, StaleConfig
from pointsman_gateway.config.model_checks import has_lora_server
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.paths_file import PathsFile
from pointsman_gateway.config.tasks_file import TaskConfig, TasksFile
from pointsman_gateway.domain import UNKNOWN
from pointsman_gateway.patterns import BadPattern, Pattern

ALIAS = re.compile(f"{NAME_PATTERN}@(?![0-9a-f]{{12}}$){NAME_PATTERN}")
"""Matches the name of an adapter's alias, such as "triage@prod"; a version has a hash after the @."""


def check_tasks(paths: PathsFile, tasks: TasksFile) -> None:
    if not tasks.default_path:
        raise ConfigError(
            f"tasks.yaml: 'default_path' is missing; without it there must be exactly one path, and there are "
            f"{len(paths.paths)}: {', '.join(sorted(paths.paths)) or 'none'}"
        )
    must_be_known("tasks.yaml: default_path is", tasks.default_path, paths.paths)
    if UNKNOWN in tasks.tasks:
        raise ConfigError(f"tasks.yaml: '{UNKNOWN}' is the task of requests that fit no other; choose another name")
    if len(tasks.tasks) == 1:
        raise ConfigError(
            "tasks.yaml: with one task there is nothing to choose between; write two tasks or more, or none: then "
            "requests for 'auto' take the default path"
        )
    _check_default_policy(paths, tasks)
    for name, task in tasks.tasks.items():
        for path in (*task.policy.paths, *task.fallback):
            must_be_known(f"tasks.yaml: task '{name}' names path", path, paths.paths)
        _check_policy(f"tasks.yaml: task '{name}':", task.policy, has_validators=bool(task.validators))
        _check_shadow(name, task, paths, tasks.request_log.store_messages)
        for rule in task.rules:
            try:
                if rule.regex:
                    Pattern(rule.regex)
            except BadPattern as error:
                raise ConfigError(f"tasks.yaml: rule '{rule.name}' of task '{name}': {error}") from error


def _check_default_policy(paths: PathsFile, tasks: TasksFile) -> None:
    policy = tasks.default_policy
    if policy is None:
        return
    if not tasks.tasks:
        raise ConfigError("tasks.yaml: default_policy is for requests that fit no task, and there are no tasks")
    for path in policy.paths:
        must_be_known("tasks.yaml: default_policy names path", path, paths.paths)
    if policy.build().needs_validators:
        raise ConfigError(f"tasks.yaml: default_policy '{policy.name}' needs validators, which only tasks can have")
    _check_policy("tasks.yaml: default_policy:", policy, has_validators=False)


def _check_policy(owner: str, policy: PolicyConfig, has_validators: bool) -> None:
    if len(set(policy.paths)) != len(policy.paths):
        raise ConfigError(f"{owner} its policy names a path twice: {', '.join(policy.paths)}")
    if policy.build().needs_validators and not has_validators:
        raise ConfigError(f"{owner} its policy '{policy.name}' needs validators; write some")


def _check_shadow(name: str, task: TaskConfig, paths: PathsFile, keeps_text: bool) -> None:
    if task.shadow is None:
        return
    owner = f"tasks.yaml: the shadow of task '{name}'"
    for path in task.shadow.paths:
        must_be_known(f"{owner} names path", path, paths.paths)
    if len(set(task.shadow.paths)) != len(task.shadow.paths):
        raise ConfigError(f"{owner} names a path twice: {', '.join(task.shadow.paths)}")
    if set(task.policy.paths) == set(task.shadow.paths) and len(task.shadow.paths) == 1:
        raise ConfigError(f"{owner} names the only path that the task takes; name another one")
    if task.shadow.rate_by == "validators" and not task.validators:
        raise ConfigError(f"{owner} is rated by validators, and the task has none; write validators")
    if task.metric and task.metric.is_self_contained and not keeps_text and task.shadow.rate_by == "right_answers":
        raise ConfigError(f"{owner} is rated by right answers, which takes request_log: {{store_messages: true}}")


def check_metrics(models: ModelsFile, paths: PathsFile, tasks: TasksFile, prompts: Mapping[str, str]) -> None:
    askable = {*models.models, *(f"path:{name}" for name in paths.paths)}
    for name, task in tasks.tasks.items():
        owner = f"tasks.yaml: the metric of task '{name}'"
        if task.metric and task.metric.is_self_contained:
            try:
                metric_from(task.metric.model_dump(exclude_unset=True))
            except MetricError as error:
                raise ConfigError(f"{owner}: {error}") from error
        judges = {
            owner: task.metric.judge if task.metric else None,
            f"tasks.yaml: the shadow's judge of task '{name}'": task.shadow.judge if task.shadow else None,
        }
        for asking, judge in judges.items():
            if judge:
                must_be_known(f"{asking} asks model", judge.model, askable)
            if judge and judge.prompt:
                must_be_known(f"{asking} names prompt", judge.prompt, prompts)


def check_learning(models: ModelsFile, paths: PathsFile, tasks: TasksFile) -> None:
    for name in tasks.learning.tasks if tasks.learning else ():
        must_be_known("tasks.yaml: learning names task", name, tasks.tasks)
    for name, task in tasks.tasks.items():
        if task.stale:
            _check_stale(name, task.stale, paths)
            adapted = [path for path in (paths.paths[one] for one in task.policy.paths) if path.adapter]
            if adapted and not any(has_lora_server(models, path.model) for path in adapted):
                raise ConfigError(
                    f"tasks.yaml: task '{name}': stale needs an adapter of a lora_server, which knows its training data"
                )
        if task.flywheel:
            _check_flywheel(name, task.flywheel, paths)
            if not has_lora_server(models, paths.paths[task.flywheel.student].model):
                raise ConfigError(
                    f"tasks.yaml: the flywheel of task '{name}' needs an engine with a lora_server, which trains"
                )


def _check_stale(name: str, stale: StaleConfig, paths: PathsFile) -> None:
    must_be_known(f"tasks.yaml: task '{name}': stale names path", stale.path, paths.paths)
    if not any(strategy.resources.collections for strategy in paths.paths[stale.path].strategies):
        raise ConfigError(f"tasks.yaml: task '{name}': stale names path '{stale.path}', which has no retrieval")


def _check_flywheel(name: str, flywheel: FlywheelConfig, paths: PathsFile) -> None:
    owner = f"tasks.yaml: the flywheel of task '{name}'"
    for path in filter(None, (flywheel.student, flywheel.teacher, flywheel.incumbent)):
        must_be_known(f"{owner} names path", path, paths.paths)
    student = paths.paths[flywheel.student]
    if not ALIAS.fullmatch(student.adapter):
        raise ConfigError(f"{owner}: its student '{flywheel.student}' has no adapter's alias (adapter: NAME@prod)")
