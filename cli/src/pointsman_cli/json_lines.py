"""Files of JSON lines or of a text a line, read as others wrote them and as a kill left them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pointsman_cli.errors import Misused


def text_of(file: Path) -> str:
    """UTF-8, with a byte-order mark or without. Raises Misused."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise Misused(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Misused(f"{file} is not UTF-8: {error}") from error


def numbered(text: str) -> Iterator[tuple[int, str]]:
    r"""The lines that are not blank. Only \n ends one: U+2028 and its like may stand as they are in JSON's texts."""
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def parsed(line: str) -> Any:
    """Raises ValueError, which goes on a sentence that begins with the line's place."""
    try:
        found = json.loads(line)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no letter; write the character itself") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    return found


def whole_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Of a file that is to be appended to, numbered: what a kill left of the last one is cut off. Raises Misused."""
    try:
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(file, whole)
    except OSError as error:
        raise Misused(f"cannot go on with {file}: {error.strerror or error}") from error
    return numbered(text_of(file))
