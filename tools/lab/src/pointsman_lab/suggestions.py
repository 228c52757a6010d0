"""The command `suggest`: find improvements for the classifier in its examples and in the request log."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pointsman_gateway.classification.examples import Examples
from pointsman_gateway.classification.fit import embedded, out_of_fold
from pointsman_gateway.classification.judging import Judged
from pointsman_gateway.config.json_lines import numbered
from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import UNKNOWN
from pointsman_gateway.wiring.learning import Models, texts_of, tuning_of

from pointsman_lab.report import Progress
from pointsman_lab.request_log import History, TaskCorrection
from pointsman_lab.similar_texts import MAX_TEXTS, Cluster, Example, Pair, cluster_texts, near_duplicates

MOST_PROPOSALS = 1_000
MAX_TEXT_CHARACTERS = 2_000
"""Characters of a request that are considered."""


EXAMPLES_PER_CONFUSION = 3
"""Examples listed for each confusion."""


@dataclass(frozen=True, slots=True)
class Confusion:
    task: str
    """The true task of the examples."""
    taken_for: str
    count: int
    worst: tuple[int, ...]
    """The examples misclassified with the highest confidence."""


def confusions(data: Examples, judged: Judged) -> list[Confusion]:
    """Confusions, most frequent first."""
    wrong = np.flatnonzero(data.inside & (judged.predicted != data.y))
    pairs = Counter((int(data.y[row]), int(judged.predicted[row])) for row in wrong)
    found = []
    for (right, taken_for), count in pairs.items():
        rows = [int(row) for row in wrong if (data.y[row], judged.predicted[row]) == (right, taken_for)]
        worst = sorted(rows, key=lambda row: -float(judged.confidence[row]))[:EXAMPLES_PER_CONFUSION]
        found.append(Confusion(data.tasks[right], data.tasks[taken_for], count, tuple(worst)))
    return sorted(found, key=lambda confusion: (-confusion.count, confusion.task, confusion.taken_for))


@dataclass(frozen=True, slots=True)
class Confused:
    confusion: Confusion
    worst: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class ExampleFindings:
    confused: tuple[Confused, ...]
    near: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class RequestLogFindings:
    abstained: int
    """Number of requests on which the classifier abstained."""
    without_text: int
    """How many of these have no stored text."""
    left_out: int
    """How many of these were left out because there were too many distinct texts."""
    groups: tuple[Cluster, ...]
    proposals: tuple[TaskCorrection, ...]
    """Requests with stored text whose feedback names another task."""
    said_without_text: int
    unknown_tasks: tuple[str, ...]
    """Tasks named in feedback that the configuration does not contain."""


def examples_of(config: Config) -> list[Example]:
    """Return the examples in the order of the tasks' names, with line numbers that count empty lines."""
    return [
        Example(example.text, task, config.tasks.tasks[task].examples, line)
        for task in sorted(config.examples)
        for line, example in zip(_lines_of(config, task), config.examples[task], strict=True)
    ]


def _lines_of(config: Config, task: str) -> list[int]:
    text = (config.folder / config.tasks.tasks[task].examples).read_text("utf-8-sig")
    return [number for number, _ in numbered(text)]


def inspect_examples(config: Config, models: Models, progress: Progress) -> ExampleFindings:
    tried = out_of_fold(texts_of(config), config.negatives, models.static, models.encoder, tuning_of(config), progress)
    examples = examples_of(config)
    confused = (Confused(c, tuple(examples[row] for row in c.worst)) for c in confusions(tried.data, tried.judged))
    return ExampleFindings(tuple(confused), tuple(near_duplicates(examples, tried.vectors[: len(examples)])))


async def inspect_request_log(
    config: Config, models: Models, history: History, seconds: float, progress: Progress
) -> RequestLogFindings:
    total, read, abstained, without_text, left_out = await history.count(seconds), 0, 0, 0, 0
    counts: Counter[str] = Counter()
    async for recorded in history.decisions(seconds):
        read += 1
        progress("reading the journal", read, max(read, total))
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
    known = [text for texts in texts_of(config).values() for text in texts]
    groups = cluster_texts(counts, embedded(list(counts), models.encoder, progress), known) if counts else []
    proposals, said_without_text = await _proposals(history, seconds)
    strange = {said.right_task for said in proposals} - {*config.tasks.tasks, UNKNOWN}
    return RequestLogFindings(
        abstained, without_text, left_out, tuple(groups), proposals, said_without_text, tuple(sorted(strange))
    )


async def _proposals(history: History, seconds: float) -> tuple[tuple[TaskCorrection, ...], int]:
    """Return each text once per task, and the number of requests without stored text."""
    found: dict[tuple[str, str], TaskCorrection] = {}
    without_text = 0
    async for said in history.other_tasks(seconds):
        if not said.recorded.has_text:
            without_text += 1
        elif len(found) < MOST_PROPOSALS:
            found.setdefault((said.recorded.request.query, said.right_task), said)
    return tuple(found.values()), without_text


def write_proposals(proposals: Sequence[TaskCorrection], file: Path) -> None:
    """Write the proposals as examples, each with the task whose file it belongs to."""
    rows = (
        {"text": said.recorded.request.query, "task": said.right_task, "decision": said.recorded.id}
        for said in proposals
    )
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
