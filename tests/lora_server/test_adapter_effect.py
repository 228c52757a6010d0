"""A version that the engine does not apply can be distinguished from one with little effect, and from rounding on a
busy engine."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from pointsman_lora_server.adapters.effect import ATTEMPTS, PROMPTS, EffectCheck, difference
from pointsman_lora_server.engine.completion import GreedyAnswer
from pointsman_servicekit.errors import InvalidArgument

BASE, VERSION, PROMPT = "tiny-base", "triage@3f9a1c0b77de", "The first prompt"
LOGPROBS = (-0.5, -1.0, -2.0, -0.9)
Answer = Callable[[int], GreedyAnswer]
"""Returns the answer to request number N; requests are counted for each model."""


def answer(change: float = 0.0, last: int = 4) -> GreedyAnswer:
    return GreedyAnswer((1, 2, 3, last), "", (*LOGPROBS[:3], LOGPROBS[3] + change), "length")


@dataclass
class Engine:
    base: Answer
    version: Answer
    asked: Counter[str] = field(default_factory=Counter)

    async def complete(self, model: str, prompt: str | Sequence[int], max_tokens: int) -> GreedyAnswer:
        self.asked[model] += 1
        return (self.base if model == BASE else self.version)(self.asked[model])

    async def count_corrupted(self) -> int:
        return 0

    async def check(self, first: GreedyAnswer) -> None:
        await EffectCheck(self, BASE).check(VERSION, PROMPT, first)


def always(given: GreedyAnswer) -> Answer:
    return lambda _: given


async def test_a_version_with_the_base_models_log_probabilities_has_no_effect() -> None:
    engine = Engine(always(answer()), always(answer()))

    with pytest.raises(InvalidArgument, match="answers as the base model does in this engine") as caught:
        await engine.check(answer())

    assert caught.value.code == "no_effect"
    assert engine.asked == {VERSION: ATTEMPTS * len(PROMPTS), BASE: 1 + 2 * ATTEMPTS * len(PROMPTS)}


async def test_a_clear_effect_costs_one_request_to_the_base_model_for_all_versions() -> None:
    engine = Engine(always(answer()), always(answer(0.6)))
    effect = EffectCheck(engine, BASE)

    for version in ("triage@1", "triage@2"):
        await effect.check(version, PROMPT, answer(0.6))

    assert engine.asked == {BASE: 1}


async def test_a_weak_version_passes_on_an_engine_that_repeats_itself() -> None:
    await Engine(always(answer()), always(answer(0.01))).check(answer())


async def test_rounding_of_a_busy_engine_is_no_effect() -> None:
    """Each answer differs from the previous one by 0.1 nats, whichever model gave it."""

    def rounded(number: int) -> GreedyAnswer:
        return answer(0.1 * (number // len(PROMPTS) % 2))

    with pytest.raises(InvalidArgument):
        await Engine(rounded, always(answer(0.05))).check(answer())


async def test_a_version_whose_effect_was_hidden_once_is_asked_again() -> None:
    await Engine(always(answer()), lambda number: answer(0.05 if number > len(PROMPTS) else 0.0)).check(answer())


async def test_a_version_is_not_blamed_for_a_base_model_that_gives_no_answer() -> None:
    def poisoned(_: int) -> GreedyAnswer:
        raise InvalidArgument("no tokens that can be scored", code="cannot_answer")

    await Engine(poisoned, always(answer())).check(answer())


def test_another_token_is_an_effect_only_if_it_was_certain() -> None:
    near_tie, certain = answer(0.0, last=9), answer(0.8, last=9)

    assert difference(near_tie, answer()) == 0.0
    assert difference(certain, answer()) == math.inf
