"""`/openapi.json`: what FastAPI knows of the requests, and what the routes answer."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from pointsman_gateway.http.openapi_requests import REQUESTS, detail
from pointsman_gateway.http.openapi_shapes import SHAPES, STRING, Schema, record, shape

JSON, EVENTS, TEXT = "application/json", "text/event-stream", "text/plain"

STREAMED: Schema = {
    **record(data=STRING, event_or_none=STRING),
    "description": "One server-sent event of many, where `stream` is true. The data is JSON; that of the last is "
    "[DONE], of a response its end. A stream that breaks off ends with an error.",
}

ANSWERS: Mapping[tuple[str, str], Mapping[str, Schema]] = {
    ("post", "/v1/chat/completions"): {JSON: shape("ChatCompletion"), EVENTS: STREAMED},
    ("post", "/v1/completions"): {JSON: shape("Completion"), EVENTS: STREAMED},
    ("post", "/v1/responses"): {JSON: shape("Response"), EVENTS: STREAMED},
    ("post", "/v1/embeddings"): {JSON: shape("Embeddings")},
    ("get", "/v1/models"): {JSON: shape("Models")},
    ("get", "/v1/models/{name}"): {JSON: shape("Model")},
    ("post", "/v1/route"): {JSON: shape("Decision")},
    ("post", "/v1/feedback"): {JSON: shape("FeedbackStored")},
    ("get", "/v1/tasks"): {JSON: shape("Tasks")},
    ("get", "/v1/configuration"): {JSON: shape("Configuration")},
    ("get", "/healthz"): {TEXT: STRING},
    ("get", "/readyz"): {TEXT: STRING},
    ("get", "/metrics"): {TEXT: STRING},
}
"""By method and path; a route that is not here is described as FastAPI sees it."""

DECISION = ("decision-id", "task", "path", "kind", "confidence", "reason", "overhead-ms")
DECIDED: dict[str, Any] = {f"x-pointsman-{name}": {"required": True, "schema": STRING} for name in DECISION}
COST: dict[str, Any] = {"x-pointsman-cost-usd": {"description": "of a whole answer", "schema": STRING}}
REQUEST_ID: dict[str, Any] = {"x-request-id": {"required": True, "schema": STRING}}
RETRY_AFTER: dict[str, Any] = {"retry-after": {"description": "seconds", "schema": STRING}}

ERRORS = {
    "4XX": {
        "description": "The request cannot be answered as it is",
        "content": {JSON: {"schema": shape("Error")}},
        "headers": {**REQUEST_ID, **RETRY_AFTER},
    },
    "5XX": {
        "description": "It can be sent again, unless its code is `internal`",
        "content": {JSON: {"schema": shape("Error")}},
        "headers": {**REQUEST_ID, **RETRY_AFTER},
    },
}


def describe_answers(app: FastAPI) -> None:
    """From now on `app` documents what its routes answer, those that are still to be added too."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            app.openapi_schema = _described(document)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _described(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(SHAPES)
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which no route answers with
        schemas.pop(name, None)
    for name in REQUESTS:
        detail(name, schemas[name])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _describe(operation, method, path)
    return document


def _describe(operation: dict[str, Any], method: str, path: str) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    answers = ANSWERS.get((method, path))
    if answers:
        headers = dict(REQUEST_ID)
        if EVENTS in answers:
            headers |= {**DECIDED, **COST}
        if path == "/v1/embeddings":
            headers |= COST
        content = {kind: {"schema": schema} for kind, schema in answers.items()}
        responses["200"] = {"description": "Well", "content": content, "headers": headers}
    if path == "/v1/feedback":
        responses["202"] = {**responses["200"], "description": "It waits on disk for the journal"}
    if path == "/readyz":
        responses["503"] = {"description": "No engine is ready", "content": {TEXT: {"schema": STRING}}}
    responses.update(ERRORS)
