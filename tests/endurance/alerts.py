"""The alerts and metrics that must report each fault."""

from collections.abc import Mapping, Sequence

from tests.endurance.schedule import Event
from tests.monitoring.watch import Prometheus

GRACE_SECONDS = 25.0
"""Time after a fault in which its alert may still start: for scrapes, rules and the alert's `for`."""

TARGET_DOWN = "PointsmanTargetDown"
DOWN = 'up{{job="{job}"}} == 0'

ALERTS: Mapping[str, Sequence[str]] = {
    "gateway-a": (TARGET_DOWN, "PointsmanGatewayDown"),
    "gateway-b": (TARGET_DOWN, "PointsmanGatewayDown"),
    "retriever": (TARGET_DOWN,),
    "lora-server": (TARGET_DOWN,),
    "engine": (TARGET_DOWN, "PointsmanEngineRestarted", "PointsmanBreakerOpen"),
    "valkey": ("PointsmanRedisDegraded",),
    "fill disk": ("PointsmanRedisDegraded",),
    "step clock": ("PointsmanClockSkew",),
    "break configuration": ("PointsmanConfigReloadFailed",),
    "malform answers": ("PointsmanBreakerOpen",),
}
"""The alerts of which at least one must fire, by the fault's kind, or by its target if the kind has no entry."""

METRICS: Mapping[str, str] = {
    "gateway-a": DOWN.format(job="pointsman-gateway"),
    "gateway-b": DOWN.format(job="pointsman-gateway"),
    "retriever": DOWN.format(job="pointsman-retriever"),
    "lora-server": DOWN.format(job="pointsman-lora-server"),
    "engine": 'up{job="pointsman-engine"} == 0 or increase(pointsman_lora_engine_restarts_total[30s]) > 0',
    "valkey": "pointsman_redis_up == 0",
    "fill disk": "pointsman_redis_up == 0 or pointsman_usage_flush_lag_seconds > 3",
    "step clock": "abs(pointsman_clock_offset_seconds) > 5",
    "break configuration": 'increase(pointsman_config_reloads_total{outcome="refused"}[30s]) > 0',
    "malform answers": "pointsman_engine_breaker_open == 1",
}

HARMLESS = frozenset({"send schemas"})
"""Kinds of faults that must not disturb anything, and so have no alert."""


def _key(event: Event) -> str:
    return event.kind if event.kind in ALERTS else event.target


async def invisible_faults(prometheus: Prometheus, events: Sequence[Event], started: float) -> list[str]:
    """Returns a line for each fault that no metric or no alert has shown. `started` is the Unix time from which the
    events count their seconds.
    """
    problems = []
    for event in [event for event in events if event.kind not in HARMLESS]:
        begin, end = started + event.at, started + event.end + GRACE_SECONDS
        names = "|".join(ALERTS[_key(event)])
        what = f"{event.kind} {event.target} at {event.at:.0f} s"
        if not await prometheus.range(f'ALERTS{{alertname=~"{names}",alertstate="firing"}}', begin, end):
            problems.append(f"no alert for: {what}")
        if not await prometheus.range(METRICS[_key(event)], begin, end):
            problems.append(f"no metric for: {what}")
    return problems
