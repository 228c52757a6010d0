"""Reads HTML and PDF in a subprocess with limits of time and memory, so that a hostile file cannot harm the service.

It also keeps the GIL free: reading a PDF takes long in pure Python, and searches would wait for it.
"""

import asyncio
import json
import sys
from contextlib import suppress

from pointsman_retriever.loaders.formats import LoadedText, UnreadableFile

READ_SECONDS = 60.0

MAX_ANSWER_BYTES = 64 * 1024 * 1024  # more than a document may have


class SandboxedReader:
    """Keeps one subprocess, which is started when needed. Use from the event loop's thread only."""

    def __init__(self, seconds: float = READ_SECONDS, answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._seconds = seconds
        self._answer_bytes = answer_bytes
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def read(self, media_type: str, content: bytes) -> LoadedText:
        """Raises UnreadableFile. A cancelled call kills the subprocess."""
        async with self._lock:
            try:
                answer = await asyncio.wait_for(self._request(media_type, content), self._seconds)
            except TimeoutError as error:
                await self._kill()
                raise UnreadableFile(f"could not be read within {self._seconds:g} seconds") from error
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                await self._kill()
                raise UnreadableFile("could not be read: it ended the process that tried") from error
            except BaseException:
                await self._kill()  # otherwise the next call would receive this one's answer
                raise
        if "unreadable" in answer:
            raise UnreadableFile(answer["unreadable"])
        return LoadedText(answer["title"], answer["text"])

    async def close(self) -> None:
        await self._kill()

    async def _request(self, media_type: str, content: bytes) -> dict[str, str]:
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        header = {"media_type": media_type, "bytes": len(content), "max_bytes": self._answer_bytes}
        process.stdin.write(json.dumps(header).encode() + b"\n")
        process.stdin.write(content)
        await process.stdin.drain()
        size = int.from_bytes(await process.stdout.readexactly(8), "big")
        if size > self._answer_bytes:
            raise ValueError(f"the answer has {size} bytes")
        answer: dict[str, str] = json.loads(await process.stdout.readexactly(size))
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "pointsman_retriever.loaders.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # may quote the file, which must not get into a log
            limit=MAX_ANSWER_BYTES,
        )
        return self._process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
