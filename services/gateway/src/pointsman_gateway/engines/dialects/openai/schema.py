"""The events of OpenAI-compatible streams: how they are decoded, and how variants are converted to OpenAI's format.

Some engines write tool calls or content parts in another format; `DeltaNormalizer` converts these.
"""

import json
import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Annotated, Any, Literal

import msgspec

MAX_EVENT_DEPTH = 64
"""Maximum number of levels of objects and lists within each other in an event."""
MAX_FLAT_BYTES = 512
"""Maximum length of events whose depth is not checked, because they are too short to be deep."""
BRACKETS_PER_EVENT = 8
"""Number of objects and lists that `is_deep` expects in an ordinary event."""

_BEGINNING_BYTES = 64 * 1024
_LEVELS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Maps each bracket to what it adds to the depth: 1 or -1, as a signed byte."""
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""The exceptions that decoding an engine's JSON can raise."""

MAX_MESSAGE_CHARACTERS = 500
"""Maximum number of characters that are taken as the error message from a response body in no known format."""

_TEXT_FIELDS = frozenset({"reasoning", "reasoning_content", "refusal"})
"""Fields of a delta that are texts, in addition to its content."""


class PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: Count | None = None
    cache_write_tokens: Any = None
    """Number of tokens written to the prompt cache, in the usage of OpenAI and OpenRouter."""
    cache_creation_tokens: Any = None
    """Number of tokens written to the prompt cache, in the usage of LiteLLM's SDK. The SDK also sends
    `cache_creation_token_details`, with a count for each time that the tokens are kept."""
    cache_creation_token_details: Any = None
    cache_creation_input_tokens: Any = None
    """Number of tokens written to the prompt cache, in the usage of Alibaba Cloud. It also sends `cache_creation`, with
    a count for each time that the tokens are kept."""
    cache_creation: Any = None
    audio_tokens: Any = None
    image_tokens: Any = None
    web_search_requests: Any = None
    """Number of web searches that the provider has made, in the usage of LiteLLM's SDK."""


class UsageFields(msgspec.Struct, gc=False):
    """The token counts that an engine reports, in the `usage` of an event.

    In fields of type `Any`, values of a wrong type are treated as missing.
    """

    prompt_tokens: Count
    completion_tokens: Count | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: Any = None
    total_tokens: Any = None
    prompt_cache_hit_tokens: Any = None
    """Number of prompt tokens read from the prompt cache, in DeepSeek's usage."""
    cached_tokens: Any = None
    """Number of prompt tokens read from the prompt cache, in Moonshot's usage."""
    cache_creation_input_tokens: Any = None
    """Number of tokens written to the prompt cache, in the usage of LiteLLM's proxy for Anthropic's models.
    `prompt_tokens` includes these tokens."""
    server_tool_use: Any = None
    """Counts of the tools that the provider ran, such as web searches, in OpenRouter's usage; in Anthropic's format."""
    num_sources_used: Any = None
    """Number of sources that xAI's search has used, in xAI's usage; xAI bills each source."""
    num_search_queries: Any = None
    """Number of web searches, in Perplexity's usage."""


class Delta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: str | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct, gc=False):
    index: Count = 0
    delta: Delta | None = None
    text: str | None = None
    """The text of a text completion, which has no delta."""
    finish_reason: str | None = None
    logprobs: Any = None


class Event(msgspec.Struct, gc=False):
    """A stream's event whose deltas have only the fields `role` and `content`, as most events do."""

    choices: list[ChunkChoice] | None = None
    usage: UsageFields | None = None
    error: Any = None
    metrics: Any = None
    service_tier: Any = None


class AnyChoice(msgspec.Struct, gc=False):
    index: Count | None = 0
    delta: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class AnyEvent(msgspec.Struct, gc=False):
    """A stream's event whose deltas may have any fields, such as tool calls."""

    choices: list[AnyChoice] | None = None
    usage: UsageFields | None = None
    error: Any = None
    metrics: Any = None
    service_tier: Any = None


