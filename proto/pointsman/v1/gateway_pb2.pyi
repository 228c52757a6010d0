from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Message(_message.Message):
    __slots__ = ("role", "content", "name", "extra_json", "parts")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXTRA_JSON_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    name: str
    extra_json: str
    parts: _containers.RepeatedCompositeFieldContainer[ContentPart]
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ..., name: _Optional[str] = ..., extra_json: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[ContentPart, _Mapping]]] = ...) -> None: ...

class ContentPart(_message.Message):
    __slots__ = ("text", "media")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    text: str
    media: Media
    def __init__(self, text: _Optional[str] = ..., media: _Optional[_Union[Media, _Mapping]] = ...) -> None: ...

class Media(_message.Message):
    __slots__ = ("kind", "data", "url", "media_type", "name")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    kind: str
    data: bytes
    url: str
    media_type: str
    name: str
    def __init__(self, kind: _Optional[str] = ..., data: _Optional[bytes] = ..., url: _Optional[str] = ..., media_type: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("max_tokens", "temperature", "top_p", "seed", "stop", "extra_json")
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    EXTRA_JSON_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    extra_json: str
    def __init__(self, max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., extra_json: _Optional[str] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "messages", "sampling", "metadata", "user")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    model: str
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    sampling: Sampling
    metadata: _containers.ScalarMap[str, str]
    user: str
    def __init__(self, model: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., user: _Optional[str] = ...) -> None: ...

class GenerateStreamResponse(_message.Message):
    __slots__ = ("started", "delta", "finished")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    started: Started
    delta: Delta
    finished: Finished
    def __init__(self, started: _Optional[_Union[Started, _Mapping]] = ..., delta: _Optional[_Union[Delta, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("decision", "model", "cached")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    model: str
    cached: str
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., model: _Optional[str] = ..., cached: _Optional[str] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("index", "content", "extra_json", "finish_reason")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    EXTRA_JSON_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    index: int
    content: str
    extra_json: str
    finish_reason: str
    def __init__(self, index: _Optional[int] = ..., content: _Optional[str] = ..., extra_json: _Optional[str] = ..., finish_reason: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("finish_reason", "receipt")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    finish_reason: str
    receipt: Receipt
    def __init__(self, finish_reason: _Optional[str] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("started", "choices", "receipt")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    started: Started
    choices: _containers.RepeatedCompositeFieldContainer[Choice]
    receipt: Receipt
    def __init__(self, started: _Optional[_Union[Started, _Mapping]] = ..., choices: _Optional[_Iterable[_Union[Choice, _Mapping]]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("index", "content", "finish_reason", "extra_json")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    EXTRA_JSON_FIELD_NUMBER: _ClassVar[int]
    index: int
    content: str
    finish_reason: str
    extra_json: str
    def __init__(self, index: _Optional[int] = ..., content: _Optional[str] = ..., finish_reason: _Optional[str] = ..., extra_json: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("id", "task", "confidence", "path", "kind", "reason", "considered", "expected_cost_usd", "probabilities", "stage", "margin", "in_distribution_score", "notes", "revision")
    ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CONSIDERED_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_COST_USD_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    IN_DISTRIBUTION_SCORE_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    id: str
    task: str
    confidence: float
    path: str
    kind: str
    reason: str
    considered: _containers.RepeatedCompositeFieldContainer[Considered]
    expected_cost_usd: float
    probabilities: _containers.RepeatedCompositeFieldContainer[TaskProbability]
    stage: str
    margin: float
    in_distribution_score: float
    notes: _containers.RepeatedScalarFieldContainer[str]
    revision: str
    def __init__(self, id: _Optional[str] = ..., task: _Optional[str] = ..., confidence: _Optional[float] = ..., path: _Optional[str] = ..., kind: _Optional[str] = ..., reason: _Optional[str] = ..., considered: _Optional[_Iterable[_Union[Considered, _Mapping]]] = ..., expected_cost_usd: _Optional[float] = ..., probabilities: _Optional[_Iterable[_Union[TaskProbability, _Mapping]]] = ..., stage: _Optional[str] = ..., margin: _Optional[float] = ..., in_distribution_score: _Optional[float] = ..., notes: _Optional[_Iterable[str]] = ..., revision: _Optional[str] = ...) -> None: ...

class Considered(_message.Message):
    __slots__ = ("path", "outcome", "reason")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    path: str
    outcome: str
    reason: str
    def __init__(self, path: _Optional[str] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class TaskProbability(_message.Message):
    __slots__ = ("task", "probability")
    TASK_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    task: str
    probability: float
    def __init__(self, task: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "completion_tokens", "cached_tokens", "details")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    details: TokenDetails
    def __init__(self, prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., details: _Optional[_Union[TokenDetails, _Mapping]] = ...) -> None: ...

class TokenDetails(_message.Message):
    __slots__ = ("cache_write", "cache_write_1h", "prompt_audio", "prompt_image", "reasoning", "completion_audio", "completion_image", "service_tier", "is_estimate", "tool_requests")
    CACHE_WRITE_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_1H_FIELD_NUMBER: _ClassVar[int]
    PROMPT_AUDIO_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IMAGE_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_AUDIO_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_IMAGE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TIER_FIELD_NUMBER: _ClassVar[int]
    IS_ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    TOOL_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    cache_write: int
    cache_write_1h: int
    prompt_audio: int
    prompt_image: int
    reasoning: int
    completion_audio: int
    completion_image: int
    service_tier: str
    is_estimate: bool
    tool_requests: int
    def __init__(self, cache_write: _Optional[int] = ..., cache_write_1h: _Optional[int] = ..., prompt_audio: _Optional[int] = ..., prompt_image: _Optional[int] = ..., reasoning: _Optional[int] = ..., completion_audio: _Optional[int] = ..., completion_image: _Optional[int] = ..., service_tier: _Optional[str] = ..., is_estimate: _Optional[bool] = ..., tool_requests: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("usage", "cost_usd", "cost_parts_usd", "seconds", "outcome", "path", "sources", "escalated_from", "cached", "guardrails", "default_max_tokens")
    class CostPartsUsdEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class SecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    COST_PARTS_USD_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    ESCALATED_FROM_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    GUARDRAILS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    usage: Usage
    cost_usd: float
    cost_parts_usd: _containers.ScalarMap[str, float]
    seconds: _containers.ScalarMap[str, float]
    outcome: str
    path: str
    sources: _containers.RepeatedCompositeFieldContainer[Source]
    escalated_from: str
    cached: str
    guardrails: _containers.RepeatedCompositeFieldContainer[GuardrailVerdict]
    default_max_tokens: int
    def __init__(self, usage: _Optional[_Union[Usage, _Mapping]] = ..., cost_usd: _Optional[float] = ..., cost_parts_usd: _Optional[_Mapping[str, float]] = ..., seconds: _Optional[_Mapping[str, float]] = ..., outcome: _Optional[str] = ..., path: _Optional[str] = ..., sources: _Optional[_Iterable[_Union[Source, _Mapping]]] = ..., escalated_from: _Optional[str] = ..., cached: _Optional[str] = ..., guardrails: _Optional[_Iterable[_Union[GuardrailVerdict, _Mapping]]] = ..., default_max_tokens: _Optional[int] = ...) -> None: ...

class GuardrailVerdict(_message.Message):
    __slots__ = ("guardrail", "hook", "ruling", "found")
    GUARDRAIL_FIELD_NUMBER: _ClassVar[int]
    HOOK_FIELD_NUMBER: _ClassVar[int]
    RULING_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    guardrail: str
    hook: str
    ruling: str
    found: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, guardrail: _Optional[str] = ..., hook: _Optional[str] = ..., ruling: _Optional[str] = ..., found: _Optional[_Iterable[str]] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("document_id", "title", "score", "heading", "text", "start", "end", "url")
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    HEADING_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    document_id: str
    title: str
    score: float
    heading: str
    text: str
    start: int
    end: int
    url: str
    def __init__(self, document_id: _Optional[str] = ..., title: _Optional[str] = ..., score: _Optional[float] = ..., heading: _Optional[str] = ..., text: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., url: _Optional[str] = ...) -> None: ...

class RouteRequest(_message.Message):
    __slots__ = ("model", "messages", "metadata", "user", "include_prompt", "sampling")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    model: str
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    metadata: _containers.ScalarMap[str, str]
    user: str
    include_prompt: bool
    sampling: Sampling
    def __init__(self, model: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., user: _Optional[str] = ..., include_prompt: _Optional[bool] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ...) -> None: ...

class RouteResponse(_message.Message):
    __slots__ = ("decision", "prompt", "costs_usd", "user_words")
    class CostsUsdEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DECISION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    COSTS_USD_FIELD_NUMBER: _ClassVar[int]
    USER_WORDS_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    prompt: _containers.RepeatedCompositeFieldContainer[Message]
    costs_usd: _containers.ScalarMap[str, float]
    user_words: str
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., prompt: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., costs_usd: _Optional[_Mapping[str, float]] = ..., user_words: _Optional[str] = ...) -> None: ...

class FeedbackRequest(_message.Message):
    __slots__ = ("decision_id", "id", "rating", "correction", "right_task", "right_answer")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RATING_FIELD_NUMBER: _ClassVar[int]
    CORRECTION_FIELD_NUMBER: _ClassVar[int]
    RIGHT_TASK_FIELD_NUMBER: _ClassVar[int]
    RIGHT_ANSWER_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    id: str
    rating: float
    correction: str
    right_task: str
    right_answer: str
    def __init__(self, decision_id: _Optional[str] = ..., id: _Optional[str] = ..., rating: _Optional[float] = ..., correction: _Optional[str] = ..., right_task: _Optional[str] = ..., right_answer: _Optional[str] = ...) -> None: ...

class FeedbackResponse(_message.Message):
    __slots__ = ("stored", "known_already")
    STORED_FIELD_NUMBER: _ClassVar[int]
    KNOWN_ALREADY_FIELD_NUMBER: _ClassVar[int]
    stored: str
    known_already: bool
    def __init__(self, stored: _Optional[str] = ..., known_already: _Optional[bool] = ...) -> None: ...

class ListPathsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPathsResponse(_message.Message):
    __slots__ = ("paths", "models", "revision")
    PATHS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedCompositeFieldContainer[PathInfo]
    models: _containers.RepeatedScalarFieldContainer[str]
    revision: str
    def __init__(self, paths: _Optional[_Iterable[_Union[PathInfo, _Mapping]]] = ..., models: _Optional[_Iterable[str]] = ..., revision: _Optional[str] = ...) -> None: ...

class PathInfo(_message.Message):
    __slots__ = ("name", "kind", "model", "adapter", "strategies", "available", "why_not")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    STRATEGIES_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    WHY_NOT_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    model: str
    adapter: str
    strategies: _containers.RepeatedScalarFieldContainer[str]
    available: bool
    why_not: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., model: _Optional[str] = ..., adapter: _Optional[str] = ..., strategies: _Optional[_Iterable[str]] = ..., available: _Optional[bool] = ..., why_not: _Optional[str] = ...) -> None: ...
