from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Fusion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FUSION_UNSPECIFIED: _ClassVar[Fusion]
    CONVEX: _ClassVar[Fusion]
    RRF: _ClassVar[Fusion]
FUSION_UNSPECIFIED: Fusion
CONVEX: Fusion
RRF: Fusion

class Collection(_message.Message):
    __slots__ = ("name", "fingerprint", "dimensions", "documents", "chunks", "version", "tenant", "bytes", "quota", "problem", "store")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    dimensions: int
    documents: int
    chunks: int
    version: int
    tenant: str
    bytes: int
    quota: Quota
    problem: str
    store: str
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., dimensions: _Optional[int] = ..., documents: _Optional[int] = ..., chunks: _Optional[int] = ..., version: _Optional[int] = ..., tenant: _Optional[str] = ..., bytes: _Optional[int] = ..., quota: _Optional[_Union[Quota, _Mapping]] = ..., problem: _Optional[str] = ..., store: _Optional[str] = ...) -> None: ...

class Quota(_message.Message):
    __slots__ = ("documents", "chunks", "bytes")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    documents: int
    chunks: int
    bytes: int
    def __init__(self, documents: _Optional[int] = ..., chunks: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class CreateCollectionRequest(_message.Message):
    __slots__ = ("name", "if_missing", "tenant", "quota", "store")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IF_MISSING_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    if_missing: bool
    tenant: str
    quota: Quota
    store: str
    def __init__(self, name: _Optional[str] = ..., if_missing: _Optional[bool] = ..., tenant: _Optional[str] = ..., quota: _Optional[_Union[Quota, _Mapping]] = ..., store: _Optional[str] = ...) -> None: ...

class ListCollectionsRequest(_message.Message):
    __slots__ = ("tenant", "all_tenants")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ALL_TENANTS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    all_tenants: bool
    def __init__(self, tenant: _Optional[str] = ..., all_tenants: _Optional[bool] = ...) -> None: ...

class ListCollectionsResponse(_message.Message):
    __slots__ = ("collections",)
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedCompositeFieldContainer[Collection]
    def __init__(self, collections: _Optional[_Iterable[_Union[Collection, _Mapping]]] = ...) -> None: ...

class DeleteCollectionRequest(_message.Message):
    __slots__ = ("name", "tenant")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    name: str
    tenant: str
    def __init__(self, name: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class DeleteCollectionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Document(_message.Message):
    __slots__ = ("id", "title", "text", "metadata", "media_type", "content", "vector")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    id: str
    title: str
    text: str
    metadata: _containers.ScalarMap[str, str]
    media_type: str
    content: bytes
    vector: Vector
    def __init__(self, id: _Optional[str] = ..., title: _Optional[str] = ..., text: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., media_type: _Optional[str] = ..., content: _Optional[bytes] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ...) -> None: ...

class UpsertRequest(_message.Message):
    __slots__ = ("collection", "documents", "tenant")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    collection: str
    documents: _containers.RepeatedCompositeFieldContainer[Document]
    tenant: str
    def __init__(self, collection: _Optional[str] = ..., documents: _Optional[_Iterable[_Union[Document, _Mapping]]] = ..., tenant: _Optional[str] = ...) -> None: ...

class UpsertResponse(_message.Message):
    __slots__ = ("documents", "chunks", "version", "unchanged")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    documents: int
    chunks: int
    version: int
    unchanged: int
    def __init__(self, documents: _Optional[int] = ..., chunks: _Optional[int] = ..., version: _Optional[int] = ..., unchanged: _Optional[int] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("collection", "ids", "tenant")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    collection: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    tenant: str
    def __init__(self, collection: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., tenant: _Optional[str] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("deleted", "version")
    DELETED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    version: int
    def __init__(self, deleted: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class Vector(_message.Message):
    __slots__ = ("fingerprint", "values")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, fingerprint: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("collection", "query", "top_k", "vector", "filter", "dense_weight", "tenant", "where", "fusion", "per_document", "diversity", "neighbours", "rerank", "explain")
    class FilterEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DENSE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    PER_DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    RERANK_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    collection: str
    query: str
    top_k: int
    vector: Vector
    filter: _containers.ScalarMap[str, str]
    dense_weight: float
    tenant: str
    where: Filter
    fusion: Fusion
    per_document: int
    diversity: float
    neighbours: int
    rerank: bool
    explain: bool
    def __init__(self, collection: _Optional[str] = ..., query: _Optional[str] = ..., top_k: _Optional[int] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ..., filter: _Optional[_Mapping[str, str]] = ..., dense_weight: _Optional[float] = ..., tenant: _Optional[str] = ..., where: _Optional[_Union[Filter, _Mapping]] = ..., fusion: _Optional[_Union[Fusion, str]] = ..., per_document: _Optional[int] = ..., diversity: _Optional[float] = ..., neighbours: _Optional[int] = ..., rerank: _Optional[bool] = ..., explain: _Optional[bool] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("eq", "exists", "number_range", "text_range")
    EQ_FIELD_NUMBER: _ClassVar[int]
    IN_FIELD_NUMBER: _ClassVar[int]
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_RANGE_FIELD_NUMBER: _ClassVar[int]
    TEXT_RANGE_FIELD_NUMBER: _ClassVar[int]
    AND_FIELD_NUMBER: _ClassVar[int]
    OR_FIELD_NUMBER: _ClassVar[int]
    NOT_FIELD_NUMBER: _ClassVar[int]
    eq: MetadataEq
    exists: str
    number_range: NumberRange
    text_range: TextRange
    def __init__(self, eq: _Optional[_Union[MetadataEq, _Mapping]] = ..., exists: _Optional[str] = ..., number_range: _Optional[_Union[NumberRange, _Mapping]] = ..., text_range: _Optional[_Union[TextRange, _Mapping]] = ..., **kwargs) -> None: ...

class Filters(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[Filter]
    def __init__(self, parts: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...

class MetadataEq(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class MetadataIn(_message.Message):
    __slots__ = ("key", "values")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    key: str
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, key: _Optional[str] = ..., values: _Optional[_Iterable[str]] = ...) -> None: ...

class NumberRange(_message.Message):
    __slots__ = ("key", "gte", "gt", "lte", "lt")
    KEY_FIELD_NUMBER: _ClassVar[int]
    GTE_FIELD_NUMBER: _ClassVar[int]
    GT_FIELD_NUMBER: _ClassVar[int]
    LTE_FIELD_NUMBER: _ClassVar[int]
    LT_FIELD_NUMBER: _ClassVar[int]
    key: str
    gte: float
    gt: float
    lte: float
    lt: float
    def __init__(self, key: _Optional[str] = ..., gte: _Optional[float] = ..., gt: _Optional[float] = ..., lte: _Optional[float] = ..., lt: _Optional[float] = ...) -> None: ...

class TextRange(_message.Message):
    __slots__ = ("key", "gte", "gt", "lte", "lt")
    KEY_FIELD_NUMBER: _ClassVar[int]
    GTE_FIELD_NUMBER: _ClassVar[int]
    GT_FIELD_NUMBER: _ClassVar[int]
    LTE_FIELD_NUMBER: _ClassVar[int]
    LT_FIELD_NUMBER: _ClassVar[int]
    key: str
    gte: str
    gt: str
    lte: str
    lt: str
    def __init__(self, key: _Optional[str] = ..., gte: _Optional[str] = ..., gt: _Optional[str] = ..., lte: _Optional[str] = ..., lt: _Optional[str] = ...) -> None: ...

class Passage(_message.Message):
    __slots__ = ("document_id", "title", "text", "score", "dense_score", "sparse_score", "start", "end", "metadata", "tokens", "before", "after", "explanation", "heading")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    DENSE_SCORE_FIELD_NUMBER: _ClassVar[int]
    SPARSE_SCORE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    HEADING_FIELD_NUMBER: _ClassVar[int]
    document_id: str
    title: str
    text: str
    score: float
    dense_score: float
    sparse_score: float
    start: int
    end: int
    metadata: _containers.ScalarMap[str, str]
    tokens: int
    before: _containers.RepeatedCompositeFieldContainer[Neighbour]
    after: _containers.RepeatedCompositeFieldContainer[Neighbour]
    explanation: Explanation
    heading: str
    def __init__(self, document_id: _Optional[str] = ..., title: _Optional[str] = ..., text: _Optional[str] = ..., score: _Optional[float] = ..., dense_score: _Optional[float] = ..., sparse_score: _Optional[float] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ..., tokens: _Optional[int] = ..., before: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ..., after: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ..., heading: _Optional[str] = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("text", "start", "end")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    text: str
    start: int
    end: int
    def __init__(self, text: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("dense_rank", "sparse_rank", "dense_weight", "dense_part", "sparse_part", "support_part", "rerank_score")
    DENSE_RANK_FIELD_NUMBER: _ClassVar[int]
    SPARSE_RANK_FIELD_NUMBER: _ClassVar[int]
    DENSE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DENSE_PART_FIELD_NUMBER: _ClassVar[int]
    SPARSE_PART_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_PART_FIELD_NUMBER: _ClassVar[int]
    RERANK_SCORE_FIELD_NUMBER: _ClassVar[int]
    dense_rank: int
    sparse_rank: int
    dense_weight: float
    dense_part: float
    sparse_part: float
    support_part: float
    rerank_score: float
    def __init__(self, dense_rank: _Optional[int] = ..., sparse_rank: _Optional[int] = ..., dense_weight: _Optional[float] = ..., dense_part: _Optional[float] = ..., sparse_part: _Optional[float] = ..., support_part: _Optional[float] = ..., rerank_score: _Optional[float] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("passages", "version", "seconds", "relevant", "best_dense", "best_coverage")
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    RELEVANT_FIELD_NUMBER: _ClassVar[int]
    BEST_DENSE_FIELD_NUMBER: _ClassVar[int]
    BEST_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    passages: _containers.RepeatedCompositeFieldContainer[Passage]
    version: int
    seconds: float
    relevant: bool
    best_dense: float
    best_coverage: float
    def __init__(self, passages: _Optional[_Iterable[_Union[Passage, _Mapping]]] = ..., version: _Optional[int] = ..., seconds: _Optional[float] = ..., relevant: _Optional[bool] = ..., best_dense: _Optional[float] = ..., best_coverage: _Optional[float] = ...) -> None: ...

class SearchBatchRequest(_message.Message):
    __slots__ = ("searches",)
    SEARCHES_FIELD_NUMBER: _ClassVar[int]
    searches: _containers.RepeatedCompositeFieldContainer[SearchRequest]
    def __init__(self, searches: _Optional[_Iterable[_Union[SearchRequest, _Mapping]]] = ...) -> None: ...

class SearchBatchResponse(_message.Message):
    __slots__ = ("searches",)
    SEARCHES_FIELD_NUMBER: _ClassVar[int]
    searches: _containers.RepeatedCompositeFieldContainer[BatchedSearch]
    def __init__(self, searches: _Optional[_Iterable[_Union[BatchedSearch, _Mapping]]] = ...) -> None: ...

class BatchedSearch(_message.Message):
    __slots__ = ("answer", "error")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    answer: SearchResponse
    error: SearchError
    def __init__(self, answer: _Optional[_Union[SearchResponse, _Mapping]] = ..., error: _Optional[_Union[SearchError, _Mapping]] = ...) -> None: ...

class SearchError(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class SearchSettings(_message.Message):
    __slots__ = ("dense_weight", "fusion", "least_dense", "least_coverage")
    DENSE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    LEAST_DENSE_FIELD_NUMBER: _ClassVar[int]
    LEAST_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    dense_weight: float
    fusion: Fusion
    least_dense: float
    least_coverage: float
    def __init__(self, dense_weight: _Optional[float] = ..., fusion: _Optional[_Union[Fusion, str]] = ..., least_dense: _Optional[float] = ..., least_coverage: _Optional[float] = ...) -> None: ...

class ConfigureSearchRequest(_message.Message):
    __slots__ = ("tenant", "collection", "settings")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    collection: str
    settings: SearchSettings
    def __init__(self, tenant: _Optional[str] = ..., collection: _Optional[str] = ..., settings: _Optional[_Union[SearchSettings, _Mapping]] = ...) -> None: ...

class IngestRequest(_message.Message):
    __slots__ = ("begin", "document", "end", "documents")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    begin: IngestBegin
    document: Document
    end: IngestEnd
    documents: Documents
    def __init__(self, begin: _Optional[_Union[IngestBegin, _Mapping]] = ..., document: _Optional[_Union[Document, _Mapping]] = ..., end: _Optional[_Union[IngestEnd, _Mapping]] = ..., documents: _Optional[_Union[Documents, _Mapping]] = ...) -> None: ...

class Documents(_message.Message):
    __slots__ = ("documents",)
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[Document]
    def __init__(self, documents: _Optional[_Iterable[_Union[Document, _Mapping]]] = ...) -> None: ...

class IngestBegin(_message.Message):
    __slots__ = ("tenant", "collection", "source", "together")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TOGETHER_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    collection: str
    source: str
    together: bool
    def __init__(self, tenant: _Optional[str] = ..., collection: _Optional[str] = ..., source: _Optional[str] = ..., together: _Optional[bool] = ...) -> None: ...

class IngestEnd(_message.Message):
    __slots__ = ("remove_missing",)
    REMOVE_MISSING_FIELD_NUMBER: _ClassVar[int]
    remove_missing: bool
    def __init__(self, remove_missing: _Optional[bool] = ...) -> None: ...

class IngestResponse(_message.Message):
    __slots__ = ("outcome", "summary", "outcomes")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcome: DocumentOutcome
    summary: IngestSummary
    outcomes: DocumentOutcomes
    def __init__(self, outcome: _Optional[_Union[DocumentOutcome, _Mapping]] = ..., summary: _Optional[_Union[IngestSummary, _Mapping]] = ..., outcomes: _Optional[_Union[DocumentOutcomes, _Mapping]] = ...) -> None: ...

class DocumentOutcomes(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[DocumentOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[DocumentOutcome, _Mapping]]] = ...) -> None: ...

class DocumentOutcome(_message.Message):
    __slots__ = ("id", "state", "chunks", "code", "message")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[DocumentOutcome.State]
        WRITTEN: _ClassVar[DocumentOutcome.State]
        UNCHANGED: _ClassVar[DocumentOutcome.State]
        FAILED: _ClassVar[DocumentOutcome.State]
    STATE_UNSPECIFIED: DocumentOutcome.State
    WRITTEN: DocumentOutcome.State
    UNCHANGED: DocumentOutcome.State
    FAILED: DocumentOutcome.State
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: DocumentOutcome.State
    chunks: int
    code: str
    message: str
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[DocumentOutcome.State, str]] = ..., chunks: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class IngestSummary(_message.Message):
    __slots__ = ("written", "unchanged", "failed", "removed", "chunks", "version")
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    written: int
    unchanged: int
    failed: int
    removed: int
    chunks: int
    version: int
    def __init__(self, written: _Optional[int] = ..., unchanged: _Optional[int] = ..., failed: _Optional[int] = ..., removed: _Optional[int] = ..., chunks: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class ConfigureCollectionRequest(_message.Message):
    __slots__ = ("tenant", "collection", "quota")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    collection: str
    quota: Quota
    def __init__(self, tenant: _Optional[str] = ..., collection: _Optional[str] = ..., quota: _Optional[_Union[Quota, _Mapping]] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("tenant", "collection", "repair")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    collection: str
    repair: bool
    def __init__(self, tenant: _Optional[str] = ..., collection: _Optional[str] = ..., repair: _Optional[bool] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("problems", "documents", "chunks", "version", "checksum", "seconds", "repaired")
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_FIELD_NUMBER: _ClassVar[int]
    problems: _containers.RepeatedScalarFieldContainer[str]
    documents: int
    chunks: int
    version: int
    checksum: str
    seconds: float
    repaired: bool
    def __init__(self, problems: _Optional[_Iterable[str]] = ..., documents: _Optional[int] = ..., chunks: _Optional[int] = ..., version: _Optional[int] = ..., checksum: _Optional[str] = ..., seconds: _Optional[float] = ..., repaired: _Optional[bool] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("tenant", "collection")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    collection: str
    def __init__(self, tenant: _Optional[str] = ..., collection: _Optional[str] = ...) -> None: ...

class SnapshotPart(_message.Message):
    __slots__ = ("data", "sha256", "collection")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    sha256: str
    collection: Collection
    def __init__(self, data: _Optional[bytes] = ..., sha256: _Optional[str] = ..., collection: _Optional[_Union[Collection, _Mapping]] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("begin", "data", "sha256")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    begin: RestoreBegin
    data: bytes
    sha256: str
    def __init__(self, begin: _Optional[_Union[RestoreBegin, _Mapping]] = ..., data: _Optional[bytes] = ..., sha256: _Optional[str] = ...) -> None: ...

class RestoreBegin(_message.Message):
    __slots__ = ("tenant", "collection", "replace")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    collection: str
    replace: bool
    def __init__(self, tenant: _Optional[str] = ..., collection: _Optional[str] = ..., replace: _Optional[bool] = ...) -> None: ...

class ReembedRequest(_message.Message):
    __slots__ = ("tenant", "collection")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    collection: str
    def __init__(self, tenant: _Optional[str] = ..., collection: _Optional[str] = ...) -> None: ...

class ReembedProgress(_message.Message):
    __slots__ = ("documents", "total", "collection")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    documents: int
    total: int
    collection: Collection
    def __init__(self, documents: _Optional[int] = ..., total: _Optional[int] = ..., collection: _Optional[_Union[Collection, _Mapping]] = ...) -> None: ...

class MoveRequest(_message.Message):
    __slots__ = ("tenant", "collection", "store")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    collection: str
    store: str
    def __init__(self, tenant: _Optional[str] = ..., collection: _Optional[str] = ..., store: _Optional[str] = ...) -> None: ...

class MoveProgress(_message.Message):
    __slots__ = ("documents", "total", "collection")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    documents: int
    total: int
    collection: Collection
    def __init__(self, documents: _Optional[int] = ..., total: _Optional[int] = ..., collection: _Optional[_Union[Collection, _Mapping]] = ...) -> None: ...

class RerankRequest(_message.Message):
    __slots__ = ("query", "documents")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    query: str
    documents: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, query: _Optional[str] = ..., documents: _Optional[_Iterable[str]] = ...) -> None: ...

class RerankResponse(_message.Message):
    __slots__ = ("scores",)
    SCORES_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, scores: _Optional[_Iterable[float]] = ...) -> None: ...

class SketchRequest(_message.Message):
    __slots__ = ("collection", "tenant")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    collection: str
    tenant: str
    def __init__(self, collection: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class SketchResponse(_message.Message):
    __slots__ = ("version", "documents", "smallest")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_FIELD_NUMBER: _ClassVar[int]
    version: int
    documents: int
    smallest: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, version: _Optional[int] = ..., documents: _Optional[int] = ..., smallest: _Optional[_Iterable[int]] = ...) -> None: ...

class VectorSketchRequest(_message.Message):
    __slots__ = ("collection", "known_checksum", "tenant")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    collection: str
    known_checksum: str
    tenant: str
    def __init__(self, collection: _Optional[str] = ..., known_checksum: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class VectorSketchResponse(_message.Message):
    __slots__ = ("checksum", "version", "fingerprint", "dimensions", "chunks", "vectors", "unchanged")
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    checksum: str
    version: int
    fingerprint: str
    dimensions: int
    chunks: int
    vectors: bytes
    unchanged: bool
    def __init__(self, checksum: _Optional[str] = ..., version: _Optional[int] = ..., fingerprint: _Optional[str] = ..., dimensions: _Optional[int] = ..., chunks: _Optional[int] = ..., vectors: _Optional[bytes] = ..., unchanged: _Optional[bool] = ...) -> None: ...
