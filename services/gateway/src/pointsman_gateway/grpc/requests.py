"""From the gRPC contract's requests to the gateway's nouns."""

import json
from typing import Any

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from pointsman.v1 import gateway_pb2 as pb
from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.config.field_types import MAX_STOP_SEQUENCES, MAX_TEMPERATURE, SMALLEST_TOP_P
from pointsman_gateway.domain import Caller, Feedback, Message, Request, Sampling
from pointsman_gateway.http.finite_numbers import refuse_infinite
from pointsman_gateway.http.limits import check_body

FIELDS = frozenset(
    {"model", "messages", "user", "metadata", "stream", "stream_options"}
    | {"max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"}
)
"""What `extra_json` may not say: the contract has a field for it, or the gateway decides it."""

_AS_THE_PATH_SAYS = Sampling()


def to_request(
    asked: pb.GenerateRequest | pb.RouteRequest, deadline: float, caller: Caller, cache: str, arrived: float
) -> Request:
    """Raises InvalidArgument."""
    return Request(
        model=asked.model,
        messages=_messages(asked.messages),
        sampling=_sampling(asked.sampling) if asked.HasField("sampling") else _AS_THE_PATH_SAYS,
        metadata=dict(asked.metadata),
        user=asked.user,
        deadline=deadline,
        caller=caller,
        cache=cache,
        arrived_at=arrived,
    )


def to_feedback(said: pb.FeedbackRequest, caller: Caller) -> Feedback:
    return Feedback(
        decision_id=said.decision_id,
        id=said.id,
        rating=_without_noise(said.rating) if said.HasField("rating") else None,
        correction=said.correction,
        right_task=said.right_task,
        right_answer=said.right_answer,
        tenant=caller.tenant,
    )


def _messages(messages: "RepeatedCompositeFieldContainer[pb.Message]") -> tuple[Message, ...]:
    # As a list first: half the time of a generator.
    return tuple(
        [Message(m.role, m.content, {"name": m.name}) if m.name else Message(m.role, m.content) for m in messages]
    )


def _sampling(sampling: pb.Sampling) -> Sampling:
    given: dict[str, Any] = {}
    if sampling.HasField("max_tokens"):
        given["max_tokens"] = _within("max_tokens", sampling.max_tokens, 1, 2**32 - 1)
    if sampling.HasField("temperature"):
        given["temperature"] = _within("temperature", _without_noise(sampling.temperature), 0, MAX_TEMPERATURE)
    if sampling.HasField("top_p"):
        given["top_p"] = _within("top_p", _without_noise(sampling.top_p), SMALLEST_TOP_P, 1)
    if sampling.HasField("seed"):
        given["seed"] = sampling.seed
    if len(sampling.stop) > MAX_STOP_SEQUENCES:
        told = f"'stop' has {len(sampling.stop)} entries; at most {MAX_STOP_SEQUENCES}"
        raise InvalidArgument(told, code="bad_parameter", param="stop")
    return Sampling(**given, stop=tuple(sampling.stop), extra=_extra(sampling.extra_json))


def _within(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise InvalidArgument(f"'{name}' is {value:g}; {least:g} to {most:g}", code="bad_parameter", param=name)
    return value


def _without_noise(number: float) -> float:
    """A float has 32 bits on the wire, which hold seven digits: without the rest 0.7 is 0.7, as over HTTP."""
    return float(f"{number:.7g}")


def _extra(text: str) -> dict[str, Any]:
    if not text:
        return {}
    check_body(text.encode(), param="extra_json")
    try:
        extra = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"'extra_json' is not JSON: {error}", code="bad_json", param="extra_json") from error
    if not isinstance(extra, dict):
        raise InvalidArgument("'extra_json' must be an object", code="bad_parameter", param="extra_json")
    named = sorted(FIELDS & extra.keys())
    if named:
        raise InvalidArgument(
            f"'extra_json' holds '{named[0]}', which the request has a place for",
            code="bad_parameter",
            param="extra_json",
        )
    refuse_infinite(extra, "extra_json")
    return extra
