"""Runs the measurements one after another with a time limit each. A failure is reported and does not stop the
others."""

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from benchmarks.gateway_load import contenders, grpc_calls, junk, latency, profiling, streams, throughput
from benchmarks.gateway_load.contenders import Contender, Setup
from benchmarks.gateway_load.findings import Findings
from benchmarks.gateway_load.http_client import Broken, Connection
from benchmarks.gateway_load.machine import CannotMeasure, NotInstalled, take_cores
from benchmarks.gateway_load.our_gateway import Gateway, start_gateway, start_open_gateway, start_workers
from benchmarks.gateway_load.processes import Processes
from benchmarks.gateway_load.request_bodies import encode_bodies, read_texts, request_bodies
from benchmarks.gateway_load.upstream import Pace
from benchmarks.gateway_load.upstreams import start_upstreams

PHASES = ("rps", "auto", "latency", "streams", "streams1000", "grpc", "junk", "workers")
PACE = Pace(chunks=100, min_gap=0.02, max_gap=0.04)
RATES = (200, 1000)
WORKERS = (1, 2)
MAX_PHASE_SECONDS = 300.0
"""Time limit of one phase."""
MIN_STATIC_TEXTS = 32
"""The number of texts that the static stage must decide; with fewer, `auto` is not measured."""
PEERS_OF = {
    "rps": [
        contenders.NGINX,
        contenders.VLLM_ROUTER,
        contenders.VLLM_ROUTER_DEFAULT,
        contenders.PORTKEY_GATEWAY,
        contenders.LITELLM,
    ],
    "auto": [contenders.VLLM_ROUTER, contenders.VLLM_ROUTER_DEFAULT],
    "latency": [contenders.VLLM_ROUTER],
    "streams": [contenders.NGINX, contenders.VLLM_ROUTER, contenders.PORTKEY_GATEWAY, contenders.LITELLM],
    "streams1000": [contenders.NGINX, contenders.VLLM_ROUTER],
}


@dataclass(frozen=True, slots=True)
class Extent:
    """Numbers and lengths of the measurements."""

    rounds: int
    seconds: float
    warm_up: float
    latency: tuple[int, float]
    streams: int
    slow_streams: bool
    """Whether the streams of slow peers are measured too."""
    grpc: tuple[int, float]
    junk: int
    bodies: int


@dataclass(slots=True)
class Bench:
    """All running contenders and the results so far."""

    setup: Setup
    extent: Extent
    gateway: Gateway
    contenders: dict[str, Contender]
    bodies: throughput.Bodies
    phases: list[str]
    found: Findings = field(default_factory=Findings)

    @classmethod
    async def start(
        cls, processes: Processes, extent: Extent, phases: list[str], only_peers: Collection[str] | None = None
    ) -> "Bench":
        """Starts all contenders; of the phases' peers only those in `only_peers`, if it is given.

        Raises CannotMeasure if the gateway itself does not start.
        """
        started = time.monotonic()
        cores = take_cores()
        upstreams = await start_upstreams(processes, cores, PACE)
        gateway = await start_gateway(processes, cores, upstreams)
        await contenders.check_answer(gateway.path("fast"))
        setup = Setup(processes, cores, upstreams)
        names = dict.fromkeys(name for phase in phases for name in PEERS_OF.get(phase, []))
        peers, missing = await contenders.start_peers(
            setup, [name for name in names if only_peers is None or name in only_peers]
        )
        every = [await contenders.direct(setup), *peers, contenders.ours(gateway)]
        bodies = list(request_bodies(read_texts().test, extent.bodies))
        bench = cls(setup, extent, gateway, {one.name: one for one in every}, bodies, phases)
        bench.found.versions = {one.name: one.version for one in [*every, contenders.ours_auto(gateway)]}
        bench.found.missing = missing
        gc.freeze()  # excludes existing objects from garbage collection, which would pause the load
        print(f"started after {time.monotonic() - started:.0f} s: {'; '.join(bench.contenders)}", flush=True)
        return bench

    async def run(self, name: str) -> None:
        phase: Callable[[Bench], Awaitable[None]] = _PHASES[name]
        started = time.monotonic()
        try:
            async with asyncio.timeout(MAX_PHASE_SECONDS):
                await phase(self)
        except (CannotMeasure, NotInstalled, Broken, OSError) as error:
            self.found.missing[name] = str(error) or type(error).__name__
        except TimeoutError:
            self.found.missing[name] = f"not finished after {time.monotonic() - started:.0f} s"
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)

    def of(self, phase: str) -> list[Contender]:
        names = [contenders.DIRECT, *PEERS_OF[phase], contenders.OURS]
        return [self.contenders[name] for name in names if name in self.contenders]


