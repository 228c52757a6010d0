"""Measures the engine's answers while adapters are hot-swapped, with a real engine behind a real gateway.

    python -m benchmarks.adapters [--quick] [--only swap|promotion|zipf|zipf256|kernels|registry ...] [--keep FOLDER]

The last line of output is one JSON object. If a part cannot be measured, the reason is printed and its figures are
null.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import grpc

from benchmarks.adapters import kernels, promotion, registry_scale, report, swap, zipf
from benchmarks.adapters.report import Findings
from benchmarks.gateway_load.machine import CannotMeasure, describe_machine

ROUNDS, QUICK_ROUNDS = 5, 2


async def _swap(found: Findings, folder: Path, quick: bool) -> None:
    found.swap = await swap.measure(folder, swap.QUICK if quick else swap.FULL)


async def _promotion(found: Findings, folder: Path, quick: bool) -> None:
    found.promotion = await promotion.measure(folder, promotion.QUICK if quick else promotion.FULL)


async def _zipf(found: Findings, folder: Path, quick: bool) -> None:
    found.zipf = await zipf.measure(folder, zipf.QUICK if quick else zipf.FULL, zipf.FEW, with_cold=True)


async def _zipf256(found: Findings, folder: Path, quick: bool) -> None:
    found.zipf_256 = await zipf.measure(folder, zipf.QUICK if quick else zipf.FULL, zipf.MANY, with_cold=False)


async def _kernels(found: Findings, folder: Path, quick: bool) -> None:
    found.kernels = await asyncio.to_thread(kernels.measure, QUICK_ROUNDS if quick else ROUNDS)


async def _registry(found: Findings, folder: Path, quick: bool) -> None:
    found.registry = await registry_scale.measure(folder, registry_scale.QUICK_SIZES if quick else registry_scale.SIZES)


PARTS: dict[str, Callable[[Findings, Path, bool], Awaitable[None]]] = {
    "swap": _swap,
    "promotion": _promotion,
    "zipf": _zipf,
    "zipf256": _zipf256,
    "kernels": _kernels,
    "registry": _registry,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="shorter measurements with fewer rounds")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="the parts to measure")
    parser.add_argument("--keep", type=Path, help="keep the logs and the adapter store in this folder")
    options = parser.parse_args()
    found = Findings()
    with suppress(asyncio.CancelledError):  # the figures measured so far are still reported
        asyncio.run(run_until_sigterm(options, found))
    print(report.format_report(found))
    return 1 if found.failed else 0


async def run_until_sigterm(options: argparse.Namespace, found: Findings) -> None:
    """Stops all started processes on SIGTERM, as on Ctrl-C."""
    this = asyncio.current_task()
    assert this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-adapters-") as scratch:
        await run_parts(options.keep or Path(scratch), options, found)


async def run_parts(folder: Path, options: argparse.Namespace, found: Findings) -> None:
    for name in options.only:
        print(f"{name} ...", flush=True)
        part_folder = folder / name
        part_folder.mkdir(parents=True)
        try:
            await PARTS[name](found, part_folder, options.quick)
        except CannotMeasure as error:
            found.failed[name] = str(error)
        except grpc.aio.AioRpcError as error:
            found.failed[name] = f"{error.code().name}: {error.details()}"
        except asyncio.CancelledError:
            found.failed[name] = "stopped"
            raise


if __name__ == "__main__":
    sys.exit(main())
