"""Measures the policy `predicted` on public benchmarks of routers, next to simple and to published routers.

    make bench-routers                                      # ARGS="--data FOLDER --only routerbench"

Clone into FOLDER what is to be measured: github.com/shuhao02/RouterDC, ulab-uiuc/LLMRouter, RouteWorks/RouterArena,
ynulihao/LLMRouterBench with its results, and `routellm` as benchmarks/routellm_apgr.py reads it. What is not there is
left out, and named. Every figure is of rows that took no part in learning or in the choice of a parameter, apart from
points of curves, which are joined in hindsight for all routers alike. One thread; a few minutes for each benchmark.

The tables are Markdown. The last line is JSON: the figures of `predicted`, and whether each stated target is met.
"""

import argparse
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from benchmarks.routellm_apgr import measure_mmlu
from benchmarks.routers import llmrouterbench, mixed_tasks, nothing_to_gain, routerarena, routerbench, routerdc
from benchmarks.routers.result import Result, Row
from benchmarks.routers.score_table import Embedder

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".pointsman/models/minilm"
DATA = ROOT.parent / "shared/data/routing"
CACHE = ROOT / ".pointsman/cache/bench-routers"
PUBLISHED = Path(__file__).with_name("published.toml")
ROUTELLM = Path("routellm/mmlu")
UPPER_BOUNDS = ("cost_95", "printed_off", "accepted")
"""Targets that a figure must not exceed; it must reach the others."""

Measure = Callable[[Path, Embedder], Result]


def routellm(data: Path, embedder: Embedder) -> Result:
    """RouteLLM's metrics, as `make bench-public` measures them, between its two models."""
    found = measure_mmlu(data, embedder.static, embedder)
    names = {"apgr": "APGR", "cpt50": "CPT(50), %", "cpt80": "CPT(80), %", "gain": "gain at equal cost"}
    rows = [Row(name, {names[key]: value for key, value in figures.items()}) for name, figures in found.items()]
    figures = {f"apgr_{name.partition(',')[0]}": each["apgr"] for name, each in found.items() if "predicted" in name}
    return Result("RouteLLM", "MMLU and GSM8K, Mixtral 8x7B and GPT-4", tuple(names.values()), rows, figures)


BENCHMARKS: Mapping[str, tuple[Path, Measure]] = {
    "routerbench": (routerbench.FOLDER, routerbench.measure),
    "mixed_tasks": (mixed_tasks.SCORES, mixed_tasks.measure),
    "routerarena": (routerarena.FOLDER, routerarena.measure),
    "routerdc": (routerdc.FOLDER, routerdc.measure),
    "llmrouterbench": (llmrouterbench.FOLDER, llmrouterbench.measure),
    "routellm": (ROUTELLM, routellm),
    "nothing_to_gain": (Path(), nothing_to_gain.measure),
}
"""The folder of the data of each, within `--data`, and what measures it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="BENCHMARK")
    options = parser.parse_args()
    known = {name: measure for name, (folder, measure) in BENCHMARKS.items() if (options.data / folder).is_dir()}
    if missing := [name for name in options.only or () if name not in known]:
        parser.error(f"no data for {', '.join(missing)} in {options.data}; it needs {BENCHMARKS[missing[0]][0]}")
    embedder, results = Embedder(MODEL, CACHE), {}
    with threadpool_limits(limits=1):
        for name in options.only or known:
            results[name] = with_published(name, known[name](options.data, embedder))
            embedder.save()
            print(results[name].as_markdown(), end="\n\n", flush=True)
    left_out = [name for name in BENCHMARKS if name not in known]
    if left_out:
        print(f"No data in {options.data}: {', '.join(left_out)}\n")
    print(json.dumps({name: facts_of(result) for name, result in results.items()}))


def with_published(name: str, result: Result) -> Result:
    published = tomllib.loads(PUBLISHED.read_text("utf-8")).get(name)
    if not published:
        return result
    rows = [Row(row.pop("name"), row, is_published=True) for row in published["rows"]]
    return replace(result, rows=[*result.rows, *rows], source=published["source"])


def facts_of(result: Result) -> dict[str, object]:
    """Returns the figures, and whether each target is met."""
    met = {
        name: (result.figures[name] <= bound) if name in UPPER_BOUNDS else (result.figures[name] >= bound)
        for name, bound in result.targets.items()
    }
    figures = {name: round(value, 4) for name, value in result.figures.items()}
    return figures | ({"targets": dict(result.targets), "met": met} if met else {})


if __name__ == "__main__":
    main()
