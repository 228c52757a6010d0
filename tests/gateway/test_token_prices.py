"""Prices by kind of token, length of the prompt and service tier; a kind without a price makes the cost unknown."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_gateway.config.models_file import ModelConfig
from pointsman_gateway.domain import UNPRICED, TokenDetails, Usage
from pointsman_gateway.domain.usage import COMPLETION_KINDS, PROMPT_KINDS, TOKEN_KINDS
from pydantic import ValidationError

from tests.gateway.doubles.anthropic_api import Anthropic, ask, ended, running_anthropic, site, started, text
from tests.gateway.doubles.gateway import Neighbours
from tests.gateway.doubles.prices import price_sets, pricing

BASE = {"prompt": 2.0, "cached": 0.5, "completion": 8.0}
LONG = {"above": 100, "prompt": 4.0, "cached": 1.0, "completion": 12.0}
SERVED = ("", "flex")


def cost(prices: dict[str, Any], usage: Usage, **more: Any) -> dict[str, int]:
    return pricing(prices, **more).parts("m", usage)


def test_each_kind_has_its_own_price() -> None:
    prices = BASE | {
        "cache_write": 2.5,
        "cache_write_1h": 4,
        "prompt_audio": 40,
        "reasoning": 9,
        "completion_image": 30,
    }
    details = TokenDetails(10, 20, 5, reasoning=3, completion_image=4)
    assert cost(prices, Usage(100, 10, 30, details=details)) == {
        "prompt": 35 * 2_000_000, "cached": 30 * 500_000, "completion": 3 * 8_000_000, "cache_write": 10 * 2_500_000,
        "cache_write_1h": 20 * 4_000_000, "prompt_audio": 5 * 40_000_000, "reasoning": 3 * 9_000_000,
        "completion_image": 4 * 30_000_000,
    }  # fmt: skip


def test_reasoning_costs_what_the_completion_costs_unless_it_has_a_price() -> None:
    parts = cost(BASE, Usage(10, 10, details=TokenDetails(reasoning=7)))
    assert parts == {"prompt": 10 * 2_000_000, "cached": 0, "completion": 10 * 8_000_000}


@pytest.mark.parametrize(
    ("details", "named"),
    [
        (TokenDetails(cache_write=1), "a price of cache_write"),
        (TokenDetails(cache_write_1h=1, completion_audio=2), "a price of cache_write_1h, completion_audio"),
        (TokenDetails(service_tier="flex"), "a price of service tier 'flex'"),
    ],
)
def test_a_kind_without_a_price_makes_the_cost_unknown_and_is_named(details: TokenDetails, named: str) -> None:
    usage = Usage(10, 10, details=details)
    assert cost(BASE, usage) == {UNPRICED: 0}
    assert named in pricing(BASE).missing_price("m", usage)


def test_requests_to_tools_of_the_provider_are_billed_apart() -> None:
    usage = Usage(10, 10, details=TokenDetails(tool_requests=2))
    assert cost(BASE, usage, usd_per_tool_request=0.01)["tool"] == 2 * 10_000_000_000
    assert cost(BASE, usage, usd_per_tool_request=0)["tool"] == 0
    assert "tool" not in cost(BASE, Usage(10, 10), usd_per_tool_request=0.01)
    assert cost(BASE, usage) == cost(BASE, Usage(details=usage.details)) == {UNPRICED: 0}
    assert "lacks a price of tool requests (usd_per_tool_request)" in pricing(BASE).missing_price("m", usage)


def test_a_longer_prompt_has_other_prices_as_a_whole() -> None:
    prices = BASE | {"long_prompts": [LONG, LONG | {"above": 200, "prompt": 6.0}]}
    assert [cost(prices, Usage(tokens, 1))["prompt"] // tokens for tokens in (100, 101, 200, 201)] == [
        2_000_000, 4_000_000, 4_000_000, 6_000_000,
    ]  # fmt: skip
    assert cost(prices, Usage(101, 2, 60)) == {
        "prompt": 41 * 4_000_000, "cached": 60 * 1_000_000, "completion": 2 * 12_000_000,
    }  # fmt: skip


def test_a_service_tier_has_its_own_prices() -> None:
    flex = {"prompt": 1.0, "cached": 0.3, "completion": 4.0}
    usage = Usage(10, 10, 4, details=TokenDetails(service_tier="flex"))
    assert cost(BASE, usage, service_tiers={"flex": flex}) == {
        "prompt": 6_000_000,
        "cached": 1_200_000,
        "completion": 40_000_000,
    }


@pytest.mark.parametrize(
    ("given_model", "message"),
    [
        ({"usd_per_million_tokens": BASE | {"cache_write": -1}}, "greater than or equal to 0"),
        ({"usd_per_million_tokens": BASE | {"cache_write": float("inf")}}, "finite"),
        ({"usd_per_million_tokens": BASE | {"cash_write": 1}}, "cash_write"),
        (
            {"usd_per_million_tokens": BASE | {"long_prompts": [LONG, LONG]}},
            "'above' of long_prompts must rise, and 100 follows 100",
        ),
        (
            {"usd_per_million_tokens": BASE | {"long_prompts": [LONG | {"above": 300}, LONG]}},
            "'above' of long_prompts must rise, and 100 follows 300",
        ),
        (
            {"usd_per_million_tokens": BASE | {"cache_write": 3, "long_prompts": [LONG]}},
            "'cache_write' has no price for longer prompts, and one for the others: write both, or none (above: 100)",
        ),
        (
            {"usd_per_million_tokens": BASE | {"long_prompts": [LONG | {"prompt_audio": 3}]}},
            "'prompt_audio' has no price for shorter prompts",
        ),
        (
            {"usd_per_million_tokens": BASE | {"long_prompts": [LONG | {"above": 1000}]}},
            "no prompt has more than 1000 tokens, since the context window has 1000",
        ),
        (
            {"usd_per_million_tokens": "unknown", "service_tiers": {"flex": BASE}},
            "the standard prices are unknown",
        ),
        (
            {"usd_per_million_tokens": BASE, "service_tiers": {"flex": BASE, "default": BASE}},
            "'default' in service_tiers is the standard tier, whose prices are usd_per_million_tokens",
        ),
        (
            {"usd_per_million_tokens": BASE, "service_tiers": {"auto": BASE}},
            "'auto' in service_tiers is no tier that answers: write those that the provider chooses among",
        ),
        (
            {
                "usd_per_million_tokens": BASE,
                "price_changes": [
                    {"starting": "2027-01-01", "usd_per_million_tokens": BASE, "service_tiers": {"standard": BASE}}
                ],
            },
            "'standard' in service_tiers is the standard tier",
        ),
        ({"usd_per_request": -0.1}, "greater than or equal to 0"),
    ],
)  # fmt: skip
def test_prices_that_contradict_each_other_are_rejected(given_model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        ModelConfig.model_validate({"context_window": 1000, **given_model})
    assert message in str(error.value)


@pytest.fixture
async def anthropic() -> AsyncIterator[Anthropic]:
    async with running_anthropic() as double:
        yield double


async def test_the_listed_price_of_a_cache_write_is_charged(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 1}
    anthropic.events = [started(cache_creation=writes), *text("Hello"), *ended()]
    async with site(neighbours, anthropic, monkeypatch) as http:
        receipt = (await ask(http)).json()["pointsman"]
    assert receipt["cost_parts_usd"] == {
        "prompt": 10e-6, "cached": 6e-7, "completion": 10e-6, "cache_write": 3.75e-6, "cache_write_1h": 2e-6,
    }  # fmt: skip


async def test_a_missing_price_is_named_in_the_notes_and_the_price_of_a_request_is_charged(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours.config.models["prices_as_of"] = "2026-11-28"
    async with site(neighbours, anthropic, monkeypatch, usd_per_million_tokens=BASE, usd_per_request=0.01) as http:
        receipt = (await ask(http)).json()["pointsman"]
        anthropic.events = [started(cache_creation_input_tokens=0), *text("Hello"), *ended()]
        known = (await ask(http)).json()["pointsman"]
    assert receipt["cost_usd"] is None
    assert receipt["cost_parts_usd"] == {"unpriced": None, "request": 0.01}
    assert known["cost_parts_usd"]["request"] == 0.01
    assert known["cost_usd"] == pytest.approx(0.01 + 10 * 2e-6 + 6 * 5e-7 + 2 * 8e-6)


# -- any usage and prices, against a calculation of its own


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    tokens = st.integers(0, 300)
    count: dict[str, Any] = {kind: draw(st.one_of(st.just(0), tokens)) for kind in TOKEN_KINDS}
    cached, prompt, completion = draw(tokens), draw(tokens), draw(tokens)
    details = replace(TokenDetails(**count), service_tier=draw(st.sampled_from((*SERVED, "priority"))))
    return Usage(
        prompt + cached + sum(count[kind] for kind in PROMPT_KINDS),
        completion + sum(count[kind] for kind in COMPLETION_KINDS),
        cached,
        details=None if details == TokenDetails() else details,
    )


def expected_picodollars(tiers: dict[str, dict[str, Any]], usage: Usage) -> int | None:
    if not usage.prompt_tokens and not usage.completion_tokens:
        return 0
    details = usage.details or TokenDetails()
    prices = tiers.get(details.service_tier)
    if prices is None:
        return None
    for longer in prices["long_prompts"]:
        prices = longer if usage.prompt_tokens > longer["above"] else prices
    total = 0
    plain_prompt, plain_completion = usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens
    for kind in TOKEN_KINDS:
        count = getattr(details, kind)
        if kind == "reasoning" and kind not in prices:
            continue
        if count and kind not in prices:
            return None
        total += count * round(prices.get(kind, 0) * 10**6)
        plain_prompt -= count if kind in PROMPT_KINDS else 0
        plain_completion -= count if kind in COMPLETION_KINDS else 0
    plain = ((plain_prompt, "prompt"), (usage.cached_tokens, "cached"), (plain_completion, "completion"))
    return total + sum(count * round(float(prices[kind]) * 10**6) for count, kind in plain)


@given(price_sets(), price_sets(), usages())
def test_any_usage_costs_what_an_independent_calculation_says(
    standard: dict[str, Any], flex: dict[str, Any], usage: Usage
) -> None:
    parts = cost(standard, usage, service_tiers={"flex": flex})
    known = None if UNPRICED in parts else sum(parts.values())
    assert known == expected_picodollars({"": standard, "flex": flex}, usage)
