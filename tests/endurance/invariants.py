"""Checks the run's invariants. Each violation is reported as a sentence; a run without violations passes."""

import asyncio
import json
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from pointsman_gateway.domain import PICODOLLARS
from pointsman_gateway.request_log import redis_schema
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.redis_clients import REDIS_ERRORS, open_client
from prometheus_client.parser import text_string_to_metric_families

from tests.endurance.cpu import CpuWaits
from tests.endurance.faults import Faults
from tests.endurance.load import CLIENT_PATIENCE_SECONDS, SCHEMA, Load
from tests.endurance.schedule import GATEWAYS, Event
from tests.endurance.truth import (
    ALIAS_STALENESS_SECONDS,
    PASSAGE_STALENESS_SECONDS,
    REVOCATION_SECONDS,
    Record,
    Truth,
)
from tests.endurance.world import SPENDER_PER_MINUTE, World

DEADLINE_SLACK_SECONDS = 1.0
"""By how much an answer may miss its deadline, because it travels to the client. Time in which the gateway or the
clients waited for a processor is not counted."""
FLUSH_SECONDS = 60.0
REVISION = re.compile(r"revision-\d+-")


@dataclass
class Sums:
    """How many requests, with any key, got a decision at one gateway, and what they cost."""

    requests: int = 0
    picodollars: int = 0


