"""Checks that the engine really applies an adapter version: its log-probabilities must differ from the base model's."""

import asyncio
import logging
import math

from pointsman_servicekit.errors import InvalidArgument, NotFound

from pointsman_lora_server.engine.completion import CERTAIN_LOGPROB, CompletionClient, GreedyAnswer

log = logging.getLogger(__name__)

PROMPTS = (
    "The station is",
    "Dear customer, thank you for",
    '{"answer": "',
    "Question: How do I get my money back? Answer:",
)
MAX_TOKENS = 8
ATTEMPTS = 3
"""How often the comparison is made with a version that seems to have no effect, since rounding on a busy engine can
hide a weak effect."""

CLEAR_DIFFERENCE = 0.5
"""A difference of a log-probability, in nats, that cannot result from rounding: rounding to bfloat16 causes 0.1 or
0.2."""
MIN_DIFFERENCE = 1e-3
"""A difference of a log-probability, in nats, below which a version has no effect. An engine that ignores an adapter
repeats the base model's log-probabilities exactly, except for rounding if it batches requests differently."""


class EffectCheck:
    """Checks that an adapter version changes the base model's answers in this engine.

    If the version's effect is clear, one request to the base model suffices, and its answer is reused for all later
    versions. Otherwise `PROMPTS` are sent to the version once and to the base model twice. The difference between the
    base model's two answers measures how much rounding contributes.
    """

    def __init__(self, engine: CompletionClient, base_model: str) -> None:
        """Takes the engine's client, and the name under which the engine serves the base model."""
        self._engine = engine
        self._base_model = base_model
        self._base_answers: dict[str, GreedyAnswer] = {}

    async def check(self, version: str, prompt: str, answer: GreedyAnswer) -> None:
        """Raises InvalidArgument ("no_effect") if the version's answers do not differ from the base model's.

        `answer` is the version's greedy answer to `prompt`; use the same prompt in each call, because the base model's
        answer to it is cached. The check is skipped if the base model cannot answer; the engine's probe reports this.
        Also raises InvalidArgument if the version cannot answer, NotFound if the engine does not hold it, and
        Unavailable if the engine does not answer.
        """
        try:
            base_answer = await self._base_answer(prompt, len(answer.token_ids))
            if difference(answer, base_answer) > CLEAR_DIFFERENCE:
                return
            for _ in range(ATTEMPTS):
                effect, variation = await self._measure(version)
                if effect > max(MIN_DIFFERENCE, variation):
                    return
        except _BaseFailed as error:
            log.warning("the effect of %s was not checked: the base model does not answer: %s", version, error)
            return
        raise InvalidArgument(
            f"{version} answers as the base model does in this engine: on {len(PROMPTS)} prompts its log-probabilities "
            f"differ by {effect:.2g} nats at most, and the base model's own by {variation:.2g} from one request to the "
            "next. Its weights are too small (train longer, or raise lora_alpha), or the engine does not apply them: "
            "compare the names of its tensors with those of the base model's layers",
            code="no_effect",
        )

    async def _measure(self, version: str) -> tuple[float, float]:
        """Returns the largest difference, in nats, between the answers of the version and the base model, and between
        two answers of the base model, over all prompts. All answers are requested at once, so that the engine computes
        them in one batch.
        """
        of_version, first, second = await asyncio.gather(
            asyncio.gather(*(self._engine.complete(version, prompt, MAX_TOKENS) for prompt in PROMPTS)),
            asyncio.gather(*(self._ask_base(prompt, MAX_TOKENS) for prompt in PROMPTS)),
            asyncio.gather(*(self._ask_base(prompt, MAX_TOKENS) for prompt in PROMPTS)),
        )
        return max(map(difference, of_version, first)), max(map(difference, first, second))

    async def _base_answer(self, prompt: str, max_tokens: int) -> GreedyAnswer:
        if prompt not in self._base_answers:
            self._base_answers[prompt] = await self._ask_base(prompt, max_tokens)
        return self._base_answers[prompt]

    async def _ask_base(self, prompt: str, max_tokens: int) -> GreedyAnswer:
        try:
            return await self._engine.complete(self._base_model, prompt, max_tokens)
        except (InvalidArgument, NotFound) as error:
            raise _BaseFailed(error.message) from error


class _BaseFailed(Exception):
    """The base model cannot answer a prompt."""


def difference(answer: GreedyAnswer, other: GreedyAnswer) -> float:
    """Returns the largest difference between two answers' log-probabilities, in nats, up to and including the first
    token that differs.

    Returns infinity if one of the answers was nearly certain of its token at this position, since rounding cannot
    explain the other token then.
    """
    largest = 0.0
    for token, logprob, other_token, other_logprob in zip(
        answer.token_ids, answer.logprobs, other.token_ids, other.logprobs, strict=False
    ):
        largest = max(largest, abs(logprob - other_logprob))
        if token != other_token:
            return math.inf if max(logprob, other_logprob) >= CERTAIN_LOGPROB else largest
    return largest
