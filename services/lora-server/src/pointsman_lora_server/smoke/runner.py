"""Runs smoke tests in a worker process, which is started when a test needs it and ended when it is idle."""

import asyncio
import json
import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pointsman_servicekit.errors import InvalidArgument, Unavailable

import pointsman_lora_server
from pointsman_lora_server.checks.attachments import Sample
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.smoke.cpu_share import CpuShare
from pointsman_lora_server.smoke.reference import Reference, check_trial

log = logging.getLogger(__name__)

WORKER_MODULE = "pointsman_lora_server.smoke.worker"
MAX_LINE_BYTES = 16 << 20
FINAL_OUTPUT_SECONDS = 2.0
"""The longest time, in seconds, to read what the worker wrote to stderr just before it ended."""

# This package is put behind the environment's own packages, so that only what is missing there is taken from here.
_START = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module({module!r}, run_name='__main__')"


_NOT_INHERITED_PREFIXES = ("POINTSMAN_", "AWS_", "AZURE_", "GOOGLE_", "FSSPEC_")
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "HF_TOKEN")
"""Environment variables that the worker must not inherit, because it opens untested adapters."""


@dataclass(frozen=True, slots=True)
class SmokeLimits:
    """The size of a smoke test, and its time limits."""

    prompts: int = 4
    """The largest number of prompts that are answered."""
    max_tokens: int = 8
    """The largest number of tokens in each answer."""
    idle_seconds: float = 60.0
    """The worker process is ended after this many seconds without a test. Starting it again takes about 10 s."""
    start_seconds: float = 300.0
    """The longest time, in seconds, in which the worker must load the base model. Time in which it waits for a core is
    not counted.

    Loading takes about 10 s of one core."""
    trial_seconds: float = 600.0
    """The longest time, in seconds, that one test may take. Time in which the worker waits for a core is not counted.

    A test takes about 2 s of one core with a model of 135 million parameters."""
    cpu_share: float = 0.1
    """The fraction of one core that the worker may use while other processes use more than half of the machine's
    cores."""


class WorkerDied(Exception):
    """The worker process ended without an answer, or was killed because it exceeded its time limit."""


