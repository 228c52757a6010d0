"""Fuzzers of functions that read files. A child process runs the cases, so that it can be killed if one hangs.

python -m tests.fuzz.offline configurations 7     # the child: reads numbers of cases, writes a line of JSON for each
"""

import asyncio
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from time import process_time
from typing import Any, ClassVar

from tests.fuzz import adapter_folders, configurations
from tests.fuzz.problems import Problem
from tests.fuzz.rig import Hung, Rig
from tests.security.measuring import memory_mib

GIVEN_UP_SECONDS = 60.0
MAX_CPU_SECONDS = 5.0
MAX_PEAK_MIB = 256.0

CarryOut = Callable[[Random, Path], object]
"""Makes a case from random numbers in an empty folder, and reads it. Any exception that it raises is a problem."""
READERS: Mapping[str, Callable[[Path], CarryOut]] = {
    "configurations": configurations.reader,
    "adapter_folders": adapter_folders.reader,
}


class OfflineFuzzer:
    """A fuzzer whose cases are just numbers: the child process makes each case from its number and the seed."""

    name: ClassVar[str]
    share: ClassVar[float] = 0.075
    lanes: ClassVar[int] = 1

    def __init__(self, rig: Rig) -> None:
        self._child: asyncio.subprocess.Process | None = None

    def make(self, random: Random, marker: str) -> int:
        return random.randrange(2**31)

    async def carry_out(self, case: int) -> Problem | None:
        """Makes the child process run the case; returns the problem that it reports, if any. Raises Hung if it takes
        too long.
        """
        if self._child is None:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", __name__, self.name, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{case}\n".encode())
        try:
            line = await asyncio.wait_for(child.stdout.readline(), GIVEN_UP_SECONDS)
        except TimeoutError as error:
            await self.close()
            raise Hung from error
        if not line:
            code = await child.wait()
            self._child = None
            return Problem("the process that reads the files dies", f"exit code {code}")
        body = json.loads(line)
        return Problem(body["sign"], body["detail"]) if body["sign"] else None

    async def close(self) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.kill()
            await self._child.wait()
            self._child = None


class Configurations(OfflineFuzzer):
    name = "configurations"


class AdapterFolders(OfflineFuzzer):
    name = "adapter_folders"


def judged(carry_out: CarryOut, random: Random, folder: Path) -> Problem:
    """Runs a case in this process. Returns what was wrong; the problem's sign is empty if nothing was."""
    Path("/proc/self/clear_refs").write_text("5")
    begun, before = process_time(), memory_mib("self", "VmRSS")
    try:
        carry_out(random, folder)
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        return Problem(f"{type(error).__name__} in {place}", f"{error}"[:400])
    cpu, peak = process_time() - begun, memory_mib("self", "VmHWM") - before
    if cpu > MAX_CPU_SECONDS:
        return Problem("reading takes long", f"{cpu:.1f} s of processor time")
    return Problem("reading needs much memory", f"{peak:.0f} MiB") if peak > MAX_PEAK_MIB else Problem("")


def main(name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="pointsman-fuzz-") as root:
        carry_out = READERS[name](Path(root))
        for line in sys.stdin:
            number = int(line)
            folder = Path(root) / "case"
            folder.mkdir()
            problem = judged(carry_out, Random(number), folder)
            answer: dict[str, Any] = {"sign": problem.sign, "detail": problem.detail}
            print(json.dumps(answer), flush=True)
            _remove(folder)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


if __name__ == "__main__":
    main(sys.argv[1])
