"""Conversations are tokenized and grouped into training steps, without a tokenizer package."""

from collections.abc import Sequence

import pytest
from pointsman_lora_server.training.batches import batch_by_length, padded_tokens, plan_batches
from pointsman_lora_server.training.data import Conversation, Message
from pointsman_lora_server.training.encoding import Example, encode
from pointsman_lora_server.training.exits import DataError

END, OPEN, BREAK = 1, 2, 3


def render(messages: Sequence[Message], answer_next: bool) -> list[int]:
    """A minimal chat template. It renders one token per letter, one for the end of a turn, and one for a line break."""
    turns = [[OPEN, *(ord(letter) for letter in message.content), END, BREAK] for message in messages]
    return [token for turn in turns for token in turn] + ([OPEN] if answer_next else [])


def row(question: str, answer: str) -> Conversation:
    return Conversation((Message("user", question),), answer, f"rows.jsonl:{len(question)}")


def of_length(tokens: int) -> Example:
    return Example(tuple(range(tokens)), 1, row("q", "a"))


def test_only_the_answer_and_its_end_of_turn_have_a_loss() -> None:
    (example,) = encode([row("hi", "yo")], render, END, 100).rows
    assert example.prompt_ids == (OPEN, ord("h"), ord("i"), END, BREAK, OPEN)
    assert example.ids[example.prompt_length :] == (ord("y"), ord("o"), END)
    assert example.answer_length == 3


def test_an_end_of_turn_is_added_if_the_template_has_none() -> None:
    def endless(messages: Sequence[Message], answer_next: bool) -> list[int]:
        return [token for token in render(messages, answer_next) if token not in (END, BREAK)]

    (example,) = encode([row("hi", "yo")], endless, END, 100).rows
    assert example.ids[-2:] == (ord("o"), END)


def test_a_too_long_row_is_skipped_and_reported() -> None:
    encoded = encode([row("hi", "yo"), row("long", "y" * 90)], render, END, 50)
    assert [example.source.question for example in encoded.rows] == ["hi"]
    assert encoded.notes == ("rows.jsonl:4: left out, its 99 tokens are more than 50",)


def test_a_template_that_renders_an_answered_prompt_differently_is_refused() -> None:
    def forgetful(messages: Sequence[Message], answer_next: bool) -> list[int]:
        return render(messages if answer_next else messages[-1:], answer_next)

    with pytest.raises(DataError, match=r"rows.jsonl:2: the chat template renders the prompt differently"):
        encode([row("hi", "yo")], forgetful, END, 100)


def test_a_batch_respects_its_token_limit_including_padding() -> None:
    batches = batch_by_length([of_length(tokens) for tokens in (30, 10, 20, 90, 40, 10)], 60)
    assert [[len(example.ids) for example in batch] for batch in batches] == [[10, 10, 20], [30], [40], [90]]
    assert all(padded_tokens(batch) <= 60 or len(batch) == 1 for batch in batches)


def test_every_epoch_shuffles_all_rows() -> None:
    examples = [of_length(tokens) for tokens in range(10, 60)]
    one, two = plan_batches(examples, 1, 100, seed=7), plan_batches(examples, 2, 100, seed=7)
    lengths = sorted(len(example.ids) for batch in two for example in batch)
    assert lengths == sorted([*range(10, 60), *range(10, 60)])
    assert two[: len(one)] == one
    assert two[len(one) :] != one


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    examples = [of_length(tokens) for tokens in range(10, 60)]
    assert plan_batches(examples, 2, 100, seed=7) == plan_batches(examples, 2, 100, seed=7)
    assert plan_batches(examples, 2, 100, seed=7) != plan_batches(examples, 2, 100, seed=8)


def test_rows_of_similar_length_are_batched_together() -> None:
    examples = [of_length(20 + 7 * number % 100) for number in range(400)]
    batches = plan_batches(examples, 1, 1000, seed=7)
    tokens = sum(len(example.ids) for example in examples)
    assert sum(map(padded_tokens, batches)) < 1.15 * tokens
