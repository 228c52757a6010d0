"""Measures how questions on a collection's subjects are recognized, with and without a sketch of the collection.

A real retriever holds the documents, and its sketch comes over gRPC. The reported questions are those of the published
experiment's mixed stream (`benchmarks/experiment_public`): 44 about XQuAD articles with examples, and 106 about others.
The tasks are CLINC150, SNIPS and XQuAD with its training rows; and the same without CLINC150, so that CLINC150's
banking texts belong to no task. For development there are XQuAD's training and validation articles, Cranfield and CISI,
half of whose subjects have examples, with training and validation texts of the other sets.
"""

import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.document_signals import fit_signals
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.fitting.learner import centroids
from pointsman_gateway.classification.model import FitSettings
from pointsman_gateway.domain import Labels
from pointsman_gateway.domain.vector_sketch import VectorSketch
from pointsman_gateway.prompts.retriever import RetrieverClient
from pointsman_retriever import bootstrap
from pointsman_retriever.settings import Settings
from pointsman_servicekit.grpc_client import open_channel
from threadpoolctl import threadpool_limits

from benchmarks.experiment_public import mixed, sets

TASK, COLLECTION = "xquad", "paragraphs"
SEED, DEVELOPMENT_SEED = mixed.SEED, 11
"""The seeds of the training rows. The second one also selects the subjects for development."""
EXAMPLES, TEXTS = 1000, 150
SUBJECTS = 10
DOCUMENTS_PER_CALL = 100


@dataclass(frozen=True)
class DocumentSet:
    name: str
    examples: Mapping[str, Sequence[str]]
    """By task, its examples; those of `TASK` are about some of the documents."""
    texts: Mapping[str, tuple[str, Sequence[str]]]
    """By kind of text, the right task ("unknown" for none) and the texts."""
    documents: Sequence[str]


@dataclass(frozen=True)
class Counts:
    """The results for the texts of one kind."""

    texts: int
    right: int
    abstained: int
    wrong: int
    """Number of texts that were assigned to a wrong task; for texts of no task, to any task."""
    ms: float
    """Mean CPU milliseconds of a decision on a text whose words were seen before."""


def reported(data: Path) -> list[DocumentSet]:
    public = {name: sets.load_set(name, data) for name in sets.LOADERS}
    examples = {name: [row["text"] for row in one.training_rows(EXAMPLES, SEED)] for name, one in public.items()}
    rows = mixed.stream(public, "test", mixed.TEST_ROWS)
    clinc = json.loads((data / "routing/clinc150/data_full.json").read_text("utf-8"))

    def asked(start: str) -> list[str]:
        return [row["text"] for row in rows if row["id"].startswith(start)]

    questions = {
        "on articles without examples": (TASK, asked("xquad-unseen")),
        "on articles with examples": (TASK, asked("xquad-seen")),
        "of SNIPS": ("snips", asked("snips-")),
    }
    outside = {"out of scope": ("unknown", [text for text, _ in clinc["oos_test"]])}
    of_clinc = {"of CLINC150": ("clinc150", asked("clinc150-"))}
    banking = {"on banking": ("unknown", _of_banking(data, clinc["test"]))}
    documents = [*public["xquad"].paragraphs.values()]
    without = {name: texts for name, texts in examples.items() if name != "clinc150"}
    return [
        DocumentSet("three tasks", examples, questions | of_clinc | outside, documents),
        DocumentSet("SNIPS and XQuAD", without, questions | outside | banking, documents),
    ]


def development(data: Path, encoder: MiniLM) -> list[DocumentSet]:
    public = {name: sets.load_set(name, data) for name in ("clinc150", "snips")}
    rows = {name: one.training_rows(EXAMPLES + TEXTS, DEVELOPMENT_SEED) for name, one in public.items()}
    examples = {name: [row["text"] for row in of[:EXAMPLES]] for name, of in rows.items()}
    clinc = json.loads((data / "routing/clinc150/data_full.json").read_text("utf-8"))
    fixed = {f"of {name}": (name, [row["text"] for row in of[EXAMPLES:]]) for name, of in rows.items()}
    fixed["out of scope"] = ("unknown", [text for text, _ in clinc["oos_val"] + clinc["oos_train"]])
    found = []
    for name, (known, others, documents) in _development_questions(data, encoder).items():
        cut = len(known) * 3 // 4
        texts = {
            "on subjects without examples": (TASK, others),
            "on subjects with examples": (TASK, known[cut:]),
        }
        found.append(DocumentSet(name, {**examples, TASK: known[:cut]}, texts | fixed, documents))
    return found


