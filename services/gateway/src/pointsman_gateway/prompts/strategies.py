"""The built-in prompt strategies.

* `zero_shot`, `persona` and `chain_of_thought` add a system text from a file.
* `few_shot` adds examples with their answers.
* `retrieval` adds passages that a search finds for the request.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pointsman_servicekit.errors import PointsmanError
from pydantic import Field

from pointsman_gateway.config.field_types import Strict
from pointsman_gateway.domain import Decision, Passage, Prompt, Request
from pointsman_gateway.extensions import Draft, Found, NothingRelevant, Resources, Strategy, StrategyContext
from pointsman_gateway.extensions.strategy import build_messages

log = logging.getLogger(__name__)


class InstructionOptions(Strict):
    prompt: str = Field(description="a file in prompts/, for the system message")


class Instruction(Strategy):
    """The strategies `zero_shot`, `persona` and `chain_of_thought`: add a prompt file's text to the system message.

    The file is a template with the variable `query`, the text of the request.
    """

    Options = InstructionOptions
    needs_embedding = False

    def __init__(self, options: InstructionOptions, context: StrategyContext) -> None:
        context.templates.try_out(options.prompt, query="?")
        self._templates = context.templates
        self._prompt = options.prompt
        self.constant = context.templates.constant(options.prompt)

    @staticmethod
    def resources(options: InstructionOptions) -> Resources:
        return Resources(prompts=(options.prompt,))

    async def apply(self, draft: Draft) -> Draft:
        return draft.with_system(self._templates.render(self._prompt, query=draft.request.query))


class FewShotOptions(Strict):
    task: str = Field(description="whose examples are shown; those without an output are not")
    count: int = Field(ge=1, le=32)
    selection: Literal["knn", "fixed"] = Field(
        default="knn", description="knn: the examples nearest to the request; fixed: the first ones of the file"
    )
    prompt: str = ""


class FewShot(Strategy):
    """The strategy `few_shot`: adds examples of a task with their outputs as earlier messages.

    They are the first ones, or those nearest to the request, the nearest last. The option `prompt` adds a prompt file's
    text to the system message as well.
    """

    Options = FewShotOptions

    def __init__(self, options: FewShotOptions, context: StrategyContext) -> None:
        examples = context.examples[options.task]
        usable = [i for i, example in enumerate(examples) if example.output is not None]
        self._pairs = [(examples[i].text, examples[i].output or "") for i in usable]
        self._vectors = context.vectors[options.task][usable]
        self._count = options.count
        self._embed = context.embed if options.selection == "knn" else None
        instruction = InstructionOptions(prompt=options.prompt) if options.prompt else None
        self._instruction = Instruction(instruction, context) if instruction else None

    @staticmethod
    def resources(options: FewShotOptions) -> Resources:
        return Resources((options.prompt,) if options.prompt else (), ((options.task, options.count),))

    async def apply(self, draft: Draft) -> Draft:
        if self._instruction:
            draft = await self._instruction.apply(draft)
        if self._embed is None:
            return replace(draft, examples=tuple(self._pairs[: self._count]))
        vector = draft.vector if draft.vector is not None else await self._embed.embed(draft.request.query)
        order = (-(self._vectors @ vector)).argsort(kind="stable")[: self._count]
        return replace(draft, vector=vector, examples=tuple(self._pairs[i] for i in reversed(order)))


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
    """The strategy `retrieval`: searches a collection, and adds the passages to the system message by a template.

    Raises NothingRelevant if the search finds no passages, `on_empty` is "next_path", and the request has another path.
    An error of the search is raised if `required` is true; otherwise the prompt gets no passages. For a request without
    text nothing is searched or found.
    """

    Options = RetrievalOptions
    needs_embedding = False  # the retriever embeds

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
        has_question = bool(request.query) and not request.query.isspace()
        try:
            if has_question:
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
        has_searched = found is not None or not has_question
        if has_searched and not passages and options.on_empty == "next_path" and not draft.is_last:
            raise NothingRelevant(options.collection, draft)
        draft = draft.with_system(self._templates.render(options.prompt, query=request.query, passages=passages))
        return replace(draft, passages=passages)


def choose_passages(options: RetrievalOptions, found: Found) -> tuple[Passage, ...]:
    """Returns the best of the passages found that have the minimum score and together fit into `max_tokens`.

    Tokens are those of the embedding model. Returns none if `found` is not relevant. They are ordered by document and
    position, not by rank: prompts with the same passages then begin with the same text, which the engine has in its
    prefix cache.
    """
    chosen, tokens_left = [], options.max_tokens
    for passage in found.passages if found.relevant else ():
        if passage.score >= options.min_score and passage.tokens <= tokens_left:
            chosen.append(passage)
            tokens_left -= passage.tokens
    return tuple(sorted(chosen, key=lambda passage: (passage.document_id, passage.start)))


class Prompts:
    """Builds the prompt of each request by the strategies of the path that was chosen; implements `PromptBuilder`."""

    def __init__(self, strategies: Mapping[str, Sequence[Strategy]]) -> None:
        """Takes the strategies of each path; a path that is missing, such as a named model's, has none."""
        self._strategies = strategies
        self._constant = {path: texts for path, row in strategies.items() if (texts := _constant(row)) is not None}
        """By path, the system texts of those paths whose strategies add nothing else; the same for every request."""

    async def build(self, request: Request, decision: Decision) -> Prompt:
        """Builds the prompt for a request by the strategies of the decision's path.

        Raises NothingRelevant if another path should answer, since a search found nothing; its `spent` has the searches
        and embeddings to charge. Raises other errors of the strategies, such as Unavailable if a required search fails.
        """
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


BUILT_IN = frozenset({Instruction, FewShot, Retrieval})


async def apply_all(strategies: Sequence[Strategy], draft: Draft) -> Draft:
    """Lets each strategy in turn add its part to the draft of a prompt, and returns the complete draft.

    Raises the strategies' errors. A strategy that is not built in runs in an asyncio task of its own: a request runs
    without a task until it waits, but `asyncio.timeout` and HTTP clients need a task that they can cancel.
    """
    for strategy in strategies:
        applied = strategy.apply(draft)
        draft = await (applied if type(strategy) in BUILT_IN else asyncio.ensure_future(applied))
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
    """Returns the texts that a path's strategies add to each system message, if that is all they do; otherwise None."""
    texts = [strategy.constant for strategy in strategies]
    known = [text for text in texts if text is not None]
    return tuple(known) if len(known) == len(strategies) else None
