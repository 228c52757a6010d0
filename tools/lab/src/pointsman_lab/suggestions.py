"""The `suggest` command: reports what would improve the classifier, from its examples and from the request log."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pointsman_gateway.bootstrap.models import EmbeddingModels, example_intents, example_texts, fit_settings
from pointsman_gateway.classification.fitting.examples import Examples
from pointsman_gateway.classification.fitting.fit import embed_all, out_of_fold_results
from pointsman_gateway.classification.fitting.selection import StageResults
from pointsman_gateway.config.example_files import numbered_lines
from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import UNKNOWN

from pointsman_lab.report import Progress, Report, Section, to_cell
from pointsman_lab.request_log import RequestLog, TaskCorrection
from pointsman_lab.similar_texts import (
    MAX_TEXTS,
    REPRESENTATIVES,
    Example,
    Group,
    SimilarPair,
    group_texts,
    near_duplicates,
)

MAX_PROPOSALS = 1_000
MAX_TEXT_CHARACTERS = 2_000
"""Only this many characters at the beginning of a request's text are embedded and compared."""
MISTAKES_PER_CONFUSION = 3

MAX_ROWS = 30


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many examples of one task are classified as another task by a classifier that was trained without them."""

    task: str
    """The task to which the confused examples belong in the configuration."""
    predicted: str
    """The task that the classifier finds for the confused examples."""
    count: int
    """The number of examples of `task` that are classified as `predicted`."""
    worst: tuple[Example, ...]
    """Some of the confused examples: those with the highest confidence of the classifier."""


@dataclass(frozen=True, slots=True)
class ExampleFindings:
    """Problems in the configuration's training examples: confused tasks, and near-duplicates in different tasks."""

    examples: int
    """The number of all examples in the configuration."""
    confusions: tuple[Confusion, ...]
    near_duplicates: tuple[SimilarPair, ...]

    @property
    def right(self) -> int:
        """Returns the number of examples that a classifier trained without them assigns to their own task."""
        return self.examples - sum(confusion.count for confusion in self.confusions)


@dataclass(frozen=True, slots=True)
class LogFindings:
    """The suggestions from the request log: groups of similar requests without a task, and requests with a corrected
    task.
    """

    abstained: int
    """The number of requests from which the classifier abstained: it found no task."""
    without_text: int
    """The number of abstained requests whose text was not stored."""
    left_out: int
    """The number of abstained requests that were not grouped, because there are more different texts than MAX_TEXTS."""
    groups: tuple[Group, ...]
    """Groups of abstained requests with similar texts."""
    proposals: tuple[TaskCorrection, ...]
    """Requests with stored text for which feedback names another task: proposals for new examples."""
    corrections_without_text: int
    """The number of requests for which feedback names another task, and whose text was not stored."""
    unknown_tasks: tuple[str, ...]
    """The tasks that feedback names and the configuration does not have."""


def examples_of(config: Config) -> list[Example]:
    """Returns the examples of all tasks with their files and line numbers, in the order of the tasks' names.

    For examples that are written in the configuration itself, the key takes the place of the file, and the number of
    the example the place of the line.
    """
    return [
        Example(example.text, task, _file_of(config, task), line)
        for task in sorted(config.examples)
        for line, example in zip(_lines_of(config, task), config.examples[task], strict=True)
    ]


def _file_of(config: Config, task: str) -> str:
    """Returns the file with a task's examples; the key in the configuration if the examples are written there."""
    written = config.tasks.tasks[task].examples
    return written if isinstance(written, str) else f"tasks.{task}.examples"


def _lines_of(config: Config, task: str) -> list[int]:
    written = config.tasks.tasks[task].examples
    if not isinstance(written, str):
        return list(range(1, len(written) + 1))
    text = (config.folder / written).read_text("utf-8-sig")
    return [number for number, _ in numbered_lines(text)]


def check_examples(config: Config, models: EmbeddingModels, progress: Progress) -> ExampleFindings:
    """Cross-validates the classifier on the configuration's examples, and looks for near-duplicates between tasks.

    Returns findings without examples if the configuration has no tasks.
    """
    if not config.tasks.tasks:
        return ExampleFindings(0, (), ())
    tried = out_of_fold_results(
        example_texts(config),
        config.out_of_scope,
        models.static,
        models.encoder,
        fit_settings(config),
        progress,
        intents=example_intents(config),
    )
    examples = examples_of(config)
    duplicates = near_duplicates(examples, tried.vectors[: len(examples)])
    return ExampleFindings(len(examples), tuple(confusions(tried.data, tried.results, examples)), tuple(duplicates))


