"""Finds which path (a model with its adapter and prompt) answered a request's conversation before, and stores which
path answers it, for the conversation's next request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.conversations.identity import (
    conversation_ids,
    count_answers,
    has_tools,
    is_in_tool_loop,
    session_of,
)
from pointsman_gateway.conversations.lengths import ConversationLengths
from pointsman_gateway.conversations.memory import ConversationMemory
from pointsman_gateway.conversations.store import ConversationStore, NoConversationStore
from pointsman_gateway.domain import AUTO, Decision, Labels, Path, Request
from pointsman_gateway.domain.conversation import NOTHING_KEPT, ConversationMode, ConversationStep, KeptPath, Step

PROTECTED_SECONDS = 600.0
"""Conversations that begin alike have the same id. For this number of seconds after a conversation's last request, a
new conversation with the same id cannot change its path."""
DEFAULT_TTL_SECONDS = 14_400.0
NO_NOTES: tuple[str, ...] = ()
UNAVAILABLE_NOTE = "the conversation is not known here, and Redis is unavailable"


@dataclass(frozen=True, slots=True)
class ConversationTerms:
    """One task's settings for conversations: whether a conversation stays on its path and on its adapter version."""

    mode: ConversationMode = "priced"
    pins_versions: bool = True
    is_constant: bool = True
    """Whether the task's policy chooses the same path for all requests."""
    has_adapters: bool = False
    """Whether one of the task's paths has an adapter, whose version may change."""


NO_TASK = ConversationTerms()
"""The settings for requests that fit no configured task, and so take the default path."""


def terms_of(task: TaskConfig, paths: Mapping[str, Path]) -> ConversationTerms:
    terms = default_terms(task.policy, paths, task.fallback)
    return replace(terms, mode=task.conversation, pins_versions=task.pin_versions)


def default_terms(policy: PolicyConfig, paths: Mapping[str, Path], fallback: tuple[str, ...] = ()) -> ConversationTerms:
    """Returns the settings for conversations of a task that has the policy `policy` and sets none of these settings.

    `paths` are the configured paths by name; `fallback` are the names of the task's fallback paths. They show whether
    one of the task's paths has an adapter.
    """
    adapters = any(paths[name].adapter for name in {*policy.paths, *fallback} if name in paths)
    return ConversationTerms(is_constant=policy.implementation.is_constant, has_adapters=adapters)


@dataclass(frozen=True, slots=True)
class ConversationBook:
    """The stores of what the gateway remembers of conversations: in this process, in Redis, and counts of
    conversations' lengths.

    A reload of the configuration does not change them.
    """

    memory: ConversationMemory = field(default_factory=lambda: ConversationMemory(DEFAULT_TTL_SECONDS))
    store: ConversationStore = field(default_factory=NoConversationStore)
    lengths: ConversationLengths = field(default_factory=ConversationLengths)


class Conversations:
    """Looks up which path answered a conversation before, and stores which path answers each request, by the settings
    of the request's task.
    """

    def __init__(self, terms: Mapping[str, ConversationTerms], book: ConversationBook) -> None:
        self._terms = terms
        self._memory, self._store, self._lengths = book.memory, book.store, book.lengths

    async def recall(self, request: Request, labels: Labels) -> ConversationStep | None:
        """Returns the request's position in its conversation and the path that answered the conversation before.

        Returns None if the router does not need them, for example because the request names a model or has no user
        message. Reads Redis only if another gateway may have answered the conversation's last request. If Redis fails
        and this process does not know the conversation, the result's `notes` say so.
        """
        if request.model != AUTO or request.operation != "chat":
            return None
        terms = self._terms.get(labels.task, NO_TASK)
        calls_tools, in_loop = has_tools(request), is_in_tool_loop(request.messages)
        if terms.mode == "off" or (terms.is_constant and not (terms.has_adapters or calls_tools or in_loop)):
            return None
        session, answers = session_of(request), count_answers(request.messages)
        ids, kept = self._memory.find(conversation_ids(request, session))
        if not ids:
            return None
        id, notes = ids[-1], NO_NOTES
        # An answer that this gateway has not given was given by another one, which may have changed the path.
        if (answers > kept.answers + 1) if kept is not NOTHING_KEPT else (answers or session):
            id, kept, notes = await self._read(ids, id, kept)
        if in_loop:
            step = Step.TOOL_LOOP
        elif answers or session:
            step = Step.TURN
        else:
            step = Step.LIKE_ANOTHER if kept.protected_until > self._memory.now() else Step.FIRST
        if kept is NOTHING_KEPT or step is Step.FIRST:
            step, kept = Step.FIRST, NOTHING_KEPT
        return ConversationStep(
            id,
            step,
            kept,
            # Agents keep their path also on gateways that share no memory; texts that many people send do not all
            # draw the same path.
            key=kept.key or (id if calls_tools else ""),
            mode=terms.mode,
            pins_version=terms.pins_versions,
            answers=answers,
            has_tools=calls_tools,
            # While only a version is pinned, a request without a second one is nobody else's business.
            is_shared=bool(not terms.is_constant or calls_tools or answers or session),
            idle_seconds=self._memory.now() - kept.used_at if step is not Step.FIRST else 0.0,
            requests_left=self._lengths.requests_left(_key(request), answers + 1) if step is Step.TURN else 1.0,
            notes=notes,
        )

    async def _read(self, ids: list[str], id: str, kept: KeptPath) -> tuple[str, KeptPath, tuple[str, ...]]:
        """Reads the conversation from the shared store; returns its id, how its last request was answered, and notes as
        in `recall`.

        `id` and `kept` are what this process knows; they are returned if the store fails or has nothing newer.
        """
        try:
            if not self._store.is_up:
                raise Unavailable("Redis has not answered", code="redis_unavailable")
            found_id, found = await self._store.read(ids)
        except Unavailable:
            return id, kept, (UNAVAILABLE_NOTE,) if kept is NOTHING_KEPT else ()
        if found is NOTHING_KEPT or found.used_at < kept.used_at:
            return id, kept, ()
        self._memory.put(found_id, found)
        return found_id, found, ()

    def remember(self, request: Request, step: ConversationStep, decision: Decision) -> None:
        """Stores the chosen path for the conversation's next request, and counts this request for the estimate of
        conversations' lengths.

        `step` is the result of `recall`. Call the method once per request, before the path answers.
        """
        self._lengths.add(_key(request), step.answers + 1)
        self.replace_path(request, step, decision)

    def replace_path(self, request: Request, step: ConversationStep, decision: Decision) -> None:
        """Stores the path of `decision` as the conversation's path, in place of the path that `remember` has stored.

        If `step.is_shared` is set, or if the path's adapter has a canary (a new version that gets some of the
        requests), the path is also written to Redis for other gateways, in the background.
        """
        now, adapter = self._memory.now(), decision.path.resolved_adapter
        is_under_way = step.has_tools or step.kind in (Step.TURN, Step.TOOL_LOOP)
        kept = KeptPath(
            decision.path.name,
            step.kept.task if step.kind is Step.TOOL_LOOP else decision.task,
            now,
            request.characters,
            step.answers,
            adapter.version if adapter is not None else "",
            adapter.replaces if adapter is not None else "",
            step.key or decision.id,
            now + PROTECTED_SECONDS if is_under_way else 0.0,
            step.kept.left_for(decision.path.name),
        )
        self._memory.put(step.id, kept)
        if step.is_shared or (adapter is not None and adapter.has_canary):
            self._store.write(step.id, kept)


def _key(request: Request) -> str:
    return request.caller.key or request.caller.tenant
