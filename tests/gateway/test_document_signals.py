"""Questions about subjects of a task's documents are recognized with a sample of the documents' vectors."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.bootstrap.documents import find_document_tasks
from pointsman_gateway.bootstrap.loaded_models import LoadedModels
from pointsman_gateway.bootstrap.paths import to_path
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.document_signals import (
    DocumentSignal,
    DocumentSignals,
    fit_signals,
    sketches_used,
)
from pointsman_gateway.classification.document_stage import DocumentClassification
from pointsman_gateway.classification.document_tasks import DocumentTasks, SketchMonitor
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import STATIC, ClassifierModel, FitSettings
from pointsman_gateway.classification.rules import RuleMatcher
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import UNKNOWN, Caller, Message, Path, Request, Scope
from pointsman_gateway.domain.vector_sketch import VectorSketch
from pointsman_servicekit.errors import FailedPrecondition, NotFound, PointsmanError, Unavailable

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.library import (
    COLLECTION,
    DOCUMENTS,
    EXAMPLES,
    OF_NO_TASK,
    ON_VOLCANOES,
    VOLCANOES,
    write_library,
)

CHECKSUM = "3f9a1c2b00000000"
HANDBOOK = Path("handbook", "tiny", collections=(COLLECTION,))


@pytest.fixture(scope="module")
def model(static_model: StaticModel, minilm: MiniLM) -> ClassifierModel:
    return fit_classifier(EXAMPLES, (), static_model, minilm, FitSettings())


@pytest.fixture(scope="module")
def classifier(model: ClassifierModel, static_model: StaticModel, minilm: MiniLM) -> CascadeClassifier:
    return CascadeClassifier(model, static_model, minilm)


def sketch_of(texts: Collection[str], encoder: MiniLM, checksum: str = CHECKSUM) -> VectorSketch:
    vectors = encoder.embed([*texts]) if texts else np.empty((0, 384), np.float32)
    return VectorSketch(
        COLLECTION, checksum, encoder.fingerprint, 384, np.rint(vectors * 127).astype(np.int8).tobytes()
    )


@pytest.fixture(scope="module")
def sketch(minilm: MiniLM) -> VectorSketch:
    return sketch_of([*DOCUMENTS.values(), VOLCANOES], minilm)


@pytest.fixture(scope="module")
def informed(classifier: CascadeClassifier, model: ClassifierModel, sketch: VectorSketch) -> CascadeClassifier:
    return classifier.with_documents(fit_signals([sketch], {COLLECTION: {"library"}}, model))


@pytest.fixture(scope="module")
def signal(model: ClassifierModel, sketch: VectorSketch) -> DocumentSignal:
    signals = fit_signals([sketch], {COLLECTION: {"library"}}, model)
    assert signals
    (only,) = signals.signals
    return only


def test_a_question_on_a_subject_without_examples_gets_the_task_of_its_documents(
    classifier: CascadeClassifier, informed: CascadeClassifier
) -> None:
    before, after = classifier.classify_now(ON_VOLCANOES), informed.classify_now(ON_VOLCANOES)
    assert (before.task, before.abstained, before.notes) == (UNKNOWN, True, ())
    assert (after.task, after.abstained) == ("library", False)
    assert after.in_distribution_score > 0
    (note,) = after.notes
    assert note.startswith("documents: is like handbook@3f9a1c2b (0.")
    assert sketches_used(after.notes) == ("handbook@3f9a1c2b",)


def test_a_text_on_no_subject_of_the_documents_stays_without_a_task(
    classifier: CascadeClassifier, informed: CascadeClassifier
) -> None:
    before, after = classifier.classify_now(OF_NO_TASK), informed.classify_now(OF_NO_TASK)
    assert after == replace(before, notes=after.notes, vector=after.vector)
    (note,) = after.notes
    assert note.startswith("documents: is not like handbook@3f9a1c2b (")
    assert sketches_used(after.notes) == ()


def test_a_text_that_is_classified_without_documents_is_not_compared_with_them(
    classifier: CascadeClassifier, informed: CascadeClassifier
) -> None:
    for text in ("Play a song about volcanoes", "Who invented the pendulum clock?", "Set a timer for an hour"):
        before, after = classifier.classify_now(text), informed.classify_now(text)
        assert not before.abstained
        assert (after.task, after.probabilities, after.notes) == (before.task, before.probabilities, ())


def test_a_text_that_is_unlike_all_documents_loses_the_task_that_the_encoder_gave_it(
    classifier: CascadeClassifier, informed: CascadeClassifier, minilm: MiniLM, signal: DocumentSignal
) -> None:
    vector, labels = minilm.embed([ON_VOLCANOES])[0], informed.classify_now(ON_VOLCANOES)
    similarity = signal.similarity(vector)
    for least, keeps in ((similarity - 0.01, True), (similarity + 0.01, False)):
        strict = DocumentSignals((replace(signal, tasks=(replace(signal.tasks[0], least=least),)),))
        found = strict.reconsider(replace(labels, notes=()), vector)
        assert (found.task, found.abstained) == (("library", False) if keeps else (UNKNOWN, True))
        assert (found.in_distribution_score >= 0) is keeps
        assert sketches_used(found.notes) == (() if keeps else ("handbook@3f9a1c2b",))
        other = replace(labels, task="music", notes=())
        assert strict.reconsider(other, vector) is other  # it does not answer from these documents


def test_a_text_must_be_unlike_the_documents_of_all_collections_of_its_task(
    informed: CascadeClassifier, minilm: MiniLM, signal: DocumentSignal
) -> None:
    unlike = replace(signal, tasks=(replace(signal.tasks[0], least=1.0),))
    vector, labels = minilm.embed([ON_VOLCANOES])[0], informed.classify_now(ON_VOLCANOES)
    assert DocumentSignals((unlike, signal)).reconsider(labels, vector) is labels
    assert DocumentSignals((unlike, unlike)).reconsider(labels, vector).abstained


def test_how_unlike_a_text_may_be_follows_from_fifty_examples_or_more(
    model: ClassifierModel, sketch: VectorSketch
) -> None:
    def least_of(copies: int) -> float:
        more = replace(model, vectors={**model.vectors, "library": np.tile(model.vectors["library"], (copies, 1))})
        signals = fit_signals([sketch], {COLLECTION: {"library"}}, more)
        assert signals
        return signals.signals[0].tasks[0].least

    assert least_of(4) == -1
    assert -1 < least_of(5) < 1


def test_equal_sketches_give_equal_labels(
    classifier: CascadeClassifier, informed: CascadeClassifier, model: ClassifierModel, sketch: VectorSketch
) -> None:
    again = classifier.with_documents(fit_signals([replace(sketch)], {COLLECTION: {"library"}}, model))
    for text in (ON_VOLCANOES, OF_NO_TASK, "Tell me about the ash of Krakatoa"):
        one, other = informed.classify_now(text), again.classify_now(text)
        assert replace(one, vector=None) == replace(other, vector=None)


def test_of_two_tasks_with_the_same_documents_the_more_probable_one_gets_the_question(
    classifier: CascadeClassifier, informed: CascadeClassifier, signal: DocumentSignal
) -> None:
    both = replace(signal, tasks=(*signal.tasks, replace(signal.tasks[0], task="alarms")))
    labels = classifier.with_documents(DocumentSignals((both,))).classify_now(ON_VOLCANOES)
    assert labels.task == "library"


def test_the_probability_of_a_recognized_task_becomes_the_highest(
    classifier: CascadeClassifier, informed: CascadeClassifier, signal: DocumentSignal
) -> None:
    of_alarms = replace(signal, tasks=(replace(signal.tasks[0], task="alarms"),))
    before = classifier.classify_now(ON_VOLCANOES)
    after = classifier.with_documents(DocumentSignals((of_alarms,))).classify_now(ON_VOLCANOES)
    assert [task for task, _ in before.probabilities] == ["library", "music", "alarms"]
    assert [task for task, _ in after.probabilities] == ["alarms", "music", "library"]
    assert [share for _, share in after.probabilities] == [share for _, share in before.probabilities]
    assert (after.task, after.confidence) == ("alarms", after.probabilities[0][1])


def test_a_text_nearer_to_an_out_of_scope_example_is_not_recognized(
    static_model: StaticModel, minilm: MiniLM, sketch: VectorSketch
) -> None:
    out_of_scope = ["How far away was Krakatoa's eruption heard?", *["Sell my shares", "Book a table"] * 3]
    fitted = fit_classifier(EXAMPLES, out_of_scope, static_model, minilm, FitSettings())
    signals = fit_signals([sketch], {COLLECTION: {"library"}}, fitted)
    assert signals
    labels = CascadeClassifier(fitted, static_model, minilm).with_documents(signals).classify_now(ON_VOLCANOES)
    assert labels.abstained


def test_documents_that_are_no_more_like_their_task_than_like_others_say_nothing(
    model: ClassifierModel, minilm: MiniLM
) -> None:
    on_music = sketch_of(["How to play songs, albums and playlists on this device, and turn them down."], minilm)
    assert fit_signals([on_music], {COLLECTION: {"alarms"}}, model) is None


@pytest.mark.parametrize("tasks", [{"library"}, {"library", "music", "alarms"}])
def test_without_documents_or_other_tasks_there_is_no_signal(
    model: ClassifierModel, minilm: MiniLM, tasks: Collection[str]
) -> None:
    texts = () if len(tasks) == 1 else tuple(DOCUMENTS.values())
    assert fit_signals([sketch_of(texts, minilm)], {COLLECTION: tasks}, model) is None


def test_too_few_examples_give_no_signal(static_model: StaticModel, minilm: MiniLM, sketch: VectorSketch) -> None:
    few = {task: texts[:4] for task, texts in EXAMPLES.items()}
    fitted = fit_classifier(few, (), static_model, minilm, FitSettings(stages=(STATIC,)))
    assert fit_signals([sketch], {COLLECTION: {"library"}}, fitted) is None


def _tasks(model: ClassifierModel, minilm: MiniLM, fingerprint: str = "") -> DocumentTasks:
    return DocumentTasks({"library": [HANDBOOK]}, model, fingerprint or minilm.fingerprint)


def test_a_sketch_of_another_embedding_model_is_not_used(
    model: ClassifierModel, minilm: MiniLM, sketch: VectorSketch
) -> None:
    own, other = _tasks(model, minilm), _tasks(model, minilm, "another")
    own.use({COLLECTION: sketch})
    other.use({COLLECTION: sketch})
    assert own.signals
    assert other.signals is None


@pytest.fixture
def stage(
    classifier: CascadeClassifier, model: ClassifierModel, minilm: MiniLM
) -> tuple[DocumentClassification, DocumentTasks]:
    tasks = _tasks(model, minilm)
    return DocumentClassification(Classification(RuleMatcher({}), classifier), classifier, tasks), tasks


def asked(*turns: str, scope: Scope | None = None) -> Request:
    messages = [Message("assistant" if number % 2 else "user", text) for number, text in enumerate(turns)]
    caller = Caller(scope=scope) if scope else Caller()
    return Request("auto", tuple(messages), caller=caller)


async def test_the_stage_uses_a_new_sketch_and_nothing_that_was_cached_before(
    stage: tuple[DocumentClassification, DocumentTasks], sketch: VectorSketch
) -> None:
    classification, tasks = stage
    later = asked(ON_VOLCANOES, "4,800 kilometres away.", "and why?")
    assert (await classification.label(asked(ON_VOLCANOES))).abstained
    first = await classification.label(later)
    tasks.use({COLLECTION: sketch})
    assert (await classification.label(asked(ON_VOLCANOES))).task == "library"
    second = await classification.label(later)
    assert sketches_used(first.notes) == ()
    assert sketches_used(second.notes) == ("handbook@3f9a1c2b",)  # by which an earlier turn was recognized
    assert dict(second.probabilities)["library"] > dict(first.probabilities)["library"]
    tasks.use({})
    assert (await classification.label(asked(ON_VOLCANOES))).abstained
    assert (await classification.label(later)).probabilities == first.probabilities


@pytest.mark.parametrize(
    ("scope", "recognized"),
    [
        (Scope(collections=frozenset({COLLECTION})), True),
        (Scope(collections=frozenset({"minutes"})), False),
        (Scope(paths=frozenset({"small_talk"})), False),
        (Scope(paths=frozenset({"handbook"})), True),
        (Scope(tasks=frozenset({"music"})), False),
    ],
)
async def test_keys_learn_nothing_of_documents_that_they_may_not_search(
    stage: tuple[DocumentClassification, DocumentTasks], sketch: VectorSketch, scope: Scope, recognized: bool
) -> None:
    classification, tasks = stage
    tasks.use({COLLECTION: sketch})
    labels = await classification.label(asked(ON_VOLCANOES, scope=scope))
    assert (labels.task == "library", bool(labels.notes)) == (recognized, recognized)


class _Retriever:
    """A retriever with one sketch or one error; implements `SketchSource`."""

    def __init__(self, answer: VectorSketch | PointsmanError) -> None:
        self.answer = answer
        self.known: list[str] = []

    async def vector_sketch(self, collection: str, known_checksum: str) -> VectorSketch | None:
        self.known.append(known_checksum)
        if isinstance(self.answer, PointsmanError):
            raise self.answer
        return None if self.answer.checksum == known_checksum else self.answer


AWAY = Unavailable("away", code="retriever_unavailable")


async def test_a_sketch_is_fetched_again_only_if_the_collection_has_changed(
    model: ClassifierModel, minilm: MiniLM, sketch: VectorSketch
) -> None:
    retriever, tasks = _Retriever(sketch), _tasks(model, minilm)
    monitor = SketchMonitor(retriever, 15.0)
    await monitor.refresh()
    assert retriever.known == []  # no configuration yet
    monitor.watched = tasks
    await monitor.refresh()
    signals = tasks.signals
    await monitor.refresh()
    assert retriever.known == ["", CHECKSUM]
    assert signals
    assert tasks.signals is signals
    retriever.answer = sketch_of([VOLCANOES], minilm, "0" * 16)
    await monitor.refresh()
    assert tasks.sketches == {COLLECTION: retriever.answer}


async def test_while_the_retriever_is_away_the_last_sketch_stays_also_for_a_new_configuration(
    model: ClassifierModel, minilm: MiniLM, sketch: VectorSketch
) -> None:
    retriever, tasks = _Retriever(AWAY), _tasks(model, minilm)
    monitor = SketchMonitor(retriever, 15.0)
    monitor.watched = tasks
    await monitor.refresh()
    assert tasks.signals is None
    retriever.answer = sketch
    await monitor.refresh()
    retriever.answer = AWAY
    monitor.watched = following = _tasks(model, minilm)
    await monitor.refresh()
    assert tasks.signals
    assert following.signals


@pytest.mark.parametrize(
    "error",
    [
        NotFound("no such collection", code="unknown_collection"),
        FailedPrecondition("external", code="read_only_collection"),
    ],
)
async def test_a_collection_that_is_gone_or_cannot_be_sketched_has_no_sketch(
    model: ClassifierModel, minilm: MiniLM, sketch: VectorSketch, error: PointsmanError
) -> None:
    retriever, tasks = _Retriever(sketch), _tasks(model, minilm)
    monitor = SketchMonitor(retriever, 15.0)
    monitor.watched = tasks
    await monitor.refresh()
    retriever.answer = error
    await monitor.refresh()
    assert (tasks.sketches, tasks.signals) == ({}, None)


def document_tasks(config: ConfigFolder, classifier: CascadeClassifier) -> DocumentTasks | None:
    loaded = load_config(config.write())
    paths = [to_path(name, path, loaded) for name, path in loaded.paths.paths.items()]
    return find_document_tasks(loaded, paths, LoadedModels(classifier=classifier))


def test_tasks_whose_policy_searches_documents_are_recognized_by_them(
    config_folder: ConfigFolder, classifier: CascadeClassifier
) -> None:
    write_library(config_folder)
    tasks = document_tasks(config_folder, classifier)
    assert tasks
    assert tasks.collections == [COLLECTION]
    config_folder.tasks["library"]["by_documents"] = False
    assert document_tasks(config_folder, classifier) is None


def test_without_an_encoder_no_text_is_compared_with_documents(
    config_folder: ConfigFolder, classifier: CascadeClassifier
) -> None:
    write_library(config_folder)
    config_folder.rest_of_tasks["classifier"] = {"stages": ["static"]}
    assert document_tasks(config_folder, classifier) is None
