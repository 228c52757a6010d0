"""What travels over gRPC, to and from the retriever's nouns: all but searches."""

from collections.abc import Iterator, Sequence

import numpy as np
from pointsman.v1 import retriever_pb2 as pb

from pointsman_retriever.domain import (
    DEFAULT_TENANT,
    CollectionId,
    CollectionInfo,
    DocumentOutcome,
    DocumentState,
    IngestSummary,
    NamedVector,
    Quota,
    RawDocument,
)
from pointsman_retriever.shelves import CollectionStatus

_STATES = {
    DocumentState.WRITTEN: pb.DocumentOutcome.WRITTEN,
    DocumentState.UNCHANGED: pb.DocumentOutcome.UNCHANGED,
    DocumentState.FAILED: pb.DocumentOutcome.FAILED,
}


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
    quota = collection.quota
    return pb.Collection(
        name=collection.name,
        fingerprint=collection.fingerprint,
        dimensions=collection.dimensions,
        documents=collection.documents,
        chunks=collection.chunks,
        version=collection.version,
        tenant=collection.tenant,
        bytes=collection.bytes,
        quota=pb.Quota(documents=quota.documents, chunks=quota.chunks, bytes=quota.bytes),
        problem=problem,
    )


def from_status(shown: CollectionStatus) -> pb.Collection:
    return from_collection(shown.collection, shown.problem)


def from_ingest_event(event: Sequence[DocumentOutcome] | IngestSummary, together: bool) -> Iterator[pb.IngestResponse]:
    """`together`: outcomes in one message."""
    if isinstance(event, IngestSummary):
        yield pb.IngestResponse(
            summary=pb.IngestSummary(
                written=event.written,
                unchanged=event.unchanged,
                failed=event.failed,
                removed=event.removed,
                chunks=event.chunks,
                version=event.version,
            )
        )
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
