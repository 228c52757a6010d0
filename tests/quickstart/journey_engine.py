"""Stands for Python in the engine's environment on a user's first journey: `journey_engine.py FOLDER ARGUMENTS`.

It starts the engine's double instead of vLLM, makes no base model, and "trains" within a second: the adapter is one of
the help desk's, for which the double gives the answers of the labelled messages. An adapter in a folder called "worse"
answers every message alike, and its report says that prompting is better.
"""

import csv
import json
import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENGINE_PYTHON = ROOT / "tests" / "lora_server" / "engine_python.py"
WEIGHTS = {"intent": "triage", "intent-2": "voice", "worse": "policy"}
"""The help desk's adapter of which a folder gets the weights."""


def train(folder: Path, arguments: list[str]) -> None:
    given = dict(pairwise(arguments))
    out = Path(given["--out"])
    rows = [json.loads(line) for line in Path(given["--data"]).read_text().splitlines() if line]
    is_good = out.name != "worse"
    shutil.copytree(ROOT / "examples" / "helpdesk" / "adapters" / WEIGHTS[out.name], out)
    answers = {row["text"]: row["output"] if is_good else "thanks" for row in [*rows, *labelled(folder / "test.csv")]}
    (folder / f"{out.name}.json").write_text(json.dumps(answers))
    config = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps({**config, "answers": str(folder / f"{out.name}.json")}))
    metrics = {"heldout_exact": 0.9 if is_good else 0.1, "prompt_path_exact": 0.6, "prompt_path_rows": 30}
    report = {"name": given["--name"], "base_model": "smollm2-135m", "seconds": 100.0, "metrics": metrics}
    (out / "training.json").write_text(json.dumps(report))
    emit("data", rows=len(rows), heldout_rows=30, left_out={}, tokens={"median": 72}, labels={})
    emit("start", rows=len(rows), steps=1)
    emit("step", step=1, steps=1, loss=0.5, tokens_per_second=500.0, eta_seconds=0.0)
    emit("evaluation", when="end", step=1, exact=metrics["heldout_exact"], prompt_path_exact=0.6)
    emit("done", folder=str(out), seconds=100.0, metrics=metrics)


def labelled(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as rows:
        return list(csv.DictReader(rows))


def emit(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


if __name__ == "__main__":
    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
    if "pointsman_lora_server.training" in arguments:
        train(folder, arguments)
    elif "pointsman_lora_server.base_model" not in arguments:
        os.execv(sys.executable, [sys.executable, str(ENGINE_PYTHON), str(folder), *arguments])
