"""Measures what a fleet of 1 to 1,000 engines costs one gateway: the CPU time of its own classes.

    python -m benchmarks.fleet [--engines 1 10 100 1000] [--adapters 10000] [--held 64]

Each engine's lora-server is a double: it makes the messages of a real one, and the gateway's `LoraServerClient` stores
them. Every step between two returns to the event loop is timed, since it delays all streams; the garbage collector is
off meanwhile. The last line of output is one JSON object.
"""

import argparse
import asyncio
import gc
import json
import random
import tracemalloc
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import mean, median, quantiles
from time import thread_time

import grpc
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_gateway.domain import Message, Path
from pointsman_gateway.engines.aliases import Aliases
from pointsman_gateway.engines.balancing import PromptKey, Rings, SpillTargets, TargetQueue, hash_prompt
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.lookups import Target
from pointsman_gateway.engines.lora_server import LoraServerClient
from pointsman_gateway.engines.metrics import EngineMetrics
from prometheus_client import CollectorRegistry

from benchmarks.gateway_load.machine import describe_machine

MODEL = "llama-70b"
BASE = Path("base", MODEL)
MOVES = 20
LOOKUPS = 2000
BOUND = 1.25


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs at one size of the fleet."""

    engines: int
    adapters: int
    parse_ms: float
    """Milliseconds to parse one complete message of a lora-server with protobuf."""
    first_report_ms: float
    """Milliseconds to store the first engine's message, when no catalog is known yet."""
    next_report_ms: float
    """Milliseconds to store the message of another engine (median)."""
    report_step_ms: float
    """Milliseconds of the longest step of storing any message."""
    move_us: float
    """Microseconds to store one engine's report that an alias has moved (mean)."""
    move_step_ms: float
    load_us: float
    """Microseconds to store the report that an engine has loaded a version."""
    ready_us: float
    """Microseconds to store the reports that an engine is not ready, and ready again."""
    lookup_us: float
    """Microseconds to find the engines that hold a version, while versions are loaded elsewhere (median)."""
    lookup_p99_us: float
    base_lookup_us: float
    """Microseconds to find all engines of the base model."""
    choice_us: float
    """Microseconds to choose one of them by a conversation's hash."""
    names_ms: float
    """Milliseconds to list the names of all adapters, for /v1/models."""
    leave_ms: float
    """Milliseconds to forget the reports of an engine that has left (the longest)."""


def version(number: int) -> str:
    return f"adapter-{number:05}@{number:012x}"


def alias(number: int, revision: int = 1) -> pb.Alias:
    return pb.Alias(alias=f"adapter-{number:05}@prod", version=version(number), revision=revision)


class Fleet:
    """A gateway's engines, each with the client of its lora-server."""

    def __init__(self, engines: int, adapters: int, held: int) -> None:
        self.adapters, self.held = adapters, min(held, adapters)
        self.versions = [version(number) for number in range(adapters)]
        self.aliases = Aliases()
        self.states = [EngineState(Engine(f"fleet/{number}", MODEL)) for number in range(engines)]
        self.engines = Engines(self.states, aliases=self.aliases)
        self._clients = [self._client(state) for state in self.states]
        self._sequence = 0
        seconds = dict.fromkeys(self.versions, 600.0)
        self._registry = pb.EngineState(aliases=map(alias, range(adapters)), training_seconds=seconds)

    def _client(self, state: EngineState) -> LoraServerClient:
        channel = grpc.aio.insecure_channel("127.0.0.1:1")  # nothing is sent over it
        own = Engines([state], aliases=self.aliases)
        return LoraServerClient(own, state.engine.name, channel, EngineMetrics(CollectorRegistry()))

    def resident(self, engine: int) -> list[str]:
        return [self.versions[(engine * self.held + number) % self.adapters] for number in range(self.held)]

    def complete(self, engine: int) -> pb.EngineState:
        """Returns the first message of an engine's lora-server."""
        resident = self.resident(engine)
        loadable = set(self.versions).difference(resident)
        message = pb.EngineState(resident=resident, loadable=sorted(loadable))
        message.MergeFrom(self._registry)
        return message

    def store(self, engine: int, message: pb.EngineState) -> list[float]:
        """Makes the gateway store a report; returns the seconds of each step."""
        self._sequence += 1
        message.base_model, message.url, message.sequence = MODEL, "http://10.0.0.1:8101", self._sequence
        if message.status == pb.ENGINE_STATUS_UNSPECIFIED:
            message.status = pb.ENGINE_STATUS_READY
        return steps(self._clients[engine]._store(message, not message.is_change))


def steps(work: Coroutine[object, None, None]) -> list[float]:
    """Runs a coroutine that only yields to the event loop; returns the seconds of each step."""
    found, done = [], False
    while not done:
        began = thread_time()
        try:
            work.send(None)
        except StopIteration:
            done = True
        found.append(thread_time() - began)
    return found


