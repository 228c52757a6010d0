"""The classes of a search: the query, the options for ranking, and the results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pointsman_retriever.domain.collection import CollectionId
from pointsman_retriever.domain.document import NamedVector
from pointsman_retriever.filters import Filter


class FusionMethod(Enum):
    """How a passage's dense score (of its meaning) and its sparse score (of its words) are combined.

    CONVEX adds the standardized scores, RRF the reciprocals of the ranks (reciprocal rank fusion); both with weights.
    """

    CONVEX = "convex"
    RRF = "rrf"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """The options of a search: how passages are ranked, how many are returned, and what is returned with each
    passage.
    """

    top_k: int = 0  # passages; 0 means limits.DEFAULT_TOP_K
    dense_weight: float | None = None  # 0 (words only) to 1 (meaning only); None: the collection's setting
    method: FusionMethod | None = None  # None: the collection's setting
    per_document: int = 0  # maximum passages of one document; 0 means unlimited
    diversity: float = 0.0  # 0 to 1: penalty for similarity to a passage ranked higher
    neighbours: int = 0  # chunks of the same document to return before and after each passage
    rerank: bool = False
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    collection: CollectionId
    text: str
    vector: NamedVector | None = None  # of the text, if the caller computed it
    filter: Filter | None = None
    options: SearchOptions = SearchOptions()


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a passage's score was computed from `dense_part`, `sparse_part` and `support_part`, which add up to a total.

    With the fusion method CONVEX, the score is 1 / (1 + e^-total). With RRF, the score is the total times (1 +
    `RRF_K`). In an external store, the score is the total itself.
    """

    dense_rank: int  # among the candidates, 1 for the best
    sparse_rank: int  # 0 if the chunk contains none of the query's words
    dense_weight: float
    dense_part: float
    sparse_part: float
    support_part: float  # from the candidates most similar to this one
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class RankedChunk:
    chunk: int
    score: float  # fused, 0 to 1
    dense: float  # cosine
    sparse: float  # BM25; 0 if the chunk contains none of the query's words
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A chunk shortly before or after a passage in its document; `start` and `end` are offsets in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Passage:
    document_id: str
    title: str
    text: str
    start: int
    end: int
    metadata: Mapping[str, str]
    score: float
    dense_score: float
    sparse_score: float
    explanation: Explanation
    before: tuple[Neighbour, ...] = ()  # in document order
    after: tuple[Neighbour, ...] = ()
    heading: str = ""  # the document's title and the headings above the passage, as in "Fares > Bicycles"


def to_passage(
    ranked: RankedChunk, content: Sequence[Any], before: tuple[Neighbour, ...], after: tuple[Neighbour, ...]
) -> Passage:
    """Returns the passage of a ranked chunk, whose stored `content` is (document id, title, text, start, end, metadata,
    heading), with the chunks before and after it in document order.
    """
    document_id, title, text, start, end, metadata, heading = content
    return Passage(
        document_id=document_id,
        title=title,
        text=text,
        start=start,
        end=end,
        metadata=metadata,
        heading=heading,
        score=ranked.score,
        dense_score=ranked.dense,
        sparse_score=ranked.sparse,
        explanation=ranked.explanation,
        before=before,
        after=after,
    )


@dataclass(frozen=True, slots=True)
class Relevance:
    """Whether a search found anything that answers the query, and the two measurements that decide this.

    A search is relevant if `best_dense`, the best cosine, or `best_coverage`, the largest share of the query's words in
    one candidate, reaches its threshold in the collection's `SearchSettings`. For a collection in an external store,
    the default thresholds apply.
    """

    relevant: bool
    best_dense: float  # the greatest cosine among the candidates
    best_coverage: float  # 0 to 1: the greatest IDF-weighted share of the query's words in one candidate


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    passages: tuple[Passage, ...]  # best first
    tokens: tuple[int, ...]  # of each passage's text, counted by the embedding model's tokenizer
    version: int  # of the collection that was searched
    seconds: float
    relevance: Relevance
