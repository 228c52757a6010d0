"""Rules, then the classifier, with the real embedding model."""

import numpy as np
import pytest
from doubles.config_folder import IN_CHAT, IN_NONE, IN_POLICY, IN_TRIAGE, ConfigFolder
from pointsman_embedding import MiniLM
from pointsman_gateway.classification.classifier import Classifier, fit_tasks
from pointsman_gateway.classification.rules import Match, Rules
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.config.schema import Policy, Rule, TaskConfig
from pointsman_gateway.domain import Message, Request, Sampling


def classifier_of(minilm: MiniLM, examples: dict[str, list[str]]) -> Classifier:
    fitted, _ = fit_tasks(minilm, examples, keep_rate=0.95, seed=7)
    return Classifier(minilm, fitted)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    rows = ConfigFolder(tmp_path_factory.mktemp("config")).examples
    return {task: [text for text, _ in pairs] for task, pairs in rows.items()}


@pytest.fixture(scope="module")
def classifier(minilm: MiniLM, examples: dict[str, list[str]]) -> Classifier:
    return classifier_of(minilm, examples)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("I forgot my umbrella on the train to Saltby", "triage"),
        ("May I bring my bicycle on the train?", "policy"),
        ("Hello there, how are you?", "chat"),
    ],
)
async def test_a_text_is_given_the_task_whose_examples_it_is_like(classifier: Classifier, text: str, task: str) -> None:
    labels = await classifier.classify(text)
    assert (labels.task, labels.abstained, labels.stage) == (task, False, "classifier")
    assert labels.probabilities[0] == (task, labels.confidence)


@pytest.mark.parametrize(
    "text", [IN_NONE, "日本語の詩を書いてください", "Prove that the square root of 2 is irrational"]
)
async def test_a_text_unlike_all_examples_is_left_to_the_default(classifier: Classifier, text: str) -> None:
    labels = await classifier.classify(text)
    assert (labels.task, labels.abstained) == ("unknown", True)


@pytest.mark.parametrize("text", ["x" * 100_000, "\x00", "🚂", " ", "a\u0301\u202e"])
async def test_odd_texts_are_classified_as_any_other(classifier: Classifier, text: str) -> None:
    labels = await classifier.classify(text)
    assert sum(probability for _, probability in labels.probabilities) == pytest.approx(1)


async def test_probabilities_are_of_all_tasks_ordered_and_add_up(classifier: Classifier) -> None:
    labels = await classifier.classify(IN_POLICY)
    values = [probability for _, probability in labels.probabilities]
    assert {task for task, _ in labels.probabilities} == {"triage", "policy", "chat"}
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1)


async def test_the_vector_is_handed_on_with_unit_length(classifier: Classifier, minilm: MiniLM) -> None:
    labels = await classifier.classify(IN_CHAT)
    assert labels.vector is not None
    np.testing.assert_array_equal(labels.vector, minilm.embed([IN_CHAT])[0])
    np.testing.assert_array_equal(labels.vector, await classifier.embed(IN_CHAT))
    assert np.linalg.norm(labels.vector) == pytest.approx(1, abs=1e-5)


async def test_two_tasks_are_told_apart_though_the_head_has_one_row(
    minilm: MiniLM, examples: dict[str, list[str]]
) -> None:
    two = classifier_of(minilm, {task: examples[task] for task in ("triage", "chat")})
    for text, task in ((IN_TRIAGE, "triage"), (IN_CHAT, "chat")):
        labels = await two.classify(text)
        assert (labels.task, len(labels.probabilities)) == (task, 2)
        assert labels.confidence > 0.5


