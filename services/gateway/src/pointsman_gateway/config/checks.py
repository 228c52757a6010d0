"""Checks the configuration files against each other."""

import re
from collections.abc import Mapping, Sequence

from pointsman_gateway.config.engine_config import EngineConfig
from pointsman_gateway.config.field_types import ConfigError, must_be_known
from pointsman_gateway.config.flywheel import FlywheelConfig, StaleConfig
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.paths_file import PathConfig, PathsFile
from pointsman_gateway.config.tasks_file import JudgeConfig, TaskConfig, TasksFile
from pointsman_gateway.domain import AUTO, PATH_PREFIX, UNKNOWN
from pointsman_gateway.patterns import BadPattern, Pattern

RESERVED_PATH_NAMES = {"idle": "an engine's time that nobody used", "other": "whatever the configuration does not name"}

_MANAGED_ADAPTER = re.compile(r"[a-z0-9_-]{1,64}@[a-z0-9_-]{1,64}")
"""An alias or a version of an adapter that a lora-server manages."""

_ALIAS = re.compile(r"[a-z0-9_-]+@(?![0-9a-f]{12}$)[a-z0-9_-]+")
"""An adapter's alias; a version ends in a hash instead."""

SELF_CONTAINED_METRICS = ("exact", "json_fields", "contains", "regex", "rouge_l")
"""Metrics that need neither a model nor anybody's code."""


def check_files(models: ModelsFile, paths: PathsFile, tasks: TasksFile, prompts: Mapping[str, str]) -> None:
    """Checks every reference from one file to another, and every combination of settings. Raises ConfigError."""
    _check_models(models)
    _check_prices(models, paths, tasks)
    _check_aliases(models, paths)
    _check_paths(models, paths, tasks, prompts)
    _check_tasks(paths, tasks)
    _check_metrics(models, paths, tasks, prompts)
    _check_learning(models, paths, tasks)
    names = [guardrail.name for guardrail in tasks.guardrails]
    if len(set(names)) != len(names):
        raise ConfigError(f"tasks.yaml: two guardrails have the same name: {', '.join(names)}")


def _check_models(models: ModelsFile) -> None:
    for name, engine in models.engines.items():
        must_be_known(f"models.yaml: engine '{name}' serves model", engine.model, models.models)
        _check_media(name, engine, models.models[engine.model].input)
    for name, model in models.models.items():
        for other in model.fallback:
            must_be_known(f"models.yaml: model '{name}' falls back to", other, models.models.keys() - {name})
        if not any(engine.model == name for engine in models.engines.values()):
            raise ConfigError(f"models.yaml: no engine serves model '{name}'")


def _check_media(name: str, engine: EngineConfig, taken: Sequence[str]) -> None:
    """Checks that the engine's provider takes all media that its model takes."""
    accepted = engine.preset.media
    refused = [kind for kind in taken if accepted is not None and kind not in ("text", *accepted)]
    if accepted is not None and refused:
        raise ConfigError(
            f"models.yaml: model '{engine.model}' has input: {refused[0]}, which its engine '{name}' of provider "
            f"'{engine.preset_name}' does not take; it takes text, {', '.join(accepted)}"
        )


def _check_prices(models: ModelsFile, paths: PathsFile, tasks: TasksFile) -> None:
    for name, path in paths.paths.items():
        if models.retrieval is None and any(strategy.resources.collections for strategy in path.strategies):
            raise ConfigError(
                f"models.yaml: 'retrieval' is missing: path '{name}' looks something up; "
                "write retrieval: {usd_per_search: DOLLARS, usd_per_embedding: DOLLARS}"
            )
    unpriced = {name for name, model in models.models.items() if model.usd_per_million_tokens is None}
    for name, task in tasks.tasks.items():
        compares = "shadow" if task.shadow else task.policy.name if task.policy.implementation.needs_costs else ""
        compared = [*task.policy.paths, *(task.shadow.paths if task.shadow else ())]
        judge = task.shadow.judge if task.shadow else None
        if judge and _model_of(judge.model, paths) in unpriced:
            raise ConfigError(
                f"tasks.yaml: the judge of task '{name}' has a budget, and the price of its model '{judge.model}' is "
                "unknown; write it in models.yaml"
            )
        for compared_path in compared if compares else ():
            model = paths.paths[compared_path].model if compared_path in paths.paths else ""
            if model in unpriced:
                raise ConfigError(
                    f"tasks.yaml: task '{name}': {compares} compares costs, and the price of '{model}' (path "
                    f"'{compared_path}') is unknown; write it in models.yaml"
                )


