"""The values that describe an answer: its chunks, the events that a client receives, the outcome and the receipt.

Outcomes are a closed vocabulary: how a request can end, and which component caused a failure. Feedback on answers,
receipts and evaluations add up to the evidence on paths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from pointsman_gateway.domain.decision import Decision
from pointsman_gateway.domain.path import Path
from pointsman_gateway.domain.request import ANONYMOUS, Caller, Passage
from pointsman_gateway.domain.value import PICODOLLARS, UNPRICED, Usage, round_to_microseconds, value

UNFORESEEN = "unforeseen"
"""Replaces a code that is not in the vocabulary, such as that of a service newer than this gateway."""

GUARDRAIL_RULINGS = ("passed", "redacted", "unchecked", "unavailable", "blocked")
"""Ordered from the mildest to the severest. If the guardrail fails or times out, the ruling is "unchecked" (the text
passes) or "unavailable".
"""

OK, ROUTED, CANCELLED, INTERNAL = "ok", "routed", "cancelled", "internal"


class Fault(StrEnum):
    """The component that caused a failure. Service level objectives and alerts select by it."""

    NONE = "none"
    CALLER = "caller"
    LIMITS = "limits"
    GATEWAY = "gateway"
    ENGINE = "engine"
    ADAPTER = "adapter"
    RETRIEVER = "retriever"
    STATE = "state"


_BY_FAULT: Mapping[Fault, str] = {
    Fault.NONE: f"{OK} {ROUTED}",
    Fault.CALLER: f"""
        {CANCELLED} context_length_exceeded engine_refused unsupported_dimensions unsupported_input
        missing_model empty_messages bad_role bad_parameter bad_json body_too_large unknown_model
        unknown_route not_in_scope missing_key unknown_key revoked_key expired_key empty_prompt empty_input
        too_many_prompts unsupported_prompt unsupported_parameter unsupported_content unsupported_item unsupported_tool
        empty_feedback guardrail_blocked unknown_decision missing_decision_id unknown_task no_request_log bad_method
        bad_message message_too_complex unknown_path
        bad_alias bad_consent bad_limit bad_name bad_priority bad_scope bad_tenant bad_age no_examples call_too_large
        body_too_complex body_too_deep too_many_messages too_many_tools too_many_functions
        other_site unknown_host bad_content_type not_operator missing_token bad_token unknown_token role_too_low
        bad_expiry long_lived_token login_failed malformed_key missing_claim no_grant no_keys not_admin
        unknown_signing_key unknown_tenant wrong_algorithm thread_unsupported_request
    """,
    Fault.LIMITS: """
        requests_per_minute tokens_per_minute concurrent_streams dollars_per_day dollars_per_month quota_exceeded
        price_unknown too_many_logins
    """,
    Fault.GATEWAY: f"""
        {INTERNAL} {UNFORESEEN} overloaded shutting_down deadline_exceeded too_many_unknown_keys
        gateway_unavailable guardrail_unavailable prompt_failed wal_full wal_unwritable corrupt_classifier
        stale_classifier one_task invalid_batch bad_redis_url prefix_taken unreadable_record
        unknown_extension extension_not_importable issuer_unavailable worker_unavailable
    """,
    Fault.ENGINE: """
        engine_not_ready engine_error engine_overloaded engine_unavailable breaker_open
        connect_timeout first_token_timeout stream_idle_timeout engine_poisoned does_not_stop dns_failed
        model_not_served bad_api_key engine_store guard_refused no_guard no_lora no_runtime_loading
    """,
    Fault.ADAPTER: """
        adapter_not_resident lora_server_unavailable no_slot not_ready not_loaded unknown_version unknown_alias
        alias_moved not_warm placement_moved unknown_adapter
        bad_data bad_facts bad_option bad_path bad_report bad_samples bad_text bad_version bad_weight
        broke_off canary_is_stable cannot_answer contended differs_from_peft hash_mismatch in_use no_effect
        not_better not_finite not_retired nothing_to_roll_back path_outside peft_refused poisons_engine
        smoke_unavailable steps_out_of_order store_failed store_full store_unavailable too_many_jobs
        unknown_folder unknown_job unknown_schema_version wrong_base_model
        unsupported_feature rank_too_high unknown_module dora_not_exact unsafe_file absurd_scale missing_tensors
        unpaired_tensor unreadable wrong_rank wrong_shape
        bad_config bad_source bad_weights hub_refused hub_unreachable source_unavailable too_large unknown_source
    """,
    Fault.RETRIEVER: """
        nothing_relevant retriever_unavailable collection_busy collection_closed collection_damaged
        collection_exists collection_inconsistent data_folder_unusable data_in_use disk_failed disk_full
        disk_read_only document_too_large duplicate_document_id empty_document empty_metadata_key empty_query
        fingerprint_mismatch invalid_collection_name invalid_document_id invalid_filter
        invalid_least_dense invalid_neighbours invalid_source invalid_tenant invalid_top_k invalid_vector
        migration_running no_reranker not_a_collection query_too_large reranker_failed
        snapshot_damaged source_needed text_and_content text_too_long_for_a_vector too_late too_many_bad_lines
        too_many_documents
        filter_not_supported invalid_external_collection read_only_collection store_mismatch wrong_dimensions
        too_many_metadata_entries unknown_collection unknown_media_type unreadable_document
    """,
    Fault.STATE: "redis_unavailable keys_unavailable limits_contended",
}

OUTCOMES: Mapping[str, str] = {code: fault.value for fault, codes in _BY_FAULT.items() for code in codes.split()}
"""Each outcome's fault (a `Fault`'s value), unless the error itself names another."""


_FAULTS = frozenset(fault.value for fault in Fault)
_CALLER, _LIMITS, _GATEWAY = Fault.CALLER.value, Fault.LIMITS.value, Fault.GATEWAY.value


def is_failure(outcome: str) -> bool:
    """Returns whether a request failed. A client that disconnects is no failure."""
    return outcome not in (OK, ROUTED, CANCELLED)


class CodedError(Protocol):
    """An error with a code and an HTTP status, such as servicekit's `PointsmanError`."""

    @property
    def code(self) -> str: ...

    @property
    def http_status(self) -> int: ...

    @property
    def fault(self) -> str: ...


