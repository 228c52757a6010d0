"""Reads JSON lines into conversations, and refuses what cannot be trained on before anything is computed.

A line is one of two shapes:

    {"messages": [{"role": "system" | "user" | "assistant", "content": "..."}, ...]}    the last one is the assistant's
    {"text": "...", "output": "..." or any JSON value}                                  user says text, assistant output

Only the last message is learnt. Standard library only, so that a file can be checked where there is no torch.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pointsman_lora_server.training.errors import DataError

ROLES = ("system", "user", "assistant")
MOST_ERRORS = 20

Key = tuple[tuple[str, str], ...]
"""Of a prompt: (role, content) of each message, without what does not count."""

_Parsed = TypeVar("_Parsed")


class RowError(Exception):
    """What is wrong with one row; `read_rows` adds where it stands."""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    prompt: tuple[Message, ...]
    answer: str
    where: str  # "file.jsonl:12"

    @property
    def question(self) -> str:
        return self.prompt[-1].content

    @property
    def key(self) -> Key:
        """Equal for prompts that differ in case and white space only."""
        return tuple((message.role, " ".join(message.content.casefold().split())) for message in self.prompt)


@dataclass(frozen=True, slots=True)
class Split:
    training: tuple[Conversation, ...]
    heldout: tuple[Conversation, ...]
    notes: tuple[str, ...]  # what was left out, for the user


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gather(training: Path, heldout: Path | None, share: float, system: Path | None, seed: int) -> Split:
    """Both sides from files, or a `share` of the prompts held out where there is no file for it."""
    instruction = read_system(system)
    rows = read_conversations(training, instruction)
    if heldout is None:
        return split_by_share(rows, share, seed)
    return split(rows, read_conversations(heldout, instruction))


def read_system(path: Path | None) -> str | None:
    return _read(path).strip() if path else None


def read_conversations(path: Path, system: str | None = None) -> list[Conversation]:
    """`system` is put before rows that have no system message. Raises `DataError` with all bad lines, up to 20."""
    conversations = []
    for where, (prompt, answer) in read_rows(path, _parse):
        if system is not None and prompt[0].role != "system":
            prompt = (Message("system", system), *prompt)
        conversations.append(Conversation(prompt, answer, where))
    return conversations


def read_rows(path: Path, parse: Callable[[dict[str, object]], _Parsed]) -> list[tuple[str, _Parsed]]:
    """Each row as `parse` reads it, with where it stands. Raises `DataError` with all bad lines, up to 20."""
    rows: list[tuple[str, _Parsed]] = []
    wrong: list[str] = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((f"{path}:{number}", parse(_object(line))))
        except RowError as error:
            wrong.append(f"{path}:{number}: {error}")
    if wrong:
        raise DataError(_some(wrong))
    if not rows:
        raise DataError(f'{path} has no rows; write one JSON object a line, such as {{"text": "...", "output": "..."}}')
    return rows


def split(training: Sequence[Conversation], heldout: Sequence[Conversation]) -> Split:
    """Takes what is held out, or is there twice, out of the training rows. Raises `DataError` when nothing is left."""
    notes: list[str] = []
    contrary: list[str] = []
    held = {row.key: row for row in heldout}
    first: dict[tuple[Message, ...], Conversation] = {}
    for row in training:
        if row.key in held:
            notes.append(f"{row.where}: left out, its prompt is held out too ({held[row.key].where})")
        elif row.prompt not in first:
            first[row.prompt] = row
        elif row.answer == first[row.prompt].answer:
            notes.append(f"{row.where}: left out, the same as {first[row.prompt].where}")
        else:
            contrary.append(
                f"{row.where}: its prompt is that of {first[row.prompt].where}, but its answer differs; "
                "keep the one that is right"
            )
    if contrary:
        raise DataError(_some(contrary))
    if not first:
        raise DataError("no training rows are left: every one of them is held out too")
    return Split(tuple(first.values()), tuple(heldout), tuple(notes))


def split_by_share(rows: Sequence[Conversation], share: float, seed: int) -> Split:
    """Holds out all rows of a random `share` of the prompts, as `draw_prompts` has them."""
    whole = split(rows, ())
    held = draw_prompts([row.key for row in whole.training], share, seed)
    return Split(
        tuple(row for row in whole.training if row.key not in held),
        tuple(row for row in whole.training if row.key in held),
        whole.notes,
    )


def draw_prompts(keys: Sequence[Key], share: float, seed: int) -> Set[Key]:
    """Which of the prompts are held out: at least one where `share` is above 0, never all of them.

    `keys` has one for each row. The rows of a prompt stay together, since one that is held out beside one that is
    learnt would measure memory; `share` counts prompts, as scikit-learn's GroupShuffleSplit counts groups. Raises
    `DataError` where there is one prompt only.
    """
    if share == 0:
        return frozenset()
    prompts = list(dict.fromkeys(keys))
    if len(prompts) < 2:
        raise DataError("one prompt alone cannot be split; give rows with other ones, or --heldout-share 0")
    count = min(max(1, round(len(prompts) * share)), len(prompts) - 1)
    return frozenset(random.Random(seed).sample(prompts, count))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; name a file of UTF-8 text") from error


def _some(lines: Sequence[str]) -> str:
    more = [f"... and {len(lines) - MOST_ERRORS} more lines"] if len(lines) > MOST_ERRORS else []
    return "\n".join([*lines[:MOST_ERRORS], *more])


def _object(line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RowError(f"not JSON ({error}); write one whole JSON object a line") from error
    if not isinstance(row, dict):
        raise RowError(f"a row is a JSON object, not {_named(row)}")
    return row


def _parse(row: dict[str, object]) -> tuple[tuple[Message, ...], str]:
    if "messages" in row:
        refuse_unknown(row, ("messages",))
        return _conversation(row["messages"])
    if "text" in row and "output" in row:
        # `source` says where a task example was taken from, and is nothing to learn.
        refuse_unknown(row, ("text", "output", "source"))
        return (Message("user", text_of(row["text"], '"text"')),), parse_answer(row["output"], "output")
    raise RowError(f'a row has "messages", or "text" and "output"; this one has {_listed(row)}')


def _conversation(messages: object) -> tuple[tuple[Message, ...], str]:
    if not isinstance(messages, list) or len(messages) < 2:
        raise RowError('"messages" is a list of at least two: what the user says and what the assistant should answer')
    read = parse_messages(messages, "messages")
    if read[-1].role != "assistant":
        raise RowError(f'the last message is what is learnt: its role is "assistant", not "{read[-1].role}"')
    if read[-2].role != "user":
        raise RowError(
            f'the message before the last one is what is answered: its role is "user", not "{read[-2].role}"'
        )
    return read[:-1], read[-1].content


def parse_messages(messages: object, name: str) -> tuple[Message, ...]:
    """At least one; raises `RowError`."""
    if not isinstance(messages, list) or not messages:
        raise RowError(f'"{name}" is a list of messages, not {_named(messages)}')
    read = tuple(_message(message, f"{name}[{index}]") for index, message in enumerate(messages))
    if any(message.role == "system" for message in read[1:]):
        raise RowError('a "system" message can only be the first one')
    return read


def _message(message: object, name: str) -> Message:
    if not isinstance(message, dict):
        raise RowError(f'{name} is an object with "role" and "content", not {_named(message)}')
    refuse_unknown(message, ("role", "content"))
    role = message.get("role")
    if role not in ROLES:
        raise RowError(f"{name} has the role {role!r}; known: {', '.join(ROLES)}")
    return Message(role, text_of(message.get("content"), f'{name}["content"]'))


def parse_answer(value: object, name: str) -> str:
    """A JSON value becomes one line, letters as they are: the form in which the model is to write it."""
    if value is None:
        raise RowError(f'"{name}" is null; give the answer that should be learnt')
    return text_of(value, f'"{name}"') if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def text_of(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{name} is a string that is not empty, not {_named(value)}")
    if not value.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RowError(f"{name} holds half of a surrogate pair, which is no letter; write the character itself")
    return value


def refuse_unknown(row: dict[str, object], known: Iterable[str]) -> None:
    unknown = [key for key in row if key not in known]
    if unknown:
        raise RowError(f"unknown key {unknown[0]!r}; known here: {', '.join(known)}")


def _listed(row: dict[str, object]) -> str:
    return ", ".join(f'"{key}"' for key in row) or "no keys"


def _named(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "an empty string"}
    return names.get(type(value), "a number")
