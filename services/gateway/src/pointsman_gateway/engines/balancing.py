"""Load balancing: chooses an engine by the prompt's conversation, to reuse the engine's prefix cache, but avoids
engines with too many requests.

All gateways hash a conversation to the same engine, its home. If the home has too many requests, the request spills: it
moves to another engine. This engine is chosen by the hash of the system prompt, which is probably in the engine's
prefix cache. Later requests of the conversation go to the second engine too, which has cached the newer turns, as long
as it is available and does not have too many requests either.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import NamedTuple

from pointsman_gateway.domain import Message
from pointsman_gateway.engines.lookups import Target
from pointsman_gateway.engines.ring import Ring

PREFIX_CHARACTERS = 512
"""Number of characters at the system prompt's beginning that are hashed. If a system prompt is shorter, an engine is
chosen by the hash of the whole conversation's beginning instead."""
END_CHARACTERS = 256
"""Number of characters that are hashed at each end of the user's first message. The end is hashed too because some
clients begin each message with the same text."""
MAX_SPILLED = 16_384
"""Maximum number of conversations whose spill target is remembered; they take 2 MB."""
MAX_WEIGHED = 64
"""Maximum number of engines that are all compared for each request; if there are more, a `Ring` finds a few of them."""
MAX_RINGS = 64

_SPREAD = 0x9E3779B97F4A7C15  # Fibonacci hashing: 2^64 over the golden ratio (Knuth, TAOCP 3, 6.4)
_LOW = 0xFFFFFFFFFFFFFFFF


class PromptKey(NamedTuple):
    """Hashes of a prompt's beginning, by which an engine is chosen.

    The hashes are equal in all gateways, and for all turns of one conversation.
    """

    conversation: int
    """The hash of the system prompt and the user's first message."""
    shared: int
    """The hash of the system prompt, which other conversations may have too. If the system prompt is shorter than
    `PREFIX_CHARACTERS`, it is `conversation`."""


NO_KEY = PromptKey(0, 0)


def hash_prompt(prompt: Sequence[Message], conversation: Sequence[Message]) -> PromptKey:
    """Returns the hashes of a prompt's beginning, by which an engine is chosen.

    They cover the system prompt, which is everything before the first user message of `prompt`, and the first user
    message of `conversation`, the messages that the client sent; `prompt` may begin with examples in the form of user
    messages. Only the first `PREFIX_CHARACTERS` of the system prompt are hashed, and of a long user message only
    `END_CHARACTERS` at each end.
    """
    system = ""
    for message in prompt:
        if message.role == "user" or len(system) >= PREFIX_CHARACTERS:
            break
        system += message.content[: PREFIX_CHARACTERS - len(system)]
    shared = zlib.crc32(system.encode("utf-8", "surrogatepass")) if system else 0
    own = shared
    for message in conversation:
        if message.role == "user":
            text = message.content
            if len(text) > 2 * END_CHARACTERS:
                text = text[:END_CHARACTERS] + text[-END_CHARACTERS:]
            own = zlib.crc32(text.encode("utf-8", "surrogatepass"), shared)
            break
    return PromptKey(own, shared if len(system) == PREFIX_CHARACTERS else own)


class SpillTargets:
    """Remembers the engine to which each conversation was moved because its usual engine had too many requests.

    Holds at most `max_conversations`; if there are more, the conversation that was moved longest ago is forgotten.
    """

    def __init__(self, max_conversations: int = MAX_SPILLED) -> None:
        self._max = max_conversations
        self._seeds: OrderedDict[int, int] = OrderedDict()
        """By the conversation's hash, the `EngineState.seed` of the engine to which it was moved."""

    def __len__(self) -> int:
        return len(self._seeds)

    def seed_of(self, conversation: int) -> int | None:
        """Returns the seed (`EngineState.seed`) of the engine to which a conversation was moved; None if it was not
        moved.

        `conversation` is the conversation's hash (`PromptKey.conversation`).
        """
        return self._seeds.get(conversation)

    def remember(self, conversation: int, seed: int) -> None:
        self._seeds[conversation] = seed
        self._seeds.move_to_end(conversation)
        if len(self._seeds) > self._max:
            self._seeds.popitem(last=False)

    def forget(self, conversation: int) -> None:
        self._seeds.pop(conversation, None)


