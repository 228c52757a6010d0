"""The command `data`: build the next version of a task's data set."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_gateway.config.json_lines import numbered
from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.config.schema import Flywheel
from pointsman_gateway.validation.stage import Validator
from pointsman_gateway.validation.transcript import Choice
from pointsman_gateway.wiring.line import to_path
from pointsman_gateway.wiring.validators import to_validators

from pointsman_lab.datasets.files import Origin, WrittenDataSet, write
from pointsman_lab.datasets.rows import Pair, Row, Source, canonical, key_of, split, texts_of
from pointsman_lab.datasets.samples import ExtractionRules, StoredSamples, extract_row, read_samples
from pointsman_lab.request_log import History

NOTHING_KEPT = StoredSamples((), ())


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    task: str
    root: Path
    teacher_answers: Path | None = None
    """File with the teacher's answers, if the teacher was asked."""


def flywheel_of(config: Config, task: str) -> Flywheel:
    """Return the task's `flywheel` settings. Raises ConfigError if it has none."""
    if task not in config.tasks.tasks:
        raise ConfigError(f"there is no task '{task}'; known: {', '.join(sorted(config.tasks.tasks))}")
    flywheel = config.tasks.tasks[task].flywheel
    if flywheel is None:
        raise ConfigError(f"tasks.yaml: task '{task}' has no flywheel; write flywheel: {{student: ..., teacher: ...}}")
    return flywheel


async def build(config: Config, history: History | None, wish: DatasetOptions) -> WrittenDataSet:
    """Build and write the data set. `history` is None without Redis: only examples and teacher answers are used then.
    Raises ConfigError."""
    flywheel = flywheel_of(config, wish.task)
    kept = await read_samples(history, config.tasks.learning, wish.task) if history else NOTHING_KEPT
    terms = ExtractionRules(wish.task, flywheel.teacher, flywheel.data.least_rating)
    gleaned = [extract_row(sample, terms) for sample in kept.lessons]
    dropped = Counter(one.why_not for one in gleaned if one.why_not)
    teacher_answers, refused = _teacher_rows(config, wish)
    if refused:
        dropped["refused by a validator"] += refused
    rows = [*_examples(config, wish.task, flywheel), *teacher_answers, *(row for one in gleaned for row in one.rows)]
    pairs: list[Pair] = [pair for one in gleaned for pair in one.pairs]
    closed = evaluation_keys(config.folder / flywheel.heldout) if flywheel.heldout else set()
    data = split(rows, pairs, closed, flywheel.data.heldout_share)
    origin = Origin(
        task=wish.task,
        configuration=config.digest,
        consent=_consent(config, kept),
        dropped=dict(sorted((dropped + Counter(data.dropped)).items())),
        withdrawn=len(kept.withdrawn),
        collections=to_path(flywheel.teacher, config.paths.paths[flywheel.teacher], config).collections,
    )
    return write(data, origin, wish.root)


def _teacher_rows(config: Config, wish: DatasetOptions) -> tuple[Sequence[Row], int]:
    if wish.teacher_answers is None:
        return (), 0
    return read_teacher_answers(wish.teacher_answers, to_validators(wish.task, config.tasks.tasks[wish.task]))


def _examples(config: Config, task: str, flywheel: Flywheel) -> list[Row]:
    if not flywheel.data.examples:
        return []
    return [
        Row((("user", example.text),), canonical(example.output), Source.EXAMPLE)
        for example in config.examples[task]
        if example.output is not None
    ]


def _consent(config: Config, kept: StoredSamples) -> dict[str, Any]:
    learning = config.tasks.learning
    tenants = sorted({sample.tenant for sample in kept.lessons if sample.tenant})
    return {"tenants": tenants, "without_keys": bool(learning and learning.without_keys)}


BLIND = "mean_logprob"
"""The validator that needs log-probabilities, which stored answers do not have."""


def read_teacher_answers(file: Path, validators: Sequence[Validator]) -> tuple[tuple[Row, ...], int]:
    """Read lines of {"text", "answer"}. Return the rows that all validators accept and the number of rejected rows.
    Raises ConfigError."""
    judges = [validator for validator in validators if validator.name != BLIND]
    asked = list(_lines(file))
    good = [row for row, choice in asked if not any(judge.objection(choice) for judge in judges)]
    return tuple(good), len(asked) - len(good)


def _lines(file: Path) -> Iterator[tuple[Row, Choice]]:
    for number, line in numbered(file.read_text("utf-8")):
        try:
            read = json.loads(line)
            text, answer, reason = str(read["text"]), str(read["answer"]), str(read.get("finish_reason", "stop"))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'{file}:{number} is no {{"text": ..., "answer": ...}}: {error}') from error
        yield Row((("user", text),), canonical(answer), Source.TEACHER), Choice(answer, reason)


def evaluation_keys(file: Path) -> set[str]:
    """Return the keys of the evaluation rows, in the format of `pointsman eval`; these must not be trained on. Raises
    ConfigError."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the held-out rows {file} cannot be read: {error}") from error
    return {_key(f"{file}:{number}", line) for number, line in numbered(text)}


def _key(where: str, line: str) -> str:
    try:
        read = json.loads(line)
        messages = texts_of(read["messages"] if "messages" in read else [{"role": "user", "content": read["text"]}])
    except (ValueError, KeyError, TypeError, AttributeError):
        messages = None
    if messages is None:
        raise ConfigError(
            f'{where} is no held-out row: an object with a "text", or "messages" that end with the user\'s'
        )
    return key_of(messages)
