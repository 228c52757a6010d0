"""`pointsman retriever tune`: how a collection is searched, set from a few labelled queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer
from pointsman.v1 import retriever_pb2 as pb
from rich.console import Console
from rich.table import Table

from pointsman_cli.errors import CommandError, run_interruptibly
from pointsman_cli.grpc_clients import open_channel, retriever_stub, service_errors
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, RetrieverOption, TenantOption, retriever_address
from pointsman_cli.retriever.tuning import DEPTH, Labelled, Seen, choose, ndcg, read_labelled, thresholds, ways

AT_ONCE = 50  # searches in one call


@dataclass(frozen=True, slots=True)
class Tuned:
    scores: dict[str, list[float]]  # nDCG@10 by way, for each query that has an answer
    chosen: str
    settings: pb.SearchSettings


def tune(
    collection: Annotated[str, typer.Argument(help="The collection.")],
    queries: Annotated[
        Path,
        typer.Argument(
            help='JSON Lines of {"query", "documents": [ids that answer it]}; an empty list if nothing does.',
            exists=True,
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the result and change nothing.")] = False,
    retriever: RetrieverOption = "",
    tenant: TenantOption = "default",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Choose a collection's search settings by labelled queries: the weight of dense and lexical scores, and the
    thresholds of relevance."""
    labelled = read_labelled(queries)
    tuned = run_interruptibly(_tune(retriever_address(retriever, data_dir), tenant, collection, labelled, dry_run))
    table = Table("way", f"nDCG@{DEPTH}", "", box=None)
    for way, scores in tuned.scores.items():
        table.add_row(way, f"{mean(scores):.3f}", "chosen" if way == tuned.chosen else "")
    Console(width=100).print(table)
    settings = tuned.settings
    typer.echo(
        f"{collection} {'would be' if dry_run else 'is now'} searched {tuned.chosen}; relevant from a cosine of "
        f"{settings.least_dense:.2f}, or a coverage of {settings.least_coverage:.1f}"
    )


async def _tune(address: str, tenant: str, collection: str, labelled: Sequence[Labelled], dry_run: bool) -> Tuned:
    answered = [one for one in labelled if one.documents]
    unanswered = [one for one in labelled if not one.documents]
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            stub = retriever_stub(channel)

            async def ask(asked: Sequence[Labelled], settings: pb.SearchSettings) -> list[pb.SearchResponse]:
                searches = [_search(tenant, collection, one.query, settings) for one in asked]
                parts = [
                    await stub.SearchBatch(pb.SearchBatchRequest(searches=searches[start : start + AT_ONCE]))
                    for start in range(0, len(searches), AT_ONCE)
                ]
                return [_answer(one) for part in parts for one in part.searches]

            answers = {way: await ask(answered, settings) for way, settings in ways().items()}
            scores = {
                way: [ndcg(_documents(one), asked.documents) for one, asked in zip(found, answered, strict=True)]
                for way, found in answers.items()
            }
            chosen = choose(scores)
            settings = pb.SearchSettings()
            settings.CopyFrom(ways()[chosen])
            beside = await ask(unanswered, settings)
            settings.least_dense, settings.least_coverage = thresholds(_seen(answers[chosen]), _seen(beside))
            if not dry_run:
                await stub.ConfigureSearch(
                    pb.ConfigureSearchRequest(tenant=tenant, collection=collection, settings=settings)
                )
    return Tuned(scores, chosen, settings)


def _search(tenant: str, collection: str, query: str, settings: pb.SearchSettings) -> pb.SearchRequest:
    request = pb.SearchRequest(
        tenant=tenant,
        collection=collection,
        query=query,
        top_k=DEPTH,
        per_document=1,
        fusion=settings.fusion or pb.CONVEX,
    )
    if settings.HasField("dense_weight"):
        request.dense_weight = settings.dense_weight
    return request


def _answer(one: pb.BatchedSearch) -> pb.SearchResponse:
    if one.HasField("error"):
        raise CommandError(f"a search failed: {one.error.message}")
    return one.answer


def _documents(answer: pb.SearchResponse) -> list[str]:
    return [passage.document_id for passage in answer.passages]


def _seen(answers: Sequence[pb.SearchResponse]) -> list[Seen]:
    return [Seen(answer.best_dense, answer.best_coverage) for answer in answers]
