"""Makes prompts of a given number of tokens that no two requests share."""

import itertools
import json
from dataclasses import dataclass, field

from benchmarks.adapters.services import BASE
from benchmarks.gateway_load.http_client import Target, post
from benchmarks.gateway_load.machine import CannotMeasure

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""Each is one token after a space."""
LONG, SHORT = 40, 8
"""The lengths by which `measured_by` checks that a word is a token."""


@dataclass(slots=True)
class PromptMaker:
    """Makes user messages of so many words that the prompt has the wanted tokens; each begins with its own number."""

    around: int
    """Tokens of a prompt without words: those of the chat template."""
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def prompt(self, tokens: int) -> str:
        number, words = next(self._numbers), max(1, tokens - self.around)
        digits = [WORDS[number // 10**place % 10] for place in range(4)]
        return " " + " ".join((digits + [WORDS[number % 7]] * words)[:words])


async def measured_by(engine: int) -> PromptMaker:
    """Asks the engine at this port how many tokens prompts have. Raises CannotMeasure if a word is not one token."""
    tokens = {}
    for words in (SHORT, LONG):
        body = {"model": BASE, "messages": [{"role": "user", "content": PromptMaker(0).prompt(words)}], "max_tokens": 1}
        answer = await post(Target(engine, BASE), body)
        tokens[words] = int(json.loads(answer.body)["usage"]["prompt_tokens"])
    if tokens[LONG] - tokens[SHORT] != LONG - SHORT:
        raise CannotMeasure(f"prompts of {SHORT} and {LONG} words have {tokens} tokens")
    return PromptMaker(tokens[SHORT] - SHORT)
