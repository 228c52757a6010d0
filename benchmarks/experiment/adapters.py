"""Trains the adapters that the example lacks: for policy questions without the handbook, and for sums of fares."""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.experiment.folder import EXAMPLE, ROOT, Row, facts, policy_answers, read_rows, write_rows

POINTSMAN = Path(sys.executable).parent / "pointsman"
SEED = 7


@dataclass(frozen=True, slots=True)
class Recipe:
    rows: tuple[Row, ...]
    learning_rate: str
    epochs: int
    minutes: float
    """Maximum training time in minutes."""


def recipes() -> dict[str, Recipe]:
    """Returns how each adapter is trained. The training data are the answers that prompts of other paths may show as
    examples.
    """
    questions = [{"text": row["text"], "output": row["output"]} for row in policy_answers()]
    sums = read_rows(EXAMPLE / "config/tasks/fare_sum.jsonl")
    return {
        "policy_alone": Recipe((*questions, *facts()), "2e-3", 8, 6),
        "fares": Recipe(tuple(sums), "2e-3", 10, 3),
    }


def train_missing(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Returns the folder of each named adapter. One that `folder` lacks is trained first, in up to 6 minutes."""
    return {name: _train(folder, name, recipe) for name, recipe in recipes().items() if name in names}


def _train(folder: Path, name: str, recipe: Recipe) -> Path:
    out = folder / name
    if not (out / "training.json").is_file():
        data = write_rows(recipe.rows, folder / f"{name}.jsonl")
        options = {
            "seed": SEED, "learning-rate": recipe.learning_rate, "epochs": recipe.epochs,
            "max-minutes": recipe.minutes, "baseline-shots": 0, "samples": 0,
        }  # fmt: skip
        run_trainer(name, data, out, options)
    return out


def run_trainer(name: str, data: Path, out: Path, options: Mapping[str, object], *flags: str) -> None:
    """Runs `pointsman train` and leaves the adapter in `out`; no running lora-server gets it.

    `options` are given as `--NAME VALUE`, `flags` as they are. Raises CalledProcessError if the training fails.
    """
    given = [part for option, value in options.items() for part in (f"--{option}", str(value))]
    command = ["train", "--name", name, "--data", str(data), "--out", str(out), "--no-register", *given, *flags]
    subprocess.run([str(POINTSMAN), *command], cwd=ROOT, check=True)
