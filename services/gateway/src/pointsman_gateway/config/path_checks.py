"""Checks that the paths of paths.yaml fit the other configuration files: models, engines, adapters, prompts."""

import re
from collections.abc import Mapping

from pointsman_gateway.config.field_types import NAME_PATTERN, ConfigError, must_be_known
from pointsman_gateway.config.model_checks import has_lora_server
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.paths_file import PathConfig, PathsFile
from pointsman_gateway.config.tasks_file import TasksFile
from pointsman_gateway.domain.path import IDLE, OTHER

RESERVED_PATH_NAMES = {IDLE: "an engine's time that nobody used", OTHER: "whatever the configuration does not name"}

MANAGED_ADAPTER = re.compile(f"{NAME_PATTERN}@{NAME_PATTERN}")
"""Matches the name of an adapter's alias or version on a lora-server, such as "triage@prod"."""


def check_paths(models: ModelsFile, paths: PathsFile, tasks: TasksFile, prompts: Mapping[str, str]) -> None:
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
    """Raises ConfigError unless every engine that may answer on the path accepts the path's parameters."""
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
    if not has_lora_server(models, model):
        must_be_known(f"paths.yaml: path '{path}': no engine for '{model}' has adapter", adapter, named)
    if not MANAGED_ADAPTER.fullmatch(adapter):
        raise ConfigError(
            f"paths.yaml: path '{path}': a lora_server names adapters NAME@ALIAS or NAME@VERSION (it is '{adapter}')"
        )
