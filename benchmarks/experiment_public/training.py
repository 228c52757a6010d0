"""Trains a cell's adapter on the prompts of the path that it will serve.

Rows are rendered as by `pointsman train --path`, with passages that were searched once for all cells.
"""

import asyncio
import hashlib
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pointsman_cli.data_dir import DataDir, find_run
from pointsman_cli.engine_environment import locate_base_model
from pointsman_cli.errors import CommandError
from pointsman_cli.grpc_clients import open_channel
from pointsman_embedding import MiniLM
from pointsman_gateway.config.load import Config, load_config
from pointsman_gateway.domain import Message, Passage
from pointsman_gateway.extensions import Found
from pointsman_gateway.prompts.retriever import RetrieverClient
from pointsman_lab.datasets.rendering import SEARCHED_IN_ADDITION, ChosenPassages, PathRenderer, TrainingRow

from benchmarks.experiment.adapters import run_trainer
from benchmarks.experiment.folder import ROOT, Row, write_rows
from benchmarks.experiment_public.cells import ALL_ROWS, FULL_FINE_TUNE, PASSAGES, Cell
from benchmarks.experiment_public.sets import PublicSet
from benchmarks.gateway_load.machine import CannotMeasure

LEARNING_RATE = "2e-3"
MAX_MINUTES = "600"
"""A time limit so large that the number of epochs does not depend on the machine's load."""
_EPOCHS = {path: {"clinc150": 6, "snips": 4, "xquad": 4} for path in ("lora", FULL_FINE_TUNE)}
_EPOCHS_WITH_LONG_PROMPTS = 3
_LEAST_SHARE_OF_STEPS = 1 / 3
"""Few rows are repeated until training takes this share of the steps that 1,000 rows take."""

Passages = Mapping[str, Sequence[Passage]]
"""By the id of the row, its passages, the best first."""


def epochs(cell: Cell) -> int:
    whole = _EPOCHS.get(cell.path, {}).get(cell.set, _EPOCHS_WITH_LONG_PROMPTS)
    return max(whole, math.ceil(whole * ALL_ROWS * _LEAST_SHARE_OF_STEPS / cell.rows))


def train(cell: Cell, public: PublicSet, example: Path, base_model: str, found: Passages, work: Path) -> Path:
    """Trains the cell's adapter, or all weights of its model. Continues an interrupted training.

    The weights with the lowest loss on the validation rows are kept. `example` is the folder from which `pointsman up`
    serves the cell's path. `found` has the passages for the prompt of each training and validation row.
    """
    config, rows = load_config(example / "pointsman.yaml", {}), public.training_rows(cell.rows, cell.seed)
    data = write_rows(render(cell, public, config, rows, found), work / "data" / f"{cell}-train.jsonl")
    validation = render(cell, public, config, public.validation, found, is_trained=False)
    checked = write_rows(validation, work / "data" / f"{cell}-validation.jsonl")
    out = work / "adapters" / str(cell)
    if cell.is_fully_tuned:
        return _tune(cell, data, checked, out, base_model)
    options = {
        "eval-data": checked, "seed": cell.seed, "learning-rate": LEARNING_RATE, "epochs": epochs(cell),
        "max-minutes": MAX_MINUTES, "baseline-shots": 0, "samples": 0, "base-model": base_model,
        "checkpoint": work / "checkpoints" / str(cell),
    }  # fmt: skip
    run_trainer(str(cell), data, out, options, "--resume")
    return out


def _tune(cell: Cell, data: Path, checked: Path, out: Path, base_model: str) -> Path:
    base = locate_base_model(base_model, ROOT, DataDir(ROOT / ".pointsman")).folder
    if not base.is_dir():
        raise CannotMeasure(f"the base model is not in {base}; run a cell without training first, which fetches it")
    module = "benchmarks.experiment_public.full_fine_tune"
    options = {
        "base-model": base, "data": data, "eval-data": checked, "out": out, "epochs": epochs(cell), "seed": cell.seed
    }  # fmt: skip
    given = [part for option, value in options.items() for part in (f"--{option}", str(value))]
    subprocess.run([str(ROOT / ".venv-engine/bin/python"), "-m", module, *given], cwd=ROOT, check=True)
    return out


@dataclass
class _KnownPassages:
    """Implements `Search` with passages that were searched before; the paragraph with the answer is always among
    them.
    """

    found: Passages
    public: PublicSet
    row: Row = field(default_factory=dict)

    async def search(
        self, collection: str, query: str, vector: NDArray[np.float32] | None, top_k: int, deadline: float
    ) -> Found:
        passages = list(self.found[self.row["id"]][:top_k])
        if top_k > PASSAGES:  # a training row
            paragraph = self.row["paragraph"]
            passages.append(Passage(paragraph, "", self.public.paragraphs[paragraph], 1.0))
        return Found(tuple(passages), bool(passages))


class _TextEmbedding:
    """Embeds texts as the gateway does, and loads the model when it is needed."""

    async def embed(self, text: str) -> NDArray[np.float32]:
        return np.asarray(self._model.embed([text])[0])

    @cached_property
    def _model(self) -> MiniLM:
        return MiniLM.load(ROOT / ".pointsman/models/minilm")


def render(
    cell: Cell, public: PublicSet, config: Config, rows: Sequence[Row], found: Passages, is_trained: bool = True
) -> list[Row]:
    """Returns the rows as {"messages": [...]} with the answer as the last message."""
    known = _KnownPassages(found, public)
    chosen = ChosenPassages(known, cell.seed)
    renderer = PathRenderer(config, cell.path_name, chosen, _TextEmbedding())

    async def all_rows() -> list[Row]:
        rendered: list[Row] = []
        for known.row in rows:
            message = Message("user", known.row["text"])
            document = known.row.get("paragraph", "") if is_trained else ""
            row = TrainingRow((message,), {"output": known.row["output"]}, document)
            chosen.begin(row)
            rendered.append(await renderer.render(row))
        return rendered

    return asyncio.run(all_rows())


def search_passages(data_dir: Path, rows: Sequence[Row]) -> Passages:
    """Searches the running retriever for each row's text."""
    run = find_run(data_dir)
    if run is None:
        raise CommandError(f"nothing runs in {data_dir}")
    return asyncio.run(_search(run.retriever, rows))


async def _search(address: str, rows: Sequence[Row]) -> Passages:
    async with open_channel(address) as channel:
        retriever, top_k = RetrieverClient(channel, str), PASSAGES + SEARCHED_IN_ADDITION
        found = {row["id"]: await retriever.search("paragraphs", row["text"], None, top_k, math.inf) for row in rows}
        return {row: each.passages for row, each in found.items()}


def training_facts(folder: Path) -> dict[str, object]:
    """Returns the facts on a training that a summary states."""
    report = json.loads((folder / "training.json").read_text("utf-8"))
    (weights,) = folder.glob("*model.safetensors")
    return {
        "rows": report["data"]["rows"],
        "steps": report["steps"],
        "seconds": report["seconds"],
        "heldout_loss": report.get("metrics", {}).get("heldout_loss"),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
