"""The help desk under mixed load on all protocols while faults are injected: `make test-endurance`.

    python -m tests.endurance --minutes 60 --seed 7 --engine scripted

Invariants are checked throughout. A violation is printed at once, and makes the exit code 1. The seed determines the
faults and changes, their order and their lengths; the requests are random. Run it as root, so that Valkey gets a disk
of its own that can be filled, and with Prometheus (`make monitoring-tools`) and libfaketime installed.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from tests.endurance import alerts, schedule
from tests.endurance.engines import KINDS
from tests.endurance.faults import Faults
from tests.endurance.invariants import Invariants
from tests.endurance.load import Load
from tests.endurance.memory import Memory
from tests.endurance.schedule import Event, make_schedule
from tests.endurance.truth import Truth
from tests.endurance.world import LIBFAKETIME, World, running_world
from tests.monitoring.watch import PROMETHEUS, Prometheus, program, watching

AUDIT_SECONDS = 300.0
SAMPLE_SECONDS = 2.0


class Run:
    def __init__(self, world: World, prometheus: Prometheus | None, options: argparse.Namespace) -> None:
        self._world, self._prometheus, self._options = world, prometheus, options
        self._truth, self._memory = Truth(), Memory()
        self._load = Load(world, self._truth, options.speed)
        self._faults = Faults(world, self._truth, self._load)
        self._events: list[Event] = []
        self.begun = time.monotonic()
        self.invariants = Invariants(world, self._truth, self._load, self._events, self.begun)

    async def run(self) -> dict[str, Any]:
        await self._faults.prepare()
        planned = make_schedule(self._options.seed, self._options.minutes * 60)
        started = time.time()
        self.begun = self.invariants.begun = time.monotonic()
        async with self._load.running():
            background = [asyncio.create_task(one) for one in (self._watch(), self._make_changes(planned))]
            audit_at = AUDIT_SECONDS
            for event in [event for event in planned if event.seconds and self._is_possible(event)]:
                calm = self._events[-1].end + schedule.MIN_CALM_SECONDS if self._events else 0.0
                await self._sleep_until(max(event.at, calm))
                if self._now() > self._options.minutes * 60:
                    break  # recoveries took longer than planned
                await self._carry_out(event)
                if self._now() > audit_at:
                    await self.invariants.audit(self._faults)
                    audit_at = self._now() + AUDIT_SECONDS
            await self._sleep_until(self._options.minutes * 60)
            for task in background:
                task.cancel()
            for result in await asyncio.gather(*background, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result
            await self.invariants.audit(self._faults)
        await self.invariants.check_acknowledged_writes()
        self.invariants.check_spender()
        for problem in self._memory.violations(self._options.minutes * 60):
            self.invariants.violate(problem)
        if self._prometheus:
            for problem in await alerts.invisible_faults(self._prometheus, self._events, started):
                self.invariants.violate(problem)
        return self._summary()

    def _now(self) -> float:
        return time.monotonic() - self.begun

    async def _sleep_until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self._now()))

    def _is_possible(self, event: Event) -> bool:
        possible = {
            "fill disk": self._world.has_disk,
            "step clock": LIBFAKETIME.exists(),
            "malform answers": self._world.kind.is_scripted,
        }
        return possible.get(event.kind, True)

    async def _carry_out(self, event: Event) -> None:
        at = self._now()
        self._events.append(replace(event, at=at, seconds=float("inf")))
        print(f"{at:6.0f} s  {event.kind} {event.target} for {event.seconds:.0f} s", flush=True)
        try:
            async with self._faults.fault(event):
                await asyncio.sleep(event.seconds)
        except (AssertionError, OSError, aiohttp.ClientError) as error:  # TimeoutError is an OSError
            self.invariants.violate(f"no recovery from: {event.kind} {event.target}: {type(error).__name__}")
        self._events[-1] = replace(event, at=at, seconds=self._now() - at)

    async def _make_changes(self, planned: list[Event]) -> None:
        for event in planned:
            if not event.seconds:
                await self._sleep_until(event.at)
                self._faults.start_change(event)

    async def _watch(self) -> None:
        """Checks requests and keys every second, and samples memory."""
        sampled = -SAMPLE_SECONDS
        while True:
            await asyncio.sleep(0.5)
            self.invariants.check_records()
            with suppress(OSError, aiohttp.ClientError):  # a gateway is away
                async with asyncio.timeout(5):  # or suspended
                    await self.invariants.check_revocations()
                    await self.invariants.watch_fallbacks()
            if self._now() > sampled + SAMPLE_SECONDS:
                sampled = self._now()
                self.invariants.waits.sample_load()
                for name in schedule.SERVICES:
                    if pid := self._world.pid(name):
                        self._memory.sample(name, pid, sampled, self._world.memory_file(name))

    def _summary(self) -> dict[str, Any]:
        records = self._load.records
        calm = [r for r in records if not r.ok and not self._is_disturbed(r.sent, r.ended)]
        return {
            "seed": self._options.seed,
            "minutes": self._options.minutes,
            "engine": self._options.engine,
            "requests": len(records),
            "answered": dict(Counter(record.protocol for record in records if record.ok)),
            "errors": dict(Counter(record.code for record in records if not record.ok).most_common()),
            "errors without a fault in the last 15 s": dict(
                Counter(f"{r.protocol}: {r.code}" for r in calm).most_common()
            ),
            "faults": dict(Counter(f"{event.kind} {event.target}" for event in self._events)),
            "changes": {
                "adapter moves": sum(len(history.changes) - 1 for history in self._truth.aliases.values()),
                "documents replaced": len(self._truth.document.changes) - 1,
                "documents added": len(self._truth.notes),
                "configuration edits": self._truth.edits,
                "ratings": len(self._truth.feedback),
                "not possible during faults": self._faults.failed_changes,
            },
            "receipts": len(self.invariants.receipts),
            "audits": self.invariants.audits,
            "memory": {one.name: str(one) for one in self._memory.growth()},
            "memory by window": {one.name: str(one.by_window) for one in self._memory.growth()},
            "machine": {
                "mean load": round(statistics.fmean(self.invariants.waits.loads or [0.0]), 1),
                "waiting for a processor": {
                    name: f"{100 * self.invariants.waits.share(name):.0f} %" for name in self.invariants.waits.samples
                },
                "niceness": os.nice(0),
            },
            "slowest recovery": max(self._faults.recovery_seconds.values(), default=0.0),
            "violations": self.invariants.violations,
        }

    def _is_disturbed(self, begin: float, end: float) -> bool:
        return any(event.at + self.begun <= end and begin <= event.end + self.begun + 15.0 for event in self._events)


async def main(options: argparse.Namespace) -> int:
    async with AsyncExitStack() as stack:
        folder = Path(options.out) if options.out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        world = await stack.enter_async_context(running_world(folder, KINDS[options.engine], options.classifier))
        prometheus = None
        if program(PROMETHEUS):
            prometheus = await stack.enter_async_context(watching(folder / "prometheus", world.targets))
        else:
            print("Prometheus is not installed: whether faults are visible is not checked")
        summary = await Run(world, prometheus, options).run()
    print(json.dumps(summary, indent=1))
    return 1 if summary["violations"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.endurance")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2)), help="drawn and printed if absent")
    parser.add_argument("--engine", choices=tuple(KINDS), default="real")
    parser.add_argument("--speed", type=float, help="1: about 25 requests a second; by default 0.5, with vLLM 0.1")
    parser.add_argument(
        "--classifier", default="", help="the help desk's, from `pointsman classifier fit`; else fitted"
    )
    parser.add_argument("--out", help="an empty folder for state and logs, which is kept")
    given = parser.parse_args()
    # Ports of its own: while a server is killed, another test on this machine would take its port.
    os.environ["PYTEST_XDIST_WORKER"] = "gw15"
    given.speed = given.speed or (0.5 if given.engine == "scripted" else 0.1)
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(f"seed {given.seed}, commit {revision.stdout.strip()}, engine {given.engine}, {given.minutes:g} minutes")
    sys.exit(asyncio.run(main(given)))
