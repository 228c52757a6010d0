"""Simulates the sessions of one application on a few engines, and reports how even the load is and how much is cached.

    python -m benchmarks.session_affinity [--engines 4] [--sessions 200]

The gateway's own `TargetQueue` chooses the engines, by a hash of the system prompt, by a hash of the conversation, and
by the latter with a memory of the engine to which an overload moved the conversation. An engine reads the tokens that
are not in its prefix cache, and then generates; both are slower the more requests it has. Its cache holds blocks, and
drops the least recently used ones. The last line of output is one JSON object.
"""

import argparse
import heapq
import json
import random
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pointsman_gateway.domain import Message, Path
from pointsman_gateway.engines.balancing import PromptKey, SpillTargets, TargetQueue, hash_prompt
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.engines import Engines

PATH = Path("agent", "model")
SYSTEM = "You are Wren, the assistant of a railway's lost property office. " * 100
BLOCK = 16
"""Number of tokens per block, vLLM's default."""
SYSTEM_BLOCKS, TURN_BLOCKS = 100, 25
"""Number of blocks of the system prompt, and of blocks that each turn adds: 1,600 and 400 tokens."""
TURNS = 10
CACHE_BLOCKS = 20_000
"""Number of blocks in the cache of one engine: 320,000 tokens."""
BOUND = 1.25
READ_TOKENS_PER_SECOND, GENERATE_SECONDS, THINK_SECONDS = 8_000.0, 2.0, 6.0
START_SECONDS = 30.0
"""Time within which all sessions begin."""
SLOWDOWN = 0.05
"""By which share everything is slower for each further request on the engine."""
POLICIES = ("system prompt", "conversation", "conversation, spill target kept")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of one policy."""

    cached_share: float
    """The share of all prompt tokens that were cached."""
    largest_share: float
    """The share of the requests that the busiest engine got; with an even load it is one divided by the number of
    engines."""
    mean_peak: float
    """Requests in progress on the busiest engine relative to an even load; the mean over all arrivals."""
    moved_share: float
    """Of the turns after the first, the share on another engine than the turn before."""
    first_token_p95: float
    """95th percentile of the seconds to the first token."""


class PrefixCache:
    """The blocks of one engine; a block can be used only if all before it are there."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[tuple[int, int], None] = OrderedDict()

    def read(self, blocks: Sequence[tuple[int, int]]) -> int:
        """Returns how many of a prompt's blocks are cached, and caches all of them."""
        cached = next((i for i, block in enumerate(blocks) if block not in self._blocks), len(blocks))
        for block in reversed(blocks):  # as in vLLM, the end of a prompt is dropped first
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        return cached


@dataclass(slots=True)
class Session:
    number: int
    key: PromptKey
    turn: int = 0
    engine: str = ""

    def blocks(self) -> list[tuple[int, int]]:
        own = TURN_BLOCKS * (self.turn + 1)
        return [*((-1, i) for i in range(SYSTEM_BLOCKS)), *((self.number, i) for i in range(own))]


@dataclass(slots=True)
class Simulation:
    """One run of a policy; times are in seconds."""

    policy: str
    engines: int
    sessions: int
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    queue: list[tuple[float, int, Session, EngineState | None]] = field(default_factory=list)
    """Events: arrivals, and ends with the engine that has answered. Each has its time, and a number that makes it
    unique."""
    events: int = 0
    tokens: int = 0
    cached: int = 0
    moved: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    peaks: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def run(self) -> Outcome:
        states = [EngineState(Engine(f"engine-{i}", PATH.model, ready=True)) for i in range(self.engines)]
        engines, caches = Engines(states), {state.engine.name: PrefixCache(CACHE_BLOCKS) for state in states}
        spilled = SpillTargets() if self.policy == POLICIES[2] else None
        self._start_sessions()
        while self.queue:
            at, _, session, done = heapq.heappop(self.queue)
            if done is not None:
                done.in_flight -= 1
                continue
            target = TargetQueue(engines.targets(PATH), session.key, BOUND, spilled).take()
            assert target is not None
            self._answer(at, session, target.state, caches[target.engine.name])
            self.peaks.append(max(s.in_flight for s in states) * self.engines / sum(s.in_flight for s in states))
        return Outcome(
            self.cached / self.tokens,
            max(self.requests.values()) / self.requests.total(),
            sum(self.peaks) / len(self.peaks),
            self.moved / (self.sessions * (TURNS - 1)),
            sorted(self.waits)[int(0.95 * len(self.waits))],
        )

    def _start_sessions(self) -> None:
        for number in range(self.sessions):
            messages = [Message("system", SYSTEM), Message("user", f"I have lost umbrella {number}.")]
            key = hash_prompt(messages, messages)
            if self.policy == POLICIES[0]:
                key = PromptKey(key.shared, key.shared)
            self._push(self.dice.uniform(0.0, START_SECONDS), Session(number, key), None)

    def _push(self, at: float, session: Session, state: EngineState | None) -> None:
        self.events += 1
        heapq.heappush(self.queue, (at, self.events, session, state))

    def _answer(self, at: float, session: Session, state: EngineState, cache: PrefixCache) -> None:
        state.in_flight += 1
        blocks = session.blocks()
        cached = cache.read(blocks)
        self.tokens += BLOCK * len(blocks)
        self.cached += BLOCK * cached
        self.requests[state.engine.name] += 1
        self.moved += session.turn > 0 and session.engine != state.engine.name
        slower = 1.0 + SLOWDOWN * state.in_flight
        first_token = slower * BLOCK * (len(blocks) - cached) / READ_TOKENS_PER_SECOND
        self.waits.append(first_token)
        end = at + first_token + slower * GENERATE_SECONDS
        self._push(end, session, state)
        if session.turn + 1 < TURNS:
            following = Session(session.number, session.key, session.turn + 1, state.engine.name)
            self._push(end + self.dice.expovariate(1.0 / THINK_SECONDS), following, None)

    _queue: list[tuple[float, int, Session, EngineState | None]] = field(default_factory=list)
    _dice: random.Random = field(default_factory=random.Random)
    _count: int = 0


def simulate(engines: int, sessions: int) -> dict[str, Outcome]:
    return {policy: Simulation(policy, engines, sessions).run() for policy in POLICIES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, default=4)
    parser.add_argument("--sessions", type=int, default=200)
    options = parser.parse_args()
    outcomes = simulate(options.engines, options.sessions)
    for policy, outcome in outcomes.items():
        print(
            f"{policy}: {outcome.cached_share:.1%} of the prompts' tokens cached, {outcome.largest_share:.1%} of the "
            f"requests on one engine, at most {outcome.mean_peak:.2f} times the mean in progress, "
            f"{outcome.moved_share:.1%} of the turns on another engine than the turn before, "
            f"first token within {outcome.first_token_p95:.2f} s (p95)"
        )
    print(json.dumps({policy: {name: getattr(o, name) for name in o.__slots__} for policy, o in outcomes.items()}))


if __name__ == "__main__":
    main()
