"""What is checked of requests beyond what their types say, as JSON schemas for the documentation."""

from typing import Any

from pointsman_gateway.http.openapi_shapes import (
    ANYTHING,
    INTEGER,
    STRING,
    TOOL_CALL,
    Schema,
    listing,
    nullable,
    one_of,
    record,
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
