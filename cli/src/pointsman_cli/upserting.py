"""Documents into a collection of the retriever."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman.v1 import retriever_pb2

from pointsman_cli import stubs
from pointsman_cli.channels import open_channel
from pointsman_cli.documents import Document

BATCH_DOCUMENTS = 16  # small, so that progress shows; the retriever takes 1,000
BATCH_BYTES = 16 * 1024 * 1024  # the retriever takes 32 MiB
_CREATE_SECONDS = 30.0
_BATCH_SECONDS = 600.0  # embedding on a slow machine


class Progress(Protocol):
    def __call__(self, documents: int) -> None:
        """`documents` are written so far."""


@dataclass(frozen=True, slots=True)
class Written:
    documents: int
    chunks: int


async def upsert(address: str, collection: str, documents: Sequence[Document], progress: Progress) -> Written:
    """Creates the collection at the retriever's `address` where it is missing, and adds or replaces the documents."""
    written = chunks = 0
    async with open_channel(address) as channel:
        retriever = stubs.retriever(channel)
        with stubs.speaking_to("retriever"):
            await retriever.CreateCollection(
                retriever_pb2.CreateCollectionRequest(name=collection, if_missing=True), timeout=_CREATE_SECONDS
            )
            for batch in _batches(documents):
                request = retriever_pb2.UpsertRequest(collection=collection, documents=map(_to_pb, batch))
                answer = await retriever.Upsert(request, timeout=_BATCH_SECONDS)
                written, chunks = written + answer.documents, chunks + answer.chunks
                progress(written)
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
