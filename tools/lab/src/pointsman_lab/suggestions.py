"""The `suggest` command: what would improve the classifier, judged by its examples and by the request log."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pointsman_gateway.bootstrap.models import EmbeddingModels, example_texts, fit_settings
from pointsman_gateway.classification.fitting.examples import Examples
from pointsman_gateway.classification.fitting.fit import embed_all, out_of_fold_results
from pointsman_gateway.classification.fitting.selection import StageResults
from pointsman_gateway.config.load import Config, numbered_lines
from pointsman_gateway.domain import UNKNOWN

from pointsman_lab.report import Progress
from pointsman_lab.request_log import RequestLog, TaskCorrection
from pointsman_lab.similar_texts import MAX_TEXTS, Example, Group, SimilarPair, group_texts, near_duplicates

MAX_PROPOSALS = 1_000
MAX_TEXT_CHARACTERS = 2_000
"""Characters of a request that are used."""
MISTAKES_PER_CONFUSION = 3


@dataclass(frozen=True, slots=True)
class Confusion:
    """Examples of one task that the classifier assigns to another, if it was trained without them."""

    task: str
    predicted: str
    count: int
    worst: tuple[Example, ...]
    """The mistakes with the highest confidence."""


@dataclass(frozen=True, slots=True)
class ExampleFindings:
    confusions: tuple[Confusion, ...]
    near_duplicates: tuple[SimilarPair, ...]


@dataclass(frozen=True, slots=True)
class LogFindings:
    abstained: int
    """Requests that the classifier abstained from."""
    without_text: int
    """Abstained requests whose text was not stored."""
    left_out: int
    """Abstained requests left out because there are more distinct texts than `MAX_TEXTS`."""
    groups: tuple[Group, ...]
    proposals: tuple[TaskCorrection, ...]
    """Requests with stored text that feedback assigns to another task."""
    corrections_without_text: int
    unknown_tasks: tuple[str, ...]
    """Tasks that feedback names and the configuration does not have."""


def examples_of(config: Config) -> list[Example]:
    """All examples, in the classifier's order (by task name), with their line numbers in the file."""
    return [
        Example(example.text, task, _file_of(config, task), line)
        for task in sorted(config.examples)
        for line, example in zip(_lines_of(config, task), config.examples[task], strict=True)
    ]


def _file_of(config: Config, task: str) -> str:
    """The file with the examples; for those in the configuration itself, the key."""
    written = config.tasks.tasks[task].examples
    return written if isinstance(written, str) else f"tasks.{task}.examples"


def _lines_of(config: Config, task: str) -> list[int]:
    written = config.tasks.tasks[task].examples
    if not isinstance(written, str):
        return list(range(1, len(written) + 1))
    text = (config.folder / written).read_text("utf-8-sig")
    return [number for number, _ in numbered_lines(text)]


def check_examples(config: Config, models: EmbeddingModels, progress: Progress) -> ExampleFindings:
    """Cross-validates the classifier and compares the examples of different tasks."""
    tried = out_of_fold_results(
        example_texts(config), config.out_of_scope, models.static, models.encoder, fit_settings(config), progress
    )
    examples = examples_of(config)
    duplicates = near_duplicates(examples, tried.vectors[: len(examples)])
    return ExampleFindings(tuple(confusions(tried.data, tried.results, examples)), tuple(duplicates))


def confusions(data: Examples, judged: StageResults, examples: Sequence[Example]) -> list[Confusion]:
    """The most frequent confusion first."""
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
    """Groups the requests of the last `seconds` that were abstained from, and collects corrections of the task."""
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
    """Each text once per task, and the number of corrections without a stored text."""
    found: dict[tuple[str, str], TaskCorrection] = {}
    without_text = 0
    async for correction in log.task_corrections(seconds):
        if not correction.recorded.has_text:
            without_text += 1
        elif len(found) < MAX_PROPOSALS:
            found.setdefault((correction.recorded.request.query, correction.right_task), correction)
    return tuple(found.values()), without_text


def write_proposals(proposals: Sequence[TaskCorrection], file: Path) -> None:
    """Writes them as JSON lines in the format of examples, each with the task that it belongs to."""
    rows = (
        {
            "text": correction.recorded.request.query,
            "task": correction.right_task,
            "decision": correction.recorded.id,
        }
        for correction in proposals
    )
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
