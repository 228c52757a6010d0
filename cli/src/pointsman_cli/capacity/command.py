"""`pointsman capacity`: how many gateways, engines and the rest, and what they cost."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pointsman_cli.adapters.options import JsonOption
from pointsman_cli.capacity.figures import Figures, read_figures
from pointsman_cli.capacity.pages import plan_page, truth_page
from pointsman_cli.capacity.plan import plan
from pointsman_cli.capacity.truth import TOLERANCE, Beside, beside, read_truth
from pointsman_cli.capacity.workload import read_workload
from pointsman_cli.errors import CommandError


def capacity(
    workload: Annotated[Path, typer.Argument(metavar="WORKLOAD.yaml", help="How much of what is asked for.")],
    figures: Annotated[Path, typer.Option(metavar="FIGURES.yaml", help="What one of each part does on your machines.")],
    truth: Annotated[Path, typer.Option(metavar="RUNS.yaml", help="Runs that the simulator must reproduce.")],
    in_json: JsonOption = False,
) -> None:
    """Say how many of each part a workload needs, and what they cost a month.

    First the simulator shows that it reproduces what was measured with the same figures; where it does not, within a
    quarter, nothing is planned. `make bench-capacity` measures the runs, and fits the engine's figures.
    """
    wanted, measured = read_workload(workload), read_figures(figures)
    found = beside(read_truth(truth), measured.engine)
    _check(found, figures)
    made = plan(wanted, measured)
    if in_json:
        told = {"about": measured.about, "beside": [asdict(one) for one in found], "plan": asdict(made)}
        typer.echo(json.dumps(told))
        return
    _show(measured, found)
    Console(highlight=False).print(plan_page(made))


def _check(found: Sequence[Beside], figures: Path) -> None:
    wrong = [one for one in found if not one.agrees]
    if wrong:
        worst = max(wrong, key=lambda one: abs(one.off))
        raise CommandError(
            f"with the figures of {figures} the simulator is {worst.off:+.0%} off in '{worst.run}' ({worst.figure}: "
            f"measured {worst.measured:.2f}, simulated {worst.simulated:.2f}); {TOLERANCE:.0%} is allowed: "
            "measure both on one machine"
        )


def _show(measured: Figures, found: Sequence[Beside]) -> None:
    console = Console(highlight=False)
    console.print(f"figures of: {measured.about}")
    console.print(truth_page(found))
    console.print()
