"""Finds the files that `pointsman ingest` and `up` send to the retriever, with their ids, titles and media types.

For `up`, text files are read here as documents and written to a collection of the retriever.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman.v1 import retriever_pb2

from pointsman_cli.errors import UsageError
from pointsman_cli.grpc_clients import open_channel, retriever_stub, service_errors

MAX_FILE_BYTES = 32 * 1024 * 1024  # the retriever's limit

TEXT_TYPES = {".md": "text/markdown", ".markdown": "text/markdown", ".txt": "text/plain"}
FORMATTED_TYPES = {
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
}
CODE_TYPES = {
    ".py": "text/x-python",
    ".js": "text/javascript",
    ".ts": "text/x-typescript",
    ".tsx": "text/x-typescript",
    ".java": "text/x-java",
    ".kt": "text/x-kotlin",
    ".go": "text/x-go",
    ".rs": "text/x-rust",
    ".c": "text/x-c",
    ".h": "text/x-c",
    ".cc": "text/x-c++",
    ".cpp": "text/x-c++",
    ".hpp": "text/x-c++",
    ".cs": "text/x-csharp",
    ".rb": "text/x-ruby",
    ".php": "text/x-php",
    ".swift": "text/x-swift",
    ".scala": "text/x-scala",
    ".sh": "text/x-shellscript",
    ".sql": "text/x-sql",
    ".proto": "text/x-protobuf",
}
MEDIA_TYPES = {**TEXT_TYPES, **FORMATTED_TYPES, **CODE_TYPES}

_LINE_END = re.compile(r"\r\n?|\n")  # Markdown's line ends; U+2028 and similar characters belong to a line


@dataclass(frozen=True, slots=True)
class SourceFile:
    id: str
    path: Path
    relative: str
    media_type: str

    def read(self) -> bytes:
        """Returns the file's bytes; raises UsageError with its name if it is too large or cannot be read."""
        try:
            size = self.path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise UsageError(f"{self.path} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are taken")
            return self.path.read_bytes()
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}") from error

    def title(self, content: bytes) -> str:
        """Returns the first heading of a Markdown or text file, else the file's name.

        The title is empty for PDF, HTML and JSON Lines: the retriever reads it from the document itself.
        """
        if self.media_type in FORMATTED_TYPES.values():
            return ""
        suffix = self.path.suffix.lower()
        heading = title_of(content.decode(errors="replace")) if suffix in TEXT_TYPES else ""
        return heading or (self.relative if suffix in CODE_TYPES else self.path.stem)


@dataclass(frozen=True, slots=True)
class Source:
    """A folder to synchronize a collection with, or a single file, whose `name` is empty."""

    name: str
    files: tuple[SourceFile, ...]
    problems: tuple[str, ...] = ()
    """One message for each folder inside that cannot be read."""


@dataclass(frozen=True, slots=True)
class FolderContent:
    files: tuple[Path, ...]
    problems: tuple[str, ...]
    """One message for each folder that cannot be read; its files must not be taken for deleted."""


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """Lists the files to ingest; raises UsageError if there are none, or if two files have the same document id."""
    sources = [_source(path) for path in paths]
    seen: dict[str, Path] = {}
    for file in (file for source in sources for file in source.files):
        if file.id in seen:
            raise UsageError(f"nothing was ingested: {file.path} has the same id {file.id!r} as {seen[file.id]}")
        seen[file.id] = file.path
    if not seen:
        if problems := [problem for source in sources for problem in source.problems]:
            raise UsageError(f"there is nothing to ingest: {'; '.join(problems)}")
        known = ", ".join(MEDIA_TYPES)
        raise UsageError(f"there is nothing to ingest in {', '.join(map(str, paths))}; known endings: {known}")
    return sources


def _source(path: Path) -> Source:
    if path.is_file():
        if path.suffix.lower() not in MEDIA_TYPES:
            raise UsageError(f"{path} has an unknown ending; known: {', '.join(MEDIA_TYPES)}")
        return Source("", (_source_file(path, Path(path.name)),))
    if not path.is_dir():
        raise UsageError(f"{path} does not exist")
    content = list_files(path)
    files = [_source_file(file, file.relative_to(path)) for file in content.files if file.suffix.lower() in MEDIA_TYPES]
    return Source(str(path.resolve()), tuple(files), content.problems)


def _source_file(path: Path, relative: Path) -> SourceFile:
    """Describes one file to ingest. The id of a text file is its path without the ending, else the whole path."""
    named = relative.with_suffix("") if path.suffix.lower() in TEXT_TYPES else relative
    return SourceFile(named.as_posix(), path, relative.as_posix(), MEDIA_TYPES[path.suffix.lower()])


