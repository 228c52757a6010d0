"""training.json: what the one who trained the adapter says of it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks import json_text
from pointsman_lora_server.domain import TRAINING_SECONDS, is_version

MOST_METRICS = 64

_SHA256 = re.compile(r"[0-9a-f]{64}")
_METRIC = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class TrainingReport:
    data_sha256: str = ""
    base_digest: str = ""
    parent: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


def read_report(raw: bytes) -> TrainingReport:
    """Takes what it knows and leaves the rest. Raises InvalidArgument ("bad_report") where it is no JSON object."""
    try:
        found = json_text.parse_object(raw)
    except ValueError as error:
        raise InvalidArgument(
            f"training.json cannot be read: {error}; take it away, or write it again", code="bad_report", param="folder"
        ) from error
    data = found.get("data")
    parent = found.get("parent")
    return TrainingReport(
        data_sha256=_sha256(data.get("sha256")) if isinstance(data, dict) else "",
        base_digest=_sha256(found.get("base_model_digest")),
        parent=parent if isinstance(parent, str) and is_version(parent) else "",
        metrics=_metrics(found),
    )


def _metrics(found: Mapping[str, Any]) -> dict[str, float]:
    losses = found.get("heldout_loss")
    metrics: dict[str, Any] = {
        "heldout_loss": losses.get("end") if isinstance(losses, dict) else losses,
        "heldout_exact": found.get("exact_share"),
        TRAINING_SECONDS: found.get("seconds"),
    }
    if isinstance(found.get("metrics"), dict):
        metrics |= found["metrics"]
    kept = {name: value for name, value in metrics.items() if _METRIC.fullmatch(name) and _is_number(value)}
    return {name: float(value) for name, value in list(kept.items())[:MOST_METRICS]}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) < 1e18 if isinstance(value, float) else abs(value) < 10**18


def _sha256(value: Any) -> str:
    return value if isinstance(value, str) and _SHA256.fullmatch(value) else ""
