"""Preference pairs are checked and split like conversations."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pointsman_lora_server.training.data import Message
from pointsman_lora_server.training.encoding import encode_pairs
from pointsman_lora_server.training.exits import DataError
from pointsman_lora_server.training.methods.dpo import read_preference_split, read_preferences

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def rows(*lines: object, name: str = "pairs.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return path

    return rows


def pair(prompt: object, chosen: object = "good", rejected: object = "bad") -> dict[str, object]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_a_prompt_is_a_text_or_a_conversation_and_an_answer_a_text_or_a_message(write: Write) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    path = write(
        pair("hello"),
        {"messages": turns, "chosen": [{"role": "assistant", "content": "good"}], "rejected": {"no": 1}},
    )
    plain, long = read_preferences(path, "Be brief.")
    assert plain.prompt == (Message("system", "Be brief."), Message("user", "hello"))
    assert [message.role for message in long.prompt] == ["system", "user", "assistant", "user"]
    assert (long.chosen, long.rejected) == ("good", '{"no": 1}')


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"prompt": "a", "chosen": "b"}, 'needs "prompt" or "messages", and "chosen" and "rejected"'),
        (pair("a", "b", " b "), "there is nothing to prefer"),
        (pair("a") | {"score": 1}, "unknown key 'score'"),
        (pair([]), '"prompt" must be a list of messages'),
        (pair([{"role": "assistant", "content": "b"}]), 'its role must be "user", not "assistant"'),
        (pair("a", [{"role": "user", "content": "b"}]), "the assistant's message alone"),
        (pair("a", None), '"chosen" is null'),
    ],
)
def test_an_invalid_pair_is_named_with_the_valid_form(write: Write, line: object, complaint: str) -> None:
    with pytest.raises(DataError) as refused:
        read_preferences(write(pair("good one"), line))
    assert "pairs.jsonl:2: " in str(refused.value)
    assert complaint in str(refused.value)


def test_duplicate_and_contradictory_pairs_are_rejected(write: Write) -> None:
    found = read_preference_split(write(pair("a"), pair("a", "better"), pair("a")), None, 0, None, 7)
    assert len(found.training) == 2
    assert found.notes[0].endswith("the same as " + found.training[0].where)
    with pytest.raises(DataError, match=r"pairs.jsonl:2: prefers the opposite of .*pairs.jsonl:1"):
        read_preference_split(write(pair("a"), pair("a", "bad", "good")), None, 0, None, 7)


def test_held_out_prompts_are_removed_from_training(write: Write) -> None:
    heldout_rows = write(pair("Where  IS it?"), name="heldout.jsonl")
    found = read_preference_split(write(pair("where is it?"), pair("else")), heldout_rows, 0.1, None, 7)
    assert [row.prompt[0].content for row in found.training] == ["else"]
    assert found.conversations.heldout[0].answer == "good"


def test_a_share_is_held_out_without_a_file(write: Write) -> None:
    path = write(*(pair(f"question {number}") for number in range(20)))
    found = read_preference_split(path, None, 0.2, None, 7)
    assert (len(found.training), len(found.heldout)) == (16, 4)
    assert found == read_preference_split(path, None, 0.2, None, 7)


def test_pairs_of_one_prompt_are_held_out_together_and_none_is_lost(write: Write) -> None:
    rows = [pair(f"question {number}", f"good {way}") for number in range(20) for way in range(5)]
    found = read_preference_split(write(*rows), None, 0.1, None, 7)
    assert (len(found.training), len(found.heldout), found.notes) == (90, 10, ())
    assert {row.prompt for row in found.training}.isdisjoint(row.prompt for row in found.heldout)
    with pytest.raises(DataError, match="a single prompt cannot be split"):
        read_preference_split(write(*rows[:5]), None, 0.1, None, 7)


def test_both_answers_of_a_pair_start_after_the_same_prompt(write: Write) -> None:
    def render(messages: object, answer_next: bool) -> list[int]:
        turns = [[ord(letter) for letter in message.content] + [1] for message in messages]  # type: ignore[attr-defined]
        return [token for turn in turns for token in turn]

    (found,) = encode_pairs(read_preferences(write(pair("hi", "yes", "no"))), render, 1, 100).rows
    assert found.chosen.prompt_ids == found.rejected.prompt_ids
    assert found.length == len("hi.yes.") + len("hi.no.")
    assert encode_pairs(read_preferences(write(pair("hi", "y" * 90, "no"))), render, 1, 50).rows == ()
