"""Runs several processes of one service, the workers, on the same ports.

A supervisor process starts the workers, replaces workers that die, and stops all of them. A socket pair connects the
supervisor to each worker; both may ask questions on it: named requests with an argument in JSON. If one process dies,
the other notices at once: the supervisor replaces a dead worker, and a worker without a supervisor drains and exits.
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
"""The option of a worker, followed by its number (from 1) and the file descriptor of its end of the socket pair."""
ANSWER_TIMEOUT_SECONDS = 2.0
"""Default seconds for which a process waits for the other process's answer to its question."""
MERGED_ANSWER_TIMEOUT_SECONDS = 5.0
"""Seconds in which the supervisor must answer a question for which it has to ask all workers."""
MAX_LINE_BYTES = 64 * 1024 * 1024

Handler = Callable[[Any], Awaitable[Any]]


class AnswerFailed(Exception):
    """Raised in this module if the handler of a question raised an exception in the other process."""


class WorkerPeer:
    """The process at the other end of a socket pair: asks it questions, and answers its questions.

    Messages are lines of JSON: [id, question, argument], [id, answer], or [id] if the question's handler failed.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        """Takes the `handlers` of the questions that the other process may ask: name of the question -> function that
        answers it.
        """
        self.handlers = dict(handlers)
        self.reading: asyncio.Task[None]
        """The task, started by `connect`, that reads messages until the other process closes the connection."""
        self._writer: asyncio.StreamWriter | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._ids = count()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self, end: socket.socket) -> None:
        """Takes this process's end of the socket pair, and starts the task that answers the other process's
        questions.
        """
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
        """Asks the other process a question; returns the answer, which is None also if there is no handler for the
        question.

        Raises Unavailable ("worker_unavailable") if the handler raised an exception, if the connection is or gets
        closed, or if no answer arrives within `seconds`.
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
    """Connects a worker to its supervisor; `descriptor` is the worker's end of their socket pair.

    If the supervisor closes its end, for example because it dies, this process sends itself SIGTERM.
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
    """A worker from the supervisor's view: a number, and the process that has this number now.

    When the process dies, a new process gets the number. `restarts` counts these replacements; `serves` says whether
    the process has reported that it is ready.
    """

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
    """Runs a program as several worker processes, and asks them questions."""

    def __init__(
        self,
        program: Sequence[str],
        environment: Mapping[str, str],
        workers: int,
        on_death: Callable[[Worker], None],
        backoff: Backoff = Backoff(),  # noqa: B008  # it is frozen
    ) -> None:
        """Takes the command line `program`, to which `WORKER_OPTION` is added, and the number of `workers`.

        `environment` are the processes' environment variables. `on_death` is called when a worker's process has ended.
        `backoff` says how long to wait before a dead process is replaced.
        """
        self.workers = [Worker(number) for number in range(1, workers + 1)]
        self.handlers: dict[str, Handler] = {}
        """Functions that answer questions of the workers, by the question's name; set them before `run`."""
        self._program, self._environment = program, environment
        self._on_death, self._backoff = on_death, backoff
        self._stopping = asyncio.Event()
        self._signal = signal.SIGTERM
        self._have_started = False
        self._failed = False

    async def run(self, stopping: Awaitable[signal.Signals], kill_after: float) -> int:
        """Runs the workers until `stopping` returns a signal, and sends them this signal.

        Workers that still run `kill_after` seconds later are killed. If a worker ends before all have served for the
        first time, the other workers get SIGTERM, since the error that ended it is likely to affect all of them.

        Returns 1 if a worker had to be killed, ended before all had served, or ended with a positive status after the
        signal; else 0.
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
        """Asks all workers that serve, at the same time; returns each worker with its answer.

        Leaves out a worker that does not answer within `ANSWER_TIMEOUT_SECONDS`, whose handler raises an exception, or
        whose answer is None.
        """
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
        """Runs one process of the worker to its end; returns its exit status, negative if a signal ended it."""
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