def outcome_of(code: str) -> str:
    """Returns the error code as an outcome, or `UNFORESEEN` if it is not in the vocabulary."""
    return code if code in OUTCOMES else UNFORESEEN


def fault_of(outcome: str, error: CodedError | None) -> str:
    """Returns the component at fault (a `Fault`'s value) for an outcome: "ok", "cancelled", or the code of `error`.

    The error may name it. Otherwise, if the status says that the caller asked for too much or for something impossible,
    the code does not matter.
    """
    if error is None:
        return OUTCOMES.get(outcome, _GATEWAY)
    if error.fault in _FAULTS:
        return error.fault
    if error.http_status == 429:
        return _LIMITS
    if error.http_status < 500:
        return _CALLER
    fault = OUTCOMES.get(error.code, _GATEWAY)
    # A caller's code with a status of 500 or more came from another service, or is a mistake of this one.
    return _GATEWAY if fault == _CALLER else fault


@dataclass(frozen=True, slots=True)
class GuardrailVerdict:
    """The result of one guardrail at one hook, over all texts of the request."""

    guardrail: str
    """The guardrail's name in the configuration."""
    hook: str
    """ "request", "prompt" or "response"."""
    ruling: str
    """One of `GUARDRAIL_RULINGS`."""
    found: tuple[str, ...] = ()
    """The kinds of the findings, sorted; never the text itself."""

    def __str__(self) -> str:
        found = f": {', '.join(self.found)}" if self.found else ""
        return f"guardrail {self.guardrail}: {self.hook} {self.ruling}{found}"


@dataclass(slots=True)
class Receipt:
    """The tokens, cost, time and outcome of a request that has a decision.

    It is treated as immutable; it is not frozen, because that would triple the time to construct it.
    """

    decision: Decision
    usage: Usage
    picodollars: Mapping[str, int]
    """Cost by component."""
    seconds: Mapping[str, float]
    """Duration by phase, and "first_token" and "total", both since the request's arrival."""
    outcome: str
    """ "ok", "routed", "cancelled" or an error's code; one of `OUTCOMES`."""
    sources: Sequence[Passage] = ()
    model: str = ""
    """The engine's name of the model that answered: the base model or an adapter version; empty if none did."""
    escalated_from: str = ""
    """The path whose answer was refused. The receipt includes its cost."""
    cached: str = ""
    """ "exact" or "semantic" if the answer came from the cache; empty if an engine made it."""
    fault: str = "none"
    request_id: str = ""
    guardrails: tuple[GuardrailVerdict, ...] = ()
    """Empty if no guardrail is configured."""
    cost_usd: float | None = field(init=False, repr=False, compare=False)
    """None if a model with an unknown price has worked."""
    _in_dollars: dict[str, float | None] | None = field(default=None, init=False, repr=False, compare=False)
    _rounded: dict[str, float] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        picodollars = self.picodollars
        self.cost_usd = None if UNPRICED in picodollars else sum(picodollars.values()) / PICODOLLARS

    @property
    def cost_parts_usd(self) -> dict[str, float | None]:
        """Returns the dollars by component, None if unknown; computed once for response and request log."""
        if self._in_dollars is None:
            self._in_dollars = {component: amount / PICODOLLARS for component, amount in self.picodollars.items()}
            if UNPRICED in self._in_dollars:
                self._in_dollars[UNPRICED] = None
        return self._in_dollars

    @property
    def rounded_seconds(self) -> dict[str, float]:
        """Returns the duration of each phase in seconds, rounded to microseconds; computed once."""
        if self._rounded is None:
            self._rounded = round_to_microseconds(self.seconds)
        return self._rounded


