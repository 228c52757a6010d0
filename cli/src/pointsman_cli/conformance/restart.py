"""Restarts the engine by the caller's command, and looks what it then answers under the names of adapters."""

import asyncio
import time

from pointsman_cli.conformance.answers import BASE
from pointsman_cli.conformance.bench import PROMPTS, Bench, Chosen
from pointsman_cli.conformance.controls import ControlRefused, run_command
from pointsman_cli.conformance.findings import Property

START_SECONDS = 600.0
RETRY_SECONDS = 2.0


async def check_restart(bench: Bench, chosen: Chosen, command: list[str]) -> None:
    """Loads adapters if the engine answers, restarts it, and requests them again.

    `command` must end when the old process has ended; the test waits up to `START_SECONDS` until the new one answers.
    """
    adapters = {"before-restart-1": chosen.first, "before-restart-2": chosen.new}
    names = {bench.name(suffix): version for suffix, version in adapters.items()}
    was_alive = await bench.api.answers_within(0)
    if was_alive:
        for name, version in names.items():
            await bench.load(name, version)
            bench.judge(await bench.ask(name, PROMPTS[0]), version, "before the restart")
    try:
        await run_command(command)
    except ControlRefused as error:
        bench.findings.skip(Property.RESTART, f"the command to restart failed: {error}")
        return
    if not await _base_answers(bench):
        return
    if not was_alive:
        bench.findings.note("the engine had stopped before its restart, so no adapter was loaded then")
        return
    for name, version in names.items():
        answer = await bench.ask(name, PROMPTS[1])
        if answer.error:
            bench.findings.weak(Property.RESTART, f"an adapter is gone, and refused: {answer.error}")
        elif bench.known.compare(answer, version).is_same:
            bench.findings.passed(Property.RESTART)
        else:
            what = f"an adapter that was loaded before: {bench.describe(answer, version)}"
            bench.findings.failed(Property.RESTART, what, len(answer.tokens))


async def _base_answers(bench: Bench) -> bool:
    """Asks the base model until it answers, for `START_SECONDS` at most; judges the answer. Returns whether it did."""
    deadline = time.monotonic() + START_SECONDS
    while (answer := await bench.ask_base(PROMPTS[0])).error:
        if time.monotonic() > deadline:
            what = f"the base model does not answer {START_SECONDS:g} s after the restart: {answer.error}"
            bench.findings.failed(Property.RESTART, what)
            return False
        await asyncio.sleep(RETRY_SECONDS)
    bench.judge(answer, BASE, "the base model, after the restart", Property.BASE_CHANGED)
    return True
