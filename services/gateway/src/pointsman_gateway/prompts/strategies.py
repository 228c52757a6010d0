"""The strategies: each adds one part to the draft of a prompt."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_gateway.config.load import Example
from pointsman_gateway.domain import Passage, Prompt, Vector
from pointsman_gateway.prompts.draft import Draft
from pointsman_gateway.prompts.templates import Templates

log = logging.getLogger(__name__)


class Strategy(Protocol):
    async def apply(self, draft: Draft) -> Draft: ...


class Embed(Protocol):
    """Embeds one text, for a request that was not classified."""

    async def embed(self, text: str) -> Vector: ...


@dataclass(frozen=True, slots=True)
class Found:
    passages: tuple[Passage, ...]
    """Best first."""
    relevant: bool
    """Whether any of them deserves to be shown, by the retriever's own measure."""
    version: int = 0
    """Of the collection as it was searched."""


class Search(Protocol):
    """Finds passages for a text and its vector."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        """`deadline` is on the event loop's clock. Raises a PointsmanError."""
        ...


class Instruction:
    """`zero_shot`, `persona`, `chain_of_thought`: a system text from a file."""

    def __init__(self, templates: Templates, prompt: str) -> None:
        templates.try_out(prompt, query="?")
        self._templates = templates
        self._prompt = prompt
        self.constant = templates.constant(prompt)
        """The text, where it is the same for every request."""

    async def apply(self, draft: Draft) -> Draft:
        return draft.with_system(self._templates.render(self._prompt, query=draft.request.query))


class FewShot:
    """Shows examples with their answers: the first ones, or those nearest to the request (the nearest last)."""

    def __init__(
        self,
        examples: Sequence[Example],
        vectors: NDArray[np.float32],
        count: int,
        embed: Embed | None,
        instruction: Instruction | None,
    ) -> None:
        """`vectors` are the examples', (examples, dimensions); `embed` is None for the first `count` examples."""
        answered = [i for i, example in enumerate(examples) if example.output is not None]
        self._pairs = [(examples[i].text, examples[i].output or "") for i in answered]
        self._vectors = vectors[answered]
        self._count = count
        self._embed = embed
        self._instruction = instruction

    async def apply(self, draft: Draft) -> Draft:
        if self._instruction:
            draft = await self._instruction.apply(draft)
        if self._embed is None:
            return replace(draft, examples=tuple(self._pairs[: self._count]))
        vector = draft.vector if draft.vector is not None else await self._embed.embed(draft.request.query)
        order = np.argsort(-(self._vectors @ vector), kind="stable")[: self._count]
        return replace(draft, vector=vector, examples=tuple(self._pairs[i] for i in reversed(order)))


@dataclass(frozen=True, slots=True)
class Shown:
    """What of the passages found is shown."""

    top_k: int
    max_tokens: int = 1000
    """Of all together; their counts are the embedding model's, near enough to the engine's."""
    min_score: float = 0.0
    or_next_path: bool = False
    """Where nothing is relevant, another path is taken, if there is one."""

    def choose(self, found: Found) -> tuple[Passage, ...]:
        """The best that fit, in an order of their own and not of their rank.

        Two questions that find the same passages have the same text in front, which the engine's prefix cache knows.
        """
        chosen, left = [], self.max_tokens
        for passage in found.passages if found.relevant else ():
            if passage.score >= self.min_score and passage.tokens <= left:
                chosen.append(passage)
                left -= passage.tokens
        return tuple(sorted(chosen, key=lambda passage: (passage.document_id, passage.start)))


class NothingRelevant(Unavailable):
    """Nothing fits that was looked for: another path is to answer."""

    def __init__(self, collection: str, draft: Draft) -> None:
        super().__init__(f"nothing in collection '{collection}' is relevant to the request", code="nothing_relevant")
        self.draft = draft
        """As far as it came."""
        self.spent = Prompt(())
        """What that has taken, once the stage has said so."""


class Retrieval:
    """Looks the request up, and shows the passages through a template."""

    def __init__(
        self, templates: Templates, prompt: str, search: Search, collection: str, shown: Shown, required: bool
    ) -> None:
        for found in [], [Passage("id", "title", "text", 1.0)]:
            templates.try_out(prompt, query="?", passages=found)
        self._templates = templates
        self._prompt = prompt
        self._search = search
        self._collection = collection
        self._shown = shown
        self._required = required

    async def apply(self, draft: Draft) -> Draft:
        request, started = draft.request, time.perf_counter()
        found: Found | None = None
        passages: tuple[Passage, ...] = ()
        try:
            found = await self._search.search(
                self._collection, request.query, draft.vector, self._shown.top_k, request.deadline
            )
        except PointsmanError as error:
            if self._required:
                raise
            log.warning("answering without passages: %s", error)
        draft = replace(draft, retrieval_seconds=draft.retrieval_seconds + time.perf_counter() - started)
        if found is not None:
            passages = self._shown.choose(found)
            versions = (*draft.versions, (self._collection, found.version))
            draft = replace(draft, searches=draft.searches + 1, versions=versions)
            if not passages and self._shown.or_next_path and not draft.is_last:
                raise NothingRelevant(self._collection, draft)
        draft = draft.with_system(self._templates.render(self._prompt, query=request.query, passages=passages))
        return replace(draft, passages=passages)


async def apply_all(strategies: Sequence[Strategy], draft: Draft) -> Draft:
    """One after the other, in the order of the configuration."""
    for strategy in strategies:
        draft = await strategy.apply(draft)
    return draft
