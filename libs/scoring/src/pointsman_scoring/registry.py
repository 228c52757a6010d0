"""Finds metrics by the names that configurations and command lines use.

A metric is a class that implements `Metric` and is constructed with the option from the configuration. To add one,
write a module with its class, and add one line to BUILT_IN. Without changing this package, name a class as
"module:attribute", or publish it in the entry point group `pointsman.metrics`. The metric `entry_point` calls a user's
function instead.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.extensions import load_extension

from pointsman_scoring.metrics import Metric, MetricError

BUILT_IN: Mapping[str, str] = {
    "exact": "pointsman_scoring.metrics:Exact",
    "json_fields": "pointsman_scoring.metrics:JsonFields",
    "contains": "pointsman_scoring.metrics:Contains",
    "regex": "pointsman_scoring.metrics:Regex",
    "rouge_l": "pointsman_scoring.metrics:RougeL",
}
"""Name -> `module:class` of the metrics that need neither a language model nor a user's code."""

FUNCTION = "entry_point"
METRICS = (*BUILT_IN, FUNCTION)
"""The names of all metrics that `metric_from` creates, except users' metrics."""

ENTRY_POINT_GROUP = "pointsman.metrics"


class EntryPoint:
    """A metric that calls a user's function `(answer: str, expected) -> float`.

    `score` raises MetricError if the function raises an error, or returns a score outside 0 to 1.
    """

    def __init__(self, name: str) -> None:
        """Imports the function, given as "module:function" or "FILE.py:function".

        Raises MetricError if the function cannot be loaded, or `name` is no text.
        """
        if not isinstance(name, str):
            raise MetricError(f"entry_point is {name!r}; write module:function or FILE.py:function")
        self._name = name
        self._function = _load_function(name)

    def score(self, answer: str, expected: Any) -> float:
        return _checked_score(f"entry_point {self._name}", self._function, answer, expected)


class UserMetric:
    """A metric that calls an object of a user's class.

    `score` raises MetricError if the object raises an error, or returns a score outside 0 to 1.
    """

    def __init__(self, name: str, option: Any) -> None:
        """Creates the object, given the name of the class and the option from the configuration.

        Raises MetricError if the class cannot be loaded, does not accept `option`, or has no method `score`.
        """
        self._name = f"metric {name}"
        try:
            self._metric = _load_class(name, {})(option)
        except MetricError:
            raise
        except Exception as error:  # whatever a user's class raises
            raise MetricError(f"{self._name} does not accept {option!r}: {type(error).__name__}: {error}") from error
        if not callable(getattr(self._metric, "score", None)):
            raise MetricError(f"{self._name} has no method 'score'")

    @property
    def compares_facts(self) -> bool:
        return bool(getattr(self._metric, "compares_facts", False))

    def score(self, answer: str, expected: Any) -> float:
        return _checked_score(self._name, self._metric.score, answer, expected)


def is_user_metric(name: str) -> bool:
    """Returns whether `name` looks like a user's metric: it has a ":", or an installed package publishes it.

    Returns False for a built-in name. The metric is not imported, so True does not mean that it exists.
    """
    return name not in METRICS and (":" in name or name in entry_points(group=ENTRY_POINT_GROUP).names)


def built_in_metric(name: str) -> Callable[[Any], Metric]:
    """Imports and returns the class of a metric in `BUILT_IN`; its constructor takes the metric's option.

    The docstring of the class describes the metric. The class attribute `Options` is the type of the option; without
    it, any value is accepted. The constructor raises ValueError if it cannot use an option.
    """
    return _load_class(name, BUILT_IN)


def metric_from(spec: Mapping[str, Any]) -> Metric:
    """Creates the metric that `{NAME: true}` or `{NAME: OPTION}` describes, as in tasks.yaml.

    Raises MetricError if the name is unknown, the option is wrong, a user's code cannot be loaded, or there is not
    exactly one name. The metric `judge`, which calls a model, is not implemented here and counts as unknown.
    """
    if len(spec) != 1:
        raise MetricError(f"a metric is one of {', '.join(METRICS)}; this names {', '.join(map(str, spec)) or 'none'}")
    ((name, option),) = spec.items()
    if name in BUILT_IN:
        try:
            return built_in_metric(name)(option)
        except ValueError as error:
            raise MetricError(f"metric {name}: {error}") from error
    if name == FUNCTION:
        return EntryPoint(option)
    if is_user_metric(name):
        return UserMetric(name, option)
    raise MetricError(f"unknown metric '{name}'; known: {', '.join(METRICS)}")


def spec_from_text(text: str) -> dict[str, Any]:
    """Converts a metric on the command line, `NAME` or `NAME=OPTION`, to the dict that `metric_from` takes; checks
    nothing.
    """
    name, equals, option = text.partition("=")
    return {name: option if equals else True}


def _checked_score(name: str, score: Callable[[str, Any], Any], answer: str, expected: Any) -> float:
    try:
        value = float(score(answer, expected))
    except Exception as error:  # whatever a user's code raises
        raise MetricError(f"{name} failed: {type(error).__name__}: {error}") from error
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise MetricError(f"{name} returned {value}; a score is from 0 to 1")
    return value


def _load_class(name: str, built_in: Mapping[str, str]) -> Callable[[Any], Any]:
    try:
        found = load_extension(name, setting="the metric", group=ENTRY_POINT_GROUP, builtins=built_in)
    except PointsmanError as error:
        raise MetricError(error.message) from error
    if not callable(found):
        raise MetricError(f"metric {name} is no class")
    return found  # type: ignore[no-any-return]  # what it makes is checked


def _load_function(name: str) -> Callable[[str, Any], Any]:
    module_name, _, function_name = name.rpartition(":")
    if not module_name or not function_name:
        raise MetricError(f"entry_point is {name!r}; write module:function or FILE.py:function")
    try:
        module = _load_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except Exception as error:  # a module may raise anything when it is imported
        raise MetricError(f"entry_point {name}: cannot import it: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise MetricError(f"entry_point {name}: there is no function '{function_name}' in {module_name}")
    return function  # type: ignore[no-any-return]  # its result is checked at every call


def _load_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
