"""Outcomes of requests, and the component that is at fault for each."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

UNFORESEEN = "unforeseen"
"""The outcome in metrics and receipts for an unknown error code, such as one of an extension: metrics need a fixed set
of codes.
"""

OK, ROUTED, CANCELLED, INTERNAL = "ok", "routed", "cancelled", "internal"


class Fault(StrEnum):
    """The component at fault for a failed request, by which alerts and service level objectives count failures; "none"
    if the request did not fail.
    """

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
        missing_model empty_messages bad_role bad_parameter bad_json bad_text body_too_large unknown_model
        unknown_route not_in_scope missing_key unknown_key revoked_key expired_key empty_prompt empty_input
        too_many_prompts unsupported_prompt unsupported_parameter unsupported_content unsupported_item unsupported_tool
        empty_feedback guardrail_blocked unknown_decision missing_decision_id unknown_task unknown_path
        no_request_log no_records bad_message message_too_complex
        bad_consent bad_limit bad_name bad_priority bad_scope bad_tenant no_examples
        body_too_complex body_too_deep too_many_messages too_many_tools too_many_functions
        other_site unknown_host bad_content_type not_operator missing_token bad_token unknown_token role_too_low
        bad_expiry long_lived_token login_failed malformed_key missing_claim no_grant no_keys not_admin
        unknown_signing_key unknown_tenant wrong_algorithm thread_unsupported_request
    """,
    Fault.LIMITS: """
        requests_per_minute tokens_per_minute concurrent_streams dollars_per_day dollars_per_month
        price_unknown too_many_logins
    """,
    Fault.GATEWAY: f"""
        {INTERNAL} {UNFORESEEN} overloaded shutting_down deadline_exceeded too_many_unknown_keys
        gateway_unavailable guardrail_unavailable prompt_failed wal_full wal_unwritable corrupt_classifier
        stale_classifier one_task prefix_taken unreadable_record
        unknown_extension extension_not_importable issuer_unavailable worker_unavailable records_unavailable
    """,
    Fault.ENGINE: """
        engine_not_ready engine_error engine_overloaded engine_unavailable breaker_open
        connect_timeout first_token_timeout stream_idle_timeout dns_failed kubernetes_api_failed model_not_served
        picker_no_endpoint picker_shed picker_unavailable
    """,
    Fault.ADAPTER: "adapter_not_resident lora_server_unavailable",
    Fault.RETRIEVER: "nothing_relevant reranker_failed retriever_unavailable",
    Fault.STATE: "redis_unavailable keys_unavailable limits_contended contended",
}


OUTCOMES: Mapping[str, str] = {code: fault.value for fault, codes in _BY_FAULT.items() for code in codes.split()}
"""The component at fault (a value of `Fault`) for each outcome of a request that the gateway itself produces.

The codes of other services' errors are not listed: the client of the service sets the error's attribute `fault`, which
`fault_of` reads first.
"""


_FAULTS = frozenset(fault.value for fault in Fault)


_CALLER, _LIMITS, _GATEWAY = Fault.CALLER.value, Fault.LIMITS.value, Fault.GATEWAY.value


def is_failure(outcome: str) -> bool:
    """Returns whether `outcome` is an error's code, and not "ok", "routed" (only the decision) or "cancelled" (by the
    client).
    """
    return outcome not in (OK, ROUTED, CANCELLED)


class CodedError(Protocol):
    """Interface of an error for the functions of this module: its code, HTTP status and fault. Servicekit's
    `PointsmanError` implements it.
    """

    @property
    def code(self) -> str: ...

    @property
    def http_status(self) -> int: ...

    @property
    def fault(self) -> str: ...


def outcome_of(outcome: str, error: CodedError | None) -> str:
    """Returns the outcome as it is stored in receipts and metrics: `outcome`, or "unforeseen" for an unknown error
    code.

    `outcome` is the code of `error`, or "ok" or the like without an error. Codes of `OUTCOMES` are known, and also
    those of errors that state their own `fault`.
    """
    if outcome in OUTCOMES or (error is not None and error.fault in _FAULTS):
        return outcome
    return UNFORESEEN


def fault_of(outcome: str, error: CodedError | None) -> str:
    """Returns the component at fault, a value of `Fault`.

    * Without an error: the component that `OUTCOMES` states for `outcome`; "gateway" if the outcome is unknown.
    * An error whose own `fault` is a value of `Fault`: that value.
    * Any other error with the status 429: "limits"; with another status below 500: "caller".
    * Any other error with a status of 500 or more: the component that `OUTCOMES` states for its code; "gateway" if that
      is the caller, or if the code is unknown.
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
    # A caller's code with a status of 500 or more is a mistake of this service.
    return _GATEWAY if fault == _CALLER else fault
