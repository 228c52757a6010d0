"""Reads the tasks, paths, models and prices of a gateway from its HTTP API."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import httpx

from pointsman_cli.errors import CommandError, Refused
from pointsman_cli.gateway_http import get_json

NO_MODELS: Mapping[str, Any] = MappingProxyType({"data": ()})
"""The JSON object that `/v1/models` returns if there are no models."""


@dataclass(frozen=True, slots=True)
class CatalogTask:
    """A task in the gateway's catalog: the paths that can answer it, and the metric that scores its answers."""

    paths: tuple[str, ...]
    """The names of all paths that can answer the task, in fallback order."""
    metric: Mapping[str, Any] | None
    """The settings of the metric that scores answers, as in tasks.yaml; None if the task has none."""


@dataclass(frozen=True, slots=True)
class PathFacts:
    """A path (a way to answer requests, such as a prompt or an adapter) in the gateway's catalog."""

    kind: str
    """The kind of path: "prompt", "rag", "lora", "tuned" or "hybrid"."""
    model: str
    """The name of the base model."""
    adapter: str
    """The adapter as the configuration names it, such as an alias ("triage@prod"); empty if the path has none."""
    fingerprint: str
    """A digest of the path's configuration, prompts and examples."""
    versions: tuple[str, ...] = ()
    """The adapter versions that answer now: one, or two while an alias has a canary.

    If no engine has reported the version, the only entry is `adapter`.
    """


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A base model in the gateway's catalog: its prices in dollars, and digests that change with it."""

    fingerprint: str
    """A digest of the names under which engines serve the model, and of the model that it was fine-tuned from."""
    prices: Mapping[str, float] | None
    """Dollars by cost component: for a million tokens of a kind ("prompt", ...), or for one "image", "request" or
    "tool" request; None if the prices are unknown.
    """
    other_prices: str = ""
    """A digest of the prices that are not in `prices`, such as those of long prompts; empty if there are none."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The tasks, paths, models and prices that one gateway offers, as its configuration states them."""

    revision: str
    """The revision of the gateway's configuration."""
    tasks: Mapping[str, CatalogTask]
    """The tasks by name."""
    paths: Mapping[str, PathFacts]
    context_windows: Mapping[str, int]
    """The size of each model's context window in tokens, by the model's name."""
    default_path: str
    models: Sequence[str]
    """All values that a request's `model` may have."""
    base_models: Mapping[str, ModelFacts] = field(default_factory=dict)
    """Facts on the base models, by name."""
    search_usd: float = 0.0
    """Dollars for one search of the retriever."""


async def read_catalog(client: httpx.AsyncClient) -> Catalog:
    """Reads the tasks, paths and models of the gateway at the client's base URL, from `/v1/tasks` and `/v1/models`.

    Raises Refused if the gateway rejects the request, Unreachable if no connection can be opened, and CommandError if
    it does not answer as expected.
    """
    try:
        body = await get_json(client, "/v1/tasks")
        models = await get_json(client, "/v1/models")
    except Refused as error:
        if error.code in ("unknown_route", "http_404"):
            at = str(client.base_url).rstrip("/")
            raise CommandError(
                f"the server at {at} has no /v1/tasks: it is not a Pointsman gateway, or an old one; check --url"
            ) from error
        raise
    return to_catalog(body, models)


def to_catalog(body: Mapping[str, Any], models: Mapping[str, Any] = NO_MODELS) -> Catalog:
    """Converts the JSON bodies of `/v1/tasks` and `/v1/models`; raises CommandError if one has another form.

    If `models` is not given, the catalog's list of models for requests is empty.
    """
    try:
        return _catalog(body, [model["id"] for model in models["data"]])
    except (KeyError, TypeError, AttributeError) as error:
        raise CommandError(
            f"the gateway's list of tasks or models is not as expected: {error!r}; is it of another version?"
        ) from error


def _catalog(body: Mapping[str, Any], models: Sequence[str]) -> Catalog:
    return Catalog(
        revision=body["revision"],
        tasks={name: CatalogTask(tuple(task["paths"]), task["metric"]) for name, task in body["tasks"].items()},
        paths={
            name: PathFacts(path["kind"], path["model"], path["adapter"], path["fingerprint"], tuple(path["versions"]))
            for name, path in body["paths"].items()
        },
        context_windows={name: model["context_window"] for name, model in body["models"].items()},
        default_path=body["default_path"],
        models=models,
        base_models={
            name: ModelFacts(model["fingerprint"], model["prices"], model["other_prices"])
            for name, model in body["models"].items()
        },
        search_usd=body["search_usd"],
    )
