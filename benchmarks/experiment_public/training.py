"""Trains a cell's adapter on the prompts of the path that it will serve.

Each training row is rendered by the path's own strategies. Examples are chosen as at serving time, without the row
itself. A row of a path with retrieval shows the passage that answers it and other passages that the retriever finds for
it; one row in five shows other passages only, so that the adapter also learns the answers (RAFT, arXiv 2403.10131).
"""

import asyncio
import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pointsman_cli.data_dir import find_run
from pointsman_cli.errors import CommandError
from pointsman_cli.grpc_clients import open_channel
from pointsman_embedding import MiniLM
from pointsman_gateway.config.load import Config, load_config
from pointsman_gateway.domain import Message, Passage, Request
from pointsman_gateway.extensions import Draft, Found, StrategyContext
from pointsman_gateway.prompts.retriever import RetrieverClient
from pointsman_gateway.prompts.strategies import apply_all
from pointsman_gateway.prompts.templates import PromptTemplates

from benchmarks.experiment.adapters import run_trainer
from benchmarks.experiment.folder import ROOT, Row, write_rows
from benchmarks.experiment_public.cells import ALL_ROWS, PASSAGES, Cell
from benchmarks.experiment_public.sets import PublicSet

SHARE_WITHOUT_ANSWER = 0.2
SEARCHED = 8
"""Passages that are searched for a training row; some of them are shown."""
LEARNING_RATE = "2e-3"
MAX_MINUTES = "600"
"""So that the number of epochs does not depend on the machine's load."""
_EPOCHS = {"lora": {"clinc150": 6, "snips": 4, "xquad": 4}}
_EPOCHS_WITH_LONG_PROMPTS = 3
_LEAST_SHARE_OF_STEPS = 1 / 3
"""Few rows are repeated until they take this share of the steps of 1,000 rows."""

Passages = Mapping[str, Sequence[Passage]]
"""By the id of the row, the best first."""


def epochs(cell: Cell) -> int:
    whole = _EPOCHS.get(cell.path, {}).get(cell.set, _EPOCHS_WITH_LONG_PROMPTS)
    return max(whole, math.ceil(whole * ALL_ROWS * _LEAST_SHARE_OF_STEPS / cell.rows))


def train(cell: Cell, public: PublicSet, example: Path, base_model: str, found: Passages, work: Path) -> Path:
    """Trains, or continues an interrupted training. The validation rows choose the weights.

    `example` is the cell's folder for `pointsman up`; `found` has the passages of training and validation rows.
    """
    renderer = Renderer(cell, public, load_config(example / "pointsman.yaml", {}))
    data, checked = (
        write_rows(renderer.render(rows, chosen), work / "data" / f"{cell}-{part}.jsonl")
        for part, rows, chosen in (
            ("train", renderer.examples, training_passages(public, renderer.examples, found, cell.seed)),
            ("validation", public.validation, {row: passages[:PASSAGES] for row, passages in found.items()}),
        )
    )
    out = work / "adapters" / str(cell)
    options = {
        "eval-data": checked, "seed": cell.seed, "learning-rate": LEARNING_RATE, "epochs": epochs(cell),
        "max-minutes": MAX_MINUTES, "baseline-shots": 0, "samples": 0, "base-model": base_model,
        "checkpoint": work / "checkpoints" / str(cell),
    }  # fmt: skip
    run_trainer(str(cell), data, out, options, "--resume")
    return out


@dataclass(frozen=True, slots=True)
class _FixedSearch:
    """Returns passages that were searched before."""

    passages: Sequence[Passage]

    async def search(
        self, collection: str, query: str, vector: NDArray[np.float32] | None, top_k: int, deadline: float
    ) -> Found:
        return Found(tuple(self.passages), bool(self.passages))


