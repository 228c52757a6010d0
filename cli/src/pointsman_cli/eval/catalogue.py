"""What the gateway says of its tasks and paths (`GET /v1/tasks`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from pointsman_cli.errors import CommandError, Refused
from pointsman_cli.gateway.http_client import get_json


@dataclass(frozen=True, slots=True)
class Task:
    paths: Sequence[str]
    """All that could answer, in the order in which they are tried."""
    metric: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class PathFacts:
    kind: str
    """ "prompt", "rag", "lora" or "hybrid"."""
    model: str
    adapter: str
    fingerprint: str
    """Of all that the configuration says of it."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    generation: str
    tasks: Mapping[str, Task]
    paths: Mapping[str, PathFacts]
    context_windows: Mapping[str, int]
    """Tokens, by model."""
    models: Sequence[str]
    """Everything that a request's `model` may say."""


async def read(client: httpx.AsyncClient) -> Catalogue:
    """Raises CommandError where the gateway is away, refuses, or says something else."""
    try:
        told = await get_json(client, "/v1/tasks")
        models = await get_json(client, "/v1/models")
    except Refused as error:
        if error.code in ("unknown_route", "http_404"):
            at = str(client.base_url).rstrip("/")
            raise CommandError(f"whatever answers at {at} knows no /v1/tasks: no gateway, or an old one") from error
        raise
    try:
        return _catalogue(told, [model["id"] for model in models["data"]])
    except (KeyError, TypeError, AttributeError) as error:
        raise CommandError(f"what the gateway says of its tasks is not as expected: {error!r}") from error


def _catalogue(told: Mapping[str, Any], models: Sequence[str]) -> Catalogue:
    return Catalogue(
        generation=told["generation"],
        tasks={name: Task(tuple(task["paths"]), task["metric"]) for name, task in told["tasks"].items()},
        paths={
            name: PathFacts(path["kind"], path["model"], path["adapter"], path["fingerprint"])
            for name, path in told["paths"].items()
        },
        context_windows={name: model["context_window"] for name, model in told["models"].items()},
        models=models,
    )
