"""`/openapi.json`: FastAPI's document, with the constraints of requests that types do not express, and all answers."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from pointsman_gateway.http.encoding import MESSAGES_PATH
from pointsman_gateway.http.openapi_schemas import (
    ANYTHING,
    SCHEMAS,
    STRING,
    TOOL_CALL,
    Schema,
    listing,
    nullable,
    one_of,
    record,
    reference,
)

SOME_TEXT: Schema = {"type": "string", "pattern": r"\S"}
UNSUPPORTED: Schema = {"type": "null"}
"""The schema of a field that is known but not supported."""
METADATA: Schema = {
    "type": "object",
    "maxProperties": 16,
    "propertyNames": {"maxLength": 64},
    "additionalProperties": {"type": "string", "maxLength": 512},
}
USER: Schema = {"type": "string", "maxLength": 512}
STOP: Schema = {"anyOf": [STRING, {**listing(STRING), "maxItems": 4}]}


def _parts(*types: str) -> Schema:
    """A list of content parts: texts, and refusals from earlier answers."""
    text = record(type=one_of(*types), text=STRING)
    return listing({"anyOf": [text, record(type=one_of("refusal"), refusal=STRING)]})


CHAT_MESSAGES: Schema = {
    **listing(
        record(
            role=one_of("system", "developer", "user", "assistant", "tool", "function"),
            content={"anyOf": [STRING, _parts("text")]},
            tool_calls_or_none=listing(TOOL_CALL),
            tool_call_id_or_none=STRING,
        )
    ),
    "minItems": 1,
}

TOKEN_IDS: Schema = {**listing({"type": "integer", "minimum": 0, "maximum": 2**31 - 1}), "minItems": 1}

ONE_PROMPT: Schema = {"type": "string", "minLength": 1}

PROMPT: Schema = {
    "anyOf": [
        ONE_PROMPT,
        {**listing(ONE_PROMPT), "minItems": 1, "maxItems": 128},
        TOKEN_IDS,
        {**listing(TOKEN_IDS), "minItems": 1, "maxItems": 128},
    ]
}

INPUTS: Schema = {
    "anyOf": [
        SOME_TEXT,
        {**listing(SOME_TEXT), "minItems": 1, "maxItems": 2048},
        TOKEN_IDS,
        {**listing(TOKEN_IDS), "minItems": 1, "maxItems": 2048},
    ]
}

RESPONSE_ITEMS: Schema = {
    "anyOf": [
        STRING,
        {
            **listing(
                {
                    "anyOf": [
                        record(
                            role=one_of("system", "developer", "user", "assistant"),
                            content={"anyOf": [STRING, _parts("input_text", "output_text")]},
                            type_or_none=nullable(one_of("message")),
                        ),
                        record(type=one_of("function_call"), call_id=STRING, name=STRING, arguments=STRING),
                        record(type=one_of("function_call_output"), call_id=STRING, output=STRING),
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

_BLOCKS: Schema = listing(record(type=one_of("text"), text=STRING))

MESSAGE_PARAMS: Schema = {
    **listing(
        record(
            role=one_of("user", "assistant"),
            content={
                "anyOf": [
                    STRING,
                    _BLOCKS,
                    listing(record(type=one_of("tool_use"), id=STRING, name=STRING, input=ANYTHING)),
                    listing(record(type=one_of("tool_result"), tool_use_id=STRING, content_or_none=STRING)),
                ]
            },
        )
    ),
    "minItems": 1,
}

MESSAGES_FIELDS: dict[str, Schema] = {
    "messages": MESSAGE_PARAMS,
    "system": {"anyOf": [STRING, _BLOCKS]},
    "tools": listing(record(name=STRING, input_schema=ANYTHING, description_or_none=STRING)),
    "tool_choice": record(type=one_of("auto", "any", "tool", "none"), name_or_none=STRING),
    "stop_sequences": {**listing(STRING), "maxItems": 4},
    "output_config": record(format_or_none=record(type=one_of("json_schema"), schema=ANYTHING), effort_or_none=STRING),
    "output_format": record(type=one_of("json_schema"), schema=ANYTHING),
}

REQUESTS: dict[str, dict[str, Schema]] = {
    "MessagesBody": MESSAGES_FIELDS,
    "CountTokensBody": MESSAGES_FIELDS,
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
        **dict.fromkeys(("previous_response_id", "conversation", "prompt"), UNSUPPORTED),
    },
    "TextBody": {"format": RESPONSE_FORMAT},
}
"""Schemas by body and field."""

REQUIRED_FIELD = {
    "ChatBody": "messages",
    "RouteBody": "messages",
    "CompletionBody": "prompt",
    "EmbeddingBody": "input",
    "ResponsesBody": "input",
    "MessagesBody": "messages",
    "CountTokensBody": "messages",
}
"""The field that each body requires in addition to the model."""


def add_constraints(name: str, body: dict[str, Any]) -> None:
    """Adds constraints to the fields in a body's schema. All fields except the required ones may be null."""
    required, properties = REQUIRED_FIELD.get(name), body["properties"]
    for field, schema in REQUESTS[name].items():
        texts = {key: properties[field][key] for key in ("title", "description") if key in properties[field]}
        properties[field] = {**(schema if field == required else nullable(schema)), **texts}
    if required:
        body["required"] = ["model", required, *(["max_tokens"] if name == "MessagesBody" else [])]
        properties["model"]["minLength"] = 1


