"""A decoded request, its caller, and the prompt that is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pointsman_gateway.domain.blocks import Blocks
from pointsman_gateway.domain.path import Catalog, Path, Sampling
from pointsman_gateway.domain.value import Vector, value

AllowedNames = frozenset[str] | None
"""The names that an API key may use, for example of tasks; None allows all names."""

ALL_TASKS = "*"

AUTO = "auto"
"""The value of a request's `model` that leaves the choice of the path to the gateway."""

NO_MEDIA: frozenset[str] = frozenset()

PATH_PREFIX = "path:"
"""The prefix of a path's name in a request's `model`: "path:NAME"."""

GivenField = tuple[str, str]
"""A field that the client has set in a request's body: (the kind of object that has the field, the field's name), such
as ("blocks", "cache_control"). The kind is empty if the gateway sends the field to no engine.
"""

Operation = Literal["chat", "completion", "route", "embeddings", "rerank"]
"""What the client requests: an answer to a conversation ("chat"), a continuation of each message by itself
("completion"), only the decision ("route"), vectors ("embeddings"), or scores of documents ("rerank")."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What an API key may be used for: names of tasks, paths, adapters, collections, embedding models and rerankers."""

    tasks: AllowedNames = None
    paths: AllowedNames = None
    adapters: AllowedNames = None
    """Names of adapters without alias or version, such as "triage"."""
    collections: AllowedNames = None
    embeddings: AllowedNames = None
    """Embedding models; None allows all, or none if one of the other fields is set."""
    rerankers: AllowedNames = None
    """Rerankers (models that score documents); None allows all, or none if one of the other fields is set."""

    def denial_reason(self, task: str, path: Path) -> str | None:
        """Returns why the key must not be used for a request of the task `task` on `path`, as an error message; None
        if it may.
        """
        if self.tasks is not None and task not in self.tasks:
            return f"the key is not for task '{task}'"
        if self.paths is not None and path.name not in self.paths:
            return f"the key is not for path '{path.name}'"
        adapter = path.adapter.partition("@")[0]
        if self.adapters is not None and adapter and adapter not in self.adapters:
            return f"the key is not for adapter '{adapter}'"
        if self.collections is not None:
            denied = [name for name in path.collections if name not in self.collections]
            if denied:
                return f"the key is not for collection '{denied[0]}'"
        return None

    def allows(self, path: Path) -> bool:
        """Returns whether the key may use `path` for at least one task."""
        some_task = next(iter(self.tasks), "") if self.tasks is not None else ""
        return self.denial_reason(some_task, path) is None

    def allows_embedding(self, model: str) -> bool:
        return self._allows_model(self.embeddings, model)

    def allows_reranker(self, model: str) -> bool:
        return self._allows_model(self.rerankers, model)

    def _allows_model(self, allowed: AllowedNames, model: str) -> bool:
        return model in allowed if allowed is not None else self == Scope()

    def visible(self, catalog: Catalog) -> Catalog:
        """Returns the part of the catalog that the key may use: its tasks, paths and models.

        If the key is limited to tasks, only paths of these tasks are included.
        """
        if self is UNRESTRICTED:
            return catalog
        tasks = {name: task for name, task in catalog.tasks.items() if self.tasks is None or name in self.tasks}
        used = catalog.paths if self.tasks is None else {name for task in tasks.values() for name in task.paths}
        paths = {name: path for name, path in catalog.paths.items() if name in used and self.allows(path)}
        models = {path.model for path in paths.values()}
        return Catalog(
            catalog.default_path if catalog.default_path in paths else "",
            catalog.search_usd,
            {name: replace(task, paths=tuple(p for p in task.paths if p in paths)) for name, task in tasks.items()},
            paths,
            {name: model for name, model in catalog.models.items() if name in models},
        )


