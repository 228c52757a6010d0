"""The dashboard "Hybrid routing": requests, chosen paths, outcomes, latency, and the error budget."""

from deploy.grafana.hybrid_parts import ADAPTERS, COST, RESILIENCE, RETRIEVAL, SATURATION
from deploy.grafana.panels import (
    EVERY,
    NOT_THEIRS,
    OUR_FAULT,
    PATH,
    PATH_TASK,
    TASK,
    Dashboard,
    Panel,
    Query,
    Row,
    heat,
    lines,
    mean,
    number,
    or_none,
    quantile,
    rate,
    stack,
)


def _in_a_month(by_whose_fault: str) -> str:
    """Count the requests of the last 30 days, including those rejected before a decision."""
    counters = ("pointsman_requests_total", "pointsman_rejected_total")
    return f"sum({' or '.join(f'increase({name}{{{by_whose_fault}}}[30d])' for name in counters)})"


_DECISIONS = rate(f"pointsman_decisions_total{{{PATH_TASK}}}")

NOW = Row(
    "Now",
    (
        number(
            "Requests",
            "Requests a second over the last five minutes, of all tasks.",
            "reqps",
            f"sum(path:pointsman_requests:rate5m{{{PATH}}})",
        ),
        number(
            "Success",
            "Share of the requests that did not fail by our fault, over five minutes and all paths. Callers' mistakes "
            "and limits are left out.",
            "percentunit",
            '1 - slo:pointsman_errors:ratio5m{slo="availability"}',
        ),
        number(
            "p95",
            "19 of 20 requests came to their end within this time, over five minutes.",
            "s",
            f"histogram_quantile(0.95, sum by (le) (path:pointsman_request_duration_seconds_bucket:rate5m{{{PATH}}}))",
        ),
        number(
            "First token p95",
            "19 of 20 answers began within this time, over five minutes.",
            "s",
            "histogram_quantile(0.95, sum by (le) "
            f"(path:pointsman_time_to_first_token_seconds_bucket:rate5m{{{PATH}}}))",
        ),
        number(
            "Dollars for 1,000",
            "What a thousand requests cost, over the last hour. Idle engines are not in it: see Cost.",
            "currencyUSD",
            f"1000 * sum(path:pointsman_cost_usd:per_hour_rate1h{{{PATH}}}) "
            f"/ (sum(path:pointsman_requests:per_hour_rate1h{{{PATH}}}) > 0)",
        ),
        number(
            "Saved an hour",
            "Dollars an hour that routing saves: each task beside all of it on the dearest of its other paths. Fixed "
            "dollars are left out; Net has them.",
            "currencyUSD",
            f"sum(max by (task) (task_path:pointsman_saved_usd:per_hour_rate1h{{{TASK}}}))",
        ),
        Panel(
            "Share by kind",
            "Of the requests of the last five minutes: prompt, rag, lora, tuned, hybrid.",
            "percentunit",
            (Query("kind:pointsman_requests:share5m", "{{kind}}"),),
            "bars",
            3,
        ),
        number(
            "Error budget left",
            "Of thirty days' budget for requests that fail by our fault. Below 0 the objective is missed.",
            "percentunit",
            f"1 - ({_in_a_month(OUR_FAULT)} or 0 * {_in_a_month(NOT_THEIRS)}) / ({_in_a_month(NOT_THEIRS)} > 0) "
            '/ on () group_left () slo:pointsman_budget:ratio{slo="availability"}',
        ),
    ),
)

