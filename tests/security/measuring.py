"""Measures what requests cost a running gateway process: its CPU time, its memory, and the latency of other clients.

The security tests measure attacks in this way.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024
NANO = 1e9
FIRST_BYTE_SECONDS = 60.0


@dataclass
class Cost:
    """What a block of code cost the gateway's process."""

    cpu_seconds: float = 0.0
    peak_mib: float = 0.0
    """By how much the process's resident memory exceeded its value at the start, in MiB."""


@contextmanager
def cost_of(pid: int) -> Iterator[Cost]:
    """Measures the cost of the block for the process `pid`."""
    cost = Cost()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets VmHWM to the current VmRSS
    rss, cpu = memory_mib(pid, "VmRSS"), cpu_seconds(pid)
    yield cost
    cost.cpu_seconds, cost.peak_mib = cpu_seconds(pid) - cpu, memory_mib(pid, "VmHWM") - rss


def cpu_seconds_to_receive(count: int, times: int = 10) -> float:
    """Returns the minimum CPU time that this machine, with its current load, needs to receive this many bytes over
    loopback.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = threading.Thread(target=_send, args=(server.getsockname(), count * times))
        client.start()
        connection, _ = server.accept()
        with connection:
            begun = time.thread_time()
            while connection.recv(256 * 1024):
                pass
            taken = time.thread_time() - begun
        client.join()
    return taken / times


def _send(address: tuple[str, int], count: int) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(bytes(count))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def loop_cpu_seconds(pid: int) -> float:
    """Returns the processor time of the main thread, which runs the event loop, in steps of nanoseconds."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / NANO


def cpu_wait_seconds(pid: int) -> float:
    """Returns how long the main thread was ready to run, and had to wait for a processor."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / NANO


def memory_mib(pid: int | str, name: str) -> float:
    """Returns a figure of /proc/PID/status, such as VmRSS, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


@dataclass
class InnocentClient:
    """Requests /healthz repeatedly over one connection, and records the latencies."""

    address: str
    seconds: list[float] = field(default_factory=list)

    def p99(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]

    @contextmanager
    def asking(self) -> Iterator[None]:
        ended = threading.Event()
        thread = threading.Thread(target=self._ask_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _ask_until(self, ended: threading.Event) -> None:
        with connect(self.address) as connection:
            while not (ended.is_set() and self.seconds):  # at least one answer, even if the attack is short
                begun = time.perf_counter()
                connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                answer = b""
                while not answer.endswith(b"ok\n"):
                    answer += connection.recv(4096) or _closed()
                self.seconds.append(time.perf_counter() - begun)
                ended.wait(0.002)


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=FIRST_BYTE_SECONDS)


def innocent_p99s(address: str, attack: Callable[[], object], idle_seconds: float = 0.5) -> tuple[float, float]:
    """Returns the 99th percentile of another client's latency without and during the attack."""
    before, during = InnocentClient(address), InnocentClient(address)
    with before.asking():
        time.sleep(idle_seconds)
    with during.asking():
        attack()
    return before.p99(), during.p99()


def assert_delays_nobody(address: str, attack: Callable[[], object]) -> None:
    """Asserts that an attack does not delay other clients. The best of three attempts counts, because other programs of
    the machine may delay them, too.
    """
    attempts = []
    for _ in range(3):
        idle, during = innocent_p99s(address, attack)
        attempts.append((idle, during))
        if during <= max(0.05, 10 * idle):
            return
    raise AssertionError(attempts)


def _closed() -> bytes:
    raise AssertionError("the gateway closed an innocent client's connection")
