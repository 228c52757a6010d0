"""OpenAI's request bodies, decoded."""

import json
from collections.abc import Mapping
from typing import Any, Literal, cast

import msgspec
from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pointsman_gateway.config.field_types import MAX_STOP_SEQUENCES, MaxTokens, Seed, Temperature, TopP
from pointsman_gateway.domain import ANONYMOUS, Caller, Message, Request, Sampling
from pointsman_gateway.http.bounded_fields import Elements, Entries
from pointsman_gateway.http.cache_control import USE
from pointsman_gateway.http.finite_numbers import refuse_infinite
from pointsman_gateway.http.half_characters import WholeCharacters, refuse_half_characters
from pointsman_gateway.http.http_errors import invalid_body
from pointsman_gateway.http.limits import check_counts
from pointsman_gateway.http.strict_structs import strict_struct

NOTHING: Mapping[str, Any] = {}


class MessageBody(BaseModel):
    """What is not named here ("tool_calls", "tool_call_id") goes to the engine as it is."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | Elements[dict[str, Any]] | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = False


def includes_usage(options: StreamOptions | None) -> bool:
    """Whether a stream is to end with its usage."""
    return options is not None and bool(options.include_usage)


class ChatBody(BaseModel):
    """`POST /v1/chat/completions`; what is not named here goes to the engine as it is."""

    model_config = ConfigDict(extra="allow")

    # What both doors refuse alike (an empty model, no messages, too much metadata) is admission's.
    model: str = Field(
        default="", description='"auto", "path:NAME", an adapter\'s alias ("triage@prod"), or a model\'s name'
    )
    messages: Elements[MessageBody] = Field(default=[])
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stop: str | Elements[str] | None = None
    user: str | None = None
    metadata: Entries[str] | None = None

    def to_request(
        self, deadline: float, caller: Caller = ANONYMOUS, cache: str = USE, arrived: float = 0.0
    ) -> Request:
        """Raises InvalidArgument if a message holds something other than text, or there is too much of anything."""
        return to_request(self, deadline, caller, cache, arrived)


def to_request(body: ChatBody, deadline: float, caller: Caller, cache: str, arrived: float) -> Request:
    """Raises InvalidArgument if a message holds something other than text, or there is too much of anything."""
    extra = body.model_extra or NOTHING
    check_counts(body.messages, extra)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stop) > MAX_STOP_SEQUENCES:
        raise InvalidArgument(
            f"'stop' has {len(stop)} entries; at most {MAX_STOP_SEQUENCES}", code="bad_parameter", param="stop"
        )
    if extra:
        refuse_infinite(extra)
        extra = dict(extra)
    return Request(
        model=body.model,
        messages=tuple([_message(number, message) for number, message in enumerate(body.messages)]),
        sampling=Sampling(
            max_tokens=body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            seed=body.seed,
            stop=stop,
            extra=extra,
        ),
        metadata=body.metadata or {},
        user=body.user or "",
        deadline=deadline,
        caller=caller,
        cache=cache,
        arrived_at=arrived,
        as_a_whole=not body.stream,
    )


_decode_usual = msgspec.json.Decoder(strict_struct(ChatBody)).decode


def read_usual_chat(body: bytes) -> ChatBody | None:
    """In a fraction of the time that `read_chat` takes, if the body says nothing but what `ChatBody` names; else None,
    also if it is wrong. Content in parts is not read here, so that there is nothing to bound but the messages."""
    try:
        return cast(ChatBody, _decode_usual(body))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def read_chat(body: bytes) -> ChatBody:
    """Raises InvalidArgument."""
    try:
        return ChatBody.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] != "json_invalid" and first["loc"]:
            raise invalid_body(first) from error
    # Python's own decoder reads more than JSON, and describes better what is wrong.
    try:
        data = json.loads(body) if body else None
        refuse_half_characters(data)
        return ChatBody.model_validate(data)
    except ValidationError as error:
        raise invalid_body(error.errors()[0]) from error
    except RecursionError as error:
        raise InvalidArgument("the body is nested too deeply", code="bad_json") from error
    except ValueError as error:
        raise InvalidArgument(f"the body is not JSON: {error}", code="bad_json") from error


class RouteBody(WholeCharacters, ChatBody):
    """`POST /v1/route`: a chat request, and whether its prompt is wanted too."""

    include_prompt: bool = False
    stream: Literal[False] | None = False


def _message(number: int, body: MessageBody) -> Message:
    content = body.content
    if isinstance(content, list):
        content = "".join(_text(number, index, part) for index, part in enumerate(content))
    # OpenAI's newer name for it, which chat templates of open models do not know.
    role = "system" if body.role == "developer" else body.role
    if body.model_extra:
        refuse_infinite(body.model_extra, f"messages[{number}]")
    return Message(role, content or "", body.model_extra or NOTHING)


def _text(number: int, index: int, part: dict[str, Any]) -> str:
    """Of a text; of a refusal, which a model's earlier answer may hold."""
    kind = part.get("type")
    text = part.get(kind) if kind in ("text", "refusal") else None
    if not isinstance(text, str):
        where = f"messages[{number}].content[{index}]"
        raise InvalidArgument(
            f'{where} has type {str(kind)[:50]!r}; known: "text" with a "text", "refusal" with a "refusal"',
            code="unsupported_content",
            param=where,
        )
    return text
