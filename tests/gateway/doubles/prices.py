"""Price tables of a model "m": those that a test writes, and random ones by Hypothesis."""

from datetime import date
from typing import Any

from hypothesis import strategies as st
from pointsman_gateway.config.models_file import ModelConfig, ModelsFile
from pointsman_gateway.domain.usage import TOKEN_KINDS
from pointsman_gateway.metering.pricing import Pricing


def model(prices: dict[str, Any], **more: Any) -> ModelConfig:
    return ModelConfig.model_validate({"context_window": 1000, "usd_per_million_tokens": prices, **more})


def pricing(prices: dict[str, Any], **more: Any) -> Pricing:
    return Pricing(ModelsFile(prices_as_of=date(2026, 11, 28), models={"m": model(prices, **more)}, engines={}))


whole_prices = st.integers(0, 10**5).map(lambda millionths: millionths / 1000)


@st.composite
def price_sets(draw: st.DrawFn) -> dict[str, Any]:
    kinds = ["prompt", "cached", "completion", *draw(st.sets(st.sampled_from(TOKEN_KINDS)))]
    limits = sorted(draw(st.sets(st.integers(1, 900), max_size=3)))
    prices = [{kind: draw(whole_prices) for kind in kinds} for _ in range(len(limits) + 1)]
    return prices[0] | {"long_prompts": [{"above": a, **of} for a, of in zip(limits, prices[1:], strict=True)]}
