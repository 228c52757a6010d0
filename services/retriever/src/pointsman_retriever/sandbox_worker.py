"""The sandboxed subprocess: `python -m pointsman_retriever.sandbox_worker`.

Requests come on stdin: a line of JSON {"operation", "bytes", "max_bytes", ...}, then `bytes` bytes of content. Answers
are written to stdout: the answer's size in eight bytes, big-endian, then a JSON object in UTF-8 of at most `max_bytes`.
If a file cannot be read, or a limit of memory or of `max_bytes` is exceeded, the object has the key "error", with the
reason. Any other error ends the process. The operations are:

* "read", with "media_type": reads an HTML or PDF file; answers {"title", "text"}.
* "setup": the content is the settings for "chunk", from `chunking_setup`. It has no answer.
* "chunk", with "kind" ("markdown", "plain" or "code"): the content is a list of parts of documents in JSON; answers
  {"parts": [...]}, the chunks of each part in the same order. chunking/sandboxed.py encodes and decodes both.
"""

import json
import resource
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

from pointsman_retriever.loaders.formats import UnreadableFile, replace_surrogates

MAX_MEMORY_BYTES = 2 * 1024**3


class Worker:
    def __init__(self) -> None:
        self._chunkers: Mapping[str, Any] = {}

    def serve(self, requests: BinaryIO, answers: BinaryIO) -> None:
        """Reads requests from a binary stream and writes the answers to another one, in turn, until the requests end.

        A request is a line of JSON and then its content; an answer is its size in eight bytes and then JSON.
        """
        while line := requests.readline():
            header = json.loads(line)
            content = requests.read(header["bytes"])
            if header["operation"] == "setup":
                self._set_up(content)
                continue
            answer = self._answer(header, content)
            answers.write(len(answer).to_bytes(8, "big") + answer)
            answers.flush()

    def _answer(self, header: Mapping[str, Any], content: bytes) -> bytes:
        try:
            answer = self._read(header, content) if header["operation"] == "read" else self._chunk(header, content)
        except UnreadableFile as error:
            return _encode({"error": replace_surrogates(str(error))})
        except MemoryError:
            return _encode({"error": f"needs more than {MAX_MEMORY_BYTES // 2**20:,} MiB of memory"})
        encoded = _encode(answer)
        if len(encoded) > header["max_bytes"]:
            return _encode({"error": f"has more than {header['max_bytes']:,} bytes of text"})
        return encoded

    def _read(self, header: Mapping[str, Any], content: bytes) -> dict[str, Any]:
        from pointsman_retriever.loaders.html_pdf import READERS  # large imports, which chunking does not need

        loaded = READERS[header["media_type"]](content)
        return {"title": replace_surrogates(loaded.title), "text": replace_surrogates(loaded.text)}

    def _set_up(self, content: bytes) -> None:
        from pointsman_retriever.chunking.sandboxed import set_up_chunkers

        self._chunkers = set_up_chunkers(content)

    def _chunk(self, header: Mapping[str, Any], content: bytes) -> dict[str, Any]:
        from pointsman_retriever.chunking.blocks import chunk_part
        from pointsman_retriever.chunking.sandboxed import decode_part, encode_chunked

        chunker, parts = self._chunkers[header["kind"]], json.loads(content)
        return {"parts": [encode_chunked(chunk_part(chunker, decode_part(part))) for part in parts]}


def _encode(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer, ensure_ascii=False).encode()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    Worker().serve(sys.stdin.buffer, sys.stdout.buffer)
