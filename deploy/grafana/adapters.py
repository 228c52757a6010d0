"""Define the Grafana dashboard "Adapters": residency, loads and evictions, usage and cost of adapters."""

from deploy.grafana.expressions import (
    ADAPTER_KINDS,
    PATH,
    PATH_TASK,
    adapter_hits,
    mean,
    or_none,
    quantile,
    rate,
    share,
)
from deploy.grafana.panels import Dashboard, Query, Row, lines, number, stack

_LENT = f"{ADAPTER_KINDS},{PATH}"
_ATTEMPTS = rate("pointsman_engine_attempts_total", "engine")

_NOW = Row(
    "Now",
    (
        number("Resident", "Adapters that the engines hold, together.", "none", "sum(pointsman_lora_resident)"),
        number(
            "Slots taken",
            "Of the slots of all engines. At 1, each load lets another go.",
            "percentunit",
            "sum(pointsman_lora_resident) / (sum(pointsman_lora_slots) > 0)",
        ),
        number("Pinned", "Versions that every engine must hold.", "none", "max(pointsman_lora_pinned)"),
        number(
            "Engines up",
            "Of those that a lora-server keeps.",
            "none",
            "sum(pointsman_lora_engine_up)",
        ),
        number(
            "Hit ratio",
            "Share of the requests on paths with an adapter that did not wait for it, over an hour.",
            "percentunit",
            adapter_hits("[1h]"),
        ),
        number(
            "Failed loads",
            "Of the last hour: failed, refused, or no slot.",
            "none",
            'sum(increase(pointsman_lora_loads_total{result!="loaded"}[1h]))',
        ),
        number(
            "Canaries taken back",
            "Of the last day: new versions that did worse than the ones beside them.",
            "none",
            "sum(increase(pointsman_lora_canary_rollbacks_total[1d]))",
        ),
        number(
            "Failed probes",
            "Of the last day: times that the base model did not answer as it had before. Any is one too many.",
            "none",
            "sum(increase(pointsman_lora_probe_failures_total[1d]))",
        ),
    ),
)

_ENGINES = Row(
    "Engines",
    (
        lines(
            "Resident",
            "Adapters that each engine holds, and its slots.",
            "none",
            Query("pointsman_lora_resident", "{{instance}} holds"),
            Query("pointsman_lora_slots", "{{instance}} slots"),
        ),
        lines(
            "Loads",
            "A second, by what came of them.",
            "cps",
            Query(rate("pointsman_lora_loads_total", "result"), "{{result}}"),
        ),
        lines(
            "Evictions",
            "A second: for room, or since the version is retired.",
            "cps",
            Query(rate("pointsman_lora_evictions_total", "reason"), "{{reason}}"),
        ),
        lines(
            "Load time",
            "From a load's turn to the adapter's first answer.",
            "s",
            Query(quantile(0.5, "pointsman_lora_load_seconds"), "p50"),
            Query(quantile(0.95, "pointsman_lora_load_seconds"), "p95"),
        ),
        lines(
            "Waiting for a slot, p95",
            "That a load waits until an adapter which is in use can be let go.",
            "s",
            Query(quantile(0.95, "pointsman_lora_slot_wait_seconds"), "p95"),
        ),
        lines(
            "Restarts and probes",
            "Starts of an engine after its first, and failed probes of the base model, since the lora-server began.",
            "none",
            Query("pointsman_lora_engine_restarts_total", "{{instance}} restarts"),
            Query("pointsman_lora_probe_failures_total", "{{instance}} failed probes"),
        ),
    ),
)

