"""Metrics that score answers from 0 to 1, confidence intervals of mean scores, and significance tests."""

from pointsman_scoring.metrics import Metric, MetricError
from pointsman_scoring.registry import (
    BUILT_IN,
    METRICS,
    built_in_metric,
    is_user_metric,
    metric_from,
    spec_from_text,
)

__all__ = [
    "BUILT_IN",
    "METRICS",
    "Metric",
    "MetricError",
    "built_in_metric",
    "is_user_metric",
    "metric_from",
    "spec_from_text",
]
