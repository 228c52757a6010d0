"""Reads training conversations from files of JSON lines, and rejects invalid rows before the model is loaded.

A line has one of two forms:

    {"messages": [{"role": "system" | "user" | "assistant", "content": "..."}, ...]}    the last is the assistant's
    {"text": "...", "output": "..." or any JSON value}                                  user's text, assistant's output

The model is only trained to write the last message. The module imports only the standard library, so that a file can be
checked without torch.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pointsman_lora_server.training.exits import DataError

ROLES = ("system", "user", "assistant")
MAX_ERRORS = 20

Key = tuple[tuple[str, str], ...]
"""Identifies a prompt: (role, content) of each message, with normalized case and white space."""

_Parsed = TypeVar("_Parsed")


class RowError(Exception):
    """A row of a data file is invalid. The message gives the reason; `read_rows` adds the file and the line."""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    prompt: tuple[Message, ...]
    answer: str
    where: str
    """The file and line that the conversation was read from, as "file.jsonl:12"."""

    @property
    def question(self) -> str:
        return self.prompt[-1].content

    @property
    def key(self) -> Key:
        """Returns the roles and contents of the prompt's messages, normalized so that prompts that differ only in case
        and white space have equal keys.
        """
        return tuple((message.role, " ".join(message.content.casefold().split())) for message in self.prompt)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_system(path: Path | None) -> str | None:
    return _read(path).strip() if path else None


def read_conversations(path: Path, system: str | None = None) -> list[Conversation]:
    """Reads a file of training conversations. If `system` is given, it becomes the system message of rows without one.

    Raises DataError, which lists up to `MAX_ERRORS` problems, if the file cannot be read, has no rows, or has invalid
    rows.
    """
    conversations = []
    for where, (prompt, answer) in read_rows(path, _parse):
        if system is not None and prompt[0].role != "system":
            prompt = (Message("system", system), *prompt)
        conversations.append(Conversation(prompt, answer, where))
    return conversations


def read_rows(path: Path, parse: Callable[[dict[str, object]], _Parsed]) -> list[tuple[str, _Parsed]]:
    """Reads a file with one JSON object a line; returns a pair ("FILE:LINE", result of `parse`) for each line that is
    not blank.

    `parse` converts a row and raises RowError if the row is invalid. If the file cannot be read, has no rows, or has
    invalid rows, `read_rows` raises DataError, which lists up to `MAX_ERRORS` different problems.
    """
    rows: list[tuple[str, _Parsed]] = []
    errors: dict[str, list[int]] = {}
    """Problem -> numbers of the lines that have it."""
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((f"{path}:{number}", parse(_object(line))))
        except RowError as error:
            errors.setdefault(str(error), []).append(number)
    if errors:
        raise DataError(first_lines([f"{path}:{_numbers(lines)}: {problem}" for problem, lines in errors.items()]))
    if not rows:
        raise DataError(f'{path} has no rows; write one JSON object a line, such as {{"text": "...", "output": "..."}}')
    return rows


def _read(path: Path) -> str:
    """Returns the text of a file, which is decompressed first if its name ends in .gz. Raises DataError if it cannot be
    read.
    """
    try:
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes()).decode("utf-8-sig")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; name a file of UTF-8 text") from error


def _numbers(lines: Sequence[int]) -> str:
    return f"{lines[0]} (and {len(lines) - 1} more lines)" if len(lines) > 1 else str(lines[0])


def first_lines(lines: Sequence[str]) -> str:
    """Joins the first `MAX_ERRORS` of `lines` with line feeds; if there are more, a last line says how many were left
    out.
    """
    more = [f"... and {len(lines) - MAX_ERRORS} more lines"] if len(lines) > MAX_ERRORS else []
    return "\n".join([*lines[:MAX_ERRORS], *more])


def _object(line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RowError(f"not JSON ({error}); write one whole JSON object a line") from error
    if not isinstance(row, dict):
        raise RowError(f"a row must be a JSON object, not {_describe(row)}")
    return row


def _parse(row: dict[str, object]) -> tuple[tuple[Message, ...], str]:
    if "messages" in row:
        reject_unknown_keys(row, ("messages",))
        return _conversation(row["messages"])
    if "text" in row and "output" in row:
        # `source` says where a task example comes from, and `intent` is for the classifier; they are not learnt.
        reject_unknown_keys(row, ("text", "output", "source", "intent"))
        return (Message("user", check_text(row["text"], '"text"')),), parse_answer(row["output"], "output")
    raise RowError(f'a row needs "messages", or "text" and "output"; this one has {_list_keys(row)}')


def _conversation(messages: object) -> tuple[tuple[Message, ...], str]:
    if not isinstance(messages, list) or len(messages) < 2:
        raise RowError(
            '"messages" must have at least two messages: what the user says and what the assistant should answer'
        )
    parsed = parse_messages(messages, "messages")
    if parsed[-1].role != "assistant":
        raise RowError(f'the last message is what is learnt; its role must be "assistant", not "{parsed[-1].role}"')
    if parsed[-2].role != "user":
        raise RowError(
            f'the message before the last one is what is answered; its role must be "user", not "{parsed[-2].role}"'
        )
    return parsed[:-1], parsed[-1].content


def parse_messages(messages: object, name: str) -> tuple[Message, ...]:
    """Parses a list of one or more chat messages, {"role": ..., "content": ...}.

    Raises RowError if `messages` is not such a list, or has a system message that is not the first message. `name` is
    the name of the list in the error message.
    """
    if not isinstance(messages, list) or not messages:
        raise RowError(f'"{name}" must be a list of messages, not {_describe(messages)}')
    parsed = tuple(_message(message, f"{name}[{index}]") for index, message in enumerate(messages))
    if any(message.role == "system" for message in parsed[1:]):
        raise RowError('a "system" message can only be the first one')
    return parsed


def _message(message: object, name: str) -> Message:
    if not isinstance(message, dict):
        raise RowError(f'{name} must be an object with "role" and "content", not {_describe(message)}')
    reject_unknown_keys(message, ("role", "content"))
    role = message.get("role")
    if role not in ROLES:
        raise RowError(f"{name} has the role {role!r}; known: {', '.join(ROLES)}")
    return Message(role, check_text(message.get("content"), f'{name}["content"]'))


def parse_answer(value: object, name: str) -> str:
    """Returns the text that the model should learn to write: a string unchanged, any other JSON value as JSON in one
    line.

    Raises RowError if `value` is null, an empty string, or a string with half of a surrogate pair. `name` is the name
    of the value in the error message.
    """
    if value is None:
        raise RowError(f'"{name}" is null; give the answer that should be learnt')
    return check_text(value, f'"{name}"') if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def check_text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{name} must be a string that is not empty, not {_describe(value)}")
    if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
        raise RowError(
            f"{name} contains half of a surrogate pair, which is not a character; write the character itself"
        )
    return value


def reject_unknown_keys(row: dict[str, object], known: Iterable[str]) -> None:
    unknown = [key for key in row if key not in known]
    if unknown:
        raise RowError(f"unknown key {unknown[0]!r}; known here: {', '.join(known)}")


def _list_keys(row: dict[str, object]) -> str:
    return ", ".join(f'"{key}"' for key in row) or "no keys"


def _describe(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "an empty string"}
    return names.get(type(value), "a number")
