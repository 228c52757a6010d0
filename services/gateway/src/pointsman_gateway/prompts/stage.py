"""The stage: the path's strategies make the prompt."""

import time
from collections.abc import Mapping, Sequence

from pointsman_gateway.domain import Decision, Prompt, Request
from pointsman_gateway.prompts.draft import Draft
from pointsman_gateway.prompts.strategies import Strategy, apply_all


class Prompts:
    """Decision in, Prompt out."""

    def __init__(self, strategies: Mapping[str, Sequence[Strategy]]) -> None:
        """`strategies` by path; a path that is not there (a model named by the caller) has none."""
        self._strategies = strategies

    async def build(self, request: Request, decision: Decision) -> Prompt:
        started = time.perf_counter()
        begun = Draft(request, decision.vector, is_last=not decision.alternatives)
        draft = await apply_all(self._strategies.get(decision.path.name, ()), begun)
        seconds = {"prompt": time.perf_counter() - started - draft.retrieval_seconds}
        if draft.searches:
            seconds["retrieval"] = draft.retrieval_seconds
        return Prompt(
            draft.messages(), draft.passages, draft.searches, seconds, draft.versions, _embeddings(begun, draft)
        )


def _embeddings(begun: Draft, draft: Draft) -> int:
    """Texts that were embedded for it: once here where that was needed, else by the retriever in each search."""
    if draft.vector is not None:
        return int(begun.vector is None)
    return draft.searches
