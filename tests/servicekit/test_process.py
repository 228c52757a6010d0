"""A process that runs until it is stopped, and its threads."""

import asyncio
import signal
import subprocess
import sys
import threading

import pytest
from pointsman_servicekit.process import start_worker_threads

PROGRAM = """
import asyncio
from pointsman_servicekit.process import wait_for_stop_signal

async def main():
    asyncio.get_running_loop().call_soon(print, "waiting")
    print((await wait_for_stop_signal()).name)

asyncio.run(main())
"""


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_and_is_named(which: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-u", "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(which)
        assert process.stdout.read() == f"{which.name}\n"
    assert process.returncode == 0


async def test_all_workers_exist_from_the_start() -> None:
    before = set(threading.enumerate())  # other tests' threads, which may end at any time
    await start_worker_threads(3)
    workers = set(threading.enumerate()) - before
    here = threading.Barrier(3)
    await asyncio.gather(*[asyncio.to_thread(here.wait, 10) for _ in range(3)])
    names = await asyncio.gather(*[asyncio.to_thread(lambda: threading.current_thread().name) for _ in range(20)])
    assert len(workers) == 3
    assert set(threading.enumerate()) - before == workers
    assert set(names) <= {"worker_0", "worker_1", "worker_2"}


ALLOCATE = """
import asyncio, ctypes
from pointsman_servicekit.process import start_worker_threads

async def main():
    await start_worker_threads(6)
    kept = await asyncio.gather(*[asyncio.to_thread(bytes, 50_000) for _ in range(60)])

asyncio.run(main())
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
"""


def test_all_threads_share_one_arena_of_malloc() -> None:
    ended = subprocess.run([sys.executable, "-c", ALLOCATE], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert ended.count("<heap nr=") == 1


TRIM = """
import asyncio, re, time
from pathlib import Path
from pointsman_servicekit.process import start_worker_threads, trimming_heap

def anonymous_megabytes():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

async def main():
    await start_worker_threads(1)
    blocks = [bytes([1]) * 50_000 for _ in range(1000)]
    kept, before = blocks[::100], anonymous_megabytes()
    del blocks
    async with trimming_heap(0.05):
        deadline = time.monotonic() + 20
        while anonymous_megabytes() > before - 40 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
    print(before - anonymous_megabytes())

asyncio.run(main())
"""


def test_memory_between_blocks_that_are_in_use_is_returned() -> None:
    ended = subprocess.run([sys.executable, "-c", TRIM], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert float(ended) > 40
