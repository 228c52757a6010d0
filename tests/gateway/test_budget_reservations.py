"""A budget reserves the cost that a request has if its tokens are of the most expensive kinds; the settlement uses the
real kinds."""

import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_gateway.domain import UNPRICED, Message, Path, Request, Sampling, TokenDetails, Usage
from pointsman_gateway.domain.usage import detailed
from pointsman_gateway.metering.expected_cost import CostEstimator
from pointsman_gateway.metering.pricing import Pricing
from pointsman_gateway.tenancy.reservation import LeasedReservation
from pointsman_servicekit.errors import ResourceExhausted
from pointsman_servicekit.keys.records import PICO, Limits

from tests.gateway.doubles.prices import price_sets, pricing
from tests.gateway.doubles.tenancy import Times, counter_at, issue
from tests.gateway.doubles.valkey import Valkey

PATH = Path("p", "m")
BASE = {"prompt": 2.0, "cached": 0.5, "completion": 8.0}
BREAKPOINT = frozenset({("blocks", "cache_control")})


def request(prompt: int, answer: int, **more: Any) -> Request:
    """Returns a request with these estimated numbers of tokens."""
    sampling = Sampling(max_tokens=answer, extra=more.pop("extra", {}), anthropic=more.pop("anthropic", None))
    return Request("m", (Message("user", "abcd" * prompt),), sampling, **more)


def most(prices: dict[str, Any], asked: Request, **model: Any) -> float:
    usd = CostEstimator(pricing(prices, **model)).most_usd(PATH, asked)
    assert usd is not None
    return round(usd * 1e6, 9)


def test_only_kinds_that_the_request_can_incur_are_reserved() -> None:
    prices = BASE | {"cache_write": 2.5, "cache_write_1h": 4.0, "prompt_audio": 40.0, "completion_audio": 80.0}
    assert most(prices, request(10, 5)) == 10 * 2.5 + 5 * 8
    assert most(prices, request(10, 5, uncommon=BREAKPOINT)) == 10 * 4 + 5 * 8
    assert most(prices, request(10, 5, anthropic={"cache_control": {"type": "ephemeral"}})) == 10 * 4 + 5 * 8
    assert most(prices, request(10, 5, media=frozenset({"audio"}))) == 10 * 40 + 5 * 8
    assert most(prices, request(10, 5, extra={"modalities": ["text", "audio"]})) == 10 * 2.5 + 5 * 80


def test_a_service_tier_is_reserved_if_the_request_may_get_it() -> None:
    tiers = {"priority": {"prompt": 4.0, "cached": 1.0, "completion": 16.0}, "flex": {**BASE, "prompt": 1.0}}
    certain = (("default", 2), ("standard_only", 2), ("flex", 2), ("priority", 4))
    chosen_by_the_provider = ((None, 4), ("auto", 4), ("unheard-of", 4))  # OpenAI's projects have a tier of their own
    for tier, prompt in (*certain, *chosen_by_the_provider):
        assert most(BASE, request(10, 0, extra={"service_tier": tier}), service_tiers=tiers) == 10 * prompt


def test_a_request_and_its_searches_are_reserved_too() -> None:
    assert most(BASE, request(0, 0), usd_per_request=0.25) == 250_000


@st.composite
def asked_and_used(draw: st.DrawFn) -> tuple[Request, Usage]:
    """Generates a request, and a usage within its estimates, of the kinds of tokens that it can incur."""
    prompt, answer = draw(st.integers(0, 1000)), draw(st.integers(0, 1000))
    media = draw(st.sets(st.sampled_from(["audio", "image"])))
    modalities = draw(st.lists(st.sampled_from(["text", "audio", "image"]), max_size=2))
    breakpoints = draw(st.booleans())
    tier = draw(st.sampled_from(["", "flex", "auto", "default"]))
    asked = request(
        prompt,
        answer,
        media=frozenset(media),
        uncommon=BREAKPOINT if breakpoints else frozenset(),
        extra={"modalities": modalities, "service_tier": tier},
    )
    counts = {kind: draw(st.integers(0, 500)) for kind in ("cache_write", "reasoning")}
    counts |= {f"prompt_{medium}": draw(st.integers(0, 500)) for medium in media}
    counts |= {f"completion_{medium}": draw(st.integers(0, 500)) for medium in set(modalities) - {"text"}}
    if breakpoints:
        counts["cache_write_1h"] = draw(st.integers(0, 500))
    got = draw(st.sampled_from(["", "flex"])) if tier != "default" else ""
    details = TokenDetails(service_tier=got, **counts)  # type: ignore[arg-type]  # the counts have its fields' names
    used, written = draw(st.integers(0, prompt)), draw(st.integers(0, answer))
    return asked, detailed(used, written, draw(st.integers(0, 500)), details)


