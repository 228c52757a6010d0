"""Text files as documents of a collection."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_cli.errors import Misused

SUFFIXES = (".md", ".txt")
MAX_BYTES = 4 * 1024 * 1024  # of one document; the retriever's limit
MAX_ID_BYTES = 256  # the retriever's limit


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

    All or nothing: raises `Misused` that names each file that is empty, binary, too large or has the id of another.
    """
    found = [entry for source in sources for entry in _find(source)]
    if not found:
        raise Misused(f"there are no {' or '.join(SUFFIXES)} files in {', '.join(str(source) for source in sources)}")
    documents: dict[str, Document] = {}
    problems = []
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


def _find(source: Path) -> list[tuple[Path, Path]]:
    """Files, each with its path inside `source`."""
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise Misused(f"{source} is no {' or '.join(SUFFIXES)} file")
        return [(source, Path(source.name))]
    if not source.is_dir():
        raise Misused(f"{source} is not there")
    inside = [(file, file.relative_to(source)) for file in sorted(source.rglob("*")) if file.is_file()]
    return [
        (file, relative)
        for file, relative in inside
        if file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in relative.parts)
    ]


def _read(file: Path, relative: Path) -> Document:
    """Raises ValueError with what is wrong with it."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"is too large ({size / 2**20:.1f} MiB; at most {MAX_BYTES // 2**20} MiB)")
    try:
        text = file.read_bytes().decode("utf-8-sig")
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
    for line in text.splitlines():
        if line.startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and line.startswith("# "):
            return line[2:].strip().rstrip("#").strip()
    return ""