class SmokeWorker:
    """The client of a smoke test's worker process (see `worker.py`), which handles one request at a time."""

    def __init__(self, process: asyncio.subprocess.Process, cpu_share: float) -> None:
        self._process = process
        self._share = CpuShare(process.pid, cpu_share)
        self._throttle = asyncio.create_task(self._share.enforce(), name="smoke worker's share")
        self._lines: deque[str] = deque(maxlen=20)
        self._log_reader = asyncio.create_task(self._read_log(), name="smoke worker log")

    @classmethod
    async def start(cls, command: Sequence[str], cpu_share: float) -> "SmokeWorker":
        """Starts the worker process with a limit on its CPU time (`SmokeLimits.cpu_share`). The worker's first message,
        which `receive` returns, says whether it is ready.

        Raises OSError if the program cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            env=_environment(os.environ),
        )
        return cls(process, cpu_share)

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    async def send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        with suppress(ConnectionError):  # it has ended; `receive` reports that
            await self._process.stdin.drain()

    async def receive(self, seconds: float) -> dict[str, Any]:
        """Returns the next message from the worker.

        If there is none within `seconds`, or the worker has ended, kills the worker and raises WorkerDied. Time in
        which the worker waits for a core is not counted.
        """
        assert self._process.stdout
        loop, waited_before = asyncio.get_running_loop(), self._share.waited_seconds
        deadline = loop.time() + seconds
        reading = asyncio.create_task(self._process.stdout.readline())
        try:
            while not reading.done():
                waited = self._share.waited_seconds - waited_before
                left = deadline + waited - loop.time()
                if left <= 0:
                    await self.end()
                    raise WorkerDied(
                        f"no answer within {seconds:g} s, not counting {waited:.0f} s in which it left the cores to "
                        "other processes (POINTSMAN_LORA_SMOKE_TEST_CPU_SHARE)"
                    )
                await asyncio.wait({reading}, timeout=left)
        finally:
            reading.cancel()
        line = reading.result()
        if not line.endswith(b"\n"):
            await self.end()
            raise WorkerDied(f"it ended with exit code {self._process.returncode}: {self._last_error_line()}")
        message: dict[str, Any] = json.loads(line)
        return message

    async def end(self) -> None:
        self._throttle.cancel()
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await asyncio.wait({self._log_reader}, timeout=FINAL_OUTPUT_SECONDS)
        self._log_reader.cancel()
        if self._process.stdin:
            self._process.stdin.close()

    def _last_error_line(self) -> str:
        lines = [line for line in self._lines if line]
        errors = [line for line in lines if "Error" in line]
        return (errors or lines or [""])[-1][:300]

    async def _read_log(self) -> None:
        assert self._process.stderr
        with suppress(ValueError):  # a line longer than the limit
            async for line in self._process.stderr:
                self._lines.append(line.decode(errors="replace").rstrip())
                log.debug("smoke test: %s", self._lines[-1])


class PeftSmokeTest:
    """Runs smoke tests with PEFT in a worker process, one at a time; implements `SmokeTest`."""

    def __init__(
        self, python: Path, base_model: Path, limits: SmokeLimits = SmokeLimits(), *, command: Sequence[str] = ()
    ) -> None:
        """`python` is the Python interpreter of the engine's environment, and `base_model` the base model's folder. No
        process is started yet.

        `command` replaces the worker's command line in tests; if it is empty, `python` runs `worker.py`.
        """
        self._command = tuple(command) or worker_command(python, WORKER_MODULE, str(base_model.resolve()))
        self._limits = limits
        self._worker: SmokeWorker | None = None
        self._lock = asyncio.Lock()
        self._idle_task: asyncio.Task[None] | None = None
        self._closed = False

    async def run(self, version: AdapterVersion, folder: Path, samples: Sequence[Sample]) -> Reference:
        """Tests an adapter: a worker process loads it from `folder` with PEFT, and answers the prompts of `samples`, or
        default prompts if there are none. Returns the answers, with which the engine's answers are compared later.

        Only one test runs at a time; this one waits for those before it. Raises InvalidArgument if PEFT cannot load the
        adapter ("peft_refused"), its logits are not finite ("not_finite"), it has no effect ("no_effect") or it does
        not end its answers ("does_not_stop"). Raises Unavailable ("smoke_unavailable") if the worker does not start or
        dies.
        """
        request = {
            "folder": str(folder),
            "samples": [asdict(sample) for sample in samples],
            "max_prompts": self._limits.prompts,
            "max_tokens": self._limits.max_tokens,
        }
        async with self._lock:
            self._cancel_idle_task()
            try:
                started = time.monotonic()
                answer = await self._request(request)
                log.info("%s was tested with PEFT in %.1f s", version.version, time.monotonic() - started)
            finally:
                if not self._closed:
                    self._idle_task = asyncio.create_task(self._end_when_idle(), name="end of the smoke worker")
        if "rejected" in answer:
            raise InvalidArgument(
                f"PEFT itself cannot load {version.version}: {answer['rejected']}; save the adapter again with PEFT",
                code="peft_refused",
            )
        return check_trial(version.version, answer["trial"], bool(samples))

    async def close(self) -> None:
        """Ends the worker process. The test in progress and all later tests raise Unavailable."""
        self._closed = True
        self._cancel_idle_task()
        await self._end()

    @property
    def pid(self) -> int | None:
        """Returns the process id of the worker; None if the worker is not running."""
        return self._worker.pid if self._worker and self._worker.alive else None

    async def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends a request to the worker and returns its answer. If the worker dies, starts another worker once and
        sends the request again.

        Raises Unavailable if a worker cannot be started, or the second worker dies too.
        """
        for is_last in (False, True):
            try:
                worker = await self._running_worker()
                await worker.send(request)
                answer = await worker.receive(self._limits.trial_seconds)
                if "rejected" in answer:
                    await self._end()  # PEFT may have changed the base model before it failed
                return answer
            except WorkerDied as error:
                log.warning("the smoke worker: %s", error)
                await self._end()
                if is_last or self._closed:
                    raise _unavailable(f"its process died: {error}") from error
            except BaseException:
                await self._end()  # otherwise the next request would get the answer of this one
                raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _running_worker(self) -> SmokeWorker:
        """Returns the worker; starts it first if it is not running.

        Raises WorkerDied if the worker dies while it starts, and Unavailable if it cannot be started or reports that it
        cannot run tests.
        """
        if self._worker and self._worker.alive:
            return self._worker
        await self._end()
        if self._closed:
            raise _unavailable("the lora-server is stopping")
        try:
            self._worker = worker = await SmokeWorker.start(self._command, self._limits.cpu_share)
        except OSError as error:
            raise _unavailable(f"{self._command[0]} cannot be started ({error}); name the engine's python") from error
        greeting = await worker.receive(self._limits.start_seconds)
        if "unavailable" in greeting:
            raise _unavailable(greeting["unavailable"])
        return worker

    async def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker:
            await worker.end()

    async def _end_when_idle(self) -> None:
        await asyncio.sleep(self._limits.idle_seconds)
        async with self._lock:
            await self._end()

    def _cancel_idle_task(self) -> None:
        if self._idle_task:
            self._idle_task.cancel()
            self._idle_task = None


def worker_command(python: Path, module: str, *arguments: str) -> tuple[str, ...]:
    """Returns the command line that runs `module`, a module of this package, with the Python interpreter of another
    environment.
    """
    package_parent = Path(pointsman_lora_server.__file__).parents[1]
    # Not resolved: the python of a virtual environment is a link that finds its environment by its own location.
    return (str(python.absolute()), "-P", "-c", _START.format(module=module), str(package_parent), *arguments)


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Returns the worker's environment variables, derived from the lora-server's own variables `own`.

    Leaves out the lora-server's settings, credentials of object stores and of the model hub, and the paths of its
    Python. Adds variables that keep the worker offline, on one thread and without a GPU.
    """
    inherited = {
        key: value
        for key, value in own.items()
        if not key.startswith(_NOT_INHERITED_PREFIXES) and key not in _NOT_INHERITED
    }
    return inherited | {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",  # the GPU's memory belongs to the engine
        "PYTHONUNBUFFERED": "1",
    }


def _unavailable(why: str) -> Unavailable:
    return Unavailable(
        f"the version cannot be tested outside the engine: {why}. Install peft and transformers in the engine's "
        "environment (POINTSMAN_LORA_ENGINE_PYTHON), or turn the test off: POINTSMAN_LORA_SMOKE_TEST=off",
        code="smoke_unavailable",
        retry_after=30.0,
    )