async def _rps(bench: Bench) -> None:
    """Measures requests per second on a named path and, in the same rounds, on `auto` if it was selected."""
    bodies = [(one, bench.bodies) for one in bench.of("rps")]
    if "auto" in bench.phases:
        try:
            bodies.append(await _auto_contender(bench))
        except CannotMeasure as error:
            bench.found.missing["auto"] = str(error)
    await _measure_rates(bench, bodies)


async def _auto(bench: Bench) -> None:
    if "rps" not in bench.phases:
        peers = [
            (one, bench.bodies) for one in bench.of("auto") if one.name not in (contenders.DIRECT, contenders.OURS)
        ]
        await _measure_rates(bench, [*peers, await _auto_contender(bench)])


async def _measure_rates(bench: Bench, bodies: list[tuple[Contender, throughput.Bodies]]) -> None:
    plan = throughput.Plan(bench.extent.rounds, bench.extent.seconds, bench.extent.warm_up)
    bench.found.rates = await throughput.measure(bodies, plan, bench.setup.processes.folder)


async def _auto_contender(bench: Bench) -> tuple[Contender, throughput.Bodies]:
    """Returns the gateway with the texts that the static stage decides. Raises CannotMeasure if there are too few."""
    static = await _decided_by_static(bench)
    if len(static) < MIN_STATIC_TEXTS:
        raise CannotMeasure(f"the static stage decides only {len(static)} of {len(bench.bodies)} texts")
    print(f"auto: the static stage decides {len(static)} of {len(bench.bodies)} texts; only these are sent", flush=True)
    return contenders.ours_auto(bench.gateway), static


async def _decided_by_static(bench: Bench) -> throughput.Bodies:
    target = bench.gateway.route
    connection = await Connection.to(target.port)
    static = []
    for body, written in zip(bench.bodies, encode_bodies(bench.bodies, target.model), strict=True):
        answer = await connection.ask(target.request(written))
        if answer.status == 200 and json.loads(answer.body)["stage"] == "static":
            static.append(body)
    connection.close()
    return static


async def _latency(bench: Bench) -> None:
    for rate in RATES:
        bench.found.latencies[rate] = await latency.measure(
            bench.of("latency"), bench.bodies, rate, bench.extent.latency
        )


async def _streams(bench: Bench) -> None:
    slow = () if bench.extent.slow_streams else (contenders.PORTKEY_GATEWAY, contenders.LITELLM)
    bodies = [one for one in bench.of("streams") if one.name not in slow]
    rounds = bench.extent.streams
    bench.found.streams = await streams.measure(bodies, bench.bodies, PACE, streams.STREAMS_256, rounds)


async def _streams1000(bench: Bench) -> None:
    """Measures 1,000 streams with one key, and through a gateway that needs none."""
    setup = bench.setup
    without_keys = contenders.ours_open(await start_open_gateway(setup.processes, setup.cores, bench.gateway))
    all_contenders = [*bench.of("streams1000"), without_keys]
    rounds = bench.extent.streams
    found = await streams.measure(all_contenders, bench.bodies, PACE, streams.STREAMS_1000, rounds)
    bench.found.streams1000 = found
    setup.processes.end(*without_keys.programs)


async def _grpc(bench: Bench) -> None:
    empty = await grpc_calls.start_empty_server(bench.setup.processes, bench.setup.cores)
    bench.found.grpc = await grpc_calls.measure(bench.gateway, empty, bench.bodies[0], *bench.extent.grpc)
    bench.setup.processes.end(empty.process)


async def _junk(bench: Bench) -> None:
    bench.found.junk = await junk.measure(bench.gateway, bench.extent.junk)


async def _workers(bench: Bench) -> None:
    """Measures our gateway and nginx as one and as two processes on both cores, which they share with the load
    generator.
    """
    setup, contenders_of = bench.setup, list[tuple[Contender, throughput.Bodies]]()
    for count in WORKERS:
        workers = await start_workers(setup.processes, setup.cores, bench.gateway, count)
        contenders_of.append((contenders.ours_with_workers(workers, count), bench.bodies))
        contenders_of.append((contenders.nginx_with_workers(setup, count), bench.bodies))
    plan = throughput.Plan(bench.extent.rounds, bench.extent.seconds, bench.extent.warm_up)
    bench.found.workers = await throughput.measure(contenders_of, plan, setup.processes.folder)
    for one, _ in contenders_of:
        setup.processes.end(*one.programs)


async def _profile(bench: Bench) -> None:
    target = bench.gateway.path("fast")
    script = throughput.write_script(target, bench.bodies, bench.setup.processes.folder, 99)
    seconds = 2 * bench.extent.seconds
    bench.found.profile = await profiling.profile(bench.gateway, script, bench.setup.processes.folder, seconds)


_PHASES: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "rps": _rps,
    "auto": _auto,
    "latency": _latency,
    "streams": _streams,
    "streams1000": _streams1000,
    "grpc": _grpc,
    "junk": _junk,
    "workers": _workers,
    "profile": _profile,
}
