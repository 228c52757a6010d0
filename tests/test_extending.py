"""The examples of docs/extending.md, each found by its entry point and as `module:attribute`."""

from pathlib import Path

import pytest
import yaml
from pointsman_gateway import bootstrap
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config, load_config
from pointsman_gateway.domain import AUTO, Message, Request
from pointsman_gateway.extensions import (
    GUARDRAILS,
    POLICIES,
    STRATEGIES,
    VALIDATORS,
    Choice,
    Draft,
    Finding,
    GuardedText,
)
from pointsman_gateway.prompts.templates import PromptTemplates
from pointsman_lora_server.training.methods.registry import ENTRY_POINT_GROUP as TRAINING_METHODS
from pointsman_lora_server.training.methods.registry import installed_methods, load_method
from pointsman_retriever.external import stores
from pointsman_retriever.index import vector_stores
from pointsman_retriever.rerank import rerankers
from pointsman_scoring import MetricError, is_user_metric, metric_from, spec_from_text
from pointsman_scoring.registry import ENTRY_POINT_GROUP as METRICS

from tests.extension_examples import ENTRY_POINTS, PACKAGE, PAGE, ROOT, blocks, configuration, install, names
from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.extensions import Situation, strategy_context


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)


@pytest.fixture
def config_folder(tmp_path: Path) -> ConfigFolder:
    return ConfigFolder(tmp_path / "config")


def load(folder: ConfigFolder) -> Config:
    config = load_config(folder.write(), {})
    bootstrap.check_config(config)
    return config


def request(text: str) -> Request:
    return Request(AUTO, (Message("user", text),))


def test_the_page_shows_or_links_each_example() -> None:
    files = {file for file in PACKAGE.glob("pointsman_examples/*.py") if file.stem != "__init__"}
    shown = {file for file in files if file.read_text("utf-8") in blocks("python")}
    assert len(shown) == len(blocks("python"))
    linked = {file for file in files if f"(../{file.relative_to(ROOT)})" in PAGE}
    assert shown | linked == files - {PACKAGE / "pointsman_examples" / "external_store.py"}
    (entry_points,) = blocks("toml")
    assert entry_points in (PACKAGE / "pyproject.toml").read_text("utf-8")


def test_there_is_an_example_for_each_entry_point_group() -> None:
    retriever = {stores.GROUP, vector_stores.GROUP}
    gateway = {registry.group for registry in (POLICIES, STRATEGIES, VALIDATORS, GUARDRAILS)}
    assert set(ENTRY_POINTS) == {*gateway, METRICS, rerankers.GROUP, *retriever, TRAINING_METHODS}


@pytest.mark.parametrize("name", names("pointsman.policies"))
def test_a_policy(config_folder: ConfigFolder, name: str) -> None:
    config_folder.tasks["triage"]["policy"] = configuration("policy", name)
    policy = load(config_folder).tasks.tasks["triage"].policy.build()
    assert policy.plan(Situation(request=request("x" * 500))).paths == ("triage_adapter",)
    assert policy.plan(Situation(request=request("x" * 501))).paths == ("triage_few_shot",)


@pytest.mark.parametrize("name", names("pointsman.policies"))
def test_an_error_in_the_options_of_a_policy_names_the_key(config_folder: ConfigFolder, name: str) -> None:
    config_folder.tasks["triage"]["policy"] = {
        name: {"short": "triage_adapter", "long": "triage_few_shot", "max_characters": 0}
    }
    with pytest.raises(ConfigError) as refused:
        load(config_folder)
    assert f"tasks.triage.policy.{name}.max_characters" in str(refused.value)


@pytest.mark.parametrize("name", names("pointsman.strategies"))
async def test_a_strategy(config_folder: ConfigFolder, name: str) -> None:
    config_folder.paths["small_talk"]["strategies"] = configuration("strategies", name)
    (strategy,) = load(config_folder).paths.paths["small_talk"].strategies
    draft = await strategy.build(strategy_context(PromptTemplates({}))).apply(Draft(request("x"), None))
    assert draft.messages()[0].content.startswith("Today is ")


@pytest.mark.parametrize("name", names("pointsman.validators"))
def test_a_validator(config_folder: ConfigFolder, name: str) -> None:
    config_folder.tasks["triage"]["validators"] = configuration("validators", name)
    (config,) = load(config_folder).tasks.tasks["triage"].validators
    validator = config.build()
    assert validator.objection(Choice("word " * 40)) is None
    assert validator.objection(Choice("word " * 41)) == "41 words, at most 40 are allowed"


@pytest.mark.parametrize("name", names("pointsman.guardrails"))
async def test_a_guardrail(config_folder: ConfigFolder, name: str) -> None:
    (entry,) = [block["guardrails"] for block in map(yaml.safe_load, blocks("yaml")) if "guardrails" in block]
    ((_, options),) = entry[0]["check"].items()
    config_folder.rest_of_tasks["guardrails"] = [{**entry[0], "check": {name: options}}]
    (guardrail,) = bootstrap.validation.to_guardrails(load(config_folder), None)
    texts = [GuardedText("user", "Where is it?"), GuardedText("user", "In atlantis.")]
    assert await guardrail.guardrail.find("request", texts) == [Finding("FORBIDDEN_WORD", 1, 3, 11)]


@pytest.mark.parametrize("name", names("pointsman.metrics"))
def test_a_metric(config_folder: ConfigFolder, name: str) -> None:
    spec = configuration("metric", name)
    config_folder.tasks["triage"]["metric"] = spec
    metric = load(config_folder).tasks.tasks["triage"].metric
    assert metric is not None
    assert metric.name == name
    assert is_user_metric(name)
    for built in (metric_from(spec), metric_from(spec_from_text(f"{name}=0.5"))):
        assert [built.score(answer, "4") for answer in ("4.5", "4.6", "four")] == [1, 0, 0]
        with pytest.raises(MetricError, match="'four', not a number"):
            built.score("4", "four")


@pytest.mark.parametrize("name", names("pointsman.training_methods"))
def test_a_training_method(name: str) -> None:
    method = load_method(name)
    assert (method.name, method.peft_options()) == ("gaussian_lora", {"init_lora_weights": "gaussian"})
    assert "gaussian_lora" in installed_methods()
    with pytest.raises(ValueError, match=r"known: lora, .*gaussian_lora"):
        load_method("gausian_lora")
