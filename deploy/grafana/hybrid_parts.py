"""The rows of the dashboard "Hybrid routing" about costs, adapters, retrieval and engines."""

from deploy.grafana.panels import (
    EVERY,
    PATH,
    PATH_TASK,
    TASK,
    Query,
    Row,
    adapter_hits,
    heat,
    lines,
    mean,
    or_none,
    quantile,
    rate,
    share,
    stack,
)

COST = Row(
    "Cost and break-even",
    (
        lines(
            "Dollars for 1,000 requests",
            "By path, over five minutes and all tasks.",
            "currencyUSD",
            Query(f"path:pointsman_cost_usd:per_1k_requests_rate5m{{{PATH}}}", "{{path}}"),
        ),
        stack(
            "Dollars an hour by component",
            "Prompt, cached, completion, retrieval, hedge, training, ...: what the requests' dollars are spent on.",
            "currencyUSD",
            Query(f"3600 * {rate(f'pointsman_cost_usd_total{{{PATH_TASK}}}', 'component')}", "{{component}}"),
        ),
        stack(
            "Tokens by sort",
            "Tokens a second. `replayed` came out of the cache, and no engine has read or made them.",
            "suffix: tokens/s",
            Query(rate(f"pointsman_tokens_total{{{PATH_TASK}}}", "type"), "{{type}}"),
        ),
        stack(
            "Engines' dollars an hour",
            "An own engine's price, shared out by its own time. `idle` is what nobody used, or, of several gateways, "
            "what they did not use on the average.",
            "currencyUSD",
            Query("sum by (path) (engine_path:pointsman_engine_cost_usd:per_hour_rate1h)", "{{path}}"),
        ),
        stack(
            "Fixed dollars an hour",
            "What a path costs while nobody asks it: its engine, and its adapter's training spread over its life.",
            "currencyUSD",
            Query(f"path:pointsman_fixed_usd:per_hour{{{PATH}}}", "{{path}}"),
        ),
        lines(
            "Saved an hour beside one path",
            "Each task as it was sent, beside all of it on the path named last. Above 0 routing costs less.",
            "currencyUSD",
            Query(
                f"task_path:pointsman_saved_usd:per_hour_rate1h{{{PATH_TASK}}}",
                "{{task}}, not all on {{path}}",
            ),
        ),
        lines(
            "Net an hour beside one path",
            "Saved, less the fixed dollars of the other paths that the task used. Above 0 it pays.",
            "currencyUSD",
            Query(
                f"task_path:pointsman_net_usd:per_hour_rate1h{{{PATH_TASK}}}",
                "{{task}}, not all on {{path}}",
            ),
        ),
        lines(
            "Break-even volume",
            "Requests an hour of a task from which on its routing pays beside one path, and those that there are. A "
            "line that is missing never breaks even.",
            "suffix: requests/h",
            Query(f"task:pointsman_requests:per_hour_rate1h{{{TASK}}}", "{{task}} now"),
            Query(
                f"task_path:pointsman_break_even_requests:per_hour_rate1h{{{PATH_TASK}}} < Inf",
                "{{task}} pays beside {{path}}",
            ),
        ),
        lines(
            "Idle share of engines",
            "Of each own engine's dollars over an hour, those that no request used.",
            "percentunit",
            Query("engine:pointsman_engine_idle:share1h", "{{engine}}"),
        ),
    ),
)


_DECISIONS = rate(f"pointsman_decisions_total{{{PATH_TASK}}}")
_ATTEMPTS = rate("pointsman_engine_attempts_total", "engine")
_SEARCHES = rate("pointsman_retriever_search_duration_seconds_count", "collection")

ADAPTERS = Row(
    "Adapters",
    (
        lines(
            "Resident",
            "Adapters that each engine holds, and its slots.",
            "none",
            Query("pointsman_lora_resident_adapters", "{{instance}} holds"),
            Query("pointsman_lora_slots", "{{instance}} slots"),
        ),
        lines(
            "Hit ratio",
            "Share of the requests on paths with an adapter that did not wait for it.",
            "percentunit",
            Query(adapter_hits(EVERY), "not waited"),
        ),
        lines(
            "Loads and evictions",
            "A second. Many of both at once is thrash: more adapters than slots.",
            "cps",
            Query(rate("pointsman_lora_adapter_loads_total", "result"), "load {{result}}"),
            Query(rate("pointsman_lora_adapter_evictions_total", "reason"), "evicted for {{reason}}"),
        ),
        lines(
            "Load time",
            "From a load's turn to the adapter's first answer.",
            "s",
            Query(quantile(0.5, "pointsman_lora_adapter_load_duration_seconds"), "p50"),
            Query(quantile(0.95, "pointsman_lora_adapter_load_duration_seconds"), "p95"),
        ),
        lines(
            "Waiting for an adapter",
            "Mean of the requests that came before their adapter was loaded.",
            "s",
            Query(mean(f'pointsman_phase_duration_seconds{{{PATH},phase="adapter"}}', "path"), "{{path}}"),
        ),
        lines(
            "Version skew",
            "By how many versions the engines differ in each state. Above 0 for long, one of them does not come along.",
            "none",
            Query(
                "max by (state) (pointsman_lora_adapter_versions) - min by (state) (pointsman_lora_adapter_versions)",
                "{{state}}",
            ),
        ),
    ),
)

