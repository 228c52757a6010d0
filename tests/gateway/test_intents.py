"""Tasks whose examples are labelled with intents: the classifier learns each intent, and decides between the tasks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.bootstrap.models import EmbeddingModels, example_intents, train_classifier
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.classes import TaskClasses
from pointsman_gateway.classification.classifier_file import (
    StaleClassifier,
    fit_origin,
    load,
    save,
    to_json_and_arrays,
)
from pointsman_gateway.classification.fitting.examples import (
    FOLDS,
    MAX_INTENTS,
    MIN_INTENT_TEXTS,
    OUT_OF_SCOPE,
    Examples,
    collect_examples,
)
from pointsman_gateway.classification.fitting.fit import fit_classifier, out_of_fold_results
from pointsman_gateway.classification.fitting.learner import OutOfFoldScores, row_weights
from pointsman_gateway.classification.fitting.selection import evaluate_stage
from pointsman_gateway.classification.model import (
    ENCODER,
    NO_INTENTS,
    STATIC,
    ClassifierModel,
    FitOrder,
    FitSettings,
    Intents,
)
from pointsman_gateway.classification.scores import cross_entropy, fit_temperature, probabilities
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.extensions import Example

from tests.gateway.doubles.config_folder import ConfigFolder

WHEN = ("today", "on monday", "in rome", "last week", "yesterday", "abroad", "at noon", "in may", "again", "tonight")
BANK = {
    "lost": [f"i have lost my bank card {when}" for when in WHEN],
    "stolen": [f"my bank card was stolen {when}" for when in WHEN],
    "limit": [f"please raise the limit of my bank card {when}" for when in WHEN],
}
EXAMPLES = {
    "bank": [text for texts in BANK.values() for text in texts],
    "cooking": [f"how long does the soup have to boil {when}" for when in WHEN]
    + [f"which flour do i take for a cake {when}" for when in WHEN],
}
INTENTS = {"bank": [intent for intent, texts in BANK.items() for _ in texts]}
NEW_TEXTS = (
    "my card was stolen on the train",
    "what flour is right for bread",
    "i lost the card of my bank",
    "boil soup",
)


class School:
    """Fits classifiers with the real models."""

    def __init__(self, static_model: StaticModel, encoder: MiniLM) -> None:
        self.static_model, self.encoder = static_model, encoder

    def fit(self, intents: Intents = NO_INTENTS, settings: FitSettings | None = None) -> ClassifierModel:
        return fit_classifier(EXAMPLES, (), self.static_model, self.encoder, settings or FitSettings(), intents=intents)

    def classifier(self, fitted: ClassifierModel) -> CascadeClassifier:
        return CascadeClassifier(fitted, self.static_model, self.encoder)


@pytest.fixture(scope="module")
def school(static_model: StaticModel, minilm: MiniLM) -> School:
    return School(static_model, minilm)


@pytest.fixture(scope="module")
def fitted(school: School) -> ClassifierModel:
    return school.fit(INTENTS)


def collect(
    static_model: StaticModel,
    examples: Mapping[str, Sequence[str]] = EXAMPLES,
    out_of_scope: Sequence[str] = (),
    intents: Intents = INTENTS,
) -> Examples:
    return collect_examples(examples, out_of_scope, static_model, 7, intents)


# -- which classes there are


def test_each_intent_is_a_class_of_its_task(static_model: StaticModel) -> None:
    data = collect(static_model, out_of_scope=["sing a song"])
    assert data.classes.count == 4
    assert data.classes.starts.tolist() == [0, 3]
    # In alphabetical order: limit, lost, stolen; then the task without intents.
    assert data.own_classes.tolist() == [1] * 10 + [2] * 10 + [0] * 10 + [3] * 20 + [OUT_OF_SCOPE]
    assert data.y.tolist() == [0] * 30 + [1] * 20 + [OUT_OF_SCOPE]


def test_rare_intents_and_examples_without_one_are_a_class_together(static_model: StaticModel) -> None:
    few = ["rare"] * (MIN_INTENT_TEXTS - 1)
    intents = [*few, *[""] * (10 - len(few)), *["stolen"] * 20]
    data = collect(static_model, intents={"bank": intents})
    assert data.classes.starts.tolist() == [0, 2]
    assert data.own_classes[:30].tolist() == [1] * 10 + [0] * 20


def test_repeated_texts_make_no_intent(static_model: StaticModel) -> None:
    examples = EXAMPLES | {"bank": ["My card!", "my card !", "MY CARD!", "where is it", "raise it", "lower it"]}
    data = collect(static_model, examples, intents={"bank": ["one"] * 3 + ["other"] * 3})
    assert data.own_classes[:6].tolist() == [1, 1, 1, 0, 0, 0]


def test_only_the_most_frequent_intents_of_a_task_are_classes(static_model: StaticModel) -> None:
    names = [f"intent {number}" for number in range(MAX_INTENTS + 1)]
    rows = [(name, f"text {number} of {name}") for name in names for number in range(MIN_INTENT_TEXTS)]
    rows.append((names[-1], "one more"))
    examples = EXAMPLES | {"broad": [text for _, text in rows]}
    data = collect(static_model, examples, intents={"broad": [name for name, _ in rows]})
    of_broad = data.own_classes[data.y == data.tasks.index("broad")] - data.classes.starts[1]
    assert set(of_broad) == set(range(MAX_INTENTS + 1))  # the last is that of the others
    assert np.count_nonzero(of_broad == MAX_INTENTS) == MIN_INTENT_TEXTS


def test_the_texts_of_an_intent_are_spread_over_the_folds(static_model: StaticModel) -> None:
    data = collect(static_model)
    for number in range(3):
        assert np.bincount(data.folds[data.own_classes == number], minlength=FOLDS).tolist() == [2] * FOLDS


@pytest.mark.parametrize("intents", [{"bank": [""] * 30}, {"bank": ["any"] * 30}, {"unheard-of": ["x"]}])
def test_without_two_classes_in_a_task_the_classifier_is_the_same(school: School, intents: Intents) -> None:
    arrays: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    with_intents = to_json_and_arrays(school.fit(intents), arrays[0])
    assert with_intents == to_json_and_arrays(school.fit(), arrays[1])
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name])


# -- from classes to tasks


def test_the_probability_of_a_task_is_the_sum_of_its_classes() -> None:
    classes = TaskClasses.of_counts([2, 1, 3])
    logits = np.random.default_rng(3).normal(0, 3, (50, 6)).astype(np.float32)
    sums = classes.probabilities_of_tasks(probabilities(logits, 1.0))
    expected = probabilities(logits, 1.0)
    np.testing.assert_allclose(sums[:, 0], expected[:, 0] + expected[:, 1], rtol=1e-5)
    np.testing.assert_allclose(sums[:, 2], expected[:, 3:].sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(probabilities(classes.logits_of_tasks(logits), 1.0), sums, rtol=1e-4)


def test_the_best_task_need_not_have_the_best_class() -> None:
    classes = TaskClasses.of_counts([2, 1])
    logits = np.array([[2.0, 2.0, 2.3], [2.0, 2.0, 3.0]], np.float32)
    assert classes.best_tasks(logits, 1.0).tolist() == [0, 1]
    assert int(classes.best_tasks(logits[0], 0.1)) == 1  # the lower the temperature, the more the best class counts


def test_logits_far_apart_give_finite_ones_of_tasks() -> None:
    found = TaskClasses.of_counts([2, 1]).logits_of_tasks(np.array([[-500.0, -600.0, 500.0]], np.float32))
    np.testing.assert_allclose(found, [[-500, 500]])


def test_the_temperature_calibrates_the_tasks_and_not_their_intents() -> None:
    rng = np.random.default_rng(7)
    of_tasks = rng.normal(size=(4000, 2)) * 2
    y = (rng.random(4000) < probabilities(of_tasks.astype(np.float32), 1.0)[:, 1]).astype(np.intp)
    # Which of the three intents of the first task a text has is as good as unknown; the logits are sure of it.
    shares = rng.dirichlet([0.3] * 3, 4000) + 1e-6
    shares /= shares.sum(axis=1, keepdims=True)
    logits = np.column_stack([of_tasks[:, :1] + np.log(shares), of_tasks[:, 1:]]).astype(np.float32) * 5
    classes = TaskClasses.of_counts([3, 1])
    by_task, loss = fit_temperature(logits, y, classes.logits_of_tasks)
    own_classes = np.where(y == 1, 3, rng.integers(3, size=4000))
    by_class, _ = fit_temperature(logits, own_classes, lambda unchanged: unchanged)
    assert by_task == pytest.approx(5, rel=0.15)
    assert by_class > 1.5 * by_task
    assert loss == pytest.approx(cross_entropy(of_tasks.astype(np.float32), y), abs=0.01)


def test_a_stage_is_judged_by_task(static_model: StaticModel) -> None:
    """Two intents of one task are about equally probable for each of its texts, so only the sum of both is a confident
    result.
    """
    data = collect(static_model, intents={"bank": ["a", "b"] * 15})
    logits = np.full((50, 3), -6, np.float32)
    logits[:30, 0], logits[:30, 1], logits[30:, 2] = 6, 5.9, 6
    zeros = np.zeros(50, np.float32)
    results = evaluate_stage(data, OutOfFoldScores(logits, zeros, zeros), logits, np.zeros_like(logits))
    assert results.predicted.tolist() == data.y.tolist()
    assert float(results.margin.min()) > 0.99
    assert float(results.confidence.min()) > 0.99


def test_intents_do_not_change_how_much_the_examples_of_a_task_weigh() -> None:
    in_classes = np.repeat([0, 1, 2, 3], [2, 5, 13, 30])
    weights = row_weights(in_classes, TaskClasses.of_counts([3, 1]))
    of_tasks = row_weights(np.repeat([0, 1], [20, 30]), TaskClasses.of_counts([1, 1]))
    assert float(weights.sum()) == pytest.approx(1, abs=1e-6)
    assert float(weights[:20].sum()) == pytest.approx(float(of_tasks[:20].sum()), rel=1e-5)
    assert weights[0] > weights[2] > weights[7]  # those of a rare intent weigh more


# -- the fitted classifier


def test_labels_are_by_task(school: School, fitted: ClassifierModel) -> None:
    assert fitted.tasks == ("bank", "cooking")
    assert fitted.thresholds.shape == (2,)
    assert {task: len(vectors) for task, vectors in fitted.vectors.items()} == {"bank": 30, "cooking": 20}
    classifier = school.classifier(fitted)
    labels = classifier.classify_now("my bank card was stolen on holiday")
    assert labels.task == "bank"
    assert [task for task, _ in labels.probabilities] == ["bank", "cooking"]
    assert sum(share for _, share in labels.probabilities) == pytest.approx(1, abs=1e-5)
    assert labels.margin == pytest.approx(labels.probabilities[0][1] - labels.probabilities[1][1])


def test_the_vectors_are_in_the_order_of_the_examples_whatever_their_intents(
    school: School, fitted: ClassifierModel
) -> None:
    mixed = fit_classifier(
        EXAMPLES, (), school.static_model, school.encoder, FitSettings(), intents={"bank": ["a", "b", "c"] * 10}
    )
    np.testing.assert_array_equal(mixed.vectors["bank"], fitted.vectors["bank"])


def test_a_text_between_two_intents_of_a_task_needs_no_encoder(school: School) -> None:
    halves = {"bank 1": EXAMPLES["bank"][::2], "bank 2": EXAMPLES["bank"][1::2], "cooking": EXAMPLES["cooking"]}
    as_tasks = fit_classifier(halves, (), school.static_model, school.encoder, FitSettings())
    as_intents = school.fit({"bank": ["1", "2"] * 15})
    found = [school.classifier(each).classify_now("i have lost my bank card") for each in (as_tasks, as_intents)]
    assert [labels.stage for labels in found] == [ENCODER, STATIC]
    assert found[0].margin < 0.6
    assert found[1].margin > 0.9


def test_a_glance_gives_a_task_and_its_threshold(school: School, fitted: ClassifierModel) -> None:
    classifier = school.classifier(fitted)
    for text in NEW_TEXTS:
        found = classifier.glance(text)
        assert found
        assert found[0] == ("cooking" if "flour" in text or "soup" in text else "bank")


def test_out_of_fold_results_are_by_task(school: School) -> None:
    tried = out_of_fold_results(
        EXAMPLES, ["sing a song"], school.static_model, school.encoder, FitSettings(), intents=INTENTS
    )
    assert set(tried.results.predicted.tolist()) <= {0, 1}
    assert (tried.results.predicted[:50] == tried.data.y[:50]).mean() > 0.9


# -- storing it


def test_a_loaded_classifier_classifies_as_the_saved_one(
    tmp_path: Path, school: School, fitted: ClassifierModel
) -> None:
    origin = fit_origin(EXAMPLES, (), school.static_model, school.encoder, FitSettings(), INTENTS)
    save(fitted, origin, tmp_path / "a")
    read = load(tmp_path / "a", origin)
    assert read.classes.count == 4
    before, after = school.classifier(fitted), school.classifier(read)
    for text in NEW_TEXTS:
        assert before.classify_now(text).probabilities == after.classify_now(text).probabilities
    for other in (NO_INTENTS, INTENTS | {"cooking": ["soup"] * 10 + ["flour"] * 10}):
        changed = fit_origin(EXAMPLES, (), school.static_model, school.encoder, FitSettings(), other)
        with pytest.raises(StaleClassifier, match="examples: has"):
            load(tmp_path / "a", changed)


def test_an_order_keeps_the_intents() -> None:
    order = FitOrder(EXAMPLES, INTENTS, (), FitSettings(), "models", None, "out")
    assert FitOrder.from_json(order.to_json()).intents == INTENTS


# -- where they are written


def test_the_gateway_learns_the_intents_of_an_example_file(config_folder: ConfigFolder, model_folder: Path) -> None:
    folder = config_folder.write()
    rows = [f'{{"text": "{text}", "intent": " {intent} "}}' for intent, texts in BANK.items() for text in texts]
    (folder / "tasks" / "chat.jsonl").write_text("\n".join(rows))
    config = load_config(folder, {})
    assert config.examples["chat"][0] == Example("i have lost my bank card today", None, "lost")
    assert example_intents(config) == {"chat": INTENTS["bank"]}
    models = EmbeddingModels.load(model_folder)
    with_intents = train_classifier(config, models).classifier
    assert with_intents
    assert with_intents.classify_now("my bank card was stolen in paris").task == "chat"
    (folder / "tasks" / "chat.jsonl").write_text("\n".join(rows).replace("intent", "note"))
    without = train_classifier(load_config(folder, {}), models).classifier
    assert without
    text = "is my bank card lost or stolen"
    assert with_intents.classify_now(text).probabilities != without.classify_now(text).probabilities


@pytest.mark.parametrize("intent", ["5", '""', '"  "', "null", '["a"]', "true"])
def test_an_invalid_intent_is_reported_with_file_and_line(config_folder: ConfigFolder, intent: str) -> None:
    file = config_folder.write() / "tasks" / "chat.jsonl"
    file.write_text(f'{{"text": "Hello"}}\n{{"text": "Hi", "intent": {intent}}}\n')
    with pytest.raises(ConfigError, match=r'chat\.jsonl:2: "intent" must be a non-empty string'):
        load_config(config_folder.folder, {})


def test_an_example_in_the_configuration_may_have_an_intent(config_folder: ConfigFolder) -> None:
    rows: list[Any] = ["Hello", {"text": "Hi", "intent": "greeting", "output": "Hey"}, {"text": "Bye", "intent": "end"}]
    config_folder.tasks["chat"]["examples"] = rows
    config = load_config(config_folder.write(), {})
    assert config.examples["chat"] == (
        Example("Hello", None), Example("Hi", "Hey", "greeting"), Example("Bye", None, "end")
    )  # fmt: skip
    rows.append({"text": "Well", "intent": ""})
    with pytest.raises(ConfigError, match=r"task 'chat': example 4: \"intent\" must be a non-empty string"):
        load_config(config_folder.write(), {})
