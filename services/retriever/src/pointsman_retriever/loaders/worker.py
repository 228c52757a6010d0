"""Reads files that others have made, in a process of its own: `python -m pointsman_retriever.loaders.worker`.

Takes lines of JSON {"media_type", "bytes"}, each followed by that many bytes, and answers each with a line of JSON:
{"title", "text"} or {"unreadable"}.
"""

import json
import resource
import sys
from typing import BinaryIO

from pointsman_retriever.loaders.html import read_html
from pointsman_retriever.loaders.pdf import read_pdf
from pointsman_retriever.loaders.text import whole
from pointsman_retriever.loaders.unreadable import Unreadable

MAX_MEMORY = 2 * 1024**3

READERS = {"text/html": read_html, "application/xhtml+xml": read_html, "application/pdf": read_pdf}


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Until `requests` end."""
    while line := requests.readline():
        asked = json.loads(line)
        answer = _answer(asked["media_type"], requests.read(asked["bytes"]))
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _answer(media_type: str, content: bytes) -> dict[str, str]:
    try:
        read = READERS[media_type](content)
    except Unreadable as error:
        return {"unreadable": whole(str(error))}  # it may quote the file
    except MemoryError:
        return {"unreadable": f"takes more than {MAX_MEMORY // 2**20:,} MiB to read"}
    return {"title": whole(read.title), "text": whole(read.text)}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    serve(sys.stdin.buffer, sys.stdout.buffer)
