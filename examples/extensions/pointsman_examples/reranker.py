"""A reranker that counts the words that a passage and the query share."""

from collections.abc import Sequence

from pointsman_retriever.rerank.rerankers import RerankerOptions


class WordOverlap:
    def __init__(self, options: RerankerOptions) -> None:
        pass

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        words = set(query.casefold().split())
        return [float(len(words.intersection(text.casefold().split()))) for text in texts]

    async def close(self) -> None:
        pass
