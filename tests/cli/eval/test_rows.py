"""Labelled rows are read unchanged; if some are invalid, an error names their lines."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.errors import UsageError
from pointsman_cli.eval.dataset import read_dataset, text_of

Cli = Callable[..., Any]


def write(folder: Path, *lines: str) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_text_is_a_conversation_of_one_message_and_an_id_is_its_line(tmp_path: Path) -> None:
    conversation = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
                    {"role": "user", "content": "A dog?"}]  # fmt: skip
    file = write(
        tmp_path,
        json.dumps({"text": "May I bring a dog?", "output": "Yes."}),
        "",
        json.dumps({"messages": conversation, "facts": ["free"], "task": "policy", "id": "dog"}),
    )
    first, second = read_dataset(file, "chat").rows
    assert (first.id, first.task, first.text, first.output) == ("1", "chat", "May I bring a dog?", "Yes.")
    assert (second.id, second.task, second.text, second.facts) == ("dog", "policy", "A dog?", ["free"])
    assert list(second.messages) == conversation


def test_lines_end_at_line_feeds_only_and_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "one\u2028two\x85three", "output": "x"}\r\n', "utf-8-sig", newline="")
    (row,) = read_dataset(file, "chat").rows
    assert row.text == "one\u2028two\x85three"


def test_a_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    (row,) = read_dataset(write(tmp_path, r'{"text": "\ud83d\ude82", "output": "x"}'), "chat").rows
    assert row.text == "\U0001f682"


def test_a_csv_file_is_read_with_the_lines_of_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('task,text,output\nchat,"two\nlines, one row",yes\n,hello,{"a": 1}\n', "utf-8-sig")
    first, second = read_dataset(file, "other").rows
    assert (first.id, first.task, first.text, first.output) == ("3", "chat", "two\nlines, one row", "yes")
    assert (second.id, second.task, second.text, second.output) == ("4", "other", "hello", '{"a": 1}')
    assert read_dataset(file, "other").digest == hashlib.sha256(text_of(file).encode()).hexdigest()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text;output\na;b\n", "rows.csv has one column, 'text;output'; separate its columns by commas"),
        ("text,answer\na,b\n", "has the columns text, answer, and none called output; name them text and output in"),
        ('text,output\na,"b\n', "rows.csv:2 is not CSV: unexpected end of data; put texts with commas or line breaks"),
        ("text,output\na,\n", 'rows.csv:2 has neither an "output" nor "facts" to compare with'),
        ("text,output\n", "rows.csv has no rows; a row has a text and its right output"),
        ("", "rows.csv has no rows; a row has a text and its right output"),
    ],
)
def test_a_mistake_in_a_csv_file_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(UsageError) as raised:
        read_dataset(tmp_path / "rows.csv", "chat")
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "rows.jsonl:2 is not JSON"),
        ("[]", "rows.jsonl:2 is no JSON object"),
        (r'{"text": "half \ud83d of a pair", "output": "x"}', "rows.jsonl:2 holds half of a surrogate pair"),
        (r'{"text": "a", "output": {"b": ["\udc00"]}}', "rows.jsonl:2 holds half of a surrogate pair"),
        ('{"output": "x"}', 'must have either "text" or "messages"'),
        ('{"text": "a", "messages": [], "output": "x"}', 'must have either "text" or "messages"'),
        ('{"text": " ", "output": "x"}', '"text" must be a text that is not empty'),
        ('{"text": "a"}', 'has neither an "output" nor "facts"'),
        ('{"text": "a", "output": "x", "task": 3}', "names no task"),
        ('{"text": "a", "output": "x", "id": {}}', 'has an "id" that is neither'),
        ('{"text": "a", "output": "x", "id": true}', 'has an "id" that is neither a text nor a whole number: True'),
        ('{"messages": [{"role": "tool", "content": "x"}], "output": "x"}', "a message has a role"),
        ('{"messages": [{"role": "assistant", "content": "x"}], "output": "x"}', "the last message must be the user"),
        ('{"text": "a", "output": "x", "id": "1"}', "two rows with the id '1'"),
    ],
)
def test_an_invalid_row_is_reported_with_its_line(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_dataset(write(tmp_path, '{"text": "good", "output": "x"}', line), "chat")


def test_invalid_rows_are_reported_together_and_a_repeated_error_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        read_dataset(write(tmp_path, *["{}"] * 7, "[]"), "chat")

    file = tmp_path / "rows.jsonl"
    assert str(raised.value) == (
        f'{file}:1 (and 6 more lines) has neither an "output" nor "facts" to compare with; {file}:8 is no JSON object; '
        'write one JSON object a line: {"text": ..., "output": ...}'
    )


@pytest.mark.parametrize(("content", "says"), [(b"", "has no rows"), (b"\n\n", "has no rows"), (b"\xff", "not UTF-8")])
def test_an_empty_or_unreadable_set_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        read_dataset(file, "chat")
    with pytest.raises(UsageError, match=r"cannot read .*none.jsonl: No such file"):
        read_dataset(tmp_path / "none.jsonl", "chat")


def test_the_command_names_the_error_and_exits_with_2(cli: Cli, tmp_path: Path) -> None:
    file = write(tmp_path, '{"text": "a", "output": "x"}')
    refused: list[tuple[list[str | Path], str, int]] = [
        ([file], "rows.jsonl:1 names no task; add", 2),
        ([file, "--task", "chat", "--url", "127.0.0.1:1"], "no gateway answers at http://127.0.0.1:1", 1),
        ([file, "--task", "chat", "--html", tmp_path / "none" / "x.html"], "cannot write", 2),
        ([file, "--task", "chat", "--answers", "a", "--resume", "b"], "give only one of them", 2),
    ]
    for arguments, says, code in refused:
        outcome = cli("eval", *arguments, "--data-dir", tmp_path / "home")
        assert (outcome.code, says in outcome.err) == (code, True), outcome.err
