"""Carries out the swap test: the checks that the plan allows, one after the other, and the clean-up."""

from collections.abc import Awaitable, Callable

from pointsman_cli.conformance.bench import Bench, Chosen
from pointsman_cli.conformance.errors import CannotTest, ControlRefused, LimitReached
from pointsman_cli.conformance.findings import Property
from pointsman_cli.conformance.harm import check_harm
from pointsman_cli.conformance.hostile import check_file_names, check_unfit_adapters
from pointsman_cli.conformance.learning import learn
from pointsman_cli.conformance.plan import ADAPTERS_AT_ONCE, SwapPlan
from pointsman_cli.conformance.replacement import check_replacements, check_unloading
from pointsman_cli.conformance.restart import check_restart
from pointsman_cli.conformance.under_load import check_eviction, run_load

HARM = "what can stop an engine"
"""The name of the check that may stop the engine, which is the last check of a test."""

Check = tuple[str, Callable[[], Awaitable[object]]]


async def run_swap_test(bench: Bench, plan: SwapPlan) -> None:
    """Carries out the checks of the plan one after the other, and records the results in `bench.findings`.

    Raises CannotTest if the engine's adapters cannot be loaded or told apart, unless a property has already failed. The
    adapters of the test are unloaded in any case.
    """
    for about, why in plan.untested().items():
        bench.findings.skip(about, why)
    try:
        bench.say("learning what each version answers")
        try:
            chosen = await learn(bench)
        except CannotTest as error:
            if not any(bench.findings.is_failed(each) for each in Property):
                raise
            bench.findings.leave_out("all checks after learning the versions", str(error))
            return
        await _carry_out(bench, _checks(bench, chosen, plan))
        unseen = bench.findings.untested - plan.untested().keys()
        for about in sorted(unseen if not bench.findings.not_done else ()):
            bench.findings.leave_out(f"what shows {about}", "nothing could be observed")
    except LimitReached as error:
        bench.findings.leave_out("learning what each version answers", f"the test ended at {error}")
    finally:
        bench.say("cleaning up")
        await bench.clean_up()


async def _carry_out(bench: Bench, checks: list[Check]) -> None:
    """Carries out the checks; those that cannot be, and those after a limit, are recorded as left out."""
    for number, (name, check) in enumerate(checks):
        bench.say(name)
        try:
            try:
                await check()
            except ControlRefused as error:
                bench.findings.leave_out(name, str(error))
            if name != HARM and not await bench.is_alive():
                bench.findings.failed(Property.FAILED_REQUESTS, f"the engine stops after: {name}")
                return
        except LimitReached as error:
            for left, _ in checks[number:]:
                bench.findings.leave_out(left, f"the test ended at {error}")
            return


def _checks(bench: Bench, chosen: Chosen, plan: SwapPlan) -> list[Check]:
    checks: list[Check] = [
        ("replacing adapters", lambda: check_replacements(bench, chosen)),
        ("unloading an adapter", lambda: check_unloading(bench, chosen)),
        ("adapters that do not fit", lambda: check_unfit_adapters(bench)),
        ("names that are paths", lambda: check_file_names(bench)),
        ("load", lambda: run_load(bench, chosen, plan.load_seconds, plan.concurrency)),
    ]
    if plan.may_evict:
        checks.append(("more adapters than slots", lambda: check_eviction(bench, chosen, plan.slots)))
    checks.append(("the base model", lambda: bench.check_base("the base model, at the end")))
    if plan.restart_command:
        checks.append(("a restart", lambda: check_restart(bench, chosen, plan.restart_command)))
    if plan.harmful:
        slots = plan.slots or ADAPTERS_AT_ONCE
        checks.append((HARM, lambda: check_harm(bench, chosen, slots, plan.restart_command)))
    return checks
