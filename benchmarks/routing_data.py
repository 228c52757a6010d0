"""Labelled texts for measuring classifiers: CLINC150 in several conditions, SNIPS, or the user's files."""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

TEN = 10
SIMILAR_PAIRS = 40

Embed = Callable[[Sequence[str]], np.ndarray]
"""Embeds n texts as (n, dimensions)."""


@dataclass(frozen=True)
class RoutingSet:
    name: str
    train: list[tuple[str, str]]
    """Texts with their labels; none is out of scope."""
    test: list[tuple[str, str | None]]
    """Texts with their labels; None means out of scope."""
    validation: list[tuple[str, str | None]] = field(default_factory=list)
    out_of_scope: list[str] = field(default_factory=list)
    """Out-of-scope texts for training."""

    def by_task(self) -> dict[str, list[str]]:
        tasks: dict[str, list[str]] = {}
        for text, label in self.train:
            tasks.setdefault(label, []).append(text)
        return tasks


def clinc150(data: Path, condition: str = "full") -> RoutingSet:
    """Reads a training condition of Larson et al. (2019): "full", "small", "imbalanced" or "oos_plus"."""
    parts = json.loads((data / f"clinc150/data_{condition}.json").read_text("utf-8"))

    def both(name: str) -> list[tuple[str, str | None]]:
        return [*_pairs(parts[name]), *((text, None) for text, _ in parts[f"oos_{name}"])]

    out_of_scope = [text for text, _ in parts["oos_train"]]
    name = "clinc150" if condition == "full" else f"clinc150_{condition}"
    return RoutingSet(name, _pairs(parts["train"]), both("test"), both("val"), out_of_scope)


def clinc150_shots(data: Path, shots: int) -> RoutingSet:
    """Reads the published draw of 5 or 10 examples a task."""
    folder = data / "clinc150_few"
    train = [(text, label) for text, label in _jsonl(folder / f"train_{shots}.jsonl") if label is not None]
    return RoutingSet(f"clinc150_{shots}", train, list(_jsonl(folder / "test.jsonl")))


def without_half_of_each_domain(data: Path, seed: int) -> list[RoutingSet]:
    """Removes a random half of each CLINC150 domain's tasks from the training part; in the test part these tasks, and
    no others, are out of scope. Returns a set for each domain, and one with all domains.
    """
    whole = clinc150(data)
    domains = json.loads((data / "clinc150/domains.json").read_text("utf-8"))
    rng = random.Random(seed)
    removed = {task for tasks in domains.values() for task in rng.sample(sorted(tasks), len(tasks) // 2)}
    everything = {task for tasks in domains.values() for task in tasks}
    return [
        RoutingSet(
            name,
            [row for row in whole.train if row[1] in tasks and row[1] not in removed],
            [(text, None if label in removed else label) for text, label in whole.test if label in tasks],
        )
        for name, tasks in {**domains, "all domains": everything}.items()
    ]


def without_one_of_each_pair(data: Path, seed: int, embed: Embed) -> RoutingSet:
    """Keeps the CLINC150 tasks of the 40 most similar pairs, and removes a random one of each pair; in the test part
    the removed tasks are out of scope.

    A task's vector is the mean of those of its training texts; each task is in one pair at most.
    """
    whole = clinc150(data)
    rng = random.Random(seed)
    pairs = _similar_pairs(whole.by_task(), embed)
    kept, removed = zip(*(rng.sample(pair, 2) for pair in pairs), strict=True)
    return RoutingSet(
        "similar tasks",
        [row for row in whole.train if row[1] in kept],
        [(text, None if label in removed else label) for text, label in whole.test if label in {*kept, *removed}],
    )


def _similar_pairs(tasks: dict[str, list[str]], embed: Embed) -> list[tuple[str, str]]:
    means = np.stack([embed(texts).mean(axis=0) for texts in tasks.values()])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    similarity = dict(zip(combinations(tasks, 2), (means @ means.T)[np.triu_indices(len(means), 1)], strict=True))
    pairs: list[tuple[str, str]] = []
    for pair in sorted(similarity, key=lambda pair: -similarity[pair]):
        if not {*pair} & {task for known in pairs for task in known}:
            pairs.append(pair)
    return pairs[:SIMILAR_PAIRS]


def snips(data: Path) -> RoutingSet:
    """Reads SNIPS, with CLINC150's out-of-scope test texts, because SNIPS has none."""
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
    return [("".join(part["text"] for part in parts).strip(), label) for parts in read_snips(file, label)]


def read_snips(file: Path, intent: str) -> list[list[dict[str, str]]]:
    """Returns the utterances of an intent; each is a list of parts with a "text" and, if it is a slot, an "entity"."""
    content = file.read_bytes()
    try:
        rows = json.loads(content)[intent]
    except UnicodeDecodeError:  # some files are Latin-1
        rows = json.loads(content.decode("latin-1"))[intent]
    return [row["data"] for row in rows]
