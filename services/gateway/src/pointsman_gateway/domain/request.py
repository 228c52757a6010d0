"""A decoded request with its caller, and the prompt that a path makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pointsman_gateway.domain.blocks import Blocks
from pointsman_gateway.domain.path import Catalog, Path, Sampling
from pointsman_gateway.domain.value import Vector, value

AllowedNames = frozenset[str] | None
"""Names, or None for all."""

ALL_TASKS = "*"

AUTO = "auto"
"""The model name with which a client leaves the choice of the path to the gateway."""

NO_MEDIA: frozenset[str] = frozenset()

PATH_PREFIX = "path:"
"""Before the name of a path in a request's `model`."""

GivenField = tuple[str, str]
"""The object that has the field, and the field's name: ("blocks", "cache_control"). The first is empty if the field is
sent to no engine."""

Operation = Literal["chat", "completion", "route", "embeddings"]
"""What the client wants: an answer to a conversation ("chat"), the continuation of each message ("completion"), only
the decision ("route"), or vectors ("embeddings")."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The tasks, paths, adapters and other names for which a key may be used; None allows all."""

    tasks: AllowedNames = None
    paths: AllowedNames = None
    adapters: AllowedNames = None
    """Adapter names without alias or version ("triage")."""
    collections: AllowedNames = None
    embeddings: AllowedNames = None
    """Embedding models; None: all, or none if the key is limited to tasks, paths, adapters or collections."""

    def denial_reason(self, task: str, path: Path) -> str | None:
        """Returns why `path` must not answer a request of `task`, or None if it may."""
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
        """Returns whether the key may use the path for at least one task."""
        some_task = next(iter(self.tasks), "") if self.tasks is not None else ""
        return self.denial_reason(some_task, path) is None

    def allows_embedding(self, model: str) -> bool:
        if self.embeddings is not None:
            return model in self.embeddings
        return self.tasks is self.paths is self.adapters is self.collections is None

    def visible(self, catalog: Catalog) -> Catalog:
        """Returns the part of the catalog that the key may use: if it is limited to tasks, only their paths."""
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
    """Who sent a request: the tenant, scope and rights of its API key or token."""

    key: str = ""
    """The key's id, never its secret; empty if authentication is off."""
    tenant: str = ""
    scope: Scope = field(default=UNRESTRICTED)
    priority: int = 0
    """Requests of a higher priority leave the admission queue first."""
    training_consent: frozenset[str] = frozenset()
    """Tasks whose answers the tenant releases as training data; `ALL_TASKS` stands for every task."""
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
    """Other fields of the message ("name", "tool_calls", "tool_call_id"), passed to the engine. If the message has
    media, "content" is all of it in parts, of which `content` is the text."""
    blocks: Blocks = ()
    """The blocks of a message in Anthropic's format, if they say more than `content` and `extra`; no other engine gets
    them."""


@value
class Request:
    """A request after decoding; it is the same for every API."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    metadata: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    deadline: float = float("inf")
    """On the event loop's clock, seconds."""
    caller: Caller = ANONYMOUS
    cache: str = "use"
    """ "use": read and write the answer cache; "renew": write it only; "off": neither."""
    arrived_at: float = 0.0
    """By `time.perf_counter`, before the body was read; 0 stands for the start of the pipeline."""
    operation: Operation = "chat"
    as_a_whole: bool = False
    """The answer is delivered in one piece, so chunks that arrive together may be joined."""
    media: frozenset[str] = NO_MEDIA
    """What a model must take in addition to text: "image", "audio", "video", "file"; "url" if it has to fetch it."""
    keeps_pieces: bool = False
    """Chunks are not joined all the same, because the answer is stored and may be replayed as a stream."""
    is_collected: bool = False
    """The API keeps the answer until its end even if it is streamed, since later events repeat earlier ones."""
    uncommon: frozenset[GivenField] = frozenset()
    """Fields of the client's body that are not sent to every engine."""
    _characters: int = field(default=-1, init=False, repr=False, compare=False)

    @property
    def characters(self) -> int:
        """Returns the length of all messages in characters, counted on first use."""
        if self._characters < 0:
            # A cached value does not change what the request means.
            self._characters = sum([len(message.content) for message in self.messages])  # type: ignore[misc]
        return self._characters

    @property
    def query(self) -> str:
        """Returns the text to classify and to search for: the last user message, or else the last message."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document that a search of the retriever has found."""

    document_id: str
    title: str
    text: str
    score: float
    start: int = 0  # in its document, in characters
    tokens: int = 0  # of the text, as the retriever counts them


@value
class Prompt:
    """The messages for the engine, and the searches, embeddings and seconds that it took to make them."""

    messages: tuple[Message, ...]
    passages: tuple[Passage, ...] = ()
    searches: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    collection_versions: tuple[tuple[str, int], ...] = ()
    """(collection, version) of each search that succeeded."""
    embeddings: int = 0
    """The number of texts that were embedded to make it."""
    vector: Vector | None = field(default=None, compare=False)
    """The question's embedding, if it was known or needed."""
