"""Anthropic's Messages API: its bodies, their conversion to `Request`, and the endpoint that counts tokens."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import fastapi
import msgspec
from fastapi.responses import JSONResponse
from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from pointsman_gateway.codec.headers import CACHE_USE
from pointsman_gateway.codec.limits import check_counts
from pointsman_gateway.codec.media import media_of
from pointsman_gateway.codec.uncommon_fields import ANTHROPIC_TOOLS, NOTHING
from pointsman_gateway.config.field_types import MAX_MESSAGES_STOP_SEQUENCES, MaxTokens, Temperature, TopP
from pointsman_gateway.domain import ANONYMOUS, Caller, Message, Request, Sampling
from pointsman_gateway.domain.request import NO_MEDIA, GivenField
from pointsman_gateway.http.dependencies import (
    HAS_RECEIPT,
    caller_of_request,
    deadline_of_request,
    dependencies_of,
    respond,
)
from pointsman_gateway.http.dialect import Dialect, DirectReading, MeteredRoute
from pointsman_gateway.http.dialects.anthropic.conversion import (
    to_chat_choice,
    to_functions,
    to_messages,
    to_response_format,
)
from pointsman_gateway.http.dialects.anthropic.errors import ANTHROPIC_ERRORS, THREAD_UNSUPPORTED
from pointsman_gateway.http.dialects.anthropic.given_fields import of_contents, of_tools
from pointsman_gateway.http.dialects.anthropic.message_encoder import MessageEncoder
from pointsman_gateway.http.dialects.anthropic.models import ANTHROPIC_MODELS
from pointsman_gateway.http.dialects.anthropic.native import NATIVE_FIELDS, is_run_by_client, to_native
from pointsman_gateway.http.encoding import AnswerEncoder
from pointsman_gateway.http.fields import (
    FailFastDict,
    FailFastList,
    TextOrList,
    bad_parameter,
    decode_body,
    strict_struct,
)
from pointsman_gateway.pipeline.request_checks import MAX_USER_CHARACTERS

PATH = "/v1/messages"
IGNORED_FIELDS = frozenset(
    {"betas", "billing_policy", "cache_control", "context_management", "diagnostics", "fallback_credit_token",
     "fallbacks", "inference_geo", "service_tier", "speed", "user_profile_id", "workspace_id"}
)  # fmt: skip
"""Fields that are accepted, but not sent to engines with another API than Anthropic's. Of these fields, engines with
Anthropic's API get those in `NATIVE_FIELDS`."""
REJECTED_FIELDS = {
    "compaction": "the gateway compacts no conversations; ask for a summary in a message",
    "container": "the gateway runs no code",
    "mcp_servers": "the gateway calls no tools; let the client call the server, and send its tools as 'tools'",
}
"""Fields that are rejected unless they are empty. The values are the texts of the errors, which say why the field is
rejected, or what to do instead."""
THREAD = "thread"
"""Anthropic's field for a conversation that the server stores, so that clients send only new messages. The gateway
rejects it with the code `THREAD_UNSUPPORTED`; clients then send the whole conversation without the field."""
NOT_SENT = IGNORED_FIELDS | REJECTED_FIELDS.keys() | {THREAD}
BETA_HEADER = b"anthropic-beta"
_NO_FIELDS: Mapping[str, Any] = {}


class MessageParam(BaseModel):
    role: Literal["user", "assistant", "system"]
    content: TextOrList[dict[str, Any]]


class MessagesBody(BaseModel):
    """The body of `POST /v1/messages`. Undeclared fields are sent on if the engine accepts them; a few are ignored
    or rejected.
    """

    model_config = ConfigDict(extra="allow")

    model: str = Field(default="", description='"auto", "path:NAME", an adapter\'s alias, or a model\'s name')
    max_tokens: MaxTokens | None = None
    messages: FailFastList[MessageParam] = Field(default=[])
    system: TextOrList[dict[str, Any]] | None = None
    stream: bool | None = False
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    stop_sequences: FailFastList[str] | None = Field(default=None, description="null: the path's; []: none")
    metadata: FailFastDict[str | None] | None = Field(
        default=None, description="`user_id` is the user; rules may use other entries"
    )
    tools: FailFastList[dict[str, Any]] | None = Field(
        default=None, description="functions; those that Anthropic runs itself are left out"
    )
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = Field(
        default=None, description="for engines with Anthropic's API; other models think as they are set up to"
    )
    output_config: dict[str, Any] | None = Field(default=None, description="`format` and `effort`")
    output_format: dict[str, Any] | None = Field(default=None, description="the older name of `output_config.format`")

    def to_request(
        self, deadline: float, caller: Caller = ANONYMOUS, cache: str = CACHE_USE, arrived: float = 0.0
    ) -> Request:
        """Converts the body to a `Request`.

        `deadline` is in seconds on the event loop's clock, `arrived` in seconds of `perf_counter` (0 if unknown), and
        `cache` a result of `cache_mode`. Raises InvalidArgument if the body has no `max_tokens` or no messages, exceeds
        a limit, or has content or a field that is invalid or not supported.
        """
        return to_request(self, deadline, caller, cache, arrived)

    def encoder(self) -> AnswerEncoder:
        return MessageEncoder(self.stop_sequences or ())

    def read_headers(self, headers: Mapping[bytes, bytes]) -> None:
        """Adds the beta features in the `anthropic-beta` header, which SDKs send, to the body's `betas`.

        `headers` are by lower-case name. Does not check `betas`; `to_request` does.
        """
        header = headers.get(BETA_HEADER, b"").decode("latin-1")
        named = dict.fromkeys(name.strip() for name in header.split(",") if name.strip())
        if named and self.model_extra is not None:
            sent = self.model_extra.get("betas") or []
            if isinstance(sent, list):
                known = {name for name in sent if isinstance(name, str)}
                self.model_extra["betas"] = [*sent, *(name for name in named if name not in known)]


