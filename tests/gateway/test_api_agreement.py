"""All APIs report the same tokens and cost for any engine answer, however its bytes are split."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings

from tests.gateway.doubles.answers import Answer
from tests.gateway.doubles.api_clients import API_CLIENTS, ApiClient, open_api_client
from tests.gateway.doubles.config_folder import IN_CHAT, PRICES
from tests.gateway.doubles.engine_scripts import Script, scripts
from tests.gateway.doubles.gateway import Gateway
from tests.gateway.doubles.raw_engine import RawEngine, running_raw_engine

WINDOW = 4096
"""The configured model's context window in tokens."""


@pytest.fixture
async def engine() -> AsyncIterator[RawEngine]:
    async with running_raw_engine() as engine:
        yield engine


@pytest.fixture
async def apis(gateway: Gateway) -> AsyncIterator[dict[str, ApiClient]]:
    async with AsyncExitStack() as stack:
        opening = {name: open_api_client(name, gateway.url, gateway.grpc_address) for name in API_CLIENTS}
        yield {name: await stack.enter_async_context(api) for name, api in opening.items()}


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(script=scripts())
async def test_stream_plain_and_grpc_report_the_same(
    apis: dict[str, ApiClient], engine: RawEngine, script: Script
) -> None:
    engine.says(*script.pieces)
    got = {name: await api.ask(IN_CHAT, "tiny", n=len(script.choices), logprobs=True) for name, api in apis.items()}
    for name, answer in got.items():
        assert list(answer.choices) == list(script.choices), name
        assert comparable(answer) == comparable(got["http"]), name
    if script.usage:
        answer = got["http"]
        possible = possible_usage(*script.usage, choices=len(script.choices))
        assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == possible
        assert answer.cost_usd == pytest.approx(float(dollars(*possible)), rel=1e-12)


def comparable(answer: Answer) -> Answer:
    """Returns the answer with only one finish reason, that of the last choice to end, because a gRPC stream of several
    choices reports no more.
    """
    return answer if len(answer.choices) == 1 else replace(answer, finish_reason="")


def possible_usage(prompt: int, completion: int, cached: int, choices: int) -> tuple[int, int, int]:
    """Returns the prompt, completion and cached tokens that the gateway charges for the counts that an engine reports.

    A prompt, and each of the `choices` completions, can have at most `WINDOW` tokens, the model's context window; of a
    larger count the rest is not charged. Cached tokens are part of the prompt.
    """
    prompt = min(prompt, WINDOW)
    return prompt, min(completion, choices * WINDOW), min(cached, prompt)


def dollars(prompt: int, completion: int, cached: int) -> Fraction:
    """Computes the exact cost from the price list."""
    prices = {name: Fraction(price) / 1_000_000 for name, price in PRICES.items()}
    return (prompt - cached) * prices["prompt"] + cached * prices["cached"] + completion * prices["completion"]
