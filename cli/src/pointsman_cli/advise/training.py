"""What training an adapter cost."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pointsman_cli.errors import UsageError

_HOUR = 3600.0


def costs(files: Iterable[Path], hourly: float | None, given: Iterable[str]) -> dict[str, float]:
    """Dollars by adapter, from records of trainings (`training.json`) and from `NAME=USD`. Raises Misused."""
    found = {}
    for file in files:
        if hourly is None:
            raise UsageError(
                f"{file} holds seconds; give the price of an hour of that machine with --trainer-usd-per-hour"
            )
        name, seconds = _record(file)
        found[name] = seconds / _HOUR * hourly
    for text in given:
        name, _, dollars = text.partition("=")
        found[name] = _dollars(name, dollars, text)
    return found


def cost_of(adapter: str, known: Mapping[str, float]) -> float:
    """Of the adapter behind an alias (`triage@prod`). Raises Misused: an unknown cost is never 0."""
    name = adapter.partition("@")[0]
    if name not in known:
        raise UsageError(
            f"the cost of training '{name}' is unknown; give --training FILE with --trainer-usd-per-hour USD, or "
            f"--training-cost {name}=USD"
        )
    return known[name]


def _record(file: Path) -> tuple[str, float]:
    try:
        data = json.loads(file.read_text("utf-8"))
        return str(data["name"]), float(data["seconds"])
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is not a training record (training.json): {error!r}") from error


def _dollars(name: str, dollars: str, text: str) -> float:
    try:
        cost = float(dollars)
    except ValueError:
        cost = -1.0
    if not name or not 0 <= cost < float("inf"):
        raise UsageError(f"--training-cost is {text!r}; it must be NAME=USD, such as triage=0.25")
    return cost
