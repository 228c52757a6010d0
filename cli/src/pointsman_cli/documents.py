"""Reads an example's text files as documents and writes them to a collection of the retriever (for `pointsman up`)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman.v1 import retriever_pb2

from pointsman_cli.errors import UsageError
from pointsman_cli.grpc_clients import open_channel, retriever_stub, service_errors
from pointsman_cli.sources import list_files, title_of

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
        """Bytes of the text."""
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
    """Raises ValueError with the reason if the file cannot be a document."""
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
