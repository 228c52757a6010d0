"""The cost of tokens on own hardware, compared with a provider's list price."""

from collections.abc import Callable
from typing import Any

import pytest
from pointsman_cli.advise.live import hardware_cost, hardware_lines
from pointsman_cli.errors import CommandError
from pointsman_cli.top.metrics import Scrape, parse_metrics
from pointsman_servicekit.prices import PricedModel, named_price

Cli = Callable[..., Any]
PRICE = PricedModel(128_000, prompt=1.0, cached=0.5, completion=4.0)


def scrape(busy: float, idle: float, prompt: int = 2_000_000, more: str = "") -> Scrape:
    text = f"""
# TYPE pointsman_engine_cost_usd_total counter
pointsman_engine_cost_usd_total{{engine="local",path="chat"}} {busy}
pointsman_engine_cost_usd_total{{engine="local",path="idle"}} {idle}
# TYPE pointsman_tokens_total counter
pointsman_tokens_total{{path="chat",type="prompt"}} {prompt}
pointsman_tokens_total{{path="chat",type="cached"}} {prompt}
pointsman_tokens_total{{path="chat",type="completion"}} {prompt // 2}
pointsman_tokens_total{{path="chat",type="replayed"}} 9000000
pointsman_tokens_total{{path="bought",type="prompt"}} 9000000
{more}"""
    return parse_metrics(text, 0.0, ("pointsman_",))


def test_idle_time_is_paid_for_and_the_providers_price_is_of_the_same_tokens() -> None:
    cost = hardware_cost(scrape(busy=2.0, idle=8.0), "some", PRICE)
    assert cost.tokens == {"prompt": 2e6, "cached": 2e6, "completion": 1e6}
    assert cost.utilisation == pytest.approx(0.2)
    assert cost.own_usd_per_million == pytest.approx(2.0)
    assert cost.own_usd_per_million_at_full_use == pytest.approx(0.4)
    assert cost.list_usd_per_million == pytest.approx(7 / 5)
    assert cost.break_even_utilisation == pytest.approx(0.2 * 10 / 7)
    assert "from 28.6% utilisation" in "\n".join(hardware_lines(cost, "2026-11-28"))


def test_at_the_break_even_utilisation_both_cost_the_same() -> None:
    now = hardware_cost(scrape(busy=2.0, idle=8.0), "some", PRICE)
    factor = now.break_even_utilisation / now.utilisation
    then = hardware_cost(scrape(2.0 * factor, 10 - 2.0 * factor, round(2_000_000 * factor)), "some", PRICE)
    assert then.own_usd_per_million == pytest.approx(then.list_usd_per_million, rel=1e-5)


def test_dear_hardware_never_pays() -> None:
    cost = hardware_cost(scrape(busy=20.0, idle=0.0), "some", PRICE)
    assert "break-even: never" in "\n".join(hardware_lines(cost, "2026-11-28"))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (parse_metrics("pointsman_up 1", 0.0, ("pointsman_",)), "usd_per_hour"),
        (scrape(busy=0.0, idle=1.0), "answered nothing yet"),
        (scrape(busy=1.0, idle=1.0, prompt=0), "answered nothing yet"),
    ],
)
def test_without_a_price_or_answers_the_reason_is_given(found: Scrape, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        hardware_cost(found, "some", PRICE)


def test_models_are_named_as_in_the_price_list(cli: Cli) -> None:
    assert named_price("mistral-small-latest") == PricedModel(262_144, 0.15, 0.015, 0.6)
    assert named_price("gpt-4o-mini") == named_price("openai/gpt-4o-mini")
    outcome = cli("advise", "--against", "gpt-4o-miny")
    assert outcome.code == 2
    assert "similar: gpt-4o-mini" in outcome.err