@dataclass(frozen=True, slots=True)
class UndecidedReceipt:
    """The receipt of a request without a decision: it was rejected, cancelled, or asked for embeddings."""

    request_id: str
    operation: str
    """ "chat", "completion", "route" or "embeddings"."""
    outcome: str
    fault: str
    seconds: Mapping[str, float]
    """As in `Receipt`."""
    caller: Caller = ANONYMOUS
    """The caller, if it was identified."""
    counts_as_request: bool = False
    """Whether the request counts in the usage of the caller's key."""
    model: str = ""
    """The configured name of the embedding model; empty for other operations."""
    usage: Usage = field(default_factory=Usage)
    picodollars: Mapping[str, int] = field(default_factory=dict)
    guardrails: tuple[GuardrailVerdict, ...] = ()
    notes: tuple[str, ...] = ()
    """Remarks, such as on a reported usage that cannot be."""

    @property
    def cost_usd(self) -> float:
        return sum(self.picodollars.values()) / PICODOLLARS


@dataclass(frozen=True, slots=True)
class Feedback:
    """Feedback on one answer, by its decision's id; at least one of the optional fields is set."""

    decision_id: str
    id: str = ""
    """Identifies this feedback: the same id sent twice counts once. If empty, it is derived from the content."""
    rating: float | None = None
    """0 (bad) to 1 (good)."""
    correction: str = ""
    """A description of what was wrong."""
    right_task: str = ""
    right_answer: str = ""
    tenant: str = ""
    """The tenant of whoever sent it; empty: no tenant, which may rate every answer."""


@dataclass(frozen=True, slots=True)
class PathEvidence:
    """Statistics of a path on one task, from feedback, receipts and evaluations: ratings, costs and latencies."""

    ratings: float = 0.0
    """The number of rated answers."""
    quality: float = 0.0
    """Their mean rating, 0 to 1."""
    answers: float = 0.0
    """The number of answers with a receipt."""
    p95_seconds: float = 0.0
    """From arrival to end."""
    mean_cost_usd: float = 0.0
    evaluated: float = 0.0
    """The number of rows that evaluations have scored."""
    score: float = 0.0
    """Their mean score, 0 to 1."""

    def with_evaluations(self, max_ratings: float) -> "PathEvidence":
        """Returns the evidence with its evaluated rows as at most `max_ratings` further ratings of their mean score.

        `evaluated` is then the number of ratings that are from evaluations.
        """
        if not self.evaluated:
            return self
        counted = min(self.evaluated, max_ratings)
        ratings = self.ratings + counted
        quality = (self.ratings * self.quality + counted * self.score) / (ratings or 1)
        return replace(self, ratings=ratings, quality=quality, evaluated=counted)


@dataclass(frozen=True, slots=True)
class PathScore:
    """The mean score of one path in an evaluation."""

    task: str
    path: Path
    model: str
    """What answered: the base model or an adapter version."""
    rows: int
    score: float
    """The mean over the rows, 0 to 1."""


class Chunk(msgspec.Struct, gc=False, eq=False):
    """One piece of an engine's answer, treated as immutable. Each answer has dozens, and a dataclass would take three
    times as long to construct."""

    index: int = 0
    content: str = ""
    finish_reason: str | None = None
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Other fields of the engine's choice: {"delta": {...}, "logprobs": ...} without content and role."""
    usage: Usage | None = None
    raw: bytes = b""
    """The engine's event as received (JSON), if it holds this choice alone; empty if it must not be forwarded."""
    event_count: int = 1
    """The number of engine events in this chunk: more than 1 if events that arrived together were joined."""

    def __eq__(self, other: object) -> bool:
        """Compares chunks by content, not by the bytes in `raw`."""
        return isinstance(other, Chunk) and self._content() == other._content()

    __hash__ = None  # type: ignore[assignment]  # a mapping among the fields cannot be hashed

    def _content(self) -> tuple[Any, ...]:
        return self.index, self.content, self.finish_reason, self.extra, self.usage


Chunks = tuple[Chunk, ...]
"""The chunks of one read from an engine's stream."""


@dataclass(frozen=True, slots=True)
class CompletedAnswer:
    """The whole text of one path's answer, with the validators' verdicts on it."""

    path: str
    text: str
    verdicts: tuple[tuple[str, str, str], ...] = ()
    """(validator, "accepted", "refused" or "unjudged", reason)."""


@value
class Started:
    """The first event of an answer: a path has been chosen and the engine begins to answer."""

    decision: Decision
    model: str
    overhead_seconds: float
    """From the request's arrival until it was sent to the engine, without retrieval."""
    cached: str = ""
    """As in the receipt."""
    limit_headers: Mapping[str, str] = field(default_factory=dict)
    """The state of the caller's limits, as HTTP headers."""


@value
class Finished:
    """The last event of an answer that came to its end."""

    finish_reason: str
    receipt: Receipt


Event = Started | Chunks | Finished
