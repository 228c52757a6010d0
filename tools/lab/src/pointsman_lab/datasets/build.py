"""Builds a task's next training data set (the `data` command), and reports its retraining settings (the `plan`
command).

The retraining settings are called `flywheel` in tasks.yaml: answers of one path become training data for the next
adapter.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_gateway.bootstrap.paths import to_path
from pointsman_gateway.bootstrap.validation import to_validators
from pointsman_gateway.config.example_files import numbered_lines
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.flywheel import FlywheelConfig
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.paths_file import PathConfig
from pointsman_gateway.extensions import Choice
from pointsman_gateway.validation.stage import Named

from pointsman_lab.datasets.rows import (
    Origin,
    Row,
    Source,
    WrittenDataSet,
    canonical,
    prompt_key,
    split,
    text_messages,
    write,
)
from pointsman_lab.datasets.samples import NO_SAMPLES, ExtractionTerms, StoredSamples, extract, read_samples
from pointsman_lab.redis_log import RedisRequestLog
from pointsman_lab.report import Report, Section


@dataclass(frozen=True, slots=True)
class BuildOrder:
    task: str
    root: Path
    teacher_answers: Path | None = None
    """A file with prompts and the answers that the teacher path (the path that the adapter learns from) gave to
    them.
    """


def flywheel_of(config: Config, task: str) -> FlywheelConfig:
    """Returns the retraining settings of a task (`flywheel` in tasks.yaml).

    Raises ConfigError if the task does not exist or has no such settings.
    """
    if task not in config.tasks.tasks:
        raise ConfigError(f"there is no task '{task}'; known: {', '.join(sorted(config.tasks.tasks))}")
    flywheel = config.tasks.tasks[task].flywheel
    if flywheel is None:
        file = config.single_file.name if config.single_file else "tasks.yaml"
        raise ConfigError(f"{file}: task '{task}' has no flywheel; write flywheel: {{student: ..., teacher: ...}}")
    return flywheel


async def build(config: Config, log: RedisRequestLog | None, order: BuildOrder) -> WrittenDataSet:
    """Builds the training data set of the task in `order`, writes it, and returns its folder and manifest.

    The rows come from the configuration's examples, from answers of the teacher path (the path that the adapter learns
    from), and from answers in the request log `log`, if there is one. Stored answers of tenants that have withdrawn
    consent are deleted. Raises ConfigError if the task or a file is invalid, OSError if a file cannot be read or
    written, and Unavailable if Redis does not answer.
    """
    flywheel = flywheel_of(config, order.task)
    stored = await read_samples(log, config.tasks.learning, order.task) if log else NO_SAMPLES
    terms = ExtractionTerms(order.task, flywheel.teacher, flywheel.data.min_rating)
    extracted = [extract(sample, terms) for sample in stored.samples]
    dropped = Counter(one.rejected for one in extracted if one.rejected)
    taught, refused = _teacher_rows(config, order)
    if refused:
        dropped["refused by a validator"] += refused
    rows = [*_example_rows(config, order.task, flywheel), *taught, *(one.row for one in extracted if one.row)]
    pairs = [pair for one in extracted for pair in one.pairs]
    evaluation_keys = read_evaluation_keys(config.folder / flywheel.eval_data) if flywheel.eval_data else set()
    data = split(rows, pairs, evaluation_keys, flywheel.data.heldout_share)
    origin = Origin(
        task=order.task,
        configuration=config.revision,
        consent=_consent(config, stored),
        dropped=dict(sorted((dropped + Counter(data.dropped)).items())),
        withdrawn=len(stored.withdrawn),
        collections=to_path(flywheel.teacher, config.paths.paths[flywheel.teacher], config).collections,
    )
    return write(data, origin, order.root)


def _teacher_rows(config: Config, order: BuildOrder) -> tuple[Sequence[Row], int]:
    if order.teacher_answers is None:
        return (), 0
    return read_teacher_answers(order.teacher_answers, to_validators(order.task, config.tasks.tasks[order.task]))


def _example_rows(config: Config, task: str, flywheel: FlywheelConfig) -> list[Row]:
    if not flywheel.data.examples:
        return []
    return [
        Row((("user", example.text),), canonical(example.output), Source.EXAMPLE)
        for example in config.examples[task]
        if example.output is not None
    ]


def _consent(config: Config, stored: StoredSamples) -> dict[str, Any]:
    learning = config.tasks.learning
    tenants = sorted({sample.tenant for sample in stored.samples if sample.tenant})
    return {"tenants": tenants, "anonymous_consent": bool(learning and learning.anonymous_consent)}


def read_teacher_answers(file: Path, validators: Sequence[Named]) -> tuple[tuple[Row, ...], int]:
    """Reads prompts with answers of the teacher path, the path that the adapter learns from, and validates the answers.

    `file` has a JSON object {"text", "answer"} on each line. Returns the rows that all `validators` (each with its
    name) accept, and the number of the rejected rows. Validators that need log-probabilities are skipped. Raises
    ConfigError if a line is invalid, OSError if the file cannot be read.
    """
    applicable = [validator for _, validator in validators if not validator.needs_logprobs]
    answers = list(_teacher_answers(file))
    good = [row for row, choice in answers if not any(validator.objection(choice) for validator in applicable)]
    return tuple(good), len(answers) - len(good)


def _teacher_answers(file: Path) -> Iterator[tuple[Row, Choice]]:
    for number, line in numbered_lines(file.read_text("utf-8")):
        try:
            read = json.loads(line)
            text, answer, reason = str(read["text"]), str(read["answer"]), str(read.get("finish_reason", "stop"))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f'{file}:{number} is not {{"text": ..., "answer": ...}}: {error}') from error
        yield Row((("user", text),), canonical(answer), Source.TEACHER), Choice(answer, reason)


def read_evaluation_keys(file: Path) -> set[str]:
    """Returns the prompt keys of the rows on which new adapters are evaluated; training data must not have these
    prompts.

    A prompt key is a text that identifies a prompt apart from case and whitespace. Each line of the JSON Lines file has
    "text" or "messages". Raises ConfigError if the file cannot be read or a line is invalid.
    """
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the held-out rows {file} cannot be read: {error}") from error
    return {_evaluation_key(f"{file}:{number}", line) for number, line in numbered_lines(text)}


def _evaluation_key(where: str, line: str) -> str:
    try:
        read = json.loads(line)
        given = read["messages"] if "messages" in read else [{"role": "user", "content": read["text"]}]
        messages = text_messages(given)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        messages = None
    if messages is None:
        raise ConfigError(
            f'{where} is not a held-out row: an object with a "text", or "messages" that end with the user\'s'
        )
    return prompt_key(messages)


def data_report(written: WrittenDataSet) -> Report:
    manifest = written.manifest
    facts = {"folder": str(written.folder), "new": written.is_new, "manifest": dict(manifest)}
    counts = manifest["counts"]
    lines = [
        f"{written.folder}" + ("" if written.is_new else ", unchanged since the last build"),
        f"{counts['train']} training rows, {counts['heldout']} held out; "
        f"{counts['pairs']} preference pairs, {counts['heldout_pairs']} held out",
        f"previous version: {manifest['parent'] or 'none'}",
    ]
    if manifest["withdrawn"]:
        lines.append(f"{manifest['withdrawn']} answers were deleted: their tenants have withdrawn consent")
    page = (
        Section(f"Data set of {manifest['task']}, version {manifest['name']}", tuple(lines)),
        _counted("Training rows by source", manifest["sources"]["train"]),
        _counted("Dropped rows by reason", manifest["dropped"]),
    )
    return Report(facts, page)


def _counted(heading: str, counts: Mapping[str, Any]) -> Section:
    if not counts:
        return Section(heading, ("none",))
    return Section(heading, columns=("rows", "which"), rows=tuple((str(n), name) for name, n in counts.items()))


def plan_report(config: Config, task: str) -> Report:
    """Returns a report with a task's retraining settings, from which `pointsman retrain` makes its plan.

    Its facts are the settings under `flywheel` of tasks.yaml, and the adapter's alias, the sampling parameters, the
    metric, the file of held-out rows and the collections. Raises ConfigError if the task is unknown or has no settings
    under `flywheel`.
    """
    flywheel = flywheel_of(config, task)
    metric = config.tasks.tasks[task].metric
    student = config.paths.paths[flywheel.student]
    facts = {
        "task": task,
        "revision": config.revision,
        "alias": student.adapter,
        "sampling": _sampling(student),
        "metric": metric.model_dump(exclude_unset=True) if metric else {"exact": True},
        "heldout": str((config.folder / flywheel.eval_data).resolve()) if flywheel.eval_data else "",
        "collections": _collections(config, task, flywheel),
        "is_rendered": bool(student.strategies),
        **flywheel.model_dump(exclude={"heldout"}),
    }
    lines = tuple(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.items())
    return Report(facts, (Section(f"The flywheel of {task}", lines),))


def _collections(config: Config, task: str, flywheel: FlywheelConfig) -> list[str]:
    """Returns the collections that any path of the task retrieves from."""
    task_config = config.tasks.tasks[task]
    stale = (task_config.stale.path,) if task_config.stale else ()
    names = (flywheel.teacher, *task_config.policy.paths, *task_config.fallback, *stale)
    strategies = (strategy for name in names for strategy in config.paths.paths[name].strategies)
    return list(dict.fromkeys(name for strategy in strategies for name in strategy.resources.collections))


def _sampling(student: PathConfig) -> dict[str, Any]:
    """Returns the sampling parameters of `student`, the path that will use the new adapter."""
    values = {"max_tokens": student.max_tokens, "temperature": student.temperature, "stop": list(student.stop) or None}
    return {name: value for name, value in values.items() if value is not None}
