from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AdapterState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADAPTER_STATE_UNSPECIFIED: _ClassVar[AdapterState]
    ADAPTER_STATE_REGISTERED: _ClassVar[AdapterState]
    ADAPTER_STATE_VALIDATING: _ClassVar[AdapterState]
    ADAPTER_STATE_READY: _ClassVar[AdapterState]
    ADAPTER_STATE_LOADING: _ClassVar[AdapterState]
    ADAPTER_STATE_WARM: _ClassVar[AdapterState]
    ADAPTER_STATE_SERVING: _ClassVar[AdapterState]
    ADAPTER_STATE_DRAINING: _ClassVar[AdapterState]
    ADAPTER_STATE_RETIRED: _ClassVar[AdapterState]
    ADAPTER_STATE_FAILED: _ClassVar[AdapterState]

class PlacementKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLACEMENT_KIND_UNSPECIFIED: _ClassVar[PlacementKind]
    PLACEMENT_KIND_ALL: _ClassVar[PlacementKind]
    PLACEMENT_KIND_COPIES: _ClassVar[PlacementKind]
    PLACEMENT_KIND_ON_DEMAND: _ClassVar[PlacementKind]
    PLACEMENT_KIND_AUTO: _ClassVar[PlacementKind]

class EngineStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENGINE_STATUS_UNSPECIFIED: _ClassVar[EngineStatus]
    ENGINE_STATUS_STARTING: _ClassVar[EngineStatus]
    ENGINE_STATUS_READY: _ClassVar[EngineStatus]
    ENGINE_STATUS_DOWN: _ClassVar[EngineStatus]
ADAPTER_STATE_UNSPECIFIED: AdapterState
ADAPTER_STATE_REGISTERED: AdapterState
ADAPTER_STATE_VALIDATING: AdapterState
ADAPTER_STATE_READY: AdapterState
ADAPTER_STATE_LOADING: AdapterState
ADAPTER_STATE_WARM: AdapterState
ADAPTER_STATE_SERVING: AdapterState
ADAPTER_STATE_DRAINING: AdapterState
ADAPTER_STATE_RETIRED: AdapterState
ADAPTER_STATE_FAILED: AdapterState
PLACEMENT_KIND_UNSPECIFIED: PlacementKind
PLACEMENT_KIND_ALL: PlacementKind
PLACEMENT_KIND_COPIES: PlacementKind
PLACEMENT_KIND_ON_DEMAND: PlacementKind
PLACEMENT_KIND_AUTO: PlacementKind
ENGINE_STATUS_UNSPECIFIED: EngineStatus
ENGINE_STATUS_STARTING: EngineStatus
ENGINE_STATUS_READY: EngineStatus
ENGINE_STATUS_DOWN: EngineStatus

