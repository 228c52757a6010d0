"""Converts answers, decisions and receipts to response messages of the gateway's gRPC API."""

import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from itertools import groupby
from typing import Any

from pointsman.v1 import gateway_pb2 as pb

from pointsman_gateway.codec.choices import CollectedChoice, collect_choices
from pointsman_gateway.domain import (
    Chunk,
    Chunks,
    Decision,
    Finished,
    GuardrailVerdict,
    Passage,
    Path,
    Receipt,
    Started,
    Usage,
)
from pointsman_gateway.domain.receipt_fields import Encoding, FieldReader
from pointsman_gateway.pipeline.pipeline import Routed

_RECEIPT_FIELDS = FieldReader(Encoding.GRPC, Receipt)


def started_response(started: Started) -> pb.GenerateStreamResponse:
    return pb.GenerateStreamResponse(started=_started(started))


def delta_responses(chunks: Chunks) -> Iterator[pb.GenerateStreamResponse]:
    """Yields the messages of a stream for chunks of an answer that arrived together. Successive texts of one choice
    are joined to one message.
    """
    for index, group in groupby(chunks, _index_of_text):
        texts = list(group)
        if index is None:
            for chunk in texts:
                yield _delta(chunk, chunk.content, chunk.finish_reason)
        else:
            reasons = [chunk.finish_reason for chunk in texts if chunk.finish_reason]
            yield _delta(texts[0], "".join([chunk.content for chunk in texts]), reasons[-1] if reasons else None)


def _index_of_text(chunk: Chunk) -> int | None:
    """Returns the index of the chunk's choice; None if the chunk has more than text, and so must not be joined."""
    return None if chunk.extra else chunk.index


def _delta(chunk: Chunk, content: str, finish_reason: str | None) -> pb.GenerateStreamResponse:
    extra = _json(chunk.extra) if chunk.extra else ""
    delta = pb.Delta(index=chunk.index, content=content, extra_json=extra, finish_reason=finish_reason or "")
    return pb.GenerateStreamResponse(delta=delta)


def finished_response(finished: Finished) -> pb.GenerateStreamResponse:
    return pb.GenerateStreamResponse(
        finished=pb.Finished(finish_reason=finished.finish_reason, receipt=_receipt(finished.receipt))
    )


def whole_response(started: Started, chunks: Sequence[Chunk], finished: Finished) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        started=_started(started),
        choices=[_choice(choice) for choice in collect_choices(chunks)],
        receipt=_receipt(finished.receipt),
    )


def route_response(routed: Routed, costs_usd: Mapping[str, float | None]) -> pb.RouteResponse:
    """Returns the message for a request that asks only which path would be chosen.

    `costs_usd` has the request's expected dollars by path; a path with an unknown cost (None) is left out.
    """
    messages = [pb.Message(role=m.role, content=m.content) for m in routed.prompt.messages] if routed.prompt else ()
    decision, costs = _decision(routed.decision), _known(costs_usd)
    return pb.RouteResponse(decision=decision, prompt=messages, costs_usd=costs, user_words=routed.user_words)


def path_info(path: Path, why_not: str | None) -> pb.PathInfo:
    """Returns the message that describes a path. `why_not` says why the path cannot be used at the moment; None if
    it can.
    """
    return pb.PathInfo(
        name=path.name,
        kind=path.kind.value,
        model=path.model,
        adapter=path.adapter,
        strategies=path.strategies,
        available=why_not is None,
        why_not=why_not or "",
    )


def _started(started: Started) -> pb.Started:
    return pb.Started(decision=_decision(started.decision), model=started.model, cached=started.cached)


def _choice(choice: CollectedChoice) -> pb.Choice:
    extra: dict[str, Any] = {"message": choice.message} if choice.message else {}
    if choice.logprobs:
        extra["logprobs"] = choice.logprobs
    return pb.Choice(
        index=choice.index,
        content=choice.content,
        finish_reason=choice.finish_reason or "",
        extra_json=_json(extra) if extra else "",
    )


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _decision(decision: Decision) -> pb.Decision:
    return pb.Decision(
        id=decision.id,
        task=decision.task,
        confidence=decision.confidence,
        path=decision.path.name,
        kind=decision.path.kind.value,
        reason=decision.reason,
        considered=[pb.Considered(path=c.path, outcome=c.outcome, reason=c.reason) for c in decision.considered],
        expected_cost_usd=decision.expected_cost_usd,
        probabilities=_probabilities(decision.probabilities),
        stage=decision.stage,
        margin=decision.margin,
        in_distribution_score=decision.in_distribution_score,
        notes=decision.notes,
        revision=decision.revision,
    )


def _probabilities(probabilities: Sequence[tuple[str, float]]) -> list[pb.TaskProbability]:
    return [pb.TaskProbability(task=task, probability=p) for task, p in probabilities]


def _receipt(receipt: Receipt) -> pb.Receipt:
    fields = _RECEIPT_FIELDS.read(receipt)
    costs, seconds = fields.pop("cost_parts_usd"), fields.pop("seconds")
    for name, convert in _CONVERSIONS:
        fields[name] = convert(fields[name])
    message = pb.Receipt(**fields)
    _fill(message.cost_parts_usd, _known(costs))
    _fill(message.seconds, seconds)
    return message


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(**usage.counts_by_name, details=usage.details_by_name)


def _sources(passages: Sequence[Passage]) -> list[pb.Source]:
    return [
        pb.Source(
            document_id=p.document_id, title=p.title, score=p.score, heading=p.heading, text=p.text, start=p.start,
            end=p.end, url=p.url,
        )
        for p in passages
    ]  # fmt: skip


def _verdicts(verdicts: Sequence[GuardrailVerdict]) -> list[pb.GuardrailVerdict]:
    return [pb.GuardrailVerdict(guardrail=v.guardrail, hook=v.hook, ruling=v.ruling, found=v.found) for v in verdicts]


_CONVERSIONS: Sequence[tuple[str, Callable[[Any], Any]]] = (
    ("usage", _usage),
    ("sources", _sources),
    ("guardrails", _verdicts),
)
"""The functions that convert a receipt's fields to messages, by the field's name."""


def _known(costs: Mapping[str, float | None]) -> Mapping[str, float]:
    """Returns the costs that are not None; a map field of a message cannot hold None."""
    return {name: cost for name, cost in costs.items() if cost is not None}


def _fill(field: MutableMapping[str, float], numbers: Mapping[str, float]) -> None:
    """Adds numbers to a map field, in 60 % of the time that `update` or a constructor argument takes."""
    for name, number in numbers.items():
        field[name] = number
