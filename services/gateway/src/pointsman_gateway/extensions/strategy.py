"""The interface of prompt strategies: each adds its part to the draft of a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.extensions import Registry

from pointsman_gateway.domain import Message, Passage, Prompt, Request, Vector
from pointsman_gateway.domain.blocks import Blocks, join_blocks

STRATEGIES = Registry(
    "strategy",
    "pointsman.strategies",
    {
        "zero_shot": "pointsman_gateway.prompts.strategies:Instruction",
        "persona": "pointsman_gateway.prompts.strategies:Instruction",
        "chain_of_thought": "pointsman_gateway.prompts.strategies:Instruction",
        "few_shot": "pointsman_gateway.prompts.strategies:FewShot",
        "retrieval": "pointsman_gateway.prompts.strategies:Retrieval",
    },
    method="apply",
)


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled request. `output` is the expected answer, if the file has one."""

    text: str
    output: str | None
    intent: str = ""
    """What it is about within its task; empty if the file does not say."""


@dataclass(frozen=True, slots=True)
class Resources:
    """The prompts, examples and collections that a strategy's options refer to; they determine the path's kind."""

    prompts: tuple[str, ...] = ()
    """Files in prompts/."""
    examples: tuple[tuple[str, int], ...] = ()
    """(task whose examples are shown, least number of examples with an output)."""
    collections: tuple[str, ...] = ()
    """Collections that are searched."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt under construction, to which each strategy of a path adds its part."""

    request: Request
    vector: Vector | None
    """The embedding of the request's text, if it is known."""
    system: tuple[str, ...] = ()
    """Parts of the system message."""
    examples: tuple[tuple[str, str], ...] = ()
    """(user message, assistant message)."""
    passages: tuple[Passage, ...] = ()
    searches: int = 0
    retrieval_seconds: float = 0.0
    collection_versions: tuple[tuple[str, int], ...] = ()
    """(collection, version) of each search that succeeded."""
    is_last: bool = False
    """Whether the request has no other path to fall back to."""

    def with_system(self, text: str) -> "Draft":
        return replace(self, system=(*self.system, text))

    def messages(self) -> tuple[Message, ...]:
        """Returns one system message (the path's, then the client's), the examples, and the conversation."""
        examples = tuple(
            message
            for question, answer in self.examples
            for message in (Message("user", question), Message("assistant", answer))
        )
        return build_messages(self.system, self.request.messages, examples)


class Templates(Protocol):
    """The files in prompts/, as sandboxed Jinja templates."""

    def constant(self, name: str) -> str | None:
        """Returns the text of a prompt file whose template uses no variable; None for others."""
        ...

    def render(self, name: str, **values: Any) -> str:
        """Renders a prompt file; raises Internal ("prompt_failed")."""
        ...

    def try_out(self, name: str, **values: Any) -> None:
        """Renders a prompt file with sample values when the configuration is loaded; raises ConfigError if that fails,
        as for an unknown variable.
        """
        ...


class Embed(Protocol):
    """Embeds one text, for a request that was not classified."""

    async def embed(self, text: str) -> Vector: ...


@dataclass(frozen=True, slots=True)
class Found:
    """The passages that a search has found, and whether they are relevant."""

    passages: tuple[Passage, ...]
    """Best first."""
    relevant: bool
    """Whether the retriever considers any of them relevant."""
    version: int = 0
    """The version of the collection that was searched."""


class Search(Protocol):
    """Finds passages of a collection for a text and its vector."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        """Searches a collection; `vector` is the query's, None if it is not known, and `deadline` is on the event
        loop's clock. Raises PointsmanError.
        """
        ...


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """The parts that a strategy's constructor gets in addition to its options."""

    templates: Templates
    search: Search
    embed: Embed | None
    """None while a configuration is only checked, and without tasks if `needs_embedding` is false."""
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """By task, for the tasks that the strategy refers to."""
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    """The examples' embeddings by task, (examples, dimensions)."""


class Strategy(Protocol):
    """Adds its part to a prompt; built once for each path and revision of the configuration."""

    Options: ClassVar[Any]
    """The type of the options in the configuration: any type that pydantic can validate."""
    needs_embedding: ClassVar[bool] = True
    """Whether it may use the context's `embed`. If nothing does, and there are no tasks, the embedding model is not
    loaded."""
    constant: str | None = None
    """The system text, if adding the same text to every prompt is all that the strategy does."""

    def __init__(self, options: Any, context: StrategyContext) -> None:
        """Takes the options of the configuration; raises ValueError if they cannot be used."""

    @staticmethod
    def resources(options: Any) -> Resources:
        """Returns the prompts, examples and collections that the options refer to."""
        return Resources()

    async def apply(self, draft: Draft) -> Draft:
        """Returns the draft with this strategy's part; raises PointsmanError.

        Each call runs in an asyncio task of its own, except of the built-in strategies.
        """
        ...


class NothingRelevant(Unavailable):
    """A search found nothing relevant, and the strategy is set to leave the request to another path."""

    def __init__(self, collection: str, draft: Draft) -> None:
        super().__init__(f"nothing in collection '{collection}' is relevant to the request", code="nothing_relevant")
        self.draft = draft
        """The draft so far."""
        self.spent = Prompt(())
        """What the draft has cost; set by the prompt stage."""


def build_messages(
    system: Sequence[str], messages: Sequence[Message], examples: tuple[Message, ...] = ()
) -> tuple[Message, ...]:
    """Returns one system message (`system`, then the client's), `examples`, and the client's other messages."""
    own = [message for message in messages if message.role == "system"]
    rest = tuple([message for message in messages if message.role != "system"]) if own else tuple(messages)
    text = "\n\n".join([*system, *[message.content for message in own]])
    if not text:
        return (*examples, *rest)
    blocks: Blocks = ()
    if any(message.blocks for message in own):
        blocks = join_blocks([*[(one, ()) for one in system], *[(one.content, one.blocks) for one in own]], "\n\n")
    return (Message("system", text, blocks=blocks), *examples, *rest)