RETRIEVAL = Row(
    "Retrieval",
    (
        lines(
            "Search time",
            "In the retriever, over all collections.",
            "s",
            *(
                Query(quantile(part, "pointsman_retriever_search_duration_seconds"), name)
                for part, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
        ),
        lines(
            "Search phases, p95",
            "Embedding, waiting, ranking, reading passages, reranking.",
            "s",
            Query(quantile(0.95, "pointsman_retriever_search_phase_duration_seconds", "phase"), "{{phase}}"),
        ),
        heat(
            "Best score",
            "Cosine of the best passage to the question. A band that sinks: people ask what is not in the documents.",
            "none",
            f"sum by (le) (increase(pointsman_retriever_best_cosine_bucket{EVERY}))",
        ),
        lines(
            "Empty results",
            "Share of the searches that found nothing.",
            "percentunit",
            Query(share(rate("pointsman_retriever_empty_searches_total", "collection"), _SEARCHES), "{{collection}}"),
        ),
        lines(
            "Index age",
            "Since a collection last changed.",
            "s",
            Query("max by (collection) (pointsman_retriever_index_age_seconds)", "{{collection}}"),
        ),
        lines(
            "Retrieval in a request, mean",
            "By path, as the gateway waits for it: the search and the way there and back.",
            "s",
            Query(mean(f'pointsman_phase_duration_seconds{{{PATH},phase="retrieval"}}', "path"), "{{path}}"),
        ),
    ),
)

RESILIENCE = Row(
    "Resilience",
    (
        stack(
            "Outcomes by fault",
            "How requests ended, by whose fault it was; `none` is fine.",
            "reqps",
            Query(rate(f"pointsman_requests_total{{{PATH_TASK}}}", "fault"), "{{fault}}"),
        ),
        lines(
            "Breakers",
            "1 where a gateway leaves an engine alone, or has it on trial.",
            "none",
            Query("max by (engine) (pointsman_engine_breaker_open)", "{{engine}}"),
        ),
        lines(
            "Fallbacks",
            "Requests a second that another path answered, from -> to.",
            "reqps",
            Query(or_none(rate("pointsman_fallbacks_total", "source, target"), _DECISIONS), "{{source}} -> {{target}}"),
        ),
        lines(
            "Fallback share",
            "Of all decisions: the path failed, or was passed over. An alert tells of more than a tenth.",
            "percentunit",
            Query("pointsman:fallbacks:share5m", "fell back"),
        ),
        lines(
            "Retries and hedges",
            "Requests sent a second time, before their first token, by what came of it.",
            "reqps",
            *(
                Query(
                    or_none(rate(f"pointsman_{sort}_total", "engine, outcome"), _ATTEMPTS, "engine"),
                    f"{{{{engine}}}} {sort} {{{{outcome}}}}",
                )
                for sort in ("retries", "hedges")
            ),
        ),
        lines(
            "Limits",
            "Requests refused, by the limit that they met.",
            "reqps",
            Query(rate("pointsman_ratelimit_rejected_total", "limit"), "{{limit}}"),
        ),
    ),
)

SATURATION = Row(
    "Saturation",
    (
        lines(
            "In flight",
            "Requests being answered, and those that wait for a place.",
            "none",
            Query("sum(pointsman_in_flight)", "in flight"),
            Query("sum(pointsman_queue_depth)", "waiting"),
        ).across(6),
        lines(
            "Event loop lag, p99",
            "How late a gateway comes to what is due. Every request waits for it.",
            "s",
            Query(quantile(0.99, "pointsman_event_loop_lag_seconds", "instance"), "{{instance}}"),
        ).across(6),
        lines(
            "Engine queue",
            "Requests that run in each engine, and those that wait there.",
            "none",
            Query("sum by (instance) (vllm:num_requests_running)", "{{instance}} running"),
            Query("sum by (instance) (vllm:num_requests_waiting)", "{{instance}} waiting"),
        ).across(6),
        lines(
            "KV cache",
            "Share in use. At 1, requests wait or are begun anew.",
            "percentunit",
            Query("max by (instance) (vllm:kv_cache_usage_perc)", "{{instance}}"),
        ).across(6),
    ),
)
