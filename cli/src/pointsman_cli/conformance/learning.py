"""Records what the base model and each adapter version answer, and chooses versions whose answers differ."""

import asyncio
from collections.abc import Sequence

from pointsman_cli.conformance.answers import BASE, TimedAnswer
from pointsman_cli.conformance.bench import LONG_PROMPT, LONG_TOKENS, PROMPTS, SHORT_TOKENS, Bench, Chosen
from pointsman_cli.conformance.errors import CannotTest, ControlRefused
from pointsman_cli.conformance.findings import Property
from pointsman_cli.conformance.openai_api import LOGPROB_FIELDS

NEEDED = 4


async def learn(bench: Bench) -> Chosen:
    """Loads the test adapters one after the other, records their reference answers, and chooses four to test with.

    Returns the first four adapters whose answers can be told apart, and stores the answers in `bench.known`. Raises
    CannotTest if there are fewer than four, an adapter cannot be loaded, or the base model does not answer or does not
    repeat its answers.
    """
    for fields in LOGPROB_FIELDS:
        bench.api.logprob_fields = fields
        if (await bench.ask_base(PROMPTS[0], 1)).status not in (400, 422):
            break
    for prompt in PROMPTS:
        answer = await bench.ask_base(prompt)
        if answer.error:
            raise CannotTest(f"{bench.base_model} does not answer: {answer.error}")
        if not answer.tokens[0].logprobs:
            bench.findings.note("the answers have no log-probabilities: only their texts are compared")
        bench.known.add(BASE, answer)
    if not await bench.check_base("the base model, twice"):
        raise CannotTest("the base model's own answers differ from one request to the next: nothing can be compared")
    chosen: list[str] = []
    for version in bench.shelf.versions():
        if len(chosen) < NEEDED and await _learn(bench, version) and _is_distinct(bench, version, chosen):
            chosen.append(version)
    if len(chosen) < NEEDED:
        raise CannotTest(
            f"only {len(chosen)} of the {NEEDED} versions that are needed can be told apart by their answers"
        )
    return Chosen(*chosen)


async def _learn(bench: Bench, version: str) -> bool:
    """Returns whether the version answers, has an effect, and repeats its answers."""
    try:
        async with bench.holding({version: version}) as (name,):
            # The long one alone, as it will be compared: other rows of a batch change the rounding.
            answers = [
                await bench.ask(name, LONG_PROMPT, LONG_TOKENS),
                *await _ask_all(bench, name, [prompt for prompt in PROMPTS if prompt != LONG_PROMPT]),
            ]
            failed = [answer for answer in answers if not bench.succeeded(answer, f"a new adapter, {version}")]
            if failed:
                return False
            for answer in answers:
                bench.known.add(version, answer)
            again = [
                bench.judge(answer, version, f"{version}, twice") for answer in await _ask_all(bench, name, PROMPTS)
            ]
    except ControlRefused as error:
        raise CannotTest(
            f"{version} cannot be loaded: {error}; does the engine see {bench.shelf.engine_folder} (--engine-sees)?"
        ) from error
    if bench.known.is_like(version, BASE, PROMPTS):
        bench.findings.failed(Property.NO_EFFECT, f"{version} was loaded, and answers as the base model does")
        return False
    bench.findings.passed(Property.NO_EFFECT)
    return all(again)


async def _ask_all(bench: Bench, name: str, prompts: Sequence[str]) -> list[TimedAnswer]:
    """Asks the prompts at once: with a single adapter there is nothing that the engine could mix up."""
    return await asyncio.gather(*(bench.ask(name, prompt) for prompt in prompts))


def _is_distinct(bench: Bench, version: str, chosen: list[str]) -> bool:
    for other in (BASE, *chosen):
        if bench.known.is_like(version, other, PROMPTS):
            bench.findings.failed(
                Property.WRONG_VERSION, f"{version} and {other} have other weights, and answer alike", SHORT_TOKENS
            )
        if not bench.known.are_distinct(version, other, PROMPTS):
            return False
    return True
