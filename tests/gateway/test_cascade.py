"""The classifier with the real models: its labels, the stage that decides, and when it abstains."""

import asyncio
import json
import random
import re
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.classification.cascade import CascadeClassifier, TextEmbedder
from pointsman_gateway.classification.fitting.examples import FOLDS, collect_examples
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import ClassifierModel, FitSettings
from pointsman_gateway.classification.scores import calibration_error, fit_temperature, probabilities
from pointsman_servicekit.errors import InvalidArgument

from tests.gateway.doubles.config_folder import IN_CHAT, IN_NONE, IN_POLICY, IN_TRIAGE, ConfigFolder

Examples = Mapping[str, Sequence[str]]

HELPDESK = Path(__file__).parents[2] / "examples" / "helpdesk"

ONLY_STATIC, ONLY_ENCODER, BOTH = ("static",), ("encoder",), ("static", "encoder")
EVERY_CASCADE = pytest.mark.parametrize("stages", [ONLY_STATIC, ONLY_ENCODER, BOTH])


class Recorder:
    """The encoder; it records the threads that call it."""

    def __init__(self, encoder: MiniLM) -> None:
        self.fingerprint = encoder.fingerprint
        self.threads: list[int] = []
        self._encoder = encoder

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.threads.append(threading.get_ident())
        return self._encoder.embed(texts)


class Remembering:
    """The encoder with a cache of its vectors, to make the tests faster."""

    def __init__(self, encoder: MiniLM) -> None:
        self.fingerprint = encoder.fingerprint
        self._embed = lru_cache(maxsize=None)(lambda text: encoder.embed([text])[0])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self._embed(text) for text in texts])


class School:
    """Trains classifiers with the real models."""

    def __init__(self, static_model: StaticModel, encoder: MiniLM) -> None:
        self.static_model, self.encoder = static_model, Remembering(encoder)

    def fit(
        self, examples: Examples, out_of_scope: Sequence[str] = (), tuning: FitSettings | None = None
    ) -> ClassifierModel:
        return fit_classifier(examples, out_of_scope, self.static_model, self.encoder, tuning or FitSettings())

    def classifier(self, examples: Examples, *stages: str) -> CascadeClassifier:
        return self.of(self.fit(examples, tuning=FitSettings(stages=stages or BOTH)))

    def of(self, fitted: ClassifierModel) -> CascadeClassifier:
        return CascadeClassifier(fitted, self.static_model, self.encoder)


@pytest.fixture(scope="module")
def school(static_model: StaticModel, minilm: MiniLM) -> School:
    return School(static_model, minilm)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    rows = ConfigFolder(tmp_path_factory.mktemp("config")).examples
    return {task: [text for text, _ in pairs] for task, pairs in rows.items()}


@pytest.fixture(scope="module")
def classifier(school: School, examples: Examples) -> CascadeClassifier:
    return school.classifier(examples)


@pytest.fixture(scope="module")
def helpdesk() -> Examples:
    files = sorted((HELPDESK / "config/tasks").glob("*.jsonl"))
    return {file.stem: [json.loads(row)["text"] for row in file.read_text("utf-8").splitlines()] for file in files}


@pytest.fixture(scope="module")
def helpdesk_fitted(school: School, helpdesk: Examples) -> ClassifierModel:
    return school.fit(helpdesk)


def heldout(name: str) -> list[str]:
    return [json.loads(row)["text"] for row in (HELPDESK / f"heldout/{name}.jsonl").read_text("utf-8").splitlines()]


# -- what it says


@pytest.mark.parametrize("text", [IN_TRIAGE, IN_POLICY, IN_CHAT])
def test_a_text_in_another_language_is_classified_by_the_encoder_alone(
    classifier: CascadeClassifier, school: School, examples: Examples, text: str
) -> None:
    alone = classifier.classify_now(text, is_foreign=True)
    assert alone.stage == "encoder"
    assert asyncio.run(classifier.classify(text, is_foreign=True)).probabilities == alone.probabilities
    only_encoder = school.classifier(examples, *ONLY_ENCODER).classify_now(text, is_foreign=True)
    assert (only_encoder.task, alone.abstained) == (alone.task, False)
    assert only_encoder.in_distribution_score == pytest.approx(alone.in_distribution_score, abs=0.05)
    static = school.classifier(examples, *ONLY_STATIC).classify_now(text, is_foreign=True)
    assert (static.stage, static.task) == ("static", alone.task)


