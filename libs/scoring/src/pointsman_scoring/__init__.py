"""Metrics, which score answers from 0 to 1, confidence intervals of mean scores, and significance tests."""

from pointsman_scoring.metrics import Metric, MetricError
from pointsman_scoring.registry import METRICS, is_user_metric, metric_from, spec_from_text

__all__ = ["METRICS", "Metric", "MetricError", "is_user_metric", "metric_from", "spec_from_text"]
