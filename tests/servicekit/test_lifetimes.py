"""A process that waits until it is told to stop."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio
from pointsman_servicekit.lifetimes import until_told_to_stop

async def main():
    asyncio.get_running_loop().call_soon(print, "waiting")
    print((await until_told_to_stop()).name)

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