class CountTokensBody(MessagesBody):
    """The body of `POST /v1/messages/count_tokens`: a conversation whose tokens are counted."""

    max_tokens: MaxTokens | None = 1
    stream: Literal[False] | None = False


_decode_plain = msgspec.json.Decoder(strict_struct(MessagesBody)).decode


def read_plain_message(
    body: bytes, deadline: float, caller: Caller, cache: str, arrived: float
) -> tuple[Request, AnswerEncoder] | None:
    """Decodes a simple Messages API body, several times faster than `decode_body`; returns the request and the
    encoder of its answer.

    Returns None if the body is invalid, has a field that is not declared, or holds objects, in a message's content
    or in a field such as `tools` (only `metadata` may be one). `deadline` is in seconds on the event loop's clock,
    `arrived` in seconds of `perf_counter`, and `cache` a result of `cache_mode`. Raises InvalidArgument if
    `max_tokens` or messages are missing, a limit is exceeded, or a value is not supported.
    """
    try:
        message: MessagesBody = _decode_plain(body)  # type: ignore[assignment]  # a struct with the same fields
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return to_request(message, deadline, caller, cache, arrived), MessageEncoder(message.stop_sequences or ())


def to_request(body: MessagesBody, deadline: float, caller: Caller, cache: str, arrived: float) -> Request:
    """Converts a Messages API body to a `Request`; the arguments and errors are the same as of
    `MessagesBody.to_request`.
    """
    if body.max_tokens is None:
        raise bad_parameter("'max_tokens' is missing; send the answer's maximum number of tokens", "max_tokens")
    if not body.messages:
        raise InvalidArgument("'messages' is empty; send at least one", code="empty_messages", param="messages")
    check_counts(body.messages, {"tools": body.tools} if body.tools else _NO_FIELDS)
    messages: list[Message] = []
    system = body.system
    if system:
        messages += [Message("system", system)] if isinstance(system, str) else to_messages("system", system, "system")
    for number, message in enumerate(body.messages):
        content = message.content
        if isinstance(content, str):
            messages.append(Message(message.role, content))
        else:
            messages += to_messages(message.role, content, f"messages[{number}].content")
    last = messages[-1]
    continues = last.role == "assistant" and not last.extra
    is_plain = body.model_extra is None and body.top_k is None and not continues
    native = None
    if body.model_extra is not None:
        native = to_native(body.model_extra, body.thinking, body.output_config or _NO_FIELDS, body.tools or ())
    user, metadata = _split_metadata(body.metadata) if body.metadata else ("", _NO_FIELDS)
    return Request(
        model=body.model,
        messages=tuple(messages),
        sampling=Sampling(
            max_tokens=body.max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            stop=None if body.stop_sequences is None else _stop_sequences(body.stop_sequences),
            extra=_NO_FIELDS if is_plain else _to_fields(body, continues),
            anthropic=native,
        ),
        metadata=metadata,
        user=user,
        deadline=deadline,
        caller=caller,
        cache=cache,
        arrived_at=arrived,
        as_a_whole=not body.stream,
        is_collected=True,
        media=NO_MEDIA if body.model_extra is None else media_of(messages),
        uncommon=NOTHING if body.model_extra is None else _uncommon(body, body.model_extra),
    )


