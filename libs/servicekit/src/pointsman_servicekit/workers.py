"""Runs several processes of one service on the same ports.

A supervisor starts them, replaces those that die, and stops them. Supervisor and worker are connected by a socket pair,
on which both may send requests. If one end dies, the other notices at once: the supervisor replaces the worker, and a
worker without a supervisor drains and exits.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.process import Backoff

log = logging.getLogger(__name__)

WORKER_OPTION = "--worker"
"""The option is followed by the worker's number, from 1, and the file descriptor of its end of the socket pair."""
ANSWER_TIMEOUT_SECONDS = 2.0
"""Seconds in which a worker must answer."""
MERGED_ANSWER_TIMEOUT_SECONDS = 5.0
"""Seconds in which the supervisor must answer a question that it forwards to all workers."""
MAX_LINE_BYTES = 64 * 1024 * 1024

Handler = Callable[[Any], Awaitable[Any]]


class AnswerFailed(Exception):
    """The other end has failed to answer a question."""


class WorkerPeer:
    """The process at the other end of a socket pair.

    Messages are lines of JSON: [id, question, argument], [id, answer], or [id] if answering has failed.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        """Takes in `handlers` the functions that answer questions from the other end, by the question's name."""
        self.handlers = dict(handlers)
        self.reading: asyncio.Task[None]
        """The task that reads messages; it ends when the other end closes. Set by `connect`."""
        self._writer: asyncio.StreamWriter | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._ids = count()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self, end: socket.socket) -> None:
        """Starts to answer questions from the other end, until that end closes."""
        reader, self._writer = await asyncio.open_unix_connection(sock=end, limit=MAX_LINE_BYTES)
        self.reading = asyncio.create_task(self._read(reader), name="peer")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                number, *rest = json.loads(line)
                if len(rest) == 2:
                    task = asyncio.create_task(self._answer(number, *rest))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                elif (waiting := self._answers.get(number)) and not waiting.done():
                    if rest:
                        waiting.set_result(rest[0])
                    else:
                        waiting.set_exception(AnswerFailed())
        except ConnectionError:
            pass
        finally:
            if self._writer:
                self._writer.close()
            self._writer = None
            for waiting in self._answers.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError())

    async def ask(self, question: str, argument: Any = None, seconds: float = ANSWER_TIMEOUT_SECONDS) -> Any:
        """Asks the other end a question; returns the answer, or None if it has no handler for the question yet.

        Raises Unavailable if the other end fails to answer, or no answer arrives within `seconds`.
        """
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._write(_to_line(number, question, argument))
            async with asyncio.timeout(seconds):
                return await answer
        except (TimeoutError, ConnectionError):
            message = f"another process of this service does not answer '{question}'; try again"
            raise Unavailable(message, code="worker_unavailable") from None
        except AnswerFailed:
            message = f"another process of this service failed to answer '{question}'; its log says why"
            raise Unavailable(message, code="worker_unavailable") from None
        finally:
            del self._answers[number]

    async def _answer(self, number: int, question: str, argument: Any) -> None:
        handler = self.handlers.get(question)
        try:
            answer = _to_line(number, await handler(argument) if handler else None)
        except Exception:
            log.exception("cannot answer '%s' of another process", question)
            answer = _to_line(number)
        with suppress(ConnectionError):
            self._write(answer)

    def _write(self, line: bytes) -> None:
        if self._writer is None:
            raise ConnectionError
        self._writer.write(line)


