"""A configuration folder is loaded and checked as a whole, or an error says what would be valid."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway import bootstrap
from pointsman_gateway.__main__ import check
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config, load_config
from pointsman_gateway.domain import Kind

from tests.flywheel.company import write as write_company
from tests.gateway.doubles.config_folder import ConfigFolder

EXAMPLE = Path(__file__).parents[2] / "examples" / "helpdesk" / "config"


def load_and_check(folder: Path) -> Config:
    config = load_config(folder, {})
    bootstrap.check_config(config)
    return config


def test_a_valid_folder_is_loaded(config_folder: ConfigFolder) -> None:
    config = load_and_check(config_folder.write())
    assert list(config.paths.paths) == list(config_folder.paths)
    prices = config.models.models["tiny"].usd_per_million_tokens
    assert prices
    assert prices.completion == 4.0
    assert config.examples["triage"][0].output == '{"intent": "lost_item"}'
    assert config.examples["chat"][0].output is None
    assert config.prompts["persona.txt"] == "You are Wren."


def test_the_help_desks_configuration_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(EXAMPLE) == 0
    assert "8 paths, 5 tasks, all well" in capsys.readouterr().out


def test_an_output_that_is_an_object_becomes_one_line_of_json(config_folder: ConfigFolder) -> None:
    folder = config_folder.write()
    (folder / "tasks" / "chat.jsonl").write_text('{"text": "Hé", "output": {"a": "é"}}\n\n{"text": "Ho"}\n')
    assert [(e.text, e.output) for e in load_config(folder, {}).examples["chat"]] == [
        ("Hé", '{"a": "é"}'),
        ("Ho", None),
    ]


def test_unchanged_examples_are_shared_with_the_earlier_configuration(config_folder: ConfigFolder) -> None:
    earlier = load_config(config_folder.write(), {})
    (config_folder.folder / "tasks" / "chat.jsonl").write_text(
        """{"text": "Good evening"}\n{"text": "Good morning"}\n"""
    )
    read = load_config(config_folder.folder, {})
    shared = read.sharing_examples(earlier)
    assert shared == read
    assert [name for name, rows in shared.examples.items() if rows is not earlier.examples[name]] == ["chat"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("small_talk", Kind.PROMPT),
        ("triage_few_shot", Kind.PROMPT),
        ("handbook", Kind.RAG),
        ("triage_adapter", Kind.LORA),
        ("letter", Kind.HYBRID),
        ("adapter_few_shot", Kind.HYBRID),
        ("adapter_persona", Kind.LORA),
    ],
)
def test_a_paths_kind_follows_from_its_strategies_and_adapter(
    config_folder: ConfigFolder, path: str, kind: Kind
) -> None:
    for name, like in [("adapter_few_shot", "triage_few_shot"), ("adapter_persona", "small_talk")]:
        config_folder.paths[name] = config_folder.paths[like] | {"adapter": "triage@prod"}
    config = load_and_check(config_folder.write())
    assert bootstrap.to_path(path, config.paths.paths[path], config).kind is kind


def _set(part: str, *keys: str | int, to: object) -> Callable[[ConfigFolder], None]:
    def bend(config: ConfigFolder) -> None:
        inner = getattr(config, part)
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return bend


def _drop(part: str, *keys: str) -> Callable[[ConfigFolder], None]:
    def bend(config: ConfigFolder) -> None:
        inner = getattr(config, part)
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return bend


FREE = {"prompt": 0, "cached": 0, "completion": 0}
SEVERAL = [{"persona": {"prompt": "persona.txt"}, "zero_shot": {"prompt": "answer.txt"}}]
TWICE = [{"persona": {"prompt": "persona.txt"}}, {"persona": {"prompt": "persona.txt"}}]
FEW = {"few_shot": {"task": "policy", "count": 1}}
NO_SUCH_TASK = {"few_shot": {"task": "sonnets", "count": 1}}
NO_SUCH_COLLECTION_KEY = {"retrieval": {"collections": "handbook", "prompt": "passages.txt"}}


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        # models.yaml
        (
            _set("models", "models", "größe", to={"context_window": 9, "usd_per_million_tokens": FREE}),
            "'models.größe.[key]': String should match pattern '^[!-~]{1,200}$' (it is 'größe')",
        ),
        (
            _set("models", "models", "a\r\nx-injected: 1", to={"context_window": 9, "usd_per_million_tokens": FREE}),
            "String should match pattern '^[!-~]{1,200}$'",
        ),
        (
            _set("models", "embeddings", to={"two words": {"usd_per_million_tokens": 1, "local": True}}),
            "String should match pattern '^[!-~]{1,200}$' (it is 'two words')",
        ),
        (
            _drop("models", "models", "tiny", "usd_per_million_tokens", "cached"),
            "models.yaml: 'models.tiny.usd_per_million_tokens.cached' is missing",
        ),
        (
            _set("models", "models", "tiny", "usd_per_million_tokens", "prompt", to=-1),
            "'models.tiny.usd_per_million_tokens.prompt': Input should be gr",
        ),
        (_drop("models", "retrieval"), "models.yaml: 'retrieval' is missing"),
        (_set("models", "engines", "local", "model", to="huge"), "engine 'local' serves model 'huge'; known: tiny"),
        (
            _set(
                "models",
                "models",
                "idle",
                to={"context_window": 1, "usd_per_million_tokens": {"prompt": 1, "cached": 1, "completion": 1}},
            ),
            "models.yaml: no engine serves model 'idle'",
        ),
        (_set("models", "engines", "local", "url", to="http://x"), "an engine has either a lora_server"),
        (_set("models", "engines", "local", to={"model": "tiny"}), "an engine has either a lora_server"),
        # paths.yaml
        (_set("paths", "handbook", "model", to="huge"), "path 'handbook' names model 'huge'; known: tiny"),
        (
            _set("paths", "small_talk", "strategies", 0, "persona", "prompt", to="wren.txt"),
            "path 'small_talk' names prompt 'wren.txt'; known: answer.txt, passages.txt, persona.txt, steps.txt, tri",
        ),
        (
            _set("paths", "small_talk", "strategies", to=[NO_SUCH_TASK]),
            "path 'small_talk' names the examples of task 'sonnets'; known: chat, policy, triage",
        ),
        (
            _set("paths", "small_talk", "strategies", to=[FEW]),
            "path 'small_talk' wants 1 examples of task 'policy' that",
        ),
        (
            _set("paths", "small_talk", "strategies", to=TWICE),
            "path 'small_talk' has a strategy twice: persona, persona",
        ),
        (
            _set("paths", "small_talk", "strategies", to=SEVERAL),
            "an entry names one strategy, as {NAME: OPTIONS}; known: zero_shot, persona",
        ),
        (
            _set("paths", "small_talk", "strategies", to=[NO_SUCH_COLLECTION_KEY]),
            "unknown key 'paths.small_talk.strategies.0.retrieval.collections'; known here: collection, top_k",
        ),
        (
            _set("paths", "small_talk", "temprature", to=1),
            "unknown key 'paths.small_talk.temprature'; known here: model, a",
        ),
        (_set("paths", "small_talk", "adapter", to="a voice"), "'paths.small_talk.adapter': String should match"),
        (
            _set("paths", "small_talk", "adapter", to="voice"),
            "path 'small_talk': a lora_server names adapters NAME@ALIAS or NAME@VERSION (it is 'voice')",
        ),
        (
            _set("models", "engines", "local", "adapters", to="discover"),
            "'adapters' is for engines with a url",
        ),
        (
            _set("models", "engines", "local", "adapters", to="all"),
            "'engines.local.adapters': Value error, write discover, or",
        ),
        (_set("models", "aliases", to={"gpt": "sql"}), "models.yaml: alias 'gpt' names 'sql'; known: "),
        (
            _set("paths", "small_talk", "max_tokens", to=0),
            "'paths.small_talk.max_tokens': Value error, it must be a number from 1, or unlimited (it is 0)",
        ),
        (
            _set("paths", "small_talk", "max_tokens", to="all"),
            "'paths.small_talk.max_tokens': Value error, it must be a number from 1, or unlimited (it is 'all')",
        ),
        (
            _set("models", "engines", "local", to={"model": "tiny", "url": "http://127.0.0.1:1"}),
            "path 'triage_adapter' has an adapter, which needs an engine for 'tiny' with a lora_server, or "
            "with a url and adapters: discover",
        ),
        # tasks.yaml
        (
            _set("rest_of_tasks", "default_path", to="nowhere"),
            "default_path is 'nowhere'; known: handbook, letter, safe",
        ),
        (
            _set("rest_of_tasks", "classifier", to={"target_coverage": 1.5}),
            "'classifier.target_coverage': Input should be less than 1",
        ),
        (
            _set("tasks", "chat", "policy", to={"fixed": "nowhere"}),
            "task 'chat' names path 'nowhere'; known: handbook, ",
        ),
        (_set("tasks", "chat", "policy", to={"split": {"nowhere": 1}}), "task 'chat' names path 'nowhere'"),
        (_set("tasks", "chat", "fallback", to=["nowhere"]), "task 'chat' names path 'nowhere'"),
        (
            _set("tasks", "chat", "policy", to={}),
            "an entry names one policy, as {NAME: OPTIONS}; known: fixed, split, best_value, escalate",
        ),
        (
            _set("tasks", "chat", "policy", to={"fixed": "small_talk", "split": {"handbook": 1}}),
            "an entry names one policy, as {NAME: OPTIONS}; known: fixed, split, best_value, escalate",
        ),
        (
            _set("tasks", "chat", "policy", to={"split": {"handbook": 0}}),
            "'tasks.chat.policy.split.handbook': Input should",
        ),
        (
            _set("tasks", "chat", "rules", to=[{"name": "r", "regex": "("}]),
            "rule 'r' of task 'chat': bad regex '(': missing )",
        ),
        (
            _set("tasks", "chat", "rules", to=[{"name": "r"}]),
            "rule 'r' has no condition; known: metadata, regex, json_sc",
        ),
        *(
            (
                _set("tasks", "chat", "rules", to=[{"name": name, "regex": "x"}]),
                "'tasks.chat.rules.0.name': String should match pattern",
            )
            for name in ("", " r", "größe", "r\n", "a\r\nx-injected: 1", "x" * 65)
        ),
        (
            _set("tasks", "unknown", to={"examples": "x", "policy": {"fixed": "handbook"}}),
            "'unknown' is the task of requ",
        ),
        (_set("tasks", "chat", "metric", to={}), "a task has one metric, with a value; known: exact, json_fields, con"),
        (_set("tasks", "chat", "metric", to={"exact": True, "contains": True}), "a task has one metric, with a value"),
        (
            _set("tasks", "chat", "metric", to={"exakt": True}),
            "unknown metric 'exakt'; known: exact, json_fields, contains, regex, rouge_l, entry_point, judge, or ",
        ),
        (_set("tasks", "chat", "metric", to={"exact": False}), "'tasks.chat.metric.exact': Input should be True"),
        (
            _set("tasks", "chat", "metric", to={"entry_point": "nonsense"}),
            "'tasks.chat.metric.entry_point': String sho",
        ),
        (
            _set("tasks", "chat", "metric", to={"regex": "("}),
            "the metric of task 'chat': metric regex: bad pattern '(': missing ) at position 1",
        ),
        (
            _set("tasks", "chat", "metric", to={"judge": {"model": "path:nowhere"}}),
            "the metric of task 'chat' asks model 'path:nowhere'; known: path:handbook, path:letter,",
        ),
        (
            _set("tasks", "chat", "metric", to={"judge": {"model": "tiny", "prompt": "none.txt"}}),
            "the metric of task 'chat' names prompt 'none.txt'; known: answer.txt",
        ),
        (
            _set("tasks", "chat", "metric", to={"judge": {"prompt": "persona.txt"}}),
            "'tasks.chat.metric.judge.model' is missing",
        ),
        (_set("tasks", "chat", "examples", to="tasks/none.jsonl"), "none.jsonl is missing (a task's examples)"),
        (
            _set("tasks", "policy", to={"examples": [{"fixed": "x"}], "policy": {"fixed": "handbook"}}),
            "unknown key 'tasks.policy.examples.0.fixed'; known here: text, output",
        ),
        (
            _set("tasks", "chat", "rules", to=[{"name": "r", "metadata": {"a": "\ud800"}}]),
            "tasks.yaml is not YAML: half of a surrogate pair, such as \\ud800, is no character",
        ),
        (
            _set("models", "engines", "local", "provider", to="\ud800"),
            "models.yaml is not YAML: half of a surrogate pair, such as \\ud800, is no character",
        ),
        # examples
        (_set("examples", "chat", to=[("Hello", None)]), "task 'chat' has 1 example(s), repetitions aside; wr"),
        (
            _set("examples", "chat", to=[("Are bicycles allowed on the train?", None), ("Hi", None)]),
            "tasks 'policy' and 'chat' share 1 example(s), case and spaces aside: 'Are bicycles allowed on the train?'",
        ),
        # prompts
        (_set("prompts", "persona.txt", to="{{ query "), "prompts/persona.txt:1 is not a template: "),
        (
            _set("prompts", "persona.txt", to="{{ passages }}"),
            "path 'small_talk': prompts/persona.txt: 'passages' is undefined; known variables: query",
        ),
        (
            _set("prompts", "passages.txt", to="{% if passages %}ok{% else %}{{ nothing }}{% endif %}"),
            "prompts/passages.txt: 'nothing' is undefined; known variables: query, passages",
        ),
    ],
)
def test_an_invalid_configuration_is_rejected_with_a_helpful_message(
    config_folder: ConfigFolder, bend: Callable[[ConfigFolder], None], message: str
) -> None:
    bend(config_folder)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_and_check(config_folder.write())


def _discover(config: ConfigFolder) -> None:
    config.models["engines"]["local"] = {"model": "tiny", "url": "http://127.0.0.1:1", "adapters": "discover"}


def test_a_discovered_adapter_may_have_any_name_and_aliases(config_folder: ConfigFolder) -> None:
    _discover(config_folder)
    config_folder.paths["triage_adapter"]["adapter"] = "Acme/Triage_v2"
    config_folder.models["aliases"] = {"gpt-4o-mini": "Acme/Triage_v2"}
    assert load_and_check(config_folder.write()).paths.paths["triage_adapter"].adapter == "Acme/Triage_v2"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"stale": {"after_changed_share": 0.2, "path": "handbook"}}, "stale needs an adapter of a lora_server"),
        (
            {"flywheel": {"student": "triage_adapter", "teacher": "triage_few_shot"}},
            "the flywheel of task 'triage' needs an engine with a lora_server",
        ),
    ],
)
def test_features_of_the_lora_server_are_rejected_for_discovered_adapters(
    config_folder: ConfigFolder, section: dict[str, Any], message: str
) -> None:
    _discover(config_folder)
    config_folder.tasks["triage"] |= section
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_and_check(config_folder.write())


@pytest.mark.parametrize(
    "metric",
    [
        {"exact": True},
        {"regex": r"total is (\S+)"},
        {"judge": {"model": "tiny"}},
        {"judge": {"model": "path:handbook", "prompt": "persona.txt"}},
        {"entry_point": "own/metric.py:score"},
        {"own.metrics:Brevity": {"max_words": 30}},
    ],
)
def test_a_task_may_configure_its_metric(config_folder: ConfigFolder, metric: dict[str, Any]) -> None:
    config_folder.tasks["chat"]["metric"] = metric
    read = load_and_check(config_folder.write()).tasks.tasks["chat"].metric
    assert read
    assert read.model_dump(exclude_unset=True) == metric
    assert {read.name} == metric.keys()


def test_a_single_task_is_rejected(config_folder: ConfigFolder) -> None:
    del config_folder.tasks["policy"], config_folder.tasks["chat"]
    with pytest.raises(ConfigError, match="there is nothing to choose between; write two tasks or more"):
        load_and_check(config_folder.write())


@pytest.mark.parametrize("file", ["models.yaml", "paths.yaml", "tasks.yaml"])
def test_a_missing_file_is_named(config_folder: ConfigFolder, file: str) -> None:
    (config_folder.write() / file).unlink()
    with pytest.raises(ConfigError, match=f"{file} is missing"):
        load_config(config_folder.folder, {})


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no configuration folder .*nowhere"):
        load_config(tmp_path / "nowhere", {})


def test_invalid_yaml_is_reported_with_its_position(config_folder: ConfigFolder) -> None:
    (config_folder.write() / "paths.yaml").write_text("paths: [")
    with pytest.raises(ConfigError, match=r"(?s)paths.yaml is not YAML: .*line 1"):
        load_config(config_folder.folder, {})


def test_a_duplicate_key_is_rejected(config_folder: ConfigFolder) -> None:
    file = config_folder.write() / "paths.yaml"
    file.write_text(file.read_text() + "  handbook: {model: tiny}\n")
    with pytest.raises(ConfigError, match=r"(?s)paths.yaml is not YAML: 'handbook' stands twice.*line \d+"):
        load_config(config_folder.folder, {})


@pytest.mark.parametrize(
    ("written", "message"),
    [("2026-13-45", r"'2026-13-45': month must be in 1..12; in quotes it is a text"), (2000 * "[", "nested too deep")],
)
def test_an_invalid_yaml_value_is_reported_with_its_file(
    config_folder: ConfigFolder, written: str, message: str
) -> None:
    (config_folder.write() / "paths.yaml").write_text(f"paths: {written}")
    with pytest.raises(ConfigError, match=rf"(?s)paths.yaml is not YAML: .*{message}"):
        load_config(config_folder.folder, {})


def test_examples_end_at_line_feeds_only_and_a_byte_order_mark_is_ignored(config_folder: ConfigFolder) -> None:
    file = config_folder.write() / "tasks" / "chat.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + '{"text": "One\u2028two\x85three"}\r\n\r\n{"text": "Four"}\r\n'.encode())
    texts = [example.text for example in load_config(config_folder.folder, {}).examples["chat"]]
    assert texts == ["One\u2028two\x85three", "Four"]


@pytest.mark.parametrize("line", [r'{"text": "a \ud83d"}', r'{"text": "a", "output": {"b": "\ud83d"}}'])
def test_a_lone_surrogate_in_an_example_is_reported_with_file_and_line(config_folder: ConfigFolder, line: str) -> None:
    (config_folder.write() / "tasks" / "chat.jsonl").write_text('{"text": "Hello"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"chat\.jsonl:2 holds half of a surrogate pair"):
        load_config(config_folder.folder, {})


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"text": 5}', '{"text": "  "}', '{"texts": "x"}', "[" * 100_000, "1" * 5000]
)
def test_an_invalid_example_is_reported_with_file_and_line(config_folder: ConfigFolder, line: str) -> None:
    (config_folder.write() / "tasks" / "chat.jsonl").write_text('{"text": "Hello"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"chat.jsonl:2 (is not JSON|must be an object with a non-empty \"text\")"):
        load_config(config_folder.folder, {})


def test_variables_are_taken_from_the_environment_or_their_default(config_folder: ConfigFolder) -> None:
    config_folder.models["engines"]["local"]["lora_server"] = "${LORA_HOST:-127.0.0.1}:${LORA_PORT}"
    folder = config_folder.write()
    served = load_config(folder, {"LORA_PORT": "9"}).models.engines["local"].lora_server
    assert served == "127.0.0.1:9"
    served = load_config(folder, {"LORA_PORT": "9", "LORA_HOST": "gpu-1"}).models.engines["local"].lora_server
    assert served == "gpu-1:9"
    with pytest.raises(
        ConfigError, match=r"models.yaml:\d+ needs the environment variable LORA_PORT, which is not set"
    ):
        load_config(folder, {})


def test_the_value_of_a_variable_changes_no_other_key(config_folder: ConfigFolder) -> None:
    config_folder.models["engines"]["local"]["lora_server"] = "${HOST}"
    folder = config_folder.write()
    hostile = "a:1\n  cloud: {model: tiny, url: http://evil} # "
    engines = load_config(folder, {"HOST": hostile}).models.engines
    assert [(name, engine.lora_server) for name, engine in engines.items()] == [("local", hostile)]


@pytest.mark.parametrize(
    ("provider", "header"),
    [
        ({}, "authorization: Bearer sk-1\r\n"),
        ({"provider": "openai"}, "authorization: Bearer sk-1\r\n"),
        ({"provider": "azure"}, "api-key: sk-1\r\n"),
        ({"provider": "anthropic"}, "x-api-key: sk-1\r\nanthropic-version: 2023-06-01\r\n"),
    ],
)
def test_a_key_is_read_from_the_environment_and_sent_as_its_provider_expects(
    config_folder: ConfigFolder, monkeypatch: pytest.MonkeyPatch, provider: dict[str, str], header: str
) -> None:
    engine = {"model": "tiny", "url": "http://x/", "api_key_env": "CLOUD_KEY", **provider}
    config_folder.models["engines"]["cloud"] = engine
    loaded = load_config(config_folder.write(), {}).models.engines["cloud"]
    monkeypatch.delenv("CLOUD_KEY", raising=False)
    with pytest.raises(ConfigError, match="engine 'cloud' needs the environment variable CLOUD_KEY"):
        bootstrap.to_engine("cloud", loaded)
    monkeypatch.setenv("CLOUD_KEY", "sk-1")
    assert bootstrap.to_engine("cloud", loaded).api.auth_header == header


@pytest.mark.parametrize("file", ["prompts/persona.txt", "tasks/chat.jsonl", "paths.yaml"])
def test_a_file_that_is_not_utf8_is_refused_by_name(config_folder: ConfigFolder, file: str) -> None:
    folder = config_folder.write()
    (folder / file).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=rf"{re.escape(file)} is not UTF-8"):
        load_config(folder, {})


SHADOW = {"paths": ["triage_few_shot"], "usd_per_day": 1.0}


@pytest.mark.parametrize(
    ("shadow", "rest", "message"),
    [
        (
            {"paths": ["triage_few"]},
            {},
            "shadow of task 'triage' names path 'triage_few'; did you mean 'triage_few_shot'? known:",
        ),
        ({"paths": ["triage_adapter"]}, {}, "names the only path that the task takes"),
        ({"paths": ["triage_few_shot", "triage_few_shot"]}, {}, "names a path twice"),
        ({"rate_by": "validators"}, {}, "the task has none; write validators"),
        ({}, {"metric": {"exact": True}}, "takes request_log: {store_messages: true}"),
        ({"share": 0}, {}, "share"),
        ({"usd_per_day": None}, {}, "usd_per_day"),
    ],
)
def test_an_invalid_shadow_is_rejected(
    config_folder: ConfigFolder, shadow: dict[str, Any], rest: dict[str, Any], message: str
) -> None:
    config_folder.tasks["triage"] |= {"shadow": SHADOW | shadow, **rest}
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(config_folder.write(), {})


def test_the_flywheel_tests_configuration_is_valid(tmp_path: Path) -> None:
    config = load_and_check(write_company(tmp_path / "company") / "config")
    flywheel = config.tasks.tasks["sort"].flywheel
    assert flywheel is not None
    assert (config.folder / flywheel.eval_data).is_file()


def test_an_unknown_provider_is_rejected_with_the_known_ones(config_folder: ConfigFolder) -> None:
    config_folder.models["engines"]["cloud"] = {"model": "tiny", "url": "http://x/", "provider": "acme"}
    with pytest.raises(ConfigError, match="unknown provider 'acme'; known: anthropic, azure, azure-deployments,"):
        load_config(config_folder.write(), {})