def confusions(data: Examples, judged: StageResults, examples: Sequence[Example]) -> list[Confusion]:
    """Returns the pairs of tasks that the classifier confuses, the most frequent pair first.

    `judged` has the classifier's result for each row of `data`, from a fit to other rows; `examples` are the rows'
    messages in the same order.
    """
    wrong = np.flatnonzero(data.inside & (judged.predicted != data.y))
    pairs = Counter((int(data.y[row]), int(judged.predicted[row])) for row in wrong)
    found = []
    for (right, predicted), count in pairs.items():
        rows = [int(row) for row in wrong if (data.y[row], judged.predicted[row]) == (right, predicted)]
        worst = sorted(rows, key=lambda row: -float(judged.confidence[row]))[:MISTAKES_PER_CONFUSION]
        found.append(Confusion(data.tasks[right], data.tasks[predicted], count, tuple(examples[row] for row in worst)))
    return sorted(found, key=lambda confusion: (-confusion.count, confusion.task, confusion.predicted))


async def check_log(
    config: Config, models: EmbeddingModels, log: RequestLog, seconds: float, progress: Progress
) -> LogFindings:
    """Examines the requests of the last `seconds` in the request log, and returns suggestions for improving the
    classifier.

    Groups the texts of requests for which the classifier found no task, and collects the requests for which feedback
    names another task.
    """
    total, read, abstained, without_text, left_out = await log.count(seconds), 0, 0, 0, 0
    counts: Counter[str] = Counter()
    async for recorded in log.decisions(seconds):
        read += 1
        progress("reading the request log", read, max(read, total))
        if not recorded.labels.abstained:
            continue
        abstained += 1
        text = recorded.request.query.strip()[:MAX_TEXT_CHARACTERS] if recorded.has_text else ""
        if not text:
            without_text += 1
        elif text in counts or len(counts) < MAX_TEXTS:
            counts[text] += 1
        else:
            left_out += 1
    known = [text for texts in example_texts(config).values() for text in texts]
    groups = group_texts(counts, embed_all(list(counts), models.encoder, progress), known) if counts else []
    proposals, corrections_without_text = await _proposals(log, seconds)
    unknown = {correction.right_task for correction in proposals} - {*config.tasks.tasks, UNKNOWN}
    return LogFindings(
        abstained, without_text, left_out, tuple(groups), proposals, corrections_without_text, tuple(sorted(unknown))
    )


async def _proposals(log: RequestLog, seconds: float) -> tuple[tuple[TaskCorrection, ...], int]:
    """Returns each corrected text once per task, and the number of corrections without a stored text."""
    found: dict[tuple[str, str], TaskCorrection] = {}
    without_text = 0
    async for correction in log.task_corrections(seconds):
        if not correction.recorded.has_text:
            without_text += 1
        elif len(found) < MAX_PROPOSALS:
            found.setdefault((correction.recorded.request.query, correction.right_task), correction)
    return tuple(found.values()), without_text


def write_proposals(proposals: Sequence[TaskCorrection], file: Path) -> None:
    """Writes the proposals as JSON Lines: each request's `text`, the right `task`, and its id as `decision`."""
    rows = (
        {
            "text": correction.recorded.request.query,
            "task": correction.right_task,
            "decision": correction.recorded.id,
        }
        for correction in proposals
    )
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def suggest_report(in_examples: ExampleFindings, in_log: LogFindings | None, age: str, written: str) -> Report:
    """Returns the report of the `suggest` command on the training examples and the request log.

    `in_log` is None if no log was read. `age` says how far back the log was read ("24h"), and `written` is the file to
    which proposed examples were written; empty: none.
    """
    facts = _example_facts(in_examples) | {"request_log": _log_facts(in_log) if in_log else None}
    page = [_confusions(in_examples), _near_duplicates(in_examples)]
    if in_log is None:
        page.append(Section("From the request log", ("not read; --redis URL names the Redis that holds it",)))
    else:
        page += [_groups(in_log, age), _proposal_section(in_log, age, written)]
    return Report(facts, tuple(page))


def _example_facts(found: ExampleFindings) -> dict[str, Any]:
    return {
        "examples": found.examples,
        "right": found.right,
        "confusions": [
            {
                "task": confusion.task,
                "predicted": confusion.predicted,
                "examples": confusion.count,
                "worst": [_example(example) for example in confusion.worst],
            }
            for confusion in found.confusions[:MAX_ROWS]
        ],
        "near_duplicates": [
            {"cosine": pair.cosine, "one": _example(pair.one), "other": _example(pair.other)}
            for pair in found.near_duplicates[:MAX_ROWS]
        ],
        "near_duplicate_pairs": len(found.near_duplicates),
    }


