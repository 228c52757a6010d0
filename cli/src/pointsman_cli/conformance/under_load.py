"""Replaces, loads and unloads adapters while the base model and several adapters answer, and checks every answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from pointsman_cli.conformance.answers import BASE, TimedAnswer
from pointsman_cli.conformance.bench import MOVING_PART, PROMPTS, RETRY_SECONDS, SHORT_TOKENS, Bench, Chosen
from pointsman_cli.conformance.controls import RELOAD
from pointsman_cli.conformance.errors import ControlRefused, LimitReached
from pointsman_cli.conformance.findings import Property

MOVE_INTERVAL_SECONDS = 1.0
SWITCH_SECONDS = 0.5
"""Seconds after a replacement in which the old version may still answer, since a fleet's engines change one by one."""
FIRST, SECOND, MOVES = "first", "second", "moves"
RESERVED_REQUESTS = 200
"""How many of the test's maximum number of requests are kept for the checks after the load."""
STREAMS = (BASE, FIRST, SECOND, MOVES, FIRST, MOVES)
"""The model that each concurrent request asks: the base model or one of three adapters.

With a higher concurrency, the list is repeated.
"""


NOT_FOUND = (400, 404)
"""The HTTP statuses with which engines refuse a request for an adapter that is not loaded."""


@dataclass(frozen=True, slots=True)
class Move:
    """One replacement of an adapter's weights under load: the new version, and when the replacement began and ended."""

    version: str
    """The version whose weights the adapter got."""
    called: float
    """When the replacement was called, in seconds of `time.monotonic`."""
    returned: float
    """When the replacement had ended, in seconds of `time.monotonic`."""


async def run_load(bench: Bench, chosen: Chosen, seconds: float, concurrency: int) -> None:
    adapters = {"first": chosen.first, "second": chosen.second, f"{MOVING_PART}-under-load": chosen.old}
    async with bench.holding(adapters) as (first, second, moving):
        models: dict[str, Callable[[str], Awaitable[TimedAnswer]]] = {
            BASE: bench.ask_base,
            FIRST: lambda prompt: bench.ask(first, prompt),
            SECOND: lambda prompt: bench.ask(second, prompt),
            MOVES: lambda prompt: bench.ask(moving, prompt),
        }
        who = [STREAMS[number % len(STREAMS)] for number in range(concurrency)]
        moves = [Move(chosen.old, 0.0, 0.0)]
        limit: LimitReached | None = None
        async with _streaming(bench, [models[each] for each in who]) as answers:
            try:
                await _move(bench, chosen, moving, moves, time.monotonic() + seconds)
            except LimitReached as error:  # what was observed before counts
                limit = error
    for each, given in zip(who, answers, strict=True):
        for answer in given:
            if each == MOVES:
                _judge_moving(bench, answer, moves)
            else:
                version = {BASE: BASE, FIRST: chosen.first, SECOND: chosen.second}[each]
                about = Property.BASE_CHANGED if each == BASE else Property.WRONG_VERSION
                bench.judge(answer, version, f"under load, {version}", about)
    replaced, requests = len(moves) - 1, sum(map(len, answers))
    bench.findings.note(f"{replaced} replacements under load of {requests} requests")
    if limit:
        raise limit
    if not replaced or requests < concurrency:
        few = f"{replaced} replacements under {requests} requests show nothing"
        raise ControlRefused(f"{few}: raise --load-seconds or --max-requests")


@asynccontextmanager
async def _streaming(
    bench: Bench, asking: Sequence[Callable[[str], Awaitable[TimedAnswer]]]
) -> AsyncIterator[list[list[TimedAnswer]]]:
    """Asks without a pause during the block, as many requests at once as `asking` has functions.

    Yields the list of answers of each, which is complete after the block. If the block raises, requests are cancelled.
    """
    ending = asyncio.Event()
    answers: list[list[TimedAnswer]] = [[] for _ in asking]
    async with asyncio.TaskGroup() as group:
        for number, (ask, given) in enumerate(zip(asking, answers, strict=True)):
            group.create_task(_stream(bench, ask, number, ending, given))
        yield answers
        ending.set()


