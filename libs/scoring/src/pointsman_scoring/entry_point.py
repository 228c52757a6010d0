"""A metric of the user's own."""

import importlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pointsman_scoring.metric import MetricError


class EntryPoint:
    """Calls `function(answer: str, expected) -> float`, named as "module:function" or "FILE.py:function"."""

    def __init__(self, name: str) -> None:
        """Imports the module. Raises MetricError where it, or the function in it, is not to be had."""
        self._name = name
        self._function = _found(name)

    def score(self, answer: str, expected: Any) -> float:
        try:
            score = float(self._function(answer, expected))
        except Exception as error:
            raise MetricError(f"entry_point {self._name} failed: {type(error).__name__}: {error}") from error
        if not (math.isfinite(score) and 0 <= score <= 1):
            raise MetricError(f"entry_point {self._name} said {score}; a score is from 0 to 1")
        return score


def _found(name: str) -> Callable[[str, Any], Any]:
    module_name, _, function_name = name.rpartition(":")
    if not module_name or not function_name:
        raise MetricError(f"entry_point is {name!r}; write module:function or FILE.py:function")
    try:
        module = _from_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise MetricError(f"entry_point {name}: cannot import it: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise MetricError(f"entry_point {name}: there is no function '{function_name}' in {module_name}")
    return function  # type: ignore[no-any-return]  # its result is checked at every call


def _from_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
