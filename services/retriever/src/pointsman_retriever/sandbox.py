"""Runs work on untrusted texts and files in a subprocess with limits of time and memory.

A file that crashes the subprocess, or uses up its time or memory, does not harm the service. The subprocess also keeps
the service's GIL free: reading a PDF or splitting a text takes long, and searches would wait for it.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

CALL_SECONDS = 60.0

MAX_ANSWER_BYTES = 64 * 1024 * 1024  # more than a document may have

INHERITED = ("HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV")
INHERITED_PREFIXES = ("LC_", "OMP_", "PYTHON")
"""The sandbox's subprocess inherits the environment variables whose names begin with one of these prefixes."""


class SandboxError(Exception):
    """Raised if an operation in the sandbox failed.

    The message is a predicate without a subject, such as "took more than 60 seconds"; the caller puts the document's id
    before it.
    """


class Sandbox:
    """Runs operations in one subprocess, one call at a time; other calls wait.

    The first call starts the subprocess. If the subprocess was killed, the next call starts a new one. Use from the
    event loop's thread only.
    """

    def __init__(
        self, seconds: float = CALL_SECONDS, answer_bytes: int = MAX_ANSWER_BYTES, setup: bytes | None = None
    ) -> None:
        """Limits each call to `seconds` seconds and its answer to `answer_bytes` bytes.

        `setup`, which `chunking_setup` makes, is sent to each new subprocess; without it the sandbox cannot chunk.
        """
        self._seconds = seconds
        self._answer_bytes = answer_bytes
        self._setup = setup
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def call(self, operation: str, content: bytes, **options: str) -> dict[str, Any]:
        """Sends an operation with its content to the subprocess, and returns the answer.

        `operation` is "read" (the option `media_type`: an HTML or PDF file; answers its "title" and "text") or "chunk"
        (the option `kind`: parts of documents in JSON; answers their chunks as "parts"). Raises SandboxError if the
        operation fails, exceeds a limit, or ends the subprocess. If a call is cancelled while the subprocess works on
        it, the subprocess is killed.
        """
        async with self._lock:
            try:
                answer = await asyncio.wait_for(self._request(operation, content, options), self._seconds)
            except TimeoutError as error:
                await self._kill()
                raise SandboxError(f"took more than {self._seconds:g} seconds") from error
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                await self._kill()
                raise SandboxError("ended the process that worked on it") from error
            except BaseException:
                await self._kill()  # otherwise the next call would receive this one's answer
                raise
        if "error" in answer:
            raise SandboxError(answer["error"])
        return answer

    async def close(self) -> None:
        await self._kill()

    async def _request(self, operation: str, content: bytes, options: Mapping[str, str]) -> dict[str, Any]:
        process = self._process or await self._start()
        await self._send(process, operation, content, options)
        assert process.stdout is not None
        size = int.from_bytes(await process.stdout.readexactly(8), "big")
        if size > self._answer_bytes:
            raise ValueError(f"the answer has {size} bytes; the maximum is {self._answer_bytes}")
        answer: dict[str, Any] = json.loads(await process.stdout.readexactly(size))
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "pointsman_retriever.sandbox_worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # may quote the file, which must not get into a log
            limit=MAX_ANSWER_BYTES,
            env=_environment(),
        )
        if self._setup is not None:
            await self._send(self._process, "setup", self._setup, {})
        return self._process

    async def _send(
        self, process: asyncio.subprocess.Process, operation: str, content: bytes, options: Mapping[str, str]
    ) -> None:
        assert process.stdin is not None
        header = {"operation": operation, "bytes": len(content), "max_bytes": self._answer_bytes, **options}
        process.stdin.write(json.dumps(header).encode() + b"\n")
        process.stdin.write(content)
        await process.stdin.drain()

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    """Returns the environment of the subprocess: only the variables that a Python program needs.

    Other variables of this process may be secrets, such as a key that the configuration names.
    """
    inherited = {
        name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    return {**inherited, "TOKENIZERS_PARALLELISM": "false"}