class _TextDelta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: str | None = None
    content: str = ""


class _TextChoice(msgspec.Struct, gc=False):
    delta: _TextDelta
    index: Literal[0] = 0
    finish_reason: None = None
    logprobs: None = None


class _TextEvent(msgspec.Struct, gc=False):
    """An event that decodes only if it holds a text and nothing else."""

    choices: Annotated[list[_TextChoice], msgspec.Meta(min_length=1, max_length=1)]
    usage: None = None
    error: None = None


decode_event = msgspec.json.Decoder(Event).decode
decode_events = msgspec.json.Decoder(list[Event]).decode
decode_texts = msgspec.json.Decoder(list[_TextEvent]).decode
decode_any_event = msgspec.json.Decoder(AnyEvent).decode


class EngineError(msgspec.Struct, frozen=True):
    """The error that an engine describes in the body of its response: message, parameter, code, and time to wait."""

    message: str
    param: str | None = None
    code: str = ""
    retry_after: float | None = None
    """Seconds after which the engine may be called again; None if it states none."""


def parse_error(body: bytes) -> EngineError:
    """Returns the error in the body of an engine's response.

    Reads OpenAI's format, Google's (in a list, with details), and a format without an `error` object around the
    message. The message for an HTML page says that the body is HTML. A body in another format becomes the message, cut
    to `MAX_MESSAGE_CHARACTERS`.
    """
    shown = body[:MAX_MESSAGE_CHARACTERS].decode("utf-8", "replace")
    if shown.lstrip().startswith("<"):
        return EngineError(f"an HTML page, which begins {shown.strip()[:60]!r}; is its url that of an API?")
    try:
        data = msgspec.json.decode(body)
    except UNREADABLE:
        return EngineError(shown)
    data = data[0] if isinstance(data, list) and data else data
    error = data.get("error", data) if isinstance(data, dict) else None
    if isinstance(error, str):
        return EngineError(error[:MAX_MESSAGE_CHARACTERS])
    if not isinstance(error, dict) or "message" not in error:
        return EngineError(shown)
    message, param, code = error["message"], error.get("param"), error.get("code")
    if not isinstance(message, str):
        message = json.dumps(message)[:MAX_MESSAGE_CHARACTERS]
    details = error.get("details")
    details = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    code = next((one["reason"] for one in details if isinstance(one.get("reason"), str)), code)
    delay = next((str(one["retryDelay"]) for one in details if "retryDelay" in one), "")
    return EngineError(
        message,
        param if isinstance(param, str) else None,
        code if isinstance(code, str) else "",
        float(delay[:-1]) if re.fullmatch(r"\d{1,6}(\.\d{1,9})?s", delay) else None,
    )


class UnreadableDelta(ValueError):
    """Raised for a delta of a stream that cannot be converted to OpenAI's format."""


class _Alternative(msgspec.Struct, gc=False):
    token: str
    logprob: float | None = None
    bytes: list[int] | None = None


class _Token(_Alternative, gc=False):
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[_Token] | None = None


def are_logprobs(value: Any) -> bool:
    """Returns whether `value` has the format of log-probabilities in OpenAI's chat completions."""
    if not isinstance(value, dict):
        return False
    try:
        msgspec.convert(value, _Logprobs)
    except msgspec.MsgspecError:
        return False
    return True


