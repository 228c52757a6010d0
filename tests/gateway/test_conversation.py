"""A conversation's task: a follow-up keeps it, a clear turn changes it, and an out-of-scope turn has none."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from pointsman_gateway.bootstrap.models import EmbeddingModels, train_classifier
from pointsman_gateway.classification.conversation import MAX_CACHED, NOTE
from pointsman_gateway.classification.reader import FAILED_NOTE, UNFAMILIAR_NOTE
from pointsman_gateway.classification.rules import RuleMatcher
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.classification.utterances import Utterance, shape_of
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Labels, Message, Request

from tests.gateway.doubles.classifier import ScriptedClassifier, labels

MAX_CLASSIFICATIONS = 11
"""Maximum number of classifications: up to three for a long last turn, and one for each of four earlier turns and four
of the assistant."""

DEVELOPMENT = Path(__file__).with_name("development_conversations.jsonl")
HELPDESK = Path(__file__).parents[2] / "examples" / "helpdesk" / "config"

BOOKING = "Please move my booking to Friday"
POLICY = "May I bring a dog on the train?"
ASKS = "On which day would you like to travel?"
ELSEWHERE = "How do I get red wine out of a white carpet?"

SAYS = {
    BOOKING: labels("booking", 0.95, 1.5),
    POLICY: labels("policy", 0.9, 1.2),
    ELSEWHERE: labels("chat", 0.4, -1.5),
    ASKS: labels("booking", 0.5, 0.8),
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


@pytest.mark.parametrize("name", ["Zürich", "Gracias", "Müller"])
async def test_a_short_turn_that_may_be_a_name_keeps_the_task_and_alone_has_none(name: str) -> None:
    stage = Classification(RuleMatcher({}), ScriptedClassifier(SAYS), knows_word={"please"}.__contains__)
    assert (await stage.label(conversation(name))).notes == (UNFAMILIAR_NOTE,)
    got = await stage.label(conversation(BOOKING, name))
    assert (got.task, got.stage) == ("booking", "conversation")


async def test_bare_follow_ups_may_follow_each_other() -> None:
    stage, classifier = reading()
    got = await stage.label(conversation(BOOKING, "yes", "why?", "ok"))
    assert (got.task, got.notes) == ("booking", (NOTE,))
    assert classifier.read == [BOOKING]


async def test_a_follow_up_keeps_the_task_even_if_it_resembles_another_one() -> None:
    follow_up = "and by bicycle?"
    stage, classifier = reading(SAYS | {follow_up: labels("booking", 0.9, 1.4)})
    got = await stage.label(conversation(POLICY, follow_up))
    assert (got.task, got.stage, got.notes) == ("policy", "conversation", (NOTE,))
    assert classifier.read == [follow_up, POLICY]


async def test_a_follow_up_keeps_the_task_even_if_it_is_out_of_distribution() -> None:
    stage, _ = reading()
    got = await stage.label(conversation(POLICY, "what about axolotls?"))
    assert (got.task, got.stage, got.abstained) == ("policy", "conversation", False)


async def test_a_follow_up_of_a_follow_up_has_the_task_of_the_whole_sentence_before_both() -> None:
    stage, classifier = reading()
    got = await stage.label(conversation(POLICY, "and cats?", "and on the branch?"))
    assert got.task == "policy"
    assert classifier.read == ["and on the branch?", POLICY, "and cats?"]


async def test_a_turn_that_is_clearly_of_another_task_is_of_that_task() -> None:
    stage, classifier = reading()
    assert await stage.label(conversation(BOOKING, POLICY)) == SAYS[POLICY]
    assert classifier.read == [POLICY, BOOKING]


async def test_a_turn_of_the_same_task_is_classified_alone() -> None:
    unsure = "Then what do I pay for moving it twice?"
    stage, _ = reading(SAYS | {unsure: labels("booking", 0.2, 0.1)})
    assert await stage.label(conversation(BOOKING, unsure)) == labels("booking", 0.2, 0.1)


@pytest.mark.parametrize(("margin", "in_distribution_score"), [(0.3, 1.0), (0.4, 0.0), (0.1, -0.6)])
async def test_an_unclear_whole_turn_that_refers_back_keeps_the_task(
    margin: float, in_distribution_score: float
) -> None:
    turn = "It was him who told me to write down all of that"
    stage, _ = reading(SAYS | {turn: labels("chat", margin, in_distribution_score)})
    got = await stage.label(conversation(BOOKING, turn))
    assert (got.task, got.stage) == ("booking", "conversation")


@pytest.mark.parametrize(("margin", "task"), [(0.1, "booking"), (0.8, "policy")])
async def test_a_whole_turn_changes_the_task_if_it_is_clear_enough(margin: float, task: str) -> None:
    turn = "Dogs of a friend who comes with me on Friday"
    stage, _ = reading(SAYS | {turn: labels("policy", margin, 0.5)})
    got = await stage.label(conversation(BOOKING, turn))
    assert (got.task, got.stage) == (task, "encoder" if task == "policy" else "conversation")


async def test_the_classifier_abstains_on_an_out_of_scope_question_whatever_came_before() -> None:
    stage, classifier = reading()
    got = await stage.label(conversation(BOOKING, ELSEWHERE))
    assert (got.task, got.abstained) == ("unknown", True)
    assert classifier.read == [ELSEWHERE, BOOKING]


@pytest.mark.parametrize(("margin", "task"), [(0.2, "unknown"), (0.7, "booking")])
async def test_a_turn_that_is_sure_by_itself_has_its_task_also_after_a_conversation_without_one(
    margin: float, task: str
) -> None:
    turn = "I would like to go on Friday with six adults from Castle Wray"
    stage, _ = reading({ELSEWHERE: SAYS[ELSEWHERE], turn: labels("booking", margin, 0.0)})
    assert (await stage.label(conversation(ELSEWHERE, ELSEWHERE, turn))).task == task


async def test_a_short_turn_changes_the_task_only_with_a_high_score() -> None:
    turn = "hot food?"
    for in_distribution_score, task in ((0.8, "policy"), (1.5, "chat")):
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


async def test_messages_of_the_system_and_of_tools_are_not_read() -> None:
    stage, classifier = reading()
    messages = (
        Message("system", POLICY),
        Message("user", BOOKING),
        Message("assistant", ASKS),
        Message("assistant", "", {"tool_calls": []}),
        Message("tool", POLICY),
        Message("user", "yes"),
        Message("assistant", POLICY),
    )
    got = await stage.label(Request("auto", messages))
    assert got.task == "booking"
    assert classifier.read == [BOOKING, ASKS]


async def test_what_the_assistant_asked_tells_what_an_answer_is_about() -> None:
    unclear, answer = "Something about my ticket for the trip", "5th of March at 4:30"
    says = {unclear: labels("policy", 0.1, 1.0), answer: labels("chat", 0.2, -0.2), ASKS: labels("booking", 0.9, 1.5)}
    stage, _ = reading(says)
    messages = (Message("user", unclear), Message("assistant", ASKS), Message("user", answer))
    assert (await stage.label(Request("auto", messages))).task == "booking"
    other = (messages[0], Message("assistant", "Well."), messages[2])
    assert (await stage.label(Request("auto", other))).task != "booking"


async def test_a_conversations_probabilities_add_up_to_one_and_its_score_says_whether_it_abstains() -> None:
    stage, _ = reading()
    for first, abstained in ((BOOKING, False), (ELSEWHERE, True)):
        got = await stage.label(conversation(first, "yes please"))
        assert sum(share for _, share in got.probabilities) == pytest.approx(1)
        assert got.confidence == got.probabilities[0][1] == max(share for _, share in got.probabilities)
        assert got.margin == pytest.approx(got.probabilities[0][1] - got.probabilities[1][1])
        assert (got.abstained, got.in_distribution_score < 0) == (abstained, abstained)


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


async def test_turns_that_have_been_read_are_not_read_again() -> None:
    stage, classifier = reading()
    await stage.label(conversation(BOOKING, POLICY))
    assert (await stage.label(conversation(BOOKING, POLICY, "and cats?"))).task == "policy"
    assert classifier.read == [POLICY, BOOKING, "and cats?"]


async def test_a_long_answer_is_read_once() -> None:
    stage, classifier = reading()
    messages = (Message("user", BOOKING), Message("assistant", PASTED), Message("user", POLICY))
    for _ in range(2):
        await stage.label(Request("auto", messages))
    assert classifier.read == [POLICY, BOOKING, PASTED, POLICY]


async def test_the_result_does_not_depend_on_what_has_been_read_before() -> None:
    warm, _ = reading()
    for first, then in ((BOOKING, POLICY), (ELSEWHERE, "and cats?"), (POLICY, "and cats?")):
        await warm.label(conversation(first, then))
        for turns in ((first, then, "and dogs?"), (first, then, "yes"), (then, first)) * 2:
            fresh, _ = reading()
            assert await warm.label(conversation(*turns)) == await fresh.label(conversation(*turns))


async def test_the_cache_of_readings_is_bounded() -> None:
    stage, classifier = reading()
    await stage.label(conversation(BOOKING, "yes"))
    for number in range(MAX_CACHED):
        await stage.label(conversation(f"booking {number}", "yes"))
    await stage.label(conversation(BOOKING, "yes"))
    assert classifier.read.count(BOOKING) == 2


async def test_a_turn_is_read_again_if_the_encoder_failed() -> None:
    stage, classifier = reading({BOOKING: replace(SAYS[BOOKING], notes=(FAILED_NOTE,))})
    for _ in range(2):
        await stage.label(conversation(BOOKING, "yes"))
    assert classifier.read == [BOOKING, BOOKING]


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
    """The parameters were fitted on these conversations, so the test finds regressions, and says nothing about new
    texts.
    """
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
    assert shape_of(turn).kind is shape
