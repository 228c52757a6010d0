"""Completes FastAPI's OpenAPI document with constraints of requests and with the responses of all routes, from
`openapi.yaml`.
"""

from importlib.resources import files
from threading import Lock
from typing import Any

import yaml
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from pointsman_gateway.http.dialects.registry import DIALECTS, dialect_at

Schema = dict[str, Any]

JSON, EVENTS, TEXT = "application/json", "text/event-stream", "text/plain"
STRING: Schema = {"type": "string"}

STREAMED: Schema = {
    "type": "object",
    "properties": {"data": STRING, "event": STRING},
    "required": ["data"],
    "description": "One server-sent event of a stream, if `stream` is true. The data is JSON; that of the last event "
    "is [DONE], in the Responses API the complete response, and in Anthropic's `message_stop`. A stream that fails "
    "ends with an error.",
}

DECISION = ("decision-id", "task", "path", "kind", "confidence", "reason", "overhead-ms")
DECISION_HEADERS: Schema = {f"x-pointsman-{name}": {"required": True, "schema": STRING} for name in DECISION}
COST: Schema = {"x-pointsman-cost-usd": {"description": "of an answer that is not streamed", "schema": STRING}}
REQUEST_ID: Schema = {"x-request-id": {"required": True, "schema": STRING}}
RETRY_AFTER: Schema = {"retry-after": {"description": "seconds", "schema": STRING}}


def describe_answers(app: FastAPI) -> None:
    """Makes `app.openapi()` describe the responses of all routes too. Its first call fixes the result, so all
    routes must have been added before.
    """

    building = Lock()

    def openapi() -> dict[str, Any]:
        with building:  # requests call it in threads: one builds the document, and the others wait
            if app.openapi_schema is None:
                document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
                app.openapi_schema = _described(document)
            return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


def _described(document: dict[str, Any]) -> dict[str, Any]:
    source = _with_required(yaml.safe_load(files(__package__).joinpath("openapi.yaml").read_text("utf-8")))
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(source["schemas"])
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's errors, which are not used
        schemas.pop(name, None)
    for name, constraints in source["bodies"].items():
        _add_constraints(schemas[name], constraints)
    conversations = {dialect.path for dialect in DIALECTS if dialect.is_conversation}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answer = source["answers"].get(path, {}).get(method)
            _describe(operation, path, answer, path in conversations)
    return document


def _with_required(schema: Any) -> Any:
    """Returns a schema in which each object requires all its properties, except those that its key `optional` lists.

    The key `optional` is left out of the result.
    """
    if isinstance(schema, list):
        return [_with_required(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _with_required(value) for key, value in schema.items()}
    if made.get("type") == "object" and "properties" in made:
        optional = made.pop("optional", ())
        made["required"] = [name for name in made["properties"] if name not in optional]
    return made


def _add_constraints(body: Schema, constraints: Schema) -> None:
    """Replaces the schemas of fields in a body's schema by those in `constraints["properties"]`.

    Each of the new schemas also allows null, except that of the field in `constraints["required"]`. With such a field,
    `model` is required too.
    """
    required, properties = constraints.get("required"), body["properties"]
    for field, schema in constraints["properties"].items():
        texts = {key: properties[field][key] for key in ("title", "description") if key in properties[field]}
        properties[field] = {**(schema if field == required else {"anyOf": [schema, {"type": "null"}]}), **texts}
    if required:
        body["required"] = ["model", required, *constraints.get("also_required", ())]
        properties["model"]["minLength"] = 1


def _describe(operation: Schema, path: str, answer: str | None, streamed: bool) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    if answer:
        headers = {**REQUEST_ID, **(DECISION_HEADERS if streamed else {})}
        if streamed or answer in ("Embeddings", "Reranking"):
            headers |= COST
        content = {TEXT: {"schema": STRING}} if answer == TEXT else {JSON: {"schema": _reference(answer)}}
        if streamed:
            content[EVENTS] = {"schema": STREAMED}
        success = "201" if "201" in responses else "200"
        responses[success] = {"description": "Success", "content": content, "headers": headers}
    if path == "/v1/feedback":
        responses["202"] = {
            **responses["200"],
            "description": "Stored in the write-ahead log; Redis has not received it yet",
        }
    if path == "/readyz":
        responses["503"] = {"description": "No engine is ready", "content": {TEXT: {"schema": STRING}}}
    responses.update(_errors(dialect_at(path).error_format.schema))


def _errors(schema: str) -> Schema:
    answer = {"content": {JSON: {"schema": _reference(schema)}}, "headers": {**REQUEST_ID, **RETRY_AFTER}}
    return {
        "4XX": {"description": "The request is invalid or not allowed", **answer},
        "5XX": {"description": "The request failed and may be retried, unless the code is `internal`", **answer},
    }


def _reference(schema: str) -> Schema:
    return {"$ref": f"#/components/schemas/{schema}"}
