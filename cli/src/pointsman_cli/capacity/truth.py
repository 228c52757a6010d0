"""What was measured beside what the simulator makes of it: it may speak of larger numbers only where both agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from pointsman_cli.capacity.figures import EngineFigures
from pointsman_cli.capacity.simulator import simulate_clients
from pointsman_cli.capacity.strict import Strict, read
from pointsman_cli.capacity.workload import PathLoad, Workload

TOLERANCE = 0.25
"""How far a simulated figure may lie from the measured one, as a share of it: the machines are noisy."""


class Measured(Strict):
    """One closed-loop run of one engine."""

    name: str
    clients: int = Field(ge=1)
    path: PathLoad
    tokens_per_second: float = Field(gt=0, description="written, all clients together")
    total_p50: float = Field(gt=0, description="seconds")
    fitted: bool = Field(default=False, description="whether the engine's figures were taken from this run")


class Truth(Strict):
    about: str
    runs: tuple[Measured, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Beside:
    """A measured figure, and the simulated one."""

    run: str
    figure: str
    measured: float
    simulated: float
    fitted: bool

    @property
    def off(self) -> float:
        """As a share of the measured one."""
        return self.simulated / self.measured - 1

    @property
    def agrees(self) -> bool:
        return abs(self.off) <= TOLERANCE


def read_truth(file: Path) -> Truth:
    """Raises CommandError."""
    return read(file, Truth)


def beside(truth: Truth, figures: EngineFigures) -> Sequence[Beside]:
    found = []
    for run in truth.runs:
        workload = Workload(requests_per_second=1, paths={"measured": run.path}, first_token_seconds=1)
        simulated = simulate_clients(workload, figures, run.clients, max(200, 20 * run.clients))
        found += [
            Beside(run.name, "tokens/s", run.tokens_per_second, simulated.tokens_per_second, run.fitted),
            Beside(run.name, "p50 s", run.total_p50, simulated.total_p50, run.fitted),
        ]
    return found
