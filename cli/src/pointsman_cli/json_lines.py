"""Reads JSON Lines files written by others, and files that a killed process may have left incomplete."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pointsman_cli.errors import UsageError


def text_of(file: Path) -> str:
    """Reads a UTF-8 file with or without a byte-order mark; raises UsageError if it cannot be read."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8: {error}") from error


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """Yields the number and text of each non-blank line. Only
    ends a line: JSON strings may contain U+2028 and the like.
    """
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def parsed(line: str) -> Any:
    """Parses a line of JSON; raises ValueError with a message that continues a sentence, such as "is not JSON: ..."."""
    try:
        found = json.loads(line)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no letter; write the character itself") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    return found


def whole_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the numbered lines of a file that will be appended to, after truncating an incomplete last line.

    Raises UsageError if the file cannot be read or truncated.
    """
    try:
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(file, whole)
    except OSError as error:
        raise UsageError(f"cannot go on with {file}: {error.strerror or error}") from error
    return numbered(text_of(file))
