"""The baseline that training is compared with: prompts with the nearest examples."""

from collections.abc import Sequence

from pointsman_lora_server.training.data import Conversation, Message
from pointsman_lora_server.training.encoding import Example
from pointsman_lora_server.training.prompt_baseline import NearestRows, few_shot_questions

KNOWN = [
    Conversation((Message("user", question),), answer, "rows.jsonl:1")
    for question, answer in (
        ("I lost my black bag on the train", "lost_item"),
        ("I want my money back for the train", "refund"),
        ("a ramp for my wheelchair on the train", "assistance"),
    )
]


def render(messages: Sequence[Message], answer_next: bool) -> list[int]:
    return [ord(letter) for message in messages for letter in f"{message.role[0]}:{message.content}\n"]


def example(question: str, *before: Message) -> Example:
    conversation = Conversation((*before, Message("user", question)), "lost_item", "heldout.jsonl:1")
    prompt = render(conversation.prompt, True)
    return Example((*prompt, 1, 2), len(prompt), conversation)


def asked(row: Example, shots: int, max_tokens: int = 1000) -> str:
    (question,) = few_shot_questions([row], NearestRows(KNOWN), shots, render, max_tokens)
    return "".join(map(chr, question.prompt_ids))


def test_rare_common_words_determine_the_nearest_example() -> None:
    nearest = NearestRows(KNOWN).find("on the train there is a ramp missing", 2)
    assert [row.answer for row in nearest] == ["assistance", "lost_item"]


def test_the_nearest_example_is_next_to_the_question() -> None:
    text = asked(example("my bag is lost", Message("system", "Sort.")), 2)
    assert text.splitlines() == [
        "s:Sort.",
        "u:I want my money back for the train",
        "a:refund",
        "u:I lost my black bag on the train",
        "a:lost_item",
        "u:my bag is lost",
    ]


def test_the_farthest_examples_are_dropped_if_they_do_not_fit() -> None:
    row = example("my bag is lost")
    assert asked(row, 3, 80).splitlines() == ["u:I lost my black bag on the train", "a:lost_item", "u:my bag is lost"]
    assert asked(row, 3, 20) == "u:my bag is lost\n"
