"""The sandboxed subprocess that reads HTML and PDF files: `python -m pointsman_retriever.loaders.worker`.

Requests come on stdin: a line of JSON {"media_type", "bytes", "max_bytes"}, then that many bytes of content. Each is
answered on stdout: the answer's size in eight bytes, big-endian, then JSON in UTF-8, either {"title", "text"} or
{"unreadable": reason}, of at most `max_bytes`.
"""

import json
import resource
import sys
from io import BytesIO
from typing import BinaryIO

from bs4 import BeautifulSoup
from markdownify import MarkdownConverter
from pypdf import PasswordType, PdfReader
from pypdf.errors import PyPdfError

from pointsman_retriever.loaders.formats import LoadedText, UnreadableFile, replace_surrogates

MAX_MEMORY_BYTES = 2 * 1024**3
MAX_PAGES = 5_000

_REMOVED_ELEMENTS = ("script", "style", "noscript", "template", "svg", "nav", "footer", "form", "iframe", "button")


def read_html(content: bytes) -> LoadedText:
    """Converts to Markdown, which keeps headings, lists, tables and code; drops scripts, navigation and images.

    Uses the encoding that the page declares, or guesses it. Raises UnreadableFile.
    """
    try:
        page = BeautifulSoup(content, "html.parser")
        title = page.title.get_text(" ", strip=True) if page.title else ""
        for element in page([*_REMOVED_ELEMENTS, "head"]):
            element.decompose()
        converter = MarkdownConverter(heading_style="ATX", bullets="-", strip=["a", "img"], escape_misc=False)
        return LoadedText(title, converter.convert_soup(page).strip())
    except RecursionError as error:
        raise UnreadableFile("is nested too deeply") from error


def read_pdf(content: bytes) -> LoadedText:
    """Extracts the text of all pages. Raises UnreadableFile, also for a scan, which has no text."""
    try:
        reader = PdfReader(BytesIO(content))
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise UnreadableFile("is encrypted")
        if len(reader.pages) > MAX_PAGES:
            raise UnreadableFile(f"has {len(reader.pages):,} pages; the maximum is {MAX_PAGES:,}")
        title = reader.metadata.title if reader.metadata else None
        text = "\n\n".join(page.extract_text().strip() for page in reader.pages).strip()
    except (PyPdfError, RecursionError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UnreadableFile(f"is not a readable PDF: {type(error).__name__}: {error}") from error
    if not text:
        raise UnreadableFile("has no text; a scan has to go through character recognition first")
    return LoadedText(title or "", text.replace("\0", ""))


READERS = {"text/html": read_html, "application/xhtml+xml": read_html, "application/pdf": read_pdf}


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers until `requests` ends."""
    while line := requests.readline():
        header = json.loads(line)
        answer = _answer(header["media_type"], requests.read(header["bytes"]), header["max_bytes"])
        answers.write(len(answer).to_bytes(8, "big") + answer)
        answers.flush()


def _answer(media_type: str, content: bytes, max_bytes: int) -> bytes:
    try:
        loaded = READERS[media_type](content)
        answer = _encode(title=loaded.title, text=loaded.text)
    except UnreadableFile as error:
        return _encode(unreadable=str(error))
    except MemoryError:
        return _encode(unreadable=f"needs more than {MAX_MEMORY_BYTES // 2**20:,} MiB to be read")
    if len(answer) > max_bytes:
        return _encode(unreadable=f"has more than {max_bytes:,} bytes of text")
    return answer


def _encode(**answer: str) -> bytes:
    # The text of a file may contain lone surrogates.
    return json.dumps({key: replace_surrogates(text) for key, text in answer.items()}, ensure_ascii=False).encode()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    serve(sys.stdin.buffer, sys.stdout.buffer)
