"""The measurements one after the other, each bounded in time; one that fails is said and does not stop the rest."""

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from benchmarks.gateway_load import contenders as who
from benchmarks.gateway_load import grpc_calls, junk, latency, profiling, streams, throughput
from benchmarks.gateway_load.contenders import Contender, Ground
from benchmarks.gateway_load.conversations import bodies, read_texts, with_model
from benchmarks.gateway_load.findings import Findings
from benchmarks.gateway_load.http_client import Broken, Connection
from benchmarks.gateway_load.machine import CannotMeasure, NotInstalled, take_cores
from benchmarks.gateway_load.our_gateway import Gateway, start_gateway
from benchmarks.gateway_load.processes import Crew
from benchmarks.gateway_load.upstream import Pace
from benchmarks.gateway_load.upstreams import start_upstreams

PHASES = ("rps", "auto", "latency", "streams", "grpc", "junk")
PACE = Pace(chunks=100, least_gap=0.02, most_gap=0.04)
RATES = (200, 1000)
LONGEST = 300.0
"""Seconds of one phase."""
FEWEST_STATIC = 32
"""Different texts that the static stage must decide, for `auto` to be measured."""
PEERS_OF = {
    "rps": [who.NGINX, who.VLLM_ROUTER, who.VLLM_ROUTER_DEFAULT, who.PORTKEY_GATEWAY, who.LITELLM],
    "auto": [who.VLLM_ROUTER, who.VLLM_ROUTER_DEFAULT],
    "latency": [who.VLLM_ROUTER],
    "streams": [who.NGINX, who.VLLM_ROUTER, who.PORTKEY_GATEWAY, who.LITELLM],
}


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of everything."""

    rounds: int
    seconds: float
    warm_up: float
    latency: tuple[int, float]
    streams: int
    slow_streams: bool
    """Whether the peers that need the full time for their streams are asked for them too."""
    grpc: tuple[int, float]
    junk: int
    bodies: int


@dataclass(slots=True)
class Bench:
    """All contenders up, and what was found of them so far."""

    crew: Crew
    extent: Extent
    gateway: Gateway
    contenders: dict[str, Contender]
    asked: throughput.Bodies
    phases: list[str]
    found: Findings = field(default_factory=Findings)

    @classmethod
    async def prepared(cls, crew: Crew, extent: Extent, phases: list[str]) -> "Bench":
        """Raises CannotMeasure where the gateway itself does not come up or answers wrongly."""
        begun = time.monotonic()
        cores = take_cores()
        upstreams = await start_upstreams(crew, cores, PACE)
        gateway = await start_gateway(crew, cores, upstreams)
        await who.must_answer(gateway.path("fast"))
        ground = Ground(crew, cores, upstreams)
        wanted = dict.fromkeys(name for phase in phases for name in PEERS_OF.get(phase, []))
        peers, missing = await who.start_peers(ground, list(wanted))
        every = [await who.direct(ground), *peers, who.ours(gateway)]
        asked = list(bodies(read_texts().asked, extent.bodies))
        bench = cls(crew, extent, gateway, {one.name: one for one in every}, asked, phases)
        bench.found.versions = {one.name: one.version for one in [*every, who.ours_auto(gateway)]}
        bench.found.missing = missing
        gc.freeze()  # what is there now stays: the load must not pause to look through it
        print(f"up after {time.monotonic() - begun:.0f} s: {'; '.join(bench.contenders)}", flush=True)
        return bench

    async def run(self, name: str) -> None:
        phase: Callable[[Bench], Awaitable[None]] = _PHASES[name]
        begun = time.monotonic()
        try:
            async with asyncio.timeout(LONGEST):
                await phase(self)
        except (CannotMeasure, NotInstalled, Broken, OSError) as error:
            self.found.missing[name] = str(error) or type(error).__name__
        except TimeoutError:
            self.found.missing[name] = f"not done after {time.monotonic() - begun:.0f} s"
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)

    def of(self, phase: str) -> list[Contender]:
        names = [who.DIRECT, *PEERS_OF[phase], who.OURS]
        return [self.contenders[name] for name in names if name in self.contenders]


async def _rps(bench: Bench) -> None:
    """Where `auto` is wanted too, in the same rounds."""
    asked = [(one, bench.asked) for one in bench.of("rps")]
    if "auto" in bench.phases:
        try:
            asked.append(await _auto_contender(bench))
        except CannotMeasure as error:
            bench.found.missing["auto"] = str(error)
    await _measure_rates(bench, asked)


async def _auto(bench: Bench) -> None:
    if "rps" not in bench.phases:
        beside = [(one, bench.asked) for one in bench.of("auto") if one.name not in (who.DIRECT, who.OURS)]
        await _measure_rates(bench, [*beside, await _auto_contender(bench)])


async def _measure_rates(bench: Bench, asked: list[tuple[Contender, throughput.Bodies]]) -> None:
    plan = throughput.Plan(bench.extent.rounds, bench.extent.seconds, bench.extent.warm_up)
    bench.found.rates = await throughput.measure(asked, plan, bench.crew.folder)


async def _auto_contender(bench: Bench) -> tuple[Contender, throughput.Bodies]:
    """With the bodies alone that the static stage decides. Raises CannotMeasure where they are too few."""
    static = await _decided_by_static(bench)
    if len(static) < FEWEST_STATIC:
        raise CannotMeasure(f"of {len(bench.asked)} texts the static stage decides {len(static)}")
    print(f"auto: the static stage decides {len(static)} of {len(bench.asked)} texts; these are asked", flush=True)
    return who.ours_auto(bench.gateway), static


async def _decided_by_static(bench: Bench) -> throughput.Bodies:
    target = bench.gateway.route
    connection = await Connection.to(target.port)
    static = []
    for body, written in zip(bench.asked, with_model(bench.asked, target.model), strict=True):
        answer = await connection.ask(target.request(written))
        if answer.status == 200 and json.loads(answer.body)["stage"] == "static":
            static.append(body)
    connection.close()
    return static


async def _latency(bench: Bench) -> None:
    for rate in RATES:
        bench.found.waited[rate] = await latency.measure(bench.of("latency"), bench.asked, rate, bench.extent.latency)


async def _streams(bench: Bench) -> None:
    slow = () if bench.extent.slow_streams else (who.PORTKEY_GATEWAY, who.LITELLM)
    asked = [one for one in bench.of("streams") if one.name not in slow]
    bench.found.streams = await streams.measure(asked, bench.asked, PACE, bench.extent.streams)


async def _grpc(bench: Bench) -> None:
    bench.found.grpc = await grpc_calls.measure(bench.gateway, bench.asked, *bench.extent.grpc)


async def _junk(bench: Bench) -> None:
    bench.found.junk = await junk.measure(bench.gateway, bench.extent.junk)


async def _profile(bench: Bench) -> None:
    target = bench.gateway.path("fast")
    script = throughput.write_script(target, bench.asked, bench.crew.folder, 99)
    seconds = 2 * bench.extent.seconds
    bench.found.profile = await profiling.profile(bench.gateway, script, bench.crew.folder, seconds)


_PHASES: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "rps": _rps,
    "auto": _auto,
    "latency": _latency,
    "streams": _streams,
    "grpc": _grpc,
    "junk": _junk,
    "profile": _profile,
}