class TargetQueue:
    """The engines that one request has not been sent to yet; `take` removes the best one for the prompt."""

    __slots__ = ("_bound", "_key", "_left", "_ring", "_spilled", "_taken", "alone")

    def __init__(
        self,
        targets: Sequence[Target],
        key: PromptKey,
        bound: float,
        spilled: SpillTargets | None = None,
        ring: Ring | None = None,
    ) -> None:
        """Takes the engines (`targets`) and the hashes of the prompt (`key`).

        An engine is preferred because of its prefix cache only while its number of requests in flight is below `bound`
        times the mean. `spilled` remembers conversations that are moved to another engine; None remembers none. `ring`
        is the ring of these engines if there are many; with None, all engines are weighed.
        """
        self._left = list(targets)
        available = (target for target in targets if target.state.is_available)
        self.alone = next(available, None) is not None and next(available, None) is None
        """Whether exactly one engine was available when the queue was made."""
        self._key = key
        self._bound = bound
        self._spilled = spilled
        self._ring = ring
        self._taken: list[Target] = []

    def take(self) -> Target | None:
        """Removes and returns the best available engine for the prompt; None if no engine is available.

        If the conversation's usual engine has too many requests, remembers the engine that is returned instead.
        """
        if len(self._left) == 1:
            target: Target | None = self._left[0]
        else:
            target = (self._near(self._ring) if self._ring else None) or self._best()
        if target is None or not target.state.is_available:
            return None
        self._left.remove(target)
        self._taken.append(target)
        return target

    def put_back(self, target: Target) -> None:
        """Puts back an engine that `take` has removed, so that `take` can return it again."""
        self._left.append(target)
        self._taken.remove(target)

    @property
    def any_left(self) -> bool:
        return any(target.state.is_available for target in self._left)

    def _best(self) -> Target | None:
        """Chooses an available engine: one whose breaker is not closed, as a probe; else the one to which the
        conversation has spilled (`_last_used`); else one by rendezvous hashing with bounded loads (Mirrokni, 2016).
        None if no engine is available.
        """
        own, available, total = self._key.conversation, [], 1
        home, highest = None, -1
        for target in self._left:
            state = target.state
            if state.is_available:
                if not state.breaker.closed:
                    return target
                available.append(target)
                total += state.in_flight
                weight = (own ^ state.seed) * _SPREAD & _LOW
                if weight > highest:
                    home, highest = target, weight
        if home is None:
            return None
        # At least one engine is below the bound, because the loads add up to less than `total`.
        max_load = self._bound * total / len(available)
        if self._spilled:  # it has entries: while no engine has been over its bound, there are none
            home = self._last_used({target.state.seed: target for target in available}.get, max_load) or home
        if home.state.in_flight < max_load:
            return home
        shared = self._key.shared
        below = [target for target in available if target.state.in_flight < max_load]
        return self._spill(max(below, key=lambda target: (shared ^ target.state.seed) * _SPREAD & _LOW))

    def _near(self, ring: Ring) -> Target | None:
        """Chooses an engine as `_best` does, but only among the few that the ring finds. None if all of them are
        unavailable or have too much load.
        """
        max_load = self._bound * ring.mean_load()
        home = next(self._usable(ring.near(self._key.conversation)), None)
        if home is None or not home.state.breaker.closed:
            return home
        if self._spilled:
            home = self._last_used(ring.with_seed, max_load) or home
        if home.state.in_flight < max_load:
            return home
        for target in self._usable(ring.near(self._key.shared)):
            if target.state.in_flight < max_load:
                return self._spill(target)
        return None

    def _usable(self, targets: Iterable[Target]) -> Iterator[Target]:
        return (target for target in targets if target not in self._taken and target.state.is_available)

    def _last_used(self, with_seed: Callable[[int], Target | None], max_load: float) -> Target | None:
        """Returns the engine that the conversation has spilled to; None if it has not. If that engine is not usable
        now, or has too much load, forgets the spill, and returns None.
        """
        assert self._spilled is not None
        seed = self._spilled.seed_of(self._key.conversation)
        if seed is None:
            return None
        target = with_seed(seed)
        if target is not None and target.state.in_flight < max_load and any(self._usable([target])):
            return target
        self._spilled.forget(self._key.conversation)
        return None

    def _spill(self, target: Target) -> Target:
        """Records that the conversation spills to `target`, and returns it."""
        if self._spilled is not None:
            self._spilled.remember(self._key.conversation, target.state.seed)
        return target


class OrderedQueue(TargetQueue):
    """A queue of engines in an order that another component has chosen: `take` removes the first available one."""

    __slots__ = ()

    def __init__(self, targets: Sequence[Target]) -> None:
        super().__init__(targets, NO_KEY, inf)

    def _best(self) -> Target | None:
        return next((target for target in self._left if target.state.is_available), None)


class Rings:
    """Caches the consistent-hashing rings of large sequences of engines: at most `MAX_RINGS`, the newest ones."""

    def __init__(self) -> None:
        self._rings: OrderedDict[int, tuple[Sequence[Target], Ring]] = OrderedDict()
        """By the `id` of the sequence. The sequence is stored too, so that no other object gets the same `id`."""

    def of(self, targets: Sequence[Target]) -> Ring | None:
        """Returns the consistent-hashing ring of these engines; None if there are at most `MAX_WEIGHED` of them.

        The cache key is the identity of `targets`: an equal sequence that is another object gets a new ring.
        """
        if len(targets) <= MAX_WEIGHED:
            return None
        known = self._rings.get(id(targets))
        if known is None:
            known = self._rings[id(targets)] = targets, Ring(targets)
            if len(self._rings) > MAX_RINGS:
                self._rings.popitem(last=False)
        return known[1]
