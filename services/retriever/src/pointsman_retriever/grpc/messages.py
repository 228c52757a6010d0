"""Conversions between gRPC messages and the retriever's value objects."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pointsman.v1 import retriever_pb2 as pb
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.grpc_client import to_message

from pointsman_retriever.domain import (
    DEFAULT_TENANT,
    CollectionId,
    CollectionInfo,
    DocumentOutcome,
    DocumentState,
    FusionMethod,
    IngestSummary,
    NamedVector,
    Neighbour,
    Passage,
    Query,
    Quota,
    RawDocument,
    SearchAnswer,
    SearchOptions,
    SearchSettings,
)
from pointsman_retriever.filters import (
    And,
    Eq,
    Exists,
    Filter,
    In,
    Not,
    NumberRange,
    Or,
    TextRange,
    check_depth,
    invalid_filter,
)
from pointsman_retriever.limits import check_entries
from pointsman_retriever.store.vector_sketch import VectorSketch

_STATES = {state: getattr(pb.DocumentOutcome, state.name) for state in DocumentState}

_METHODS = {pb.CONVEX: FusionMethod.CONVEX, pb.RRF: FusionMethod.RRF}
_FUSIONS = {method: fusion for fusion, method in _METHODS.items()}


def to_collection_id(tenant: str, name: str) -> CollectionId:
    return CollectionId(tenant or DEFAULT_TENANT, name)


def to_raw_document(message: pb.Document) -> RawDocument:
    return RawDocument(
        id=message.id,
        title=message.title,
        text=message.text,
        metadata=dict(message.metadata),
        media_type=message.media_type.partition(";")[0].strip().lower(),  # without parameters: "; charset=utf-8"
        content=message.content,
        vector=to_vector(message.vector) if message.HasField("vector") else None,
    )


def to_vector(message: pb.Vector) -> NamedVector:
    return NamedVector(message.fingerprint, np.array(message.values, np.float32))


def to_quota(message: pb.Quota) -> Quota:
    return Quota(message.documents, message.chunks, message.bytes)


def from_collection(collection: CollectionInfo, problem: str = "") -> pb.Collection:
    return to_message(pb.Collection, collection, quota=to_message(pb.Quota, collection.quota), problem=problem)


def from_ingest_event(event: Sequence[DocumentOutcome] | IngestSummary, together: bool) -> Iterator[pb.IngestResponse]:
    """Yields the gRPC messages for one event of an ingest: the outcomes of a batch of documents, or the summary.

    With `together`, a batch becomes one message; without it, each outcome becomes a message.
    """
    if isinstance(event, IngestSummary):
        yield pb.IngestResponse(summary=to_message(pb.IngestSummary, event))
    elif together:
        yield pb.IngestResponse(outcomes=pb.DocumentOutcomes(outcomes=map(_from_outcome, event)))
    else:
        for outcome in event:
            yield pb.IngestResponse(outcome=_from_outcome(outcome))


def _from_outcome(outcome: DocumentOutcome) -> pb.DocumentOutcome:
    return pb.DocumentOutcome(
        id=outcome.id,
        state=_STATES[outcome.state],
        chunks=outcome.chunks,
        code=outcome.code,
        message=outcome.message,
    )


def to_query(request: pb.SearchRequest) -> Query:
    """Converts a search request; its fields `filter` and `where` become one filter.

    An unknown value of `fusion` counts as not set. Raises InvalidArgument if `filter` has too many entries or an empty
    key, or if a part of `where` has none of the known kinds or is nested too deeply. Other limits are not checked here.
    """
    return Query(
        collection=to_collection_id(request.tenant, request.collection),
        text=request.query,
        vector=to_vector(request.vector) if request.HasField("vector") else None,
        filter=_to_filter(request),
        options=SearchOptions(
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


def from_answer(answer: SearchAnswer, options: SearchOptions) -> pb.SearchResponse:
    return pb.SearchResponse(
        passages=[
            _from_passage(passage, tokens, options.explain)
            for passage, tokens in zip(answer.passages, answer.tokens, strict=True)
        ],
        version=answer.version,
        seconds=answer.seconds,
        relevant=answer.relevance.relevant,
        best_dense=answer.relevance.best_dense,
        best_coverage=answer.relevance.best_coverage,
    )


def from_result(result: SearchAnswer | PointsmanError, options: SearchOptions) -> pb.BatchedSearch:
    if isinstance(result, PointsmanError):
        return pb.BatchedSearch(error=pb.SearchError(code=result.code, message=result.message))
    return pb.BatchedSearch(answer=from_answer(result, options))


def to_search_settings(message: pb.SearchSettings) -> SearchSettings:
    fields: dict[str, Any] = {field.name: value for field, value in message.ListFields() if field.name != "fusion"}
    if message.fusion:
        fields["method"] = _METHODS[message.fusion]
    return SearchSettings(**fields)


def from_search_settings(settings: SearchSettings) -> pb.SearchSettings:
    return to_message(pb.SearchSettings, settings, fusion=_FUSIONS[settings.method])


def from_vector_sketch(sketch: VectorSketch) -> pb.VectorSketchResponse:
    info = sketch.info
    return pb.VectorSketchResponse(
        checksum=f"{info.checksum:016x}",
        version=info.version,
        fingerprint=info.fingerprint,
        dimensions=info.dimensions,
        chunks=info.chunks,
        vectors=sketch.vectors,
    )


def _to_filter(request: pb.SearchRequest) -> Filter | None:
    """Combines the conditions in the request's `filter` and `where`, which must all hold; None if it has neither."""
    check_entries(request.filter, "the filter", "filter")
    parts: list[Filter] = [Eq(key, value) for key, value in sorted(request.filter.items())]
    if request.HasField("where"):
        parts.append(_to_filter_part(request.where, 1))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _to_filter_part(message: pb.Filter, depth: int) -> Filter:
    check_depth(depth)
    kind = message.WhichOneof("kind")
    match kind:
        case "eq":
            return Eq(message.eq.key, message.eq.value)
        case "in":
            condition = getattr(message, "in")
            return In(condition.key, tuple(condition.values))
        case "exists":
            return Exists(message.exists)
        case "number_range":
            return NumberRange(message.number_range.key, **_bounds(message.number_range))
        case "text_range":
            return TextRange(message.text_range.key, **_bounds(message.text_range))
        case "and" | "or":
            parts = tuple(_to_filter_part(part, depth + 1) for part in getattr(message, kind).parts)
            return And(parts) if kind == "and" else Or(parts)
        case "not":
            return Not(_to_filter_part(getattr(message, "not"), depth + 1))
        case _:
            raise invalid_filter("a part of it is empty; set eq, in, exists, number_range, text_range, and, or, or not")


def _bounds(message: pb.NumberRange | pb.TextRange) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields() if field.name != "key"}


def _from_passage(passage: Passage, tokens: int, explain: bool) -> pb.Passage:
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
        explanation=to_message(pb.Explanation, passage.explanation) if explain else None,
        heading=passage.heading,
    )


def _from_neighbour(neighbour: Neighbour) -> pb.Neighbour:
    return pb.Neighbour(text=neighbour.text, start=neighbour.start, end=neighbour.end)