def list_files(folder: Path) -> FolderContent:
    """Lists the files below a folder, without hidden files and folders and without following links to folders."""
    files: list[Path] = []
    problems: list[str] = []

    def on_error(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be read: {error.strerror}")

    for where, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(where, name) for name in names if not name.startswith(".")]
    return FolderContent(tuple(sorted(filter(_may_be_readable, files))), tuple(problems))


def _may_be_readable(file: Path) -> bool:
    """Returns whether the file is regular. True also if that is unknown: reading the file then reports the error."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:  # a broken link
        return False
    except OSError:
        return True


def title_of(text: str) -> str:
    """Returns the first `# heading` outside fenced code; empty if there is none."""
    fenced = False
    for line in _LINE_END.split(text):
        if line.startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and line.startswith("# "):
            return line[2:].strip().rstrip("#").strip()
    return ""


SUFFIXES = (".md", ".txt")
MAX_BYTES = 4 * 1024 * 1024  # the retriever's limit for one document
MAX_ID_BYTES = 256  # the retriever's limit
BATCH_DOCUMENTS = 16  # small batches make progress visible; the retriever takes up to 1,000 documents
BATCH_BYTES = 16 * 1024 * 1024  # the retriever takes up to 32 MiB
_CREATE_SECONDS = 30.0
_BATCH_SECONDS = 600.0  # embedding may be slow


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    title: str
    text: str
    file: str

    @property
    def size(self) -> int:
        """Returns the length of the document's text in bytes."""
        return len(self.text.encode())


@dataclass(frozen=True, slots=True)
class Written:
    """How many documents and chunks were written."""

    documents: int
    chunks: int


def read_documents(sources: Sequence[Path]) -> list[Document]:
    """Reads the .md and .txt files of files and folders, recursively, without hidden ones.

    Returns all documents or none: raises UsageError with every folder that cannot be read and every file that cannot be
    read, is empty, binary, too large or has the id of another file.
    """
    problems: list[str] = []
    found = [entry for source in sources for entry in _find_files(source, problems)]
    if not found and not problems:
        raise UsageError(
            f"there are no {' or '.join(SUFFIXES)} files in {', '.join(str(source) for source in sources)}"
        )
    documents: dict[str, Document] = {}
    for file, relative in found:
        try:
            document = _read_document(file, relative)
        except ValueError as error:
            problems.append(f"{file} {error}")
            continue
        if document.id in documents:
            problems.append(f"{file} has the same id '{document.id}' as {documents[document.id].file}")
            continue
        documents[document.id] = document
    if problems:
        raise UsageError("nothing was ingested: " + "; ".join(problems))
    return list(documents.values())


def _find_files(source: Path, problems: list[str]) -> list[tuple[Path, Path]]:
    """Returns each file with its path inside `source`; appends unreadable folders to `problems`."""
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{source} is not a {' or '.join(SUFFIXES)} file")
        return [(source, Path(source.name))]
    if not source.is_dir():
        raise UsageError(f"{source} does not exist")
    content = list_files(source)
    problems += content.problems
    return [(file, file.relative_to(source)) for file in content.files if file.suffix.lower() in SUFFIXES]


def _read_document(file: Path, relative: Path) -> Document:
    """Reads one text file as a document; raises ValueError with the reason if it cannot be one."""
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


async def upsert(
    address: str, collection: str, documents: Sequence[Document], on_progress: Callable[[int], None]
) -> Written:
    """Creates the collection if it is missing, and adds or replaces the documents.

    `on_progress` gets the number of documents written so far.
    """
    written = chunks = 0
    async with open_channel(address) as channel:
        retriever = retriever_stub(channel)
        with service_errors("retriever"):
            await retriever.CreateCollection(
                retriever_pb2.CreateCollectionRequest(name=collection, if_missing=True), timeout=_CREATE_SECONDS
            )
            for batch in _batches(documents):
                request = retriever_pb2.UpsertRequest(collection=collection, documents=map(_to_pb, batch))
                answer = await retriever.Upsert(request, timeout=_BATCH_SECONDS)
                written, chunks = written + answer.documents, chunks + answer.chunks
                on_progress(written)
    return Written(written, chunks)


def _batches(documents: Sequence[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        if batch and (len(batch) == BATCH_DOCUMENTS or size + document.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += document.size
    if batch:
        yield batch


def _to_pb(document: Document) -> retriever_pb2.Document:
    return retriever_pb2.Document(
        id=document.id, title=document.title, text=document.text, metadata={"file": document.file}
    )
