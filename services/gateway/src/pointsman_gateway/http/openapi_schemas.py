"""JSON schemas of the answers of all HTTP routes, for the documentation only: no answer is validated against them."""

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
ANYTHING: Schema = {"type": "object", "additionalProperties": True}


def record(**fields: Schema) -> Schema:
    """The schema of an object. A field `NAME_or_none` is the optional field `NAME`."""
    optional = {name.removesuffix("_or_none"): schema for name, schema in fields.items() if name.endswith("_or_none")}
    required = {name: schema for name, schema in fields.items() if not name.endswith("_or_none")}
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def listing(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def mapping(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_COUNTED = {"prompt_tokens": INTEGER, "total_tokens": INTEGER}

_TOKEN = record(token=STRING, logprob=NUMBER, bytes_or_none=nullable(listing(INTEGER)))

TOOL_CALL = record(id=nullable(STRING), type=one_of("function"), function=record(name=STRING, arguments=STRING))

_OUTPUT = record(
    id=STRING,
    type=one_of("message", "function_call", "custom_tool_call", "reasoning"),
    status_or_none=one_of("completed", "incomplete"),
    content_or_none=listing(record(type=one_of("output_text", "refusal", "reasoning_text"))),
    role_or_none=one_of("assistant"),
    name_or_none=STRING,
    call_id_or_none=STRING,
    arguments_or_none=STRING,
    input_or_none=STRING,
    namespace_or_none=STRING,
)

LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_streams", "dollars_per_day", "dollars_per_month")

_LIMITS = record(**dict.fromkeys(LIMITS, nullable(NUMBER)))

_KEY_FIELDS = {
    **dict.fromkeys(("id", "prefix", "tenant", "name"), STRING),
    "scope": record(
        **dict.fromkeys(("tasks", "paths", "adapters", "collections", "embeddings"), nullable(listing(STRING)))
    ),
    "limits": _LIMITS,
    "priority": INTEGER,
    "created": NUMBER,
    **dict.fromkeys(("expires", "revoked"), nullable(NUMBER)),
    **dict.fromkeys(("operator", "admin"), BOOLEAN),
}
_KEY_STATE = one_of("active", "expired", "revoked")

_COUNTERS = ("requests", "failed", "cancelled", "prompt_tokens", "cached_tokens", "completion_tokens", "picodollars")
_COUNTS = record(**dict.fromkeys(_COUNTERS, INTEGER), dollars=NUMBER)

_CONFIG_VERSION = record(generation=STRING, unix=NUMBER, problem=STRING, files=mapping(STRING))

_ADMIN: dict[str, Schema] = {
    "Key": record(**_KEY_FIELDS, state=_KEY_STATE),
    "CreatedKey": record(key=STRING, **_KEY_FIELDS, state=_KEY_STATE),
    "Keys": record(keys=listing(reference("Key"))),
    "Tenant": record(name=STRING, limits=_LIMITS, learning=listing(STRING)),
    "Tenants": record(tenants=listing(reference("Tenant"))),
    "Budget": record(
        tenant=STRING,
        key=nullable(STRING),
        limit=one_of("dollars_per_day", "dollars_per_month"),
        **dict.fromkeys(("usd", "used_usd", "used_share", "resets_unix"), NUMBER),
        is_nearly_spent=BOOLEAN,
    ),
    "Budgets": record(budgets=listing(reference("Budget"))),
    "KeyUsage": record(
        tenant=STRING,
        key=nullable(record(**_KEY_FIELDS)),
        today=_COUNTS,
        month=_COUNTS,
        limits=_LIMITS,
        left=mapping(NUMBER),
    ),
    "KeyUsages": record(usage=listing(reference("KeyUsage"))),
    "ConfigurationHistory": record(
        running=_CONFIG_VERSION, previous=nullable(_CONFIG_VERSION), rejected=nullable(_CONFIG_VERSION)
    ),
}

SCHEMAS: dict[str, Schema] = {
    **_ADMIN,
    "Error": record(error=record(message=STRING, type=STRING, param=nullable(STRING), code=STRING)),
    "AnthropicError": record(
        type=one_of("error"),
        error=record(type=STRING, message=STRING, param=nullable(STRING), code=STRING),
        request_id=STRING,
    ),
    "AnthropicMessage": record(
        id=STRING,
        type=one_of("message"),
        role=one_of("assistant"),
        model=STRING,
        content=listing(record(type=one_of("text", "thinking", "tool_use"))),
        stop_reason=one_of("end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"),
        stop_sequence=nullable(STRING),
        usage=record(
            input_tokens=INTEGER,
            cache_creation_input_tokens=INTEGER,
            cache_read_input_tokens=INTEGER,
            output_tokens=INTEGER,
        ),
        pointsman=reference("Receipt"),
    ),
    "TokenCount": record(input_tokens=INTEGER, pointsman=record(path=STRING, count=one_of("exact", "estimate"))),
    "Usage": record(**_COUNTED, completion_tokens=INTEGER, prompt_tokens_details=record(cached_tokens=INTEGER)),
    "Receipt": record(
        path=STRING,
        kind=one_of("prompt", "rag", "lora", "tuned", "hybrid"),
        cost_usd=nullable(NUMBER),
        cost_parts_usd=mapping(nullable(NUMBER)),
        seconds=mapping(NUMBER),
        sources=listing(record(document_id=STRING, title=STRING, score=NUMBER)),
        escalated_from=STRING,
        cached=STRING,
        guardrails=listing(record(guardrail=STRING, hook=STRING, ruling=STRING, found=listing(STRING))),
    ),
    "Logprobs": record(
        content=nullable(listing({**_TOKEN, "description": "with top_logprobs"})),
        refusal_or_none=nullable(listing(_TOKEN)),
    ),
    "ChatCompletion": record(
        id=STRING,
        object=one_of("chat.completion"),
        created=INTEGER,
        model=STRING,
        system_fingerprint=STRING,
        choices=listing(
            record(
                index=INTEGER,
                message=record(
                    role=one_of("assistant"),
                    content=nullable(STRING),
                    refusal_or_none=nullable(STRING),
                    tool_calls_or_none=listing(TOOL_CALL),
                ),
                finish_reason=nullable(STRING),
                logprobs=nullable(reference("Logprobs")),
            )
        ),
        usage=reference("Usage"),
        pointsman=reference("Receipt"),
    ),
    "Completion": record(
        id=STRING,
        object=one_of("text_completion"),
        created=INTEGER,
        model=STRING,
        system_fingerprint=STRING,
        choices=listing(
            record(
                index=INTEGER,
                text=STRING,
                finish_reason=one_of("stop", "length", "content_filter"),
                logprobs=nullable(ANYTHING),
            )
        ),
        usage=reference("Usage"),
        pointsman=reference("Receipt"),
    ),
    "Response": record(
        id=STRING,
        object=one_of("response"),
        created_at=INTEGER,
        model=STRING,
        status=one_of("completed", "incomplete"),
        error=nullable(ANYTHING),
        incomplete_details=nullable(record(reason=one_of("max_output_tokens", "content_filter"))),
        output=listing(_OUTPUT),
        usage=record(
            input_tokens=INTEGER,
            input_tokens_details=record(cached_tokens=INTEGER),
            output_tokens=INTEGER,
            output_tokens_details=record(reasoning_tokens=INTEGER),
            total_tokens=INTEGER,
        ),
        tools=listing(ANYTHING),
        store=BOOLEAN,
        pointsman=reference("Receipt"),
    ),
    "Embeddings": record(
        object=one_of("list"),
        model=STRING,
        data=listing(
            record(
                object=one_of("embedding"),
                index=INTEGER,
                embedding={"anyOf": [listing(NUMBER), {"type": "string", "description": "base64 of floats"}]},
            )
        ),
        usage=record(**_COUNTED),
        pointsman_or_none=record(
            overflow=listing(
                record(index=INTEGER, applied=one_of("truncate", "mean"), windows=INTEGER, tokens_read=INTEGER)
            )
        ),
    ),
    "Model": record(id=STRING, object=one_of("model"), created=INTEGER, owned_by=STRING),
    "Models": record(object=one_of("list"), data=listing(reference("Model"))),
    "Decision": record(
        id=STRING,
        task=STRING,
        confidence=NUMBER,
        path=STRING,
        kind=STRING,
        reason=STRING,
        stage=STRING,
        margin=NUMBER,
        in_distribution_score=NUMBER,
        notes=listing(STRING),
        considered=listing(record(path=STRING, outcome=STRING, reason=STRING)),
        probabilities=mapping(NUMBER),
        expected_cost_usd=nullable(NUMBER),
        costs_usd=mapping(nullable(NUMBER)),
        generation=STRING,
        prompt_or_none=listing(record(role=STRING, content=STRING)),
    ),
    "FeedbackStored": record(stored=one_of("request_log", "wal"), known_already=BOOLEAN),
    "Tasks": record(
        generation=STRING,
        default_path=STRING,
        tasks=mapping(record(policy=STRING, paths=listing(STRING), metric=nullable(ANYTHING))),
        paths=mapping(
            record(
                kind=one_of("prompt", "rag", "lora", "tuned", "hybrid"),
                model=STRING,
                adapter=STRING,
                strategies=listing(STRING),
                collections=listing(STRING),
                fingerprint=STRING,
            )
        ),
        models=mapping(record(context_window=INTEGER, prices=nullable(mapping(NUMBER)))),
        search_usd=NUMBER,
    ),
    "Configuration": record(
        generation=STRING,
        loaded_unix=NUMBER,
        problem=STRING,
        workers=listing(
            record(
                worker=INTEGER,
                pid=INTEGER,
                restarts=INTEGER,
                generation_or_none=STRING,
                problem_or_none=STRING,
                in_flight_or_none=INTEGER,
            )
        ),
    ),
}
