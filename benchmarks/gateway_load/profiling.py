"""Where the gateway's time goes under the load of the named path: py-spy's samples, grouped."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_load.machine import CannotMeasure, peer_program
from benchmarks.gateway_load.our_gateway import Gateway
from benchmarks.gateway_load.throughput import run_wrk

RATE = 250  # samples a second
FRAME = re.compile(r"^(?P<function>.*?) \((?P<file>.*?)(:\d+)?\)$")
MAIN = re.compile(r"^thread \(.*\): MainThread$")
CALLER_FILES = re.compile(r"^(libc|libpthread|libpython|libstdc|ld-|<)|\.h$")
"""Files whose time belongs to who called them."""
COLLECTOR = "gc_collect"


@dataclass(frozen=True, slots=True)
class Profile:
    """Shares of all samples, most first."""

    samples: int
    functions: list[tuple[str, float]]
    """By themselves, without what they call."""
    packages: list[tuple[str, float]]
    """The same, by whose code it is."""
    modules: list[tuple[str, float]]
    """By the innermost module of ours, all that it calls of others' code included; "the rest" is below none of them."""


async def profile(gateway: Gateway, script: Path, folder: Path, seconds: float) -> Profile:
    """Raises NotInstalled, CannotMeasure."""
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
        raise CannotMeasure(f"py-spy says: {output.decode()[-500:]}")
    return summarize(file.read_text("utf-8", "replace"))


def summarize(raw: str) -> Profile:
    """Of lines of a thread, frames, outermost first, and a count; of the main thread alone, for the others wait."""
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
    """What the innermost frame that has a name is called; collecting garbage is nobody's own work."""
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
    """Of ours the folder too; a C file of the interpreter's ("_json.c") counts as the module that it speeds up."""
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