async def _stream(
    bench: Bench,
    ask: Callable[[str], Awaitable[TimedAnswer]],
    number: int,
    ending: asyncio.Event,
    answers: list[TimedAnswer],
) -> None:
    """Asks one prompt after the other until `ending` is set; each stream begins with another prompt.

    After a failure it waits, so that an overloaded engine is not asked at once again.
    """
    while not ending.is_set() and bench.api.requests_left > RESERVED_REQUESTS:
        try:
            answers.append(await ask(PROMPTS[(number + len(answers)) % len(PROMPTS)]))
        except LimitReached:
            return
        if answers[-1].error:
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await ending.wait()


async def _move(bench: Bench, chosen: Chosen, moving: str, moves: list[Move], until: float) -> None:
    """Replaces the adapter and loads a guest in turn, until the time; adds the versions of the adapter to `moves`."""
    turn = 0
    while time.monotonic() < until and bench.api.requests_left > RESERVED_REQUESTS:
        turn += 1
        await asyncio.sleep(MOVE_INTERVAL_SECONDS)
        try:
            if turn % 3 == 0:
                async with bench.holding({f"guest-{turn}": chosen.first}) as (guest,):
                    answer = await bench.ask(guest, PROMPTS[turn % len(PROMPTS)], SHORT_TOKENS)
                bench.judge(answer, chosen.first, "under load, a guest")
                continue
            version = chosen.new if moves[-1].version == chosen.old else chosen.old
            called = time.monotonic()
            await bench.control.replace(moving, version, bench.control.forms[0])
            moves.append(Move(version, called, time.monotonic()))
        except ControlRefused as error:
            bench.findings.weak(Property.FAILED_REQUESTS, f"a change under load is refused: {error}")


def _judge_moving(bench: Bench, answer: TimedAnswer, moves: Sequence[Move]) -> None:
    """Records whether an answer of the adapter that is replaced is of one version that it had meanwhile."""
    known, findings = bench.known, bench.findings
    is_overlapped = any(move.called <= answer.ended and move.returned >= answer.started for move in moves)
    if is_overlapped and answer.status in NOT_FOUND and bench.control.forms[0] == RELOAD:
        what = f"under load, an adapter that is replaced is refused between its unloading and loading: {answer.error}"
        findings.weak(Property.FAILED_REQUESTS, what)
        return
    if not bench.succeeded(answer, "under load, an adapter that is replaced"):
        return
    allowed = [
        move.version
        for move, following in zip(moves, [*moves[1:], Move("", float("inf"), float("inf"))], strict=True)
        if move.called <= answer.first_token and following.returned + SWITCH_SECONDS >= answer.started
    ]
    if known.version_of(answer, allowed):
        findings.passed(Property.WRONG_VERSION)
        return
    compared = [known.compare(answer, version) for version in allowed]
    what = f"under load, an adapter that is replaced: {bench.describe(answer, allowed[-1])}"
    if is_overlapped and any(each.agreeing for each in compared):
        about = Property.IN_FLIGHT
    elif not known.version_of(answer, (BASE, *bench.shelf.versions())) and findings.is_failed(Property.STALE_CACHE):
        about = Property.STALE_CACHE  # which was shown without load, and explains a mixture
    else:
        about = Property.WRONG_VERSION
    findings.failed(about, what, min(each.wrong for each in compared))


async def check_eviction(bench: Bench, chosen: Chosen, slots: int) -> None:
    """Loads one adapter more than the engine can hold (`slots`), requests each of them twice, and checks the answers.

    If the engine refuses to load an adapter, only the adapters that are loaded are requested.
    """
    versions = [chosen.all[number % len(chosen.all)] for number in range(slots + 1)]
    loaded: dict[str, str] = {}
    for number, version in enumerate(versions):
        name = bench.name(f"slot-{number}")
        try:
            await bench.load(name, version)
        except ControlRefused as error:
            bench.findings.note(f"after {number} adapters another one is refused: {error}")
            break
        loaded[name] = version
    for turn in range(2):
        answers = await asyncio.gather(*(bench.ask(name, PROMPTS[turn]) for name in loaded))
        for answer, version in zip(answers, loaded.values(), strict=True):
            bench.judge(answer, version, f"{len(loaded)} adapters in {slots} slots")
    for name in loaded:
        try:
            await bench.unload(name)
        except ControlRefused as error:
            bench.findings.note(f"an adapter of the test could not be unloaded: {error}")