def test_the_words_of_the_examples_and_of_english_are_known(classifier: CascadeClassifier) -> None:
    word = next(word for word in IN_TRIAGE.lower().split() if word.isalpha())
    assert classifier.knows_word(word)
    assert classifier.knows_word("umbrella")
    assert not classifier.knows_word("regenschirm")


@EVERY_CASCADE
@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("I forgot my umbrella on the train to Saltby", "triage"),
        ("What are the rules for bicycles on the train?", "policy"),
        ("Hello, how are you?", "chat"),
    ],
)
async def test_a_text_gets_the_task_of_similar_examples(
    school: School, examples: Examples, stages: tuple[str, ...], text: str, task: str
) -> None:
    labels = await school.classifier(examples, *stages).classify(text)
    assert (labels.task, labels.abstained) == (task, False)
    assert labels.stage in stages
    assert labels.in_distribution_score >= 0


@pytest.mark.parametrize(
    "text", [IN_NONE, "日本語の詩を書いてください", "Prove that the square root of 2 is irrational"]
)
async def test_the_classifier_abstains_on_a_text_unlike_all_examples(classifier: CascadeClassifier, text: str) -> None:
    labels = await classifier.classify(text)
    assert (labels.task, labels.abstained) == ("unknown", True)
    assert labels.in_distribution_score < 0


async def test_probabilities_are_of_all_tasks_ordered_and_add_up(classifier: CascadeClassifier) -> None:
    labels = await classifier.classify(IN_POLICY)
    values = [probability for _, probability in labels.probabilities]
    assert {task for task, _ in labels.probabilities} == {"triage", "policy", "chat"}
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1)
    assert labels.confidence == values[0]
    assert labels.margin == pytest.approx(values[0] - values[1])


async def test_the_labels_are_the_same_with_and_without_an_event_loop(classifier: CascadeClassifier) -> None:
    for text in (IN_TRIAGE, IN_NONE, ""):
        now, later = classifier.classify_now(text), await classifier.classify(text)
        assert (now.task, now.probabilities, now.in_distribution_score) == (
            later.task,
            later.probabilities,
            later.in_distribution_score,
        )


async def test_the_labels_have_the_vector_if_the_encoder_computed_it(
    school: School, examples: Examples, minilm: MiniLM
) -> None:
    by_encoder = school.classifier(examples, *ONLY_ENCODER)
    labels = await by_encoder.classify(IN_CHAT)
    assert labels.vector is not None
    np.testing.assert_array_equal(labels.vector, minilm.embed([IN_CHAT])[0])
    np.testing.assert_array_equal(labels.vector, await TextEmbedder(minilm, school.static_model).embed(IN_CHAT))
    assert (await school.classifier(examples, *ONLY_STATIC).classify(IN_CHAT)).vector is None


async def test_a_repeated_word_counts_once(school: School, examples: Examples) -> None:
    static = school.classifier(examples, *ONLY_STATIC)
    once, often = [await static.classify(text) for text in ("bicycles", "bicycles " * 25)]
    # No example contains the pair "bicycles bicycles"; nothing else differs.
    assert often.in_distribution_score == pytest.approx(once.in_distribution_score, abs=0.5)


# -- which stage says it


async def test_the_encoder_runs_only_if_the_static_stage_is_unsure_and_never_on_the_event_loop(
    helpdesk_fitted: ClassifierModel, static_model: StaticModel, minilm: MiniLM
) -> None:
    recorder = Recorder(minilm)
    classifier = CascadeClassifier(helpdesk_fitted, static_model, recorder)
    labels = [await classifier.classify(text) for text in heldout("triage")]
    by_encoder = [label for label in labels if label.stage == "encoder"]
    assert len(recorder.threads) == len(by_encoder)
    assert 0 < len(by_encoder) < len(labels) / 2
    assert threading.get_ident() not in recorder.threads
    assert all(label.vector is None for label in labels if label.stage == "static")


async def test_the_help_desks_held_out_messages_are_accepted_and_others_are_not(
    school: School, helpdesk_fitted: ClassifierModel
) -> None:
    classifier = school.of(helpdesk_fitted)
    triage = [classifier.classify_now(text) for text in heldout("triage")]
    unknown = [classifier.classify_now(text) for text in heldout("unknown")]
    assert np.mean([label.task == "triage" for label in triage]) >= 0.92
    assert np.mean([label.abstained for label in unknown]) >= 0.8


