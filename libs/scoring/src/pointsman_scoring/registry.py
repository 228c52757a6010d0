"""The registry of metrics: from a metric's name in a configuration or on a command line to the metric."""

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pointsman_scoring.metrics import Contains, Exact, JsonFields, Metric, MetricError, Regex, RougeL


class EntryPoint:
    """A metric of the user's own: a function `(answer: str, expected) -> float`.

    It is named as "module:function" or "FILE.py:function".
    """

    def __init__(self, name: str) -> None:
        """Imports the module. Raises MetricError if the module or the function in it cannot be loaded."""
        self._name = name
        self._function = _load_function(name)

    def score(self, answer: str, expected: Any) -> float:
        try:
            score = float(self._function(answer, expected))
        except Exception as error:
            raise MetricError(f"entry_point {self._name} failed: {type(error).__name__}: {error}") from error
        if not (math.isfinite(score) and 0 <= score <= 1):
            raise MetricError(f"entry_point {self._name} returned {score}; a score is from 0 to 1")
        return score


_WITHOUT_OPTION: Mapping[str, Callable[[], Metric]] = {
    "exact": Exact,
    "json_fields": JsonFields,
    "contains": Contains,
    "rouge_l": RougeL,
}
_WITH_OPTION: Mapping[str, Callable[[str], Metric]] = {"regex": Regex, "entry_point": EntryPoint}

METRICS = (*_WITHOUT_OPTION, *_WITH_OPTION)
"""The names of all metrics."""


def metric_from(spec: Mapping[str, Any]) -> Metric:
    """The metric that `{NAME: true}` or `{NAME: OPTION}` describes, as in tasks.yaml.

    Raises MetricError, also for `judge`: that metric calls a model and is not implemented here.
    """
    if len(spec) != 1:
        raise MetricError(f"a metric is one of {', '.join(METRICS)}; this names {', '.join(map(str, spec)) or 'none'}")
    ((name, option),) = spec.items()
    if name in _WITHOUT_OPTION:
        if option is not True:
            raise MetricError(f"metric {name} has no options; write {name}: true (it is {option!r})")
        return _WITHOUT_OPTION[name]()
    if name in _WITH_OPTION:
        if not isinstance(option, str) or not option:
            raise MetricError(f"metric {name} needs a text; it is {option!r}")
        return _WITH_OPTION[name](option)
    raise MetricError(f"unknown metric '{name}'; known: {', '.join(METRICS)}")


def spec_from_text(text: str) -> dict[str, Any]:
    """The spec that a command line writes as `NAME` or `NAME=OPTION`."""
    name, equals, option = text.partition("=")
    return {name: option if equals else True}


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
