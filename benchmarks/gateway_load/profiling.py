"""Profiles the gateway under load with py-spy, and groups the samples by function, package and module."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_load.machine import CannotMeasure, peer_program
from benchmarks.gateway_load.our_gateway import Gateway
from benchmarks.gateway_load.throughput import run_wrk

RATE = 250  # samples per second
FRAME = re.compile(r"^(?P<function>.*?) \((?P<file>.*?)(:\d+)?\)$")
MAIN = re.compile(r"^thread \(.*\): MainThread$")
CALLER_FILES = re.compile(r"^(libc|libpthread|libpython|libstdc|ld-|<)|\.h$")
"""Files whose time is attributed to the function that called them."""
COLLECTOR = "gc_collect"


@dataclass(frozen=True, slots=True)
class Profile:
    """Shares of all samples in descending order."""

    samples: int
    functions: list[tuple[str, float]]
    """Samples by function, without the functions that it calls."""
    packages: list[tuple[str, float]]
    """The samples by package."""
    modules: list[tuple[str, float]]
    """Samples by the innermost module of this project, including what it calls; "the rest" has no such module."""


async def profile(gateway: Gateway, script: Path, folder: Path, seconds: float) -> Profile:
    """Profiles the gateway while the script of wrk runs. Raises NotInstalled, CannotMeasure."""
    spy, file = peer_program("py-spy", "py-spy"), folder / "profile.txt"
    how = ["--native", "--threads", "--format", "raw", "--rate", str(RATE), "--output", str(file)]
    load = asyncio.create_task(run_wrk(gateway.path("fast"), script, seconds + 4))
    await asyncio.sleep(1)
    py_spy = await asyncio.create_subprocess_exec(
        spy, "record", *how, "--duration", str(round(seconds)), "--pid", str(gateway.process.pid),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(seconds + 40):
            output, _ = await py_spy.communicate()
        await load
    finally:
        load.cancel()
        if py_spy.returncode is None:
            py_spy.kill()
            await py_spy.wait()
    if not file.exists():
        raise CannotMeasure(f"py-spy failed: {output.decode()[-500:]}")
    return summarize(file.read_text("utf-8", "replace"))


def summarize(raw: str) -> Profile:
    """Parses py-spy's raw format (thread, frames from the outermost inwards, count). Only the main thread is
    counted.
    """
    functions: Counter[str] = Counter()
    packages: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if not (MAIN.match(thread) and frames and count.isdigit()):
            continue
        functions[_function(frames[-1])] += int(count)
        packages[_first(frames, _package)] += int(count)
        modules[_first(frames, _module)] += int(count)
    total = max(functions.total(), 1)
    ordered = ([(name, count / total) for name, count in one.most_common()] for one in (functions, packages, modules))
    return Profile(total, *ordered)


def _first(frames: list[str], name_of: Callable[[str], str]) -> str:
    """Returns the part of the program that a sampled stack belongs to: the name of the innermost frame that has one.

    Garbage collection is a part of its own, whoever triggered it.
    """
    if COLLECTOR in frames[-1]:
        return "garbage collection"
    return next((name for frame in reversed(frames) if (name := name_of(frame))), "the rest")


def _parts(frame: str) -> tuple[str, str]:
    found = FRAME.match(frame)
    return (found["function"], found["file"]) if found else (frame, "")


def _function(frame: str) -> str:
    function, file = _parts(frame)
    return f"{function} ({'/'.join(file.split('/')[-2:])})" if file else function


def _package(frame: str) -> str:
    """Returns the package, with the subfolder for this project. A C file such as "_json.c" belongs to its Python
    module.
    """
    file = _parts(frame)[1]
    if not file or CALLER_FILES.search(file):
        return ""
    first, *rest = file.split("/")
    if first.startswith("pointsman"):
        return f"{first}/{rest[0].removesuffix('.py')}" if rest else first
    return first.split(".")[0].removeprefix("_").removesuffix("module")


def _module(frame: str) -> str:
    file = _parts(frame)[1]
    return file.removesuffix(".py") if file.startswith("pointsman") else ""
