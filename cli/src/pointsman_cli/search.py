"""`pointsman search`: shows the passages that a search of a collection finds; no model is asked."""

import textwrap
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pointsman.v1 import retriever_pb2 as pb

from pointsman_cli.errors import run_interruptibly
from pointsman_cli.grpc_clients import open_channel, retriever_stub, service_errors
from pointsman_cli.ingest import DEFAULT_TENANT
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    DataDirOption,
    JsonOption,
    RetrieverOption,
    TenantOption,
    print_json,
    retriever_address,
)

SEARCH_SECONDS = 30.0
_WIDTH = 100
_MEANING = "scores are from 0 to 1, by meaning and words, and comparable within this search alone"


def search(
    collection: Annotated[str, typer.Argument(help="The collection.")],
    query: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for.")],
    top_k: Annotated[int, typer.Option("--top", min=1, max=100, metavar="N", help="Passages to show.")] = 4,
    as_json: JsonOption = False,
    retriever: RetrieverOption = "",
    tenant: TenantOption = DEFAULT_TENANT,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show the passages that a search finds, best first, as a prompt with `retrieval` gets them; asks no model."""
    request = pb.SearchRequest(collection=collection, query=query, top_k=top_k, tenant=tenant)
    answer = run_interruptibly(_search(retriever_address(retriever, data_dir), request))
    if as_json:
        print_json(to_json(answer))
        return
    for line in to_lines(answer):
        typer.echo(line)


async def _search(address: str, request: pb.SearchRequest) -> pb.SearchResponse:
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            found: pb.SearchResponse = await retriever_stub(channel).Search(request, timeout=SEARCH_SECONDS)
    return found


def to_json(answer: pb.SearchResponse) -> dict[str, Any]:
    """Returns what `pointsman search --json` prints: `passages`, best first, and three values on the whole result.

    `relevant` is true if a passage is relevant by the collection's settings; `best_cosine` is the greatest cosine
    similarity to the query, and `best_coverage` (0 to 1) the greatest share of the query's words in one passage.
    """
    return {
        "relevant": answer.relevant,
        "best_cosine": answer.best_dense,
        "best_coverage": answer.best_coverage,
        "passages": [_passage(passage) for passage in _best_first(answer)],
    }


def to_lines(answer: pb.SearchResponse) -> Iterator[str]:
    """Yields lines of text on the passages that a search has found, best first: document, scores and text of each.

    The last two lines explain the scores and say whether the result is relevant. If no passage was found, there is only
    one line, which says so.
    """
    if not answer.passages:
        yield "nothing is found; `pointsman retriever list` shows whether the collection has documents"
        return
    for rank, passage in enumerate(_best_first(answer), 1):
        name = passage.document_id + (f" ({passage.title})" if passage.title else "")
        yield f"{rank}. {passage.score:.2f}  {name}, characters {passage.start} to {passage.end}"
        yield f"   cosine {passage.dense_score:.2f}, words (BM25) {passage.sparse_score:.2f}"
        if passage.heading and passage.heading != passage.title:
            yield f"   {passage.heading}"
        text = " ".join(passage.text.split())
        yield from textwrap.wrap(text, _WIDTH, initial_indent="   | ", subsequent_indent="   | ")
    yield _MEANING
    verdict = "relevant" if answer.relevant else "not relevant"
    yield f"{verdict}: best cosine {answer.best_dense:.2f}, best share of the query's words {answer.best_coverage:.2f}"


def _best_first(answer: pb.SearchResponse) -> list[pb.Passage]:
    return sorted(answer.passages, key=lambda passage: -passage.score)


def _passage(passage: pb.Passage) -> dict[str, Any]:
    return {
        "document_id": passage.document_id,
        "title": passage.title,
        "heading": passage.heading,
        "text": passage.text,
        "start": passage.start,
        "end": passage.end,
        "score": passage.score,
        "cosine": passage.dense_score,
        "bm25": passage.sparse_score,
        "metadata": dict(passage.metadata),
    }