JSON, EVENTS, TEXT = "application/json", "text/event-stream", "text/plain"

STREAMED: Schema = {
    **record(data=STRING, event_or_none=STRING),
    "description": "One server-sent event of a stream, if `stream` is true. The data is JSON; that of the last event "
    "is [DONE], in the Responses API the complete response, and in Anthropic's `message_stop`. A stream that fails "
    "ends with an error.",
}

ANSWERS: Mapping[tuple[str, str], Mapping[str, Schema]] = {
    ("post", "/v1/chat/completions"): {JSON: reference("ChatCompletion"), EVENTS: STREAMED},
    ("post", "/v1/completions"): {JSON: reference("Completion"), EVENTS: STREAMED},
    ("post", "/v1/responses"): {JSON: reference("Response"), EVENTS: STREAMED},
    ("post", MESSAGES_PATH): {JSON: reference("AnthropicMessage"), EVENTS: STREAMED},
    ("post", f"{MESSAGES_PATH}/count_tokens"): {JSON: reference("TokenCount")},
    ("post", "/v1/embeddings"): {JSON: reference("Embeddings")},
    ("get", "/v1/models"): {JSON: reference("Models")},
    ("get", "/v1/models/{name}"): {JSON: reference("Model")},
    ("post", "/v1/route"): {JSON: reference("Decision")},
    ("post", "/v1/feedback"): {JSON: reference("FeedbackStored")},
    ("get", "/v1/tasks"): {JSON: reference("Tasks")},
    ("get", "/v1/configuration"): {JSON: reference("Configuration")},
    ("get", "/admin/v1/keys"): {JSON: reference("Keys")},
    ("post", "/admin/v1/keys"): {JSON: reference("CreatedKey")},
    ("get", "/admin/v1/keys/{key}"): {JSON: reference("Key")},
    ("patch", "/admin/v1/keys/{key}"): {JSON: reference("Key")},
    ("delete", "/admin/v1/keys/{key}"): {JSON: reference("Key")},
    ("get", "/admin/v1/tenants"): {JSON: reference("Tenants")},
    ("get", "/admin/v1/tenants/{tenant}"): {JSON: reference("Tenant")},
    ("patch", "/admin/v1/tenants/{tenant}"): {JSON: reference("Tenant")},
    ("get", "/admin/v1/budgets"): {JSON: reference("Budgets")},
    ("get", "/admin/v1/usage"): {JSON: reference("KeyUsages")},
    ("get", "/admin/v1/config"): {JSON: reference("ConfigurationHistory")},
    ("get", "/healthz"): {TEXT: STRING},
    ("get", "/readyz"): {TEXT: STRING},
    ("get", "/metrics"): {TEXT: STRING},
}
"""Answers by method and path. Other routes are described as FastAPI does."""

DECISION = ("decision-id", "task", "path", "kind", "confidence", "reason", "overhead-ms")
DECISION_HEADERS: dict[str, Any] = {f"x-pointsman-{name}": {"required": True, "schema": STRING} for name in DECISION}
COST: dict[str, Any] = {"x-pointsman-cost-usd": {"description": "of an answer that is not streamed", "schema": STRING}}
REQUEST_ID: dict[str, Any] = {"x-request-id": {"required": True, "schema": STRING}}
RETRY_AFTER: dict[str, Any] = {"retry-after": {"description": "seconds", "schema": STRING}}


def _errors(schema: str) -> dict[str, Any]:
    answer = {"content": {JSON: {"schema": reference(schema)}}, "headers": {**REQUEST_ID, **RETRY_AFTER}}
    return {
        "4XX": {"description": "The request is invalid or not allowed", **answer},
        "5XX": {"description": "The request failed and may be retried, unless the code is `internal`", **answer},
    }


def describe_answers(app: FastAPI) -> None:
    """Makes `app` document the answers of all its routes, including routes that are added later."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            app.openapi_schema = _described(document)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


def _described(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(SCHEMAS)
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's errors, which are not used
        schemas.pop(name, None)
    for name in REQUESTS:
        add_constraints(name, schemas[name])
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
            headers |= {**DECISION_HEADERS, **COST}
        if path == "/v1/embeddings":
            headers |= COST
        content = {kind: {"schema": schema} for kind, schema in answers.items()}
        success = "201" if "201" in responses else "200"
        responses[success] = {"description": "Success", "content": content, "headers": headers}
    if path == "/v1/feedback":
        responses["202"] = {
            **responses["200"],
            "description": "Stored in the write-ahead log; Redis has not received it yet",
        }
    if path == "/readyz":
        responses["503"] = {"description": "No engine is ready", "content": {TEXT: {"schema": STRING}}}
    responses.update(_errors("AnthropicError" if path.startswith(MESSAGES_PATH) else "Error"))