def _development_questions(
    data: Path, encoder: MiniLM
) -> Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str]]]:
    """Returns, by collection, the questions about subjects with examples, the questions about other subjects, and the
    documents.
    """
    rng = random.Random(DEVELOPMENT_SEED)
    articles = json.loads((data / "qa/xquad-en/xquad.en.json").read_text("utf-8"))["data"]
    order = random.Random(sets.SPLIT_SEED).sample(range(len(articles)), len(articles))
    of_development = order[: round((sets.TRAINING_SHARE + sets.VALIDATION_SHARE) * len(order))]
    halves = [of_development[::2], of_development[1::2]]
    known, others = (
        [question["question"] for one in half for part in articles[one]["paragraphs"] for question in part["qas"]]
        for half in halves
    )
    rng.shuffle(known)
    documents = [part["context"] for one in of_development for part in articles[one]["paragraphs"]]
    found = {"xquad": (known, others, documents)}
    for name in ("cranfield", "cisi"):
        queries, corpus = (
            [*map(json.loads, _lines(data / f"ir/{name}/{file}.jsonl"))] for file in ("queries", "corpus")
        )
        texts = [row["text"] for row in queries]
        vectors = encoder.embed(texts)
        centers = centroids(vectors, SUBJECTS, np.random.default_rng(DEVELOPMENT_SEED))
        subjects = (vectors @ centers.T).argmax(axis=1) % 2
        known = [text for text, subject in zip(texts, subjects, strict=True) if subject]
        others = [text for text, subject in zip(texts, subjects, strict=True) if not subject]
        rng.shuffle(known)
        found[name] = (known, others, [f"{row.get('title', '')}\n{row['text']}" for row in corpus if row["text"]])
    return found


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines()


def _of_banking(data: Path, rows: Sequence[Sequence[str]]) -> list[str]:
    intents = json.loads((data / "routing/clinc150/domains.json").read_text("utf-8"))["banking"]
    return [text for text, intent in rows if intent in intents]


async def measure(data: Path, models: Path, *, of_development: bool) -> dict[str, dict[str, dict[str, Counts]]]:
    """Prints the counts without and with the sketch, and returns them.

    Matrix products use one thread, as in the gateway.
    """
    with threadpool_limits(limits=1):
        return await _measure(data, models, of_development)


async def _measure(data: Path, models: Path, of_development: bool) -> dict[str, dict[str, dict[str, Counts]]]:
    static, encoder = StaticModel.load(models), MiniLM.load(models)
    chosen = development(data, encoder) if of_development else reported(data)
    print(f"{'tasks and texts':58} {'texts':>6} {'right':>6} {'abstained':>9} {'wrong':>6} {'ms':>6}")
    figures = {}
    sketches: dict[int, VectorSketch] = {}
    for one in chosen:
        key = id(one.documents)
        sketches[key] = sketches.get(key) or await make_sketch(one.documents, models, encoder)
        fitted = fit_classifier(one.examples, (), static, encoder, FitSettings())
        before = CascadeClassifier(fitted, static, encoder)
        after = before.with_documents(fit_signals([sketches[key]], {COLLECTION: {TASK}}, fitted))
        figures[one.name] = {kind: _count(before, after, task, texts) for kind, (task, texts) in one.texts.items()}
        for kind, results in figures[one.name].items():
            for when, counts in results.items():
                numbers = f"{counts.texts:6} {counts.right:6} {counts.abstained:9} {counts.wrong:6} {counts.ms:6.2f}"
                print(f"{f'{one.name}: {kind}, {when}':58} {numbers}", flush=True)
    return figures


async def make_sketch(documents: Sequence[str], models: Path, encoder: MiniLM) -> VectorSketch:
    """Starts a retriever with the documents, and returns its sketch of them."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", data=Path(folder), embedding_model=models
        )
        async with bootstrap.run_service(settings, encoder) as running, open_channel(running.address) as channel:
            stub = retriever_pb2_grpc.RetrieverStub(channel)
            await stub.CreateCollection(pb.CreateCollectionRequest(name=COLLECTION))
            rows = [pb.Document(id=f"{number}", text=text) for number, text in enumerate(documents)]
            for start in range(0, len(rows), DOCUMENTS_PER_CALL):
                part = rows[start : start + DOCUMENTS_PER_CALL]
                await stub.Upsert(pb.UpsertRequest(collection=COLLECTION, documents=part))
            sketch = await RetrieverClient(channel, lambda: encoder.fingerprint).vector_sketch(COLLECTION, "")
    assert sketch is not None
    return sketch


def _count(before: CascadeClassifier, after: CascadeClassifier, task: str, texts: Sequence[str]) -> dict[str, Counts]:
    """Classifies each text with both classifiers. They take turns in going first, because caches of words favour the
    second one.
    """
    labels: dict[str, list[Labels]] = {"before": [], "after": []}
    seconds = dict.fromkeys(labels, 0.0)
    order = [("before", before), ("after", after)]
    for text in texts:
        before.classify_now(text)
        for when, classifier in order:
            started = time.process_time()
            labels[when].append(classifier.classify_now(text))
            seconds[when] += time.process_time() - started
        order.reverse()
    return {when: _counts(task, found, 1000 * seconds[when] / len(found)) for when, found in labels.items()}


def _counts(task: str, labels: Sequence[Labels], ms: float) -> Counts:
    right, abstained = sum(one.task == task for one in labels), sum(one.abstained for one in labels)
    wrong = sum(not one.abstained and one.task != task for one in labels)
    return Counts(len(labels), right, abstained, wrong, round(ms, 3))


def to_json(figures: Mapping[str, Mapping[str, Mapping[str, Counts]]]) -> dict[str, object]:
    return {
        name: {kind: {when: asdict(counts) for when, counts in of.items()} for kind, of in kinds.items()}
        for name, kinds in figures.items()
    }
