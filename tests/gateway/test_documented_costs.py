"""The usage that providers' documentation shows costs what their list prices say, to the last digit."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.providers import preset_of, provider_at
from pointsman_gateway.domain import PICODOLLARS, Usage
from pointsman_gateway.engines.dialects.registry import ENGINE_DIALECTS
from pointsman_gateway.metering.pricing import Pricing

from tests.gateway.doubles.anthropic_api import ended, started, text, written

CASES = yaml.safe_load(Path(__file__).with_name("documented_usage.yaml").read_text())


def prices_for(case: dict[str, Any]) -> Pricing:
    """Returns the listed prices of the engine's model, or those that the case states."""
    named = dict(case["engine"])
    upstream = named.pop("model")
    model: dict[str, Any] = {"upstream": upstream}
    if "usd_per_tool_request" in case:
        model["usd_per_tool_request"] = case["usd_per_tool_request"]
    if "usd_per_million_tokens" in named:
        model |= {"context_window": 10**6, "usd_per_million_tokens": named.pop("usd_per_million_tokens")}
    return Pricing(
        ModelsFile.model_validate(
            {
                "prices_as_of": "2026-11-28",
                "models": {"m": model},
                "engines": {"e": {"model": "m", "api_key_env": "KEY", **named}},
            }
        )
    )


def usage_read(case: dict[str, Any]) -> Usage | None:
    """Returns the usage as it is read from the end of a stream in the provider's format."""
    engine, usage = case["engine"], case["usage"]
    dialect = ENGINE_DIALECTS[preset_of(engine.get("provider") or provider_at(engine["url"])).dialect]
    if dialect.name == "anthropic":
        stream = written([started(**usage), *text("Hi"), *ended(output_tokens=usage["output_tokens"])])
    else:
        event = {"choices": [], "usage": usage, "service_tier": case.get("service_tier")}
        stream = b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(event).encode()
    return dialect.reader(False, 1).read(stream)[-1].usage


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_published_usage_costs_what_the_price_list_says(case: dict[str, Any]) -> None:
    usage = usage_read(case)
    assert usage is not None
    assert sum(prices_for(case).parts("m", usage).values()) == case["picodollars"]
    if "reported_usd" in case:
        assert case["picodollars"] == round(case["reported_usd"] * PICODOLLARS)
