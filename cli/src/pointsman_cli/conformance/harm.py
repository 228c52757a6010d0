"""The checks of the swap test that may crash an engine, or make its answers wrong until a restart.

They run only with the option --harmful.
"""

from collections.abc import Awaitable, Callable

from pointsman_cli.conformance.adapter_shelf import HALF_BROKEN, NAN
from pointsman_cli.conformance.bench import MOVING_PART, PROMPTS, Bench, Chosen
from pointsman_cli.conformance.controls import RELOAD
from pointsman_cli.conformance.errors import ControlRefused
from pointsman_cli.conformance.findings import Property
from pointsman_cli.conformance.restart import restart

Harm = Callable[[Bench, Chosen, int], Awaitable[None]]


async def check_harm(bench: Bench, chosen: Chosen, slots: int, restart_command: list[str]) -> None:
    """Carries out the checks that may stop the engine or make its answers wrong, such as loading an adapter with NaN.

    `slots` is the number of adapters that the engine can hold. If a check stopped the engine or changed the base
    model's answers, the command `restart_command` restarts the engine. If the command is empty or fails, the remaining
    checks are left out.
    """
    for name, harm in HARMS.items():
        bench.say(name)
        try:
            await harm(bench, chosen, slots)
        except ControlRefused as error:
            bench.findings.leave_out(name, str(error))
        if not await bench.is_alive():
            bench.findings.failed(Property.FAILED_REQUESTS, f"the engine stops after: {name}")
        elif await bench.check_base(f"the base model, after: {name}"):
            continue
        bench.loaded.clear()
        if not restart_command or not await restart(bench, restart_command):
            bench.findings.note(f'restart the engine; after "{name}" nothing else was tried')
            return


async def _load_nan(bench: Bench, chosen: Chosen, slots: int) -> None:
    name = bench.name("nan")
    try:
        await bench.load(name, NAN)
    except ControlRefused:
        bench.loaded.discard(name)
        return
    await bench.ask(name, PROMPTS[0])
    await bench.unload(name)


async def _fail_to_replace(bench: Bench, chosen: Chosen, slots: int) -> None:
    """Replaces an adapter by one whose last tensor does not fit: the version before should go on serving."""
    form = bench.control.forms[0]
    if form == RELOAD:
        return  # it has unloaded the version before, when the load is refused
    async with bench.holding({f"{MOVING_PART}-broken": chosen.old}) as (name,):
        bench.judge(await bench.ask(name, PROMPTS[0]), chosen.old, "before a replacement that is refused")
        try:
            await bench.control.replace(name, HALF_BROKEN, form)
        except ControlRefused:
            bench.findings.passed(Property.NO_EFFECT)
        else:
            bench.findings.failed(Property.NO_EFFECT, f"an adapter whose last tensor does not fit is accepted {form}")
            return
        bench.judge(await bench.ask(name, PROMPTS[1]), chosen.old, f"after a replacement that was refused ({form})")


async def _remove_folder(bench: Bench, chosen: Chosen, slots: int) -> None:
    """Removes an adapter's folder, lets others take its slot, and requests it: it may be refused then."""
    vanished = bench.name("vanished")
    others = {bench.name(f"other-{number}"): chosen.first for number in range(slots)}
    await bench.load(vanished, chosen.second)
    bench.judge(await bench.ask(vanished, PROMPTS[0]), chosen.second, "an adapter whose folder is there")
    bench.shelf.withdraw(vanished)
    for name, version in others.items():
        try:
            await bench.load(name, version)
        except ControlRefused:
            break
        bench.judge(await bench.ask(name, PROMPTS[0]), version, "an adapter that takes another's slot")
    answer = await bench.ask(vanished, PROMPTS[1])
    if not answer.error:
        bench.judge(answer, chosen.second, "an adapter whose folder is gone")
    for name in (vanished, *others):
        try:
            await bench.unload(name)
        except ControlRefused:
            bench.loaded.discard(name)


HARMS: dict[str, Harm] = {
    "an adapter with NaN": _load_nan,
    "a replacement that is refused": _fail_to_replace,
    "an adapter whose folder is gone": _remove_folder,
}
