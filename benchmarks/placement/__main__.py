"""Simulates placement by demand, compared with Dynamo's algorithms and with fixed numbers of copies.

    python -m benchmarks.placement [--tuning] [--seeds 5] [--only zipf mmpp]
    python -m benchmarks.placement --real --calibrate [--figures FILE] [--adapters FOLDER]
    python -m benchmarks.placement --real [--tuning] [--only zipf] [--figures FILE] [--adapters FOLDER]

The cases are those of Dynamo's LoRA allocation controller, at its sizes: 100 adapters, 8 engines, 200 ticks of 3 s.
Each is run with few slots (4 per engine, as there) and with enough for all adapters. `--tuning` uses the seeds and
sizes on which the terms of `PlanTerms` were chosen. The last line of output is one JSON object.

`--real` starts four vLLMs on this machine's CPU instead, sends them one run of each case of `--only` at a smaller size,
and simulates the same requests with times that `--calibrate` has measured on these engines before.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import mean

from benchmarks.placement.cases import CASES, Load, arrivals
from benchmarks.placement.engine import Figures
from benchmarks.placement.policies import (
    ByDemand,
    ByNumber,
    Dynamo,
    DynamoByGateway,
    DynamoMinCostFlow,
    MinCostFlowByGateway,
)
from benchmarks.placement.simulation import MakePolicy, Outcome, simulate

FIRST_SEED, FIRST_TUNING_SEED = 201, 1
BASELINES: Mapping[str, MakePolicy] = {
    "rendezvous": Dynamo,
    "min-cost flow": DynamoMinCostFlow,
    "rendezvous, our gateway": DynamoByGateway,
    "min-cost flow, our gateway": MinCostFlowByGateway,
}
OTHERS: Mapping[str, MakePolicy] = {
    "1 copy": ByNumber,
    "2 copies": partial(ByNumber, copies=2),
    "by demand": ByDemand,
}


@dataclass(frozen=True, slots=True)
class Size:
    """A load and the fleet that serves it."""

    load: Load
    engines: int
    figures: Figures


SIZES = {
    "few slots": Size(Load(), 8, Figures(held=4)),
    "slots for all": Size(Load(), 8, Figures(held=16)),
}
TUNING_SIZES = {
    "few slots": Size(Load(60, 100, 30.0, 0.9), 6, Figures(held=6, in_batch=3)),
    "slots for all": Size(Load(60, 100, 24.0, 1.1), 6, Figures(held=12)),
    "very skewed": Size(Load(40, 100, 50.0, 1.2), 10, Figures(held=5)),
    "fewer slots": Size(Load(80, 120, 34.0), 7, Figures(held=4)),
    "slots for all of more": Size(Load(80, 120, 34.0), 7, Figures(held=14)),
}


def run_case(case: str, size: Size, seeds: Sequence[int]) -> dict[str, Outcome]:
    """Runs all policies on the same requests; returns the means over the seeds."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in (*BASELINES, *OTHERS)}
    for seed in seeds:
        requests = arrivals(case, size.load, seed)
        for name, policy in {**BASELINES, **OTHERS}.items():
            outcomes[name].append(simulate(policy, requests, size.engines, size.figures))
    return {name: _mean(runs) for name, runs in outcomes.items()}


def verdict(outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """Returns loads and p99 first token by demand, as shares of the best baseline's in each."""
    ours, baselines = outcomes["by demand"], [outcomes[name] for name in BASELINES]
    return {
        "loads": ours.loads / min(each.loads for each in baselines),
        "first_token_p99": ours.first_token_p99 / min(each.first_token_p99 for each in baselines),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuning", action="store_true", help="the seeds and sizes on which the terms were chosen")
    parser.add_argument("--seeds", type=int, default=5, help="number of runs of each case")
    parser.add_argument("--only", nargs="*", choices=CASES, metavar="CASE")
    parser.add_argument("--real", action="store_true", help="compare the simulation with real engines")
    parser.add_argument("--calibrate", action="store_true", help="with --real: only measure the engines' times")
    parser.add_argument("--figures", type=Path, metavar="FILE", help="with --real: where the measured times are kept")
    parser.add_argument("--adapters", type=Path, metavar="FOLDER", help="with --real: where the adapters are kept")
    options = parser.parse_args()
    first = FIRST_TUNING_SEED if options.tuning else FIRST_SEED
    if options.real:
        from benchmarks.placement import real  # needs the services

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the engines are stopped too
        figures, adapters = options.figures or real.FIGURES_FILE, options.adapters or real.ADAPTERS_FOLDER
        if options.calibrate:
            asyncio.run(real.calibrate(figures, adapters))
        else:
            asyncio.run(real.compare_cases(figures, adapters, options.only or real.DEFAULT_CASES, first))
        return
    options.only = list(CASES) if options.only is None else options.only
    seeds = range(first, first + options.seeds)
    report: dict[str, dict[str, object]] = {}
    for name, size in (TUNING_SIZES if options.tuning else SIZES).items():
        print(f"\n{name}: {size.load.adapters} adapters, {size.engines} engines with {size.figures.held} slots each")
        for case in options.only:
            outcomes = run_case(case, size, seeds)
            shares = verdict(outcomes)
            report[f"{case}, {name}"] = {"of_best_baseline": shares, **{n: asdict(o) for n, o in outcomes.items()}}
            print(f"  {case}: loads {shares['loads']:.3f}, p99 {shares['first_token_p99']:.3f} of the best baseline's")
            for policy, each in outcomes.items():
                print(
                    f"    {policy:<28}{each.loads:8.0f} loads, first token p50 {each.first_token_p50:6.2f} s, "
                    f"p99 {each.first_token_p99:6.2f} s"
                )
            sys.stdout.flush()
    print(json.dumps(report))


def _mean(runs: Sequence[Outcome]) -> Outcome:
    return Outcome(**{each.name: mean(getattr(run, each.name) for run in runs) for each in fields(Outcome)})


if __name__ == "__main__":
    main()