async def test_both_stages_together_are_right_at_least_as_often_as_either(school: School, helpdesk: Examples) -> None:
    ten = {task: random.Random(3).sample(texts, 10) for task, texts in helpdesk.items()}
    rest = [(text, task) for task, texts in helpdesk.items() for text in texts if text not in ten[task]]
    right = {}
    for stages in (ONLY_STATIC, ONLY_ENCODER, BOTH):
        classifier = school.classifier(ten, *stages)
        right[stages] = np.mean([classifier.classify_now(text).probabilities[0][0] == task for text, task in rest])
    assert right[BOTH] >= max(right.values()) - 0.01
    assert right[BOTH] > 0.8


async def test_many_requests_at_once_get_what_they_would_get_alone(classifier: CascadeClassifier) -> None:
    texts = [IN_TRIAGE, IN_NONE, IN_POLICY, IN_CHAT] * 10
    together = await asyncio.gather(*map(classifier.classify, texts))
    assert [label.probabilities for label in together] == [classifier.classify_now(t).probabilities for t in texts]


# -- bad input


UNREADABLE = ["", "  \n\t", "🚂🎉", "\x00\x01\x02", "\ud800", "!" * 300, "x" * 1_000_000]


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: ascii(text[:3]))
async def test_the_classifier_abstains_on_an_unreadable_text_with_a_note(
    classifier: CascadeClassifier, text: str
) -> None:
    labels = await classifier.classify(text)
    assert (labels.task, labels.abstained, labels.vector) == ("unknown", True, None)
    assert "nothing in it that can be read" in labels.notes
    assert sum(probability for _, probability in labels.probabilities) == pytest.approx(1)


@EVERY_CASCADE
@pytest.mark.parametrize(
    "text",
    [
        "word " * 200_000,
        "日本語" * 300_000,
        bytes(range(256)).decode("latin-1") * 4_000,
        "\udcff" * 5_000,
        "a\u0301\u202e",
    ],
    ids=["words", "japanese", "binary", "surrogates", "marks"],
)
async def test_odd_and_very_long_texts_are_classified(
    school: School, examples: Examples, stages: tuple[str, ...], text: str
) -> None:
    labels = await school.classifier(examples, *stages).classify(text)
    assert sum(probability for _, probability in labels.probabilities) == pytest.approx(1, abs=1e-5)
    assert np.isfinite(labels.in_distribution_score)


async def test_both_ends_of_a_long_text_are_read_and_the_notes_say_how_much(classifier: CascadeClassifier) -> None:
    labels = await classifier.classify(f"{IN_TRIAGE} {'river ' * 1000} {IN_TRIAGE}")
    [note] = labels.notes
    assert re.fullmatch(r"read 128 of about 10\d\d tokens", note)
    longer = await classifier.classify(f"{IN_TRIAGE} {'river ' * 100_000} {IN_TRIAGE}")
    assert longer.probabilities == labels.probabilities


async def test_a_text_of_128_tokens_is_read_whole_and_one_of_129_is_not(classifier: CascadeClassifier) -> None:
    assert (await classifier.classify("river " * 128)).notes == ()
    assert (await classifier.classify("river " * 129)).notes == ("read 128 of 129 tokens",)


# -- learning


@EVERY_CASCADE
async def test_two_examples_a_task_are_enough_to_start(school: School, stages: tuple[str, ...]) -> None:
    few = school.classifier(
        {"dogs": ["May my dog ride?", "Are dogs allowed?"], "sums": ["What is 2 + 2?", "Add 3 and 4"]}, *stages
    )
    assert (await few.classify("Are dogs allowed?")).task == "dogs"
    assert (await few.classify("What is 2 + 2?")).task == "sums"
    if "encoder" in stages:
        assert (await few.classify(IN_NONE)).abstained


