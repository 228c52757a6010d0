"""`pointsman init`: five questions, or options, make a configuration whose examples are cross-validated."""

import asyncio
import json
import os
import pty
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.example import check_retriever, load_example
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.extensions import Example
from pointsman_lab.starter import Answers, LabelledMessage, configuration, read_labelled, write_checked

from tests.gateway.doubles.engine import model_list, running_engine

Cli = Callable[..., Any]

MODELS = Path(__file__).parents[2] / ".pointsman" / "models"
ANSWERS = Answers("groq", ("m",), "GROQ_API_KEY", {})
TASKS = {
    "Refunds": "please refund my ticket number {}, I want the money for train {} back",
    "Opening hours": "when does the ticket office at platform {} open on day {}?",
    "lost_property": "I left my umbrella and coat {} in coach {} of the train",
}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / ".pointsman"
    folder.mkdir(mode=0o700)
    (folder / "models").symlink_to(MODELS)
    return folder


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Returns thirty messages of three tasks; one of them has a wrong label."""
    rows: list[dict[str, Any]] = [
        {"text": text.format(n, n + 3), "task": task} for task, text in TASKS.items() for n in range(10)
    ]
    rows[0] |= {"text": "when does the office at platform 7 open on Sunday? ${HOME}", "output": {"urgent": False}}
    return write(tmp_path / "labelled.jsonl", "\n".join(map(json.dumps, rows)))


def write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_options_make_a_commented_configuration_and_a_report_of_confusions(
    cli: Cli, data_dir: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-1")
    options = ("--engine", "openai", "--key-env", "MY_KEY", "--model", "gpt-4o-mini", "--fallback-model", "ours/new")

    outcome = cli("init", tmp_path / "mine", *options, "--examples", labelled, "--data-dir", data_dir)

    assert outcome.code == 0, outcome.err
    config = load_config(tmp_path / "mine", {})
    assert {name: len(rows) for name, rows in config.examples.items()} == {
        "lost_property": 10, "opening_hours": 10, "refunds": 10,
    }  # fmt: skip
    assert (config.examples["refunds"][0].text[-7:], config.examples["refunds"][0].output) == (
        "${HOME}",
        '{"urgent": false}',
    )
    prices = {name: model.usd_per_million_tokens for name, model in config.models.models.items()}
    assert prices["gpt-4o-mini"] is not None
    assert prices["ours/new"] is None
    assert config.tasks.tasks["refunds"].fallback == ("second",)
    assert {engine.api_key_env for engine in config.models.engines.values()} == {"MY_KEY"}
    assert (tmp_path / "mine" / "pointsman.yaml").read_text().count("# ") > 8
    assert (tmp_path / "mine" / "schema" / "pointsman.schema.json").is_file()
    for text in ("29 of 30 examples are classified right", "opening_hours", f"MY_KEY=... pointsman up {tmp_path}/mine"):
        assert text in outcome.out


async def test_a_terminal_is_asked_five_questions(data_dir: Path, labelled: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    async with running_engine() as vllm:
        vllm.lists = lambda: model_list("llama", {})
        answers = (vllm.url + "/v1", "", "llama", "", str(labelled))
        os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
        command = ("init", str(tmp_path / "mine"), "--data-dir", str(data_dir))
        asked = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pointsman_cli", *command),
            stdin=theirs, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(asked.communicate(), 120)
    os.close(ours)
    os.close(theirs)

    assert asked.returncode == 0, err.decode()
    for question in ("1. Engine", "2. Environment", "3. Model that answers (llama):", "4. Model", "5. File"):
        assert question in err.decode()
    assert f"pointsman up {tmp_path / 'mine'}" in out.decode()
    config = load_config(tmp_path / "mine", {})
    assert {name: model.context_window for name, model in config.models.models.items()} == {"llama": 4096}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no messages; write some 30, each with a text and the task that it belongs to"),
        ("nonsense", r"labelled.jsonl:1 is not JSON"),
        ("[" * 100_000, r"labelled.jsonl:1 is not JSON"),
        ('{"text": "hello"}', 'labelled.jsonl:1 needs a "task"'),
        ('{"text": "hi", "task": "chat"}\n{"text": "a", "task": "b"}', r"task 'b' has 1 example\(s\)"),
        ('{"text": "a", "task": "chat"}\n{"text": "b", "task": "chat"}', "fewer than two tasks"),
        ('{"text": "a", "task": "a_b"}\n{"text": "b", "task": "A b"}', "both be called 'a_b'"),
        ('{"text": "a", "task": "???"}\n{"text": "b", "task": "c"}', "'???' cannot be the name of a task"),
    ],
)
def test_bad_messages_are_named_and_nothing_is_written(tmp_path: Path, content: str, message: str) -> None:
    file = write(tmp_path / "labelled.jsonl", content)

    with pytest.raises(ConfigError, match=re.escape(message) if "?" in message else message):
        write_checked(configuration(ANSWERS, read_labelled(file), "mine"), tmp_path / "mine")

    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"message,label\na,b\n", "has the columns message, label, and none called text or task; name them text and"),
        (b"text,label\na,b\n", "has the columns text, label, and none called task; name them"),
        (b"text;task\na;b\n", "has one column, 'text;task'; separate its columns by commas"),
        (b"", "has no messages; write some 30, each with a text and the task"),
        (b"text,task\n", "has no messages; write some 30"),
        (b"text,task\na,b\n,c\n", ':3 needs a "text"; a row has a text and a task'),
        (b"text,task\na,b\nc\xe9,d\n", "is not UTF-8 (line 3: byte 0xe9); save it as UTF-8"),
        ("text,task\na,b\n".encode("utf-16"), "is not UTF-8 (line 1: byte 0xff); save it as UTF-8"),
    ],
)
def test_a_mistake_in_a_csv_file_is_named_before_a_model_is_downloaded(
    cli: Cli, tmp_path: Path, content: bytes, message: str
) -> None:
    file, data_dir = tmp_path / "labelled.csv", tmp_path / "empty"
    file.write_bytes(content)
    options = ("--engine", "groq", "--model", "m", "--key-env", "", "--fallback-model", "", "--examples", file)

    outcome = cli("init", tmp_path / "mine", *options, "--data-dir", data_dir)

    assert outcome.code == 1
    assert f"{file}" in outcome.err
    assert message in outcome.err
    assert not (tmp_path / "mine").exists()
    assert not data_dir.exists()


def test_messages_may_be_csv(tmp_path: Path) -> None:
    file = write(tmp_path / "labelled.csv", 'task,text,output\nb,"one, two",\na,three,yes\n')

    assert read_labelled(file) == [LabelledMessage("three", "a", "yes"), LabelledMessage("one, two", "b")]


def test_messages_may_have_intents_which_are_written(tmp_path: Path) -> None:
    lines = ["task,text,intent,output", "a,one,,", "a,two,x y,", "b,three,z,yes", "b,four,,no"]
    messages = read_labelled(write(tmp_path / "labelled.csv", "\n".join(lines)))
    write_checked(configuration(ANSWERS, messages, "mine"), tmp_path / "mine")
    assert load_config(tmp_path / "mine", {"GROQ_API_KEY": "k"}).examples == {
        "a": (Example("one", None), Example("two", None, "x y")),
        "b": (Example("three", "yes", "z"), Example("four", "no")),
    }
    file = write(tmp_path / "labelled.jsonl", '{"text": "one", "task": "a", "intent": 5}')
    with pytest.raises(ConfigError, match=r"labelled\.jsonl:1 has an \"intent\" that is not a string"):
        read_labelled(file)


def test_what_init_writes_needs_no_retriever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pointsman_retriever", None)  # not installed
    texts = ["Is retrieval slow?", "what is a similarity_threshold", "collections: {a: b}", "Where is my parcel?"]
    lines = [f'{"ab"[number % 2]},"{text}"' for number, text in enumerate(texts)]
    messages = read_labelled(write(tmp_path / "labelled.csv", "\n".join(["task,text", *lines])))
    folder = tmp_path / "mine"
    write_checked(configuration(ANSWERS, messages, str(folder)), folder)
    assert "retrieval" in (folder / "pointsman.yaml").read_text()
    check_retriever(load_example(folder))


def test_a_base_model_is_served_by_the_lora_server_and_can_have_adapters(
    cli: Cli, data_dir: Path, labelled: Path, tmp_path: Path
) -> None:
    (tmp_path / "llama").mkdir()
    for name, served, window in (
        ("smollm2-135m", "smollm2-135m", 4096),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", 8192),
        (str(tmp_path / "llama"), "llama", 8192),
    ):
        folder = tmp_path / f"of-{served.replace('/', '-')}"
        answers = Answers("", (served,), "", {served: window}, base_model=name, prices=(0.01, 0, 0.06))
        write_checked(configuration(answers, read_labelled(labelled), str(folder)), folder)
        config, example = load_config(folder, {}), load_example(folder)
        model, (engine,) = config.models.models[served], config.models.engines.values()
        assert model.context_window == window
        assert model.usd_per_million_tokens is not None
        assert model.usd_per_million_tokens.completion == 0.06
        assert (engine.model, engine.lora_server, example.base_model) == (served, "127.0.0.1:8083", name)

    options = ("--base-model", "smollm2-135m", "--usd-per-million-tokens", "0.01,0,0.06", "--examples", labelled)
    outcome = cli("init", tmp_path / "mine", *options, "--data-dir", data_dir)
    assert outcome.code == 0, outcome.err
    assert load_example(tmp_path / "mine").base_model == "smollm2-135m"


def test_labelled_messages_to_try_it_with_are_copied(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("init", tmp_path / "messages", "--example", "messages")
    assert outcome.code == 0, outcome.err
    assert "labelled.csv and " in outcome.out
    assert len(read_labelled(tmp_path / "messages" / "labelled.csv")) == 360


def test_an_unknown_provider_is_answered_with_the_nearest_one(labelled: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'openai'"):
        configuration(replace(ANSWERS, engine="opnai"), read_labelled(labelled), "mine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--engine is missing, and there is no terminal to ask; to copy an example: --example minimal"),
        (("--engine", "groq"), "--model is missing"),
        (("--engine", "groq", "--model", "m"), "--examples is missing"),
        (("--engine", "groq", "--model", "m", "--examples", "no.csv"), "there is no file no.csv"),
        (("--engine", "groq", "--key-env", "sk-123"), "must be given by its name"),
        (("--engine", "groq", "--key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY is not set"),
        (("--engine", "http://127.0.0.1:9"), "http://127.0.0.1:9/v1/models cannot be read"),
        (("--base-model", "smollm2", "--examples", "no.csv"), "did you mean smollm2-135m?"),
        (("--base-model", "smollm2-135m", "--engine", "groq"), "--base-model excludes --engine, --model"),
    ],
)
def test_a_missing_or_wrong_option_is_named(cli: Cli, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    outcome = cli("init", tmp_path / "mine", *options)

    assert outcome.code == 2
    assert message in outcome.err


def test_a_configuration_of_litellm_is_imported(cli: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "config.yaml", "model_list: [{model_name: fast, litellm_params: {model: groq/m, rpm: 5}}]")

    outcome = cli("import", "litellm", file, "--out", tmp_path / "mine")

    assert outcome.code == 0, outcome.err
    assert list(load_config(tmp_path / "mine", {}).models.models) == ["fast"]
    assert "model_list[0].litellm_params.rpm = 5" in " ".join(outcome.out.split())
