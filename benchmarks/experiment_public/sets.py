"""The public sets, split into training, validation and test rows.

SNIPS maps a message to its intent and slots as JSON, CLINC150 a message to its intent, and XQuAD (English) a question
about one of 240 paragraphs to its answer. A row has an id, a text and an output; rows of XQuAD also name their
paragraph. All draws are seeded; the seed of a cell changes which training rows are drawn and in what order, nothing
else.
"""

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.experiment.folder import Row
from benchmarks.routing_data import read_snips

TEST_ROWS, VALIDATION_ROWS, TRAINING_ROWS = 500, 150, 1000
SPLIT_SEED = 0
TRAINING_SHARE, VALIDATION_SHARE = 0.5, 1 / 12
"""Shares of XQuAD's 48 articles, of five paragraphs each; the others are test articles."""
HELD_OUT_QUESTIONS = 150
"""Number of test questions about paragraphs whose other questions are used in training."""


@dataclass(frozen=True, slots=True)
class PublicSet:
    name: str
    pool: Sequence[Row]
    """All rows from which training rows may be drawn."""
    validation: Sequence[Row]
    """Rows with which weights are chosen; their scores are never reported."""
    test: Sequence[Row]
    labels: Sequence[str]
    """The intents; empty for sets of questions."""
    group: str
    """The key of a row by whose values draws are balanced."""
    slots: Sequence[str] = ()
    paragraphs: Mapping[str, str] = field(default_factory=dict)

    def training_rows(self, count: int, seed: int) -> list[Row]:
        """Returns the first `count` rows of the draw with this seed; a longer draw starts with the shorter ones."""
        return draw(self.pool, self.group, seed)[:count]


def draw(rows: Iterable[Row], group: str, seed: int) -> list[Row]:
    """Shuffles the rows, and takes one of each group in turn, so that every beginning is balanced."""
    rng = random.Random(seed)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[group], []).append(row)
    for members in groups.values():
        rng.shuffle(members)
    names = sorted(groups)
    rng.shuffle(names)
    ranked = [(rank, place, row) for place, name in enumerate(names) for rank, row in enumerate(groups[name])]
    return [row for _, _, row in sorted(ranked, key=lambda item: item[:2])]


def load_set(name: str, data: Path) -> PublicSet:
    """Reads a set. Raises FileNotFoundError if the folder `data` does not have the set's files."""
    return LOADERS[name](data)


def load_snips(data: Path) -> PublicSet:
    folders = sorted(path for path in (data / "routing/snips").iterdir() if path.is_dir())
    train = [row for folder in folders for row in _snips_rows(folder, f"train_{folder.name}_full.json")]
    test = [row for folder in folders for row in _snips_rows(folder, f"validate_{folder.name}.json")]
    slots = sorted({name for row in train for name in json.loads(row["output"])["slots"]})
    return _of_labels("snips", train, None, test, slots)


def _snips_rows(folder: Path, file: str) -> Iterable[Row]:
    """Yields the rows of a file, without those that have two slots of the same name (61 of 13,784, none of them in a
    test file).
    """
    for number, parts in enumerate(read_snips(folder / file, folder.name)):
        slots = [(part["entity"], part["text"].strip()) for part in parts if "entity" in part]
        if len(slots) == len(dict(slots)):
            output = json.dumps({"intent": folder.name, "slots": dict(slots)}, ensure_ascii=False)
            text = " ".join("".join(part["text"] for part in parts).split())
            yield {"id": f"{folder.name}-{number}", "text": text, "output": output, "label": folder.name}


def load_clinc150(data: Path) -> PublicSet:
    """Reads the rows in scope; their intents are written as in the set, with spaces for underscores."""
    parts = json.loads((data / "routing/clinc150/data_full.json").read_text("utf-8"))

    def rows(part: str) -> list[Row]:
        named = [(text, label.replace("_", " ")) for text, label in parts[part]]
        return [{"id": f"{n}", "text": text, "output": label, "label": label} for n, (text, label) in enumerate(named)]

    return _of_labels("clinc150", rows("train"), rows("val"), rows("test"))


def _of_labels(
    name: str, train: Sequence[Row], validation: Sequence[Row] | None, test: Sequence[Row], slots: Sequence[str] = ()
) -> PublicSet:
    """Makes a set whose outputs are labels. If it has no validation rows of its own, some training rows are used for
    that.
    """
    chosen = draw(test, "label", SPLIT_SEED)[:TEST_ROWS]
    pool = _without(train, chosen)
    checked = draw(_without(validation or pool, chosen), "label", SPLIT_SEED)[:VALIDATION_ROWS]
    labels = sorted({row["label"] for row in train})
    return PublicSet(name, _without(pool, checked), checked, chosen, labels, "label", slots)


def _without(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """Returns the rows without those whose text occurs among the others, and without repeated texts."""
    seen, kept = {_plain(row) for row in others}, []
    for row in rows:
        if _plain(row) not in seen:
            seen.add(_plain(row))
            kept.append(row)
    return kept


def _plain(row: Row) -> str:
    return " ".join(row["text"].casefold().split())


def load_xquad(data: Path) -> PublicSet:
    """Reads the set. Half of the articles are for training. A test row's id says whether its paragraph was "seen" in
    training.
    """
    articles = json.loads((data / "qa/xquad-en/xquad.en.json").read_text("utf-8"))["data"]
    order = random.Random(SPLIT_SEED).sample(range(len(articles)), len(articles))
    first, second = round(TRAINING_SHARE * len(order)), round((TRAINING_SHARE + VALIDATION_SHARE) * len(order))
    asked = draw(_questions(articles, order[:first], "seen"), "paragraph", SPLIT_SEED)
    held_out, pool = asked[:HELD_OUT_QUESTIONS], asked[HELD_OUT_QUESTIONS:]
    validation = draw(_questions(articles, order[first:second], "validation"), "paragraph", SPLIT_SEED)
    unseen = draw(_questions(articles, order[second:], "unseen"), "paragraph", SPLIT_SEED)
    test = [*held_out, *unseen][:TEST_ROWS]
    return PublicSet(
        "xquad", _without(pool, test), validation[:VALIDATION_ROWS], test, (), "paragraph", (), _paragraphs(articles)
    )


def _paragraphs(articles: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {
        f"{number:02}-{place}": paragraph["context"]
        for number, article in enumerate(articles)
        for place, paragraph in enumerate(article["paragraphs"])
    }


def _questions(articles: Sequence[Mapping[str, Any]], chosen: Iterable[int], part: str) -> list[Row]:
    return [
        {
            "id": f"{part}-{question['id']}",
            "text": question["question"],
            "output": question["answers"][0]["text"],
            "paragraph": f"{number:02}-{place}",
        }
        for number in chosen
        for place, paragraph in enumerate(articles[number]["paragraphs"])
        for question in paragraph["qas"]
    ]


LOADERS: Mapping[str, Callable[[Path], PublicSet]] = {
    "clinc150": load_clinc150,
    "snips": load_snips,
    "xquad": load_xquad,
}
