"""Computes how many replicas of each service a workload needs: engines by simulation, the rest by arithmetic."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from benchmarks.capacity.inputs import CapacityError, EngineFigures, Figures, PathLoad, Workload
from benchmarks.capacity.simulator import Simulation, simulate

MAX_UTILIZATION = 0.6
"""Share of a core that a gateway or a retriever may use in the busiest hour: above it, waiting times grow fast."""
RETRIEVER_GIB = 8
"""GiB of memory that come with one core at the retriever's price."""
MAX_ENGINES = 512
MIN_REQUESTS, MIN_REQUESTS_PER_ENGINE = 2_000, 40
"""Length of one simulation: the least number of requests, in all and per engine."""
HOURS_PER_MONTH = 730.0


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """How many replicas one service needs, and why."""

    name: str
    replicas: int
    reason: str
    usd_per_month: float


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    services: tuple[ServicePlan, ...]
    engines: Simulation
    """The simulation of the busiest hour on the engines, without spare ones."""
    usd_per_month: float
    usd_per_1000: float
    notes: tuple[str, ...]


def make_plan(workload: Workload, figures: Figures) -> CapacityPlan:
    """Computes the plan. Raises CapacityError if no number of engines meets the limit for the time to first token."""
    engines, simulation = _count_engines(workload, figures.engine)
    services = tuple(_services(workload, figures, engines))
    usd = sum(service.usd_per_month for service in services)
    requests = workload.requests_per_second * workload.busy_hours * 3600 * HOURS_PER_MONTH / 24
    return CapacityPlan(services, simulation, usd, usd / requests * 1000, tuple(_notes(workload, figures, engines)))


def engine_seconds(path: PathLoad, figures: EngineFigures) -> float:
    """Returns the engine time of one request in a full batch: its share of the steps, its rows and its prompt."""
    row = figures.adapter_row_seconds if path.adapters else figures.row_seconds
    token = figures.adapter_prompt_token_seconds if path.adapters else figures.prompt_token_seconds
    steps = path.completion_tokens * figures.step_seconds / figures.max_num_seqs
    return steps + path.completion_tokens * row + path.prompt_tokens * (1 - path.cached_share) * token


def min_engines(workload: Workload, figures: EngineFigures) -> int:
    """Returns the number of engines below which they cannot do all of the work. Raises CapacityError if it is above
    MAX_ENGINES.
    """
    seconds = sum(path.share * engine_seconds(path, figures) for path in workload.paths.values())
    busy = seconds * workload.requests_per_second
    if busy > MAX_ENGINES:
        raise CapacityError(
            f"{workload.requests_per_second:g} requests a second are the work of {busy:,.0f} engines, and at most "
            f"{MAX_ENGINES} are planned; lower requests_per_second, use fewer tokens or a faster engine"
        )
    return max(1, ceil(busy))


def _count_engines(workload: Workload, figures: EngineFigures) -> tuple[int, Simulation]:
    """Finds the smallest number of engines that meets the limit for the time to first token: doubles the number until
    it is met, then bisects.
    """
    low = high = min_engines(workload, figures)
    while not (found := _simulate_within_limit(workload, figures, high)):
        low, high = high + 1, min(high * 2, MAX_ENGINES)
        if low > MAX_ENGINES:
            raise CapacityError(
                f"{MAX_ENGINES} engines do not keep the first token within {workload.first_token_seconds:g} s; "
                "allow more seconds, shorten the prompts or use a faster engine"
            )
    while low < high:
        middle = (low + high) // 2
        if better := _simulate_within_limit(workload, figures, middle):
            high, found = middle, better
        else:
            low = middle + 1
    return high, found


def _simulate_within_limit(workload: Workload, figures: EngineFigures, engines: int) -> Simulation | None:
    simulation = simulate(workload, figures, engines, max(MIN_REQUESTS, MIN_REQUESTS_PER_ENGINE * engines))
    return simulation if simulation.first_token_p95 <= workload.first_token_seconds else None


def _services(workload: Workload, figures: Figures, engines: int) -> Iterator[ServicePlan]:
    rate, spare = workload.requests_per_second, workload.spare_replicas
    cores = rate * sum(path.share * _gateway_seconds(path, figures) for path in workload.paths.values())
    gateways = max(1, ceil(cores / MAX_UTILIZATION)) + spare
    yield _service("engines", engines + spare, f"{engines} meet the limit", figures.engine.usd_per_hour)
    yield _service("gateways", gateways, f"{cores:.2f} cores of work", figures.gateway.usd_per_hour)
    searches = rate * sum(path.share * path.searches for path in workload.paths.values())
    if workload.chunks or searches:
        busy = searches * figures.retriever.search_seconds
        memory = workload.chunks * figures.retriever.chunk_bytes / 2**30
        reason = f"{searches:.3g} searches/s: {busy:.2f} cores; {memory:.1f} GiB"
        size = max(1, ceil(busy / MAX_UTILIZATION), ceil(memory / RETRIEVER_GIB))
        yield _service("retriever", 1, reason, figures.retriever.usd_per_hour * size)
    calls = rate * figures.gateway.redis_calls_per_request
    servers = ceil(calls / figures.redis.max_calls_per_second)
    yield _service("redis", servers * (1 + spare), f"{calls:.3g} calls/s", figures.redis.usd_per_hour)


def _gateway_seconds(path: PathLoad, figures: Figures) -> float:
    base = figures.gateway.classified_seconds if path.classified else figures.gateway.named_seconds
    return base + path.completion_tokens * figures.gateway.token_seconds


def _service(name: str, replicas: int, reason: str, usd_per_hour: float) -> ServicePlan:
    return ServicePlan(name, replicas, reason, replicas * usd_per_hour * HOURS_PER_MONTH)


def _notes(workload: Workload, figures: Figures, engines: int) -> Iterator[str]:
    """Names each service that reaches a limit, and what raises the limit."""
    if workload.chunks > figures.retriever.max_chunks:
        yield (
            f"{workload.chunks:,} chunks are more than one retriever holds well ({figures.retriever.max_chunks:,}): "
            "store them in a Milvus cluster (POINTSMAN_RETRIEVER_VECTOR_STORE=milvus)"
        )
    searches = workload.requests_per_second * sum(path.share * path.searches for path in workload.paths.values())
    if searches * figures.retriever.search_seconds > MAX_UTILIZATION:
        yield "searches need more than one core: give the retriever more cores, or run several over one Milvus"
    calls = workload.requests_per_second * figures.gateway.redis_calls_per_request
    if calls > figures.redis.max_calls_per_second:
        yield "more calls than one Redis takes: use Redis Cluster (the keys of one tenant share a slot)"
    adapters = sum(path.adapters for path in workload.paths.values())
    if adapters > figures.engine.max_loras * engines:
        yield (
            f"{adapters} adapters do not all fit into {engines} x {figures.engine.max_loras} slots: rarely used ones "
            "are loaded on demand; more slots or more engines avoid that wait"
        )
    if engines > 1:
        yield "several engines: KEDA scales them by queue length; a model beyond one GPU needs tensor parallelism"
