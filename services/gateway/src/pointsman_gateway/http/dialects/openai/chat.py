"""`POST /v1/chat/completions`: converts the body of a chat request to a `Request`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import fastapi
import msgspec
from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from pointsman_gateway.codec.headers import CACHE_USE
from pointsman_gateway.codec.limits import check_counts
from pointsman_gateway.codec.media import MEDIA_PARTS, media_of
from pointsman_gateway.codec.parts import read_parts
from pointsman_gateway.codec.uncommon_fields import NOTHING, of_chat
from pointsman_gateway.config.field_types import MAX_STOP_SEQUENCES, MaxTokens, Seed, Temperature, TopP
from pointsman_gateway.config.providers import MESSAGE_FIELDS, request_fields
from pointsman_gateway.domain import ANONYMOUS, Caller, Message, Request, Sampling
from pointsman_gateway.domain.blocks import Blocks
from pointsman_gateway.domain.request import NO_MEDIA, GivenField
from pointsman_gateway.http.dependencies import deadline_of_request, respond
from pointsman_gateway.http.dialect import Dialect, DirectReading
from pointsman_gateway.http.dialects.openai.cache_control import blocks_of
from pointsman_gateway.http.dialects.openai.chat_encoder import ChatEncoder
from pointsman_gateway.http.dialects.openai.errors import OPENAI_ERRORS
from pointsman_gateway.http.dialects.openai.models import OPENAI_MODELS
from pointsman_gateway.http.encoding import AnswerEncoder
from pointsman_gateway.http.fields import (
    FailFastDict,
    FailFastList,
    StopSequences,
    TextOrList,
    decode_body,
    invalid_field,
    strict_struct,
)

_NO_FIELDS: Mapping[str, Any] = {}


class MessageBody(BaseModel):
    """One message of a chat. Undeclared fields, such as "tool_calls", go to the engine if it accepts them."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: TextOrList[dict[str, Any]] | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = False


class ChatBody(BaseModel):
    """The body of `POST /v1/chat/completions`. Undeclared fields are sent on if the engine accepts them."""

    model_config = ConfigDict(extra="allow")

    # Admission rejects what HTTP and gRPC reject alike: an empty model, no messages, too much metadata.
    model: str = Field(
        default="", description='"auto", "path:NAME", an adapter\'s alias ("triage@prod"), or a model\'s name'
    )
    messages: FailFastList[MessageBody] = Field(default=[])
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stop: StopSequences | None = Field(default="", description='"": the path\'s; null or []: none')
    user: str | None = None
    metadata: FailFastDict[str] | None = None

    def to_request(
        self, deadline: float, caller: Caller = ANONYMOUS, cache: str = CACHE_USE, arrived: float = 0.0
    ) -> Request:
        """Converts the body to a `Request`.

        `deadline` is in seconds on the event loop's clock, `arrived` in seconds of `perf_counter` (0 if unknown), and
        `cache` a result of `cache_mode`. Raises InvalidArgument if content is invalid or unknown, or a limit is
        exceeded.
        """
        return to_request(self, deadline, caller, cache, arrived)

    def encoder(self) -> AnswerEncoder:
        return ChatEncoder(includes_usage(self.stream_options))

    def read_headers(self, headers: Mapping[bytes, bytes]) -> None:
        """Reads nothing: chat completions have no headers of their own."""


class RouteBody(ChatBody):
    """The body of `POST /v1/route`: a chat request, and whether the answer should include the prompt."""

    include_prompt: bool = False
    stream: Literal[False] | None = False


_decode_plain = msgspec.json.Decoder(strict_struct(ChatBody)).decode


def read_plain_chat(
    body: bytes, deadline: float, caller: Caller, cache: str, arrived: float
) -> tuple[Request, AnswerEncoder] | None:
    """Decodes a simple chat body, several times faster than `decode_body`; returns the request and the encoder of
    its answer.

    Returns None if the body is invalid, has a field that is not declared, or has a message whose content is a list.
    `deadline` is in seconds on the event loop's clock, `arrived` in seconds of `perf_counter`, and `cache` a result
    of `cache_mode`. Raises InvalidArgument if a limit is exceeded or a value is not supported.
    """
    try:
        chat: ChatBody = _decode_plain(body)  # type: ignore[assignment]  # a struct with the same fields
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    options = chat.stream_options
    return (
        to_request(chat, deadline, caller, cache, arrived),
        ChatEncoder(options is not None and bool(options.include_usage)),
    )