UNRESTRICTED = Scope()


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request, as its API key or token identifies it: tenant, scope (what it may use) and rights."""

    key: str = ""
    """The id of the key, never its secret; for a token, an id of its user. Empty if authentication is off."""
    tenant: str = ""
    scope: Scope = field(default=UNRESTRICTED)
    priority: int = 0
    """Requests of a higher priority leave the admission queue first."""
    training_consent: frozenset[str] = frozenset()
    """Tasks whose answers the tenant allows to be used as training data; `ALL_TASKS` stands for every task."""
    is_operator: bool = False
    """Whether the caller may move adapter aliases and send evaluations."""
    is_admin: bool = False
    """Whether the caller may use the admin API."""

    def consents_to(self, task: str) -> bool:
        return bool(self.training_consent) and (task in self.training_consent or ALL_TASKS in self.training_consent)


ANONYMOUS = Caller(is_operator=True)
"""The caller of every request if authentication is off."""


@value
class Message:
    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the message for the engine, such as "name", "tool_calls" and "tool_call_id". If the message has
    media, the entry "content" is the list of all its parts, and the attribute `content` is only their text."""
    blocks: Blocks = ()
    """The blocks of a message in Anthropic's format, if they have information that `content` and `extra` lack. Only
    engines with this format get them."""


@value
class Request:
    """One request, decoded from the format of its API; later stages do not see that format.

    `deadline` is by the clock of the event loop, `arrived_at` by `time.perf_counter`, both in seconds.
    """

    model: str
    """The value of `model` in the client's request: `AUTO`, "path:NAME", or the name of a model, an alias or an
    adapter.
    """
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    metadata: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    deadline: float = float("inf")
    """When the request must end, in seconds by the event loop's clock."""
    caller: Caller = ANONYMOUS
    cache: str = "use"
    """How the request uses the answer cache: "use" reads and writes it, "renew" only writes it, "off" does neither."""
    arrived_at: float = 0.0
    """Time at which the request arrived, before its body was read, in seconds by `time.perf_counter`. 0 stands for the
    time at which the pipeline gets the request.
    """
    operation: Operation = "chat"
    as_a_whole: bool = False
    """Whether the client gets the answer in one piece, not as a stream, so that chunks which arrive together may be
    joined.
    """
    media: frozenset[str] = NO_MEDIA
    """What the engine must accept besides text: "image", "audio", "video" or "file", and "url" if the engine has to
    download media from a URL.
    """
    keeps_pieces: bool = False
    """Whether chunks are never joined, because the cache stores the answer and may send it as a stream later."""
    is_collected: bool = False
    """Whether the API's encoder keeps a streamed answer in memory until its end, so that its length must be limited."""
    uncommon: frozenset[GivenField] = frozenset()
    """Fields in the client's body that not every engine accepts. The decision's notes name those that the engine did
    not get.
    """
    _characters: int = field(default=-1, init=False, repr=False, compare=False)

    @property
    def characters(self) -> int:
        """Returns the length of the `content` of all messages together, in characters; it is computed once."""
        if self._characters < 0:
            # A cached value does not change what the request means.
            self._characters = sum([len(message.content) for message in self.messages])  # type: ignore[misc]
        return self._characters

    @property
    def query(self) -> str:
        """Returns the text of the user's last message, or of the last message if none has the role "user".

        It is the text that the retriever searches for, and that is embedded.
        """
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document's text that a search of the retriever has found, with its score and its place in the
    document.
    """

    document_id: str
    title: str
    text: str
    score: float
    start: int = 0  # in its document, in characters
    tokens: int = 0  # of the text, as the retriever counts them
    end: int = 0  # in its document, in characters
    heading: str = ""  # the title and the headings above it: "Fares > Bicycles"
    url: str = ""  # of the document, if it is known


@value
class Prompt:
    """The messages that the engine gets for one request, and the searches, embeddings and seconds to make them."""

    messages: tuple[Message, ...]
    passages: tuple[Passage, ...] = ()
    searches: int = 0
    """The number of searches that succeeded."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase: "prompt", and "retrieval" if something was searched."""
    collection_versions: tuple[tuple[str, int], ...] = ()
    """(collection, version of the collection) for each search that succeeded."""
    embeddings: int = 0
    """The number of texts that were embedded to make the prompt."""
    vector: Vector | None = field(default=None, compare=False)
    """The embedding of the request's text; None if it was neither known nor needed."""

    @property
    def sources(self) -> Sequence[Passage]:
        """Returns the passages in the prompt, the one with the highest score first; the prompt's messages have another
        order.
        """
        return sorted(self.passages, key=lambda passage: -passage.score) if self.passages else ()
