"""Mistakes that a new user makes in the first hour: each error names the problem and what would be right."""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.up.startup import example_curl
from pointsman_gateway.bootstrap import check_config, check_environment
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config

Cli = Callable[..., Any]

CONFIG = """\
models:
  m: {context_window: 4096, usd_per_million_tokens: {prompt: 1, cached: 0.5, completion: 2}}
engines:
  e: {model: m, url: "http://127.0.0.1:9"}
paths:
  a: {model: m, strategies: [{zero_shot: {prompt: p.txt}}], max_tokens: 9}
  b: {model: m}
default_path: b
prices_as_of: "2026-11-01"
prompts: {p.txt: Answer in one word.}
tasks:
  x: {policy: {best_value: {paths: [a, b], quality_floor: 0.8}}, examples: [one message, two messages]}
  y: {policy: {fixed: a}, examples: [three boats, four boats]}
"""
PRICES = ", usd_per_million_tokens: {prompt: 1, cached: 0.5, completion: 2}"
PROMPT = "Answer in one word."
EXAMPLES = "[three boats, four boats]"
URL = '"http://127.0.0.1:9"'
INIT = "init new --base-model smollm2-135m --examples"
PATH = "b: {model: m}"


@pytest.mark.parametrize(
    ("right", "wrong", "problem", "remedy"),
    [
        ("max_tokens: 9", "max_token: 9", "unknown key 'paths.a.max_token'", "known here: model, adapter"),
        ("zero_shot: {prompt", "zero_shot: {promt", "unknown key", "known here: prompt"),
        ("models:\n", "modells:\n", "unknown key 'modells'", "known here: "),
        ("{policy: {fixed: a}", "{polcy: {fixed: a}", "unknown key 'tasks.y.polcy'", "known here: examples"),
        ("best_value:", "best_valu:", "the policy is 'best_valu', which is unknown", "use one of best_value"),
        (f"url: {URL}", f"provider: opnai, url: {URL}", "unknown provider 'opnai'", "did you mean 'openai'?"),
        ("  b: {", " b: {", "is not YAML: ", "keys of one level begin in the same column"),
        ("  b: {", "\tb: {", r"found character '\t' that cannot start any token in line 7", "indent with spaces"),
        ("  y: {policy", "  x: {policy", "'x' stands twice in line 13", "keep one of them"),
        (PATH, "b: {model: n}", "path 'b' names model 'n'", "known: m"),
        ("fixed: a", "fixed: c", "task 'y' names path 'c'", "known: a, b"),
        ("prompt: p.txt", "prompt: q.txt", "path 'a' names prompt 'q.txt'", "did you mean 'p.txt'?"),
        ("default_path: b", "default_path: c", "default_path is 'c'", "known: a, b"),
        (EXAMPLES, "[three boats]", "task 'y' has 1 example(s)", "write two or more"),
        (EXAMPLES, "empty.jsonl", "task 'y' has 0 example(s)", "write two or more"),
        (EXAMPLES, "missing.jsonl", "missing.jsonl is missing", "(a task's examples)"),
        (EXAMPLES, "latin1.jsonl", "latin1.jsonl is not UTF-8 (line 2: byte 0xe9)", "save it as UTF-8"),
        (EXAMPLES, "untexted.jsonl", "untexted.jsonl:1 must be an object", 'with a non-empty "text"'),
        ("default_path: b\n", "", "'default_path' is missing", "without it there must be exactly one path"),
        (EXAMPLES, "[one message, c]", "tasks 'x' and 'y' share 1 example(s)", "an example belongs to one task"),
        (PRICES, "", "'models.m.usd_per_million_tokens' is missing", "write {prompt: DOLLARS, cached: DOLLARS"),
        (URL, '"127.0.0.1:9"', "pointsman.yaml: engine 'e': '127.0.0.1:9' is no URL", "write http://HOST:PORT"),
        (URL, f"{URL}, api_key_env: NO_SUCH_VAR", "engine 'e' needs the environment", "not set; set it to the key"),
        (URL, '"${NO_SUCH_VAR}"', "pointsman.yaml:4 needs the environment variable", "${NO_SUCH_VAR:-DEFAULT}"),
        ("floor: 0.8", "floor: 80", "quality_floor': Input should be less than or equal to 1", "(it is 80)"),
        ("0.8}", "0.8, min_samples: many}", "min_samples': Input should be a valid integer", "(it is 'many')"),
        (PATH, "b: {model: m, adapter: t@prod}", "path 'b' has an adapter", "adapters: discover (or their names)"),
        (
            "zero_shot: {prompt",
            "retrieval: {collection: d, prompt",
            "'retrieval' is missing: path 'a' looks something up",
            "write retrieval: {usd_per_search: DOLLARS",
        ),
        (PROMPT, "'Answer {{ x'", "prompts/p.txt:1 is not a template", "between {% raw %} and {% endraw %}"),
        (PROMPT, "'{{ nothing }}'", "prompts/p.txt: 'nothing' is undefined", "known variables: query"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, problem: str, remedy: str
) -> None:
    monkeypatch.delenv("NO_SUCH_VAR", raising=False)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin1.jsonl").write_bytes('{"text": "a"}\n{"text": "é"}\n'.encode("latin-1"))
    (tmp_path / "untexted.jsonl").write_text('{"txt": "a"}\n' * 2)
    assert CONFIG.count(right) == 1
    (tmp_path / "pointsman.yaml").write_text(CONFIG.replace(right, wrong))

    with pytest.raises(ConfigError) as raised:
        check(tmp_path)

    text = " ".join(str(raised.value).split())
    assert problem in text
    assert remedy in text.partition(problem)[2]


def test_a_configuration_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "pointsman.yaml").write_bytes(CONFIG.replace("Answer", "Réponds").encode("latin-1"))
    with pytest.raises(ConfigError, match=r"pointsman.yaml is not UTF-8 \(line \d+: byte 0xe9\); save it as UTF-8"):
        check(tmp_path)


def test_the_configuration_without_a_mistake_is_valid(tmp_path: Path) -> None:
    (tmp_path / "pointsman.yaml").write_text(CONFIG)
    check(tmp_path)


def check(folder: Path) -> None:
    config = load_config(folder)
    check_config(config)
    check_environment(config)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the current folder, with files of labelled rows and examples that have one mistake each."""
    for name, content in {
        "empty.jsonl": "",
        "untasked.jsonl": '{"text": "a", "output": "b"}\n' * 100,
        "unlabelled.jsonl": '{"text": "a", "task": "x"}\n' * 7,
        "good.jsonl": '{"text": "a", "output": "b"}\n',
        "columns.csv": "message,label\na,b\n",
        "semicolons.csv": "text;task\na;b\n",
        "CAPITALS.CSV": "message,label\na,b\n",
        "empty.csv": "",
        "unlabelled.csv": "text,task,output\na,x,\n",
        "one_task.csv": "text,task\na,x\nb,x\n",
        "list.json": '[{"text": "a"}]',
    }.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "latin1.jsonl").write_bytes('{"text": "a"}\n{"text": "é"}\n'.encode("latin-1"))
    (tmp_path / "utf16.csv").write_bytes("text,task\na,b\n".encode("utf-16"))
    (tmp_path / "latin1.csv").write_bytes("text,task\na,é\n".encode("latin-1"))
    (tmp_path / "none").mkdir()
    for name, first in {
        "no_base": "base_model: ./nothing",
        "no_adapter": "base_model: smollm2-135m\nadapters: {t: {folder: nothing, alias: prod}}",
        "bare_adapter": "base_model: smollm2-135m\nadapters: {t: {folder: ., alias: prod}}",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "pointsman.yaml").write_text(f"{first}\n{CONFIG}")
    for name, url in {"no_key": f"{URL}, api_key_env: NO_SUCH_VAR", "no_scheme": '"127.0.0.1:9"'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "pointsman.yaml").write_text(CONFIG.replace(URL, url))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_SUCH_VAR", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "problem", "remedy"),
    [
        ("up none", "none has no pointsman.yaml", "name a folder that has one"),
        ("up nowhere", "nowhere has no pointsman.yaml", "name a folder that has one"),
        ("up", "name one of these", "an engine that runs already with --engine URL"),
        ("up no_base", "base model './nothing' is neither smollm2-135m, nor a folder", "such as Qwen/Qwen2.5-0.5B"),
        ("up no_adapter", "adapters.t.folder: ", "nothing is not a folder"),
        ("up bare_adapter", "adapters.t.folder: ", "holds no adapter (no adapter_config.json)"),
        ("doctor no_adapter", "fail example: ", "nothing is not a folder"),
        ("doctor no_key", "fail config: ", "variable NO_SUCH_VAR, which is not set; set it to the key, or leave out"),
        ("doctor no_scheme", "engine 'e': '127.0.0.1:9' is no URL of an engine", "write http://HOST:PORT"),
        ("up --engine localhost:8000", "--engine is 'localhost:8000'", "a URL such as http://localhost:8000"),
        ("up --engine http://127.0.0.1:9", "cannot be read: ", "start the engine, or check the host and port of"),
        ("up --engine http://127.0.0.1:9 --key-env NO_SUCH_VAR", "--key-env NO_SUCH_VAR", "variable is not set"),
        ("init none/.. --engine x", "exists and is not an empty folder", "name another one"),
        ("init new --base-model smollm2-135m", "--examples is missing", "to copy an example: --example minimal"),
        ("init new --base-model smollm2-135m --examples x.csv", "no file x.csv", "text and task"),
        ("init new --base-model smolm2-135m --examples empty.csv", "'smolm2-135m'", "did you mean smollm2-135m?"),
        ("init new --base-model smollm2-135m --engine groq", "--base-model excludes --engine", "--model"),
        (f"{INIT} columns.csv", "has the columns message, label, and none called text or task", "name them text and"),
        (f"{INIT} CAPITALS.CSV", "has the columns message, label, and none called text or task", "name them text and"),
        (f"{INIT} semicolons.csv", "has one column, 'text;task'", "separate its columns by commas"),
        (f"{INIT} empty.csv", "empty.csv has no messages", "write some 30, each with a text and the task"),
        (f"{INIT} utf16.csv", "utf16.csv is not UTF-8 (line 1: byte 0xff)", "save it as UTF-8"),
        (f"{INIT} latin1.csv", "latin1.csv is not UTF-8 (line 2: byte 0xe9)", "save it as UTF-8"),
        (f"{INIT} one_task.csv", "one_task.csv has fewer than two tasks", "label the messages with two or more"),
        (f"{INIT} good.jsonl --usd-per-million-tokens 1,2", "--usd-per-million-tokens is '1,2'", "such as 0.15,0.075"),
        ("ask hi --url 127.0.0.1:9", "no gateway answers at http://127.0.0.1:9", "start one with `pointsman up"),
        ("ask hi --key-env NO_SUCH_VAR", "NO_SUCH_VAR holds no key", "set it, or leave --key-env out"),
        ("feedback d-1 --rating 7", "--rating", "less than or equal to 1"),
        ("feedback d-1", "there is no feedback", "give --rating, --right-task"),
        ("eval empty.jsonl --task x", "empty.jsonl has no rows", "write one JSON object a line"),
        ("eval untasked.jsonl", ":1 (and 99 more lines) names no task", 'add "task", or name one for all with --task'),
        ("eval unlabelled.jsonl", ":1 (and 6 more lines) has neither", 'an "output" nor "facts" to compare with'),
        ("eval latin1.jsonl --task x", "is not UTF-8 (line 2: byte 0xe9)", "save it as UTF-8"),
        ("eval good.jsonl --task x --url 127.0.0.1:9", "no gateway answers", "start one with `pointsman up"),
        ("eval columns.csv --task x", "columns.csv has the columns message, label", "name them text and output in"),
        ("eval CAPITALS.CSV --task x", "has the columns message, label", "name them text and output in"),
        ("eval list.json --task x", "list.json:1 is no JSON object", "write one JSON object a line"),
        ("eval nothing.jsonl --task x", "cannot read nothing.jsonl", "No such file or directory"),
        ("train --name a --data unlabelled.csv", "unlabelled.csv has no row", "with a text and its right output"),
        ("train --name a --data CAPITALS.CSV", "has the columns message, label", "name them text and output in"),
        ("train --name a --data nothing.csv", "--data nothing.csv is not a file", "one of labelled rows, .jsonl or"),
        ("train --name a --data good.jsonl --out o", "the engine's Python is not at", "'pointsman[engine-cpu]'`, then"),
        ("train --path a --name Bank --data good.jsonl", "Bank cannot be an adapter's name", "1 to 64 of a-z, 0-9"),
        ("adapters canary a@prod x --weight 3", "--weight is 3", "above 0 and at most 1"),
        ("adapters register bank nowhere", "nowhere is not a folder here", "absolute path of a folder on the lora-s"),
        ("keys create x --tenant acme", "there is no Redis to keep keys in", "start `pointsman up FOLDER` here, or"),
        ("keys create x --tenant acme --expires soon", "--expires is 'soon'", "use an age (90m, 12h, 30d"),
        ("keys limit", "error: ", "give either a key or --tenant"),
        ("search d query --retriever 127.0.0.1:9", "retriever cannot be reached", "name its address with --retr"),
        ("advise --live --gateway http://127.0.0.1:9", "no gateway answers at", "start one with `pointsman up"),
        ("advise --regret --gateway 127.0.0.1:9", "no gateway answers at", "start one with `pointsman up"),
        ("ask hi --url http://x.invalid", "http://x.invalid cannot be reached: [Errno", "check the address and the"),
        ("advise --live --gateway http://x.invalid", "cannot be reached: [Errno", "another with --gateway"),
        ("advise --regret --gateway http://x.invalid", "cannot be reached: [Errno", "another with --gateway"),
        ("jobs list", "there is no lora-server: nothing runs here", "or name its address with --lora-server"),
        ("replay good", "there is no request log to replay", "name the Redis with --redis, or a file with --from"),
        ("retrain x", "nothing runs here", "name the configuration folder with --config"),
        ("adapters list --lora-server 127.0.0.1:9", "lora-server cannot be reached", "start it with `pointsman up"),
        ("ingest d none", "there is nothing to ingest in none", "known endings: .md"),
        ("ingest d good.jsonl --retriever 127.0.0.1:9", "retriever cannot be reached", "name its address with --retr"),
    ],
)  # fmt: skip
def test_a_mistake_at_the_command_line(cli: Cli, folder: Path, command: str, problem: str, remedy: str) -> None:
    outcome = cli(*command.split(), "--data-dir", folder / "data")

    output = outcome.err + outcome.out
    assert outcome.code != 0
    assert problem in output
    assert remedy in output.partition(problem)[2]


def test_a_report_that_is_not_there(cli: Cli, folder: Path) -> None:
    outcome = cli("advise", folder / "no.json")

    assert outcome.code == 2
    assert f"cannot read {folder}/no.json: No such file or directory; `pointsman eval --json" in outcome.err


def test_a_port_in_use(cli: Cli, folder: Path) -> None:
    (folder / "pointsman.yaml").write_text(CONFIG.partition("tasks:")[0])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = cli("up", folder, "--http", f"127.0.0.1:{port}", "--data-dir", folder / "data")

    assert outcome.code == 2
    assert outcome.err == f"error: port {port} is taken by another program; choose another with --http\n"


@pytest.mark.parametrize("code", ["missing_key", "unknown_key", "revoked_key", "expired_key"])
def test_a_request_without_a_valid_key(cli: Cli, gateway: Any, code: str) -> None:
    gateway.status = 401
    gateway.body = {"error": {"message": "this key will not do", "code": code}}

    outcome = cli("ask", "hi", "--url", gateway.url)

    assert outcome.err == (
        f"error: this key will not do ({code}, HTTP 401); put a key into POINTSMAN_API_KEY, or name its variable with "
        "--key-env\n"
    )


def test_the_command_that_up_prints_has_a_key_if_one_is_needed() -> None:
    seen: Mapping[bool, str] = {
        needs_key: example_curl("http://127.0.0.1:8080", needs_key=needs_key) for needs_key in (False, True)
    }
    assert "Authorization" not in seen[False]
    assert '-H "Authorization: Bearer $POINTSMAN_API_KEY"' in seen[True]
    assert json.loads(seen[True].partition("-d '")[2].removesuffix("'"))["model"] == "auto"
