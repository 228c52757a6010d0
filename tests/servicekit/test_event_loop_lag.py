"""The event loop's lag is measured and exported."""

import time

from pointsman_servicekit.event_loop_lag import measuring_event_loop_lag
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.waiting import until

NAME = "pointsman_event_loop_lag_seconds"


async def test_whatever_blocks_the_event_loop_shows_as_lag() -> None:
    registry = CollectorRegistry()

    def measured(part: str) -> float:
        return registry.get_sample_value(f"{NAME}_{part}") or 0.0

    async with measuring_event_loop_lag(registry):
        await until(lambda: measured("count") >= 1)
        before, seen = measured("sum"), measured("count")
        time.sleep(0.3)  # noqa: ASYNC251  # this is what is to be seen
        await until(lambda: measured("count") > seen)
        assert measured("sum") - before >= 0.15
