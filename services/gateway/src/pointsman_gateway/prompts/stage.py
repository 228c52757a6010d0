"""The stage: the path's strategies make the prompt."""

import time
from collections.abc import Mapping, Sequence

from pointsman_gateway.domain import Decision, Prompt, Request
from pointsman_gateway.prompts.draft import Draft, conversation
from pointsman_gateway.prompts.strategies import Instruction, NothingRelevant, Strategy, apply_all


class Prompts:
    """Decision in, Prompt out."""

    def __init__(self, strategies: Mapping[str, Sequence[Strategy]]) -> None:
        """`strategies` by path; a path that is not there (a model named by the caller) has none."""
        self._strategies = strategies
        self._constant = {path: texts for path, them in strategies.items() if (texts := _constant(them)) is not None}
        """What is before each conversation, of paths of which that is all."""

    async def build(self, request: Request, decision: Decision) -> Prompt:
        """Raises PointsmanError."""
        started = time.perf_counter()
        path = decision.path.name
        system = self._constant.get(path) if path in self._strategies else ()
        if system is not None:
            messages = conversation(system, request.messages)
            return Prompt(messages, seconds={"prompt": time.perf_counter() - started})
        begun = Draft(request, decision.vector, is_last=not decision.alternatives)
        try:
            return _prompt(begun, await apply_all(self._strategies[path], begun), started)
        except NothingRelevant as nothing:
            nothing.spent = _prompt(begun, nothing.draft, started)
            raise


def _prompt(begun: Draft, draft: Draft, started: float) -> Prompt:
    seconds = {"prompt": time.perf_counter() - started - draft.retrieval_seconds}
    if draft.retrieval_seconds:
        seconds["retrieval"] = draft.retrieval_seconds
    embeddings = _embeddings(begun, draft)
    return Prompt(draft.messages(), draft.passages, draft.searches, seconds, draft.versions, embeddings, draft.vector)


def _constant(strategies: Sequence[Strategy]) -> tuple[str, ...] | None:
    """The system texts, where the strategies add nothing else, and the same ones to every request."""
    texts = [strategy.constant for strategy in strategies if isinstance(strategy, Instruction)]
    known = [text for text in texts if text is not None]
    return tuple(known) if len(known) == len(strategies) else None


def _embeddings(begun: Draft, draft: Draft) -> int:
    """Texts that were embedded for it: once here where that was needed, else by the retriever in each search."""
    if draft.vector is not None:
        return int(begun.vector is None)
    return draft.searches
