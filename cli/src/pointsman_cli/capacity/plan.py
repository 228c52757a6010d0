"""From a workload and what one of each part does to how many of each: by arithmetic, and for engines by simulation."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from pointsman_cli.capacity.figures import EngineFigures, Figures
from pointsman_cli.capacity.simulator import Simulated, simulate
from pointsman_cli.capacity.workload import PathLoad, Workload
from pointsman_cli.errors import CommandError

FULL = 0.6
"""Share of a core that a gateway or a retriever should be busy at the busiest hour: beyond it, waiting grows fast."""
RETRIEVER_GIB = 8
"""Of memory, that a retriever's price is of, beside one core."""
MOST_ENGINES = 512
REQUESTS = 2_000
"""Of one simulation, at least; and at least 40 an engine."""
HOURS_A_MONTH = 730.0


@dataclass(frozen=True, slots=True)
class Part:
    """How many of one part, and why."""

    name: str
    number: int
    why: str
    dollars_per_month: float


@dataclass(frozen=True, slots=True)
class Plan:
    parts: tuple[Part, ...]
    engines: Simulated
    """What the engines but the spare ones make of the busiest hour."""
    dollars_per_month: float
    dollars_per_1000: float
    notes: tuple[str, ...]


def plan(workload: Workload, figures: Figures) -> Plan:
    """Raises CommandError where no number of engines keeps the first tokens."""
    engines, simulated = _engines(workload, figures.engine)
    parts = tuple(_parts(workload, figures, engines))
    dollars = sum(part.dollars_per_month for part in parts)
    requests = workload.requests_per_second * workload.busy_hours * 3600 * HOURS_A_MONTH / 24
    return Plan(parts, simulated, dollars, dollars / requests * 1000, tuple(_notes(workload, figures, engines)))


def work(path: PathLoad, figures: EngineFigures) -> float:
    """Seconds of an engine that one request takes of a full batch: its share of the steps, its rows and its prompt."""
    row = figures.adapter_row if path.adapters else figures.row
    token = figures.adapter_prompt_token if path.adapters else figures.prompt_token
    steps = path.completion_tokens * figures.step / figures.most_rows
    return steps + path.completion_tokens * row + path.prompt_tokens * (1 - path.cached_share) * token


def least_engines(workload: Workload, figures: EngineFigures) -> int:
    """With fewer the work alone is more than there is time. Raises CommandError where it is too much to be planned."""
    seconds = sum(path.share * work(path, figures) for path in workload.paths.values())
    busy = seconds * workload.requests_per_second
    if busy > MOST_ENGINES:
        raise CommandError(
            f"{workload.requests_per_second:g} requests a second are the work of {busy:,.0f} engines, and at most "
            f"{MOST_ENGINES} are planned; a lower requests_per_second, fewer tokens, or a faster engine would do"
        )
    return max(1, ceil(busy))


def _engines(workload: Workload, figures: EngineFigures) -> tuple[int, Simulated]:
    """The least number that keeps the first tokens: doubled until it does, then halved between."""
    low = high = least_engines(workload, figures)
    while not (found := _keeps(workload, figures, high)):
        low, high = high + 1, min(high * 2, MOST_ENGINES)
        if low > MOST_ENGINES:
            raise CommandError(
                f"{MOST_ENGINES} engines do not keep first tokens within {workload.first_token_seconds:g} s; "
                "a longer limit, shorter prompts, or a faster engine would"
            )
    while low < high:
        middle = (low + high) // 2
        if better := _keeps(workload, figures, middle):
            high, found = middle, better
        else:
            low = middle + 1
    return high, found


def _keeps(workload: Workload, figures: EngineFigures, engines: int) -> Simulated | None:
    simulated = simulate(workload, figures, engines, max(REQUESTS, 40 * engines))
    return simulated if simulated.first_token_p95 <= workload.first_token_seconds else None


def _parts(workload: Workload, figures: Figures, engines: int) -> Iterator[Part]:
    rate, spare = workload.requests_per_second, workload.spare
    cores = rate * sum(path.share * _gateway_seconds(path, figures) for path in workload.paths.values())
    gateways = max(1, ceil(cores / FULL)) + spare
    yield _part("engines", engines + spare, f"{engines} keep first tokens", figures.engine.dollars_per_hour)
    yield _part("gateways", gateways, f"{cores:.2f} cores of work", figures.gateway.dollars_per_hour)
    searches = rate * sum(path.share * path.searches for path in workload.paths.values())
    if workload.chunks or searches:
        busy, memory = searches * figures.retriever.search, workload.chunks * figures.retriever.chunk_bytes / 2**30
        why = f"{searches:.3g} searches/s: {busy:.2f} cores; {memory:.1f} GiB"
        size = max(1, ceil(busy / FULL), ceil(memory / RETRIEVER_GIB))
        yield _part("retriever", 1, why, figures.retriever.dollars_per_hour * size)
    calls = rate * figures.gateway.redis_calls
    servers = ceil(calls / figures.redis.calls_per_second)
    yield _part("redis", servers * (1 + spare), f"{calls:.3g} calls/s", figures.redis.dollars_per_hour)


def _gateway_seconds(path: PathLoad, figures: Figures) -> float:
    base = figures.gateway.classified if path.classified else figures.gateway.named
    return base + path.completion_tokens * figures.gateway.token


def _part(name: str, number: int, why: str, dollars_per_hour: float) -> Part:
    return Part(name, number, why, number * dollars_per_hour * HOURS_A_MONTH)


def _notes(workload: Workload, figures: Figures, engines: int) -> Iterator[str]:
    """Where a part comes to its limit, and what lifts it."""
    if workload.chunks > figures.retriever.most_chunks:
        yield (
            f"{workload.chunks:,} chunks are more than one retriever holds well ({figures.retriever.most_chunks:,}): "
            "let it keep them in a Milvus cluster (POINTSMAN_RETRIEVER_VECTOR_STORE=milvus)"
        )
    searches = workload.requests_per_second * sum(path.share * path.searches for path in workload.paths.values())
    if searches * figures.retriever.search > FULL:
        yield "more searches than one core has time for: give the retriever more cores, or retrievers over one Milvus"
    if workload.requests_per_second * figures.gateway.redis_calls > figures.redis.calls_per_second:
        yield "more calls than one Redis takes: Redis Cluster (tenants' keys lie in slots of their own)"
    adapters = sum(path.adapters for path in workload.paths.values())
    if adapters > figures.engine.slots * engines:
        yield (
            f"{adapters} adapters do not all fit into {engines} x {figures.engine.slots} slots: those that are seldom "
            "asked for are loaded on demand; more slots, or more engines, spare that wait"
        )
    if engines > 1:
        yield "several engines: KEDA scales them by their queue; what one GPU cannot hold is for tensor parallelism"
