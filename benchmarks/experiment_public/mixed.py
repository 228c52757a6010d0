"""Sends a mixed stream of all three sets, and of requests that belong to none, through `model: auto`.

Each task has several paths. Validation rows choose the best one, which becomes the task's policy, and the fixed choice
that `auto` is compared with. Then every path and `auto` answer the test stream (`pointsman eval --mixed`). Requests out
of scope are CLINC150's; the default path declines them. The policy `predicted` learns from the answers to validation
rows, and chooses among those to test rows.
"""

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pointsman_cli.eval.report import Report, read_report
from pointsman_embedding import MiniLM

from benchmarks.experiment.folder import ROOT, Row, write_rows
from benchmarks.experiment.services import evaluate, run_services
from benchmarks.experiment_public import predicted
from benchmarks.experiment_public.cells import SETS, Cell
from benchmarks.experiment_public.folder import write_config, write_folder
from benchmarks.experiment_public.measure import CONCURRENCY, Setting, adapter_of
from benchmarks.experiment_public.sets import SPLIT_SEED, PublicSet

PATHS = {
    "clinc150": ("lora", "nearest_8"),
    "snips": ("lora", "nearest_8"),
    "xquad": ("raft_lora_rag", "lora", "rag", "zero_shot"),
}
SHARES = {"clinc150": 0.3, "snips": 0.3, "xquad": 0.3, "unknown": 0.1}
SEED = 2
"""The seed of adapters and examples."""
TEST_ROWS, VALIDATION_ROWS = 150, 150
"""Number of rows of each set, and of the requests that belong to no set. XQuAD has fewer validation rows."""
CHOSEN, REPORT = "mixed-validation.json", "mixed-report.json"
DEFAULT = "decline"
DECLINED = "I cannot help with that."


def run(sets: Mapping[str, PublicSet], setting: Setting) -> None:
    """Sends the mixed stream to the running services, and stores the reports in the folder of results.

    Requests that an interrupted run has already answered are not sent again. Raises CannotMeasure if a service does not
    start, and CalledProcessError if `pointsman eval` fails.
    """
    served = {cell: adapter_of(cell, sets[cell.set], setting) if cell.is_trained else None for cell in cells()}
    example = write_folder(setting.work / "mixed", served, sets, setting.model)
    chosen, report = setting.work / CHOSEN, setting.work / REPORT
    validation = _evaluate(example, setting, "validation", VALIDATION_ROWS, sets, ["--json", str(chosen)])
    serve_best(example, read_report(chosen))
    shares = ",".join(f"{task}={share}" for task, share in SHARES.items())
    options = ["--mixed", "--shares", shares, "--chosen-by", str(chosen), "--json", str(report)]
    test = _evaluate(example, setting, "test", TEST_ROWS, sets, options)
    setting.results.folder.mkdir(parents=True, exist_ok=True)
    for file in (chosen, report):
        shutil.copy(file, setting.results.folder)
    encoder = MiniLM.load(ROOT / ".pointsman/models/minilm")
    predicted.write(predicted.measure(validation, test, SETS, DEFAULT, encoder), setting.results.folder)


def cells() -> list[Cell]:
    return [Cell(name, path, seed=SEED) for name in SETS for path in PATHS[name]]


def _evaluate(
    example: Path, setting: Setting, part: str, count: int, sets: Mapping[str, PublicSet], options: list[str]
) -> tuple[Path, Path]:
    """Evaluates the paths on a part of the rows; returns the files of rows and answers."""
    rows = stream(sets, part, count)
    if part == "test":
        rows += out_of_scope(setting.data)[: min(count, setting.limit or count)]
    dataset = write_rows(rows, setting.work / "data" / f"mixed-{part}.jsonl")
    answers, home = setting.work / "answers" / f"mixed-{part}.jsonl", setting.work / "home"
    settings = ["--concurrency", str(CONCURRENCY), "--examples", "0", *options]
    with run_services(add_default(example), home) as url:
        evaluate(dataset, url, home, answers, *settings)
    return dataset, answers


def stream(sets: Mapping[str, PublicSet], part: str, count: int) -> list[Row]:
    """Draws rows of each set at random, because the first test rows of XQuAD are all about paragraphs of the
    training.
    """
    return [row for name in SETS for row in _rows(sets[name], part, count)]


def _rows(public: PublicSet, part: str, count: int) -> list[Row]:
    rows = public.validation if part == "validation" else public.test
    return [
        {"id": f"{public.name}-{row['id']}", "task": public.name, "text": row["text"], "output": row["output"]}
        for row in random.Random(SPLIT_SEED).sample(rows, min(count, len(rows)))
    ]


def out_of_scope(data: Path) -> list[Row]:
    """Returns CLINC150's test requests that belong to no intent; the right answer is to decline."""
    texts = json.loads((data / "routing/clinc150/data_full.json").read_text("utf-8"))["oos_test"]
    return [
        {"id": f"unknown-{n}", "task": "unknown", "text": text, "facts": [DECLINED]}
        for n, (text, _) in enumerate(texts)
    ]


def add_default(example: Path) -> Path:
    """Adds the default path, which always declines."""
    content = _read(example)
    model = next(iter(content["models"]))
    content["paths"][DEFAULT] = {"model": model, "answers": [DECLINED], "max_tokens": 16, "temperature": 0}
    write_config(example, content | {"default_path": DEFAULT})
    return example


def serve_best(example: Path, report: Report) -> None:
    """Makes the path with the highest validation score, the cheaper one in a tie, the policy of each task."""
    content = _read(example)
    for task in report.tasks:
        found = {path.path: (path.mean, path.cost) for path in task.paths if path.path != DEFAULT}
        best, *others = predicted.best_first(found)
        content["tasks"][task.task] |= {"policy": {"fixed": best}, "fallback": others}
    write_config(example, content)


def _read(example: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((example / "pointsman.yaml").read_text("utf-8")))
