"""The JSON of `GET /v1/tasks`: the tasks, paths and models with their prices, for clients that compare paths."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

from pointsman_gateway.domain import Path
from pointsman_gateway.domain.path import Catalog, CatalogModel


def catalog_body(
    catalog: Catalog, revision: str, versions_of: Callable[[Path], Sequence[str]], day: date
) -> dict[str, Any]:
    """Returns tasks, paths and models as a JSON object, with the prices that are valid on `day` (UTC).

    `revision` identifies the configuration. `versions_of` returns the adapter versions that requests on a path may
    use; for an alias that no engine has reported yet, it returns the alias itself.
    """
    return {
        "revision": revision,
        "default_path": catalog.default_path,
        "tasks": {name: asdict(task) for name, task in catalog.tasks.items()},
        "paths": {name: _path(path, versions_of(path)) for name, path in catalog.paths.items()},
        "models": {name: _model(model, day) for name, model in catalog.models.items()},
        "search_usd": catalog.search_usd,
    }


def _path(path: Path, versions: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": path.kind,
        "model": path.model,
        "adapter": path.adapter,
        "versions": list(versions),
        "strategies": path.strategies,
        "collections": path.collections,
        "fingerprint": path.fingerprint,
    }


def _model(model: CatalogModel, day: date) -> dict[str, Any]:
    prices = model.prices_on(day)
    return {
        "context_window": model.context_window,
        "prices": prices.listed,
        "other_prices": prices.others,
        "fingerprint": model.fingerprint,
    }
