"""Classification by rules, and then by the classifier, with the real embedding models."""

import pytest
from pointsman_embedding import MiniLM, StaticModel
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.fitting.fit import fit_classifier
from pointsman_gateway.classification.model import FitSettings
from pointsman_gateway.classification.rules import RuleMatch, RuleMatcher
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.config.tasks_file import RuleConfig, TaskConfig
from pointsman_gateway.domain import Message, Request, Sampling

from tests.gateway.doubles.config_folder import IN_TRIAGE, ConfigFolder


@pytest.fixture(scope="module")
def classifier(
    tmp_path_factory: pytest.TempPathFactory, static_model: StaticModel, minilm: MiniLM
) -> CascadeClassifier:
    rows = ConfigFolder(tmp_path_factory.mktemp("config")).examples
    examples = {task: [text for text, _ in pairs] for task, pairs in rows.items()}
    return CascadeClassifier(fit_classifier(examples, (), static_model, minilm, FitSettings()), static_model, minilm)


def rules_of(*rules: RuleConfig) -> RuleMatcher:
    task = TaskConfig(examples="x.jsonl", policy=PolicyConfig.model_validate({"fixed": "p"}), rules=rules)
    return RuleMatcher(
        {"first": task, "second": task.model_copy(update={"rules": (RuleConfig(name="all", regex="."),)})}
    )


def asking(text: str = "hello", model: str = "auto", **more: object) -> Request:
    return Request(model, (Message("user", text),), **more)  # type: ignore[arg-type]


SCHEMA = Sampling(extra={"response_format": {"type": "json_schema"}})


@pytest.mark.parametrize(
    "message", [None, "json_schema", {"type": "text"}, {"type": "json_object"}, {"type": None}, {}]
)
def test_only_a_json_schema_is_one(message: object) -> None:
    request = asking(sampling=Sampling(extra={"response_format": message}))
    assert rules_of(RuleConfig(name="r", json_schema=True)).match(request) == RuleMatch("second", "all")
    assert rules_of(RuleConfig(name="r", json_schema=False)).match(request) == RuleMatch("first", "r")


@pytest.mark.parametrize(
    ("rule", "holds", "holds_not"),
    [
        (RuleConfig(name="r", metadata={"source": "inbox"}), {"metadata": {"source": "inbox", "x": "y"}}, {}),
        (RuleConfig(name="r", regex=r"(?i)\bbooking\b"), {"text": "My Booking!"}, {"text": "bookings"}),
        (RuleConfig(name="r", json_schema=True), {"sampling": SCHEMA}, {}),
        (RuleConfig(name="r", json_schema=False), {}, {"sampling": SCHEMA}),
        (
            RuleConfig(name="r", metadata={"a": "1"}, regex="x"),
            {"metadata": {"a": "1"}, "text": "x"},
            {"metadata": {"a": "1"}, "text": "y"},
        ),
    ],
)
def test_a_rule_holds_when_all_its_conditions_do(
    rule: RuleConfig, holds: dict[str, object], holds_not: dict[str, object]
) -> None:
    rules = rules_of(rule)
    assert rules.match(asking(**holds)) == RuleMatch("first", "r")  # type: ignore[arg-type]
    assert rules.match(asking(**holds_not)) == RuleMatch("second", "all")  # type: ignore[arg-type]


def test_the_first_rule_that_holds_decides() -> None:
    assert rules_of(RuleConfig(name="one", regex="a"), RuleConfig(name="two", regex="b")).match(
        asking("ba")
    ) == RuleMatch("first", "one")


async def test_rules_come_before_the_classifier_and_a_forced_path_before_both(classifier: CascadeClassifier) -> None:
    stage = Classification(rules_of(RuleConfig(name="r", regex="umbrella")), classifier)
    ruled = await stage.label(asking(IN_TRIAGE))
    assert (ruled.task, ruled.confidence, ruled.stage, ruled.vector) == ("first", 1.0, "rule:r", None)
    forced = await stage.label(asking(IN_TRIAGE, model="tiny"))
    assert (forced.task, forced.stage) == ("unknown", "forced")


async def test_the_last_user_message_is_what_counts() -> None:
    given = [
        Message("user", "booking"),
        Message("assistant", "yes?"),
        Message("user", "bye"),
        Message("tool", "booking"),
    ]
    assert rules_of(RuleConfig(name="r", regex="booking")).match(Request("auto", tuple(given))) == RuleMatch(
        "second", "all"
    )
