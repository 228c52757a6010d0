"""The prompt stage: the strategies of the decision's path build the prompt."""

import time
from collections.abc import Mapping, Sequence

from pointsman_gateway.domain import Decision, Prompt, Request
from pointsman_gateway.extensions import Draft, NothingRelevant, Strategy
from pointsman_gateway.extensions.strategy import build_messages


class Prompts:
    """Builds the prompt for a request and its decision."""

    def __init__(self, strategies: Mapping[str, Sequence[Strategy]]) -> None:
        """`strategies` by path; a path that is missing, such as that of a named model, has none."""
        self._strategies = strategies
        self._constant = {path: texts for path, row in strategies.items() if (texts := _constant(row)) is not None}
        """The system texts of paths whose strategies add nothing else, the same for every request."""

    async def build(self, request: Request, decision: Decision) -> Prompt:
        """Raises PointsmanError."""
        started = time.perf_counter()
        path = decision.path.name
        system = self._constant.get(path) if path in self._strategies else ()
        if system is not None:
            messages = build_messages(system, request.messages)
            return Prompt(messages, seconds={"prompt": time.perf_counter() - started})
        draft = Draft(request, decision.vector, is_last=not decision.alternatives)
        vector_was_known = decision.vector is not None
        try:
            return _to_prompt(await apply_all(self._strategies[path], draft), vector_was_known, started)
        except NothingRelevant as error:
            error.spent = _to_prompt(error.draft, vector_was_known, started)
            raise


async def apply_all(strategies: Sequence[Strategy], draft: Draft) -> Draft:
    """Apply strategies one after another, in the order of the configuration."""
    for strategy in strategies:
        draft = await strategy.apply(draft)
    return draft


def _to_prompt(draft: Draft, vector_was_known: bool, started: float) -> Prompt:
    seconds = {"prompt": time.perf_counter() - started - draft.retrieval_seconds}
    if draft.retrieval_seconds:
        seconds["retrieval"] = draft.retrieval_seconds
    # Without a vector the retriever embeds the text in each search.
    embeddings = draft.searches if draft.vector is None else int(not vector_was_known)
    versions = draft.collection_versions
    return Prompt(draft.messages(), draft.passages, draft.searches, seconds, versions, embeddings, draft.vector)


def _constant(strategies: Sequence[Strategy]) -> tuple[str, ...] | None:
    """Return the system texts if adding them is all that the strategies do."""
    texts = [strategy.constant for strategy in strategies]
    known = [text for text in texts if text is not None]
    return tuple(known) if len(known) == len(strategies) else None
