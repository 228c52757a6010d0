"""Define the Grafana dashboard "Adapters": residency, loads and evictions, usage and cost of adapters."""

from deploy.grafana.panels import (
    ADAPTER_KINDS,
    PATH,
    PATH_TASK,
    Dashboard,
    Query,
    Row,
    adapter_hits,
    lines,
    mean,
    number,
    or_none,
    quantile,
    rate,
    share,
    stack,
)

_LENT = f"{ADAPTER_KINDS},{PATH}"
_ATTEMPTS = rate("pointsman_engine_attempts_total", "engine")

_LOAD_STEP = "pointsman_lora_adapter_load_step_duration_seconds"
_LOAD_STEP_MEAN = f"{rate(f'{_LOAD_STEP}_sum', 'step')} / {rate(f'{_LOAD_STEP}_count', 'step')}"

_NOW = Row(
    "Now",
    (
        number(
            "Resident", "Adapters that all engines hold, in total.", "none", "sum(pointsman_lora_resident_adapters)"
        ),
        number(
            "Slots taken",
            "Fraction of the slots of all engines in use. At 1, each load evicts another adapter.",
            "percentunit",
            "sum(pointsman_lora_resident_adapters) / (sum(pointsman_lora_slots) > 0)",
        ),
        number("Pinned", "Versions that every engine must hold.", "none", "max(pointsman_lora_pinned_adapters)"),
        number(
            "Engines up",
            "Engines that are up, of those with a lora-server.",
            "none",
            "sum(pointsman_lora_engine_up)",
        ),
        number(
            "Hit ratio",
            "Share of the requests on paths with an adapter that did not wait for a load, over an hour.",
            "percentunit",
            adapter_hits("[1h]"),
        ),
        number(
            "Failed loads",
            "Failed, refused, or without a slot, in the last hour.",
            "none",
            'sum(increase(pointsman_lora_adapter_loads_total{result!="loaded"}[1h]))',
        ),
        number(
            "Canary rollbacks",
            "Canaries that were worse than the stable version, in the last day.",
            "none",
            "sum(increase(pointsman_lora_canary_rollbacks_total[1d]))",
        ),
        number(
            "Failed probes",
            "Probes that the base model answered differently than before, in the last day. Should be 0.",
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
            "Adapters that each engine holds in its host memory, and its slots.",
            "none",
            Query("pointsman_lora_resident_adapters", "{{instance}} holds"),
            Query("pointsman_lora_slots", "{{instance}} slots"),
        ),
        lines(
            "In use",
            "Adapters that requests in flight use, and how many a batch can use. Above that, requests wait in vLLM.",
            "none",
            Query("pointsman_lora_adapters_in_use", "{{instance}} in use"),
            Query("pointsman_lora_batch_slots", "{{instance}} in a batch"),
        ),
        lines(
            "Loads",
            "Loads per second by result.",
            "cps",
            Query(rate("pointsman_lora_adapter_loads_total", "result"), "{{result}}"),
        ),
        lines(
            "Evictions",
            "Evictions per second: to make room, or because the version was retired.",
            "cps",
            Query(rate("pointsman_lora_adapter_evictions_total", "reason"), "{{reason}}"),
        ),
        lines(
            "Load time",
            "From the start of a load to the adapter's first answer.",
            "s",
            Query(quantile(0.5, "pointsman_lora_adapter_load_duration_seconds"), "p50"),
            Query(quantile(0.95, "pointsman_lora_adapter_load_duration_seconds"), "p95"),
        ),
        lines(
            "Steps of a load, mean",
            "Where the time of a load goes; fetch includes the check of the hash.",
            "s",
            Query(_LOAD_STEP_MEAN, "{{step}}"),
        ),
        lines(
            "Waiting for a slot, p95",
            "How long a load waits until an adapter can be evicted.",
            "s",
            Query(quantile(0.95, "pointsman_lora_slot_wait_seconds"), "p95"),
        ),
        lines(
            "Restarts and probes",
            "Restarts of an engine and failed probes of the base model, since the lora-server started.",
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
            "On the engine with the most versions in the state.",
            "none",
            Query("max by (state) (pointsman_lora_adapter_versions)", "{{state}}"),
        ),
        lines(
            "Version skew",
            "By how many versions the engines differ in each state. If it stays above 0, an engine lags behind.",
            "none",
            Query(
                "max by (state) (pointsman_lora_adapter_versions) - min by (state) (pointsman_lora_adapter_versions)",
                "{{state}}",
            ),
        ),
        lines(
            "Transitions",
            "Versions per second that entered a state.",
            "cps",
            Query(rate("pointsman_lora_version_transitions_total", "state"), "{{state}}"),
        ),
        lines(
            "Smoke tests",
            "Smoke tests of new versions per second by result.",
            "cps",
            Query(rate("pointsman_lora_validations_total", "result"), "{{result}}"),
        ),
        lines(
            "Smoke test duration, p95",
            "Whatever the result.",
            "s",
            Query(quantile(0.95, "pointsman_lora_validation_duration_seconds"), "p95"),
        ),
        lines(
            "Canaries",
            "Outcomes of requests to aliases with a canary, as gateways report them, and automatic rollbacks.",
            "cps",
            Query(
                or_none(rate("pointsman_canary_outcomes_total", "outcome"), rate("pointsman_requests_total")),
                "outcomes {{outcome}}",
            ),
            Query(rate("pointsman_lora_canary_rollbacks_total"), "rollbacks"),
        ),
    ),
)

