"""Checks that the models, engines, prices and aliases of models.yaml fit the other configuration files."""

from collections.abc import Collection, Sequence

from pointsman_gateway.config.engine_config import EngineConfig
from pointsman_gateway.config.field_types import ConfigError, must_be_known
from pointsman_gateway.config.metric import JudgeConfig
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.paths_file import PathsFile
from pointsman_gateway.config.tasks_file import TasksFile
from pointsman_gateway.domain import AUTO, PATH_PREFIX


def check_models(models: ModelsFile) -> None:
    for name, engine in models.engines.items():
        must_be_known(f"models.yaml: engine '{name}' serves model", engine.model, models.models)
        _check_media(name, engine, models.models[engine.model].input)
    for name, model in models.models.items():
        for other in model.fallback:
            must_be_known(f"models.yaml: model '{name}' falls back to", other, models.models.keys() - {name})
        if not any(engine.model == name for engine in models.engines.values()):
            raise ConfigError(f"models.yaml: no engine serves model '{name}'")


def _check_media(name: str, engine: EngineConfig, taken: Sequence[str]) -> None:
    """Raises ConfigError if the provider of the engine `name` does not accept `taken`, the media of its model."""
    accepted = engine.preset.media
    refused = [kind for kind in taken if accepted is not None and kind not in ("text", *accepted)]
    if accepted is not None and refused:
        raise ConfigError(
            f"models.yaml: model '{engine.model}' has input: {refused[0]}, which its engine '{name}' of provider "
            f"'{engine.preset_name}' does not take; it takes text, {', '.join(accepted)}"
        )


def check_prices(models: ModelsFile, paths: PathsFile, tasks: TasksFile) -> None:
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
        if compares:
            _check_compared(f"task '{name}': {compares}", compared, paths, unpriced)
    policy = tasks.default_policy
    if policy and policy.implementation.needs_costs:
        _check_compared(f"default_policy: {policy.name}", policy.paths, paths, unpriced)


def _check_compared(owner: str, compared: Sequence[str], paths: PathsFile, unpriced: Collection[str]) -> None:
    """Raises ConfigError if a path whose costs `owner` compares has a model without a known price.

    `compared` are these paths, and `unpriced` the models without a known price.
    """
    for name in compared:
        model = paths.paths[name].model if name in paths.paths else ""
        if model in unpriced:
            raise ConfigError(
                f"tasks.yaml: {owner} compares costs, and the price of '{model}' (path '{name}') is unknown; write it "
                "in models.yaml"
            )


def check_aliases(models: ModelsFile, paths: PathsFile) -> None:
    discovered = {path.adapter for path in paths.paths.values() if path.adapter}
    names = {AUTO, *models.models, *(PATH_PREFIX + name for name in paths.paths)}
    for alias, target in models.aliases.items():
        if alias in names or alias in models.called_once or alias.startswith(PATH_PREFIX):
            raise ConfigError(f"models.yaml: alias '{alias}' hides a model or a path; choose another name")
        if not _is_adapter(target):
            must_be_known(f"models.yaml: alias '{alias}' names", target, names | discovered | models.called_once.keys())
    if models.catch_all is not None and not _is_adapter(models.catch_all):
        must_be_known("models.yaml: catch_all is", models.catch_all, names | discovered)


def _is_adapter(name: str) -> bool:
    """Returns whether the name is an alias or a version of an adapter on a lora-server: they have an "@"."""
    return "@" in name


def _model_of(name: str, paths: PathsFile) -> str:
    """Returns the base model of the path if `name` is "path:NAME" (empty if it is unknown), else `name` itself."""
    if not name.startswith(PATH_PREFIX):
        return name
    path = paths.paths.get(name.removeprefix(PATH_PREFIX))
    return path.model if path else ""


def judge_rejects(models: ModelsFile, paths: PathsFile, judge: JudgeConfig) -> frozenset[str]:
    """Returns the names of the request fields that at least one engine of the judge's model rejects.

    A judge is a model that grades answers.
    """
    model = _model_of(judge.model, paths)
    rejected = [engine.rejected_fields for engine in models.engines.values() if engine.model == model]
    return frozenset[str]().union(*rejected)


def has_lora_server(models: ModelsFile, model: str) -> bool:
    return any(engine.lora_server for engine in models.engines.values() if engine.model == model)
