"""Runs the parts of the experiment on public data that have no result yet, and writes docs/experiment-public.md.

A part, called a cell, is one path that answers the test rows of one data set, for one number of training rows and one
random seed.

    make experiment-public                                # hours on two cores; may be interrupted at any time
    make experiment-public ARGS="--list"                  # all cells, with state and estimated minutes
    make experiment-public ARGS="--only snips:lora --minutes 30"
    make experiment-public ARGS="--base-model Qwen/Qwen2.5-0.5B-Instruct --prices 0.03,0.004,0.13"

An interrupted run resumes: within a cell from its answers and the training's checkpoint, which are below
.pointsman/experiment-public, and from cell to cell by the summaries in benchmarks/experiment_public/results, which are
committed. All requests have temperature 0.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.experiment.folder import ROOT
from benchmarks.experiment_public import mixed, page
from benchmarks.experiment_public.cells import SETS, Cell, all_cells
from benchmarks.experiment_public.folder import BASE_MODEL, Model
from benchmarks.experiment_public.measure import (
    RESULTS,
    Setting,
    can_run_together,
    estimated_minutes,
    run_together,
    state,
)
from benchmarks.experiment_public.sets import PublicSet
from benchmarks.gateway_load.machine import CannotMeasure

DATA_VARIABLE = "POINTSMAN_PUBLIC_DATA"
DEFAULT_DATA = ROOT.parent / "shared/data"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        setting = Setting(options.data, read_model(options.base_model, options.prices), options.limit)
        cells = select(all_cells(), options.only)
        sets = {name: setting.load(name) for name in dict.fromkeys(cell.set for cell in cells)}
        if options.list:
            print_cells(cells, sets, setting)
            return 0
        if not (options.write_only or options.mixed):
            run(cells, sets, setting, options.minutes)
        if options.mixed and not options.write_only:
            mixed.run({name: setting.load(name) for name in SETS}, setting)
    except (CannotMeasure, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd[:3]))} ended with exit code {error.returncode}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    if options.limit is None:
        page.write(RESULTS, BASE_MODEL, {name: setting.load(name).test for name in SETS})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get(DATA_VARIABLE, DEFAULT_DATA))
    parser.add_argument(
        "--data", type=Path, default=data, help=f"folder of the sets; default: {DATA_VARIABLE} or {data}"
    )
    parser.add_argument("--only", action="append", metavar="SET[:PATH]", help="only these cells; can be repeated")
    parser.add_argument("--limit", type=_positive, help="use only the first test rows; the results are kept apart")
    parser.add_argument("--minutes", type=float, help="stop after the cell during which this time ends")
    parser.add_argument("--base-model", default=BASE_MODEL, help="a folder, or a name at the Hugging Face hub")
    parser.add_argument(
        "--prices", metavar="PROMPT,CACHED,COMPLETION", help="of another base model, in dollars per million tokens"
    )
    parser.add_argument("--list", action="store_true", help="list the cells with state and estimated minutes")
    parser.add_argument("--mixed", action="store_true", help="send a mixed stream to `auto`, in place of the cells")
    parser.add_argument("--write-only", action="store_true", help="only write the page from the stored results")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def read_model(source: str, prices: str | None) -> Model:
    """Reads the options --base-model and --prices.

    Raises ValueError if `prices` are not three numbers; they may be left out for the default model only.
    """
    if source == BASE_MODEL and not prices:
        return Model()
    try:
        prompt, cached, completion = (float(price) for price in (prices or "").split(","))
    except ValueError:
        raise ValueError(f"--base-model {source} needs --prices PROMPT,CACHED,COMPLETION, not {prices!r}") from None
    at = Path(source).expanduser()
    return Model(str(at.resolve()) if at.is_dir() else source, (prompt, cached, completion))


def select(cells: Sequence[Cell], only: Sequence[str] | None) -> list[Cell]:
    """Returns the cells of each SET or SET:PATH. Raises ValueError if there is none."""
    if not only:
        return list(cells)
    for wanted in only:
        if not any(_matches(cell, wanted) for cell in cells):
            known = sorted({cell.set for cell in cells} | {f"{cell.set}:{cell.path}" for cell in cells})
            raise ValueError(f"--only {wanted} selects no cell; known: {', '.join(known)}")
    return [cell for cell in cells if any(_matches(cell, wanted) for wanted in only)]


def _matches(cell: Cell, wanted: str) -> bool:
    return wanted in (cell.set, f"{cell.set}:{cell.path}")


def print_cells(cells: Sequence[Cell], sets: Mapping[str, PublicSet], setting: Setting) -> None:
    left = 0.0
    for cell in cells:
        public, found = sets[cell.set], state(cell, sets[cell.set], setting)
        minutes = estimated_minutes(cell, public, setting)
        left += 0 if found == "done" else minutes
        print(f"{cell!s:40} {found:8} {minutes:7.1f} min")
    print(f"{len(cells)} cells; about {left / 60:.1f} hours are left on two cores without a GPU")


def run(cells: Sequence[Cell], sets: Mapping[str, PublicSet], setting: Setting, minutes: float | None) -> None:
    begun = time.monotonic()
    ends = math.inf if minutes is None else begun + 60 * minutes
    left = [cell for cell in cells if state(cell, sets[cell.set], setting) != "done"]
    while left:
        if begun >= ends:
            print(f"stopped after {minutes:g} minutes; the same command continues with {left[0]}")
            return
        first, *others = left
        group = [first, *(cell for cell in others if can_run_together(cell, first, setting))]
        with closing(run_together(group, sets[first.set], setting)) as finished:
            for cell in finished:
                left.remove(cell)
                summary, now = setting.results.summary(cell), time.monotonic()
                assert summary
                print(f"{cell}: {summary.score.mean:.3f} in {now - begun:.0f} s", flush=True)
                begun = now
                if begun >= ends:
                    break


if __name__ == "__main__":
    sys.exit(main())
