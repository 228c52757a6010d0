"""What one run of the swap test does, and its limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_cli.conformance.findings import Property
from pointsman_cli.errors import UsageError

NAME = "swap-test"
"""The beginning of the names of all tests' adapters."""
MOVING_ADAPTER = f"{NAME}-moving"
"""An adapter that is registered at a lora-server, and stays there."""
ADAPTERS_AT_ONCE = 4
"""How many adapters of the test are loaded at the same time, unless it fills the engine's slots."""
SELF_MANAGED = ("guard", "pointsman")
"""Controls that never evict an adapter which is in use, or refuse to load one more."""


@dataclass(frozen=True, slots=True)
class SwapPlan:
    """The options of the command, checked against what the URL serves."""

    url: str
    control: str
    base_model: str
    other_adapters: tuple[str, ...]
    """Adapters that the engine serves besides the test's."""
    prefix: str
    slots: int
    """How many adapters the engine holds; 0 if that is not known."""
    load_seconds: float
    concurrency: int
    max_requests: int
    max_seconds: float
    harmful: bool
    restart_command: list[str]

    @property
    def may_evict(self) -> bool:
        return self.slots > 0 and not self.other_adapters

    def check(self) -> None:
        """Raises UsageError if the test could harm adapters that others use."""
        if not self.other_adapters:
            return
        named = ", ".join(self.other_adapters[:3])
        if all(name.startswith(f"{NAME}-") for name in self.other_adapters):
            raise UsageError(f"an earlier test was killed, and its adapters are still loaded: unload {named}")
        if self.harmful or self.restart_command:
            raise UsageError(
                f"the engine serves other adapters ({named}): --harmful and --restart-command are for an engine that "
                "nobody uses"
            )
        needed = len(self.other_adapters) + ADAPTERS_AT_ONCE
        if self.control not in SELF_MANAGED and self.slots < needed:
            raise UsageError(
                f"the engine serves other adapters ({named}), which the test's could evict: with --slots name how many "
                f"it holds, such as vLLM's --max-cpu-loras, if they are {needed} or more"
            )

    def untested(self) -> Mapping[Property, str]:
        return {} if self.restart_command else {Property.RESTART: "without --restart-command nothing is restarted"}

    def lines(self) -> list[str]:
        """Returns what the test will do, as text."""
        return [
            f"against {self.url}, base model {self.base_model}, adapters changed by {self.control}",
            f"names: {self.prefix}-*; at most {self.adapters_at_once} adapters at once; all are unloaded at the end",
            f"load: {self.concurrency} requests at once for {self.load_seconds:g} s",
            f"limits: {self.max_requests} requests, {self.max_seconds / 60:g} minutes",
            f"left out: {', '.join(self.left_out) or 'nothing'}",
        ]

    def as_json(self) -> dict[str, Any]:
        """Returns what the test will do, as JSON."""
        return {
            "test": "swap",
            "dry_run": True,
            "against": self.url,
            "control": self.control,
            "base_model": self.base_model,
            "names": f"{self.prefix}-*",
            "adapters_at_once": self.adapters_at_once,
            "load": {"seconds": self.load_seconds, "concurrency": self.concurrency},
            "limits": {"requests": self.max_requests, "seconds": self.max_seconds},
            "left_out": self.left_out,
        }

    @property
    def adapters_at_once(self) -> int:
        return max(ADAPTERS_AT_ONCE, self.slots + 1 if self.may_evict else 0)

    @property
    def left_out(self) -> list[str]:
        return [
            *([] if self.may_evict else ["eviction (--slots, and no adapters of others)"]),
            *([] if self.harmful else ["NaN weights and vanished folders (--harmful)"]),
            *([] if self.restart_command else ["a restart (--restart-command)"]),
        ]


def base_model_of(models: Sequence[Mapping[str, Any]], given: str) -> str:
    """Returns `given`, or the only model that is no adapter. Raises UsageError if that is not clear."""
    bases = [str(model["id"]) for model in models if not model.get("parent")]
    if given:
        if given not in {model["id"] for model in models}:
            raise UsageError(f"the URL serves no model {given}; it serves {', '.join(bases) or 'none'}")
        return given
    if len(bases) != 1:
        raise UsageError(f"the URL serves {', '.join(bases) or 'no model'}; name the base model with --model")
    return bases[0]


def adapters_of(models: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns the names of the models that are adapters, by the field `parent`, but for the one that every test has."""
    names = (str(model["id"]) for model in models if model.get("parent"))
    return tuple(name for name in names if not name.startswith(f"{MOVING_ADAPTER}@"))
