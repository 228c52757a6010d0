"""The strategy `retrieval`: passages that a search finds for the request."""

import logging
import time
from dataclasses import replace
from typing import Literal

from pointsman_servicekit.errors import PointsmanError
from pydantic import Field

from pointsman_gateway.config.strict import Strict
from pointsman_gateway.domain import Passage
from pointsman_gateway.extensions import Draft, Found, NothingRelevant, Resources, Strategy, StrategyContext

log = logging.getLogger(__name__)


class RetrievalOptions(Strict):
    collection: str
    top_k: int = Field(default=3, ge=1, le=20)
    prompt: str = Field(description="a template in prompts/ that shows the passages")
    required: bool = Field(default=True, description="false: answer without passages if the retriever is not available")
    max_tokens: int = Field(default=1000, ge=1, description="of all passages together; the best that fit are shown")
    min_score: float = Field(default=0.0, ge=0.0, le=1.0, description="passages below it are not shown")
    on_empty: Literal["answer", "next_path"] = Field(
        default="answer",
        description="if no passage is relevant: answer without passages, or use the path's fallback",
    )


class Retrieval(Strategy):
    """Searches a collection, and shows the passages through a template."""

    Options = RetrievalOptions

    def __init__(self, options: RetrievalOptions, context: StrategyContext) -> None:
        for found in [], [Passage("id", "title", "text", 1.0)]:
            context.templates.try_out(options.prompt, query="?", passages=found)
        self._templates, self._search = context.templates, context.search
        self._options = options

    @staticmethod
    def resources(options: RetrievalOptions) -> Resources:
        return Resources((options.prompt,), collections=(options.collection,))

    async def apply(self, draft: Draft) -> Draft:
        request, options, started = draft.request, self._options, time.perf_counter()
        found: Found | None = None
        passages: tuple[Passage, ...] = ()
        try:
            found = await self._search.search(
                options.collection, request.query, draft.vector, options.top_k, request.deadline
            )
        except PointsmanError as error:
            if options.required:
                raise
            log.warning("answering without passages: %s", error)
        draft = replace(draft, retrieval_seconds=draft.retrieval_seconds + time.perf_counter() - started)
        if found is not None:
            passages = choose_passages(options, found)
            versions = (*draft.collection_versions, (options.collection, found.version))
            draft = replace(draft, searches=draft.searches + 1, collection_versions=versions)
            if not passages and options.on_empty == "next_path" and not draft.is_last:
                raise NothingRelevant(options.collection, draft)
        draft = draft.with_system(self._templates.render(options.prompt, query=request.query, passages=passages))
        return replace(draft, passages=passages)


def choose_passages(options: RetrievalOptions, found: Found) -> tuple[Passage, ...]:
    """Return the best passages that fit, ordered by document and position instead of by rank.

    Two questions that find the same passages then begin with the same text, which is in the engine's prefix cache.
    Tokens are those of the embedding model, which are close enough to the engine's.
    """
    chosen, tokens_left = [], options.max_tokens
    for passage in found.passages if found.relevant else ():
        if passage.score >= options.min_score and passage.tokens <= tokens_left:
            chosen.append(passage)
            tokens_left -= passage.tokens
    return tuple(sorted(chosen, key=lambda passage: (passage.document_id, passage.start)))
