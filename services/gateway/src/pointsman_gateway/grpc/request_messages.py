"""Converts request messages of the gateway's gRPC API to domain types."""

import base64
from collections.abc import Mapping
from typing import Any

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from pointsman.v1 import gateway_pb2 as pb
from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.codec.json_body import decode_json
from pointsman_gateway.codec.limits import LIMITS, check_body
from pointsman_gateway.codec.media import MEDIA, Part, is_media_url, may_have_media, media_of, to_media_part
from pointsman_gateway.codec.parts import text_of
from pointsman_gateway.codec.uncommon_fields import of_message, of_parameters
from pointsman_gateway.config.field_types import MAX_STOP_SEQUENCES, MAX_TEMPERATURE, SMALLEST_TOP_P
from pointsman_gateway.config.providers import MESSAGE_FIELDS, request_fields
from pointsman_gateway.domain import Caller, Feedback, Message, Request, Sampling
from pointsman_gateway.domain.request import NO_MEDIA, GivenField

RESERVED_NAMES = frozenset(
    {"model", "messages", "user", "metadata", "stream", "stream_options"}
    | {"max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"}
)
"""Names that `extra_json` must not contain: the contract has a field for them, or the gateway sets them."""

RESERVED_MESSAGE_NAMES = frozenset({"role", "content", "name"})
"""Names that the `extra_json` of a message must not contain, because the message has fields for them."""

AUDIO_FORMATS = {"audio/mpeg": "mp3", "audio/x-wav": "wav", "audio/wave": "wav"}
"""OpenAI's name of an audio format by media type. For other media types, the name is the part after the slash."""

_DEFAULT_SAMPLING = Sampling()
_NO_FIELDS: Mapping[str, Any] = {}


def to_request(
    request: pb.GenerateRequest | pb.RouteRequest,
    deadline: float,
    caller: Caller,
    cache: str,
    arrived: float,
    as_a_whole: bool,
) -> Request:
    """Converts a gRPC message to a `Request`, the form in which the pipeline runs requests of all APIs.

    `deadline` is in seconds on the event loop's clock, and `arrived` in seconds of `perf_counter`. `cache` says how
    the request uses the answer cache (a result of `cache_mode`), and `as_a_whole` that the answer is not streamed.
    Raises InvalidArgument for an invalid value, content part or `extra_json`, and for more than
    `BodyLimits.max_parts` parts.
    """
    found: set[GivenField] = set()
    messages, media = _messages(request.messages, found)
    sampling = _sampling(request.sampling) if request.HasField("sampling") else _DEFAULT_SAMPLING
    if sampling.extra:
        found.update(of_parameters(sampling.extra))
    return Request(
        model=request.model,
        messages=messages,
        sampling=sampling,
        metadata=dict(request.metadata),
        user=request.user,
        deadline=deadline,
        caller=caller,
        cache=cache,
        arrived_at=arrived,
        media=media,
        uncommon=frozenset(found),
        as_a_whole=as_a_whole,
    )


def to_feedback(feedback: pb.FeedbackRequest, caller: Caller) -> Feedback:
    return Feedback(
        decision_id=feedback.decision_id,
        id=feedback.id,
        rating=_round_float32(feedback.rating) if feedback.HasField("rating") else None,
        correction=feedback.correction,
        right_task=feedback.right_task,
        right_answer=feedback.right_answer,
        tenant=caller.tenant,
    )


def _messages(
    messages: "RepeatedCompositeFieldContainer[pb.Message]", found: set[GivenField]
) -> tuple[tuple[Message, ...], frozenset[str]]:
    """Returns the messages, and the kinds of media in them (see `media_of`); adds to `found` the fields that not every
    engine gets.

    Raises InvalidArgument for too many or invalid content parts, or an invalid `extra_json`.
    """
    parts = [part for message in messages for part in message.parts]
    if len(parts) > LIMITS.max_parts:
        text = f"'messages' has {len(parts)} content parts; at most {LIMITS.max_parts}"
        raise InvalidArgument(text, code="too_many_messages", param="messages")
    # A list takes half the time of a generator.
    converted = [
        _message(number, m, found) if m.name or m.extra_json or m.parts else Message(m.role, m.content)
        for number, m in enumerate(messages)
    ]
    return tuple(converted), media_of(converted) if parts else NO_MEDIA


def _message(number: int, message: pb.Message, found: set[GivenField]) -> Message:
    extra = _message_extra(message, number, found) if message.name or message.extra_json else _NO_FIELDS
    if not message.parts:
        return Message(message.role, message.content, extra)
    where = f"messages[{number}]"
    if message.content:
        text = f"{where} has content and parts; send one of them"
        raise InvalidArgument(text, code="bad_parameter", param=f"{where}.parts")
    parts = [_part(message.role, part, f"{where}.parts[{n}]") for n, part in enumerate(message.parts)]
    has_media = any(part["type"] != "text" for part in parts)
    return Message(message.role, text_of(parts), {**extra, "content": parts} if has_media else extra)


