"""Measures what metering adds to a request, by comparing the pipeline with its meter to one whose meter does nothing.

    make bench-metering        # one thread, no service; under a minute

Both are the gateway's own pipeline, with admission, a named path, its prompt, load balancing and circuit breakers; the
engine is in memory and answers immediately. The metered one has the meter, its counters and histograms, the price list
and the allocation of the engine's hourly cost. They are measured alternately, so that other load on the machine affects
both, and by the thread's own processor time. Deferred work of the meter (aggregating receipts, allocating the engine's
cost) is done and timed after each turn; a gateway allocates costs less often, once a second. Measured separately: a
record of the write-ahead log, which only a gateway with Redis writes, and a scrape of all metrics before and after
requests with ten thousand unknown model names. The last line of output is one JSON object.
"""

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop
import yaml
from pointsman_gateway import bootstrap
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Chunk, Chunks, EngineSeconds, Message, Receipt, Request, Usage
from pointsman_gateway.engines.engine_client import EngineRequest
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.engines.stage import EngineBackend
from pointsman_gateway.metering.expected_cost import CostEstimator
from pointsman_gateway.pipeline.pipeline import Pipeline
from pointsman_gateway.ports import ChunkSink
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.wal import WriteAheadLog
from pointsman_gateway.request_log.wal_records import Offsets
from pointsman_gateway.settings import Settings
from pointsman_servicekit.errors import NotFound
from pointsman_servicekit.process import freeze_gc
from prometheus_client import CollectorRegistry, generate_latest

MODEL = Path(__file__).parents[1] / ".pointsman/models/minilm"
MAX_METERING_US = 15.0
"""Target: the most microseconds per request that metering may add."""
CHUNK_COUNTS = (8, 136)
"""Numbers of chunks of an answer; the difference shows the cost of a chunk."""
REQUESTS_PER_TURN = 128
"""Number of requests in a turn, which is the number of receipts that are aggregated in one batch."""
UNKNOWN_NAMES = 10_000
SCRAPES = 51


class MemoryClient:
    """Implements `EngineClient`: answers immediately, and reports its phases as vLLM does."""

    def __init__(self) -> None:
        self.chunk_count = CHUNK_COUNTS[0]

    def send(self, request: EngineRequest, sink: ChunkSink) -> "MemoryTransfer":
        return MemoryTransfer(self.chunk_count, sink)


class MemoryTransfer:
    """Implements `Transfer`: sends the chunks at once."""

    def __init__(self, chunk_count: int, sink: ChunkSink) -> None:
        self._left = chunk_count
        self._usage = Usage(200, chunk_count, 50, EngineSeconds(0.0001, 0.0002))
        self._sink: ChunkSink | None = sink
        self._is_paused = False
        asyncio.get_running_loop().call_soon(self._push)

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._push()

    def close(self) -> None:
        self._sink = None

    def _push(self) -> None:
        while self._sink is not None and not self._is_paused:
            self._left -= 1
            if self._left >= 0:
                self._sink.chunks((Chunk(content="word "),), False)
            elif self._left == -1:
                self._sink.chunks((Chunk(finish_reason="stop"), Chunk(usage=self._usage)), True)
            else:
                self._sink.ended(None)
                return


class NoAttempt:
    """Implements `PathAttempt`: does nothing."""

    def set_prompt(self, prompt: object) -> None:
        pass

    def set_answer(self, *reported: object) -> None:
        pass

    def count_chunks(self, chunks: Chunks) -> None:
        pass


class NoMeter:
    """Implements the pipeline's `Metering` and `Meter`: does nothing."""

    overhead = elapsed = 0.0

    def __init__(self, expected_cost: CostEstimator) -> None:
        self.expected_cost = expected_cost
        self._decision: Any = None

    def start(self, request: Request) -> "NoMeter":
        return self

    def mark_admitted(self) -> None:
        pass

    def set_decision(self, decision: Any) -> None:
        self._decision = decision

    def start_attempt(self, path: object) -> NoAttempt:
        return NO_ATTEMPT

    def set_usage(self, usage: object) -> None:
        pass

    def mark_first_token(self, chunks: Chunks) -> bool:
        return True

    def finish(self, outcome: str, error: object = None) -> Receipt:
        return Receipt(self._decision, Usage(), {}, {}, outcome)