@given(price_sets(), price_sets(), asked_and_used(), st.integers(0, 3))
def test_no_answer_within_its_estimates_costs_more_than_was_reserved(
    standard: dict[str, Any], flex: dict[str, Any], both: tuple[Request, Usage], searches: int
) -> None:
    asked, used = both
    longest: dict[str, Any] = {"long_prompts": []}  # a prompt that is shorter than estimated may have another price
    prices = pricing(standard | longest, service_tiers={"flex": flex | longest})
    reserved = CostEstimator(prices).most_usd(PATH, asked)
    parts = prices.parts("m", used)
    assert reserved is not None
    if UNPRICED not in parts:
        assert sum(parts.values()) <= reserved * PICO * (1 + 1e-12) + len(parts)  # each part is rounded


@pytest.mark.parametrize("seed", range(3))
async def test_spending_stays_within_the_budget_of_several_gateways_with_cache_writes_and_failovers(
    valkey: Valkey, seed: int
) -> None:
    tiers = {"priority": {kind: 2 * price for kind, price in BASE.items()} | {"cache_write_1h": 8.0}}
    prices: Pricing = pricing(BASE | {"cache_write": 2.5, "cache_write_1h": 4.0}, service_tiers=tiers)
    costs, draw, budget = CostEstimator(prices), random.Random(seed), 0.04
    issued = await issue(valkey.url, Limits(dollars_per_day=budget))
    spent = refused = failovers = 0

    def used_by(asked: Request) -> Usage:
        """A usage within the estimates, with any number of tokens that are written for an hour, and any tier."""
        details = TokenDetails(cache_write_1h=draw.randrange(200), service_tier=draw.choice(["", "priority"]))
        return detailed(asked.characters // 4, asked.sampling.max_tokens or 0, draw.randrange(9), details)

    async with AsyncExitStack() as stack:
        times = Times()
        gateways = [await stack.enter_async_context(counter_at(valkey.url, times)) for _ in range(3)]
        callers = [await gateway.caller(issued) for gateway in gateways]
        open_requests: list[tuple[LeasedReservation, Request, Usage]] = []
        for _ in range(600):
            at = draw.randrange(3)
            asked = request(draw.randrange(200), draw.randrange(50), uncommon=BREAKPOINT)
            hold = await gateways[at].let_in(callers[at])
            assert hold is not None
            lost = Usage()
            try:
                await hold.afford(costs.most_usd(PATH, asked))
                if draw.random() < 0.2:  # the answer breaks off and is charged, and another path is paid in addition
                    lost = used_by(asked)
                    await hold.afford(costs.most_usd(PATH, asked))
                    failovers += 1
                open_requests.append((hold, asked, lost))
            except ResourceExhausted:
                refused += 1
                picodollars = sum(prices.parts("m", lost).values())
                spent += picodollars
                hold.settle(lost, picodollars / PICO, "dollars_per_day")
            while open_requests and (len(open_requests) > 8 or draw.random() < 0.5):
                hold, asked, lost = open_requests.pop(draw.randrange(len(open_requests)))
                used = used_by(asked)
                picodollars = sum(sum(prices.parts("m", of).values()) for of in (used, lost))
                spent += picodollars
                hold.settle(used + lost, picodollars / PICO, "ok")
            assert spent <= budget * PICO
    assert refused > 0
    assert failovers > 5
    assert spent > 0.5 * budget * PICO


async def test_of_an_unknown_cost_all_that_was_reserved_is_charged(valkey: Valkey) -> None:
    issued = await issue(valkey.url, Limits(dollars_per_day=1.0))
    async with counter_at(valkey.url, Times()) as counter:
        caller = await counter.caller(issued)
        hold = await counter.let_in(caller)
        assert hold is not None
        await hold.afford(0.75)
        hold.settle(Usage(5, 5, details=TokenDetails(cache_write=5)), None, "ok")
        following = await counter.let_in(caller)
        assert following is not None
        with pytest.raises(ResourceExhausted, match="dollars a day"):
            await following.afford(0.5)
        await following.afford(0.2)
