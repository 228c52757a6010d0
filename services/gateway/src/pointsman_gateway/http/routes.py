"""`POST /v1/feedback`: what someone says of an answer."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse
from pointsman_servicekit.errors import NotFound
from pydantic import Field
from starlette.responses import Response

from pointsman_gateway.domain import Caller, Feedback, Path
from pointsman_gateway.http.dependencies import door_of
from pointsman_gateway.http.openai.fields import KnownNames


class Stored(Protocol):
    """Where feedback was put."""

    @property
    def where(self) -> str:
        """ "request_log" or "wal"."""
        ...

    @property
    def known_already(self) -> bool: ...


class FeedbackBox(Protocol):
    """Takes what is said."""

    async def take(self, feedback: Feedback) -> Stored:
        """Returns once it is kept. Raises PointsmanError."""
        ...


class FeedbackBody(KnownNames):
    decision_id: str = Field(default="", description="the answer's x-pointsman-decision-id, or its id")
    id: str = Field(default="", description="names this feedback: sent twice, it counts once; empty: its content does")
    rating: float | None = Field(default=None, strict=True, description="0 (bad) to 1 (good)")
    correction: str = Field(default="", description="what was wrong, in words")
    right_task: str = Field(default="", description='the task that it should have been; "unknown": none')
    right_answer: str = Field(default="", description="what should have been answered")

    def to_feedback(self, caller: Caller) -> Feedback:
        return Feedback(**self.model_dump(), tenant=caller.tenant)


def feedback_answer(stored: Stored) -> Response:
    body = {"stored": stored.where, "known_already": stored.known_already}
    return JSONResponse(body, status_code=202 if stored.where == "wal" else 200)


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


async def list_models(request: Request) -> dict[str, Any]:
    """For conversations, and for embeddings."""
    created = _created(request)
    return {"object": "list", "data": [_model(name, created) for name in _names(request)]}


async def find_model(name: str, request: Request) -> dict[str, Any]:
    """One of them, by a name that may hold ':', '@' and '/'."""
    if name not in _names(request):
        raise NotFound(f"unknown model '{name[:200]}'; GET /v1/models lists them", code="unknown_model", param="model")
    return _model(name, _created(request))


def _names(request: Request) -> Iterator[str]:
    current = door_of(request).configuration.current
    yield from current.models.names()
    yield from current.embeddings.names()


def _created(request: Request) -> int:
    """The configuration's age is all that is known of a name's."""
    return int(door_of(request).configuration.status.loaded_unix)


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "pointsman"}
