"""Define the Grafana dashboard "Hybrid routing": chosen paths, outcomes and costs."""

from deploy.grafana.hybrid_money import COST
from deploy.grafana.hybrid_parts import ADAPTERS, RESILIENCE, RETRIEVAL, SATURATION
from deploy.grafana.hybrid_requests import LATENCY, NOW, ROUTING
from deploy.grafana.panels import Dashboard, Panel, Query, Row, lines


def _burn(slo: str, promise: str) -> Panel:
    named = f'{{slo="{slo}"}}'
    return lines(
        f"Burn rate: {slo}",
        f"{promise} At 1 the month's budget lasts for a month, at 14.4 for two days. Pages at 14.4 (1h) or 6 (6h), "
        "tickets at 3 (1d) or 1 (3d).",
        "none",
        *(
            Query(f"slo:pointsman_errors:ratio{window}{named} / on (slo) slo:pointsman_budget:ratio{named}", window)
            for window in ("5m", "1h", "6h", "1d", "3d")
        ),
    ).across(12)


_SLO = Row(
    "SLO burn",
    (
        _burn("availability", "Requests that fail by our fault, of 0.5 % that may."),
        _burn("latency", "First tokens after 2.5 seconds, of 1 % that may."),
    ),
)

HYBRID_ROUTING = Dashboard(
    "pointsman-hybrid-routing",
    "Hybrid routing",
    "Which path requests take, how fast they are answered, what that costs, and whether it pays.",
    (NOW, ROUTING, LATENCY, COST, ADAPTERS, RETRIEVAL, RESILIENCE, SATURATION, _SLO),
)
