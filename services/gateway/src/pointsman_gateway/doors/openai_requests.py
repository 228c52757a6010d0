"""OpenAI's request bodies, decoded."""

import json
from typing import Any, Literal

from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pointsman_gateway.domain import ANONYMOUS, Caller, Message, Request, Sampling
from pointsman_gateway.doors.bounded_fields import Elements, Entries
from pointsman_gateway.doors.cache_control import USE
from pointsman_gateway.doors.finite_numbers import refuse_infinite
from pointsman_gateway.doors.half_characters import WholeCharacters, refuse_half_characters
from pointsman_gateway.doors.http_errors import invalid_body
from pointsman_gateway.doors.limits import check_counts

NOTHING: dict[str, Any] = {}


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
    max_tokens: int | None = Field(default=None, ge=1, lt=2**63)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**63)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | Elements[str] | None = None
    user: str | None = None
    metadata: Entries[str] | None = None

    def to_request(
        self, deadline: float, caller: Caller = ANONYMOUS, cache: str = USE, arrived: float = 0.0
    ) -> Request:
        """Raises InvalidArgument where a message holds something other than text, or there is too much of anything."""
        check_counts(self.messages, self.model_extra or NOTHING)
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stop) > 4:
            raise InvalidArgument(f"'stop' has {len(stop)} entries; at most 4", code="bad_parameter", param="stop")
        return Request(
            model=self.model,
            messages=tuple([_message(number, body) for number, body in enumerate(self.messages)]),
            sampling=Sampling(
                max_tokens=self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed,
                stop=stop,
                extra=self._extra(),
            ),
            metadata=self.metadata or {},
            user=self.user or "",
            deadline=deadline,
            caller=caller,
            cache=cache,
            arrived_at=arrived,
        )

    def _extra(self) -> dict[str, Any]:
        if not self.model_extra:
            return {}
        refuse_infinite(self.model_extra)
        return dict(self.model_extra)


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