class Renderer:
    """Renders rows by the strategies of a cell's path."""

    def __init__(self, cell: Cell, public: PublicSet, config: Config) -> None:
        self.examples = public.training_rows(cell.rows, cell.seed)
        self._task, self._config = cell.set, config
        self._path = config.paths.paths[cell.path_name]
        self._templates = PromptTemplates(config.prompts)
        self._encoder: MiniLM | None = None
        self._known: NDArray[np.float32] = np.zeros((len(self.examples), 1), np.float32)
        if any(strategy.resources.examples for strategy in self._path.strategies):
            self._encoder = MiniLM.load(ROOT / ".pointsman/models/minilm")
            self._known = self._encoder.embed([row["text"] for row in self.examples])

    def render(self, rows: Sequence[Row], passages: Passages) -> list[Row]:
        """Returns {"messages": [...]} with the answer as the last message."""
        texts = [row["text"] for row in rows]
        vectors = list(self._encoder.embed(texts)) if self._encoder else [None] * len(rows)
        return asyncio.run(self._render(rows, vectors, passages))

    async def _render(
        self, rows: Sequence[Row], vectors: Sequence[NDArray[np.float32] | None], passages: Passages
    ) -> list[Row]:
        known = self._config.examples[self._task]
        rendered: list[Row] = []
        for row, vector in zip(rows, vectors, strict=True):
            others = [place for place, each in enumerate(self.examples) if each["text"] != row["text"]]
            context = StrategyContext(
                self._templates,
                _FixedSearch(passages.get(row["id"], ())),
                None if self._encoder is None else _NoEmbedding(),
                {self._task: [known[place] for place in others]},
                {self._task: self._known[others]},
            )
            strategies = [strategy.build(context) for strategy in self._path.strategies]
            draft = await apply_all(strategies, Draft(Request("", (Message("user", row["text"]),)), vector))
            messages = [{"role": message.role, "content": message.content} for message in draft.messages()]
            rendered.append({"messages": [*messages, {"role": "assistant", "content": row["output"]}]})
        return rendered


class _NoEmbedding:
    """Stands for the encoder; every draft brings its vector."""

    async def embed(self, text: str) -> NDArray[np.float32]:
        raise AssertionError("the draft has a vector")


def training_passages(public: PublicSet, rows: Sequence[Row], found: Passages, seed: int) -> Passages:
    """Returns for each row its paragraph and distractors; for a share of the rows distractors only."""
    rng = random.Random(seed)
    chosen: dict[str, Sequence[Passage]] = {}
    for row in rows if found else ():
        mine = [passage for passage in found[row["id"]] if _is_of(passage, row)]
        others = [passage for passage in found[row["id"]] if not _is_of(passage, row)]
        with_answer = [passage for passage in mine if row["output"] in passage.text] or [
            Passage(row["paragraph"], "", public.paragraphs[row["paragraph"]], 1.0)
        ]
        first = [] if rng.random() < SHARE_WITHOUT_ANSWER else with_answer[:1]
        chosen[row["id"]] = [*first, *others][:PASSAGES]
    return chosen


def _is_of(passage: Passage, row: Row) -> bool:
    return bool(passage.document_id == row["paragraph"])


def search_passages(data_dir: Path, rows: Sequence[Row]) -> Passages:
    """Searches the running retriever for each row's text."""
    run = find_run(data_dir)
    if run is None:
        raise CommandError(f"nothing runs in {data_dir}")
    return asyncio.run(_search(run.retriever, rows))


async def _search(address: str, rows: Sequence[Row]) -> Passages:
    async with open_channel(address) as channel:
        retriever = RetrieverClient(channel, "")
        return {
            row["id"]: (await retriever.search("paragraphs", row["text"], None, SEARCHED, math.inf)).passages
            for row in rows
        }


def training_facts(folder: Path) -> dict[str, object]:
    """Returns what a summary states of a training."""
    report = json.loads((folder / "training.json").read_text("utf-8"))
    return {
        "rows": report["data"]["rows"],
        "steps": report["steps"],
        "seconds": report["seconds"],
        "heldout_loss": report.get("metrics", {}).get("heldout_loss"),
        "weights_sha256": hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest(),
    }
