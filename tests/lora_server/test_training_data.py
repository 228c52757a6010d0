"""Training data is checked, split and described before training starts."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pointsman_lora_server.training.data import (
    Conversation,
    Message,
    read_conversations,
)
from pointsman_lora_server.training.exits import DataError
from pointsman_lora_server.training.split import read_split, split, split_by_share

Write = Callable[..., Path]

HELPDESK = Path(__file__).parents[2] / "examples" / "helpdesk"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def rows(*lines: object, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), "utf-8")
        return path

    return rows


def example(text: str, output: object = "yes") -> dict[str, object]:
    return {"text": text, "output": output}


def turns(*roles: str) -> dict[str, object]:
    return {"messages": [{"role": role, "content": f"words of {role}"} for role in roles]}


def texts(rows: Sequence[Conversation]) -> list[str]:
    return [row.question for row in rows]


def test_the_last_message_of_a_conversation_is_the_answer(write: Write) -> None:
    (row,) = read_conversations(write(turns("system", "user", "assistant", "user", "assistant")))
    assert [message.role for message in row.prompt] == ["system", "user", "assistant", "user"]
    assert row.answer == "words of assistant"


def test_a_task_example_becomes_one_question_and_one_answer(write: Write) -> None:
    (row,) = read_conversations(write(example("Where is my bag?", "lost_item")))
    assert (row.prompt, row.answer) == ((Message("user", "Where is my bag?"),), "lost_item")


def test_the_source_and_the_intent_of_a_task_example_are_not_learnt(write: Write) -> None:
    labelled = example("Where is my bag?", "lost_item") | {"source": "mail", "intent": "bag"}
    assert read_conversations(write(labelled)) == read_conversations(write(example("Where is my bag?", "lost_item")))


def test_a_json_value_is_written_on_one_line_without_escapes(write: Write) -> None:
    (row,) = read_conversations(write(example("Zürich?", {"intent": "fare", "slots": {"to": "Zürich"}})))
    assert row.answer == '{"intent": "fare", "slots": {"to": "Zürich"}}'


def test_the_system_message_is_added_to_rows_without_one(write: Write) -> None:
    rows = read_conversations(write(example("hello"), turns("system", "user", "assistant")), "Be brief.")
    assert [row.prompt[0] for row in rows] == [Message("system", "Be brief."), Message("system", "words of system")]


def test_empty_lines_count_as_lines_but_not_as_rows(write: Write) -> None:
    (row,) = read_conversations(write("", "", example("hello")))
    assert row.where.endswith("rows.jsonl:3")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "a", ', "not JSON"),
        ("[1, 2]", "a row must be a JSON object, not a list"),
        ({"text": "a"}, 'a row needs "messages", or "text" and "output"; this one has "text"'),
        ({"text": "a", "output": "b", "label": "c"}, "unknown key 'label'; known here: text, output, source, intent"),
        ({"text": " ", "output": "b"}, '"text" must be a string that is not empty, not an empty string'),
        ({"text": 7, "output": "b"}, '"text" must be a string that is not empty, not a number'),
        ({"text": "a", "output": None}, '"output" is null'),
        ({"text": "a", "output": ""}, '"output" must be a string that is not empty'),
        ('{"text": "\\ud83d", "output": "b"}', "half of a surrogate pair"),
        (turns("user"), "must have at least two messages"),
        ({"messages": {"role": "user"}}, "must have at least two messages"),
        (turns("assistant", "user"), 'its role must be "assistant", not "user"'),
        (turns("system", "assistant"), 'its role must be "user", not "system"'),
        (turns("user", "assistant", "system", "user", "assistant"), 'a "system" message can only be the first one'),
        (turns("human", "assistant"), "messages[0] has the role 'human'; known: system, user, assistant"),
        (
            {"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]},
            'messages[0]["content"] must be a string',
        ),
        ({"messages": ["hello", "there"]}, 'messages[0] must be an object with "role" and "content"'),
    ],
)
def test_an_invalid_line_is_named_with_the_valid_form(write: Write, line: object, complaint: str) -> None:
    with pytest.raises(DataError) as refused:
        read_conversations(write(example("good"), line))
    assert "rows.jsonl:2: " in str(refused.value)
    assert complaint in str(refused.value)


def test_up_to_twenty_problems_are_named(write: Write) -> None:
    with pytest.raises(DataError) as refused:
        read_conversations(write(*[example("a") | {f"key{number}": 1} for number in range(1, 24)]))
    lines = str(refused.value).splitlines()
    assert all(f"rows.jsonl:{n}: unknown key 'key{n}'" in line for n, line in enumerate(lines[:20], start=1))
    assert lines[20:] == ["... and 3 more lines"]


def test_a_problem_of_many_lines_is_named_once(write: Write) -> None:
    with pytest.raises(DataError) as refused:
        read_conversations(write(example("good"), *[example(f"{n}") | {"task": "a"} for n in range(300)], "{"))
    first, second = str(refused.value).splitlines()
    assert "rows.jsonl:2 (and 299 more lines): unknown key 'task'; known here: text, output" in first
    assert "rows.jsonl:302: not JSON" in second


def test_an_empty_file_is_rejected_with_an_example_row(write: Write) -> None:
    with pytest.raises(DataError, match="has no rows; write one JSON object a line"):
        read_conversations(write(""))


def test_a_missing_file_and_one_of_another_encoding_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.jsonl cannot be read"):
        read_conversations(tmp_path / "nowhere.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"text": "Zürich", "output": "b"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.jsonl cannot be read"):
        read_conversations(tmp_path / "latin.jsonl")


def test_a_compressed_file_has_the_same_rows(write: Write) -> None:
    plain = write(example("Zürich?"), example("Bern?"))
    packed = plain.with_name("rows.jsonl.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert texts(read_conversations(packed)) == texts(read_conversations(plain)) == ["Zürich?", "Bern?"]


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"cut short", mtime=0)[:-9], gzip.compress(b"{}", mtime=0)[:12] + b"?" * 9],
    ids=["no gzip", "cut short", "damaged"],
)
def test_a_damaged_compressed_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz cannot be read"):
        read_conversations(file)


def test_held_out_prompts_are_removed_from_training_ignoring_case(write: Write) -> None:
    training = write(example("Where is my BAG?"), example("hello"))
    found = read_split(training, write(example("where  is my bag?", "other"), name="heldout.jsonl"), 0.1, None, 7)
    assert texts(found.training) == ["hello"]
    assert texts(found.heldout) == ["where  is my bag?"]
    (note,) = found.notes
    assert "rows.jsonl:1: left out, its prompt is held out too" in note


def test_training_rows_that_are_all_held_out_are_refused(write: Write) -> None:
    rows = read_conversations(write(example("hello")))
    with pytest.raises(DataError, match="no training rows are left"):
        split(rows, rows)


def test_duplicate_rows_are_used_once(write: Write) -> None:
    found = split(read_conversations(write(example("hello"), example("hello"))), ())
    assert texts(found.training) == ["hello"]
    assert found.notes[0].endswith("rows.jsonl:1")


def test_a_prompt_with_two_answers_is_rejected(write: Write) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:2: its prompt is that of .*rows.jsonl:1, but its answer differs"):
        split(read_conversations(write(example("hello", "a"), example("hello", "b"))), ())


def test_prompts_that_differ_in_case_may_have_different_answers(write: Write) -> None:
    found = split(read_conversations(write(example("to SALTBY", "SALTBY"), example("to Saltby", "Saltby"))), ())
    assert len(found.training) == 2


def test_a_random_share_is_held_out_reproducibly(write: Write) -> None:
    rows = read_conversations(write(*(example(f"question {number}") for number in range(40))))
    first, again, other = split_by_share(rows, 0.1, 7), split_by_share(rows, 0.1, 7), split_by_share(rows, 0.1, 8)
    assert (len(first.training), len(first.heldout)) == (36, 4)
    assert set(texts(first.training)).isdisjoint(texts(first.heldout))
    assert first == again
    assert texts(first.heldout) != texts(other.heldout)


def test_rows_of_one_prompt_are_held_out_together(write: Write) -> None:
    asked = [(f"Where is train {number}?", f"WHERE IS  train {number}?") for number in range(20)]
    rows = read_conversations(write(*(example(text) for both in asked for text in both)))
    found = split_by_share(rows, 0.1, 7)
    assert (len(found.training), len(found.heldout)) == (36, 4)
    assert {row.key for row in found.training}.isdisjoint(row.key for row in found.heldout)
    with pytest.raises(DataError, match="a single prompt cannot be split"):
        split_by_share(rows[:2], 0.1, 7)


def test_the_examples_held_out_rows_do_not_change(write: Write) -> None:
    made = HELPDESK / "adapters" / "voice"
    report = json.loads((made / "training.json").read_text("utf-8"))
    share, seed = report["data"]["heldout_share"], report["recipe"]["seed"]
    # Rows without their passages: the split depends on the order of the prompts alone.
    rows = [json.loads(line) for line in (HELPDESK / "training" / "letters.jsonl").read_text("utf-8").splitlines()]
    data = write(*({"text": row["text"], "output": row["output"]} for row in rows))
    kept = map(json.loads, (made / "samples.jsonl").read_text("utf-8").splitlines())
    assert texts(read_split(data, None, share, None, seed).heldout) == [row["messages"][-1]["content"] for row in kept]


def test_a_small_share_holds_out_one_row_and_zero_none(write: Write) -> None:
    rows = read_conversations(write(example("a"), example("b"), example("c")))
    assert len(split_by_share(rows, 0.01, 7).heldout) == 1
    assert split_by_share(rows, 0, 7).heldout == ()
    with pytest.raises(DataError, match="a single prompt cannot be split"):
        split_by_share(rows[:1], 0.1, 7)


def test_the_system_message_comes_from_its_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("Answer with JSON.\n", "utf-8")
    found = read_split(write(example("a"), example("b")), None, 0.5, tmp_path / "system.txt", 7)
    assert {row.prompt[0] for row in (*found.training, *found.heldout)} == {Message("system", "Answer with JSON.")}
