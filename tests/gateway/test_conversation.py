"""Conversations: a follow-up keeps the task, a clear turn changes it, and an out-of-scope turn has none."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from pointsman_gateway.bootstrap.models import EmbeddingModels, train_classifier
from pointsman_gateway.classification.conversation import NOTE, Utterance, utterance_type
from pointsman_gateway.classification.rules import RuleMatcher
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Labels, Message, Request

from tests.gateway.doubles.classifier import ScriptedClassifier, labels

MAX_CLASSIFICATIONS = 5
"""Up to three for a long last turn, one for an earlier turn, one for both together."""

DEVELOPMENT = Path(__file__).with_name("development_conversations.jsonl")
HELPDESK = Path(__file__).parents[2] / "examples" / "helpdesk" / "config"

BOOKING = "Please move my booking to Friday"
POLICY = "May I bring a dog on the train?"
ELSEWHERE = "How do I get red wine out of a white carpet?"

SAYS = {
    BOOKING: labels("booking", 0.95, 1.5),
    POLICY: labels("policy", 0.9, 1.2),
    ELSEWHERE: labels("chat", 0.4, -1.5),
}


def reading(says: Mapping[str, Labels] = SAYS) -> tuple[Classification, ScriptedClassifier]:
    classifier = ScriptedClassifier(says)
    return Classification(RuleMatcher({}), classifier), classifier


def conversation(*turns: str) -> Request:
    """Returns a conversation of these user turns, with an answer between each two."""
    messages = [message for turn in turns for message in (Message("user", turn), Message("assistant", "Well."))]
    return Request("auto", tuple(messages[:-1]))


async def test_a_single_turn_is_classified_alone() -> None:
    stage, classifier = reading()
    assert await stage.label(conversation(BOOKING)) == SAYS[BOOKING]
    assert classifier.read == [BOOKING]


@pytest.mark.parametrize(
    "follow_up",
    ["yes", "Yes please!", "why?", "ok, and?", "no", "really?", "👍", "?", "Not yet.", "go on", "I don't know"],
)
async def test_a_bare_follow_up_keeps_the_task_and_is_not_classified(follow_up: str) -> None:
    stage, classifier = reading()
    got = await stage.label(conversation(BOOKING, follow_up))
    assert (got.task, got.stage, got.notes, got.abstained) == ("booking", "conversation", (NOTE,), False)
    assert classifier.read == [BOOKING]


async def test_bare_follow_ups_may_follow_each_other() -> None:
    stage, classifier = reading()
    got = await stage.label(conversation(BOOKING, "yes", "why?", "ok"))
    assert (got.task, got.notes) == ("booking", (NOTE,))
    assert classifier.read == [BOOKING]


async def test_a_follow_up_is_classified_together_with_the_turn_it_refers_to() -> None:
    follow_up = "and by bicycle?"
    together = labels("policy", 0.7, 0.6)
    stage, classifier = reading(SAYS | {follow_up: labels("booking", 0.9, 1.4), f"{POLICY}\n{follow_up}": together})
    got = await stage.label(conversation(POLICY, follow_up))
    assert (got.task, got.stage, got.margin) == ("policy", "conversation", together.margin)
    assert classifier.read == [follow_up, POLICY, f"{POLICY}\n{follow_up}"]


async def test_a_follow_up_keeps_the_task_even_if_it_is_out_of_distribution() -> None:
    stage, _ = reading()
    got = await stage.label(conversation(POLICY, "what about axolotls?"))
    assert (got.task, got.stage, got.in_distribution_score) == (
        "policy",
        "conversation",
        SAYS[POLICY].in_distribution_score,
    )


async def test_a_follow_up_of_a_follow_up_refers_to_the_whole_sentence_before_both() -> None:
    stage, classifier = reading()
    got = await stage.label(conversation(POLICY, "and cats?", "and on the branch?"))
    assert got.task == "policy"
    assert classifier.read == ["and on the branch?", POLICY, f"{POLICY}\nand cats?\nand on the branch?"]


async def test_a_turn_that_is_clearly_of_another_task_is_of_that_task() -> None:
    stage, classifier = reading()
    assert await stage.label(conversation(BOOKING, POLICY)) == SAYS[POLICY]
    assert classifier.read == [POLICY]


async def test_a_turn_of_the_same_task_is_classified_alone() -> None:
    unsure = "Then what do I pay for moving it twice?"
    stage, _ = reading(SAYS | {unsure: labels("booking", 0.2, 0.1)})
    assert await stage.label(conversation(BOOKING, unsure)) == labels("booking", 0.2, 0.1)


@pytest.mark.parametrize(("margin", "in_distribution_score"), [(0.3, 1.0), (0.4, 0.0), (0.9, -0.6)])
async def test_an_unclear_whole_turn_that_refers_back_keeps_the_task(
    margin: float, in_distribution_score: float
) -> None:
    turn = "It was him who told me to write down all of that"
    stage, _ = reading(SAYS | {turn: labels("chat", margin, in_distribution_score)})
    got = await stage.label(conversation(BOOKING, turn))
    assert (got.task, got.stage) == ("booking", "conversation")


async def test_an_unclear_turn_changes_the_task_if_it_does_so_in_context() -> None:
    turn = "Dogs of a friend who comes with me on Friday"
    says = {turn: labels("policy", 0.3, 0.5), f"{BOOKING}\n{turn}": labels("policy", 0.3, 0.2)}
    stage, _ = reading(SAYS | says)
    got = await stage.label(conversation(BOOKING, turn))
    assert (got.task, got.stage) == ("policy", "encoder")


async def test_the_classifier_abstains_on_an_out_of_scope_question_whatever_came_before() -> None:
    stage, classifier = reading()
    got = await stage.label(conversation(BOOKING, ELSEWHERE))
    assert (got.task, got.abstained) == ("unknown", True)
    assert classifier.read == [ELSEWHERE]


async def test_a_short_turn_changes_the_task_only_with_a_high_score() -> None:
    turn = "hot food?"
    for in_distribution_score, task in ((0.8, "policy"), (1.1, "chat")):
        stage, _ = reading(SAYS | {turn: labels("chat", 1.0, in_distribution_score)})
        assert (await stage.label(conversation(POLICY, turn))).task == task


@pytest.mark.parametrize("parting", ["thanks a lot!", "ok, thank you very much", "perfect thanks, bye"])
async def test_thanks_do_not_have_the_conversations_task(parting: str) -> None:
    stage, classifier = reading(SAYS | {parting: labels("chat", 0.4, 0.0)})
    assert (await stage.label(conversation(BOOKING, parting))).task == "chat"
    assert classifier.read == [parting]


@pytest.mark.parametrize("follow_up", ["another one please", "and a shorter one?", "shorter, please"])
async def test_a_conversation_without_a_task_stays_without_one(follow_up: str) -> None:
    stage, _ = reading(SAYS | {follow_up: labels("chat", 0.9, 0.5)})
    got = await stage.label(conversation(ELSEWHERE, follow_up))
    assert (got.task, got.abstained, got.stage) == ("unknown", True, "conversation")


async def test_only_user_messages_are_classified() -> None:
    stage, classifier = reading()
    messages = (
        Message("system", POLICY),
        Message("user", BOOKING),
        Message("assistant", POLICY),
        Message("user", "yes"),
        Message("assistant", "", {"tool_calls": []}),
        Message("tool", POLICY),
        Message("assistant", POLICY),
    )
    got = await stage.label(Request("auto", messages))
    assert got.task == "booking"
    assert classifier.read == [BOOKING]


async def test_without_a_user_message_nothing_is_classified() -> None:
    stage, classifier = reading()
    got = await stage.label(Request("auto", (Message("system", BOOKING), Message("assistant", POLICY))))
    assert (got.task, got.abstained, got.notes) == ("unknown", True, ("there is no user message",))
    assert classifier.read == []


async def test_turns_before_the_last_five_are_ignored() -> None:
    stage, classifier = reading()
    assert (await stage.label(conversation(BOOKING, "yes", "no", "ok", "yes"))).task == "booking"
    assert (await stage.label(conversation(BOOKING, "yes", "no", "ok", "yes", "no"))).task == "unknown"
    assert classifier.read == [BOOKING, "yes"]


async def test_a_conversation_of_hundreds_of_turns_takes_a_bounded_number_of_classifications() -> None:
    for last in ("yes", "and then what about it?", "hm, dogs", f"{ELSEWHERE} " * 50, "It is about him and that"):
        long = f"{BOOKING}. Or not. " * 100
        unsure = {text: labels("policy", 0.1, -0.1) for text in (last, f"{last.strip()}")}
        stage, classifier = reading(SAYS | unsure)
        await stage.label(conversation(*[long, BOOKING, "and cats?"] * 100, last))
        assert 1 <= len(classifier.read) <= MAX_CLASSIFICATIONS


async def test_the_result_depends_on_the_messages_alone() -> None:
    stage, _ = reading()
    first = await stage.label(conversation(POLICY, "and cats?"))
    await stage.label(conversation(BOOKING, "and cats?"))
    assert await stage.label(conversation(POLICY, "and cats?")) == first


async def test_the_help_desks_follow_ups_are_classified_far_better_than_alone(model_folder: Path) -> None:
    """Uses the conversations with which the thresholds were chosen, so that a regression is detected."""
    rows = [json.loads(row) for row in DEVELOPMENT.read_text("utf-8").splitlines()]
    classifier = train_classifier(load_config(HELPDESK), EmbeddingModels.load(model_folder)).classifier
    assert classifier
    stage = Classification(RuleMatcher({}), classifier)
    count, right, alone = Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        kind = "follow-up" if row["kind"] in ("bare", "elliptic", "continued") else row["kind"]
        messages = tuple(Message(message["role"], message["content"]) for message in row["messages"])
        count[kind] += 1
        right[kind] += (await stage.label(Request("auto", messages))).task == row["task"]
        alone[kind] += (await stage.label(Request("auto", messages[-1:]))).task == row["task"]
    # 35 or 36 of 44: the encoder's integers are rounded otherwise on processors with other instructions.
    assert right["follow-up"] >= 0.79 * count["follow-up"]
    assert alone["follow-up"] <= 0.5 * count["follow-up"]
    for kind in ("new_task", "unrelated"):
        assert right[kind] >= 0.75 * count[kind]


# -- long turns

PASTED = "The council met about the green bridge. Nobody spoke against it. " * 40


@pytest.mark.parametrize(("text", "where"), [(f"{BOOKING}\n{PASTED}", "first"), (f"{PASTED}\n{BOOKING}", "last")])
async def test_a_long_text_is_classified_by_its_clear_first_or_last_sentence(text: str, where: str) -> None:
    stage, classifier = reading()
    got = await stage.label(conversation(text))
    assert got.task == "booking"
    assert got.notes == (f"read by its {where} sentence, of {len(text)} characters",)
    assert BOOKING in classifier.read
    assert len(classifier.read) == 2


async def test_a_greeting_is_not_read() -> None:
    stage, classifier = reading()
    assert (await stage.label(conversation(f"Dear all,\n{BOOKING}\n{PASTED}"))).task == "booking"
    assert classifier.read[0] == BOOKING


async def test_a_long_text_without_a_clear_sentence_is_classified_as_a_whole() -> None:
    stage, classifier = reading({PASTED: labels("policy", 0.2, 0.1)})
    assert (await stage.label(conversation(PASTED))).task == "policy"
    assert classifier.read[-1] == PASTED
    assert len(classifier.read) == 3


# -- what a turn looks like


@pytest.mark.parametrize(
    ("turn", "shape"),
    [
        ("yes please", Utterance.BARE),
        ("Why not?", Utterance.BARE),
        ("…", Utterance.BARE),
        ("And by bicycle?", Utterance.FOLLOW_UP),
        ("what about dogs", Utterance.FOLLOW_UP),
        ("LM-38271", Utterance.SHORT),
        ("shorter, please", Utterance.SHORT),
        ("ok thanks", Utterance.CLOSING),
        ("who are you", Utterance.SHORT),
        ("Are dogs allowed on the trains to Saltby?", Utterance.WHOLE),
        ("And I also left my umbrella on the train this morning, a green one", Utterance.WHOLE),
        ("yes " * 500, Utterance.WHOLE),
    ],
)
def test_each_turn_has_an_utterance_type(turn: str, shape: Utterance) -> None:
    assert utterance_type(turn) is shape
