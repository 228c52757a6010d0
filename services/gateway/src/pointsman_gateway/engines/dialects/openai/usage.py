"""Reads the token counts of OpenAI-compatible engines, which name the kinds of tokens in different ways."""

from collections.abc import Mapping
from typing import Any

from pointsman_gateway.domain import EngineSeconds, TokenDetails, Usage
from pointsman_gateway.domain.usage import detailed
from pointsman_gateway.engines.dialects.openai.schema import AnyEvent, Event, PromptDetails, UsageFields
from pointsman_gateway.engines.dialects.token_kinds import (
    WEB_SEARCHES,
    cache_writes,
    count_in,
    service_tier_of,
    to_count,
)

_NO_PROMPT_DETAILS = PromptDetails()


def to_usage(event: Event | AnyEvent, is_estimate: bool = False) -> Usage:
    """Returns an event's token counts and the seconds that the engine reports. The event's `usage` must not be None.

    `is_estimate` says that the answer goes on after the event, so that the counts are not final.
    """
    usage, metrics = event.usage, event.metrics
    assert usage is not None
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details is not None else None
    seconds = _engine_seconds(metrics) if isinstance(metrics, dict) else None
    prompt, completion = usage.prompt_tokens, usage.completion_tokens or 0
    if (
        not is_estimate
        and event.service_tier is None
        and usage.completion_tokens_details is None
        and usage.cache_creation_input_tokens is None
        and usage.server_tool_use is None
        and not (usage.num_sources_used or usage.num_search_queries)
        and usage.total_tokens in (None, prompt + completion)
        and (details is None or details == PromptDetails(cached))
        and (cached is not None or (usage.prompt_cache_hit_tokens is None and usage.cached_tokens is None))
    ):
        return Usage(prompt, completion, min(cached or 0, prompt), seconds)
    if cached is None:
        cached = to_count(usage.prompt_cache_hit_tokens) or to_count(usage.cached_tokens)
    # xAI and Gemini leave reasoning tokens, which they charge like others, out of the completion's count.
    uncounted = max(0, to_count(usage.total_tokens) - prompt - completion)
    special = _details(event, usage, uncounted, is_estimate)
    return detailed(prompt, completion + uncounted, cached, special, seconds)


def _details(event: Event | AnyEvent, usage: UsageFields, uncounted: int, is_estimate: bool) -> TokenDetails:
    prompt, completion = usage.prompt_tokens_details or _NO_PROMPT_DETAILS, usage.completion_tokens_details
    counts = (prompt.cache_write_tokens, prompt.cache_creation_tokens, prompt.cache_creation_input_tokens)
    written = max(map(to_count, (*counts, usage.cache_creation_input_tokens)))
    usual, one_hour = cache_writes(written, prompt.cache_creation_token_details or prompt.cache_creation)
    return TokenDetails(
        cache_write=usual,
        cache_write_1h=one_hour,
        prompt_audio=to_count(prompt.audio_tokens),
        prompt_image=to_count(prompt.image_tokens),
        reasoning=max(count_in(completion, "reasoning_tokens"), uncounted),
        completion_audio=count_in(completion, "audio_tokens"),
        completion_image=count_in(completion, "image_tokens"),
        service_tier=service_tier_of(event.service_tier),
        is_estimate=is_estimate,
        tool_requests=max(
            count_in(usage.server_tool_use, WEB_SEARCHES),
            *map(to_count, (prompt.web_search_requests, usage.num_sources_used, usage.num_search_queries)),
        ),
    )


def _engine_seconds(metrics: Mapping[str, Any]) -> EngineSeconds:
    """Converts vLLM's per-request metrics, which are in milliseconds, to seconds.

    vLLM sends them with --enable-per-request-metrics and for a single choice. The time to the first token starts when
    vLLM schedules the request; the generation time is from the first to the last token.
    """
    names = ("queue_time_ms", "time_to_first_token_ms", "generation_time_ms")
    queue, prefill, generation = [value if isinstance(value := metrics.get(n), int | float) else None for n in names]
    return EngineSeconds(
        queue=None if queue is None else queue / 1000,
        inference=None if prefill is None or generation is None else (prefill + generation) / 1000,
    )
