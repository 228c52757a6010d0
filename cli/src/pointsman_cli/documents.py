"""Text files as documents of a collection."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_cli.errors import Misused
from pointsman_cli.folders import look_into

SUFFIXES = (".md", ".txt")
MAX_BYTES = 4 * 1024 * 1024  # of one document; the retriever's limit
MAX_ID_BYTES = 256  # the retriever's limit
_LINE_END = re.compile(r"\r\n?|\n")  # Markdown's; U+2028 and its like stand inside of a line


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    title: str
    text: str
    file: str

    @property
    def size(self) -> int:
        """Bytes of its text."""
        return len(self.text.encode())


def read_documents(sources: Sequence[Path]) -> list[Document]:
    """The .md and .txt files that `sources` are or hold, at any depth; hidden files and folders are left out.

    All or nothing: raises `Misused` that names each folder that cannot be read, and each file that cannot be, is empty,
    binary, too large or has the id of another.
    """
    problems: list[str] = []
    found = [entry for source in sources for entry in _find(source, problems)]
    if not found and not problems:
        raise Misused(f"there are no {' or '.join(SUFFIXES)} files in {', '.join(str(source) for source in sources)}")
    documents: dict[str, Document] = {}
    for file, relative in found:
        try:
            document = _read(file, relative)
        except ValueError as error:
            problems.append(f"{file} {error}")
            continue
        if document.id in documents:
            problems.append(f"{file} has the same id '{document.id}' as {documents[document.id].file}")
            continue
        documents[document.id] = document
    if problems:
        raise Misused("nothing was ingested: " + "; ".join(problems))
    return list(documents.values())


def _find(source: Path, problems: list[str]) -> list[tuple[Path, Path]]:
    """Files, each with its path inside `source`; adds what cannot be read to `problems`."""
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise Misused(f"{source} is no {' or '.join(SUFFIXES)} file")
        return [(source, Path(source.name))]
    if not source.is_dir():
        raise Misused(f"{source} is not there")
    inside = look_into(source)
    problems += inside.problems
    return [(file, file.relative_to(source)) for file in inside.files if file.suffix.lower() in SUFFIXES]


def _read(file: Path, relative: Path) -> Document:
    """Raises ValueError with what is wrong with it."""
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"is too large ({size / 2**20:.1f} MiB; at most {MAX_BYTES // 2**20} MiB)")
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError("is binary, or not in UTF-8") from error
    if "\0" in text:
        raise ValueError("is binary")
    if not text.strip():
        raise ValueError("is empty")
    document_id = relative.with_suffix("").as_posix()
    if len(document_id.encode()) > MAX_ID_BYTES:
        raise ValueError(f"has a path of more than {MAX_ID_BYTES} bytes")
    return Document(document_id, title_of(text) or relative.stem, text, relative.as_posix())


def title_of(text: str) -> str:
    """The first `# heading`, outside fenced code."""
    fenced = False
    for line in _LINE_END.split(text):
        if line.startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and line.startswith("# "):
            return line[2:].strip().rstrip("#").strip()
    return ""
