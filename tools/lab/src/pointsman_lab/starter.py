"""The `init` command: writes a configuration from an engine's address and labelled messages."""

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

from pointsman_gateway.config.example_files import numbered_lines, read_text
from pointsman_gateway.config.field_types import NAME_PATTERN, ConfigError
from pointsman_gateway.config.load import SINGLE_FILE, Config, load_config
from pointsman_gateway.config.providers import check_provider, find_price, provider_at
from pointsman_servicekit.labelled_csv import InvalidCsv, csv_rows

from pointsman_lab.report import Report, Section
from pointsman_lab.suggestions import ExampleFindings, suggest_report

DEFAULT_CONTEXT_WINDOW = 128_000
"""The context window, in tokens, of a model for which neither engine nor price list states one; it is not enforced."""

FIELDS = ("text", "task")
"""The fields that each labelled message needs."""
_TASK = re.compile(NAME_PATTERN)

HEADING = """\
# yaml-language-server: $schema=schema/pointsman.schema.json
# Written by `pointsman init`. To check it after a change: pointsman classifier lint {folder}
"""


@dataclass(frozen=True, slots=True)
class Answers:
    """The user's answers to the questions of `pointsman init`.

    They are the input from which a configuration is written.
    """

    engine: str
    """The URL of an engine, or the name of a provider."""
    models: tuple[str, ...]
    """The names of one or more models; a model is tried if all those before it fail."""
    api_key_env: str
    """The name of the environment variable with the engine's API key; empty if the engine needs no key."""
    context_windows: Mapping[str, int]
    """The context windows that the engine states, in tokens, by model."""
    base_model: str = ""
    """The model that `pointsman up` serves with its own vLLM, in place of `engine`: a folder, or a name at the Hugging
    Face hub; empty if it serves none.
    """
    prices: tuple[float, float, float] | None = None
    """Dollars for a million tokens of the prompt, of its cached part and of the answer.

    None: the prices of the price list apply, if it has the model.
    """


@dataclass(frozen=True, slots=True)
class LabelledMessage:
    """An example of a user's message with its task."""

    text: str
    task: str
    output: Any = None
    """The right answer to the message; None if it is not known."""
    intent: str = ""
    """The kind of request within the task; empty if the message has no intent."""


def read_labelled(file: Path) -> list[LabelledMessage]:
    """Reads labelled messages from a CSV file or, with another ending than .csv, a JSON Lines file.

    The fields are `text`, `task` and, optionally, `output` and `intent`. Returns the messages sorted by task. Raises
    ConfigError if the file is invalid, has no messages or fewer than two tasks, or a task's name is not allowed.
    """
    read = _csv_rows if file.suffix.lower() == ".csv" else _json_rows
    messages = [_to_message(row, f"{file}:{line}", is_csv=read is _csv_rows) for line, row in read(file)]
    if not messages:
        raise ConfigError(f"{file} has no messages; write some 30, each with a text and the task that it belongs to")
    if len({message.task for message in messages}) < 2:
        raise ConfigError(f"{file} has fewer than two tasks; label the messages with two or more")
    labels: dict[str, str] = {}
    for message in messages:
        task = _task_name(message.task, str(file))
        if labels.setdefault(task, message.task) != message.task:
            raise ConfigError(f"{file}: the tasks '{labels[task]}' and '{message.task}' would both be called '{task}'")
    named = [replace(message, task=_task_name(message.task, str(file))) for message in messages]
    return sorted(named, key=lambda message: message.task)


def _json_rows(file: Path) -> Iterable[tuple[int, Any]]:
    for number, line in numbered_lines(read_text(file)):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{file}:{number} is not JSON: {error}") from error


def _csv_rows(file: Path) -> Iterable[tuple[int, Any]]:
    try:
        yield from csv_rows(read_text(file), FIELDS)
    except InvalidCsv as error:
        raise ConfigError(error.at(file)) from error


def _to_message(row: Any, where: str, *, is_csv: bool) -> LabelledMessage:
    for name in FIELDS:
        if not isinstance(row, dict) or not isinstance(row.get(name), str) or not row[name].strip():
            form = "a row has a text and a task" if is_csv else 'write {"text": "the message", "task": "its label"}'
            raise ConfigError(f'{where} needs a "{name}"; {form}')
    intent = row.get("intent") or ""
    if not isinstance(intent, str):
        raise ConfigError(f'{where} has an "intent" that is not a string')
    return LabelledMessage(row["text"], row["task"], row.get("output") or None, intent.strip())


def _task_name(label: str, file: str) -> str:
    """Converts a label to the name of a task: lower case, with `_` for all other characters."""
    name = re.sub(r"[^a-z0-9_-]+", "_", label.strip().lower()).strip("_")
    if not _TASK.fullmatch(name):
        raise ConfigError(f"{file}: '{label}' cannot be the name of a task: 1 to 64 letters, digits, '-' and '_'")
    return name


def token_prices(text: str) -> tuple[float, float, float]:
    """Parses "PROMPT,CACHED,COMPLETION": three prices in dollars for a million tokens.

    Raises ConfigError unless there are three numbers of 0 or more.
    """
    try:
        prompt, cached, completion = (float(price) for price in text.split(","))
        is_valid = all(0 <= price < float("inf") for price in (prompt, cached, completion))
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ConfigError(
            f"--usd-per-million-tokens is '{text}'; write dollars for a million tokens of prompt, cached prompt and "
            "answer, such as 0.15,0.075,0.6"
        )
    return prompt, cached, completion


