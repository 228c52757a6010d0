"""`GET /v1/models`: everything that a request's `model` may say."""

from collections.abc import Iterator
from typing import Any

from fastapi import Request
from pointsman_servicekit.errors import NotFound

from pointsman_gateway.http.http_door import door_of


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
