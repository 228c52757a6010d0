"""Observes the gateway's process from outside: its log, its memory, and whether its event loop is blocked."""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.problems import Problem
from tests.gateway.doubles.process_gateway import ProcessGateway
from tests.security.measuring import connect, loop_cpu_seconds, memory_mib

MAX_GROWTH_MIB = 32.0
MAX_GROWTH_AGAIN_MIB = 16.0
"""If the same cases are repeated. What the allocator keeps of the largest moment stays once (malformed answers of
engines: from 121 to 177 MiB after 15,000 of them, and 177 after 60,000), and a leak comes again."""
MAX_MIB = 1536.0
"""Memory in MiB from which on a phase ends at once, because the fuzzer shares its machine."""
MAX_BLOCKED_SECONDS = 1.0
"""Maximum CPU time of the event loop, in seconds, during which it does not answer a health check."""
PROBE_SECONDS = 0.02
BASE_SECONDS, PAUSE_SECONDS = 3.0, 20.0
"""Maximum length of the pause before the memory is measured: after the warm-up, and later."""
TRACEBACK = re.compile(r'(?:^  File ".*\n(?:    .*\n)*)+(\S.*)$', re.MULTILINE)
FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')


@dataclass
class Watch:
    gateway: ProcessGateway
    log: Path
    blocked: list[float] = field(default_factory=list)
    """The CPU seconds of each time that the event loop was blocked."""
    base_mib: float = 0.0
    _read: int = 0
    _before: float = 0.0

    def is_alive(self) -> bool:
        try:
            return Path(f"/proc/{self.gateway.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def is_too_large(self) -> bool:
        return self.is_alive() and memory_mib(self.gateway.pid, "VmRSS") > MAX_MIB

    def tracebacks(self, is_complete: bool = True) -> Iterator[Problem]:
        """Yields the tracebacks in the log since the last call. Unless `is_complete`, the last one is kept for the next
        call, since it may be incomplete.
        """
        with self.log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        if not is_complete:
            new = new[: new.rfind(b"\n20") + 1]  # up to the last line that begins with a time
        self._read += len(new)
        for found in TRACEBACK.finditer(new.decode("utf-8", "replace")):
            frames = FRAME.findall(found[0])
            ours = [frame for frame in frames if "/pointsman_" in frame[0]]
            file, line, function = (ours or frames)[-1]
            error = found[1].partition(":")[0]
            name = "/".join(Path(file).parts[-2:])
            yield Problem(f"traceback: {error} in {name}:{line} {function}", found[0][-800:])

    async def set_base(self) -> None:
        """Measures the memory with which later measurements are compared."""
        self.base_mib = await self._settled_mib(BASE_SECONDS, 0.0)

    async def _settled_mib(self, seconds: float, most: float) -> float:
        """Measures the resident memory for up to `seconds`, and returns the smallest value. Ends early once the memory
        is at most `most`.
        """
        smallest = float("inf")
        for _ in range(int(seconds)):
            smallest = min(smallest, memory_mib(self.gateway.pid, "VmRSS"))
            if smallest <= most:
                break
            await asyncio.sleep(1.0)
        return smallest

    async def grows(self) -> bool:
        """Compares the memory with that after the warm-up. If it has grown too much, it is the base of later ones."""
        now = await self._settled_mib(PAUSE_SECONDS, self.base_mib + MAX_GROWTH_MIB)
        self._before, grows = self.base_mib, now - self.base_mib > MAX_GROWTH_MIB
        if grows:
            self.base_mib = now
        return grows

    async def grows_again(self) -> Iterator[Problem]:
        """Compares the memory after the same cases with that after their first time, when it has grown too much."""
        now = await self._settled_mib(PAUSE_SECONDS, self.base_mib + MAX_GROWTH_AGAIN_MIB)
        first, self.base_mib = self.base_mib, now
        if now - first <= MAX_GROWTH_AGAIN_MIB:
            print(f"the allocator keeps memory: {self._before:.0f} -> {first:.0f} -> {now:.0f} MiB", flush=True)
            return iter(())
        growth = f"{self._before:.0f} -> {first:.0f} -> {now:.0f} MiB, each time by the same cases"
        return iter([Problem("the gateway's memory grows", growth)])

    async def in_flight(self) -> Iterator[Problem]:
        """Waits until no request is in progress; yields a problem if that takes too long."""
        for _ in range(int(PAUSE_SECONDS)):
            left = await self.gateway.metric("pointsman_in_flight")
            if not left:
                return iter(())
            await asyncio.sleep(1.0)
        return iter([Problem("requests stay in flight", f"{left:g} of them {PAUSE_SECONDS:.0f} s after the last one")])

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Requests /healthz continuously, in a thread, for the length of the block."""
        ended = threading.Event()
        thread = threading.Thread(target=self._probe_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(5.0)

    def _probe_until(self, ended: threading.Event) -> None:
        while not ended.is_set() and self.is_alive():
            try:
                self._probe(ended)
            except (OSError, ValueError):
                ended.wait(1.0)

    def _probe(self, ended: threading.Event) -> None:
        with connect(self.gateway.url.removeprefix("http://")) as connection:
            while not ended.is_set():
                begun = loop_cpu_seconds(self.gateway.pid)
                connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                answer = b""
                while not answer.endswith(b"ok\n"):
                    answer += connection.recv(4096)
                    if not answer:
                        return
                taken = loop_cpu_seconds(self.gateway.pid) - begun
                if taken > MAX_BLOCKED_SECONDS:
                    self.blocked.append(taken)
                ended.wait(PROBE_SECONDS)
