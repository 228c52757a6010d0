"""Rows of a data set: the sources of their answers, their split into training and held-out rows, and their folder.

The folder to which a data set is written is named by a digest of its content. Its manifest states where the rows come
from.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from pointsman_gateway.config.example_files import normalized_text

_DIGITS = re.compile(r"\d+")
_ROLES = ("system", "user", "assistant")

VERSION = 1

NAME_DIGITS = 12

MANIFEST, LATEST = "manifest.json", "latest"
TRAIN, HELDOUT, PAIRS, HELDOUT_PAIRS = "train.jsonl", "heldout.jsonl", "pairs.jsonl", "heldout_pairs.jsonl"


class Source(IntEnum):
    """The source of the right answer of a training row, in ascending order of trust.

    Of several rows with the same prompt, the one with the highest source is kept in the data set.
    """

    TEACHER = 1
    """The teacher path answered a prompt that was sent to it for training; the validators accepted the answer."""
    ACCEPTED = 2
    """The teacher path gave the answer to a caller; the validators accepted it, and nobody rated it."""
    RATED = 3
    """A caller rated the answer high."""
    EXAMPLE = 4
    """The row is one of the task's examples in the configuration."""
    EXPERT = 5
    """Feedback stated the right answer."""
    RETRIEVAL_CORRECTED = 6
    """Feedback stated the right answer to a request that a path with retrieval had answered."""


@dataclass(frozen=True, slots=True)
class Row:
    """A training row: a prompt with its right answer, and the source of the answer."""

    messages: tuple[tuple[str, str], ...]
    """The role and content of each message; the last message is the user's."""
    answer: str
    source: Source
    decision: str = ""
    """The id of the request in the request log from which the row was made; empty if it was made from something
    else.
    """
    tenant: str = ""
    """The tenant whose request `decision` names; empty if there is none."""

    @property
    def key(self) -> str:
        """Returns a text that identifies the prompt: equal for prompts that differ only in case and whitespace."""
        return prompt_key(self.messages)

    def as_json(self) -> dict[str, Any]:
        """Returns the row as a JSON object in the format of `pointsman train`."""
        if len(self.messages) == 1:
            return {"text": self.messages[0][1], "output": self.answer}
        return {"messages": [*_as_messages(self.messages), {"role": "assistant", "content": self.answer}]}


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A training row with the right answer to a prompt, and a wrong answer to the same prompt, which training
    rejects.
    """

    right: Row
    wrong: str

    def as_json(self) -> dict[str, Any]:
        answers = {"chosen": self.right.answer, "rejected": self.wrong}
        if len(self.right.messages) == 1:
            return {"prompt": self.right.messages[0][1], **answers}
        return {"messages": _as_messages(self.right.messages), **answers}


def prompt_key(messages: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{role}: {normalized_text(content)}" for role, content in messages)


def group_of(key: str) -> str:
    """Returns the group of a prompt: the prompt key `key` with each number in it replaced by 0.

    Prompts of one group, which differ only in numbers, are either all held out for evaluation or all used for training.
    """
    return _DIGITS.sub("0", key)


def canonical(answer: str) -> str:
    """Returns an answer in a form in which equal answers are equal texts.

    JSON objects and arrays get a uniform format; any other answer only loses the whitespace at its ends.
    """
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return answer.strip()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else answer.strip()


def text_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...] | None:
    """Converts messages to pairs of role and content; returns None if the trainer cannot use them.

    The trainer needs messages that have only text (no tool calls, no images) and are not empty. A system message must
    be the first one, and the last one must be the user's.
    """
    read = tuple((message.get("role"), message.get("content")) for message in messages)
    plain_texts = all(role in _ROLES and isinstance(content, str) and content.strip() for role, content in read)
    text_only = all(set(message) <= {"role", "content"} for message in messages)
    system_first = all(role != "system" for role, _ in read[1:])
    if not (plain_texts and text_only and system_first and read and read[-1][0] == "user"):
        return None
    return tuple((str(role), str(content)) for role, content in read)


def _as_messages(messages: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


@dataclass(frozen=True, slots=True)
class DataSet:
    """The rows and preference pairs of a data set, sorted by prompt key, so that equal rows make byte-identical
    files.
    """

    train: tuple[Row, ...]
    heldout: tuple[Row, ...]
    pairs: tuple[PreferencePair, ...]
    heldout_pairs: tuple[PreferencePair, ...]
    dropped: Mapping[str, int]
    """The number of rows that were left out of the data set, by the reason."""


def split(
    rows: Iterable[Row], pairs: Iterable[PreferencePair], evaluation_keys: Set[str], heldout_fraction: float
) -> DataSet:
    """Splits rows and pairs into training data and held-out data, by a hash of the prompt.

    Because of the hash, a prompt stays on the same side in each later version of the data set. `heldout_fraction` is
    the held-out share, 0 to 1. Of several rows with the same prompt, the one with the highest source is kept; if
    several have it, the last one.

    `evaluation_keys` are the keys of prompts that decide whether the adapter is promoted. Rows with these prompts, also
    with other numbers in them, are left out, since the adapter must not be trained on them.
    """
    dropped: Counter[str] = Counter()
    evaluation_groups = {group_of(key) for key in evaluation_keys}
    chosen: dict[str, Row] = {}
    for row in rows:
        if group_of(row.key) in evaluation_groups:
            dropped["held out by the configuration"] += 1
        elif row.key not in chosen:
            chosen[row.key] = row
        else:
            before = chosen[row.key]
            dropped["duplicate" if before.answer == row.answer else "replaced by a better source"] += 1
            # Of two rows with the same source the later one is kept: rows come oldest first.
            chosen[row.key] = max(row, before, key=lambda one: one.source)
    heldout = {key for key in chosen if _hash_to_unit_interval(group_of(key)) < heldout_fraction}
    ordered = [chosen[key] for key in sorted(chosen)]
    distinct_pairs = _distinct(pairs, chosen)
    return DataSet(
        train=tuple(row for row in ordered if row.key not in heldout),
        heldout=tuple(row for row in ordered if row.key in heldout),
        pairs=tuple(pair for pair in distinct_pairs if pair.right.key not in heldout),
        heldout_pairs=tuple(pair for pair in distinct_pairs if pair.right.key in heldout),
        dropped=dict(sorted(dropped.items())),
    )


def _distinct(pairs: Iterable[PreferencePair], chosen: Mapping[str, Row]) -> Sequence[PreferencePair]:
    """Returns each pair once, with the right answer that `chosen` has for its prompt.

    A pair whose wrong answer is this right answer is left out.
    """
    found = {}
    for pair in pairs:
        right = chosen.get(pair.right.key)
        if right is not None and pair.wrong != right.answer:
            found[right.key, pair.wrong] = PreferencePair(right, pair.wrong)
    return [found[key] for key in sorted(found)]


def _hash_to_unit_interval(group: str) -> float:
    """Maps a group of prompts to a number from 0 to 1 by its text only, so that the group stays on its side of a
    split.
    """
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest()) / 2**64


@dataclass(frozen=True, slots=True)
class Origin:
    """The facts in the manifest of a data set about its origin: configuration, consents, left-out rows, collections."""

    task: str
    configuration: str
    """The digest of the configuration."""
    consent: Mapping[str, Any]
    dropped: Mapping[str, int]
    """The number of rows that were left out of the data set, by the reason."""
    withdrawn: int
    collections: Sequence[str]
    """The names of the collections that the teacher path searches."""


@dataclass(frozen=True, slots=True)
class WrittenDataSet:
    """A data set that was written to disk: its folder, its manifest, and whether the folder is new."""

    folder: Path
    manifest: Mapping[str, Any]
    """The content of the data set's file manifest.json."""
    is_new: bool
    """Whether the folder was written now; False if a folder with the same content existed."""


