"""The adapters that are measured with: made once, kept below `.pointsman`, and what each of them says."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.adapters.known_texts import KNOWN, KnownText
from benchmarks.adapters.services import BASE_FOLDER, ENGINE_PYTHON
from benchmarks.gateway_load.machine import ROOT, CannotMeasure

FOLDER = ROOT / ".pointsman/benchmarks/adapters"
CONSTANT_COUNT = 264
"""256, and some more that are not held."""
MAX_MAKING_SECONDS = 1800.0
"""Seconds, at most: 5 minutes are usual on two idle cores, and only the first time."""


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """Answers everything with its own text, and stops."""

    known: KnownText
    folder: Path


@dataclass(frozen=True, slots=True)
class ConstantAdapter:
    """Says one word for ever."""

    word: str
    folder: Path

    def text(self, tokens: int) -> str:
        return f" {self.word}" * tokens


def trained_adapters() -> dict[str, list[TrainedAdapter]]:
    """By the adapter's name. Makes what is not there yet. Raises CannotMeasure."""
    _make([FOLDER / known.name / known.word for known in KNOWN], "--constants", "0")
    found: dict[str, list[TrainedAdapter]] = {}
    for known in KNOWN:
        found.setdefault(known.name, []).append(TrainedAdapter(known, FOLDER / known.name / known.word))
    return found


def constant_adapters(count: int) -> list[ConstantAdapter]:
    """`count` of the CONSTANTS. Makes what is not there yet. Raises CannotMeasure."""
    folders = [FOLDER / "constant" / str(number) for number in range(count)]
    _make(folders, "--constants", str(CONSTANT_COUNT), "--words")
    return [ConstantAdapter(json.loads(folder.with_suffix(".json").read_text())["word"], folder) for folder in folders]


def min_margin_nats() -> float:
    """Nats from the first to the second choice, where a trained one is least sure of a token; as its making saw it."""
    facts = [FOLDER / known.name / f"{known.word}.json" for known in KNOWN]
    return min(float(json.loads(file.read_text())["least_gap_nats"]) for file in facts)


def _make(needed: Sequence[Path], *options: str) -> None:
    if all(folder.exists() for folder in needed):
        return
    print("making the adapters, once ...", flush=True)
    program = [str(ENGINE_PYTHON), "-m", "benchmarks.adapters.make_adapters", str(BASE_FOLDER), str(FOLDER), *options]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    try:
        subprocess.run(program, cwd=ROOT, env=environment, check=True, timeout=MAX_MAKING_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotMeasure(f"the adapters cannot be made: {error}") from error
