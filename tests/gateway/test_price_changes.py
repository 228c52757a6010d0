"""Prices that change on a given day: a receipt uses the prices of its time, and so does a budget's reservation."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pointsman_gateway.config.models_file import ModelConfig, ModelsFile
from pointsman_gateway.domain import UNPRICED, Message, Request, TokenDetails, Usage
from pointsman_gateway.metering.pricing import Pricing
from pydantic import ValidationError

from tests.gateway.doubles.anthropic_api import Anthropic, ask, running_anthropic, site
from tests.gateway.doubles.gateway import Neighbours
from tests.gateway.doubles.prices import model

BASE = {"prompt": 2.0, "cached": 0.5, "completion": 8.0}
FLEX = {"prompt": 1.0, "cached": 0.25, "completion": 4.0}
HIGHER = {"prompt": 3.0, "cached": 0.75, "completion": 12.0, "cache_write": 3.75}
LOWER = {"prompt": 1.0, "cached": 0.1, "completion": 2.0}
CHANGES: list[dict[str, Any]] = [
    {"starting": "2027-01-01", "usd_per_million_tokens": HIGHER},
    {"starting": "2027-03-01", "usd_per_million_tokens": LOWER, "usd_per_request": 0.5},
]
USAGE = Usage(10, 1, 4)


class Clock:
    """A clock that a test sets."""

    def __init__(self, at: str) -> None:
        self.set(at)

    def set(self, at: str) -> None:
        self.seconds = datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.seconds


def pricing(clock: Clock, **more: Any) -> Pricing:
    models = {"m": model(BASE, **{"price_changes": CHANGES, **more})}
    return Pricing(ModelsFile(prices_as_of=date(2026, 11, 28), models=models, engines={}), clock=clock)


def test_an_answer_has_the_prices_of_its_day_which_begins_at_midnight_utc() -> None:
    clock = Clock("2026-12-31T23:59:59.9")
    prices = pricing(clock)
    assert prices.parts("m", USAGE) == {"prompt": 6 * 2_000_000, "cached": 4 * 500_000, "completion": 8_000_000}
    clock.set("2027-01-01T00:00:00")
    assert prices.parts("m", USAGE) == {"prompt": 6 * 3_000_000, "cached": 4 * 750_000, "completion": 12_000_000}
    clock.set("2027-03-02T12:00:00")
    assert prices.parts("m", USAGE) == {"prompt": 6 * 1_000_000, "cached": 4 * 100_000, "completion": 2_000_000}


def test_what_has_no_price_after_a_change_makes_the_cost_unknown() -> None:
    clock = Clock("2027-01-05T00:00:00")
    prices, written = pricing(clock), Usage(10, 1, details=TokenDetails(cache_write=5))
    assert prices.parts("m", written)["cache_write"] == 5 * 3_750_000
    clock.set("2027-03-01T00:00:00")
    assert prices.parts("m", written) == {UNPRICED: 0}


def test_the_price_of_a_request_changes_with_the_prices_and_stays_if_a_change_leaves_it_out() -> None:
    clock = Clock("2027-01-05T00:00:00")
    prices = pricing(clock, usd_per_request=0.25)
    prices.token_prices("m")
    assert prices.request("m") == 250_000_000_000
    clock.set("2027-03-01T00:00:00")
    prices.token_prices("m")
    assert prices.request("m") == 500_000_000_000


def test_a_service_tier_changes_with_the_other_prices() -> None:
    clock = Clock("2026-12-31T00:00:00")
    change = {"starting": "2027-01-01", "usd_per_million_tokens": HIGHER, "service_tiers": {"flex": LOWER}}
    prices = pricing(clock, service_tiers={"flex": FLEX}, price_changes=[change])
    flex = Usage(10, 1, details=TokenDetails(service_tier="flex"))
    assert prices.parts("m", flex)["prompt"] == 10 * 1_000_000
    assert prices.parts("m", flex)["completion"] == 4_000_000
    clock.set("2027-01-01T00:00:00")
    assert prices.parts("m", flex)["completion"] == 2_000_000


def test_a_budget_reserves_at_the_prices_of_the_day() -> None:
    clock, request = Clock("2026-12-31T00:00:00"), Request("m", (Message("user", "Hi"),))
    prices = pricing(clock)
    assert prices.highest_prices("m", request, 1) == (2_000_000, 8_000_000)
    clock.set("2027-01-01T00:00:00")
    assert prices.highest_prices("m", request, 1) == (3_750_000, 12_000_000)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"price_changes": CHANGES[::-1]}, "'starting' of price_changes must rise, and 2027-01-01 follows 2027-03-01"),
        ({"price_changes": [CHANGES[0], CHANGES[0]]}, "2027-01-01 follows 2027-01-01: sort them, and keep one"),
        ({"service_tiers": {"flex": FLEX}, "price_changes": CHANGES}, "2027-01-01 has no service tier 'flex'"),
        ({"price_changes": [{"starting": "2027-01-01"}]}, "usd_per_million_tokens"),
        ({"price_changes": [{**CHANGES[0], "starting": "soon"}]}, "valid date"),
        ({"price_changes": [{**CHANGES[0], "starting": "2027-13-01"}]}, "valid date"),
        (
            {"price_changes": [{**CHANGES[0], "usd_per_million_tokens": {**LOWER, "long_prompts": [
                {"above": 1000, **LOWER}]}}]},
            "no prompt has more than 1000 tokens",
        ),
    ],
)  # fmt: skip
def test_changes_that_contradict_each_other_are_rejected(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        ModelConfig.model_validate({"context_window": 1000, "usd_per_million_tokens": BASE, **more})
    assert message in str(error.value)


@pytest.fixture
async def anthropic() -> AsyncIterator[Anthropic]:
    async with running_anthropic() as double:
        yield double


async def test_a_receipt_is_priced_as_of_its_time(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours.config.models["prices_as_of"] = "2026-11-28"
    past, future = {"starting": "2026-01-01"}, {"starting": "2199-01-01"}
    changes = [past | {"usd_per_million_tokens": HIGHER}, future | {"usd_per_million_tokens": LOWER}]
    async with site(
        neighbours, anthropic, monkeypatch, usd_per_million_tokens=BASE, price_changes=changes, service_tiers={}
    ) as http:
        receipt = (await ask(http)).json()["pointsman"]
    assert receipt["cost_parts_usd"] == pytest.approx(
        {"prompt": 10 * 3e-6, "cached": 6 * 0.75e-6, "completion": 2 * 12e-6, "cache_write": 4 * 3.75e-6}
    )
