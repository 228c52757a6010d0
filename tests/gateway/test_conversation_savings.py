"""In a simulation of a provider with a prefix cache, weighing each change of path costs less than always choosing the
best path, or never changing."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.conversations.memory import ConversationMemory
from pointsman_gateway.conversations.stage import ConversationBook, Conversations, ConversationTerms
from pointsman_gateway.domain import AUTO, Caller, Message, Path, PathEvidence, Request, Usage
from pointsman_gateway.domain.conversation import ConversationMode
from pointsman_gateway.metering.context_prices import ContextPricing
from pointsman_gateway.metering.expected_cost import CostEstimator
from pointsman_gateway.metering.pricing import Pricing
from pointsman_gateway.routing.router import Router

from tests.gateway.doubles.adapters import NoAdapters
from tests.gateway.doubles.clocks import Clock
from tests.gateway.doubles.conversations import labels

CONVERSATIONS = 1000
OVERLOADED_AT_START, OVERLOADED_LATER = 0.4, 0.05
"""The probability that the cheap path's provider is overloaded: at a conversation's first turn, and at later ones."""
CACHE_SECONDS = 300.0
ANSWER = "word " * 300
PRICES = {
    "cheap": {"prompt": 1.0, "cached": 0.1, "completion": 4.0},
    "dear": {"prompt": 1.5, "cached": 0.15, "completion": 6.0},
}
MODELS = ModelsFile.model_validate(
    {
        "prices_as_of": "2026-11-01",
        "models": {name: {"context_window": 200_000, "usd_per_million_tokens": of} for name, of in PRICES.items()},
        "engines": {name: {"model": name, "url": "http://127.0.0.1:1"} for name in PRICES},
    }
)
PATHS = {name: Path(name, name, fingerprint=name) for name in PRICES}


@dataclass
class Provider:
    """Charges tokens as providers do: the tokens of a prefix are cheaper if the same model has read it recently."""

    clock: Clock
    usd: float = 0.0
    answers: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    read: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict)
    """By model and conversation, how many tokens the model has read, and when."""

    def answer(self, path: Path, conversation: int, tokens: int, answer_tokens: int) -> Usage:
        known, at = self.read.get((path.model, conversation), (0, 0.0))
        cached = known if self.clock.now - at <= CACHE_SECONDS else 0
        prices = PRICES[path.model]
        cost = (tokens - cached) * prices["prompt"] + cached * prices["cached"] + answer_tokens * prices["completion"]
        self.usd += cost / 1e6
        self.answers[path.name] += 1
        self.read[path.model, conversation] = tokens, self.clock.now
        return Usage(tokens, answer_tokens, cached)


class Overloads:
    """Reports both paths as good, and the cheap one as unavailable at some turns."""

    def __init__(self) -> None:
        self.away = False

    def of(self, task: str, path: Path) -> PathEvidence:
        return PathEvidence(1000, 1.0, 1000, mean_cost_usd=PRICES[path.name]["completion"] / 1000)

    def why_not(self, path: Path) -> str | None:
        return "overloaded" if self.away and path.name == "cheap" else None

    def path_of(self, model: str) -> Path | None:
        return None

    def names(self) -> Sequence[str]:
        return ()


@dataclass(frozen=True)
class Turn:
    text: str
    is_cheap_away: bool
    pause: float
    """Seconds before the turn."""


def traffic(seed: int) -> Iterator[tuple[str, list[Turn]]]:
    """Yields the API key and the turns of conversations: agents with many turns, and long documents with few."""
    drawn = random.Random(seed)
    for number in range(CONVERSATIONS):
        is_agent = drawn.random() < 0.15
        lengths = [drawn.randint(400, 4000) for _ in range(drawn.randint(15, 40) if is_agent else drawn.randint(2, 4))]
        if not is_agent:
            lengths[0] = drawn.randint(40_000, 160_000)
        overloaded = [OVERLOADED_AT_START, *[OVERLOADED_LATER] * len(lengths)]
        turns = [
            Turn(f"{number} ".ljust(length, "x"), drawn.random() < share, drawn.expovariate(1 / 60))
            for length, share in zip(lengths, overloaded, strict=False)
        ]
        yield "agents" if is_agent else "readers", turns


async def simulate(mode: ConversationMode) -> Provider:
    clock, overloads = Clock(), Overloads()
    provider, pricing = Provider(clock), Pricing(MODELS)
    costs = CostEstimator(pricing)
    policy = PolicyConfig.model_validate({"best_value": {"paths": list(PATHS), "quality_floor": 0.8}})
    router = Router(
        PATHS,
        {"t": TaskConfig(examples="x", policy=policy)},
        "dear",
        availability=overloads,
        named=overloads,
        expected_cost=costs,
        evidence=overloads,
        adapters=NoAdapters(),
        change_prices=ContextPricing(pricing, costs, {}),
    )
    book = ConversationBook(ConversationMemory(14_400, clock=clock))
    conversations = Conversations({"t": ConversationTerms(mode, is_constant=False)}, book)
    for number, (key, turns) in enumerate(traffic(seed=7)):
        messages: tuple[Message, ...] = ()
        for turn in turns:
            clock.passes(turn.pause)
            overloads.away = turn.is_cheap_away
            messages = (*messages, Message("user", turn.text))
            request = Request(AUTO, messages, caller=Caller(key))
            step = await conversations.recall(request, labels())
            decision = router.decide(request, labels(), step)
            if step is not None:
                conversations.remember(request, step, decision)
            tokens = request.characters // 4
            usage = provider.answer(decision.path, number, tokens, len(ANSWER) // 4)
            costs.statistics.add(decision.path, tokens, usage, 0)
            messages = (*messages, Message("assistant", ANSWER))
    return provider


async def test_weighing_each_change_is_cheapest_at_the_same_quality() -> None:
    always_choosing, always_staying, weighing = [await simulate(mode) for mode in ("off", "sticky", "priced")]
    assert weighing.usd < 0.95 * always_choosing.usd
    assert weighing.usd < 0.98 * always_staying.usd
