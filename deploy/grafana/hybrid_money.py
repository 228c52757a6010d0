"""The row of "Hybrid routing" about costs and savings."""

from deploy.grafana.expressions import PATH, PATH_TASK, TASK, rate
from deploy.grafana.panels import Query, Row, lines, stack

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