async def test_probabilities_are_those_of_scikit_learn(minilm: MiniLM, examples: dict[str, list[str]]) -> None:
    for tasks in (["triage", "chat"], ["triage", "policy", "chat"]):
        fitted, _ = fit_tasks(minilm, {task: examples[task] for task in tasks}, 0.95, 7)
        labels = await Classifier(minilm, fitted).classify(IN_POLICY)
        expected = dict(zip(fitted.tasks, fitted.head.predict_proba(minilm.embed([IN_POLICY]))[0], strict=True))
        assert dict(labels.probabilities) == pytest.approx(expected, abs=1e-6)


async def test_two_examples_a_task_are_enough_to_start(minilm: MiniLM) -> None:
    few = classifier_of(
        minilm,
        {"dogs": ["May my dog ride?", "Are dogs allowed?"], "sums": ["What is 2 + 2?", "Add 3 and 4"]},
    )
    assert (await few.classify("Are dogs allowed?")).task == "dogs"
    assert (await few.classify(IN_NONE)).abstained


def test_the_same_examples_and_seed_give_the_same_classifier(minilm: MiniLM, examples: dict[str, list[str]]) -> None:
    first, second = (fit_tasks(minilm, examples, 0.95, 7)[0] for _ in range(2))
    np.testing.assert_array_equal(first.thresholds, second.thresholds)
    np.testing.assert_array_equal(first.head.coef_, second.head.coef_)


# -- rules


def rules_of(*rules: Rule) -> Rules:
    task = TaskConfig(examples="x.jsonl", policy=Policy(fixed="p"), rules=rules)
    return Rules({"first": task, "second": task.model_copy(update={"rules": (Rule(name="all", regex="."),)})})


def asking(text: str = "hello", model: str = "auto", **more: object) -> Request:
    return Request(model, (Message("user", text),), **more)  # type: ignore[arg-type]


SCHEMA = Sampling(extra={"response_format": {"type": "json_schema"}})


@pytest.mark.parametrize(
    ("rule", "holds", "holds_not"),
    [
        (Rule(name="r", metadata={"source": "inbox"}), {"metadata": {"source": "inbox", "x": "y"}}, {}),
        (Rule(name="r", regex=r"(?i)\bbooking\b"), {"text": "My Booking!"}, {"text": "bookings"}),
        (Rule(name="r", json_schema=True), {"sampling": SCHEMA}, {}),
        (Rule(name="r", json_schema=False), {}, {"sampling": SCHEMA}),
        (
            Rule(name="r", metadata={"a": "1"}, regex="x"),
            {"metadata": {"a": "1"}, "text": "x"},
            {"metadata": {"a": "1"}, "text": "y"},
        ),
    ],
)
def test_a_rule_holds_when_all_its_conditions_do(
    rule: Rule, holds: dict[str, object], holds_not: dict[str, object]
) -> None:
    rules = rules_of(rule)
    assert rules.match(asking(**holds)) == Match("first", "r")  # type: ignore[arg-type]
    assert rules.match(asking(**holds_not)) == Match("second", "all")  # type: ignore[arg-type]


def test_the_first_rule_that_holds_decides() -> None:
    assert rules_of(Rule(name="one", regex="a"), Rule(name="two", regex="b")).match(asking("ba")) == Match(
        "first", "one"
    )


async def test_rules_come_before_the_classifier_and_a_forced_path_before_both(classifier: Classifier) -> None:
    stage = Classification(rules_of(Rule(name="r", regex="umbrella")), classifier)
    ruled = await stage.label(asking(IN_TRIAGE))
    assert (ruled.task, ruled.confidence, ruled.stage, ruled.vector) == ("first", 1.0, "rule:r", None)
    forced = await stage.label(asking(IN_TRIAGE, model="tiny"))
    assert (forced.task, forced.stage) == ("unknown", "forced")


async def test_the_last_user_message_is_what_counts() -> None:
    said = [
        Message("user", "booking"),
        Message("assistant", "yes?"),
        Message("user", "bye"),
        Message("tool", "booking"),
    ]
    assert rules_of(Rule(name="r", regex="booking")).match(Request("auto", tuple(said))) == Match("second", "all")
