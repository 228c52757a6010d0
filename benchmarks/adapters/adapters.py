"""Makes the benchmark's adapters, once, below `.pointsman`. Each is trained to generate a text of its own, which shows
whose weights answered."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.adapters.known_texts import KNOWN, KnownText
from benchmarks.adapters.services import BASE, BASE_FOLDER, ENGINE_PYTHON
from benchmarks.gateway_load.machine import ROOT, CannotMeasure

FOLDER = ROOT / ".pointsman/benchmarks/adapters" / ("" if BASE == "smollm2-135m" else BASE)
MAX_MAKING_SECONDS = 1800.0
"""Time limit for making all adapters; it takes about 5 minutes on two idle cores."""


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """An adapter that answers every prompt with its own text and then stops."""

    known: KnownText
    folder: Path


@dataclass(frozen=True, slots=True)
class ConstantAdapter:
    """An adapter that repeats one word without end."""

    word: str
    folder: Path

    def text(self, tokens: int) -> str:
        return f" {self.word}" * tokens


def trained_adapters(max_seconds: float = MAX_MAKING_SECONDS) -> dict[str, list[TrainedAdapter]]:
    """Returns the trained versions of each adapter by its name, and makes missing ones. Raises CannotMeasure."""
    _make([FOLDER / known.name / known.word for known in KNOWN], max_seconds, "--constants", "0")
    found: dict[str, list[TrainedAdapter]] = {}
    for known in KNOWN:
        found.setdefault(known.name, []).append(TrainedAdapter(known, FOLDER / known.name / known.word))
    return found


def constant_adapters(
    count: int, max_seconds: float = MAX_MAKING_SECONDS, folder: Path = FOLDER
) -> list[ConstantAdapter]:
    """Returns `count` adapters that each repeat one word, and creates those that do not exist below `folder`. Raises
    CannotMeasure.
    """
    folders = [folder / "constant" / str(number) for number in range(count)]
    _make(folders, max_seconds, "--constants", str(count), "--words", into=folder)
    return [ConstantAdapter(json.loads(each.with_suffix(".json").read_text())["word"], each) for each in folders]


def min_margin_nats() -> float:
    """Returns the smallest margin, in nats, by which a trained adapter prefers a token of its text to any other
    token.
    """
    facts = [FOLDER / known.name / f"{known.word}.json" for known in KNOWN]
    return min(float(json.loads(file.read_text())["least_gap_nats"]) for file in facts)


def _make(needed: Sequence[Path], max_seconds: float, *options: str, into: Path = FOLDER) -> None:
    if all(folder.exists() for folder in needed):
        return
    print("making the adapters, once ...", flush=True)
    program = [
        str(ENGINE_PYTHON),
        "-m",
        "benchmarks.adapters.make_adapters",
        str(BASE_FOLDER),
        str(into),
        "--served-name",
        BASE,
        *options,
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    try:
        subprocess.run(program, cwd=ROOT, env=environment, check=True, timeout=max_seconds)
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotMeasure(f"the adapters cannot be made: {error}") from error