class AdapterVersion(_message.Message):
    __slots__ = ("version", "name", "sha256", "base_model", "rank", "target_modules", "bytes", "created_unix_ms", "state", "last_error", "facts", "aliases", "base_digest", "chat_template_sha256", "training_data_sha256", "metrics", "parent", "author", "pinned", "last_error_code")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    TRAINING_DATA_SHA256_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    version: str
    name: str
    sha256: str
    base_model: str
    rank: int
    target_modules: _containers.RepeatedScalarFieldContainer[str]
    bytes: int
    created_unix_ms: int
    state: AdapterState
    last_error: str
    facts: _containers.ScalarMap[str, str]
    aliases: _containers.RepeatedScalarFieldContainer[str]
    base_digest: str
    chat_template_sha256: str
    training_data_sha256: str
    metrics: _containers.ScalarMap[str, float]
    parent: str
    author: str
    pinned: bool
    last_error_code: str
    def __init__(self, version: _Optional[str] = ..., name: _Optional[str] = ..., sha256: _Optional[str] = ..., base_model: _Optional[str] = ..., rank: _Optional[int] = ..., target_modules: _Optional[_Iterable[str]] = ..., bytes: _Optional[int] = ..., created_unix_ms: _Optional[int] = ..., state: _Optional[_Union[AdapterState, str]] = ..., last_error: _Optional[str] = ..., facts: _Optional[_Mapping[str, str]] = ..., aliases: _Optional[_Iterable[str]] = ..., base_digest: _Optional[str] = ..., chat_template_sha256: _Optional[str] = ..., training_data_sha256: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., parent: _Optional[str] = ..., author: _Optional[str] = ..., pinned: _Optional[bool] = ..., last_error_code: _Optional[str] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("name", "folder", "alias", "facts", "parent", "author", "force")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    folder: str
    alias: str
    facts: _containers.ScalarMap[str, str]
    parent: str
    author: str
    force: bool
    def __init__(self, name: _Optional[str] = ..., folder: _Optional[str] = ..., alias: _Optional[str] = ..., facts: _Optional[_Mapping[str, str]] = ..., parent: _Optional[str] = ..., author: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListAdaptersResponse(_message.Message):
    __slots__ = ("versions", "aliases", "placements")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[AdapterVersion]
    aliases: _containers.RepeatedCompositeFieldContainer[Alias]
    placements: _containers.RepeatedCompositeFieldContainer[Placement]
    def __init__(self, versions: _Optional[_Iterable[_Union[AdapterVersion, _Mapping]]] = ..., aliases: _Optional[_Iterable[_Union[Alias, _Mapping]]] = ..., placements: _Optional[_Iterable[_Union[Placement, _Mapping]]] = ...) -> None: ...

class GetAdapterRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class Alias(_message.Message):
    __slots__ = ("alias", "version", "revision", "canary_version", "canary_weight", "previous", "canary_requests")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CANARY_VERSION_FIELD_NUMBER: _ClassVar[int]
    CANARY_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    CANARY_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    alias: str
    version: str
    revision: int
    canary_version: str
    canary_weight: float
    previous: str
    canary_requests: int
    def __init__(self, alias: _Optional[str] = ..., version: _Optional[str] = ..., revision: _Optional[int] = ..., canary_version: _Optional[str] = ..., canary_weight: _Optional[float] = ..., previous: _Optional[str] = ..., canary_requests: _Optional[int] = ...) -> None: ...

class SetAliasRequest(_message.Message):
    __slots__ = ("alias", "version", "expected_version", "author", "force")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    alias: str
    version: str
    expected_version: str
    author: str
    force: bool
    def __init__(self, alias: _Optional[str] = ..., version: _Optional[str] = ..., expected_version: _Optional[str] = ..., author: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class SetCanaryRequest(_message.Message):
    __slots__ = ("alias", "version", "weight", "terms", "author", "expected_version", "force")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    alias: str
    version: str
    weight: float
    terms: CanaryTerms
    author: str
    expected_version: str
    force: bool
    def __init__(self, alias: _Optional[str] = ..., version: _Optional[str] = ..., weight: _Optional[float] = ..., terms: _Optional[_Union[CanaryTerms, _Mapping]] = ..., author: _Optional[str] = ..., expected_version: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class CanaryTerms(_message.Message):
    __slots__ = ("min_requests", "max_error_excess", "max_invalid_excess", "max_rating_loss", "max_latency_ratio")
    MIN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_EXCESS_FIELD_NUMBER: _ClassVar[int]
    MAX_INVALID_EXCESS_FIELD_NUMBER: _ClassVar[int]
    MAX_RATING_LOSS_FIELD_NUMBER: _ClassVar[int]
    MAX_LATENCY_RATIO_FIELD_NUMBER: _ClassVar[int]
    min_requests: int
    max_error_excess: float
    max_invalid_excess: float
    max_rating_loss: float
    max_latency_ratio: float
    def __init__(self, min_requests: _Optional[int] = ..., max_error_excess: _Optional[float] = ..., max_invalid_excess: _Optional[float] = ..., max_rating_loss: _Optional[float] = ..., max_latency_ratio: _Optional[float] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("alias", "expected_version", "author", "reason")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    alias: str
    expected_version: str
    author: str
    reason: str
    def __init__(self, alias: _Optional[str] = ..., expected_version: _Optional[str] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("version", "pinned", "author")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    version: str
    pinned: bool
    author: str
    def __init__(self, version: _Optional[str] = ..., pinned: _Optional[bool] = ..., author: _Optional[str] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("name", "kind", "copies")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: PlacementKind
    copies: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[PlacementKind, str]] = ..., copies: _Optional[int] = ...) -> None: ...

class SetPlacementRequest(_message.Message):
    __slots__ = ("placement", "expected", "author")
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    placement: Placement
    expected: Placement
    author: str
    def __init__(self, placement: _Optional[_Union[Placement, _Mapping]] = ..., expected: _Optional[_Union[Placement, _Mapping]] = ..., author: _Optional[str] = ...) -> None: ...

class RetireRequest(_message.Message):
    __slots__ = ("version", "author", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: str
    author: str
    reason: str
    def __init__(self, version: _Optional[str] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DeleteAdapterRequest(_message.Message):
    __slots__ = ("version", "author")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    version: str
    author: str
    def __init__(self, version: _Optional[str] = ..., author: _Optional[str] = ...) -> None: ...

class DeleteAdapterResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("name", "limit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    limit: int
    def __init__(self, name: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class HistoryResponse(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    def __init__(self, changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("id", "at_unix_ms", "kind", "subject", "before", "after", "author", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    at_unix_ms: int
    kind: str
    subject: str
    before: str
    after: str
    author: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., at_unix_ms: _Optional[int] = ..., kind: _Optional[str] = ..., subject: _Optional[str] = ..., before: _Optional[str] = ..., after: _Optional[str] = ..., author: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class EnsureLoadedRequest(_message.Message):
    __slots__ = ("version", "changes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    version: str
    changes: bool
    def __init__(self, version: _Optional[str] = ..., changes: _Optional[bool] = ...) -> None: ...

class ReportCanaryMetricsRequest(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcomes]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcomes, _Mapping]]] = ...) -> None: ...

class Outcomes(_message.Message):
    __slots__ = ("alias", "revision", "version", "requests", "errors", "invalid", "milliseconds", "rated", "rating")
    class MillisecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    INVALID_FIELD_NUMBER: _ClassVar[int]
    MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    RATED_FIELD_NUMBER: _ClassVar[int]
    RATING_FIELD_NUMBER: _ClassVar[int]
    alias: str
    revision: int
    version: str
    requests: int
    errors: int
    invalid: int
    milliseconds: _containers.ScalarMap[int, int]
    rated: int
    rating: int
    def __init__(self, alias: _Optional[str] = ..., revision: _Optional[int] = ..., version: _Optional[str] = ..., requests: _Optional[int] = ..., errors: _Optional[int] = ..., invalid: _Optional[int] = ..., milliseconds: _Optional[_Mapping[int, int]] = ..., rated: _Optional[int] = ..., rating: _Optional[int] = ...) -> None: ...

class ReportCanaryMetricsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: bool
    def __init__(self, changes: _Optional[bool] = ...) -> None: ...

class EngineState(_message.Message):
    __slots__ = ("engine", "status", "base_model", "url", "resident", "aliases", "sequence", "engine_restarts", "detail", "max_model_len", "loadable", "training_seconds", "tool_call_parser", "is_change", "removed")
    class TrainingSecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    LOADABLE_FIELD_NUMBER: _ClassVar[int]
    TRAINING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_PARSER_FIELD_NUMBER: _ClassVar[int]
    IS_CHANGE_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    engine: str
    status: EngineStatus
    base_model: str
    url: str
    resident: _containers.RepeatedScalarFieldContainer[str]
    aliases: _containers.RepeatedCompositeFieldContainer[Alias]
    sequence: int
    engine_restarts: int
    detail: str
    max_model_len: int
    loadable: _containers.RepeatedScalarFieldContainer[str]
    training_seconds: _containers.ScalarMap[str, float]
    tool_call_parser: str
    is_change: bool
    removed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, engine: _Optional[str] = ..., status: _Optional[_Union[EngineStatus, str]] = ..., base_model: _Optional[str] = ..., url: _Optional[str] = ..., resident: _Optional[_Iterable[str]] = ..., aliases: _Optional[_Iterable[_Union[Alias, _Mapping]]] = ..., sequence: _Optional[int] = ..., engine_restarts: _Optional[int] = ..., detail: _Optional[str] = ..., max_model_len: _Optional[int] = ..., loadable: _Optional[_Iterable[str]] = ..., training_seconds: _Optional[_Mapping[str, float]] = ..., tool_call_parser: _Optional[str] = ..., is_change: _Optional[bool] = ..., removed: _Optional[_Iterable[str]] = ...) -> None: ...
