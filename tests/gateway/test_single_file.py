"""The whole configuration may be one file: `examples/minimal` is loaded and served; errors name that file."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pointsman_gateway import bootstrap
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config, load_config

from tests.gateway.doubles.engine import answer, model_list, running_engine
from tests.gateway.doubles.process_gateway import process_gateway

DOCS = Path(__file__).parents[2] / "docs"
MINIMAL = Path(__file__).parents[2] / "examples" / "minimal"
IN_TRIAGE = "Please refund my ticket from Monday, booking AB12"
IN_QUESTION = "Are bicycles allowed on the train?"

Bend = Callable[[dict[str, Any]], object]


def written(folder: Path, bend: Bend = lambda data: None) -> Path:
    """Writes a copy of the example that `bend` has changed, and returns its path."""
    data = yaml.safe_load((MINIMAL / "pointsman.yaml").read_text())
    bend(data)
    file = folder / "pointsman.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return file


def load_and_check(at: Path) -> Config:
    config = load_config(at, {})
    bootstrap.check_config(config)
    return config


def test_the_example_has_at_most_thirty_lines_and_is_well() -> None:
    assert len((MINIMAL / "pointsman.yaml").read_text().splitlines()) <= 30
    config = load_and_check(MINIMAL)
    assert config.models.retrieval is None
    assert [example.text for example in config.examples["triage"]][1] == IN_TRIAGE
    assert load_and_check(MINIMAL / "pointsman.yaml").revision == config.revision


def test_the_configurations_on_the_how_to_page_are_well(tmp_path: Path) -> None:
    pages = "".join((DOCS / name).read_text() for name in ("own-vllm.md", "engines.md"))
    blocks = re.findall(r"^```yaml\n(.*?)^```", pages, re.MULTILINE | re.DOTALL)
    own, providers, sdk, _tuned, path, no_tasks = map(yaml.safe_load, blocks)
    assert load_data(tmp_path, own).models.engines["mine"].discovers_adapters
    assert load_data(tmp_path, providers).models.engines["azure"].upstream == "my-deployment"
    assert load_data(tmp_path, no_tasks).tasks.default_path == "default"
    providers["models"] |= sdk["models"]
    providers["engines"] |= sdk["engines"]
    assert load_data(tmp_path, providers).models.engines["cohere"].provider == "litellm/cohere"
    providers["paths"] |= path["paths"]
    providers["prompts"] = {"helper": "Answer in two sentences."}
    assert load_data(tmp_path, providers).paths.paths["triage"].extra_body == {"presence_penalty": 0.5}


def load_data(folder: Path, data: dict[str, Any]) -> Config:
    (folder / "pointsman.yaml").write_text(yaml.safe_dump(data))
    return load_and_check(folder)


async def test_the_example_is_served_and_answers_both_tasks(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine() as openai, running_engine() as vllm:
        vllm.lists = lambda: model_list("llama-3.1-8b", {"triage": "/loras/triage"})
        vllm.script = lambda body: answer('{"intent": "refund"}')
        openai.script = lambda body: answer("Yes", ".")
        for name, value in {"OPENAI_URL": openai.url, "VLLM_URL": vllm.url, "OPENAI_API_KEY": "sk-test"}.items():
            monkeypatch.setenv(name, value)
        settings = {"config": MINIMAL, "embedding_model": model_folder, "wal_dir": tmp_path / "wal"}
        async with process_gateway(tmp_path, **settings) as gateway, httpx.AsyncClient(base_url=gateway.url) as http:
            triage = await ask(http, IN_TRIAGE)
            question = await ask(http, IN_QUESTION)
        assert triage.headers["x-pointsman-path"] == "triage"
        assert triage.headers["x-pointsman-kind"] == "lora"
        assert vllm.bodies[-1]["model"] == "triage"
        assert question.headers["x-pointsman-path"] == "general"
        assert openai.bodies[-1]["model"] == "gpt-4o-mini"
        assert openai.system.startswith("You work at the help desk")
        assert openai.headers[-1]["authorization"] == "Bearer sk-test"
        # The price of the own model is unknown, which is null and never 0.
        assert triage.json()["pointsman"]["cost_usd"] is None
        assert triage.json()["pointsman"]["cost_parts_usd"] == {"unpriced": None}
        assert "x-pointsman-cost-usd" not in triage.headers
        assert question.json()["pointsman"]["cost_usd"] == pytest.approx(20 * 0.15e-6 + 2 * 0.6e-6)


async def ask(http: httpx.AsyncClient, text: str) -> httpx.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    response = await http.post("/v1/chat/completions", json=body, timeout=30)
    assert response.status_code == 200, response.text
    return response


def without_date(data: dict[str, Any]) -> None:
    del data["prices_as_of"]


def all_unknown(data: dict[str, Any]) -> None:
    without_date(data)
    for model in data["models"].values():
        model["usd_per_million_tokens"] = "unknown"


def test_a_configuration_without_prices_needs_no_date(tmp_path: Path) -> None:
    assert load_and_check(written(tmp_path, all_unknown)).models.prices_as_of is None


def looking_up(data: dict[str, Any]) -> None:
    data["prompts"]["passages"] = "{% for p in passages %}{{ p.text }}{% endfor %}"
    data["paths"]["general"]["strategies"].append({"retrieval": {"collection": "c", "top_k": 1, "prompt": "passages"}})


def choosing_by_cost(data: dict[str, Any]) -> None:
    data["tasks"]["triage"]["policy"] = {"best_value": {"paths": ["general", "triage"], "quality_floor": 0.5}}


def shadowed(data: dict[str, Any]) -> None:
    data["tasks"]["triage"]["shadow"] = {"paths": ["general"], "usd_per_day": 1}


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        (without_date, "pointsman.yaml: 'prices_as_of' is missing"),
        (lambda d: d.update(routes={}), "pointsman.yaml: unknown key 'routes'; known here: prices_as_of, models,"),
        (lambda d: d["tasks"]["triage"].update(fallback=["none"]), "pointsman.yaml: task 'triage' names path 'none'"),
        (lambda d: d["tasks"]["triage"].update(examples=["x", ""]), "pointsman.yaml: task 'triage': example 2 must be"),
        (lambda d: d["tasks"]["triage"].update(examples=[{"txt": "x"}]), "unknown key 'tasks.triage.examples.0.txt'"),
        (lambda d: d["models"]["llama-3.1-8b"].update(usd_per_million_tokens="free"), "write {prompt: DOLLARS, cached"),
        (lambda d: d["models"]["llama-3.1-8b"].update(usd_per_million_tokens=None), "completion: DOLLARS}, or unknown"),
        (lambda d: d["models"]["llama-3.1-8b"].pop("usd_per_million_tokens"), "usd_per_million_tokens' is missing"),
        (looking_up, "pointsman.yaml: 'retrieval' is missing: path 'general' looks something up"),
        (choosing_by_cost, "best_value compares costs, and the price of 'llama-3.1-8b' (path 'triage') is unknown"),
        (shadowed, "shadow compares costs, and the price of 'llama-3.1-8b' (path 'triage') is unknown"),
        (lambda d: d.update(config="config"), "says that the configuration is in"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, bend: Bend, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_and_check(written(tmp_path, bend).parent)
    assert message in str(error.value)


def test_one_file_or_three(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "paths.yaml").write_text("paths: {}")
    with pytest.raises(ConfigError, match=r"has pointsman.yaml and paths.yaml; the configuration is one file or three"):
        load_config(tmp_path, {})


def test_a_prompt_in_the_file_and_in_the_folder_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "helper").write_text("Hello.")
    with pytest.raises(ConfigError, match=r"prompt 'helper' is in pointsman\.yaml and in"):
        load_config(tmp_path, {})