def _model_of(name: str, paths: PathsFile) -> str:
    """Returns the base model that a model's name or "path:NAME" stands for; empty if the path is unknown."""
    if not name.startswith(PATH_PREFIX):
        return name
    path = paths.paths.get(name.removeprefix(PATH_PREFIX))
    return path.model if path else ""


def judge_rejects(models: ModelsFile, paths: PathsFile, judge: JudgeConfig) -> frozenset[str]:
    """Returns the request fields that an engine of the judge's model rejects."""
    model = _model_of(judge.model, paths)
    rejected = [engine.rejected_fields for engine in models.engines.values() if engine.model == model]
    return frozenset[str]().union(*rejected)


def _check_aliases(models: ModelsFile, paths: PathsFile) -> None:
    discovered = {path.adapter for path in paths.paths.values() if path.adapter}
    names = {AUTO, *models.models, *(PATH_PREFIX + name for name in paths.paths)}
    for alias, target in models.aliases.items():
        if alias in names or alias in models.embeddings or alias.startswith(PATH_PREFIX):
            raise ConfigError(f"models.yaml: alias '{alias}' hides a model or a path; choose another name")
        if not _is_adapter(target):
            must_be_known(f"models.yaml: alias '{alias}' names", target, names | discovered | models.embeddings.keys())
    if models.catch_all is not None and not _is_adapter(models.catch_all):
        must_be_known("models.yaml: catch_all is", models.catch_all, names | discovered)


def _is_adapter(name: str) -> bool:
    """Returns whether the name is of a managed adapter's alias or version: no path's name has an "@"."""
    return "@" in name


def _check_paths(models: ModelsFile, paths: PathsFile, tasks: TasksFile, prompts: Mapping[str, str]) -> None:
    for name, path in paths.paths.items():
        if name in RESERVED_PATH_NAMES:
            raise ConfigError(
                f"paths.yaml: no path may be called '{name}': metrics mean {RESERVED_PATH_NAMES[name]} by it"
            )
        owner = f"paths.yaml: path '{name}' names"
        must_be_known(f"{owner} model", path.model, models.models)
        for strategy in path.strategies:
            resources = strategy.resources
            for prompt in resources.prompts:
                must_be_known(f"{owner} prompt", prompt, prompts)
            for task, _ in resources.examples:
                must_be_known(f"{owner} the examples of task", task, tasks.tasks)
        names = [strategy.name for strategy in path.strategies]
        if len(set(names)) != len(names):
            raise ConfigError(f"paths.yaml: path '{name}' has a strategy twice: {', '.join(names)}")
        if path.adapter:
            _check_adapter(name, path.model, path.adapter, models)
        _check_parameters(name, path, models)
        if path.cache and not models.cache:
            raise ConfigError(
                f"paths.yaml: path '{name}' caches; models.yaml must price that: cache: {{usd_per_hit: DOLLARS}}"
            )


def _check_parameters(name: str, path: PathConfig, models: ModelsFile) -> None:
    """Checks that every engine of the path's model accepts its parameters."""
    own = {field for field in ("temperature", "top_p", "stop", "seed") if getattr(path, field) not in (None, ())}
    for engine in models.engines.values():
        if engine.model != path.model or (path.adapter and not engine.has_adapters):
            continue
        rejected = sorted(own & engine.rejected_fields)
        if rejected:
            raise ConfigError(
                f"paths.yaml: path '{name}' has {rejected[0]}, which '{engine.upstream_name}' of provider "
                f"'{engine.preset_name}' does not accept; leave it out"
            )
        if path.answers and "structured_outputs" not in engine.accepted_fields.forwarded:
            raise ConfigError(
                f"paths.yaml: path '{name}' has answers, which '{engine.upstream_name}' of provider "
                f"'{engine.preset_name}' cannot enforce; use response_format: {{type: json_schema, ...}} with an enum"
            )
        for field in path.extra_fields:
            known = engine.accepted_fields.forwarded - {"n"}
            must_be_known(f"paths.yaml: path '{name}': its engines do not accept the field", field, known)


def _check_adapter(path: str, model: str, adapter: str, models: ModelsFile) -> None:
    engines = [engine for engine in models.engines.values() if engine.model == model and engine.has_adapters]
    if not engines:
        raise ConfigError(
            f"paths.yaml: path '{path}' has an adapter, which needs an engine for '{model}' with a lora_server, or "
            "with a url and adapters: discover (or their names)"
        )
    named = set[str]().union(*(engine.named_adapters for engine in engines))
    if adapter in named or any(engine.discovers_adapters for engine in engines):
        return
    if not _has_lora_server(models, model):
        must_be_known(f"paths.yaml: path '{path}': no engine for '{model}' has adapter", adapter, named)
    if not _MANAGED_ADAPTER.fullmatch(adapter):
        raise ConfigError(
            f"paths.yaml: path '{path}': a lora_server names adapters NAME@ALIAS or NAME@VERSION (it is '{adapter}')"
        )


