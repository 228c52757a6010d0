"""Measures how well broad tasks, with many kinds of requests, are distinguished from texts of no task, with and without
intents.

In "three sets" CLINC150, SNIPS and XQuAD are one task each; the intents of the first two are their own, those of XQuAD
the articles that the questions are about. In "ten domains" the domains of CLINC150 are the tasks. The texts of no task
are CLINC150's out-of-scope texts. The development rows are disjoint from the reported ones, and from the examples.
"""

import json
import random
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import STATIC, FitSettings
from pointsman_gateway.classification.scores import area_under_roc

from benchmarks.routing_data import RoutingSet, clinc150, clinc150_shots, snips

SEED = 5
EXAMPLES, TEXTS = 1000, 300
"""Per task, the maximum number of examples, and the number of measured texts."""
QUESTIONS = 404
"""Number of XQuAD's questions that are examples. The next `TEXTS` / 2 questions about the same articles are for
development, and as many after them are reported."""
ARTICLES, DEVELOPMENT_ARTICLES = 32, 8
"""Number of XQuAD's 48 articles that have examples, and of articles without examples that are for development. The
others have no examples either, and are reported."""


class Row(NamedTuple):
    text: str
    task: str
    intent: str


@dataclass(frozen=True)
class BroadTasks:
    examples: Sequence[Row]
    texts: Sequence[Row]
    """The texts that are classified to measure."""
    out_of_scope: Sequence[str]


@dataclass(frozen=True)
class Result:
    """The results: percentages, and CPU time in seconds of a fit and in milliseconds of a decision."""

    right: float
    wrong: float
    taken: float
    """Percentage of the texts of no task that are assigned to a task, at the classifier's own thresholds."""
    auroc: float
    """Area under the ROC curve of the score's distance to its threshold, between texts in scope and out of scope."""
    by_static: float
    """Percentage of the texts in scope that are decided without the encoder."""
    calibration_error: float
    """Calibration error on the examples, out of fold."""
    fit_seconds: float
    ms: float
    right_by_task: Mapping[str, float]

    def __str__(self) -> str:
        by_task = ", ".join(f"{task} {share:.1f}" for task, share in self.right_by_task.items())
        figures = (self.right, self.wrong, self.taken, self.auroc, self.by_static, self.calibration_error)
        return f"{' '.join(f'{one:8.1f}' for one in figures)} {self.fit_seconds:8.1f} {self.ms:8.3f}   {by_task}"


def three_sets(data: Path, *, development: bool) -> BroadTasks:
    rng = random.Random(SEED)
    examples, texts = [], []
    for name, whole in (("clinc150", clinc150(data)), ("snips", snips(data))):
        train = rng.sample(whole.train, len(whole.train))
        measured = train[EXAMPLES : EXAMPLES + TEXTS] if development else rng.sample(_in_scope(whole), TEXTS)
        examples += [Row(text, name, intent) for text, intent in train[:EXAMPLES]]
        texts += [Row(text, name, intent) for text, intent in measured]
    articles = _articles(data)
    asked = [row for article in articles[:ARTICLES] for row in article]
    rng.shuffle(asked)
    examples += asked[:QUESTIONS]
    half = TEXTS // 2
    start = QUESTIONS if development else QUESTIONS + half
    others = articles[ARTICLES:][:DEVELOPMENT_ARTICLES] if development else articles[ARTICLES + DEVELOPMENT_ARTICLES :]
    unseen = rng.sample([row for article in others for row in article], half)
    texts += [*asked[start : start + half], *(row._replace(task="xquad of other articles") for row in unseen)]
    return BroadTasks(examples, texts, _out_of_scope(data, development))


