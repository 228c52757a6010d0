"""The plan of one run of the swap test: its options, and the checks that it may carry out at the engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_cli.conformance.findings import Property
from pointsman_cli.errors import UsageError

NAME = "swap-test"
"""The beginning of the names of all adapters that any run of the swap test loads."""
MOVING_ADAPTER = f"{NAME}-moving"
"""The name of the adapter that the test registers at a lora-server and replaces there; it stays registered."""
ADAPTERS_AT_ONCE = 4
"""The largest number of test adapters that are loaded at the same time, except in the test of eviction."""
SELF_MANAGED = ("guard", "pointsman")
"""The values of `--control` with which loading a new adapter never evicts one that others use."""


@dataclass(frozen=True, slots=True)
class SwapPlan:
    """The plan of one swap test: the command's options, and the models that the tested URL serves.

    `max_seconds` is the limit of the whole test.
    """

    url: str
    control: str
    base_model: str
    other_adapters: tuple[str, ...]
    """The names of adapters that the engine serves already, which the test must not disturb."""
    prefix: str
    """The beginning of the names of this run's adapters."""
    slots: int
    """The number of adapters that the engine can hold; 0 if it is not known."""
    load_seconds: float
    """For how many seconds requests are sent without a pause while adapters change."""
    concurrency: int
    """The number of concurrent requests while adapters change."""
    max_requests: int
    max_seconds: float
    harmful: bool
    """Whether to run the checks that can stop an engine (HARMS)."""
    restart_command: list[str]
    """The arguments of the command that restarts the engine; empty: the engine is not restarted."""

    @property
    def may_evict(self) -> bool:
        return self.slots > 0 and not self.other_adapters

    def check(self) -> None:
        """Raises UsageError if the test could evict or stop others' adapters, or adapters of an earlier test remain."""
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
        """Returns what the test will do, as lines of text for the terminal."""
        return [
            f"against {self.url}, base model {self.base_model}, adapters changed by {self.control}",
            f"names: {self.prefix}-*; at most {self.adapters_at_once} adapters at once; all are unloaded at the end",
            f"load: {self.concurrency} requests at once for {self.load_seconds:g} s",
            f"limits: {self.max_requests} requests, {self.max_seconds / 60:g} minutes",
            f"left out: {', '.join(self.left_out) or 'nothing'}",
        ]

    def as_json(self) -> dict[str, Any]:
        """Returns what the test will do, as `--dry-run --json` prints it."""
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
    """Returns the name of the base model: `given`, or if `given` is empty, the only model that is not an adapter.

    `models` are entries of /v1/models. Raises UsageError if none of them has the given name, or if no name is given and
    there is not exactly one model that is not an adapter.
    """
    bases = [str(model["id"]) for model in models if not model.get("parent")]
    if given:
        if given not in {model["id"] for model in models}:
            raise UsageError(f"the URL serves no model {given}; it serves {', '.join(bases) or 'none'}")
        return given
    if len(bases) != 1:
        raise UsageError(f"the URL serves {', '.join(bases) or 'no model'}; name the base model with --model")
    return bases[0]


def adapters_of(models: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns the names of the adapters in `models`, entries of /v1/models; an adapter is an entry with a `parent`.

    Versions of MOVING_ADAPTER are left out, since every test uses them.
    """
    names = (str(model["id"]) for model in models if model.get("parent"))
    return tuple(name for name in names if not name.startswith(f"{MOVING_ADAPTER}@"))