def write(data: DataSet, origin: Origin, root: Path) -> WrittenDataSet:
    """Writes a data set to the folder `root`/TASK/HASH, and its HASH to the file `root`/TASK/latest.

    HASH is a digest of the content; an existing folder with this name is left unchanged. Raises OSError if a file
    cannot be written.
    """
    files: Mapping[str, Sequence[Row | PreferencePair]] = {
        TRAIN: data.train,
        HELDOUT: data.heldout,
        PAIRS: data.pairs,
        HELDOUT_PAIRS: data.heldout_pairs,
    }
    texts = {name: _lines(rows) for name, rows in files.items()}
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    name = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:NAME_DIGITS]
    versions = root / origin.task
    parent = _latest(versions)
    folder = versions / name
    if (folder / MANIFEST).is_file():
        _set_latest(versions, name)
        return WrittenDataSet(folder, json.loads((folder / MANIFEST).read_text("utf-8")), False)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(text, "utf-8")
    manifest = _manifest(data, origin, name, parent, digests)
    # Last, so that a folder with a manifest is complete.
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    _set_latest(versions, name)
    return WrittenDataSet(folder, manifest, True)


def _manifest(data: DataSet, origin: Origin, name: str, parent: str, digests: Mapping[str, str]) -> dict[str, Any]:
    rows = {"train": data.train, "heldout": data.heldout}
    pairs = {"pairs": data.pairs, "heldout_pairs": data.heldout_pairs}
    return {
        "v": VERSION,
        "task": origin.task,
        "name": name,
        "parent": parent,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "configuration": origin.configuration,
        "counts": {side: len(some) for side, some in {**rows, **pairs}.items()},
        "sources": {side: _sources(some) for side, some in rows.items()},
        "tenants": dict(sorted(Counter(row.tenant for row in (*data.train, *data.heldout) if row.decision).items())),
        "consent": dict(origin.consent),
        "withdrawn": origin.withdrawn,
        "dropped": dict(origin.dropped),
        "collections": list(origin.collections),
        "digests": dict(digests),
        "decisions": {side: [row.decision for row in some] for side, some in rows.items()}
        | {side: [pair.right.decision for pair in some] for side, some in pairs.items()},
    }


def _sources(rows: Sequence[Row]) -> dict[str, int]:
    counts = Counter(row.source for row in rows)
    return {source.name.lower(): counts[source] for source in sorted(counts, reverse=True)}


def _lines(rows: Sequence[Row | PreferencePair]) -> str:
    return "".join(json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in rows)


def _latest(versions: Path) -> str:
    try:
        return (versions / LATEST).read_text("utf-8").strip()
    except FileNotFoundError:
        return ""


def _set_latest(versions: Path, name: str) -> None:
    """Replaces the content of the file `latest`, which names the newest folder of a data set, atomically."""
    temporary = versions / f".{LATEST}"
    temporary.write_text(name + "\n", "utf-8")
    temporary.replace(versions / LATEST)
