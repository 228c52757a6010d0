"""A gateway's request log without the gateway, and decisions to log."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path as Folder
from tempfile import TemporaryDirectory
from typing import Any

from pointsman_gateway.config.tasks_file import RequestLogConfig
from pointsman_gateway.domain import PICODOLLARS, Decision, Message, Path, Receipt, Request, Usage
from pointsman_gateway.metering.aggregate import EndedRequest
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.evidence import UNITS_PER_RATING, EvidenceStore, from_fields
from pointsman_gateway.request_log.export_log import NO_EXPORT, ExportSink
from pointsman_gateway.request_log.feedback import FeedbackQueue
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.recorder import Recorder
from pointsman_gateway.request_log.store import RequestLogStore
from pointsman_gateway.request_log.tasks import OrphanRecovery
from pointsman_gateway.request_log.wal import MAX_RECEIPT_BYTES, WriteAheadLog
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.redis_clients import open_client
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.waiting import found

PLAIN = Path("small_talk", "tiny", fingerprint="f1")
ADAPTED = Path("triage_adapter", "tiny", adapter="triage@prod", fingerprint="f2")
REQUEST = Request("auto", (Message("user", "Hello"),))


def decision(name: str = "d1", task: str = "chat", path: Path = PLAIN, **fields: Any) -> Decision:
    given: dict[str, Any] = {
        "confidence": 0.9,
        "reason": "policy:fixed",
        "stage": "encoder",
        "considered": (),
        "alternatives": (),
    }
    return Decision(id=name, task=task, path=path, **(given | fields))


def receipt(
    of: Decision, seconds: float = 0.5, cost_usd: float = 1e-6, outcome: str = "ok", model: str = "tiny"
) -> Receipt:
    return Receipt(
        of, Usage(20, 2), {"prompt": round(cost_usd * PICODOLLARS)}, {"total": seconds}, outcome, model=model
    )


def ended(receipt: Receipt, model: str = "auto") -> EndedRequest:
    """Returns a completed answer of `model` with ten tokens, as metrics get it."""
    return receipt, receipt.decision, "chat", model, 10, False


def routed(of: Decision) -> Receipt:
    """Returns the receipt of a request that asked for a decision only."""
    return Receipt(of, Usage(), {}, {"total": 0.001}, "routed")


@dataclass(frozen=True)
class RequestLogHarness:
    """The request log of one gateway, with a real Valkey."""

    recorder: Recorder
    store: RequestLogStore
    board: EvidenceStore
    metrics: RequestLogMetrics
    registry: CollectorRegistry
    queue: FeedbackQueue
    recovery: OrphanRecovery

    def note(self, *names: str) -> None:
        for name in names:
            made = decision(name)
            self.recorder.note(REQUEST, made, receipt(made))

    async def written(self) -> None:
        """Writes to Redis until nothing waits to be written, even if Redis is unavailable at first."""

        async def nothing_waits() -> bool:
            with suppress(Unavailable):
                await self.recorder.write()
            return not self.recorder.waiting

        await found(nothing_waits)

    async def read_evidence(self) -> None:
        await self.recorder.read_evidence(redis_schema.today())

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def run_request_log(
    url: str, folder: Folder | None = None, max_bytes: int = MAX_RECEIPT_BYTES, export: ExportSink = NO_EXPORT
) -> AsyncIterator[RequestLogHarness]:
    """Yields a request log. `folder` is that of the write-ahead log; the default is a temporary one."""
    registry = CollectorRegistry()
    metrics = RequestLogMetrics(registry)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(url, metrics.set_redis_up))
        store, board = RequestLogStore(redis, RequestLogConfig()), EvidenceStore()
        folder = folder or Folder(stack.enter_context(TemporaryDirectory()))
        wal = WriteAheadLog(folder, store.writer, metrics, max_bytes)
        stack.callback(wal.close)
        recorder = Recorder(store, board, metrics, wal, export=export)
        queue = FeedbackQueue(wal.feedback, metrics.feedback_bytes.set)
        recovery = OrphanRecovery(store, queue, folder, metrics, export)
        yield RequestLogHarness(recorder, store, board, metrics, registry, queue, recovery)


async def decisions_in(url: str) -> list[dict[str, Any]]:
    """Returns the entries of the request log, oldest first."""
    return [json.loads(fields["entry"]) for fields in await _stream(url, redis_schema.DECISIONS)]


async def feedback_in(url: str) -> list[dict[str, str]]:
    return await _stream(url, redis_schema.FEEDBACK)


async def pair_scores_in(url: str) -> list[dict[str, float]]:
    """Returns the scores of each scored pair by path, oldest first."""
    stream = await _stream(url, redis_schema.PAIR_SCORES)
    return [{key[1]: score for key, score in json.loads(fields["scores"])} for fields in stream]


async def rated_in(url: str) -> dict[str, tuple[int, float]]:
    """Returns today's number of ratings of each path, and their mean."""
    async with open_client(url) as redis:
        fields: Any = await redis.client.hgetall(redis_schema.EVIDENCE + redis_schema.today())
        counts, _ = from_fields(fields)
    return {
        cell.path: (named["rated"], named.get("rating", 0) / UNITS_PER_RATING / named["rated"])
        for cell, named in counts.items()
        if "rated" in named
    }


async def _stream(url: str, name: str) -> list[dict[str, str]]:
    async with open_client(url) as redis:
        return await entries_of(redis.client, name)


async def entries_of(redis: Any, stream: str) -> list[dict[str, str]]:
    """Returns the entries of a stream, oldest first. `redis` decodes responses."""
    entries: Any = await redis.xrange(stream)
    return [fields for _, fields in entries]