NO_ATTEMPT = NoAttempt()


class LastReceipt:
    """Implements the pipeline's `RequestLog`: keeps only the last receipt."""

    def __init__(self) -> None:
        self.last: tuple[Any, ...] = ()

    def wants_answers(self, request: Request, decision: object) -> bool:
        return False

    def note(self, request: Request, decision: Any, receipt: Receipt, answers: object = ()) -> None:
        self.last = (request, decision, receipt)

    def note_undecided(self, receipt: object) -> None:
        pass


@dataclass(frozen=True)
class Variant:
    pipeline: Pipeline
    settle: Callable[[], None]
    """Does the deferred work of the meter."""


@dataclass(frozen=True)
class Variants:
    metered: Variant
    unmetered: Variant
    client: MemoryClient
    request_log: LastReceipt
    """The request log of the metered variant."""


def build_variants(components: bootstrap.GatewayComponents, engines: Engines) -> Variants:
    pipeline, stages, client = components.pipeline, components.reloader.current.stages, MemoryClient()
    now, metrics = asyncio.get_running_loop().time, EngineMetrics(CollectorRegistry())
    costs = components.cost_metrics.engine_costs
    metered = replace(stages, backend=EngineBackend(engines, client, now, metrics=metrics, busy_times=costs))
    unmetered = replace(
        stages,
        backend=EngineBackend(engines, client, now, metrics=metrics),
        metering=NoMeter(stages.metering.expected_cost),  # type: ignore[arg-type]  # it has the methods that are called
    )
    request_log = LastReceipt()

    def settle() -> None:
        stages.metering.aggregator.flush()
        costs.allocate()

    return Variants(
        Variant(replace(pipeline, current=lambda: metered, request_log=request_log), settle),
        Variant(replace(pipeline, current=lambda: unmetered, request_log=LastReceipt()), lambda: None),
        client,
        request_log,
    )


async def seconds_per_request(variant: Variant, count: int) -> float:
    pipeline = variant.pipeline
    text = "I left my umbrella on the 9:15 to Saltby, please find it"
    started = time.thread_time()
    for _ in range(count):
        request = Request("path:plain", (Message("user", text),), arrived_at=time.perf_counter())
        async for _event in pipeline.answer(request):
            pass
    variant.settle()
    return (time.thread_time() - started) / count


async def compare(variants: Variants, chunk_count: int, rounds: int) -> tuple[float, float]:
    """Returns microseconds per request: without a meter, and what the meter adds.

    Each is the tenth percentile over the rounds, because other load on the machine can only add time.
    """
    variants.client.chunk_count = chunk_count
    unmetered, metered = [], []
    for number in range(rounds + 5):
        order = (variants.unmetered, variants.metered) if number % 2 else (variants.metered, variants.unmetered)
        seconds = {id(variant): await seconds_per_request(variant, REQUESTS_PER_TURN) for variant in order}
        if number >= 5:  # the first rounds are a warm-up
            unmetered.append(seconds[id(variants.unmetered)])
            metered.append(seconds[id(variants.metered)])
    base = 1e6 * quantiles(unmetered, n=10)[0]
    return base, 1e6 * quantiles(metered, n=10)[0] - base


@dataclass(frozen=True)
class Scrape:
    """Time and size of a scrape of all metrics."""

    milliseconds: float
    size_bytes: int

    @classmethod
    def of(cls, registry: CollectorRegistry) -> "Scrape":
        """Returns the median of several scrapes."""
        seconds, text = [], b""
        for _ in range(SCRAPES):
            started = time.thread_time()
            text = generate_latest(registry)
            seconds.append(time.thread_time() - started)
        return cls(1e3 * median(seconds), len(text))


async def send_unknown_models(pipeline: Pipeline, names: int) -> None:
    """Sends requests for models that do not exist, each with another name."""
    for number in range(names):
        try:
            async for _event in pipeline.answer(Request(f"junk-{number}", (Message("user", "x"),))):
                pass
        except NotFound:
            continue