def to_request(body: ChatBody, deadline: float, caller: Caller, cache: str, arrived: float) -> Request:
    """Converts a chat body to a `Request`; the arguments and errors are those of `ChatBody.to_request`."""
    extra = body.model_extra or _NO_FIELDS
    check_counts(body.messages, extra)
    stop = _stop_sequences(body.stop)
    if stop is not None and len(stop) > MAX_STOP_SEQUENCES:
        raise InvalidArgument(
            f"'stop' has {len(stop)} entries; at most {MAX_STOP_SEQUENCES}", code="bad_parameter", param="stop"
        )
    if extra:
        extra = dict(extra)
    messages = tuple([_message(number, message) for number, message in enumerate(body.messages)])
    return Request(
        model=body.model,
        messages=messages,
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
        media=NO_MEDIA if body.model_extra is None else media_of(messages),
        uncommon=NOTHING if body.model_extra is None else of_chat(body.messages, extra, body.stream_options),
    )


def as_chat_request(fields: Mapping[str, Any], deadline: float, uncommon: frozenset[GivenField] = NOTHING) -> Request:
    """Converts the body of another endpoint to a `Request`. `fields` are the body's fields, already in the format
    of chat completions.

    `deadline` is in seconds on the event loop's clock. `uncommon` are fields of the endpoint's own body that not
    every engine accepts; those found in `fields` are added. Raises InvalidArgument if content is invalid or unknown,
    or a limit is exceeded.
    """
    try:
        body = ChatBody.model_validate(fields)
    except ValidationError as error:  # in a field that the endpoint does not declare itself
        raise invalid_field(error.errors()[0]) from error
    request = body.to_request(deadline)
    return replace(request, uncommon=request.uncommon | uncommon) if uncommon else request


def includes_usage(options: StreamOptions | None) -> bool:
    return options is not None and bool(options.include_usage)


def _stop_sequences(stop: str | list[str] | None) -> tuple[str, ...] | None:
    """Returns the request's stop sequences, which may be none; None for "", with which the path's stop
    sequences apply.
    """
    if isinstance(stop, str):
        return (stop,) if stop else None
    return tuple(stop or ())


def _message(number: int, body: MessageBody) -> Message:
    # "developer" is OpenAI's newer name of this role, which chat templates of open models do not know.
    role = "system" if body.role == "developer" else body.role
    content, fields = body.content, body.model_extra
    if isinstance(content, str) and not fields:
        return Message(role, content, _NO_FIELDS)
    extra, parts, where = _NO_FIELDS, None, f"messages[{number}]"
    if fields:
        extra = request_fields(MESSAGE_FIELDS).select(fields, f"{where}.")
    if isinstance(content, list):
        parts = content
        content, media = read_parts(role, parts, f"{where}.content")
        extra = {**extra, **media}
    blocks = _cache_blocks(role, parts, content or "", fields or _NO_FIELDS, where)
    return Message(role, content or "", extra, blocks)


def _cache_blocks(
    role: str, parts: Sequence[Mapping[str, Any]] | None, text: str, fields: Mapping[str, Any], where: str
) -> Blocks:
    own = fields.get("cache_control")
    if own is None and not any("cache_control" in part for part in parts or ()):
        return ()
    texts = [None if part["type"] in MEDIA_PARTS else part[part["type"]] for part in parts or ()]
    calls = fields.get("tool_calls")
    count = (len(calls) if isinstance(calls, list) else 0) + isinstance(fields.get("function_call"), Mapping)
    return blocks_of(role, parts, texts=texts, text=text, calls=count, of_message=own, where=where)


async def chat(body: ChatBody, request: fastapi.Request) -> Response:
    """Answers one conversation."""
    # `ConversationRoute` handles these requests; FastAPI documents this function.
    return await respond(request, body.to_request(deadline_of_request(request)), body.encoder(), bool(body.stream))


CHAT = Dialect(
    path="/v1/chat/completions",
    handler=chat,
    error_format=OPENAI_ERRORS,
    direct=DirectReading(decode=partial(decode_body, ChatBody), read_plain=read_plain_chat),
    models=OPENAI_MODELS,
)
