"""Reads a configuration folder into one checked whole, or says what is wrong with it."""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path as FilePath
from typing import Any, TypeVar

import regex
import yaml
from pointsman_servicekit import strict_yaml
from pydantic import BaseModel, ValidationError

from pointsman_gateway.config.json_lines import numbered
from pointsman_gateway.config.learning_checks import check_learning
from pointsman_gateway.config.problems import ConfigError, must_be_known
from pointsman_gateway.config.schema import ModelsFile, PathsFile, TaskConfig, TasksFile
from pointsman_gateway.domain import UNKNOWN

__all__ = ["Config", "ConfigError", "Example", "load_config", "plain"]

File = TypeVar("File", bound=BaseModel)

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)(?::-([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled request; `output` is the answer that is wanted, where one is written."""

    text: str
    output: str | None


@dataclass(frozen=True, slots=True)
class Config:
    """One generation of the configuration."""

    folder: FilePath
    models: ModelsFile
    paths: PathsFile
    tasks: TasksFile
    examples: Mapping[str, tuple[Example, ...]]
    """By task."""
    negatives: tuple[str, ...]
    """Texts that belong to no task."""
    prompts: Mapping[str, str]
    """Template text by file name."""
    digest: str
    """Of everything that was read: equal digests are equal configurations."""


RESERVED = {"idle": "an engine's time that nobody used", "other": "whatever the configuration does not name"}


def load_config(folder: FilePath, environment: Mapping[str, str] = os.environ) -> Config:
    """Reads and cross-checks `folder`. Raises ConfigError."""
    if not folder.is_dir():
        raise ConfigError(f"there is no configuration folder {folder}")
    models = _read(folder / "models.yaml", ModelsFile, environment)
    paths = _read(folder / "paths.yaml", PathsFile, environment)
    tasks = _read(folder / "tasks.yaml", TasksFile, environment)
    prompts = {file.name: _text(file) for file in sorted((folder / "prompts").glob("*")) if file.is_file()}
    _check_models(models)
    _check_paths(models, paths, tasks, prompts)
    _check_tasks(paths, tasks)
    _check_metrics(models, paths, tasks, prompts)
    check_learning(paths, tasks)
    examples = {name: _read_examples(folder / task.examples) for name, task in tasks.tasks.items()}
    negatives = _read_negatives(folder, tasks.classifier.negatives)
    _check_examples(examples, paths)
    _check_negatives(negatives, examples)
    digest = _digest(models, paths, tasks, examples, negatives, prompts)
    return Config(folder, models, paths, tasks, examples, negatives, prompts, digest)


def _read(file: FilePath, shape: type[File], environment: Mapping[str, str]) -> File:
    try:
        text = _text(file)
    except FileNotFoundError:
        raise ConfigError(f"{file} is missing") from None
    try:
        data = strict_yaml.load(_VARIABLE.sub(lambda m: _variable(m, file, environment), text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {error}") from error
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(file, shape, item) for item in error.errors())) from error


def _text(file: FilePath) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: {error}") from error


def _variable(match: re.Match[str], file: FilePath, environment: Mapping[str, str]) -> str:
    name, default = match.groups()
    value = environment.get(name, default)
    if value is None:
        raise ConfigError(f"{file} needs the environment variable {name}, which is not set")
    return value


def _explain(file: FilePath, shape: type[BaseModel], item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{file}: unknown key '{where}'; known here: {', '.join(_known_keys(shape, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"{file}: '{where}' is missing"
    return f"{file}: '{where}': {item['msg']} (it is {item['input']!r})"


def _known_keys(shape: Any, location: Iterable[str | int]) -> list[str]:
    """The fields of the model that stands at `location` below `shape`."""
    for part in location:
        fields = getattr(shape, "model_fields", None)
        annotation = fields[part].annotation if fields and part in fields else shape
        shape = next((m for m in _models_in(annotation)), shape)
    return list(getattr(shape, "model_fields", {}))


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def _check_models(models: ModelsFile) -> None:
    for name, engine in models.engines.items():
        must_be_known(f"models.yaml: engine '{name}' serves model", engine.model, models.models)
    for name in models.models:
        if not any(engine.model == name for engine in models.engines.values()):
            raise ConfigError(f"models.yaml: no engine serves model '{name}'")


def _check_paths(models: ModelsFile, paths: PathsFile, tasks: TasksFile, prompts: Mapping[str, str]) -> None:
    for name, path in paths.paths.items():
        if name in RESERVED:
            raise ConfigError(f"paths.yaml: no path may be called '{name}': metrics mean {RESERVED[name]} by it")
        owner = f"paths.yaml: path '{name}' names"
        must_be_known(f"{owner} model", path.model, models.models)
        for strategy in path.strategies:
            options = getattr(strategy, strategy.name)
            if options.prompt:
                must_be_known(f"{owner} prompt", options.prompt, prompts)
            if strategy.few_shot:
                must_be_known(f"{owner} the examples of task", strategy.few_shot.task, tasks.tasks)
        names = [strategy.name for strategy in path.strategies]
        if len(set(names)) != len(names):
            raise ConfigError(f"paths.yaml: path '{name}' has a strategy twice: {', '.join(names)}")
        if path.adapter and not any(e.lora_server and e.model == path.model for e in models.engines.values()):
            raise ConfigError(f"paths.yaml: path '{name}' needs an engine with a lora_server for '{path.model}'")
        if path.cache and not models.cache:
            raise ConfigError(f"paths.yaml: path '{name}' caches; models.yaml must price that: cache: {{hit: DOLLARS}}")


def _check_tasks(paths: PathsFile, tasks: TasksFile) -> None:
    must_be_known("tasks.yaml: default_path is", tasks.default_path, paths.paths)
    if UNKNOWN in tasks.tasks:
        raise ConfigError(f"tasks.yaml: '{UNKNOWN}' is the task of requests that fit no other; choose another name")
    if len(tasks.tasks) < 2:
        raise ConfigError("tasks.yaml: there is nothing to choose between; write two tasks or more")
    for name, task in tasks.tasks.items():
        for path in (*task.policy.paths, *task.fallback):
            must_be_known(f"tasks.yaml: task '{name}' names path", path, paths.paths)
        _check_policy(name, task)
        _check_shadow(name, task, paths, tasks.journal.keep_text)
        for rule in task.rules:
            try:
                re.compile(rule.regex)
            except re.error as error:
                raise ConfigError(f"tasks.yaml: rule '{rule.name}' of task '{name}': bad regex: {error}") from error


def _check_policy(name: str, task: TaskConfig) -> None:
    owner, policy = f"tasks.yaml: task '{name}':", task.policy
    if len(set(policy.paths)) != len(policy.paths):
        raise ConfigError(f"{owner} its policy names a path twice: {', '.join(policy.paths)}")
    if policy.escalate:
        for path in policy.escalate.streams_freely:
            must_be_known(f"{owner} streams_freely names", path, policy.paths)
        if not task.validators:
            raise ConfigError(f"{owner} nothing would ever escalate; write validators")
        if set(policy.paths[:-1]) <= set(policy.escalate.streams_freely):
            raise ConfigError(f"{owner} nothing would ever escalate; a path before the last must not stream freely")


SCORED_HERE = ("exact", "json_fields", "contains", "regex", "rouge_l")
"""Metrics that need neither a model nor anybody's code."""


def _check_shadow(name: str, task: TaskConfig, paths: PathsFile, keeps_text: bool) -> None:
    if task.shadow is None:
        return
    owner = f"tasks.yaml: the shadow of task '{name}'"
    for path in task.shadow.paths:
        must_be_known(f"{owner} names path", path, paths.paths)
    if len(set(task.shadow.paths)) != len(task.shadow.paths):
        raise ConfigError(f"{owner} names a path twice: {', '.join(task.shadow.paths)}")
    if set(task.policy.paths) == set(task.shadow.paths) and len(task.shadow.paths) == 1:
        raise ConfigError(f"{owner} names the only path that the task takes; name another one")
    if task.shadow.rate_by == "validators" and not task.validators:
        raise ConfigError(f"{owner} is rated by validators, and the task has none; write validators")
    if task.metric and task.metric.name in SCORED_HERE and not keeps_text and task.shadow.rate_by == "right_answers":
        raise ConfigError(f"{owner} is rated by right answers, which takes journal: {{keep_text: true}}")


def _check_metrics(models: ModelsFile, paths: PathsFile, tasks: TasksFile, prompts: Mapping[str, str]) -> None:
    askable = {*models.models, *(f"path:{name}" for name in paths.paths)}
    for name, task in tasks.tasks.items():
        owner = f"tasks.yaml: the metric of task '{name}'"
        if task.metric and task.metric.regex:
            _check_pattern(f"{owner} has a bad regex", task.metric.regex)
        judge = task.metric.judge if task.metric else None
        if judge:
            must_be_known(f"{owner} asks model", judge.model, askable)
            if judge.prompt:
                must_be_known(f"{owner} names prompt", judge.prompt, prompts)


def _check_pattern(what: str, pattern: str) -> None:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ConfigError(f"{what}: {error} (it is {pattern!r})") from error


def _check_examples(examples: Mapping[str, tuple[Example, ...]], paths: PathsFile) -> None:
    texts = {task: {plain(row.text): row.text for row in rows} for task, rows in examples.items()}
    for task, different in texts.items():
        if len(different) < 2:
            raise ConfigError(f"task '{task}' has {len(different)} example(s), repetitions aside; write two or more")
    for one, other in combinations(texts, 2):
        shared = [text for plain, text in texts[one].items() if plain in texts[other]]
        if shared:
            raise ConfigError(
                f"tasks '{one}' and '{other}' share {len(shared)} example(s), case and spaces aside: "
                f"{shared[0][:80]!r}; an example belongs to one task"
            )
    for name, path in paths.paths.items():
        for strategy in path.strategies:
            few = strategy.few_shot
            if few and sum(row.output is not None for row in examples[few.task]) < few.count:
                raise ConfigError(
                    f"paths.yaml: path '{name}' wants {few.count} examples of task '{few.task}' that have an output; "
                    f"it has {sum(row.output is not None for row in examples[few.task])}"
                )


def plain(text: str) -> str:
    """What two examples have in common that differ by case, spaces or the way a letter is written alone."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _read_examples(file: FilePath) -> tuple[Example, ...]:
    if not file.is_file():
        raise ConfigError(f"{file} is missing (a task's examples)")
    rows = []
    for number, line in numbered(_text(file)):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{file}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
            raise ConfigError(f'{file}:{number} must be an object with a non-empty "text"')
        output = row.get("output")
        if not (output is None or isinstance(output, str)):
            output = json.dumps(output, ensure_ascii=False)
        try:
            f"{row['text']}{output}".encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{file}:{number} holds half a character") from error
        rows.append(Example(row["text"], output))
    return tuple(rows)


def _read_negatives(folder: FilePath, name: str) -> tuple[str, ...]:
    return tuple(example.text for example in _read_examples(folder / name)) if name else ()


def _check_negatives(negatives: Iterable[str], examples: Mapping[str, tuple[Example, ...]]) -> None:
    owner = {plain(row.text): task for task, rows in examples.items() for row in rows}
    for text in negatives:
        if plain(text) in owner:
            raise ConfigError(f"the negative {text[:80]!r} is an example of task '{owner[plain(text)]}' too")


def _digest(*parts: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update((part.model_dump_json() if isinstance(part, BaseModel) else repr(part)).encode())
    return digest.hexdigest()