def _has_lora_server(models: ModelsFile, model: str) -> bool:
    return any(engine.lora_server for engine in models.engines.values() if engine.model == model)


def _check_tasks(paths: PathsFile, tasks: TasksFile) -> None:
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
    for name, task in tasks.tasks.items():
        for path in (*task.policy.paths, *task.fallback):
            must_be_known(f"tasks.yaml: task '{name}' names path", path, paths.paths)
        _check_policy(name, task)
        _check_shadow(name, task, paths, tasks.request_log.store_messages)
        for rule in task.rules:
            try:
                if rule.regex:
                    Pattern(rule.regex)
            except BadPattern as error:
                raise ConfigError(f"tasks.yaml: rule '{rule.name}' of task '{name}': {error}") from error


def _check_policy(name: str, task: TaskConfig) -> None:
    owner, policy = f"tasks.yaml: task '{name}':", task.policy
    if len(set(policy.paths)) != len(policy.paths):
        raise ConfigError(f"{owner} its policy names a path twice: {', '.join(policy.paths)}")
    if policy.implementation.needs_validators and not task.validators:
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
    if (
        task.metric
        and task.metric.name in SELF_CONTAINED_METRICS
        and not keeps_text
        and task.shadow.rate_by == "right_answers"
    ):
        raise ConfigError(f"{owner} is rated by right answers, which takes request_log: {{store_messages: true}}")


def _check_metrics(models: ModelsFile, paths: PathsFile, tasks: TasksFile, prompts: Mapping[str, str]) -> None:
    askable = {*models.models, *(f"path:{name}" for name in paths.paths)}
    for name, task in tasks.tasks.items():
        owner = f"tasks.yaml: the metric of task '{name}'"
        if task.metric and task.metric.regex:
            _check_pattern(f"{owner} has a bad regex", task.metric.regex)
        judges = {
            owner: task.metric.judge if task.metric else None,
            f"tasks.yaml: the shadow's judge of task '{name}'": task.shadow.judge if task.shadow else None,
        }
        for asking, judge in judges.items():
            if judge:
                must_be_known(f"{asking} asks model", judge.model, askable)
            if judge and judge.prompt:
                must_be_known(f"{asking} names prompt", judge.prompt, prompts)


def _check_pattern(what: str, pattern: str) -> None:
    import regex  # 1 MB, only for a metric with a pattern

    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ConfigError(f"{what}: {error} (it is {pattern!r})") from error


def _check_learning(models: ModelsFile, paths: PathsFile, tasks: TasksFile) -> None:
    for name in tasks.learning.tasks if tasks.learning else ():
        must_be_known("tasks.yaml: learning names task", name, tasks.tasks)
    for name, task in tasks.tasks.items():
        if task.stale:
            _check_stale(name, task.stale, paths)
            adapted = [path for path in (paths.paths[one] for one in task.policy.paths) if path.adapter]
            if adapted and not any(_has_lora_server(models, path.model) for path in adapted):
                raise ConfigError(
                    f"tasks.yaml: task '{name}': stale needs an adapter of a lora_server, which knows its training data"
                )
        if task.flywheel:
            _check_flywheel(name, task.flywheel, paths)
            if not _has_lora_server(models, paths.paths[task.flywheel.student].model):
                raise ConfigError(
                    f"tasks.yaml: the flywheel of task '{name}' needs an engine with a lora_server, which trains"
                )


def _check_stale(name: str, stale: StaleConfig, paths: PathsFile) -> None:
    must_be_known(f"tasks.yaml: task '{name}': stale names path", stale.path, paths.paths)
    if not any(strategy.resources.collections for strategy in paths.paths[stale.path].strategies):
        raise ConfigError(f"tasks.yaml: task '{name}': stale names path '{stale.path}', which looks nothing up")


def _check_flywheel(name: str, flywheel: FlywheelConfig, paths: PathsFile) -> None:
    owner = f"tasks.yaml: the flywheel of task '{name}'"
    for path in filter(None, (flywheel.student, flywheel.teacher, flywheel.incumbent)):
        must_be_known(f"{owner} names path", path, paths.paths)
    student = paths.paths[flywheel.student]
    if not _ALIAS.fullmatch(student.adapter):
        raise ConfigError(f"{owner}: its student '{flywheel.student}' has no adapter's alias (adapter: NAME@prod)")