ROUTING = Row(
    "Routing",
    (
        stack(
            "Share by path",
            "Where the requests of five minutes went, of all tasks.",
            "percentunit",
            Query(f"path:pointsman_requests:share5m{{{PATH}}}", "{{path}}"),
        ),
        stack(
            "Requests by task",
            "As the classifier, a rule or the caller named it.",
            "reqps",
            Query(rate(f"pointsman_requests_total{{{PATH_TASK}}}", "task"), "{{task}}"),
        ),
        stack(
            "Reasons",
            "Why each decision fell as it did: policy, rule, asked for, abstained, availability, ...",
            "reqps",
            Query(rate(f"pointsman_decisions_total{{{PATH_TASK}}}", "reason"), "{{reason}}"),
        ),
        heat(
            "Confidence",
            "The classifier's probability of the task that it chose. A band that sinks is a new kind of question.",
            "percentunit",
            f"sum by (le) (increase(pointsman_classification_confidence_bucket{{{TASK}}}{EVERY}))",
        ),
        lines(
            "Mean confidence",
            "By task, over an hour. An alert tells of a drop by 0.1 against the day before.",
            "percentunit",
            Query(f"task:pointsman_classification_confidence:mean1h{{{TASK}}}", "{{task}}"),
        ),
        lines(
            "Abstentions",
            "Share of the decisions that took the default path since no task was likely enough, over five minutes.",
            "percentunit",
            Query("pointsman:abstentions:share5m", "abstained"),
        ),
        lines(
            "Decision time",
            "Classification and routing: what choosing a path adds to each request.",
            "s",
            Query(quantile(0.5, "pointsman_decision_duration_seconds"), "p50"),
            Query(quantile(0.99, "pointsman_decision_duration_seconds"), "p99"),
        ),
        stack(
            "Validators",
            "What validators said of answers. A refused answer escalates to the next path of its policy.",
            "reqps",
            Query(rate(f"pointsman_validations_total{{{PATH_TASK}}}", "validator, ruling"), "{{validator}} {{ruling}}"),
        ),
        stack(
            "Escalations",
            "Answers that were not accepted, by where the request went instead.",
            "reqps",
            Query(
                or_none(rate(f"pointsman_escalations_total{{{TASK}}}", "source, target"), _DECISIONS),
                "{{source}} -> {{target}}",
            ),
        ),
    ),
)

LATENCY = Row(
    "Latency by path",
    (
        lines(
            "End to end",
            "Arrival to end, of the chosen paths and tasks together.",
            "s",
            *(
                Query(quantile(part, f"pointsman_request_duration_seconds{{{PATH_TASK}}}"), name, exemplars=True)
                for part, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
        ),
        lines(
            "End to end by path, p95",
            "Over five minutes, of all tasks.",
            "s",
            Query(f'path:pointsman_request_duration_seconds:quantile5m{{{PATH},quantile="0.95"}}', "{{path}}"),
        ),
        lines(
            "First token by path, p95",
            "Arrival to the first token that the caller gets, over five minutes. The objective is 2.5 seconds.",
            "s",
            Query(f'path:pointsman_time_to_first_token_seconds:quantile5m{{{PATH},quantile="0.95"}}', "{{path}}"),
        ),
        lines(
            "Per output token by path, p95",
            "Between two tokens of an answer, over five minutes: what reading along feels like.",
            "s",
            Query(f'path:pointsman_time_per_output_token_seconds:quantile5m{{{PATH},quantile="0.95"}}', "{{path}}"),
        ),
        stack(
            "Phases",
            "What a mean request's time goes to. `held`: until a validator has seen the answer, within generation.",
            "s",
            Query(
                f"{rate(f'pointsman_phase_duration_seconds_sum{{{PATH}}}', 'phase')} "
                f"/ on () group_left () ({rate(f'pointsman_request_duration_seconds_count{{{PATH}}}')} > 0)",
                "{{phase}}",
            ),
        ),
        lines(
            "Queue and prefill by path, mean",
            "From asking the engine to its first token: in its queue, where it tells that, and beyond it. Where the "
            "queue grows alone, the engine is too busy.",
            "s",
            Query(mean(f'pointsman_phase_duration_seconds{{{PATH},phase="queue"}}', "path"), "{{path}} queue"),
            Query(mean(f'pointsman_phase_duration_seconds{{{PATH},phase="prefill"}}', "path"), "{{path}} prefill"),
        ),
    ),
)


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
