"""Reads the example requests of tasks, and checks that each task has enough and that no two tasks share one."""

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path as FilePath
from typing import Any

from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.paths_file import PathsFile
from pointsman_gateway.extensions import Example


def read_text(file: FilePath) -> str:
    """Returns the text of a UTF-8 file, with or without a byte order mark.

    Raises ConfigError if it is not UTF-8, OSError if it cannot be read.
    """
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ConfigError(f"{file} is not UTF-8 (line {line}: byte 0x{byte:02x}); save it as UTF-8") from error


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields (number, line) for each line that is not blank; numbers count all lines, from 1.

    Only a line feed ends a line, because JSON strings may contain other line separators, such as U+2028.
    """
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def read_examples(file: FilePath) -> tuple[Example, ...]:
    """Reads the example requests of a task from a JSONL file, each line an object for `to_example`; skips blank lines.

    Raises ConfigError if the file is missing or not UTF-8, or a line is invalid, OSError if it cannot be read.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is missing (a task's examples)")
    rows = []
    for number, line in numbered_lines(read_text(file)):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{file}:{number} is not JSON: {error}") from error
        rows.append(to_example(row, f"{file}:{number}"))
    return tuple(rows)


def to_example(row: Any, where: str) -> Example:
    """Converts a JSON object with "text", and perhaps "output" and "intent", to an example.

    An output that is not a string becomes JSON text; null is no output. Raises ConfigError if the object is invalid;
    the message begins with `where`, such as the file's name and the line's number.
    """
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise ConfigError(f'{where} must be an object with a non-empty "text"')
    intent = row.get("intent", "")
    if not isinstance(intent, str) or ("intent" in row and not intent.strip()):
        raise ConfigError(f'{where}: "intent" must be a non-empty string; leave it out if there is none')
    output = row.get("output")
    if not (output is None or isinstance(output, str)):
        output = json.dumps(output, ensure_ascii=False)
    try:
        f"{row['text']}{output}{intent}".encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where} holds half of a surrogate pair, which is no character") from error
    return Example(row["text"], output, intent.strip())


def check_examples(examples: Mapping[str, tuple[Example, ...]], paths: PathsFile) -> None:
    """Raises ConfigError if the example requests (`examples`, by task) cannot be used, in any of these cases:
    * a task has fewer than two different examples (texts are compared by `normalized_text`);
    * two tasks have the same example;
    * a strategy of a path shows more examples with an output than the task has.
    """
    texts = {task: {normalized_text(row.text): row.text for row in rows} for task, rows in examples.items()}
    for task, different in texts.items():
        if len(different) < 2:
            raise ConfigError(f"task '{task}' has {len(different)} example(s), repetitions aside; write two or more")
    for one, other in combinations(texts, 2):
        shared = [text for normalized, text in texts[one].items() if normalized in texts[other]]
        if shared:
            raise ConfigError(
                f"tasks '{one}' and '{other}' share {len(shared)} example(s), case and spaces aside: "
                f"{shared[0][:80]!r}; an example belongs to one task"
            )
    for name, path in paths.paths.items():
        for strategy in path.strategies:
            for task, count in strategy.resources.examples:
                usable = sum(row.output is not None for row in examples[task])
                if usable < count:
                    raise ConfigError(
                        f"paths.yaml: path '{name}' wants {count} examples of task '{task}' that have an output; "
                        f"it has {usable}"
                    )


def check_out_of_scope(out_of_scope: Iterable[str], examples: Mapping[str, tuple[Example, ...]]) -> None:
    """Raises ConfigError if an example of what belongs to no task (`out_of_scope`) is also an example of a task.

    Texts are compared by `normalized_text`.
    """
    owner = {normalized_text(row.text): task for task, rows in examples.items() for row in rows}
    for text in out_of_scope:
        if normalized_text(text) in owner:
            raise ConfigError(
                f"the out-of-scope text {text[:80]!r} is an example of task '{owner[normalized_text(text)]}' too"
            )


def normalized_text(text: str) -> str:
    """Returns a form of the text in which to compare it: without differences in case, white space or Unicode variants
    (NFKC).
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def read_out_of_scope(folder: FilePath, name: str) -> tuple[str, ...]:
    return tuple(example.text for example in read_examples(folder / name)) if name else ()
