"""`pointsman retriever tune`: chooses a collection's search settings by their results for labelled queries."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import typer
from pointsman.v1 import retriever_pb2 as pb

from pointsman_cli.errors import CommandError, UsageError, run_interruptibly
from pointsman_cli.eval.dataset import numbered, parsed, text_of
from pointsman_cli.grpc_clients import open_channel, retriever_stub, service_errors
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, RetrieverOption, TenantOption, retriever_address
from pointsman_cli.tables import print_table

DEPTH = 10  # rank to which nDCG counts
KEPT_SHARE = 0.95  # of the answerable queries that must stay relevant
DENSE_THRESHOLDS = tuple(step / 50 for step in range(5, 36))  # 0.10 to 0.70
DEFAULT_COVERAGE = 0.6
COVERAGE_THRESHOLDS = tuple(step / 10 for step in range(3, 11))
SIGNIFICANCE_LEVEL = 0.05  # probability of choosing a setting if all are equally good
PERMUTATIONS = 9999
LINE_FORMAT = '{"query": "...", "documents": ["id", ...]}'

SearchCandidates = dict[str, pb.SearchSettings]

BATCH_SEARCHES = 50  # searches in one call


@dataclass(frozen=True, slots=True)
class LabelledQuery:
    """A query, with the ids of the documents that answer it, which a search should find."""

    query: str
    documents: frozenset[str]  # ids of the documents that answer the query; empty if none does


@dataclass(frozen=True, slots=True)
class BestScores:
    """The greatest cosine similarity and the greatest word coverage among the passages that a search found.

    The two may be of different passages.
    """

    dense: float  # the greatest cosine
    coverage: float  # the greatest share of the query's words in one passage, 0 to 1


def search_candidates() -> SearchCandidates:
    """Returns the search settings that `tune` compares, by the names that it prints; the first is the default."""
    weighed = {f"dense_weight {weight:.1f}": pb.SearchSettings(dense_weight=weight) for weight in _tenths(2, 10)}
    return {"by agreement": pb.SearchSettings(), **weighed, "ranks (RRF)": pb.SearchSettings(fusion=pb.RRF)}


def read_labelled(file: Path) -> list[LabelledQuery]:
    """Reads labelled queries from a JSON Lines file; each line is {"query": ..., "documents": [ids]}.

    Raises UsageError if the file cannot be read, a line is invalid, or no query has a document.
    """
    found = []
    for number, line in numbered(text_of(file)):
        try:
            found.append(_labelled_query(parsed(line)))
        except ValueError as error:
            raise UsageError(f"{file}:{number} {error}; a line is {LINE_FORMAT}") from error
    if not any(one.documents for one in found):
        raise UsageError(f"{file} has no query with a document that answers it; label some first")
    return found


def _labelled_query(row: Any) -> LabelledQuery:
    """Converts the JSON of one line to a labelled query; raises ValueError, which says what is wrong."""
    query, documents = (row.get("query"), row.get("documents")) if isinstance(row, dict) else (None, None)
    if not isinstance(query, str) or not query.strip():
        raise ValueError('has no "query" that is a text')
    if not isinstance(documents, list) or not all(isinstance(one, str | int) for one in documents):
        raise ValueError('has no "documents" that are a list of ids')
    return LabelledQuery(query, frozenset(map(str, documents)))


def ndcg(found: Sequence[str], wanted: frozenset[str]) -> float:
    gain = sum(1.0 / math.log2(rank + 2) for rank, one in enumerate(found[:DEPTH]) if one in wanted)
    return gain / sum(1.0 / math.log2(rank + 2) for rank in range(min(DEPTH, len(wanted))))


def choose_settings(scores: Mapping[str, Sequence[float]]) -> str:
    """Returns the name of the best of the search settings that are significantly better than the default.

    Returns the name of the default if no setting is. The best one has the highest mean score. `scores` has the scores
    of each setting, by its name, for the same queries in the same order; the first key is the default.

    The test is a permutation test of the maximum (P. H. Westfall, S. S. Young, Resampling-Based Multiple Testing,
    1993). The signs of the differences to the default are flipped at random, query by query, for all settings alike. A
    setting is significantly better if the best of all settings gets as far ahead in at most SIGNIFICANCE_LEVEL of these
    flips. The test is valid for few queries, and for many or similar settings.
    """
    first, *others = scores
    differences = np.array([np.subtract(scores[way], scores[first]) for way in others])
    differences /= np.maximum(
        np.linalg.norm(differences, axis=1, keepdims=True), 1e-12
    )  # otherwise only the setting with the largest differences counts
    signs = np.random.default_rng(7).choice((-1.0, 1.0), (PERMUTATIONS, differences.shape[1]))
    furthest = (signs @ differences.T).max(axis=1)
    by_chance = [(1 + np.sum(furthest >= found - 1e-9)) / (1 + PERMUTATIONS) for found in differences.sum(axis=1)]
    ahead = [way for way, chance in zip(others, by_chance, strict=True) if chance <= SIGNIFICANCE_LEVEL]
    return max(ahead, key=lambda way: mean(scores[way]), default=first)


def thresholds(answered: Sequence[BestScores], unanswered: Sequence[BestScores]) -> tuple[float, float]:
    """Returns two thresholds: the cosine and the word coverage from which a search's result counts as relevant.

    A result is relevant if it reaches one of the two. `answered` are the best scores for queries that a document
    answers, at least one query, and `unanswered` those for queries that no document answers. If there are queries of
    both kinds, the thresholds are the values of DENSE_THRESHOLDS and COVERAGE_THRESHOLDS that separate them best.
    Otherwise about KEPT_SHARE of the answered queries reach the cosine, and the coverage is DEFAULT_COVERAGE.
    """
    if not unanswered:
        ranked = sorted(seen.dense for seen in answered)
        return round(ranked[int((1.0 - KEPT_SHARE) * len(ranked))] - 0.005, 2), DEFAULT_COVERAGE

    def told_apart(least: tuple[float, float]) -> float:
        kept = mean(_is_relevant(seen, least) for seen in answered)
        refused = mean(not _is_relevant(seen, least) for seen in unanswered)
        return kept + refused

    return max(((dense, coverage) for dense in DENSE_THRESHOLDS for coverage in COVERAGE_THRESHOLDS), key=told_apart)


def _is_relevant(seen: BestScores, least: tuple[float, float]) -> bool:
    return seen.dense >= least[0] or seen.coverage >= least[1]


def _tenths(first: int, last: int) -> list[float]:
    return [step / 10 for step in range(first, last)]


@dataclass(frozen=True, slots=True)
class TuningResult:
    """The search settings that `tune` has chosen, and the scores (nDCG@10) of each query with all settings, by name."""

    scores: dict[str, list[float]]  # by the name of the setting: nDCG@10 of each query that documents answer
    chosen: str  # the name of the chosen setting
    settings: pb.SearchSettings  # the chosen setting with its thresholds


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
    """Choose a collection's search settings by labelled queries.

    Sets how scores by meaning and by words are combined, and the thresholds of relevance.
    """
    labelled = read_labelled(queries)
    tuned = run_interruptibly(_tune(retriever_address(retriever, data_dir), tenant, collection, labelled, dry_run))
    scores = tuned.scores.items()
    rows = [(way, f"{mean(of):.3f}", "chosen" if way == tuned.chosen else "") for way, of in scores]
    print_table(("way", f"nDCG@{DEPTH}", ""), rows)
    settings = tuned.settings
    typer.echo(
        f"{collection} {'would be' if dry_run else 'is now'} searched {tuned.chosen}; relevant from a cosine of "
        f"{settings.least_dense:.2f}, or a coverage of {settings.least_coverage:.1f}"
    )


async def _tune(
    address: str, tenant: str, collection: str, labelled: Sequence[LabelledQuery], dry_run: bool
) -> TuningResult:
    answered = [one for one in labelled if one.documents]
    unanswered = [one for one in labelled if not one.documents]
    async with open_channel(address) as channel:
        with service_errors("retriever"):
            stub = retriever_stub(channel)

            async def ask(asked: Sequence[LabelledQuery], settings: pb.SearchSettings) -> list[pb.SearchResponse]:
                searches = [_search(tenant, collection, one.query, settings) for one in asked]
                parts = [
                    await stub.SearchBatch(pb.SearchBatchRequest(searches=searches[start : start + BATCH_SEARCHES]))
                    for start in range(0, len(searches), BATCH_SEARCHES)
                ]
                return [_answer(one) for part in parts for one in part.searches]

            answers = {way: await ask(answered, settings) for way, settings in search_candidates().items()}
            scores = {
                way: [ndcg(_documents(one), asked.documents) for one, asked in zip(found, answered, strict=True)]
                for way, found in answers.items()
            }
            chosen = choose_settings(scores)
            settings = pb.SearchSettings()
            settings.CopyFrom(search_candidates()[chosen])
            without_answer = await ask(unanswered, settings)
            settings.least_dense, settings.least_coverage = thresholds(
                _best_scores(answers[chosen]), _best_scores(without_answer)
            )
            if not dry_run:
                await stub.ConfigureSearch(
                    pb.ConfigureSearchRequest(tenant=tenant, collection=collection, settings=settings)
                )
    return TuningResult(scores, chosen, settings)


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


def _best_scores(answers: Sequence[pb.SearchResponse]) -> list[BestScores]:
    return [BestScores(answer.best_dense, answer.best_coverage) for answer in answers]
