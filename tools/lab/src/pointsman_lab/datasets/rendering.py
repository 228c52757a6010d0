"""Turns training rows into the prompts that the adapter will receive on its path (the `render` command).

The path's own strategies write each prompt. Few-shot examples are chosen as for a request, but never the row itself.
Passages follow RAFT (T. Zhang et al., arXiv 2403.10131): if a training row names the document that answers it, the
prompt has the passage of this document that states most of the answer, and other passages that the retriever finds. One
in five of the rows with a document gets only the other passages, so that the adapter also learns the answers
themselves. Rows without a document, and evaluation rows, have the passages that the retriever finds, as a request
would.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pointsman_gateway.bootstrap.models import EmbeddingModels
from pointsman_gateway.classification.excerpt import token_excerpt
from pointsman_gateway.config.example_files import numbered_lines
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import Message, Passage, Request, Vector
from pointsman_gateway.extensions import (
    Draft,
    Embed,
    Example,
    Found,
    NothingRelevant,
    Search,
    Strategy,
    StrategyContext,
)
from pointsman_gateway.prompts.strategies import apply_all
from pointsman_gateway.prompts.templates import PromptTemplates

from pointsman_lab.datasets.rows import prompt_key, text_messages
from pointsman_lab.report import Progress, Report, Section

SHARE_WITHOUT_ANSWER = 0.2
SEARCHED_IN_ADDITION = 6
"""The number of passages that a search fetches in addition to the passages that a prompt shows."""
MAX_SEARCHED_CHARACTERS = 8000
"""Maximum length of a question together with its answer, since the retriever rejects long queries."""
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|\n+")
_SHOWN, _HIDDEN = "with the right passage", "without the right passage"
_NOT_FOUND = "right passage not found"

FORMS = '{"text", "output"}, {"messages"}, or for pairs {"prompt" or "messages", "chosen", "rejected"}'


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row of training data: a prompt with its answer, or with a preferred and a rejected answer."""

    messages: tuple[Message, ...]
    """The messages of the prompt; the last one is the user's."""
    answers: Mapping[str, str]
    """The answer as `output`; for preference pairs, the two answers as `chosen` and `rejected`."""
    document: str = ""
    """The id of the document that answers the prompt; empty if it is not known."""

    @property
    def key(self) -> str:
        """Returns a text that identifies the prompt: equal for prompts that differ only in case and whitespace."""
        return prompt_key([(message.role, message.content) for message in self.messages])

    def rendered(self, messages: Sequence[Message]) -> dict[str, Any]:
        """Returns the row as a JSON object for the trainer, with the prompt `messages` in place of the row's own
        prompt.

        The object has `messages`, which end with the answer, or for a preference pair `messages`, `chosen` and
        `rejected`.
        """
        prompt = [{"role": message.role, "content": message.content} for message in messages]
        if "output" in self.answers:
            return {"messages": [*prompt, {"role": "assistant", "content": self.answers["output"]}]}
        return {"messages": prompt, **self.answers}


class ChosenPassages:
    """Searches passages for training rows, and decides for each row whether its right passage is shown.

    The right passage is the one of the row's `document` that states most of the answer. The share `share_without` of
    the rows, chosen at random, does not get it, so that the adapter learns from both kinds of prompts. Implements
    `Search`.
    """

    def __init__(self, inner: Search, seed: int, share_without: float = SHARE_WITHOUT_ANSWER) -> None:
        self._inner, self._random, self._share_without = inner, random.Random(seed), share_without
        self._row: TrainingRow | None = None
        self._is_hidden = False
        self.counts: Counter[str] = Counter()
        self.found_instead = ""
        """The id of a document that a search returned when it did not find the row's own document; empty if there is
        none.
        """

    def begin(self, row: TrainingRow | None) -> None:
        """Sets the training row for which the following searches are made.

        Decides at random whether these searches return the row's right passage. If `row` is None or names no document,
        they return what the retriever finds.
        """
        self._row, self._is_hidden = row, self._random.random() < self._share_without

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        row = self._row
        if row is None or not row.document:
            self.counts["as found"] += 1
            return await self._inner.search(collection, query, vector, top_k, deadline)
        found = await self._inner.search(collection, query, vector, top_k + SEARCHED_IN_ADDITION, deadline)
        of_document = _of(row.document, found)
        answer = row.answers.get("output", "")
        if answer and not self._is_hidden and not any(_stated(answer, passage) for passage in of_document):
            # The question alone does not find it; its answer is in other words.
            longer = f"{query}\n{answer}"[:MAX_SEARCHED_CHARACTERS]
            again = await self._inner.search(collection, longer, None, top_k + SEARCHED_IN_ADDITION, deadline)
            of_document += _of(row.document, again)
        others = [passage for passage in found.passages if passage.document_id != row.document]
        if not of_document:
            self.counts[_NOT_FOUND] += 1
            self.found_instead = next((passage.document_id for passage in others), self.found_instead)
        elif self._is_hidden:
            self.counts[_HIDDEN] += 1
        else:
            self.counts[_SHOWN] += 1
            others.insert(0, max(of_document, key=lambda passage: _stated(answer, passage)))
        return replace(found, passages=tuple(others[:top_k]), relevant=bool(others))