def _uncommon(body: MessagesBody, extra: Mapping[str, Any]) -> frozenset[GivenField]:
    """Returns the fields of the body that are not sent to every engine; `extra` are its undeclared fields."""
    found = {("", name) for name in IGNORED_FIELDS - NATIVE_FIELDS if extra.get(name)}
    found.update(of_contents([body.system, *[message.content for message in body.messages]]))
    found.update(of_tools(body.tools or (), body.tool_choice))
    if any(not is_run_by_client(tool) for tool in body.tools or ()):
        found.add(("", ANTHROPIC_TOOLS))
    return frozenset(found)


def _stop_sequences(stop: Sequence[str]) -> tuple[str, ...]:
    if len(stop) > MAX_MESSAGES_STOP_SEQUENCES:
        message = f"'stop_sequences' has {len(stop)} entries; at most {MAX_MESSAGES_STOP_SEQUENCES}"
        raise bad_parameter(message, "stop_sequences")
    return tuple(stop)


def _split_metadata(metadata: Mapping[str, str | None]) -> tuple[str, Mapping[str, str]]:
    """Returns the user's id ("" if there is none), and the other entries that are not null, for routing rules.

    Raises InvalidArgument if the id is longer than `MAX_USER_CHARACTERS`.
    """
    user = metadata.get("user_id") or ""
    if len(user) > MAX_USER_CHARACTERS:
        raise bad_parameter(f"'metadata.user_id' may have at most {MAX_USER_CHARACTERS} characters", "metadata.user_id")
    return user, {name: value for name, value in metadata.items() if name != "user_id" and value is not None}


def _to_fields(body: MessagesBody, continues: bool) -> Mapping[str, Any]:
    """Returns the fields for engines, by their names in chat completions: the converted ones, and all undeclared ones
    that are not in `NOT_SENT`. `continues` says that the answer continues the last message, which is the assistant's.

    Raises InvalidArgument for a rejected field, an `n` other than 1, or invalid tools, tool choice or output format.
    """
    extra = body.model_extra or _NO_FIELDS
    if extra.get(THREAD):
        message = f"'{THREAD}': no conversation is kept; send all messages, without this field"
        raise InvalidArgument(message, code=THREAD_UNSUPPORTED, param=THREAD)
    for name, advice in REJECTED_FIELDS.items():
        if extra.get(name):
            raise InvalidArgument(f"'{name}': {advice}", code="unsupported_parameter", param=name)
    if extra.get("n") not in (None, 1):
        raise bad_parameter("'n' is not supported: a message is one answer", "n")
    tools, output = to_functions(body.tools or ()), body.output_config or _NO_FIELDS
    choice = body.tool_choice or _NO_FIELDS
    fields = {
        "top_k": body.top_k,
        "tools": tools or None,
        "tool_choice": to_chat_choice(choice, tools) if choice else None,
        "parallel_tool_calls": False if choice.get("disable_parallel_tool_use") and tools else None,
        "response_format": to_response_format(output.get("format") or body.output_format),
        "reasoning_effort": output.get("effort"),
        # The answer continues the assistant's message, as with Anthropic; these are vLLM's names.
        "continue_final_message": continues or None,
        "add_generation_prompt": False if continues else None,
    }
    own = {name: value for name, value in extra.items() if name not in NOT_SENT}
    return {**own, **{name: value for name, value in fields.items() if value is not None}}


async def create_message(body: MessagesBody, request: fastapi.Request) -> Response:
    """Answers one conversation in the format of Anthropic's Messages API."""
    # `ConversationRoute` handles these requests; FastAPI documents this function.
    return await respond(request, body.to_request(deadline_of_request(request)), body.encoder(), bool(body.stream))


async def count_tokens(body: CountTokensBody, request: fastapi.Request) -> Response:
    """Counts the tokens of the prompt that the request would have; nothing is generated or charged.

    The answer has `input_tokens`, and in `pointsman` the path and whether the count is "exact" or an "estimate".
    """
    pipeline = dependencies_of(request).pipeline
    decoded = body.to_request(deadline_of_request(request), caller_of_request(request))
    request.scope[HAS_RECEIPT] = True
    routed = await pipeline.decide(decoded, with_prompt=True)
    count, is_exact = await pipeline.count_tokens(decoded, routed)
    details = {"path": routed.decision.path.name, "count": "exact" if is_exact else "estimate"}
    return JSONResponse({"input_tokens": count, "pointsman": details})


MESSAGES = Dialect(
    path=PATH,
    handler=create_message,
    error_format=ANTHROPIC_ERRORS,
    further=(MeteredRoute(path=f"{PATH}/count_tokens", handler=count_tokens, operation="route"),),
    direct=DirectReading(
        decode=partial(decode_body, MessagesBody),
        read_plain=read_plain_message,
        queries=("?beta=true",),
        rare_headers=frozenset({BETA_HEADER}),
    ),
    models=ANTHROPIC_MODELS,
)