def _part(role: str, part: pb.ContentPart, where: str) -> Part:
    """Returns a content part in the format of chat completions; `where` is its location in the request, for errors.

    Raises InvalidArgument for incomplete or unknown media, and for media in a message of another role than the user or
    a tool.
    """
    if part.HasField("text"):
        return {"type": "text", "text": part.text}
    media, problem = part.media, ""
    if media.kind not in MEDIA:
        problem = f"kind {media.kind[:50]!r}; known: {', '.join(MEDIA)}"
    elif not may_have_media(role):
        problem = f"media, which only messages of the user and of tools may have, not {role[:50]!r}"
    elif media.WhichOneof("source") is None:
        problem = "neither data nor url"
    elif media.data and not media.media_type:
        problem = "data without a media_type (image/png, audio/wav, ...)"
    elif media.url and not is_media_url(media.url):
        problem = "a url of another kind; urls begin with https:, http: or data:"
    if problem:
        raise InvalidArgument(f"{where} has {problem}", code="unsupported_content", param=where)
    data = base64.b64encode(media.data).decode()
    url = media.url or f"data:{media.media_type};base64,{data}"
    match media.kind:
        case "file":
            return to_media_part("file", {"filename": media.name or "document", "file_data": url}, where)
        case "audio" if data:
            form = AUDIO_FORMATS.get(media.media_type, media.media_type.rpartition("/")[2])
            return to_media_part("input_audio", {"data": data, "format": form}, where)
        case kind:
            return to_media_part(f"{kind}_url", {"url": url}, where)


def _message_extra(message: pb.Message, number: int, found: set[GivenField]) -> Mapping[str, Any]:
    """Returns the fields of a message besides role and content; adds those to `found` that not every engine gets.

    `number` is the message's index in the request. Raises InvalidArgument if its `extra_json` is invalid, or has a
    field that is not accepted.
    """
    where = f"messages[{number}]."
    parsed = _parse_extra_json(message.extra_json, RESERVED_MESSAGE_NAMES, f"{where}extra_json")
    extra = request_fields(MESSAGE_FIELDS).select(parsed, where)
    found.update(of_message(message.role, {**parsed, "name": message.name}))
    return {"name": message.name, **extra} if message.name else extra


def _sampling(sampling: pb.Sampling) -> Sampling:
    given: dict[str, Any] = {}
    if sampling.HasField("max_tokens"):
        given["max_tokens"] = _within("max_tokens", sampling.max_tokens, 1, 2**32 - 1)
    if sampling.HasField("temperature"):
        given["temperature"] = _within("temperature", _round_float32(sampling.temperature), 0, MAX_TEMPERATURE)
    if sampling.HasField("top_p"):
        given["top_p"] = _within("top_p", _round_float32(sampling.top_p), SMALLEST_TOP_P, 1)
    if sampling.HasField("seed"):
        given["seed"] = sampling.seed
    if len(sampling.stop) > MAX_STOP_SEQUENCES:
        message = f"'stop' has {len(sampling.stop)} entries; at most {MAX_STOP_SEQUENCES}"
        raise InvalidArgument(message, code="bad_parameter", param="stop")
    return Sampling(
        **given, stop=tuple(sampling.stop) or None, extra=_parse_extra_json(sampling.extra_json, RESERVED_NAMES)
    )


def _within(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        message = f"'{name}' is {value:g}; it must be from {least:g} to {most:.10g}"
        raise InvalidArgument(message, code="bad_parameter", param=name)
    return value


def _round_float32(number: float) -> float:
    """Rounds a 32-bit float to seven significant digits, so that 0.7 in a message equals 0.7 in the JSON of HTTP."""
    return float(f"{number:.7g}")


def _parse_extra_json(text: str, reserved: frozenset[str], where: str = "extra_json") -> dict[str, Any]:
    """Parses the JSON object of an `extra_json` field; returns {} for an empty text. `where` names the field in errors.

    Raises InvalidArgument if the text exceeds a limit (`check_body`), is no JSON object, or has a `reserved` name.
    """
    if not text:
        return {}
    body = text.encode()
    check_body(body, param=where)
    extra = decode_json(body, where)
    if not isinstance(extra, dict):
        raise InvalidArgument(f"'{where}' must be an object", code="bad_parameter", param=where)
    named = sorted(reserved & extra.keys())
    if named:
        message = f"'{where}' has '{named[0]}', for which the request has a field or a method of its own"
        raise InvalidArgument(message, code="bad_parameter", param=where)
    return extra
