"""The interface of prompt strategies, each of which adds its part to the draft of a prompt."""

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
    """An example request of a task, with the right answer (`output`) if it is known, which prompts may contain."""

    text: str
    output: str | None
    intent: str = ""
    """The kind of request within the task; empty if the file does not say."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What the options of a prompt strategy refer to: prompt files, tasks whose examples are shown, and collections.

    The gateway checks that they exist.
    """

    prompts: tuple[str, ...] = ()
    """The names of files in prompts/."""
    examples: tuple[tuple[str, int], ...] = ()
    """(task whose examples are shown, number of examples with an output that it must have at least)."""
    collections: tuple[str, ...] = ()
    """The collections of documents that are searched."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The prompt of one request while it is built: each strategy of the path adds its part, in order."""

    request: Request
    vector: Vector | None
    """The embedding of the request's text; None if it is not known."""
    system: tuple[str, ...] = ()
    """The parts of the system message that the strategies have added; the client's system messages follow them."""
    examples: tuple[tuple[str, str], ...] = ()
    """(message of the user, message of the assistant) for each example, in the order of the prompt."""
    passages: tuple[Passage, ...] = ()
    searches: int = 0
    """The number of searches in collections of documents that succeeded for this request."""
    retrieval_seconds: float = 0.0
    collection_versions: tuple[tuple[str, int], ...] = ()
    """(collection, version of the collection) for each search that succeeded."""
    is_last: bool = False
    """Whether the request has no other path to fall back to."""

    def with_system(self, text: str) -> "Draft":
        return replace(self, system=(*self.system, text))

    def messages(self) -> tuple[Message, ...]:
        """Returns the messages for the engine: the system message, then the examples, then the conversation."""
        examples = tuple(
            message
            for question, answer in self.examples
            for message in (Message("user", question), Message("assistant", answer))
        )
        return build_messages(self.system, self.request.messages, examples)


class Templates(Protocol):
    """Interface to the prompt files, which are Jinja templates; `PromptTemplates` implements it.

    The `name` that methods take is that of a file in prompts/.
    """

    def constant(self, name: str) -> str | None:
        """Returns the rendered text of a prompt file that uses no variables; None for other files."""
        ...

    def render(self, name: str, **values: Any) -> str:
        """Renders a prompt file with the values of its variables; raises Internal ("prompt_failed") if that fails."""
        ...

    def try_out(self, name: str, **values: Any) -> None:
        """Renders a prompt file with sample values, when the configuration is loaded.

        Raises ConfigError if that fails, for example for an unknown variable.
        """
        ...


class Embed(Protocol):
    """Interface to the embedding model, to embed one text at a time; `TextEmbedder` implements it."""

    async def embed(self, text: str) -> Vector:
        """Returns the embedding of `text`: a vector of unit length, with the shape (dimensions,).

        Of a text that is too long for the model, only a part is embedded. Raises Unavailable if the model is behind a
        URL that does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """The result of one search in a collection of documents: the passages, and whether any is relevant to the query."""

    passages: tuple[Passage, ...]
    """The passages found, best first."""
    relevant: bool
    """Whether the retriever considers at least one of the passages relevant to the query."""
    version: int = 0
    """The version of the collection that was searched."""


class Search(Protocol):
    """Interface to the retriever's searches in collections; `RetrieverClient` and `ProtectedSearch` implement it."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        """Returns up to `top_k` passages of a collection for `query`.

        `vector` is the embedding of `query`, or None if it is not known; `deadline` is in seconds on the event loop's
        clock. Raises Unavailable if the search fails or takes too long, DeadlineExceeded if the deadline has passed.
        """
        ...


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """What a prompt strategy's constructor gets after its options: prompt files, searches, embeddings, and examples."""

    templates: Templates
    search: Search
    embed: Embed | None
    """Embeds texts; None if the configuration is only checked, or if the embedding model is not loaded (see
    `needs_embedding`)."""
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """The examples by task, for the tasks in the strategy's `Resources`."""
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    """The embeddings of the examples by task, (examples, dimensions); zeros if the configuration is only checked."""


class Strategy(Protocol):
    """Interface of a prompt strategy, which adds its part to the prompt of a request.

    One object is made for each use in a path, in each revision of the configuration.
    """

    Options: ClassVar[Any]
    """The type of the strategy's options in the configuration: any type that pydantic can validate."""
    needs_embedding: ClassVar[bool] = True
    """Whether the strategy may use the context's `embed`. The embedding model is not loaded if nothing in the
    configuration needs it."""
    constant: str | None = None
    """The text that the strategy adds to every system message, if it does nothing else; otherwise None."""

    def __init__(self, options: Any, context: StrategyContext) -> None:
        """Takes the strategy's options from the configuration. Raises ValueError if the options cannot be used."""

    @staticmethod
    def resources(options: Any) -> Resources:
        """Returns the prompt files, examples and collections that the options refer to, so that the gateway can check
        them.
        """
        return Resources()

    async def apply(self, draft: Draft) -> Draft:
        """Returns a copy of the draft to which this strategy has added its part, such as a system text or passages.

        Raises Unavailable, such as NothingRelevant, if another path should answer; any other PointsmanError ends the
        request. Each call runs in its own asyncio task, except for the built-in strategies.
        """
        ...


class NothingRelevant(Unavailable):
    """Raised if a search finds nothing relevant, and by the strategy's options another path should answer then."""

    def __init__(self, collection: str, draft: Draft) -> None:
        super().__init__(f"nothing in collection '{collection}' is relevant to the request", code="nothing_relevant")
        self.draft = draft
        """The draft after the search."""
        self.spent = Prompt(())
        """The searches, embeddings and seconds that the draft took; set by the prompt stage, for the receipt."""


def build_messages(
    system: Sequence[str], messages: Sequence[Message], examples: tuple[Message, ...] = ()
) -> tuple[Message, ...]:
    """Returns the messages of a prompt: one system message, then `examples`, then the client's other messages.

    The system message has the texts of `system` and then those of the client's system messages, wherever these are in
    the conversation. It is left out if there are none.
    """
    own = [message for message in messages if message.role == "system"]
    rest = tuple([message for message in messages if message.role != "system"]) if own else tuple(messages)
    text = "\n\n".join([*system, *[message.content for message in own]])
    if not text:
        return (*examples, *rest)
    blocks: Blocks = ()
    if any(message.blocks for message in own):
        blocks = join_blocks([*[(one, ()) for one in system], *[(one.content, one.blocks) for one in own]], "\n\n")
    return (Message("system", text, blocks=blocks), *examples, *rest)
