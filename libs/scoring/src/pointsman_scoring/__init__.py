"""How good an answer is, from 0 to 1, and how sure that is."""

from pointsman_scoring.metrics import Metric, MetricError
from pointsman_scoring.registry import METRICS, metric_from, spec_from_text

__all__ = ["METRICS", "Metric", "MetricError", "metric_from", "spec_from_text"]