@pytest.mark.parametrize(
    "texts",
    [
        {"a": ["same words"] * 4, "b": ["same words"] * 4},
        {"a": ["", "  "], "b": ["🚂", "hello"]},
        {"a": ["one"], "b": ["two"]},
        {"a": ["x" * 100_000] * 2, "b": ["word " * 50_000] * 2},
    ],
    ids=["equal", "empty", "one-each", "endless"],
)
async def test_useless_examples_make_a_useless_classifier_and_no_error(school: School, texts: Examples) -> None:
    labels = await school.classifier(texts).classify("hello there")
    assert sum(probability for _, probability in labels.probabilities) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("texts", "code"), [({"a": ["one", "two"]}, "one_task"), ({"a": ["one"], "b": []}, "no_examples")]
)
def test_examples_that_cannot_be_learned_from_are_refused(school: School, texts: Examples, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        school.fit(texts)
    assert caught.value.code == code


def test_texts_of_the_same_words_are_held_out_together(static_model: StaticModel) -> None:
    texts = [f"{greeting} {name}" for greeting in ("hello", "HELLO  ") for name in "abcdefghij"]
    data = collect_examples({"greeting": texts, "other": ["one", "two"]}, ["a negative"], static_model, seed=7)
    folds = dict(zip(data.texts, data.folds, strict=True))
    assert all(folds[f"hello {name}"] == folds[f"HELLO   {name}"] for name in "abcdefghij")
    assert set(data.folds) <= set(range(FOLDS))
    assert data.inside.tolist() == [True] * 22 + [False]


def test_progress_is_reported_from_start_to_end(school: School, examples: Examples) -> None:
    received: list[tuple[str, int, int]] = []
    fit_classifier(
        examples, (), school.static_model, school.encoder, FitSettings(), lambda *report: received.append(report)
    )
    assert list(dict.fromkeys(phase for phase, _, _ in received)) == ["embedding", "learning"]
    for phase in ("embedding", "learning"):
        done = [(amount, total) for name, amount, total in received if name == phase]
        assert [amount for amount, _ in done] == sorted(amount for amount, _ in done)
        assert done[-1][0] == done[-1][1] > 0


def test_the_model_has_the_examples_vectors_by_task_in_their_order(
    school: School, examples: Examples, minilm: MiniLM
) -> None:
    fitted = school.fit(examples)
    assert set(fitted.vectors) == set(examples)
    np.testing.assert_array_equal(fitted.vectors["policy"], minilm.embed(examples["policy"]))


def test_a_higher_target_coverage_abstains_less_and_a_task_may_have_its_own(school: School, helpdesk: Examples) -> None:
    usual = school.fit(helpdesk, tuning=FitSettings(target_coverage=0.9))
    generous = school.fit(helpdesk, tuning=FitSettings(target_coverage=0.99))
    assert usual.report.coverage == pytest.approx(0.9, abs=0.01)
    assert generous.report.coverage == pytest.approx(0.99, abs=0.01)
    assert (generous.thresholds < usual.thresholds).all()
    own = school.fit(helpdesk, tuning=FitSettings(target_coverage=0.9, target_coverages={"chat": 0.99}))
    lowered = (own.thresholds - usual.thresholds).tolist()
    assert min(lowered) == lowered[own.tasks.index("chat")] < -0.3


def test_out_of_scope_examples_make_the_classifier_abstain_on_similar_texts(
    school: School, helpdesk: Examples, helpdesk_fitted: ClassifierModel
) -> None:
    foreign = heldout("unknown")
    # Each known text stands for many similar ones.
    known, alike = foreign[::2], [f"please: {text.lower()}" for text in foreign[::2]]
    fitted = school.fit(helpdesk, known)
    without, knowing = school.of(helpdesk_fitted), school.of(fitted)
    assert fitted.report.out_of_scope_abstained > 0.8
    missed = [text for text in alike if not without.classify_now(text).abstained]
    assert missed
    assert any(knowing.classify_now(text).abstained for text in missed)
    assert not any(
        knowing.classify_now(t).in_distribution_score > without.classify_now(t).in_distribution_score + 0.3
        for t in alike
    )


# -- calibration


def test_the_temperature_undoes_an_exaggeration() -> None:
    rng = np.random.default_rng(7)
    honest = rng.normal(size=(4000, 3)).astype(np.float32) * 2
    y = np.array([rng.choice(3, p=row) for row in probabilities(honest.astype(np.float64), 1.0)])
    found, _ = fit_temperature(honest * 5, y, lambda logits: logits)
    assert found == pytest.approx(5, rel=0.15)
    likely = probabilities(honest * 5, found)
    assert calibration_error(likely.max(axis=1), likely.argmax(axis=1) == y) < 0.03


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidence = np.array([0.95] * 10 + [0.55] * 10)
    right = np.array([True] * 9 + [False] + [True] * 3 + [False] * 7)
    assert calibration_error(confidence, right) == pytest.approx((0.05 + 0.25) / 2)
