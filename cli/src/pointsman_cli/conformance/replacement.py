"""Checks of the swap test that replace and unload adapters while no other requests run.

So the cause of a wrong answer is clear.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pointsman_cli.conformance.bench import LONG_PROMPT, LONG_TOKENS, MOVING_PART, PROMPTS, Bench, Chosen
from pointsman_cli.conformance.errors import ControlRefused
from pointsman_cli.conformance.findings import Property

WARM, *COLD = PROMPTS
"""The prompt that the engine has in its prefix cache before each replacement, and one prompt per replacement that it
has not seen."""
TOKENS_BEFORE = 2
"""How many tokens of a streamed answer arrive before the test replaces its adapter."""
UNLOAD_DELAY_SECONDS = 5.0
"""For how many seconds an unloaded adapter may still answer, since a fleet's engines unload it one after another."""


async def check_replacements(bench: Bench, chosen: Chosen) -> None:
    """Checks answers during and after replacing an adapter, in each way that `bench.control` can replace one.

    Records whether the prefix cache keeps parts of the old version, and whether an answer in progress ends with the
    version that began it. Raises ControlRefused if an adapter cannot be loaded.
    """
    for number, form in enumerate(bench.control.forms):
        bench.say(f"replacing {form}")
        async with bench.holding({f"{MOVING_PART}-{number}": chosen.old}) as (name,):
            await _check_stale_blocks(bench, chosen, name, form)
        async with bench.holding({f"{MOVING_PART}-in-flight-{number}": chosen.old}) as (name,):
            await _check_in_flight(bench, chosen, name, form)


async def _check_stale_blocks(bench: Bench, chosen: Chosen, name: str, form: str) -> None:
    bench.judge(await bench.ask(name, WARM), chosen.old, f"{form}, before")
    for before, after, cold_prompt in ((chosen.old, chosen.new, COLD[0]), (chosen.new, chosen.old, COLD[1])):
        try:
            await bench.control.replace(name, after, form)
        except ControlRefused as error:
            bench.findings.weak(Property.FAILED_REQUESTS, f"{after} cannot replace {before} {form}: {error}")
            return
        warm = await bench.ask(name, WARM)
        cold = await bench.ask(name, cold_prompt)
        if bench.judge(cold, after, f"replaced {form}, a prompt that was not sent before"):
            bench.judge(warm, after, f"replaced {form}, a prompt that {before} has answered", Property.STALE_CACHE)


async def _check_in_flight(bench: Bench, chosen: Chosen, name: str, form: str) -> None:
    async with _streaming(bench, name) as stream:
        try:
            await bench.control.replace(name, chosen.new, form)
        except ControlRefused as error:
            what = f"with a request in flight, replacing {form} is refused: {error}"
            bench.findings.weak(Property.FAILED_REQUESTS, what)
        else:
            await stream.judge(bench, chosen.old, f"replaced {form}")


async def check_unloading(bench: Bench, chosen: Chosen) -> None:
    """Unloads an adapter while it answers, then requests it again, and records both answers.

    The answer in progress should end with the weights with which it began, and the later request should fail. Raises
    ControlRefused if the adapter cannot be loaded.
    """
    name = bench.name("leaving")
    await bench.load(name, chosen.first)
    async with _streaming(bench, name) as stream:
        try:
            await bench.unload(name)
        except ControlRefused as error:
            bench.findings.weak(Property.FAILED_REQUESTS, f"an adapter cannot be unloaded: {error}")
            return
        await stream.judge(bench, chosen.first, "unloaded")
    deadline = time.monotonic() + UNLOAD_DELAY_SECONDS
    answer = await bench.ask(name, COLD[0])
    while not answer.error and time.monotonic() < deadline:
        answer = await bench.ask(name, COLD[0])
    if answer.error and answer.status >= 400:
        bench.findings.passed(Property.WRONG_VERSION)
    elif answer.error:
        bench.succeeded(answer, "an adapter that was unloaded")
    elif bench.known.compare(answer, chosen.first).is_same:
        bench.findings.weak(Property.WRONG_VERSION, "an adapter that was unloaded is still served")
    else:
        what = f"an adapter that was unloaded is answered: {bench.describe(answer, chosen.first)}"
        bench.findings.failed(Property.WRONG_VERSION, what, len(answer.tokens))


class _Stream:
    """A long answer in progress."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.started = asyncio.Event()
        """Set once the first tokens have arrived, or the answer has ended or failed."""
        self.tokens = 0
        self.tokens_at_change = 0
        self.task = asyncio.create_task(
            bench.api.complete(bench.control.model(name), LONG_PROMPT, LONG_TOKENS, self._count)
        )
        self.task.add_done_callback(lambda _: self.started.set())

    def _count(self, tokens: int) -> None:
        self.tokens = tokens
        if tokens >= TOKENS_BEFORE:
            self.started.set()

    async def judge(self, bench: Bench, version: str, what: str) -> None:
        """Waits for the end, and records whether it came from the version that began the answer."""
        answer = await self.task
        if answer.error:
            bench.findings.weak(Property.IN_FLIGHT, f"{what} in flight: the stream ended with an error: {answer.error}")
        elif self.tokens_at_change >= len(answer.tokens):
            bench.findings.note("the answers are too short, or too fast, for a change during them")
        elif (
            bench.known.compare(answer, version).is_same
            and bench.known.compare(answer, version).compared <= self.tokens_at_change
        ):
            bench.findings.note(f"{what} in flight: rounding hides whose the end of the answer is")
        else:
            bench.judge(answer, version, f"{what} in flight", Property.IN_FLIGHT)


@asynccontextmanager
async def _streaming(bench: Bench, name: str) -> AsyncIterator[_Stream]:
    """Yields an answer of the adapter after its first tokens; at the end of the block, waits until it has ended."""
    stream = _Stream(bench, name)
    try:
        await stream.started.wait()
        stream.tokens_at_change = stream.tokens
        yield stream
        await stream.task
    finally:
        stream.task.cancel()
