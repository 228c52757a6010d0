"""The load of the five cases of Dynamo's LoRA allocation controller: how many requests arrive for which adapter, when.

Their names and shapes are those of `lib/llm/tests/lora_simulation` in github.com/ai-dynamo/dynamo; the code is our own.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TICK_SECONDS = 3.0
"""Time for which a rate stays the same; the tick of Dynamo's controller."""
CALM, BUSY, SURGE = range(3)
TRANSITIONS = ((0.90, 0.10, 0.00), (0.15, 0.80, 0.05), (0.10, 0.20, 0.70))
"""Per state of the Markov chain, the probability of each state in the next tick."""


@dataclass(frozen=True, slots=True)
class Load:
    """The size of the load."""

    adapters: int = 100
    ticks: int = 200
    requests_per_tick: float = 40.0
    """The mean number of requests per tick, which the cases vary."""
    zipf_exponent: float = 1.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: the second at which it arrives, and the number of its adapter, the most popular ones first."""

    at: float
    adapter: int
    prompt_tokens: int
    completion_tokens: int


Rates = Callable[[Load, random.Random], Sequence[float]]
"""Returns the factor of the mean rate in each tick."""


def _steady(load: Load, dice: random.Random) -> Sequence[float]:
    return [1.0] * load.ticks


def _diurnal(load: Load, dice: random.Random) -> Sequence[float]:
    """Two days, each from a quarter at midnight to five quarters of the mean at noon."""
    day = load.ticks // 2
    return [0.75 - 0.5 * math.cos(2 * math.pi * (tick % day) / day) for tick in range(load.ticks)]


def _flash_crowd(load: Load, dice: random.Random) -> Sequence[float]:
    """Five eighths of the mean, and five times that after a quarter and two thirds of the time; halved in 8 ticks."""
    starts = (load.ticks // 4, load.ticks * 13 // 20)
    factors = [0.625] * load.ticks
    for start in starts:
        for tick in range(start, load.ticks):
            factors[tick] += 0.625 * 4.0 * 0.5 ** ((tick - start) / 8)
    return factors


def _mmpp(load: Load, dice: random.Random) -> Sequence[float]:
    """A Markov-modulated Poisson process of three states."""
    factors, state = [], CALM
    for _ in range(load.ticks):
        factors.append((0.375, 1.0, 1.75)[state])
        [state] = dice.choices((CALM, BUSY, SURGE), TRANSITIONS[state])
    return factors


CASES: dict[str, tuple[Rates, bool]] = {
    "zipf": (_steady, True),
    "poisson": (_steady, False),
    "diurnal": (_diurnal, True),
    "flash crowd": (_flash_crowd, True),
    "mmpp": (_mmpp, True),
}
"""By case, how the rate changes, and whether adapters differ in popularity (by Zipf's law)."""


def arrivals(
    case: str, load: Load, seed: int, prompt_tokens: float = 64.0, completion_tokens: float = 24.0
) -> list[Arrival]:
    """Draws the requests of a case, sorted by time. The numbers of tokens vary by a third around their means."""
    rates, is_skewed = CASES[case]
    dice = random.Random(f"{case} {seed}")
    weights = [1 / rank**load.zipf_exponent if is_skewed else 1.0 for rank in range(1, load.adapters + 1)]
    drawn = []
    for tick, factor in enumerate(rates(load, dice)):
        at, end = tick * TICK_SECONDS, (tick + 1) * TICK_SECONDS
        rate = factor * load.requests_per_tick / TICK_SECONDS
        while (at := at + dice.expovariate(rate)) < end:
            [adapter] = dice.choices(range(load.adapters), weights)
            drawn.append(Arrival(at, adapter, _vary(prompt_tokens, dice), _vary(completion_tokens, dice)))
    return drawn


def _vary(mean: float, dice: random.Random) -> int:
    return max(1, round(mean * dice.uniform(2 / 3, 4 / 3)))
