"""A process on the leash: it cannot outlive us, and its process group goes with it."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from pointsman_lora_server.engine import leash

LONGEST_LINE = 1 << 16  # bytes; asyncio's own limit


class SupervisedChild:
    """Whoever starts it waits for its end, then kills what is left of its group, and lets go."""

    def __init__(self, process: asyncio.subprocess.Process, hand: int) -> None:
        """`hand` is our end of the leash, a file descriptor: when it closes, by whatever death, the process dies."""
        self.process = process
        self._hand: int | None = hand

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        stdout: int | IO[bytes],
        stderr: int,
        longest_line: int = LONGEST_LINE,
    ) -> "SupervisedChild":
        """`stdout` and `stderr` as `subprocess` takes them; `longest_line` is of what comes through a pipe of
        asyncio's. Raises OSError."""
        leash_end, hand = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", str(Path(leash.__file__)), *command),
                stdin=leash_end,
                stdout=stdout,
                stderr=stderr,
                env=dict(environment),
                start_new_session=True,
                limit=longest_line,
            )
        except BaseException:
            os.close(hand)
            raise
        finally:
            os.close(leash_end)
        return cls(process, hand)

    @property
    def group(self) -> int:
        """Its process group."""
        return self.process.pid

    def terminate(self) -> None:
        """Asks it to end, cleanly."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """All of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def let_go(self) -> None:
        """Once it has ended."""
        if self._hand is not None:
            os.close(self._hand)
            self._hand = None