class DeltaNormalizer:
    """Converts the deltas of one stream to OpenAI's format, if their content or tool calls are in another format."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[int, str]] = {}
        """By choice, the number and id of the last tool call that had no `index`."""

    def normalize(self, choice: int, delta: Mapping[str, Any]) -> tuple[str, dict[str, Any], bool]:
        """Returns a tuple: the delta's text, its other fields in OpenAI's format, and whether nothing had to be
        converted.

        The role and null fields are left out. `choice` is the index of the delta's choice. Of content in parts, only
        the texts are kept. A tool call without `index` gets the next number if it has a new id, or no id but a name;
        otherwise the number of the call before it. Raises UnreadableDelta if a field has a type that cannot be
        converted.
        """
        content = delta.get("content")
        text = _text(content)
        rest = {key: value for key, value in delta.items() if key not in ("role", "content") and value is not None}
        for name in _TEXT_FIELDS & rest.keys():
            if not isinstance(rest[name], str):
                raise UnreadableDelta(f"{name} is no text")
        is_unchanged = content is None or text is content
        if "tool_calls" in rest:
            calls = rest.pop("tool_calls")
            normalized = self._normalize_calls(choice, calls if isinstance(calls, list) else [calls])
            is_unchanged = is_unchanged and normalized == calls
            if normalized:
                rest["tool_calls"] = normalized
        if "function_call" in rest:
            call = rest["function_call"]
            rest["function_call"] = _normalize_function(call)
            is_unchanged = is_unchanged and rest["function_call"] == call
        return text, rest, is_unchanged

    def _normalize_calls(self, choice: int, calls: list[Any]) -> list[dict[str, Any]]:
        return [self._normalize_call(choice, call) for call in calls]

    def _normalize_call(self, choice: int, call: Any) -> dict[str, Any]:
        if not isinstance(call, dict):
            raise UnreadableDelta("a tool call is no object")
        normalized = dict(call)
        if call.get("function") is not None:
            normalized["function"] = _normalize_function(call["function"])
        if isinstance(call.get("id"), int):
            normalized["id"] = str(call["id"])
        elif not isinstance(call.get("id"), str | None):
            raise UnreadableDelta("a tool call's id is no text")
        number = call.get("index")
        if number is None:
            normalized["index"] = self._number(choice, normalized)
        elif type(number) is not int or number < 0:
            raise UnreadableDelta("a tool call's index is no number from 0")
        return normalized

    def _number(self, choice: int, call: Mapping[str, Any]) -> int:
        number, last_id = self._calls.get(choice, (-1, ""))
        call_id = call.get("id") or ""
        is_new = call_id != last_id if call_id else bool((call.get("function") or {}).get("name"))
        if is_new or number < 0:
            number, last_id = number + 1, call_id
        self._calls[choice] = number, last_id
        return number


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise UnreadableDelta("content is neither text nor parts")
    parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type", "text") == "text"]
    return "".join([text for text in parts if isinstance(text, str)])


def _normalize_function(function: Any) -> dict[str, Any]:
    if not isinstance(function, dict):
        raise UnreadableDelta("a called function is no object")
    normalized, arguments = dict(function), function.get("arguments")
    if isinstance(arguments, dict | list):
        normalized["arguments"] = json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)
    if not all(isinstance(normalized.get(key), str | None) for key in ("name", "arguments")):
        raise UnreadableDelta("a called function's name and arguments are no texts")
    return normalized


def is_deep(data: bytes, events: int) -> bool:
    """Returns whether an event in `data`, a JSON list of `events` events, is nested in more than `MAX_EVENT_DEPTH`
    levels.

    Takes linear time. If `data` has at most `BRACKETS_PER_EVENT` objects and lists per event, plus `MAX_EVENT_DEPTH`
    in all, returns False without looking closer.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_EVENT_DEPTH + BRACKETS_PER_EVENT * events:
        return False
    levels = MAX_EVENT_DEPTH + 1  # the events are in a list
    # The beginning is checked first, since most events that are too deep are so from there.
    return any(_depth(part) > levels for part in (data[:_BEGINNING_BYTES], data))


def _depth(data: bytes) -> int:
    """Returns the number of levels of objects and lists in JSON, which may be incomplete at its end."""
    outside_strings = data.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]
    steps = b"".join(outside_strings).translate(_LEVELS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0)
