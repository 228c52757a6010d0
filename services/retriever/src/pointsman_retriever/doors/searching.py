"""Searches between the wire and the domain."""

from typing import Any

from pointsman.v1 import retriever_pb2 as pb
from pointsman_servicekit.errors import InvalidArgument, PointsmanError

from pointsman_retriever.domain import (
    Explanation,
    FusionMethod,
    Neighbour,
    Passage,
    Query,
    SearchAnswer,
    SearchOptions,
)
from pointsman_retriever.doors.messages import to_collection_id, to_vector
from pointsman_retriever.filters import And, Eq, Exists, Filter, In, Not, NumberRange, Or, TextRange
from pointsman_retriever.limits import check_entries
from pointsman_retriever.search import SearchSettings

_METHODS = {pb.CONVEX: FusionMethod.CONVEX, pb.RRF: FusionMethod.RRF}
_FUSIONS = {method: fusion for fusion, method in _METHODS.items()}


def to_query(request: pb.SearchRequest) -> Query:
    """Raises InvalidArgument for a filter with an empty part."""
    return Query(
        collection=to_collection_id(request.tenant, request.collection),
        text=request.query,
        vector=to_vector(request.vector) if request.HasField("vector") else None,
        filter=_combine_filters(request),
        wishes=SearchOptions(
            top_k=request.top_k,
            dense_weight=request.dense_weight if request.HasField("dense_weight") else None,
            method=_METHODS.get(request.fusion),
            per_document=request.per_document,
            diversity=request.diversity,
            neighbours=request.neighbours,
            rerank=request.rerank,
            explain=request.explain,
        ),
    )


def from_answer(answer: SearchAnswer, wishes: SearchOptions) -> pb.SearchResponse:
    return pb.SearchResponse(
        passages=[
            _from_passage(passage, tokens, wishes.explain)
            for passage, tokens in zip(answer.passages, answer.tokens, strict=True)
        ],
        version=answer.version,
        seconds=answer.seconds,
        relevant=answer.relevance.relevant,
        best_dense=answer.relevance.dense,
        best_coverage=answer.relevance.coverage,
    )


def from_result(result: SearchAnswer | PointsmanError, wishes: SearchOptions) -> pb.BatchedSearch:
    if isinstance(result, PointsmanError):
        return pb.BatchedSearch(error=pb.SearchError(code=result.code, message=result.message))
    return pb.BatchedSearch(answer=from_answer(result, wishes))


def to_search_settings(settings: pb.SearchSettings) -> SearchSettings:
    said: dict[str, Any] = {field.name: value for field, value in settings.ListFields() if field.name != "fusion"}
    if settings.fusion:
        said["method"] = _METHODS[settings.fusion]
    return SearchSettings(**said)


def from_search_settings(standard: SearchSettings) -> pb.SearchSettings:
    return pb.SearchSettings(
        dense_weight=standard.dense_weight,
        fusion=_FUSIONS[standard.method],
        least_dense=standard.least_dense,
        least_coverage=standard.least_coverage,
    )


def _combine_filters(request: pb.SearchRequest) -> Filter | None:
    check_entries(request.filter, "the filter", "filter")
    parts: list[Filter] = [Eq(key, value) for key, value in sorted(request.filter.items())]
    if request.HasField("where"):
        parts.append(_to_filter(request.where))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _to_filter(message: pb.Filter) -> Filter:
    kind = message.WhichOneof("kind")
    match kind:
        case "eq":
            return Eq(message.eq.key, message.eq.value)
        case "in":
            wanted = getattr(message, "in")
            return In(wanted.key, tuple(wanted.values))
        case "exists":
            return Exists(message.exists)
        case "number_range":
            return NumberRange(message.number_range.key, **_bounds(message.number_range))
        case "text_range":
            return TextRange(message.text_range.key, **_bounds(message.text_range))
        case "and" | "or":
            parts = tuple(map(_to_filter, getattr(message, kind).parts))
            return And(parts) if kind == "and" else Or(parts)
        case "not":
            return Not(_to_filter(getattr(message, "not")))
        case _:
            raise InvalidArgument(
                "the filter cannot be used: a part of it says nothing; set eq, in, exists, number_range, text_range, "
                "and, or, or not",
                code="invalid_filter",
                param="where",
            )


def _bounds(message: pb.NumberRange | pb.TextRange) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields() if field.name != "key"}


def _from_passage(passage: Passage, tokens: int, explained: bool) -> pb.Passage:
    return pb.Passage(
        document_id=passage.document_id,
        title=passage.title,
        text=passage.text,
        score=passage.score,
        dense_score=passage.dense_score,
        sparse_score=passage.sparse_score,
        start=passage.start,
        end=passage.end,
        metadata=passage.metadata,
        tokens=tokens,
        before=map(_from_neighbour, passage.before),
        after=map(_from_neighbour, passage.after),
        explanation=_from_explanation(passage.explanation) if explained else None,
    )


def _from_neighbour(neighbour: Neighbour) -> pb.Neighbour:
    return pb.Neighbour(text=neighbour.text, start=neighbour.start, end=neighbour.end)


def _from_explanation(explanation: Explanation) -> pb.Explanation:
    return pb.Explanation(
        dense_rank=explanation.dense_rank,
        sparse_rank=explanation.sparse_rank,
        dense_weight=explanation.dense_weight,
        dense_part=explanation.dense_part,
        sparse_part=explanation.sparse_part,
        support_part=explanation.support_part,
        rerank_score=explanation.rerank_score,
    )
