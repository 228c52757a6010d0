from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainingState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRAINING_STATE_UNSPECIFIED: _ClassVar[TrainingState]
    TRAINING_STATE_QUEUED: _ClassVar[TrainingState]
    TRAINING_STATE_RUNNING: _ClassVar[TrainingState]
    TRAINING_STATE_SUCCEEDED: _ClassVar[TrainingState]
    TRAINING_STATE_FAILED: _ClassVar[TrainingState]
    TRAINING_STATE_CANCELLED: _ClassVar[TrainingState]
TRAINING_STATE_UNSPECIFIED: TrainingState
TRAINING_STATE_QUEUED: TrainingState
TRAINING_STATE_RUNNING: TrainingState
TRAINING_STATE_SUCCEEDED: TrainingState
TRAINING_STATE_FAILED: TrainingState
TRAINING_STATE_CANCELLED: TrainingState

class CreateTrainingJobRequest(_message.Message):
    __slots__ = ("name", "data", "heldout", "system", "method", "parent", "alias", "force", "author", "recipe", "facts")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HELDOUT_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: str
    heldout: str
    system: str
    method: str
    parent: str
    alias: str
    force: bool
    author: str
    recipe: TrainingRecipe
    facts: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., data: _Optional[str] = ..., heldout: _Optional[str] = ..., system: _Optional[str] = ..., method: _Optional[str] = ..., parent: _Optional[str] = ..., alias: _Optional[str] = ..., force: _Optional[bool] = ..., author: _Optional[str] = ..., recipe: _Optional[_Union[TrainingRecipe, _Mapping]] = ..., facts: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TrainingRecipe(_message.Message):
    __slots__ = ("rank", "alpha", "learning_rate", "epochs", "max_minutes", "seed", "tokens_per_step", "max_tokens", "beta", "patience", "samples", "baseline_shots", "heldout_share", "threads", "min_epochs", "max_rows")
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    MAX_MINUTES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_STEP_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BASELINE_SHOTS_FIELD_NUMBER: _ClassVar[int]
    HELDOUT_SHARE_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    MIN_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    rank: int
    alpha: int
    learning_rate: float
    epochs: int
    max_minutes: float
    seed: int
    tokens_per_step: int
    max_tokens: int
    beta: float
    patience: int
    samples: int
    baseline_shots: int
    heldout_share: float
    threads: int
    min_epochs: float
    max_rows: int
    def __init__(self, rank: _Optional[int] = ..., alpha: _Optional[int] = ..., learning_rate: _Optional[float] = ..., epochs: _Optional[int] = ..., max_minutes: _Optional[float] = ..., seed: _Optional[int] = ..., tokens_per_step: _Optional[int] = ..., max_tokens: _Optional[int] = ..., beta: _Optional[float] = ..., patience: _Optional[int] = ..., samples: _Optional[int] = ..., baseline_shots: _Optional[int] = ..., heldout_share: _Optional[float] = ..., threads: _Optional[int] = ..., min_epochs: _Optional[float] = ..., max_rows: _Optional[int] = ...) -> None: ...

class TrainingJob(_message.Message):
    __slots__ = ("id", "name", "method", "state", "error", "resumed", "created_unix_ms", "started_unix_ms", "ended_unix_ms", "version", "merged", "author")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MERGED_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    method: str
    state: TrainingState
    error: str
    resumed: int
    created_unix_ms: int
    started_unix_ms: int
    ended_unix_ms: int
    version: str
    merged: str
    author: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., method: _Optional[str] = ..., state: _Optional[_Union[TrainingState, str]] = ..., error: _Optional[str] = ..., resumed: _Optional[int] = ..., created_unix_ms: _Optional[int] = ..., started_unix_ms: _Optional[int] = ..., ended_unix_ms: _Optional[int] = ..., version: _Optional[str] = ..., merged: _Optional[str] = ..., author: _Optional[str] = ...) -> None: ...

class GetTrainingJobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListTrainingJobsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListTrainingJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[TrainingJob]
    def __init__(self, jobs: _Optional[_Iterable[_Union[TrainingJob, _Mapping]]] = ...) -> None: ...

class WatchTrainingJobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ..., **kwargs) -> None: ...

class CancelTrainingJobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DescribeTrainingMethodRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class TrainingMethod(_message.Message):
    __slots__ = ("name", "learns_from_pairs", "must_be_merged")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEARNS_FROM_PAIRS_FIELD_NUMBER: _ClassVar[int]
    MUST_BE_MERGED_FIELD_NUMBER: _ClassVar[int]
    name: str
    learns_from_pairs: bool
    must_be_merged: bool
    def __init__(self, name: _Optional[str] = ..., learns_from_pairs: _Optional[bool] = ..., must_be_merged: _Optional[bool] = ...) -> None: ...

class TrainingEvent(_message.Message):
    __slots__ = ("number", "event", "facts")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    number: int
    event: str
    facts: _struct_pb2.Struct
    def __init__(self, number: _Optional[int] = ..., event: _Optional[str] = ..., facts: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...
