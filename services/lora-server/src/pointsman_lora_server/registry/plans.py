"""Stores in Redis the data of placement by demand: how much each engine's adapter versions are used, and the plan of
which engine holds which version.
"""

import json
import secrets
from collections.abc import Mapping, Sequence

from pointsman_servicekit.bounded_redis import BoundedRedis, read_script

from pointsman_lora_server.domain import EngineReport, StoredPlan, TokenRate
from pointsman_lora_server.registry import schema
from pointsman_lora_server.registry.schema import RedisKeys


class PlacementPlans:
    """Stores and reads the engines' reports and the placement plan. Methods raise Unavailable if Redis does not
    answer.
    """

    def __init__(self, redis: BoundedRedis, keys: RedisKeys) -> None:
        self._redis = redis
        self._keys = keys
        self._report = redis.client.register_script(read_script(__package__, "report_demand"))
        self._read_demand = redis.client.register_script(read_script(__package__, "read_demand"))
        self._read_plan = redis.client.register_script(read_script(__package__, "read_plan"))
        self._write_plan = redis.client.register_script(read_script(__package__, "write_plan"))

    async def report_demand(self, report: EngineReport, seconds: float) -> None:
        """Stores the report of one engine on the use of its versions. The report expires after `seconds`."""
        arguments = [report.engine, _report_to_json(report), max(1, round(seconds * 1000))]
        await self._redis.call(lambda: self._report(keys=[self._keys.demand], args=arguments))

    async def read_demand(self) -> list[EngineReport]:
        """Returns the engines' reports that have not expired, sorted by engine. Reports that cannot be parsed are left
        out.
        """
        raw: Sequence[str] = await self._redis.call(lambda: self._read_demand(keys=[self._keys.demand]))
        reports = (_report_from_json(text) for text in raw)
        return sorted((report for report in reports if report is not None), key=lambda report: report.engine)

    async def read_plan(self, known: StoredPlan) -> StoredPlan:
        """Returns the current plan, or `known` itself if it is still the current one. Entries that cannot be parsed are
        left out.
        """
        keys = [self._keys.plan, self._keys.plan_stamp]
        stamp, *pairs = await self._redis.call(lambda: self._read_plan(keys=keys, args=[known.stamp]))
        if stamp == known.stamp:
            return known
        return StoredPlan(stamp, schema.plan_from_pairs(pairs))

    async def write_plan(self, before: StoredPlan, engines: Mapping[str, Sequence[str]]) -> StoredPlan | None:
        """Replaces the plan `before` by a plan with `engines` (version -> engines), and returns the new plan. Returns
        None if another process has changed the plan since `before` was read.
        """
        after = StoredPlan(secrets.token_hex(8), {version: tuple(names) for version, names in engines.items()})
        changed = [version for version in after.engines if after.engines[version] != before.engines.get(version)]
        gone = [version for version in before.engines if version not in after.engines]
        texts = [text for version in changed for text in (version, json.dumps(after.engines[version]))]
        keys, arguments = (
            [self._keys.plan, self._keys.plan_stamp],
            [before.stamp, after.stamp, len(gone), *gone, *texts],
        )
        return after if await self._redis.call(lambda: self._write_plan(keys=keys, args=arguments)) else None


def _report_to_json(report: EngineReport) -> str:
    return json.dumps(
        {
            "engine": report.engine,
            "slots": report.slots,
            "reserved": report.reserved,
            "tokens_per_second": report.tokens_per_second,
            "holds": sorted(report.holds),
            "rates": {version: [rate.fast, rate.slow] for version, rate in report.rates.items()},
        }
    )


def _report_from_json(text: str) -> EngineReport | None:
    try:
        values = json.loads(text, parse_constant=_refuse)
        rates = {str(version): TokenRate(float(fast), float(slow)) for version, (fast, slow) in values["rates"].items()}
        capacity = max(1e-6, float(values["tokens_per_second"]))
        slots, reserved = int(values["slots"]), int(values["reserved"])
        return EngineReport(str(values["engine"]), slots, reserved, capacity, frozenset(values["holds"]), rates)
    except (ValueError, TypeError, LookupError, AttributeError):
        return None  # of another release; without a report an engine gets no new copies


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number to compute with")
