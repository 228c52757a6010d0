"""Replaces and unloads adapters while nothing else happens, so that each answer has one explanation."""

import asyncio
import time

from pointsman_cli.conformance.adapter_shelf import HALF_BROKEN
from pointsman_cli.conformance.answers import Answer
from pointsman_cli.conformance.bench import LONG_PROMPT, LONG_TOKENS, MOVING_PART, PROMPTS, Bench, Chosen
from pointsman_cli.conformance.controls import ControlRefused
from pointsman_cli.conformance.findings import Property

WARM, *COLD = PROMPTS
"""The prompt whose blocks are cached before each replacement, and for each replacement one that was not sent before."""
TOKENS_BEFORE = 2
"""Tokens of a stream after which its adapter is replaced."""
UNLOAD_DELAY_SECONDS = 5.0
"""How long an unloaded adapter may still be served, by a fleet that follows a registry."""


async def check_replacements(bench: Bench, chosen: Chosen) -> None:
    """Replaces an adapter in each way that the control offers, back and forth."""
    for number, form in enumerate(bench.control.forms):
        bench.say(f"replacing {form}")
        async with bench.holding({f"{MOVING_PART}-{number}": chosen.old}) as (name,):
            await _check_stale_blocks(bench, chosen, name, form)
            await _check_failed_replacement(bench, chosen, name, form)
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


async def _check_failed_replacement(bench: Bench, chosen: Chosen, name: str, form: str) -> None:
    """Replaces the adapter by one whose last tensor does not fit: the version before should serve as if nothing was."""
    try:
        await bench.control.replace(name, HALF_BROKEN, form)
    except ControlRefused:
        bench.findings.passed(Property.NO_EFFECT)
    else:
        bench.findings.failed(Property.NO_EFFECT, f"an adapter whose last tensor does not fit was accepted {form}")
        return
    answer = await bench.ask(name, PROMPTS[2])
    if 400 <= answer.status < 500:
        bench.findings.weak(Property.FAILED_REQUESTS, f"after a replacement that was refused ({form}): {answer.error}")
    else:
        bench.judge(answer, chosen.old, f"after a replacement that was refused ({form})")


async def _check_in_flight(bench: Bench, chosen: Chosen, name: str, form: str) -> None:
    started = asyncio.Event()
    stream = asyncio.create_task(_stream(bench, name, started))
    try:
        await started.wait()
        replacing = time.monotonic()
        await bench.control.replace(name, chosen.new, form)
        _judge_stream(bench, await stream, chosen.old, replacing, f"replaced {form}")
    except ControlRefused as error:
        bench.findings.weak(Property.FAILED_REQUESTS, f"with a request in flight, replacing {form} is refused: {error}")
        await stream
    finally:
        stream.cancel()


async def check_unloading(bench: Bench, chosen: Chosen) -> None:
    """Unloads an adapter while it answers, and then requests it."""
    name = bench.name("leaving")
    await bench.load(name, chosen.first)
    started = asyncio.Event()
    stream = asyncio.create_task(_stream(bench, name, started))
    try:
        await started.wait()
        unloading = time.monotonic()
        await bench.unload(name)
        _judge_stream(bench, await stream, chosen.first, unloading, "unloaded")
    except ControlRefused as error:
        bench.findings.weak(Property.FAILED_REQUESTS, f"an adapter cannot be unloaded: {error}")
        await stream
        return
    finally:
        stream.cancel()
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


async def _stream(bench: Bench, name: str, started: asyncio.Event) -> Answer:
    """Returns a long answer; sets `started` after its first tokens, or when it has failed."""

    def count(tokens: int) -> None:
        if tokens >= TOKENS_BEFORE:
            started.set()

    try:
        return await bench.api.complete(bench.control.model(name), LONG_PROMPT, LONG_TOKENS, count)
    finally:
        started.set()


def _judge_stream(bench: Bench, answer: Answer, version: str, changed: float, what: str) -> None:
    """Records whether a stream that was in flight at the time `changed` ended with the version that began it."""
    if answer.error:
        bench.findings.weak(Property.IN_FLIGHT, f"{what} in flight: the stream ended with an error: {answer.error}")
    elif answer.ended < changed:
        bench.findings.note("the answers are too short, or too fast, for a change during them")
    else:
        bench.judge(answer, version, f"{what} in flight", Property.IN_FLIGHT)