def _of(document: str, found: Found) -> list[Passage]:
    return [passage for passage in found.passages if passage.document_id == document]


def _stated(answer: str, passage: Passage) -> int:
    """Returns how many sentences of the answer the passage contains."""
    return sum(sentence in passage.text for sentence in _SENTENCE_ENDS.split(answer) if sentence)


@dataclass(frozen=True, slots=True)
class QueryEmbedding:
    """Embeds texts for training and evaluation in the same way as the gateway embeds requests.

    If a text is too long for the embedding model, only its beginning and its end are embedded.
    """

    models: EmbeddingModels

    async def embed(self, text: str) -> Vector:
        return np.asarray(self.models.encoder.embed([token_excerpt(text, self.models.static).text])[0])


class PathRenderer:
    """Writes the prompts of training rows as one path writes the prompts of requests, for example with few-shot
    examples or retrieved passages.
    """

    def __init__(self, config: Config, path: str, search: Search, embedding: Embed) -> None:
        """Prepares the path's strategies; raises ConfigError if there is no such path."""
        if path not in config.paths.paths:
            raise ConfigError(f"there is no path '{path}'; known: {', '.join(sorted(config.paths.paths))}")
        self._search, self._embedding = search, embedding
        self._templates = PromptTemplates(config.prompts)
        self._configured = config.paths.paths[path].strategies
        shown = {task for strategy in self._configured for task, _ in strategy.resources.examples}
        self._examples = {task: config.examples[task] for task in sorted(shown)}
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._complete: list[Strategy] = []
        """The path's strategies, with all few-shot examples that the configuration has for them."""

    async def render(self, row: TrainingRow, is_last: bool = False) -> dict[str, Any]:
        """Returns the row with the path's prompt, as a JSON object for the trainer.

        If the search finds nothing relevant, a path may leave a request to the next path: then this raises
        NothingRelevant. With `is_last` there is no next path, and the prompt has no passages. Raises another
        PointsmanError if the search fails.
        """
        strategies = await self._strategies_for(row.messages[-1].content)
        draft = await apply_all(strategies, Draft(Request("", row.messages), None, is_last=is_last))
        return row.rendered(draft.messages())

    async def _strategies_for(self, text: str) -> list[Strategy]:
        """Returns the path's strategies without few-shot examples that have the text `text`: a row must not be shown
        its answer.
        """
        if not self._vectors:
            self._vectors = {task: await self._embed(rows) for task, rows in self._examples.items()}
            self._complete = self._build({task: range(len(rows)) for task, rows in self._examples.items()})
        kept = {
            task: [place for place, example in enumerate(rows) if example.text != text]
            for task, rows in self._examples.items()
        }
        is_complete = all(len(kept[task]) == len(rows) for task, rows in self._examples.items())
        return self._complete if is_complete else self._build(kept)

    def _build(self, kept: Mapping[str, Sequence[int]]) -> list[Strategy]:
        context = StrategyContext(
            self._templates,
            self._search,
            self._embedding,
            {task: [self._examples[task][place] for place in places] for task, places in kept.items()},
            {task: self._vectors[task][list(places)] for task, places in kept.items()},
        )
        return [strategy.build(context) for strategy in self._configured]

    async def _embed(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        return np.stack([await self._embedding.embed(example.text) for example in examples])


def read_rows(file: Path) -> list[TrainingRow]:
    """Reads training rows from a JSON Lines file.

    Raises ConfigError if the file cannot be read, or a line is not a training row; the message names the first such
    line.
    """
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    return [_read_row(line, f"{file}:{number}") for number, line in numbered_lines(text)]


def _read_row(line: str, where: str) -> TrainingRow:
    try:
        row = json.loads(line)
        given = row.get("messages") or row.get("prompt") or row["text"]
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
        if "chosen" in row:
            answers = {"chosen": row["chosen"], "rejected": row["rejected"]}
        else:
            answers = {"output": row["output"] if "output" in row else messages.pop()["content"]}
        plain = text_messages(messages)
        document = str(row.get("document", ""))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        plain = None
    if plain is None:
        raise ConfigError(f"{where} is not a training row: {FORMS}; the message that is answered is the user's")
    as_text = {name: a if isinstance(a, str) else json.dumps(a, ensure_ascii=False) for name, a in answers.items()}
    return TrainingRow(tuple(Message(role, content) for role, content in plain), as_text, document)


@dataclass(frozen=True, slots=True)
class RenderOrder:
    """Which files of training rows to render for which path."""

    path: str
    """The name of the path."""
    training: Path
    """The file with the rows for training."""
    evaluation: Path | None
    """The file with the held-out rows; None: there are none."""
    out: Path
    """The folder to write to."""
    seed: int
    """The random seed of the choice of rows that do not get their right passage."""


async def render(order: RenderOrder, renderer: PathRenderer, passages: ChosenPassages, progress: Progress) -> Report:
    """Renders the rows of both files, writes them to the folder `order.out`, and reports their numbers.

    `passages` must be the search of `renderer`. Raises ConfigError if a file is invalid or no search found the document
    that its row names, PointsmanError if a search fails, OSError if a file cannot be written.
    """
    rows = read_rows(order.training)
    held_out = read_rows(order.evaluation) if order.evaluation else []
    training = distinct(rows, {row.key for row in held_out})
    counts = Counter({"repeated or held out": len(rows) - len(training)})

    async def write(name: str, chosen: Sequence[TrainingRow], is_trained: bool) -> str:
        lines = []
        for number, row in enumerate(chosen, 1):
            passages.begin(row if is_trained else None)
            try:
                lines.append(json.dumps(await renderer.render(row, is_last=not is_trained), ensure_ascii=False) + "\n")
            except NothingRelevant:
                counts["left to the next path"] += 1
            progress(f"rendering {name}", number, len(chosen))
        (order.out / name).write_text("".join(lines), "utf-8")
        return str(order.out / name)

    order.out.mkdir(parents=True, exist_ok=True)
    trained = await write(order.training.name, training, is_trained=True)
    _check_documents(training, passages)
    facts: dict[str, Any] = {
        "training": trained,
        "evaluation": await write(f"evaluation-{order.evaluation.name}", held_out, is_trained=False)
        if order.evaluation
        else "",
        "rows": len(training),
        "counts": dict(counts + passages.counts),
    }
    table = tuple((str(count), which) for which, count in facts["counts"].items())
    return Report(facts, (Section(f"Prompts of path {order.path}", columns=("rows", "which"), rows=table),))


def _check_documents(rows: Sequence[TrainingRow], passages: ChosenPassages) -> None:
    """Raises ConfigError if no search found the document that its row names, as with ids that the retriever lacks."""
    if passages.counts[_NOT_FOUND] and not (passages.counts[_SHOWN] or passages.counts[_HIDDEN]):
        named = next(row.document for row in rows if row.document)
        found = f"only others, such as '{passages.found_instead}'" if passages.found_instead else "nothing"
        raise ConfigError(
            f"the retriever found the document of no training row ('{named}' in the first one); it found {found}; name "
            "documents by their ids, as in the sources of an answer"
        )


def distinct(rows: Sequence[TrainingRow], held_out: Set[str]) -> list[TrainingRow]:
    """Returns the training rows without repetitions, and without rows whose prompt key is in `held_out`.

    A prompt key (`TrainingRow.key`) identifies a prompt; `held_out` has the keys of the rows for evaluation. Call this
    before rendering: afterwards equal requests may have different prompts.
    """
    return list({(row.key, *row.answers.values()): row for row in rows if row.key not in held_out}.values())
