"""From a configuration to what those read who compare its paths."""

from typing import Any

from pointsman_gateway.bootstrap.line import to_path
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.schema import ModelConfig, TaskConfig
from pointsman_gateway.domain.path import Catalog, CatalogModel, CatalogTask


def to_catalogue(config: Config) -> Catalog:
    return Catalog(
        default_path=config.tasks.default_path,
        search_usd=config.models.retrieval.usd_per_search,
        tasks={name: _task(task, config) for name, task in config.tasks.tasks.items()},
        paths={name: to_path(name, path, config) for name, path in config.paths.paths.items()},
        models={name: _model(model) for name, model in config.models.models.items()},
    )


def _task(task: TaskConfig, config: Config) -> CatalogTask:
    in_order = (*task.policy.paths, *task.fallback, config.tasks.default_path)
    return CatalogTask(task.policy.name, tuple(dict.fromkeys(in_order)), _metric(task, config))


def _metric(task: TaskConfig, config: Config) -> dict[str, Any] | None:
    if task.metric is None:
        return None
    if task.metric.judge is None:
        return task.metric.model_dump(exclude_unset=True)
    judge = task.metric.judge
    return {"judge": {"model": judge.model, "prompt": config.prompts[judge.prompt] if judge.prompt else ""}}


def _model(model: ModelConfig) -> CatalogModel:
    return CatalogModel(model.context_window, model.usd_per_million_tokens.model_dump())
