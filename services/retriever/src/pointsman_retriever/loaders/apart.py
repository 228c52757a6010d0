"""HTML and PDF are read in a process of their own: what a hostile file does there, it does to nobody else.

It also keeps the interpreter's lock free: reading a PDF is long and pure Python, and searches would wait for it.
"""

import asyncio
import json
import sys
from contextlib import suppress

from pointsman_retriever.loaders.text import LoadedText
from pointsman_retriever.loaders.unreadable import UnreadableFile

READ_SECONDS = 60.0

MAX_ANSWER_BYTES = 64 * 1024 * 1024  # of the longest, more than a document may have


class SandboxedReader:
    """One process, started at the first file, and again after one that killed it. For the event loop's thread."""

    def __init__(self, seconds: float = READ_SECONDS, answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._seconds = seconds
        self._answer_bytes = answer_bytes
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def read(self, media_type: str, content: bytes) -> LoadedText:
        """Raises Unreadable."""
        async with self._turn:
            try:
                answer = await asyncio.wait_for(self._ask(media_type, content), self._seconds)
            except TimeoutError as error:
                await self._end()
                raise UnreadableFile(f"could not be read within {self._seconds:g} seconds") from error
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                await self._end()
                raise UnreadableFile("could not be read: it ended the process that tried") from error
            except BaseException:
                await self._end()  # its answer would be taken for the next one's
                raise
        if "unreadable" in answer:
            raise UnreadableFile(answer["unreadable"])
        return LoadedText(answer["title"], answer["text"])

    async def close(self) -> None:
        await self._end()

    async def _ask(self, media_type: str, content: bytes) -> dict[str, str]:
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        asked = {"media_type": media_type, "bytes": len(content), "most": self._answer_bytes}
        process.stdin.write(json.dumps(asked).encode() + b"\n")
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
            stderr=asyncio.subprocess.DEVNULL,  # the files' own words, which do not belong in a log
            limit=MAX_ANSWER_BYTES,
        )
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