@dataclass
class Invariants:
    world: World
    truth: Truth
    load: Load
    events: Sequence[Event]
    begun: float
    """When the load began, by time.monotonic()."""
    violations: list[str] = field(default_factory=list)
    checked: int = 0
    audits: int = 0
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The receipts in Redis, by decision id, or by stream id if they have no decision."""
    fallbacks: list[float] = field(default_factory=list)
    """When gateways enforced a limit without Redis, because it did not answer within 50 ms; this also happens on a busy
    machine."""
    waits: CpuWaits = field(default_factory=CpuWaits)
    _last: dict[str, str] = field(default_factory=dict)
    _fallbacks: dict[str, float] = field(default_factory=dict)
    _cut_off: dict[str, float] = field(default_factory=dict)
    """By gateway, when it last reported that Redis does not answer; this also happens on a busy machine."""

    def violate(self, text: str) -> None:
        self.violations.append(text)
        print(f"VIOLATION at {time.monotonic() - self.begun:.0f} s: {text}", flush=True)

    # -- each request

    def sample_waits(self) -> None:
        now = time.monotonic()
        self.waits.sample("clients", os.getpid(), now)
        for name, gateway in self.world.gateways.items():
            self.waits.sample(name, gateway.pid, now)

    def check_records(self) -> None:
        """Checks the requests that have ended since the last call."""
        self.sample_waits()
        for record in self.load.records[self.checked :]:
            for problem in self._problems(record):
                self.violate(
                    f"{record.protocol} at {record.gateway}, sent at {record.sent - self.begun:.1f} s: {problem}"
                )
        self.checked = len(self.load.records)

    def _problems(self, record: Record) -> Iterator[str]:
        sent, ended = record.sent, record.ended
        gateway_was_away = self._overlaps(sent, ended, record.gateway)
        late = ended - sent - record.deadline
        late -= self.waits.between(record.gateway, sent, ended) + self.waits.between("clients", sent, ended)
        if late > DEADLINE_SLACK_SECONDS and not gateway_was_away:
            yield f"ended {late:.1f} s after its deadline ({record.code or 'answered'})"
        if record.code == "cut off" and not gateway_was_away:
            yield "the stream ended without an end or an error"
        if record.code == "internal":
            yield "failed by an internal error"
        if record.code == "no answer: TimeoutError" and not gateway_was_away:
            yield f"has no answer {CLIENT_PATIENCE_SECONDS:.0f} s after its deadline"
        # A real engine writes what the client's schema allows; a scripted one does not read it.
        is_free = record.protocol != SCHEMA or self.world.kind.is_scripted
        if (
            record.text
            and is_free
            and not self.world.kind.is_text_of(record.model, record.text, self.world.sources.get(record.model, ""))
        ):
            yield f"'{record.text[:40]}' is no text of {record.model}"
        if record.ok and record.adapter:
            allowed = self.truth.aliases[record.adapter].allowed(sent, ended, ALIAS_STALENESS_SECONDS)
            if record.model not in allowed:
                yield f"{record.model} answered, of {record.adapter}@prod, which pointed to {sorted(allowed)}"
        if record.prompt:
            allowed = self.truth.document.allowed(sent, ended, PASSAGE_STALENESS_SECONDS)
            seen = set(REVISION.findall(record.prompt))
            if not seen <= allowed:
                yield f"the prompt has {sorted(seen)} of the document; {sorted(allowed)} were current"

    def _overlaps(self, begin: float, end: float, *targets: str, after: float = 3.0) -> bool:
        """Returns whether a fault affected one of the targets during the request, or up to `after` seconds before
        it.
        """
        return any(
            event.seconds and event.target in targets
            and event.at + self.begun <= end and begin <= event.end + self.begun + after
            for event in self.events
        )  # fmt: skip

    async def check_revocations(self) -> None:
        """Checks that revoked keys are refused, except by a gateway that a fault has cut off from Redis."""
        for credential, revoked in list(self.truth.revoked.items()):
            now = time.monotonic()
            if now < revoked + REVOCATION_SECONDS:
                continue
            del self.truth.revoked[credential]
            for name, gateway in self.world.gateways.items():
                if self._overlaps(revoked - 3, now, "valkey", name, after=15.0):
                    continue
                if self._cut_off.get(name, 0.0) > now - REVOCATION_SECONDS:
                    self.truth.revoked[credential] = revoked  # asked again later
                    continue
                headers = {"authorization": f"Bearer {credential}"}
                async with (
                    aiohttp.ClientSession(headers=headers) as session,
                    session.get(f"{gateway.url}/v1/models") as response,
                ):
                    waited = self.waits.between(name, revoked, now) + self.waits.between("clients", revoked, now)
                    if response.ok and now - revoked - waited >= REVOCATION_SECONDS:
                        self.violate(f"{name} accepts a key that was revoked {now - revoked:.1f} s ago")
                    elif response.status != 401:  # 503, for example
                        self.truth.revoked[credential] = revoked  # asked again later

    async def watch_fallbacks(self) -> None:
        for name, gateway in self.world.gateways.items():
            count = await gateway.metric("pointsman_ratelimit_local_fallback_total")
            if count > self._fallbacks.get(name, 0.0):
                self.fallbacks.append(time.monotonic())
            self._fallbacks[name] = count
            if not await gateway.metric("pointsman_redis_up"):
                self._cut_off[name] = time.monotonic()

    # -- sums, while nothing is in flight

    async def audit(self, faults: Faults) -> None:
        """Pauses the load, compares receipts, counters and usage, and resumes the load."""
        await self.load.pause()
        await faults.settle()
        self.check_records()
        self.audits += 1
        problems: list[str] = []
        deadline = time.monotonic() + FLUSH_SECONDS
        while time.monotonic() < deadline:
            try:
                problems = [problem async for problem in self._audit()]
            except REDIS_ERRORS as error:  # the run goes on, and the violation is reported
                problems = [f"Redis does not answer: {error}"]
            if not problems:
                break
            await asyncio.sleep(1.0)
        for problem in problems:
            self.violate(f"audit {self.audits}: {problem}")
        self.load.go_on()

    async def _audit(self) -> Any:
        await self._read_receipts()
        by_key: dict[str, Sums] = defaultdict(Sums)
        for receipt in self.receipts.values():
            sums = by_key[receipt["key"]]
            sums.requests += receipt.get("counted", True)  # a rejected request is recorded, and not counted
            sums.picodollars += sum(round(usd * PICODOLLARS) for usd in receipt["cost_parts_usd"].values())
        for problem in self._missing_receipts():
            yield problem
        usage = await self._usage()
        current = {name: issued.record.id for name, issued in self.world.keys.items()}
        for key, name in self.world.key_gateways.items():
            sums, used = by_key[key], usage.get(key, Sums())
            is_exact = current[name] == key
            if (used != sums) if is_exact else (used.picodollars > sums.picodollars):
                yield f"the receipts of a key of {name} have {sums}, and its usage {used}"
        for name in GATEWAYS:
            spender = self.world.spender
            assert spender is not None
            counted = await self._counted(name)
            receipts = by_key[current[name]]
            # The spender's requests are not told apart by gateway.
            most = receipts.picodollars + by_key[spender.record.id].picodollars
            if not receipts.picodollars <= counted <= most:
                has = f"{receipts.picodollars} to {most}"
                yield f"{name} has counted {counted} picodollars, and its receipts have {has}"
        if "gateway-b" not in self._killed():
            total = sum([await self._counted(name) for name in GATEWAYS])
            receipts_total = sum(sums.picodollars for sums in by_key.values())
            if total != receipts_total:
                yield f"the gateways have counted {total} picodollars, and all receipts have {receipts_total}"

    def _killed(self) -> set[str]:
        now = time.monotonic() - self.begun
        return {event.target for event in self.events if event.kind == "kill" and event.at < now}

    def _missing_receipts(self) -> Iterator[str]:
        """Yields a violation if answers have no receipt, and one if receipts state another cost than the client was
        sent.
        """
        missing = wrong = 0
        for record in self.load.records:
            if not record.ok or not record.decision or record.protocol == "route":
                continue
            receipt = self.receipts.get(record.decision)
            if receipt is None:
                missing += 1
            elif record.cost_usd is not None and receipt["cost_usd"] != record.cost_usd:
                wrong += 1
        if missing:
            yield f"{missing} answers have no receipt"
        if wrong:
            yield f"{wrong} receipts state another cost than the client was told"

    async def _read_receipts(self) -> None:
        async with open_client(self.world.valkey.url) as opened:
            for stream in (redis_schema.DECISIONS, redis_schema.UNDECIDED):
                while page := await opened.client.xrange(stream, f"({self._last.get(stream, '0')}", count=1000):
                    for entry_id, fields in page:
                        receipt = json.loads(fields["entry"])
                        self.receipts[receipt.get("id") or f"{stream} {entry_id}"] = receipt
                        self._last[stream] = entry_id

    async def _usage(self) -> dict[str, Sums]:
        usage: dict[str, Sums] = defaultdict(Sums)
        async with open_client(self.world.valkey.url) as opened:
            for day in await opened.client.keys(f"{redis_layout.USAGE}2*"):
                for name, number in (await opened.client.hgetall(day)).items():
                    _, key, counter = name.split(":")
                    if counter in ("requests", "picodollars"):
                        setattr(usage[key], counter, getattr(usage[key], counter) + int(number))
        return usage

    async def _counted(self, name: str) -> int:
        """Returns what all requests have cost since the gateway's start according to its metrics, in picodollars (1e-12
        dollars).
        """
        _, page = await self.world.gateways[name].look("/metrics")
        names = {f"pointsman_{of}cost_usd_total" for of in ("", "embedding_", "rerank_")}
        samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
        return sum(round(sample.value * PICODOLLARS) for sample in samples if sample.name in names)

    # -- at the end

    async def check_acknowledged_writes(self) -> None:
        for name, history in self.truth.aliases.items():
            listed = await self.world.lora_server.listed()
            version = next(alias.version for alias in listed.aliases if alias.alias == f"{name}@prod")
            if history.current and version != history.current:
                self.violate(f"{name}@prod points to {version}; {history.current} was acknowledged")
        async with open_client(self.world.valkey.url) as opened:
            rated = {fields["decision"] for _, fields in await opened.client.xrange(redis_schema.FEEDBACK)}
        if lost := set(self.truth.feedback) - rated:
            self.violate(f"{len(lost)} of {len(self.truth.feedback)} acknowledged ratings are lost")
        there = 0
        for start in range(0, len(self.truth.notes), 100):
            there += await self.world.delete(self.truth.notes[start : start + 100])
        if there != len(self.truth.notes):
            self.violate(f"{len(self.truth.notes) - there} of {len(self.truth.notes)} acknowledged documents are lost")

    def check_spender(self) -> None:
        """Checks the bound in docs/keys.md: spending stays below the limit, plus one lease for each gateway if Valkey
        or a gateway was disturbed.
        """
        by_minute = Counter(
            int(record.wall // 60)
            for record in self.load.records
            if record.protocol == "spender" and record.ok
            and record.wall // 60 == (record.wall + record.ended - record.sent) // 60
        )  # fmt: skip
        offset = time.time() - time.monotonic()
        for minute, count in by_minute.items():
            begin = minute * 60 - offset
            disturbed = self._overlaps(begin, begin + 60, "valkey", *GATEWAYS, after=15.0)
            disturbed = disturbed or any(begin - 5 <= at <= begin + 65 for at in self.fallbacks)
            most = SPENDER_PER_MINUTE * (1 + len(GATEWAYS)) if disturbed else SPENDER_PER_MINUTE
            if count > most:
                self.violate(f"{count} requests of a key in a minute; the bound is {most}")