def wal_us(receipt: tuple[Any, ...], folder: Path, rounds: int) -> float:
    """Returns the microseconds to append a receipt to the write-ahead log; the tenth percentile of the rounds."""
    seconds, now = [], time.time()
    for _ in range(rounds):
        wal = WriteAheadLog(folder, secrets.token_hex(8), RequestLogMetrics(CollectorRegistry()))
        started = time.thread_time()
        for _ in range(REQUESTS_PER_TURN):
            wal.append_decided(now, *receipt)
        seconds.append((time.thread_time() - started) / REQUESTS_PER_TURN)
        wal.settle(Offsets(REQUESTS_PER_TURN))
        wal.close()
    return 1e6 * quantiles(seconds, n=10)[0]


def write_config(folder: Path) -> Path:
    """Writes a configuration with one path, an engine with an hourly price, and the two tasks that are the minimum."""
    prices = {"prompt": 0.014, "cached": 0.002, "completion": 0.062}
    written: dict[str, Any] = {
        "models": {
            "prices_as_of": "2026-11-01",
            "models": {"m": {"context_window": 4096, "usd_per_million_tokens": prices}},
            "engines": {"local": {"model": "m", "url": "http://127.0.0.1:1", "usd_per_hour": 0.04}},
            "retrieval": {"usd_per_search": 0.0000002, "usd_per_embedding": 0.00000002},
        },
        "paths": {"paths": {"plain": {"model": "m", "strategies": [{"zero_shot": {"prompt": "p.txt"}}]}}},
        "tasks": {
            "default_path": "plain",
            "tasks": {name: {"examples": f"{name}.jsonl", "policy": {"fixed": "plain"}} for name in ("a", "b")},
        },
    }
    (folder / "prompts").mkdir()
    (folder / "prompts/p.txt").write_text("Answer in one short sentence.")
    for name, texts in (("a", ("Where is my train?", "Is it late?")), ("b", ("Tell me a joke", "Sing a song"))):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    for name, data in written.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(data))
    return folder


async def main(rounds: int) -> bool:
    """Measures and prints the results; returns whether the target is met."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(config=write_config(Path(folder)), embedding_model=MODEL)
        async with bootstrap.build_gateway(settings, load_config(settings.config)) as components:
            freeze_gc()
            variants = build_variants(components, components.engines)
            results = {chunks: await compare(variants, chunks, rounds) for chunks in CHUNK_COUNTS}
            await send_unknown_models(variants.metered.pipeline, 1)  # the first one adds the series of refusals
            before = Scrape.of(components.registry)
            await send_unknown_models(variants.metered.pipeline, UNKNOWN_NAMES)
            after = Scrape.of(components.registry)
            wal = wal_us(variants.request_log.last, Path(folder) / "wal", rounds)
    (base, added), (_, added_to_long) = (results[chunks] for chunks in CHUNK_COUNTS)
    per_chunk = (added_to_long - added) / (CHUNK_COUNTS[1] - CHUNK_COUNTS[0])
    print(f"a request with {CHUNK_COUNTS[0]} chunks takes {base:.1f} us without a meter; the meter adds {added:.1f} us")
    print(f"the meter adds {per_chunk:.3f} us for each further chunk")
    print(f"with Redis, writing the receipt to the write-ahead log adds {wal:.1f} us")
    print(
        f"a scrape takes {before.milliseconds:.1f} ms ({before.size_bytes / 1024:.0f} kB); after {UNKNOWN_NAMES} "
        f"unknown model names, {after.milliseconds:.1f} ms ({after.size_bytes / 1024:.0f} kB)"
    )
    result = {"bare_us": round(base, 1), "metering_us": round(added, 1), "a_piece_us": round(per_chunk, 3)}
    result |= {"wal_us": round(wal, 1)}
    result |= {"scrape_ms": round(before.milliseconds, 2), "scrape_after_junk_ms": round(after.milliseconds, 2)}
    print(json.dumps({**result, "at_most_us": MAX_METERING_US, "met": added <= MAX_METERING_US}))
    return added <= MAX_METERING_US


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200, help=f"of {REQUESTS_PER_TURN} requests for each variant")
    return parser.parse_args(given)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the gateway uses the same event loop
        sys.exit(0 if runner.run(main(arguments().rounds)) else 1)
