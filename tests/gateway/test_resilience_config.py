"""The resilience settings in models.yaml: defaults, settings of an engine, and invalid values."""

from typing import Any

import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.engines.engine_settings import engine_settings

from tests.gateway.doubles.config_folder import ConfigFolder


def models(config_folder: ConfigFolder) -> ModelsFile:
    return load_config(config_folder.write()).models


def test_the_defaults_are_timeouts_a_breaker_and_retries_without_hedging(config_folder: ConfigFolder) -> None:
    plan = engine_settings(models(config_folder))["local"]
    assert (plan.timeouts.connect_seconds, plan.timeouts.first_token_seconds, plan.timeouts.stream_idle_seconds) == (
        2,
        60,
        60,
    )
    assert (plan.breaker.enabled, plan.breaker.consecutive_failures, plan.breaker.open_duration_seconds) == (True, 5, 5)
    resilience = models(config_folder).resilience
    assert (resilience.retries.max_retries, resilience.retries.budget_ratio, resilience.hedge_after_seconds) == (
        2,
        0.2,
        None,
    )


def test_an_engines_own_settings_override_the_common_ones(config_folder: ConfigFolder) -> None:
    config_folder.models["resilience"] = {
        "timeouts": {"connect_seconds": 1, "stream_idle_seconds": 9},
        "breaker": {"consecutive_failures": 3},
    }
    config_folder.models["engines"]["local"] |= {"timeouts": {"stream_idle_seconds": 4}, "breaker": {"enabled": False}}
    plan = engine_settings(models(config_folder))["local"]
    assert (plan.timeouts.connect_seconds, plan.timeouts.first_token_seconds, plan.timeouts.stream_idle_seconds) == (
        1,
        60,
        4,
    )
    assert (plan.breaker.enabled, plan.breaker.consecutive_failures) == (False, 3)


def test_an_engine_keeps_its_state_if_only_timeouts_change(config_folder: ConfigFolder) -> None:
    before = models(config_folder).engines["local"]
    config_folder.models["engines"]["local"] |= {
        "timeouts": {"stream_idle_seconds": 4},
        "breaker": {"consecutive_failures": 9},
    }
    after = models(config_folder).engines["local"]
    assert before != after
    assert before.identity == after.identity
    config_folder.models["engines"]["local"]["lora_server"] = "127.0.0.1:2"
    assert models(config_folder).engines["local"].identity != before.identity


@pytest.mark.parametrize(
    ("resilience", "message"),
    [
        ({"timeout": {}}, "unknown key 'resilience.timeout'; known here: timeouts, breaker, retries"),
        ({"timeouts": {"first_token_seconds": 0}}, "'resilience.timeouts.first_token_seconds'"),
        ({"breaker": {"failure_rate": 2}}, "'resilience.breaker.failure_rate'"),
        ({"retries": {"budget_ratio": -1}}, "'resilience.retries.budget_ratio'"),
        ({"hedge_after_seconds": 0}, "'resilience.hedge_after_seconds'"),
        ({"load_bound": 0.5}, "'resilience.load_bound'"),
    ],
)
def test_invalid_settings_are_rejected_by_name(
    config_folder: ConfigFolder, resilience: dict[str, Any], message: str
) -> None:
    config_folder.models["resilience"] = resilience
    with pytest.raises(ConfigError) as refused:
        load_config(config_folder.write())
    assert message in str(refused.value)