_VERSIONS = Row(
    "Versions",
    (
        stack(
            "Versions by state",
            "As the engine that has most of them sees them.",
            "none",
            Query("max by (state) (pointsman_lora_versions)", "{{state}}"),
        ),
        lines(
            "Version skew",
            "By how many versions the engines differ in each state. Above 0 for long, one of them does not come along.",
            "none",
            Query("max by (state) (pointsman_lora_versions) - min by (state) (pointsman_lora_versions)", "{{state}}"),
        ),
        lines(
            "Transitions",
            "Times a second that a version reached a state.",
            "cps",
            Query(rate("pointsman_lora_transitions_total", "state"), "{{state}}"),
        ),
        lines(
            "Trials",
            "Of versions apart from the engine, before they may serve, by what came of them.",
            "cps",
            Query(rate("pointsman_lora_validations_total", "result"), "{{result}}"),
        ),
        lines(
            "Trial time, p95",
            "Whatever came of the trial.",
            "s",
            Query(quantile(0.95, "pointsman_lora_validation_seconds"), "p95"),
        ),
        lines(
            "Canaries",
            "Outcomes of requests to aliases with a canary, as gateways tell lora-servers; and canaries taken back.",
            "cps",
            Query(
                or_none(rate("pointsman_canary_outcomes_total", "outcome"), rate("pointsman_requests_total")),
                "outcomes {{outcome}}",
            ),
            Query(rate("pointsman_lora_canary_rollbacks_total"), "taken back"),
        ),
    ),
)

_USE = Row(
    "Use",
    (
        stack(
            "Requests",
            "A second, on the paths with an adapter.",
            "reqps",
            Query(f"path:pointsman_requests:rate5m{{{_LENT}}}", "{{path}}"),
        ),
        lines(
            "First token, p95",
            "On the paths with an adapter, over five minutes.",
            "s",
            Query(f'path:pointsman_time_to_first_token_seconds:quantile5m{{{_LENT},quantile="0.95"}}', "{{path}}"),
        ),
        lines(
            "Waiting for an adapter",
            "Mean of the requests that came before their adapter was loaded.",
            "s",
            Query(mean(f'pointsman_phase_duration_seconds{{{PATH},phase="adapter"}}', "path"), "{{path}}"),
        ),
        lines(
            "Asked for",
            "How it stood with versions that gateways missed: resident after all, joined (under way), loaded, failed.",
            "cps",
            Query(rate("pointsman_lora_ensures_total", "result"), "{{result}}"),
        ),
        lines(
            "Loads on demand",
            "That gateways asked lora-servers for, by what came of them; and adapters gone when a request came.",
            "cps",
            Query(
                or_none(rate("pointsman_adapter_loads_total", "engine, outcome"), _ATTEMPTS, "engine"),
                "{{engine}} {{outcome}}",
            ),
            Query(
                or_none(rate("pointsman_adapter_evicted_total", "engine"), _ATTEMPTS, "engine"),
                "{{engine}} had let it go",
            ),
        ),
        lines(
            "Last seen together",
            "Seconds since an engine last ran these versions at once.",
            "s",
            Query(
                "time() - max by (running_lora_adapters) "
                '(vllm:lora_requests_info{running_lora_adapters=~".+",running_lora_adapters=~".*($adapter).*"})',
                "{{running_lora_adapters}}",
            ),
        ),
    ),
)

_COST = Row(
    "Cost",
    (
        lines(
            "Dollars for 1,000 requests",
            "On the paths with an adapter, over five minutes; with their share of the training.",
            "currencyUSD",
            Query(f"path:pointsman_cost_usd:per_1k_requests_rate5m{{{_LENT}}}", "{{path}}"),
        ),
        lines(
            "Training",
            "Dollars that each adapter's training has cost.",
            "currencyUSD",
            Query('max by (adapter) (pointsman_training_usd{adapter=~"$adapter"})', "{{adapter}}"),
        ),
        lines(
            "Training's share",
            "Of the dollars that requests on these paths cost, those that pay back their adapter's training.",
            "percentunit",
            Query(
                share(
                    rate(f'pointsman_cost_usd_total{{{ADAPTER_KINDS},{PATH_TASK},component="training"}}', "path"),
                    rate(f"pointsman_cost_usd_total{{{ADAPTER_KINDS},{PATH_TASK}}}", "path"),
                ),
                "{{path}}",
            ),
        ),
    ),
)

ADAPTERS = Dashboard(
    "pointsman-adapters",
    "Adapters",
    "Which adapters the engines hold, how versions come and go, who uses them, and what they cost.",
    (_NOW, _ENGINES, _VERSIONS, _USE, _COST),
)