def timed(work: Callable[[], object]) -> float:
    """Returns the seconds that a call takes."""
    began = thread_time()
    work()
    return thread_time() - began


async def measure(engines: int, adapters: int, held: int) -> Costs:
    gc.collect()
    fleet = Fleet(engines, adapters, held)
    wire = fleet.complete(0).SerializeToString()
    parse = min(timed(lambda: pb.EngineState.FromString(wire)) for _ in range(5))
    reports = [fleet.store(number, fleet.complete(number)) for number in range(engines)]
    moves = [fleet.store(engine, move(number)) for number in range(MOVES) for engine in range(engines)]
    lookups, loads = measure_lookups(fleet)
    base = [timed(lambda: fleet.engines.targets(BASE)) for _ in range(LOOKUPS)]
    return Costs(
        engines,
        adapters,
        1e3 * parse,
        1e3 * sum(reports[0]),
        1e3 * median(map(sum, reports)),
        1e3 * max(map(max, reports)),
        1e6 * mean(map(sum, moves)),
        1e3 * max(map(max, moves)),
        1e6 * median(loads),
        1e6 * median(measure_readiness(fleet)),
        1e6 * median(lookups),
        1e6 * quantiles(lookups, n=100)[-1],
        1e6 * median(base),
        1e6 * median(measure_choices(fleet)),
        1e3 * median(timed(fleet.engines.adapters) for _ in range(5)),
        1e3 * max(timed(partial(fleet.aliases.forget, f"fleet/{number}")) for number in range(engines)),
    )


def move(number: int) -> pb.EngineState:
    return pb.EngineState(is_change=True, aliases=[alias(number, revision=2)])


def measure_lookups(fleet: Fleet) -> tuple[list[float], list[float]]:
    """Returns seconds of lookups of random versions, and of the loads of others that happen in between."""
    dice, lookups, loads = random.Random(7), [], []
    paths = [
        Path("adapted", MODEL, adapter=held) for engine in range(len(fleet.states)) for held in fleet.resident(engine)
    ]
    for _ in range(2):  # the first lookup of a version searches all engines
        for path in paths:
            fleet.engines.targets(path)
    for number in range(LOOKUPS):
        path = dice.choice(paths)
        lookups.append(timed(partial(fleet.engines.targets, path)))
        if number % 10 == 0:
            loaded = dice.choice(fleet.versions)
            message = pb.EngineState(is_change=True, resident=[loaded], training_seconds={loaded: 600.0})
            loads.append(sum(fleet.store(dice.randrange(len(fleet.states)), message)))
    return lookups, loads


def measure_readiness(fleet: Fleet) -> list[float]:
    statuses = [pb.ENGINE_STATUS_DOWN, pb.ENGINE_STATUS_READY] * 10
    return [sum(fleet.store(0, pb.EngineState(is_change=True, status=status))) for status in statuses]


def measure_choices(fleet: Fleet) -> list[float]:
    spilled, rings, found = SpillTargets(), Rings(), []
    targets = fleet.engines.targets(BASE)
    for number in range(500):
        messages = [Message("user", f"conversation {number}")]
        found.append(timed(partial(choose, targets, hash_prompt(messages, messages), spilled, rings)))
    return found


def choose(targets: Sequence[Target], key: PromptKey, spilled: SpillTargets, rings: Rings) -> Target | None:
    return TargetQueue(targets, key, BOUND, spilled, rings.of(targets)).take()


async def kilobytes_per_engine(adapters: int, held: int, engines: int = 22) -> float:
    """Returns the kilobytes of memory per engine, beyond the first two engines."""
    fleet, begin = Fleet(engines, adapters, held), 0
    tracemalloc.start()
    for number in range(engines):
        if number == 2:
            gc.collect()
            begin = tracemalloc.get_traced_memory()[0]
        fleet.store(number, fleet.complete(number))
    gc.collect()
    end = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (end - begin) / (engines - 2) / 1024


def show(costs: Sequence[Costs]) -> None:
    for name in costs[0].__slots__:
        print(f"{name:<18}" + "".join(f"{getattr(each, name):>12.4g}" for each in costs))


async def run(sizes: Sequence[int], adapters: int, held: int) -> None:
    costs = [await measure(size, adapters, held) for size in sizes]
    show(costs)
    memory = await kilobytes_per_engine(adapters, held)
    print(f"memory of each further engine: {memory:.0f} kB")
    print(json.dumps({"fleet": [asdict(each) for each in costs], "kilobytes_per_engine": memory}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--held", type=int, default=64, help="versions in each engine")
    options = parser.parse_args()
    print(describe_machine(), flush=True)
    gc.disable()
    asyncio.run(run(options.engines, options.adapters, options.held))


if __name__ == "__main__":
    main()