def ten_domains(data: Path, *, development: bool) -> BroadTasks:
    domains = json.loads((data / "clinc150/domains.json").read_text("utf-8"))
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    whole = clinc150(data)
    rows = [(text, label) for text, label in whole.validation if label] if development else _in_scope(whole)

    def of_domains(pairs: Sequence[tuple[str, str]]) -> list[Row]:
        return [Row(text, domain_of[intent], intent) for text, intent in pairs]

    texts = of_domains(random.Random(SEED).sample(rows, 10 * TEXTS // 2))
    return BroadTasks(of_domains(clinc150_shots(data, 10).train), texts, _out_of_scope(data, development))


def _in_scope(whole: RoutingSet) -> list[tuple[str, str]]:
    return [(text, label) for text, label in whole.test if label is not None]


def _out_of_scope(data: Path, development: bool) -> list[str]:
    whole = clinc150(data)
    return [text for text, label in (whole.validation if development else whole.test) if label is None]


def _articles(data: Path) -> list[list[Row]]:
    """Returns the questions of each of XQuAD's articles."""
    articles = json.loads((data.parent / "qa/xquad-en/xquad.en.json").read_text("utf-8"))["data"]
    return [
        [
            Row(question["question"], "xquad", article["title"])
            for part in article["paragraphs"]
            for question in part["qas"]
        ]
        for article in articles
    ]


def measure(data: Path, models: Path, *, development: bool) -> dict[str, dict[str, float]]:
    """Prints the results with and without intents, and returns them."""
    static, encoder = StaticModel.load(models), MiniLM.load(models)
    columns = ("right", "wrong", "taken", "AUROC", "static", "ECE", "fit s", "ms")
    print(f"{'percent':28} {' '.join(f'{name:>8}' for name in columns)}   right by task")
    figures = {}
    sets, domains = three_sets(data, development=development), ten_domains(data, development=development)
    variants = [
        (sets, "three sets", ()),
        (sets, "three sets, CLINC150 with", ("clinc150",)),
        (sets, "three sets with intents", ("clinc150", "snips", "xquad")),
        (domains, "ten domains", ()),
        (domains, "ten domains with intents", sorted({row.task for row in domains.examples})),
    ]
    for of, name, labelled in variants:
        result = _result(of, labelled, static, encoder)
        print(f"{name:28} {result}", flush=True)
        figures[name] = asdict(result)
    return figures


def _result(of: BroadTasks, labelled: Collection[str], static: StaticModel, encoder: MiniLM) -> Result:
    examples, intents = defaultdict(list), defaultdict(list)
    for row in of.examples:
        examples[row.task].append(row.text)
        if row.task in labelled:
            intents[row.task].append(row.intent)
    started = time.process_time()
    fitted = fit_classifier(examples, (), static, encoder, FitSettings(), intents=intents)
    seconds = time.process_time() - started
    classifier = CascadeClassifier(fitted, static, encoder)
    started = time.process_time()
    labels = [classifier.classify_now(row.text) for row in of.texts]
    others = [classifier.classify_now(text) for text in of.out_of_scope]
    ms = 1000 * (time.process_time() - started) / (len(labels) + len(others))
    right = np.array([one.task == row.task.split()[0] for one, row in zip(labels, of.texts, strict=True)])
    wrong = ~right & ~np.array([one.abstained for one in labels])
    scores = np.array([one.in_distribution_score for one in [*labels, *others]])
    tasks = np.array([row.task for row in of.texts])
    return Result(
        right=_percent(right),
        wrong=_percent(wrong),
        taken=_percent([not one.abstained for one in others]),
        auroc=_percent(area_under_roc(scores, np.arange(len(scores)) < len(labels))),
        by_static=_percent([one.stage == STATIC for one in labels]),
        calibration_error=_percent(fitted.report.calibration_error),
        fit_seconds=round(seconds, 1),
        ms=round(ms, 3),
        right_by_task={task: _percent(right[tasks == task]) for task in dict.fromkeys(tasks.tolist())},
    )


def _percent(shares: ArrayLike) -> float:
    return round(100 * float(np.mean(np.asarray(shares))), 1)
