"""Sends random malformed input to real services, and fails if one of them fails: `make test-fuzz`.

    python -m tests.fuzz --minutes 10 --seed 7 [--only json_routes,raw_http] [--case 412]

A case depends only on the seed, the fuzzer's name and its number, so that `--only NAME --case N` repeats it alone. The
exit code is 1 if there is a problem: a 500, a 503 or 504 that neither the scripted engine nor the deadline explains,
a request or a check that does not end, a blocked event loop, memory that stays, a dead process, or a traceback.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.fuzz.engine_answers import EngineAnswers
from tests.fuzz.grpc_messages import GrpcMessages
from tests.fuzz.json_routes import JsonRoutes
from tests.fuzz.offline import AdapterFolders, Configurations
from tests.fuzz.raw_http import RawHttp
from tests.fuzz.rig import Rig, running_rig
from tests.fuzz.runner import Fuzzer, Phase, Report, run_phase, shares
from tests.fuzz.schemas import Schemas
from tests.fuzz.watch import Watch

FUZZERS: Mapping[str, Callable[[Rig], Fuzzer]] = {
    "configurations": Configurations,
    "adapter_folders": AdapterFolders,
    "json_routes": JsonRoutes,
    "raw_http": RawHttp,
    "grpc_messages": GrpcMessages,
    "engine_answers": EngineAnswers,
    "schemas": Schemas,
}

WARM_UP_SHARE = 0.05
"""Share of each fuzzer's time after which the reference value of the memory is measured. The allocator keeps the memory
that the largest inputs needed once: without a warm-up, memory rises from 182 to 220 MiB, as much after 11,000 malformed
answers of engines as after 39,000."""


async def main(options: argparse.Namespace) -> int:
    report = Report()
    with tempfile.TemporaryDirectory(prefix="pointsman-fuzz-") as folder:
        async with running_rig(Path(folder)) as rig:
            watch = Watch(rig.gateway, Path(folder) / "gateway.log")
            fuzzers = [FUZZERS[name](rig) for name in options.only.split(",")]
            if options.case is not None:
                await Phase(fuzzers[0], options.seed, report).run_case(options.case)
                for problem in watch.tracebacks():
                    report.add(fuzzers[0].name, problem, options.case)
            else:
                await _run_all(rig, fuzzers, watch, report, options)
    for found in report.found.values():
        print(
            f"\n{found.phase} case {found.number}, {found.count} times: {found.problem.sign}\n  {found.problem.detail}"
        )
        print(f"  {found.shown}" if found.shown else "")
    problems = [f"{found.phase} case {found.number}: {found.problem.sign}" for found in report.found.values()]
    print(json.dumps({"seed": options.seed, "cases": report.cases, "problems": problems}))
    return 1 if problems else 0


async def _run_all(rig: Rig, fuzzers: list[Fuzzer], watch: Watch, report: Report, options: argparse.Namespace) -> None:
    phases = [Phase(fuzzer, options.seed, report) for fuzzer in fuzzers]
    seconds_of = shares(fuzzers, options.minutes * 60)
    await rig.warm_up()
    for phase, seconds in zip(phases, seconds_of, strict=True):
        await phase.run(WARM_UP_SHARE * seconds)
    await watch.set_base()
    print(f"the gateway has {watch.base_mib:.0f} MiB after the warm-up", flush=True)
    for phase, seconds in zip(phases, seconds_of, strict=True):
        print(f"{phase.fuzzer.name}: {seconds:.0f} s", flush=True)
        await run_phase(phase, watch, seconds)
        if not watch.is_alive():
            return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=10.0, help="of all fuzzers together, and a twentieth more")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2)), help="drawn and printed if absent")
    parser.add_argument("--only", default=",".join(FUZZERS), help="names of fuzzers, separated by commas")
    parser.add_argument("--case", type=int, help="the number of a single case of the first fuzzer")
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.minutes:g} minutes", flush=True)
    sys.exit(asyncio.run(main(given)))