def starter_report(config: Config, found: ExampleFindings, api_key_env: str) -> Report:
    checked = suggest_report(found, None, "", "")
    counts = ", ".join(f"{name} {len(rows)}" for name, rows in config.examples.items())
    file = str(config.folder / SINGLE_FILE)
    written = Section(f"{file} is written", (f"{len(config.examples)} tasks with examples: {counts}",))
    key = f"{api_key_env}=... " if api_key_env else ""
    start = Section("To start it", (f"{key}pointsman up {config.folder}",))
    return Report({**checked.facts, "file": file}, (written, *checked.page[:-1], start))


def write_checked(text: str, folder: Path) -> None:
    """Writes the text of a configuration as pointsman.yaml to the folder, which is created if it is missing.

    Raises ConfigError, and writes nothing, if the configuration is invalid.
    """
    with tempfile.TemporaryDirectory() as trial:
        Path(trial, SINGLE_FILE).write_text(text, "utf-8")
        try:
            load_config(Path(trial))
        except ConfigError as error:
            raise ConfigError(str(error).replace(trial, str(folder))) from error
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SINGLE_FILE).write_text(text, "utf-8")


def configuration(answers: Answers, messages: Sequence[LabelledMessage], folder: str) -> str:
    """Returns the text of a pointsman.yaml for the answers, with the messages as the tasks' examples.

    `messages` must be sorted by task. `folder` is only named in a comment. Raises ConfigError if the provider is
    unknown.
    """
    paths = _path_names(len(answers.models))
    return "\n".join(
        [
            HEADING.format(folder=folder),
            *_base_model(answers),
            *([f"prices_as_of: {date.today()} # when the prices were last checked\n"] if answers.prices else []),
            "# Models by the names that clients use, with their prices (docs/costs.md).",
            "models:",
            *(_model(answers, name) for name in answers.models),
            "\n# Where they run. More engines of one model share its requests (docs/engines.md).",
            "engines:",
            *(_engine(answers, path, name) for path, name in zip(paths, answers.models, strict=True)),
            "\n# Complete ways to answer; clients may name one as path:NAME. Each may also have an adapter, a system",
            "# prompt, retrieval, max_tokens, temperature and more (examples/schema).",
            "paths:",
            *(f"  {path}: {{model: {_quoted(name)}}}" for path, name in zip(paths, answers.models, strict=True)),
            f"\ndefault_path: {paths[0]} # for requests that fit no task",
            "\n# What requests with model: auto are about. The classifier learns each task from its examples; the",
            "# policy chooses the path, and the fallback is used if that one fails (docs/routing.md).",
            "tasks:",
            *(_task(name, [*of], paths) for name, of in groupby(messages, key=lambda message: message.task)),
            "",
        ]
    )


def _base_model(answers: Answers) -> list[str]:
    if not answers.base_model:
        return []
    return [
        "# What `pointsman up` serves with a vLLM that it starts; adapters can be trained for it (docs/training.md).",
        f"base_model: {_quoted(answers.base_model)}\n",
    ]


def _path_names(count: int) -> list[str]:
    return ["first", *("second" if count == 2 else f"model_{number}" for number in range(2, count + 1))]


def _model(answers: Answers, name: str) -> str:
    if answers.engine and not answers.prices and find_price(_provider(answers.engine), (name,)):
        return f"  {_quoted(name)}: {{}} # price and context window are those of the price list"
    window = answers.context_windows.get(name, DEFAULT_CONTEXT_WINDOW)
    if answers.prices:
        prompt, cached, completion = map(_quoted, answers.prices)
        price = f"usd_per_million_tokens: {{prompt: {prompt}, cached: {cached}, completion: {completion}}}"
        return f"  {_quoted(name)}:\n    context_window: {window} # tokens\n    {price}"
    return (
        f"  {_quoted(name)}:\n    context_window: {window} # tokens\n"
        "    # Or in dollars: {prompt: 0.15, cached: 0.075, completion: 0.60}; budgets and best_value need them.\n"
        "    usd_per_million_tokens: unknown"
    )


def _provider(engine: str) -> str:
    if "://" in engine:
        return provider_at(engine)
    return check_provider(engine) or engine


def _engine(answers: Answers, name: str, model: str) -> str:
    where = f"url: {_quoted(answers.engine)}" if "://" in answers.engine else f"provider: {answers.engine}"
    if answers.base_model:
        where = 'lora_server: "${POINTSMAN_LORA_SERVER:-127.0.0.1:8083}"'
    key = f", api_key_env: {answers.api_key_env}" if answers.api_key_env else ""
    return f"  {name}: {{model: {_quoted(model)}, {where}{key}}}"


def _task(name: str, messages: Sequence[LabelledMessage], paths: Sequence[str]) -> str:
    fallback = f"    fallback: [{', '.join(paths[1:])}]\n" if paths[1:] else ""
    examples = "\n".join(f"      - {_example(message)}" for message in messages)
    return f"  {name}:\n    policy: {{fixed: {paths[0]}}}\n{fallback}    examples:\n{examples}"


def _example(message: LabelledMessage) -> str:
    if message.output is None and not message.intent:
        return _quoted(message.text)
    fields = {"text": message.text, "output": message.output, "intent": message.intent}
    return "{" + ", ".join(f"{name}: {_quoted(value)}" for name, value in fields.items() if value) + "}"


def _quoted(value: Any) -> str:
    """Returns a JSON value, which is also valid YAML, with `${` escaped: the gateway would read it as a variable."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*[\w]", value) and not _is_keyword(value):
        return value
    return json.dumps(value, ensure_ascii=False).replace("${", "$${").replace("\x7f", "\\u007f")


def _is_keyword(word: str) -> bool:
    return word.lower() in {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