_USE = Row(
    "Use",
    (
        stack(
            "Requests",
            "Requests per second on paths with an adapter.",
            "reqps",
            Query(f"path:pointsman_requests:rate5m{{{_LENT}}}", "{{path}}"),
        ),
        lines(
            "First token, p95",
            "On paths with an adapter, over five minutes.",
            "s",
            Query(f'path:pointsman_time_to_first_token_seconds:quantile5m{{{_LENT},quantile="0.95"}}', "{{path}}"),
        ),
        lines(
            "Waiting for an adapter",
            "Mean wait of requests whose adapter had to be loaded.",
            "s",
            Query(mean(f'pointsman_phase_duration_seconds{{{PATH},phase="adapter"}}', "path"), "{{path}}"),
        ),
        lines(
            "Load requests",
            "Requests of gateways for a version to be loaded: resident already, joined a running load, loaded, failed.",
            "cps",
            Query(rate("pointsman_lora_adapter_load_requests_total", "result"), "{{result}}"),
        ),
        lines(
            "Loads on demand",
            "Loads that gateways requested, by outcome, and adapters that were evicted when a request came.",
            "cps",
            Query(
                or_none(rate("pointsman_adapter_loads_total", "engine, outcome"), _ATTEMPTS, "engine"),
                "{{engine}} {{outcome}}",
            ),
            Query(
                or_none(rate("pointsman_adapter_evicted_total", "engine"), _ATTEMPTS, "engine"),
                "{{engine}} had evicted it",
            ),
        ),
        lines(
            "Last seen together",
            "Seconds since an engine last ran these versions in one batch.",
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
            "On paths with an adapter, over five minutes, including their share of the training.",
            "currencyUSD",
            Query(f"path:pointsman_cost_usd:per_1k_requests_rate5m{{{_LENT}}}", "{{path}}"),
        ),
        lines(
            "Training",
            "Cost of each adapter's training in dollars.",
            "currencyUSD",
            Query('max by (adapter) (pointsman_training_usd{adapter=~"$adapter"})', "{{adapter}}"),
        ),
        lines(
            "Training share",
            "Fraction of these paths' cost that repays their adapter's training.",
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
    "Adapters on the engines, their versions, their use and their cost.",
    (_NOW, _ENGINES, _VERSIONS, _USE, _COST),
)
