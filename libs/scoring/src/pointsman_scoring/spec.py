"""From what is written of a metric to the metric."""

from collections.abc import Callable, Mapping
from typing import Any

from pointsman_scoring.contains import Contains
from pointsman_scoring.entry_point import EntryPoint
from pointsman_scoring.exact import Exact
from pointsman_scoring.json_fields import JsonFields
from pointsman_scoring.metric import Metric, MetricError
from pointsman_scoring.regex import Regex
from pointsman_scoring.rouge_l import RougeL

_SWITCHES: Mapping[str, Callable[[], Metric]] = {
    "exact": Exact,
    "json_fields": JsonFields,
    "contains": Contains,
    "rouge_l": RougeL,
}
_WITH_TEXT: Mapping[str, Callable[[str], Metric]] = {"regex": Regex, "entry_point": EntryPoint}

METRICS = (*_SWITCHES, *_WITH_TEXT)
"""Their names."""


def metric_from(spec: Mapping[str, Any]) -> Metric:
    """The metric of `{NAME: true}` or `{NAME: TEXT}`, as a task in tasks.yaml has it.

    Raises MetricError, also for `judge`: it asks a model, and nothing here does.
    """
    if len(spec) != 1:
        raise MetricError(f"a metric is one of {', '.join(METRICS)}; this names {', '.join(map(str, spec)) or 'none'}")
    ((name, option),) = spec.items()
    if name in _SWITCHES:
        if option is not True:
            raise MetricError(f"metric {name} has no options; write {name}: true (it is {option!r})")
        return _SWITCHES[name]()
    if name in _WITH_TEXT:
        if not isinstance(option, str) or not option:
            raise MetricError(f"metric {name} needs a text; it is {option!r}")
        return _WITH_TEXT[name](option)
    raise MetricError(f"unknown metric '{name}'; known: {', '.join(METRICS)}")


def spec_from_text(text: str) -> dict[str, Any]:
    """The spec that a command line writes as `NAME` or `NAME=TEXT`."""
    name, equals, option = text.partition("=")
    return {name: option if equals else True}
