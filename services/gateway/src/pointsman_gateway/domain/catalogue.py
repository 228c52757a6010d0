"""What the configuration says to those who compare paths: which there are, what they cost, how answers are scored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pointsman_gateway.domain.decision import Path


@dataclass(frozen=True, slots=True)
class TaskSheet:
    policy: str
    """Which of the policies: "fixed", "split", "best_value", "escalate"."""
    paths: tuple[str, ...]
    """All that could answer, in the order in which they are tried; the default path is the last."""
    metric: Mapping[str, Any] | None
    """{name: options}; of a judge {"model", "prompt"}, where `prompt` is the text itself. None: nothing is said."""


@dataclass(frozen=True, slots=True)
class ModelSheet:
    context_window: int
    """Tokens, prompt and answer together."""
    prices: Mapping[str, float]
    """Dollars for a million tokens: "prompt", "cached", "completion"."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    default_path: str
    search_usd: float
    """Dollars a search."""
    tasks: Mapping[str, TaskSheet] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)
    models: Mapping[str, ModelSheet] = field(default_factory=dict)
