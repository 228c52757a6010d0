"""The faults and changes of a run, drawn from a seed: the same seed and length give the same schedule."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

GATEWAYS = ("gateway-a", "gateway-b")
SERVICES = (*GATEWAYS, "retriever", "lora-server", "engine", "valkey")

Kind = Literal[
    "kill", "pause", "fill disk", "step clock", "break configuration", "malform answers", "send schemas",
    "edit configuration", "promote", "roll back", "replace document", "revoke key",
]  # fmt: skip

FAULTS: tuple[tuple[Kind, str], ...] = (
    *(("pause", service) for service in SERVICES),
    *(("kill", service) for service in SERVICES if service != "gateway-a"),
    ("fill disk", "valkey"),
    ("step clock", "gateway-b"),
    ("break configuration", "gateways"),
    ("malform answers", "engine"),
    ("send schemas", "gateways"),
)
"""The faults: a kind and the target that it disturbs. gateway-a is never killed, so that its counters and its memory
can be followed over the whole run; gateway-b is another process of the same program."""

CHANGES: tuple[Kind, ...] = ("edit configuration", "promote", "roll back", "replace document", "revoke key")
"""Changes that an operator makes at any time, also during faults."""

WARM_UP_SECONDS = 15.0
MIN_FAULT_SECONDS, MAX_FAULT_SECONDS = 18.0, 24.0
"""Length of a fault. The gateway takes up to 2.4 s to notice it and to write a new page of metrics; a scrape and an
evaluation of the rules follow (3 s each); then the alert must be pending for 6 s."""
CLOCK_STEP_SECONDS = 9.0
"""Additional length of a clock step. Only a metric of the gateway shows it, and if a scrape fails, the alert's 6 s
start again."""
MIN_CALM_SECONDS, MAX_CALM_SECONDS = 14.0, 22.0
"""Time from the end of a fault to the next one, in which everything recovers."""
MEAN_CHANGE_SECONDS = 4.0
CLOCK_STEPS = (-3600, -90, 90, 3600)


@dataclass(frozen=True)
class Event:
    at: float
    """Seconds from the start of the load."""
    kind: Kind
    target: str
    seconds: float
    """Length of a fault; 0 for a change."""
    number: int
    """A random number that chooses the version, the document or the clock step."""

    @property
    def end(self) -> float:
        return self.at + self.seconds


def make_schedule(seed: int, seconds: float) -> list[Event]:
    """Returns faults and changes ordered by time. Faults do not overlap, and no kind occurs twice before each has
    occurred once.
    """
    return sorted([*_faults(random.Random(f"faults {seed}"), seconds), *_changes(seed, seconds)], key=lambda e: e.at)


def _faults(random_: random.Random, seconds: float) -> Iterator[Event]:
    at = WARM_UP_SECONDS
    waiting: list[tuple[Kind, str]] = []
    while True:
        length = random_.uniform(MIN_FAULT_SECONDS, MAX_FAULT_SECONDS)
        if at + length + CLOCK_STEP_SECONDS + MIN_CALM_SECONDS > seconds:
            return
        waiting = waiting or random_.sample(FAULTS, len(FAULTS))
        kind, target = waiting.pop()
        length += CLOCK_STEP_SECONDS if kind == "step clock" else 0.0
        yield Event(at, kind, target, length, random_.randrange(2**16))
        at += length + random_.uniform(MIN_CALM_SECONDS, MAX_CALM_SECONDS)


def _changes(seed: int, seconds: float) -> Iterator[Event]:
    random_ = random.Random(f"changes {seed}")
    at = WARM_UP_SECONDS
    while at < seconds - 2 * MEAN_CHANGE_SECONDS:
        kind = random_.choice(CHANGES)
        yield Event(at, kind, "", 0.0, random_.randrange(2**16))
        at += random_.expovariate(1 / MEAN_CHANGE_SECONDS)


def disturbances(events: Sequence[Event], *targets: str) -> list[Event]:
    """Returns the faults of these targets."""
    return [event for event in events if event.seconds and event.target in targets]
