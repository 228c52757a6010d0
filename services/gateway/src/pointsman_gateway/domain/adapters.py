"""Adapters as the gateway knows them: where aliases point, which version a request means, and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that is moved from version to version ("triage@prod")."""

    alias: str
    version: str
    revision: int = 0
    """Counts the changes of this alias, its canary's among them: of two tellings the higher one is the newer."""
    canary_version: str = ""
    """Empty: it has none."""
    canary_weight: float = 0.0
    """The share of users whom the canary answers, 0 to 1."""
    previous: str = ""
    """Where it would be rolled back to; empty: nowhere."""


@dataclass(frozen=True, slots=True)
class Aim:
    """The version that one request means by its path's adapter: found once, at its decision, and kept to its end."""

    version: str
    revision: int = 0
    """Of the alias that was asked for; 0 where the version itself was."""
    on_trial: bool = False
    """Whether that alias has a canary, so that what comes of the request is told to a lora-server."""
    notes: tuple[str, ...] = ()
    """What there is to say of it in the decision."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came of requests that an alias sent to one version, since it was last told."""

    model: str
    alias: str
    revision: int
    version: str
    requests: int = 0
    errors: int = 0
    """By the fault of the version or of its engine."""
    invalid: int = 0
    """Whole answers that a validator refused."""
    milliseconds: Mapping[int, int] = field(default_factory=dict)
    """Whole answers by their time: bucket k is of 2^((k-1)/4) to 2^(k/4) ms, 0 of up to 1 ms."""
