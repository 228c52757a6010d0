"""What is checked of requests beyond what their types say, as JSON schemas for the documentation."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from pointsman_gateway.http.openapi_schemas import (
    ANYTHING,
    INTEGER,
    SHAPES,
    STRING,
    TOOL_CALL,
    Schema,
    listing,
    nullable,
    one_of,
    record,
    shape,
)

SOME_TEXT: Schema = {"type": "string", "pattern": r"\S"}
REFUSED: Schema = {"type": "null"}
"""Of a field that is known and cannot be had."""
METADATA: Schema = {
    "type": "object",
    "maxProperties": 16,
    "propertyNames": {"maxLength": 64},
    "additionalProperties": {"type": "string", "maxLength": 512},
}
USER: Schema = {"type": "string", "maxLength": 512}
STOP: Schema = {"anyOf": [STRING, {**listing(STRING), "maxItems": 4}]}


def _parts(*types: str) -> Schema:
    """Of text, and refusals, which an earlier answer may hold."""
    text = record(type=one_of(*types), text=SOME_TEXT)
    return {**listing({"anyOf": [text, record(type=one_of("refusal"), refusal=SOME_TEXT)]}), "minItems": 1}


CHAT_MESSAGES: Schema = {
    **listing(
        record(
            role=one_of("system", "developer", "user", "assistant", "tool", "function"),
            content={"anyOf": [SOME_TEXT, _parts("text")]},
            tool_calls_or_none=listing(TOOL_CALL),
            tool_call_id_or_none=STRING,
        )
    ),
    "minItems": 1,
}

PROMPT: Schema = {"anyOf": [SOME_TEXT, {**listing(SOME_TEXT), "minItems": 1, "maxItems": 1}]}

INPUTS: Schema = {
    "anyOf": [
        SOME_TEXT,
        {**listing(SOME_TEXT), "minItems": 1, "maxItems": 2048},
        {**listing(INTEGER), "minItems": 1},
        {**listing({**listing(INTEGER), "minItems": 1}), "minItems": 1, "maxItems": 2048},
    ]
}

RESPONSE_ITEMS: Schema = {
    "anyOf": [
        SOME_TEXT,
        {
            **listing(
                {
                    "anyOf": [
                        record(
                            role=one_of("system", "developer", "user", "assistant"),
                            content={"anyOf": [SOME_TEXT, _parts("input_text", "output_text")]},
                            type_or_none=nullable(one_of("message")),
                        ),
                        record(type=one_of("function_call"), call_id=STRING, name=STRING, arguments=STRING),
                        record(type=one_of("function_call_output"), call_id=STRING, output=SOME_TEXT),
                        record(type=one_of("reasoning")),
                    ]
                }
            ),
            "minItems": 1,
        },
    ]
}

RESPONSE_TOOLS: Schema = listing(
    record(type=one_of("function"), name=STRING, parameters_or_none=ANYTHING, description_or_none=STRING)
)

RESPONSE_CHOICE: Schema = {"anyOf": [one_of("auto", "none", "required"), record(type=one_of("function"), name=STRING)]}

RESPONSE_FORMAT: Schema = {
    "anyOf": [
        record(type=one_of("text", "json_object")),
        record(type=one_of("json_schema"), name=STRING, schema=ANYTHING),
    ]
}

REQUESTS: dict[str, dict[str, Schema]] = {
    "ChatBody": {"messages": CHAT_MESSAGES, "stop": STOP, "metadata": METADATA, "user": USER},
    "RouteBody": {"messages": CHAT_MESSAGES, "stop": STOP, "metadata": METADATA, "user": USER},
    "CompletionBody": {"prompt": PROMPT, "stop": STOP, "metadata": METADATA, "user": USER},
    "EmbeddingBody": {"input": INPUTS, "user": USER},
    "ResponsesBody": {
        "input": RESPONSE_ITEMS,
        "tools": RESPONSE_TOOLS,
        "tool_choice": RESPONSE_CHOICE,
        "metadata": METADATA,
        "user": USER,
        "truncation": one_of("disabled"),
        "background": {"type": "boolean", "enum": [False]},
        **dict.fromkeys(("previous_response_id", "conversation", "prompt"), REFUSED),
    },
    "TextBody": {"format": RESPONSE_FORMAT},
}
"""By body and field."""

ASKED = {
    "ChatBody": "messages",
    "RouteBody": "messages",
    "CompletionBody": "prompt",
    "EmbeddingBody": "input",
    "ResponsesBody": "input",
}
"""What each body must hold beside the model."""


def detail(name: str, body: dict[str, Any]) -> None:
    """Writes what is known of some fields into a body's schema; all but what must be there may be null."""
    asked, properties = ASKED.get(name), body["properties"]
    for field, schema in REQUESTS[name].items():
        said = {key: properties[field][key] for key in ("title", "description") if key in properties[field]}
        properties[field] = {**(schema if field == asked else nullable(schema)), **said}
    if asked:
        body["required"] = ["model", asked]
        properties["model"]["minLength"] = 1


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
