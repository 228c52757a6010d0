"""Reads files that others have made, in a process of its own: `python -m pointsman_retriever.loaders.worker`.

Takes lines of JSON {"media_type", "bytes", "most"}, each followed by that many bytes, and answers each with JSON in
UTF-8, {"title", "text"} or {"unreadable"}, of at most so many bytes; their number comes before it, in eight bytes.
"""

import json
import resource
import sys
from typing import BinaryIO

from pointsman_retriever.loaders.html import read_html
from pointsman_retriever.loaders.pdf import read_pdf
from pointsman_retriever.loaders.text import replace_surrogates
from pointsman_retriever.loaders.unreadable import UnreadableFile

MAX_MEMORY_BYTES = 2 * 1024**3

READERS = {"text/html": read_html, "application/xhtml+xml": read_html, "application/pdf": read_pdf}


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Until `requests` end."""
    while line := requests.readline():
        asked = json.loads(line)
        answer = _answer(asked["media_type"], requests.read(asked["bytes"]), asked["most"])
        answers.write(len(answer).to_bytes(8, "big") + answer)
        answers.flush()


def _answer(media_type: str, content: bytes, most: int) -> bytes:
    try:
        read = READERS[media_type](content)
        answer = _encode(title=read.title, text=read.text)
    except UnreadableFile as error:
        return _encode(unreadable=str(error))  # it may quote the file
    except MemoryError:
        return _encode(unreadable=f"takes more than {MAX_MEMORY_BYTES // 2**20:,} MiB to read")
    if len(answer) > most:
        return _encode(unreadable=f"has more than {most:,} bytes of text")
    return answer


def _encode(**answer: str) -> bytes:
    return json.dumps({key: replace_surrogates(text) for key, text in answer.items()}, ensure_ascii=False).encode()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    serve(sys.stdin.buffer, sys.stdout.buffer)
