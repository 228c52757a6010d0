"""Measures one engine, or plans how many replicas of each service a workload needs.

    python -m benchmarks.capacity measure [--seconds 12] [--out FOLDER]
    python -m benchmarks.capacity plan WORKLOAD.yaml --figures FIGURES.yaml --measurements RUNS.yaml [--json]

`plan` first simulates the measured runs with the same figures; if a simulated figure is more than a quarter off, it
plans nothing. `measure` writes the runs and prints the fitted figures of the engine.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.capacity.inputs import CapacityError, Figures, Measurements, Workload, read
from benchmarks.capacity.planner import CapacityPlan, make_plan
from benchmarks.capacity.simulator import TOLERANCE, Comparison, compare


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "measure":
        from benchmarks.capacity.measure import measure_and_write  # imports the engine's benchmark and scipy

        measure_and_write(options.seconds, options.out)
        return 0
    try:
        _plan(options.workload, options.figures, options.measurements, options.json)
    except CapacityError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure", help="measure one engine under closed loops and fit its figures")
    measure.add_argument("--seconds", type=float, default=12.0, help="length of each run")
    measure.add_argument("--out", type=Path, default=Path("build/capacity"), help="folder for runs.yaml")
    plan = commands.add_parser("plan", help="compute replicas and dollars for a workload")
    plan.add_argument("workload", type=Path, metavar="WORKLOAD.yaml", help="requests, paths, lengths, limits")
    plan.add_argument("--figures", type=Path, required=True, help="performance and prices of your machines (YAML)")
    plan.add_argument("--measurements", type=Path, required=True, help="runs that the simulator must reproduce (YAML)")
    plan.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _plan(workload_file: Path, figures_file: Path, measurements_file: Path, as_json: bool) -> None:
    workload, figures = read(workload_file, Workload), read(figures_file, Figures)
    comparisons = compare(read(measurements_file, Measurements), figures.engine)
    _check(comparisons, figures_file)
    plan = make_plan(workload, figures)
    if as_json:
        checks = [asdict(one) for one in comparisons]
        print(json.dumps({"about": figures.about, "comparisons": checks, "plan": asdict(plan)}))
        return
    console = Console(highlight=False)
    console.print(f"figures of: {figures.about}", markup=False)
    console.print(_comparison_table(comparisons))
    console.print()
    _show_plan(console, plan)


def _check(comparisons: Sequence[Comparison], figures_file: Path) -> None:
    wrong = [one for one in comparisons if not one.agrees]
    if wrong:
        worst = max(wrong, key=lambda one: abs(one.deviation))
        raise CapacityError(
            f"with the figures of {figures_file} the simulator is {worst.deviation:+.0%} off in '{worst.run}' "
            f"({worst.figure}: measured {worst.measured:.2f}, simulated {worst.simulated:.2f}); {TOLERANCE:.0%} is "
            "allowed: measure both on one machine"
        )


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    table = _table(("run", "figure", "measured", "simulated", "off", ""), right=("measured", "simulated", "off"))
    for one in comparisons:
        note = "fitted" if one.fitted else "" if one.agrees else "too far off"
        measured, simulated = f"{one.measured:.2f}", f"{one.simulated:.2f}"
        table.add_row(one.run, one.figure, measured, simulated, f"{one.deviation:+.0%}", note)
    return table


def _show_plan(console: Console, plan: CapacityPlan) -> None:
    table = _table(("service", "replicas", "$ a month", "reason"), right=("replicas", "$ a month"))
    for service in plan.services:
        table.add_row(service.name, str(service.replicas), f"{service.usd_per_month:,.2f}", service.reason)
    console.print(table)
    engines = plan.engines
    console.print(
        f"\nengines: {engines.busy:.0%} busy, {engines.tokens_per_second:,.0f} tokens/s, first token p50 "
        f"{engines.first_token_p50:.2f} s, p95 {engines.first_token_p95:.2f} s, "
        f"whole answer p95 {engines.total_p95:.2f} s, adapters resident {engines.hit_ratio:.0%} of the time"
    )
    console.print(f"${plan.usd_per_month:,.2f} a month, ${plan.usd_per_1000:.4f} for 1,000 requests")
    for note in plan.notes:
        console.print(f"* {note}", markup=False)


def _table(names: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in right else "left")
    return table


if __name__ == "__main__":
    sys.exit(main())