def _example(example: Example) -> dict[str, Any]:
    return {**asdict(example), "text": to_cell(example.text)}


def _log_facts(found: LogFindings) -> dict[str, Any]:
    return {
        "abstained": found.abstained,
        "without_text": found.without_text,
        "left_out": found.left_out,
        "groups": [
            {
                "requests": group.requests,
                "texts": len(group.texts),
                "words": group.words,
                "tightness": group.tightness,
                "examples": [to_cell(text) for text in group.texts[:REPRESENTATIVES]],
            }
            for group in found.groups[:MAX_ROWS]
        ],
        "proposals": [
            {
                "text": to_cell(correction.recorded.request.query),
                "task": correction.right_task,
                "decided": correction.recorded.labels.task,
                "decision": correction.recorded.id,
            }
            for correction in found.proposals[:MAX_ROWS]
        ],
        "proposed": len(found.proposals),
        "corrections_without_text": found.corrections_without_text,
        "unknown_tasks": found.unknown_tasks,
    }


def _confusions(found: ExampleFindings) -> Section:
    heading = "Confusions: examples classified as another task when they were held out of training"
    right = f"{found.right} of {found.examples} examples are classified right" if found.examples else "no tasks yet"
    if not found.confusions:
        return Section(heading, (right,))
    rows = tuple(row for confusion in found.confusions[:MAX_ROWS] for row in _confusion_rows(confusion))
    return Section(
        heading, (right,), columns=("examples", "of", "predicted", "most certain mistakes", "where"), rows=rows
    )


def _confusion_rows(confusion: Confusion) -> Iterator[tuple[str, ...]]:
    first = (str(confusion.count), confusion.task, confusion.predicted)
    for example in confusion.worst:
        yield (*first, to_cell(example.text), _where(example))
        first = ("", "", "")


def _near_duplicates(found: ExampleFindings) -> Section:
    heading = "Near-duplicates across tasks: one of the two is probably in the wrong file"
    if not found.near_duplicates:
        return Section(heading, ("none",))
    rows = tuple(row for pair in found.near_duplicates[:MAX_ROWS] for row in _pair_rows(pair))
    more = len(found.near_duplicates) - MAX_ROWS
    lines = (f"the first {MAX_ROWS} of {len(found.near_duplicates)} pairs",) if more > 0 else ()
    return Section(heading, lines, columns=("cosine", "text", "where"), rows=rows)


def _pair_rows(pair: SimilarPair) -> Iterator[tuple[str, ...]]:
    yield (f"{pair.cosine:.3f}", to_cell(pair.one.text), _where(pair.one))
    yield ("", to_cell(pair.other.text), _where(pair.other))


def _where(example: Example) -> str:
    return f"{example.file}:{example.line}"


def _groups(found: LogFindings, age: str) -> Section:
    lines = [f"the classifier abstained from {found.abstained} requests of the last {age}"]
    if found.without_text:
        lines.append(
            f"{found.without_text} of them have no stored text (request_log.store_messages) and cannot be grouped"
        )
    if found.left_out:
        lines.append(f"{found.left_out} of them were left out: there are too many distinct texts")
    if not found.groups:
        lines.append("no three of them are similar")
    rows = tuple(row for group in found.groups[:MAX_ROWS] for row in _group_rows(group))
    columns = ("requests", "texts", "words", "typical")
    return Section("Groups of similar abstained requests: candidates for a new task", tuple(lines), columns, rows)


def _group_rows(group: Group) -> Iterator[tuple[str, ...]]:
    first = (str(group.requests), str(len(group.texts)), " ".join(group.words))
    for text in group.texts[:REPRESENTATIVES]:
        yield (*first, to_cell(text))
        first = ("", "", "")


def _proposal_section(found: LogFindings, age: str, written: str) -> Section:
    lines = [f"{len(found.proposals)} requests of the last {age} that feedback assigns to another task"]
    if found.corrections_without_text:
        lines.append(f"{found.corrections_without_text} more have no stored text")
    if found.unknown_tasks:
        lines.append(f"this configuration has no task {', '.join(found.unknown_tasks)}")
    if written:
        lines.append(f"written to {written}; review them before use")
    rows = tuple(_proposal_row(correction) for correction in found.proposals[:MAX_ROWS])
    return Section("Proposed examples", tuple(lines), ("task", "decided", "text", "decision"), rows)


def _proposal_row(correction: TaskCorrection) -> tuple[str, ...]:
    recorded = correction.recorded
    return correction.right_task, recorded.labels.task, to_cell(recorded.request.query), recorded.id
