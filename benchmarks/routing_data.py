"""Labelled texts for measuring classifiers: CLINC150, SNIPS, or files of the user."""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TEN = 10


@dataclass(frozen=True)
class RoutingSet:
    name: str
    train: list[tuple[str, str]]
    """Texts with their labels; none is out of scope."""
    test: list[tuple[str, str | None]]
    """Texts with their labels; None means out of scope."""

    def by_task(self) -> dict[str, list[str]]:
        tasks: dict[str, list[str]] = {}
        for text, label in self.train:
            tasks.setdefault(label, []).append(text)
        return tasks


def clinc150(data: Path) -> RoutingSet:
    """Uses the training part for training only; the validation part and out-of-scope training texts are not used."""
    parts = json.loads((data / "clinc150/data_full.json").read_text("utf-8"))
    outside = [(text, None) for text, _ in parts["oos_test"]]
    return RoutingSet("clinc150", _pairs(parts["train"]), [*_pairs(parts["test"]), *outside])


def snips(data: Path) -> RoutingSet:
    """Adds CLINC150's out-of-scope test texts, because SNIPS has none."""
    train, test = [], []
    for folder in sorted(path for path in (data / "snips").iterdir() if path.is_dir()):
        train += _snips(folder / f"train_{folder.name}_full.json", folder.name)
        test += _snips(folder / f"validate_{folder.name}.json", folder.name)
    return RoutingSet("snips", train, [*test, *[row for row in clinc150(data).test if row[1] is None]])


def few(whole: RoutingSet, seed: int = 7) -> RoutingSet:
    """Reduces the training set to ten random examples per task."""
    rng = random.Random(seed)
    train = [
        (text, label) for label, texts in whole.by_task().items() for text in rng.sample(texts, min(TEN, len(texts)))
    ]
    return RoutingSet(f"{whole.name}_ten", train, whole.test)


def from_files(train: Path, test: Path) -> RoutingSet:
    """Reads JSON lines with "text" and "label". Rows of `train` without a label are skipped."""
    rows = [(text, label) for text, label in _jsonl(train) if label is not None]
    return RoutingSet("own", rows, list(_jsonl(test)))


def _jsonl(file: Path) -> Iterable[tuple[str, str | None]]:
    for line in file.read_text("utf-8").splitlines():
        if line.strip():
            row = json.loads(line)
            yield row["text"], row["label"]


def _pairs(rows: list[list[str]]) -> list[tuple[str, str]]:
    return [(text, label) for text, label in rows]


def _snips(file: Path, label: str) -> list[tuple[str, str]]:
    content = file.read_bytes()
    try:
        rows = json.loads(content)[label]
    except UnicodeDecodeError:  # some files are Latin-1
        rows = json.loads(content.decode("latin-1"))[label]
    return [("".join(part["text"] for part in row["data"]).strip(), label) for row in rows]
