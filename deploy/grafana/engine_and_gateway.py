"""Define the Grafana dashboard "Engine and gateway": health of the processes, from vLLM's queue to the gateway's
memory."""

from deploy.grafana.panels import PATH_TASK, Dashboard, Query, Row, lines, number, or_none, quantile, rate, share, stack

_REQUESTS = rate("pointsman_requests_total")

_NOW = Row(
    "Now",
    (
        number("Gateways", "Those that Prometheus reaches.", "none", 'sum(up{job="gateway"})'),
        number("Retrievers", "Those that Prometheus reaches.", "none", 'sum(up{job="retriever"})'),
        number("lora-servers", "Those that Prometheus reaches.", "none", 'sum(up{job="lora-server"})'),
        number("Engines", "Those that Prometheus reaches.", "none", 'sum(up{job="engine"})'),
        number("Breakers open", "Engines that a gateway leaves alone.", "none", "sum(pointsman_engine_breaker_open)"),
        number("In flight", "Requests being answered.", "none", "sum(pointsman_in_flight)"),
        number(
            "Configurations",
            "How many different ones the gateways serve. More than one for long: some did not take a change.",
            "none",
            "count(count by (generation) (pointsman_config_generation))",
        ),
        number(
            "Redis",
            "1 where it answers the gateways in time.",
            "none",
            "min(pointsman_redis_up)",
        ),
    ),
)

_ENGINE = Row(
    "Engine",
    (
        lines(
            "Queue",
            "Requests that run in each engine, and those that wait there.",
            "none",
            Query("sum by (instance) (vllm:num_requests_running)", "{{instance}} running"),
            Query("sum by (instance) (vllm:num_requests_waiting)", "{{instance}} waiting"),
        ),
        lines(
            "KV cache",
            "Share in use. At 1, requests wait or are begun anew.",
            "percentunit",
            Query("max by (instance) (vllm:kv_cache_usage_perc)", "{{instance}}"),
        ),
        lines(
            "Prefix cache hits",
            "Share of the prompts' tokens that the engine need not read again.",
            "percentunit",
            Query(
                share(
                    rate("vllm:prefix_cache_hits_total", "instance"),
                    rate("vllm:prefix_cache_queries_total", "instance"),
                ),
                "{{instance}}",
            ),
        ),
        lines(
            "Tokens",
            "A second: read of prompts, and made of answers.",
            "suffix: tokens/s",
            Query(rate("vllm:prompt_tokens_total", "instance"), "{{instance}} prompt"),
            Query(rate("vllm:generation_tokens_total", "instance"), "{{instance}} answer"),
        ),
        lines(
            "First token, p95",
            "As the engine times it: from its door to the first token.",
            "s",
            Query(quantile(0.95, "vllm:time_to_first_token_seconds", "instance"), "{{instance}}"),
        ),
        lines(
            "Between tokens, p95",
            "As the engine times it.",
            "s",
            Query(quantile(0.95, "vllm:inter_token_latency_seconds", "instance"), "{{instance}}"),
        ),
        lines(
            "Where its time goes, p95",
            "Of a request in the engine: waiting, reading the prompt, making the answer.",
            "s",
            Query(quantile(0.95, "vllm:request_queue_time_seconds"), "queue"),
            Query(quantile(0.95, "vllm:request_prefill_time_seconds"), "prefill"),
            Query(quantile(0.95, "vllm:request_decode_time_seconds"), "decode"),
        ),
        stack(
            "Ends",
            "Requests a second by why the engine came to an end with them.",
            "reqps",
            Query(rate("vllm:request_success_total", "finished_reason"), "{{finished_reason}}"),
        ),
        lines(
            "Preemptions",
            "Requests a second that were begun anew, since the KV cache was full.",
            "cps",
            Query(rate("vllm:num_preemptions_total", "instance"), "{{instance}}"),
        ),
    ),
)

_BETWEEN = Row(
    "Between gateway and engine",
    (
        stack(
            "Attempts",
            "What engines were asked, a second, by its end.",
            "reqps",
            Query(rate("pointsman_engine_attempts_total", "engine, outcome"), "{{engine}} {{outcome}}"),
        ),
        lines(
            "In flight by engine",
            "Answers that each engine is busy with, as the gateways count.",
            "none",
            Query("sum by (engine) (pointsman_engine_in_flight)", "{{engine}}"),
        ),
        lines(
            "Ready and broken",
            "Ready: the least of what the gateways say. Breaker: the most.",
            "none",
            Query("min by (engine) (pointsman_engine_ready)", "{{engine}} ready"),
            Query("max by (engine) (pointsman_engine_breaker_open)", "{{engine}} breaker open"),
        ),
        lines(
            "Operations",
            "Requests a second to models, by OpenTelemetry's name of the operation.",
            "reqps",
            Query(
                rate("gen_ai_client_operation_duration_seconds_count", "gen_ai_operation_name, gen_ai_request_model"),
                "{{gen_ai_operation_name}} {{gen_ai_request_model}}",
            ),
        ),
        lines(
            "Operation time, p95",
            "As OpenTelemetry's `gen_ai.client.operation.duration` tells it.",
            "s",
            Query(
                quantile(0.95, "gen_ai_client_operation_duration_seconds", "gen_ai_request_model"),
                "{{gen_ai_request_model}}",
            ),
        ),
        lines(
            "Tokens by model",
            "A second, as OpenTelemetry's `gen_ai.client.token.usage` tells it.",
            "suffix: tokens/s",
            Query(
                rate("gen_ai_client_token_usage_sum", "gen_ai_request_model, gen_ai_token_type"),
                "{{gen_ai_request_model}} {{gen_ai_token_type}}",
            ),
        ),
    ),
)

