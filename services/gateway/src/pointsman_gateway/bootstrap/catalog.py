"""Builds the catalog of a configuration: its tasks with their quality metrics, its paths, and its models with their
prices.
"""

import hashlib
from collections.abc import Iterator
from datetime import date
from typing import Any

from pointsman_gateway.bootstrap.paths import to_path
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.models_file import ModelConfig, ModelsFile
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.domain.path import Catalog, CatalogModel, CatalogPrices, CatalogTask


def to_catalog(config: Config) -> Catalog:
    """Returns the configured tasks (with their quality metrics), paths and models (with their prices), for clients that
    compare paths.
    """
    return Catalog(
        default_path=config.tasks.default_path,
        search_usd=config.models.retrieval.usd_per_search if config.models.retrieval else 0.0,
        tasks={name: _catalog_task(task, config) for name, task in config.tasks.tasks.items()},
        paths={name: to_path(name, path, config) for name, path in config.paths.paths.items()},
        models={name: _catalog_model(name, model, config.models) for name, model in config.models.models.items()},
    )


def paths_of(task: TaskConfig, default: str) -> list[str]:
    """Returns the names of all paths that may answer the task's requests, each once; `default` is the default path's
    name.
    """
    return list(dict.fromkeys([*task.policy.paths, *task.fallback, default]))


def _catalog_task(task: TaskConfig, config: Config) -> CatalogTask:
    return CatalogTask(task.policy.name, tuple(paths_of(task, config.tasks.default_path)), _metric(task, config))


def _metric(task: TaskConfig, config: Config) -> dict[str, Any] | None:
    if task.metric is None:
        return None
    if task.metric.judge is None:
        return task.metric.model_dump(exclude_unset=True)
    judge = task.metric.judge
    return {"judge": {"model": judge.model, "prompt": config.prompts[judge.prompt] if judge.prompt else ""}}


def _catalog_model(name: str, model: ModelConfig, models: ModelsFile) -> CatalogModel:
    upstream = sorted({engine.upstream_name for engine in models.engines.values() if engine.model == name})
    fingerprint = _hash(upstream or [model.upstream or name], model.tuned_from)
    days = [date.min, *(change.starting for change in model.price_changes)]
    prices = tuple((day, _catalog_prices(model.priced_on(day), models)) for day in days)
    return CatalogModel(model.context_window, prices, fingerprint)


def _catalog_prices(model: ModelConfig, models: ModelsFile) -> CatalogPrices:
    tokens, retrieval, training = model.usd_per_million_tokens, models.retrieval, models.training
    listed = None if tokens is None else {**tokens.by_kind, **dict(_charges(model))}
    others = (
        [longer.model_dump() for longer in tokens.long_prompts] if tokens else [],
        {name: prices.model_dump() for name, prices in sorted(model.service_tiers.items())},
        retrieval.usd_per_embedding if retrieval else 0,
        training.model_dump() if training else {},
    )
    return CatalogPrices(listed, _hash(*others) if any(others) else "")


def _charges(model: ModelConfig) -> Iterator[tuple[str, float]]:
    """Yields a model's prices for things other than tokens: ("image", "request" or "tool", dollars for each)."""
    charges = {"image": model.usd_per_image, "request": model.usd_per_request, "tool": model.usd_per_tool_request}
    for component, usd in charges.items():
        if usd is not None:
            yield component, usd


def _hash(*values: object) -> str:
    return hashlib.blake2b(repr(values).encode(), digest_size=6).hexdigest()
