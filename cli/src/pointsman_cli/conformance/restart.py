"""Restarts the engine by the user's command, and checks which weights answer under the adapters' names afterwards."""

import asyncio
import time

from pointsman_cli.conformance.answers import BASE
from pointsman_cli.conformance.bench import PROMPTS, RETRY_SECONDS, Bench, Chosen
from pointsman_cli.conformance.command_control import run_command
from pointsman_cli.conformance.errors import ControlRefused
from pointsman_cli.conformance.findings import Property

START_SECONDS = 600.0


async def check_restart(bench: Bench, chosen: Chosen, command: list[str]) -> None:
    """Loads two adapters, restarts the engine, requests both adapters again, and records their answers.

    Each adapter should answer as before, or the engine should refuse the request. `command` must not end before the old
    process has ended. Raises ControlRefused if an adapter cannot be loaded.
    """
    names = {bench.name("restarted-1"): chosen.first, bench.name("restarted-2"): chosen.new}
    for name, version in names.items():
        await bench.load(name, version)
        bench.judge(await bench.ask(name, PROMPTS[0]), version, "before the restart")
    if not await restart(bench, command):
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
    for name in names:
        try:
            await bench.unload(name)
        except ControlRefused:
            bench.loaded.discard(name)  # it is gone


async def restart(bench: Bench, command: list[str]) -> bool:
    """Restarts the engine by `command`, and records in `bench.findings` whether the base model answers as before.

    Returns True if the base model answers within START_SECONDS after the command has ended. If it does not, or the
    command fails, returns False, and the findings say that a restart was not tested.
    """
    try:
        await run_command(command, START_SECONDS)
    except ControlRefused as error:
        bench.findings.leave_out("a restart", f"the command to restart the engine failed: {error}")
        return False
    deadline = time.monotonic() + START_SECONDS
    while (answer := await bench.ask_base(PROMPTS[0])).error:
        if time.monotonic() > deadline:
            what = f"the base model does not answer {START_SECONDS:g} s after the restart: {answer.error}"
            bench.findings.failed(Property.RESTART, what)
            return False
        await asyncio.sleep(RETRY_SECONDS)
    bench.judge(answer, BASE, "the base model, after a restart", Property.BASE_CHANGED)
    return True