def _to_line(*message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


async def connect_supervisor(descriptor: int) -> WorkerPeer:
    """Connects a worker to its supervisor by its end of their socket pair, a file descriptor.

    If the supervisor dies, the worker gets SIGTERM.
    """
    supervisor = WorkerPeer({})
    await supervisor.connect(socket.socket(fileno=descriptor))

    def end(closed: asyncio.Task[None]) -> None:
        if not closed.cancelled():
            log.warning("the supervisor has ended; this worker drains and ends")
            os.kill(os.getpid(), signal.SIGTERM)

    supervisor.reading.add_done_callback(end)
    return supervisor


@dataclass(slots=True)
class Worker:
    """A numbered worker of a service: its current process, which a new process replaces after a death."""

    number: int
    process: asyncio.subprocess.Process | None = None
    peer: WorkerPeer = field(default_factory=lambda: WorkerPeer({}))
    serves: bool = False
    restarts: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def signal(self, which: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(which)


class Supervisor:
    """Runs a program as several worker processes."""

    def __init__(
        self,
        program: Sequence[str],
        environment: Mapping[str, str],
        workers: int,
        on_death: Callable[[Worker], None],
        backoff: Backoff = Backoff(),  # noqa: B008  # it is frozen
    ) -> None:
        """Takes the command line `program`, to which the options of a worker are added, and the number of workers.

        `on_death` is called when a worker has ended, before it is replaced.
        """
        self.workers = [Worker(number) for number in range(1, workers + 1)]
        self.handlers: dict[str, Handler] = {}
        """Handlers of the workers' questions, by the question's name."""
        self._program, self._environment = program, environment
        self._on_death, self._backoff = on_death, backoff
        self._stopping = asyncio.Event()
        self._signal = signal.SIGTERM
        self._have_started = False
        self._failed = False

    async def run(self, stopping: Awaitable[signal.Signals], kill_after: float) -> int:
        """Runs the workers until `stopping` returns a signal, which is passed on.

        Returns the exit status: 1 if a worker failed at its start or its end, or had to be killed, else 0.

        After `kill_after` seconds the remaining workers are killed. If a worker dies before all have started for the
        first time, the others are stopped: its error is likely to affect all workers, and is in its log.
        """
        tasks = [asyncio.create_task(self._keep(worker)) for worker in self.workers]
        signalled, failed = asyncio.ensure_future(stopping), asyncio.create_task(self._stopping.wait())
        await asyncio.wait([signalled, failed], return_when=asyncio.FIRST_COMPLETED)
        if signalled.done():
            self._signal = signalled.result()
        self._stop()
        _, late = await asyncio.wait(tasks, timeout=kill_after)
        if late:
            log.error("%d workers did not end within %g s and are killed", len(late), kill_after)
            self._signal = signal.SIGKILL
            self._stop()
            await asyncio.wait(late)
        for task in (signalled, failed):
            task.cancel()
        return 1 if self._failed or late else 0

    async def ask_all(self, question: str) -> list[tuple[Worker, Any]]:
        """Returns the answers of the serving workers, without those that fail to answer in time."""
        workers = [worker for worker in self.workers if worker.serves]
        answers = await asyncio.gather(*[worker.peer.ask(question) for worker in workers], return_exceptions=True)
        return [
            (worker, answer)
            for worker, answer in zip(workers, answers, strict=True)
            if answer is not None and not isinstance(answer, BaseException)
        ]

    def _stop(self) -> None:
        self._stopping.set()
        for worker in self.workers:
            worker.signal(self._signal)

    async def _keep(self, worker: Worker) -> None:
        delay = 0.0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run_once(worker)
            worker.serves = False
            self._on_death(worker)
            if self._stopping.is_set():
                self._failed |= code > 0
                return
            if not self._have_started:
                log.error("worker %d ended with status %d before it was ready", worker.number, code)
                self._failed = True
                self._stopping.set()
                return
            delay = self._backoff.after(delay, time.monotonic() - started)
            worker.restarts += 1
            log.error("worker %d ended with status %d; it is replaced in %g s", worker.number, code, delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run_once(self, worker: Worker) -> int:
        """Starts the worker's process and returns its exit status, negative for a signal."""
        ours, theirs = socket.socketpair()

        async def serving(_: Any) -> None:
            worker.serves = True
            self._have_started |= all(one.serves for one in self.workers)
            log.info("worker %d serves (pid %d)", worker.number, worker.pid)

        with theirs:
            option = (WORKER_OPTION, str(worker.number), str(theirs.fileno()))
            worker.process = await asyncio.create_subprocess_exec(
                *self._program,
                *option,
                env=self._environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C at the terminal reaches the supervisor only, which passes it on
            )
        worker.peer = WorkerPeer({**self.handlers, "serving": serving})
        await worker.peer.connect(ours)
        if self._stopping.is_set():
            worker.signal(self._signal)
        code = await worker.process.wait()
        worker.peer.reading.cancel()
        await asyncio.wait([worker.peer.reading])
        return code
