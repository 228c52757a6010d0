"""`GET /v1/tasks`: the tasks, the paths that could answer each, how answers are scored, and the price list."""

from dataclasses import asdict
from typing import Any

from fastapi import Request

from pointsman_gateway.domain import Path
from pointsman_gateway.http.http_door import door_of


async def list_tasks(request: Request) -> dict[str, Any]:
    """What `pointsman eval` reads before it asks."""
    generation = door_of(request).configuration.current
    catalogue = generation.catalogue
    return {
        "generation": generation.id,
        "default_path": catalogue.default_path,
        "tasks": {name: asdict(task) for name, task in catalogue.tasks.items()},
        "paths": {name: _path(path) for name, path in catalogue.paths.items()},
        "models": {name: asdict(model) for name, model in catalogue.models.items()},
        "search_usd": catalogue.search_usd,
    }


def _path(path: Path) -> dict[str, Any]:
    return {
        "kind": path.kind,
        "model": path.model,
        "adapter": path.adapter,
        "strategies": path.strategies,
        "collections": path.collections,
        "fingerprint": path.fingerprint,
    }