_GATEWAY = Row(
    "Gateway",
    (
        stack(
            "Outcomes",
            "How requests ended, a second.",
            "reqps",
            Query(rate(f"pointsman_requests_total{{{PATH_TASK}}}", "outcome"), "{{outcome}}"),
        ),
        lines(
            "Places",
            "Requests being answered, and those that wait for a place.",
            "none",
            Query("sum by (instance) (pointsman_in_flight)", "{{instance}} in flight"),
            Query("sum by (instance) (pointsman_queue_depth)", "{{instance}} waiting"),
        ),
        lines(
            "Event loop lag",
            "How late a gateway comes to what is due. Every request waits for it.",
            "s",
            Query(quantile(0.5, "pointsman_event_loop_lag_seconds"), "p50"),
            Query(quantile(0.99, "pointsman_event_loop_lag_seconds"), "p99"),
        ),
        lines(
            "CPU",
            "Cores that each gateway keeps busy. One is all that a process can use.",
            "suffix: cores",
            Query('rate(process_cpu_seconds_total{job="gateway"}[$__rate_interval])', "{{instance}}"),
        ),
        lines(
            "Memory",
            "Resident, of each gateway.",
            "bytes",
            Query('process_resident_memory_bytes{job="gateway"}', "{{instance}}"),
        ),
        lines(
            "Open files",
            "Sockets among them; at the limit no caller gets in.",
            "none",
            Query('process_open_fds{job="gateway"}', "{{instance}} open"),
            Query('process_max_fds{job="gateway"}', "{{instance}} limit"),
        ),
        lines(
            "Cache",
            "Requests a second on paths that cache, by what came of it.",
            "reqps",
            Query(rate("pointsman_cache_lookups_total", "outcome"), "{{outcome}}"),
            Query(rate("pointsman_cache_answers_total", "outcome"), "answers {{outcome}}"),
        ),
        lines(
            "Embeddings",
            "Requests a second for vectors, by model and end.",
            "reqps",
            Query(rate("pointsman_embedding_requests_total", "model, outcome"), "{{model}} {{outcome}}"),
        ),
        lines(
            "Embedding time, p95",
            "Arrival to end, by model.",
            "s",
            Query(quantile(0.95, "pointsman_embedding_seconds", "model"), "{{model}}"),
        ),
    ),
)

_KEPT = Row(
    "Keys, request log and configuration",
    (
        lines(
            "Limits and keys",
            "Per second: requests rejected by a limit, and keys looked up in Redis.",
            "cps",
            Query(rate("pointsman_ratelimit_rejected_total", "limit"), "rejected: {{limit}}"),
            Query(rate("pointsman_key_lookups_total", "outcome"), "key {{outcome}}"),
        ),
        lines(
            "Quota leases",
            "Lease renewals per second, and limits enforced locally while Redis was unavailable.",
            "cps",
            Query(rate("pointsman_quota_lease_renewals_total", "outcome"), "{{outcome}}"),
            Query(rate("pointsman_ratelimit_local_fallback_total"), "local fallback"),
        ),
        lines(
            "Redis",
            "1 where it answers in time; lowest of all processes.",
            "none",
            Query("min(pointsman_redis_up)", "gateway"),
            Query("min(pointsman_cache_redis_up)", "cache"),
            Query("min(pointsman_lora_redis_up)", "lora-server"),
        ),
        lines(
            "Request log",
            "Receipts per second: written, and lost.",
            "cps",
            Query(rate("pointsman_request_log_entries_total"), "written"),
            Query(
                or_none(
                    rate("pointsman_request_log_dropped_total", "reason"), rate("pointsman_request_log_entries_total")
                ),
                "lost {{reason}}",
            ),
        ),
        lines(
            "Waiting to be written",
            "Receipts in memory, feedback on disk, and seconds since the usage of keys was written.",
            "none",
            Query("sum(pointsman_request_log_waiting)", "receipts"),
            Query("sum(pointsman_wal_feedback_bytes)", "bytes of feedback"),
            Query("max(pointsman_usage_flush_lag_seconds)", "seconds of usage"),
        ),
        lines(
            "Feedback",
            "Feedback accepted per second, by where it was stored.",
            "cps",
            Query(or_none(rate("pointsman_feedback_total", "stored"), _REQUESTS), "feedback {{stored}}"),
        ),
        lines(
            "Configuration",
            "Changes of the folder since each gateway began, by outcome. A refused one does not serve.",
            "none",
            Query("sum by (instance, outcome) (pointsman_config_reloads_total)", "{{instance}} {{outcome}}"),
        ),
        lines(
            "Scrape time",
            "How long Prometheus takes to read each target.",
            "s",
            Query('max by (job) (scrape_duration_seconds{job=~"gateway|retriever|lora-server|engine"})', "{{job}}"),
        ),
        lines(
            "Series",
            "That each target tells at a scrape. Labels come from the configuration: this must not grow with requests.",
            "none",
            Query('max by (job) (scrape_samples_scraped{job=~"gateway|retriever|lora-server|engine"})', "{{job}}"),
        ),
    ),
)

ENGINE_AND_GATEWAY = Dashboard(
    "pointsman-engine-and-gateway",
    "Engine and gateway",
    "Whether the processes are well: engines, what lies between them and the gateways, and the gateways.",
    (_NOW, _ENGINE, _BETWEEN, _GATEWAY, _KEPT),
)
