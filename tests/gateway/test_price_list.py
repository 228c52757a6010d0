"""Models of providers have listed prices; a model that is not listed needs a price, or the statement that it is
unknown."""

from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.config.models_file import ModelConfig, ModelsFile
from pointsman_gateway.config.providers import find_price, providers
from pointsman_gateway.config.token_prices import Prices
from pointsman_servicekit.prices import prices_as_of

MINIMAL = Path(__file__).parents[2] / "examples" / "minimal" / "pointsman.yaml"
PRICE_LIST = files("pointsman_servicekit").joinpath("prices.yaml")
PRICES = {"prompt": 1.0, "cached": 0.5, "completion": 2.0}


def models(model: dict[str, Any], *engines: dict[str, Any], **more: Any) -> ModelsFile:
    """Returns a models file with one model, called "m"."""
    named = {f"e{number}": {"model": "m", "api_key_env": "KEY", **engine} for number, engine in enumerate(engines)}
    return ModelsFile.model_validate({"models": {"m": model}, "engines": named, **more})


def test_a_listed_model_needs_neither_price_nor_context_window_nor_date() -> None:
    file = models({"upstream": "gpt-4o-mini"}, {"provider": "openai"})
    prices = Prices(prompt=0.15, cached=0.075, completion=0.6)
    priority = {"priority": Prices(prompt=0.25, cached=0.125, completion=1.0)}
    assert file.models["m"] == ModelConfig(
        upstream="gpt-4o-mini", context_window=128000, usd_per_million_tokens=prices, service_tiers=priority
    )
    assert file.prices_as_of == prices_as_of() >= date(2026, 11, 28)


def test_what_is_written_counts_more_than_the_list() -> None:
    file = models(
        {"upstream": "gpt-4o-mini", "usd_per_million_tokens": PRICES}, {"provider": "openai"}, prices_as_of="2026-01-01"
    )
    assert file.models["m"].usd_per_million_tokens == Prices.model_validate(PRICES)
    assert file.models["m"].context_window == 128000
    unknown = models({"upstream": "gpt-4o-mini", "usd_per_million_tokens": "unknown"}, {"provider": "openai"})
    assert (unknown.models["m"].usd_per_million_tokens, unknown.prices_as_of) == (None, None)


def test_the_list_states_cache_writes_long_prompts_and_service_tiers() -> None:
    (claude,) = models({"upstream": "claude-haiku-4-5"}, {"provider": "anthropic"}).models.values()
    assert claude.usd_per_million_tokens == Prices(
        prompt=1.0, cached=0.1, completion=5.0, cache_write=1.25, cache_write_1h=2.0
    )
    (gemini,) = models({"upstream": "gemini-2.5-pro"}, {"provider": "gemini"}).models.values()
    assert gemini.usd_per_million_tokens is not None
    assert [(longer.above, longer.prompt) for longer in gemini.usd_per_million_tokens.long_prompts] == [(200_000, 2.5)]
    assert gemini.service_tiers["flex"].long_prompts[0].completion == 7.5
    (haiku,) = models({"upstream": "claude-haiku-5-5"}, {"provider": "anthropic"}).models.values()
    assert haiku.usd_per_million_tokens is not None
    assert [(longer.above, longer.prompt) for longer in haiku.usd_per_million_tokens.long_prompts] == [(100_000, 0.5)]
    own = {"flex": {"prompt": 1.0, "cached": 1.0, "completion": 1.0}}
    (kept,) = models({"upstream": "gemini-2.5-pro", "service_tiers": own}, {"provider": "gemini"}).models.values()
    assert kept.service_tiers == {"flex": Prices.model_validate(own["flex"])}


def test_azures_deployments_have_openais_prices_if_the_model_has_its_name() -> None:
    azure = {"provider": "azure", "resource": "r", "upstream": "my-deployment", "model": "gpt-4o", "api_key_env": "K"}
    file = ModelsFile.model_validate({"models": {"gpt-4o": {}}, "engines": {"azure": azure}})
    prices = file.models["gpt-4o"].usd_per_million_tokens
    assert prices is not None
    assert prices.prompt == 2.5


@pytest.mark.parametrize(
    ("model", "engines", "more", "message"),
    [
        ({}, [{"provider": "openai"}], {}, "'models.m.usd_per_million_tokens' is missing, and the price list does not"),
        ({"context_window": 1}, [{"url": "http://x"}], {}, "write {prompt: DOLLARS, cached: DOLLARS, completion:"),
        ({"usd_per_million_tokens": "unknown"}, [{"url": "http://x"}], {}, "'models.m.context_window' is missing"),
        (
            {"upstream": "openai/gpt-oss-120b"}, [{"provider": "groq"}, {"provider": "together"}], {},
            "is missing, and its providers' prices differ",
        ),
        (
            {"upstream": "gpt-4o"}, [{"provider": "openai", "usd_per_hour": 1}], {},
            "'prices_as_of' is missing: the day on which the prices were last checked",
        ),
    ],
)  # fmt: skip
def test_a_price_that_is_missing_is_named(
    model: dict[str, Any], engines: list[dict[str, Any]], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="m") as error:
        models(model, *engines, **more)
    assert message in str(error.value)


def test_the_minimal_example_may_leave_its_prices_to_the_list(tmp_path: Path) -> None:
    data = yaml.safe_load(MINIMAL.read_text())
    data["models"]["gpt-4o-mini"] = {}
    del data["prices_as_of"]
    file = tmp_path / "pointsman.yaml"
    file.write_text(yaml.safe_dump(data))
    assert load_config(file, {}).models.models["gpt-4o-mini"].context_window == 128000
    data["models"]["llama-3.1-8b"] = {"context_window": 8192}
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=r"'models.llama-3.1-8b.usd_per_million_tokens' is missing"):
        load_config(file, {})


def test_every_listed_model_is_a_valid_configuration() -> None:
    lists = yaml.safe_load(PRICE_LIST.read_text())
    for provider, listed in lists["models"].items():
        assert lists["further"].get(provider, {}).keys() <= listed.keys()
        for name in listed:
            options = {"region": "eu-west-1"} if provider == "bedrock" else {}
            (model,) = models({"upstream": name}, {"provider": provider, **options}).models.values()
            assert ModelConfig.model_validate(model.model_dump(exclude_unset=True)) == model


def test_each_listed_price_is_plausible() -> None:
    for provider in providers():
        for name in ("gpt-4o", "claude-haiku-4-5", "gemini-2.5-flash", "mistral-small-latest", "deepseek-chat"):
            listed = find_price(provider, [name])
            if listed is not None:
                assert 0 < listed.cached <= listed.prompt <= listed.completion < 1000, (provider, name)
                assert listed.context_window >= 1000, (provider, name)
