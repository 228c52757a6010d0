"""A folder down the retriever's ingest stream."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from pointsman.v1 import retriever_pb2 as pb

from pointsman_cli import stubs
from pointsman_cli.channels import open_channel
from pointsman_cli.errors import Misused
from pointsman_cli.sources import File, Source

_CREATE_SECONDS = 30.0


@dataclass
class Tally:
    """What has become of the documents so far."""

    answered: int = 0
    written: int = 0
    unchanged: int = 0
    removed: int = 0
    chunks: int = 0  # new ones
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Target:
    address: str
    tenant: str
    collection: str


async def ingest(
    target: Target, sources: list[Source], remove_missing: bool, progress: Callable[[Tally], None]
) -> Tally:
    """Makes the collection where it is missing. What has been answered for is on the retriever's disk, also when this
    is interrupted; the same again goes on from there."""
    tally = Tally()
    async with open_channel(target.address) as channel:
        retriever = stubs.retriever(channel)
        with stubs.speaking_to("retriever"):
            await retriever.CreateCollection(
                pb.CreateCollectionRequest(name=target.collection, tenant=target.tenant, if_missing=True),
                timeout=_CREATE_SECONDS,
            )
            for source in sources:
                async for event in retriever.Ingest(_steps(target, source, remove_missing, tally)):
                    _count(tally, event)
                    progress(tally)
    return tally


async def _steps(target: Target, source: Source, remove_missing: bool, tally: Tally) -> AsyncIterator[pb.IngestRequest]:
    yield pb.IngestRequest(begin=pb.IngestBegin(tenant=target.tenant, collection=target.collection, source=source.name))
    tally.problems.extend(source.problems)
    all_sent = not source.problems
    for file in source.files:
        try:
            content = await asyncio.to_thread(file.read)
        except Misused as error:
            tally.problems.append(str(error))
            all_sent = False  # what could not be read here must not be taken for gone there
        else:
            yield pb.IngestRequest(document=_document(file, content))
    remove = remove_missing and all_sent and bool(source.name)
    yield pb.IngestRequest(end=pb.IngestEnd(remove_missing=remove))


def _document(file: File, content: bytes) -> pb.Document:
    return pb.Document(
        id=file.id,
        title=file.title(content),
        content=content,
        media_type=file.media_type,
        metadata={"file": file.relative},
    )


def _count(tally: Tally, event: pb.IngestResponse) -> None:
    if event.HasField("summary"):
        tally.removed += event.summary.removed
        return
    outcome = event.outcome
    tally.answered += 1
    tally.chunks += outcome.chunks
    if outcome.state == pb.DocumentOutcome.WRITTEN:
        tally.written += 1
    elif outcome.state == pb.DocumentOutcome.UNCHANGED:
        tally.unchanged += 1
    else:
        tally.problems.append(outcome.message)
