"""Keeps the engine running: starts it, waits until it answers, and restarts it if it dies, hangs or gives corrupted
answers.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable

from pointsman_servicekit.errors import Unavailable

from pointsman_lora_server.domain import EngineStatus
from pointsman_lora_server.engine.command import EngineCommand
from pointsman_lora_server.engine.completion import EngineCorrupted, Probe
from pointsman_lora_server.engine.process import EngineProcess
from pointsman_lora_server.engine.vllm_client import VllmClient
from pointsman_lora_server.engine_state import EngineStateStore

log = logging.getLogger(__name__)

START_POLL_SECONDS = 0.25
HEALTH_CHECK_SECONDS = 5.0
PROBE_INTERVAL_SECONDS = 30.0
MAX_START_SECONDS = 3600.0
"""Seconds without an answer after which a starting engine counts as hanging. Reading 140 GB over a network takes 15
minutes."""
MAX_SILENT_SECONDS = 60.0
"""Seconds without an answer after which a running engine counts as hanging. On a busy CPU, an answer can take long."""
SHUTDOWN_SECONDS = 20.0
"""The longest time, in seconds, to wait on shutdown for requests in flight, before the engine is sent SIGTERM."""
MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 60.0
STABLE_SECONDS = 60.0
"""If the engine was ready for longer than this many seconds, the wait before its restart starts at
`MIN_BACKOFF_SECONDS` again."""


class Supervisor:
    """Runs the engine as a child process, restarts it when it ends, and publishes its status and the number of its
    starts (`life`).

    Implements `EngineMonitor`.
    """

    def __init__(
        self,
        *,
        next_command: Callable[[], EngineCommand],
        listen: str,
        client: VllmClient,
        engine_state: EngineStateStore,
        probe: Probe,
        probe_interval: float = PROBE_INTERVAL_SECONDS,
        shutdown_seconds: float = SHUTDOWN_SECONDS,
        max_start_seconds: float = MAX_START_SECONDS,
    ) -> None:
        """`next_command` is called before each start of the engine and returns its command. `listen` is the engine's
        address, HOST:PORT.

        The base model is probed every `probe_interval` seconds. On shutdown, requests in flight may take up to
        `shutdown_seconds`. A start that takes longer than `max_start_seconds` counts as hanging.
        """
        self._shutdown_seconds = shutdown_seconds
        self._max_start_seconds = max_start_seconds
        self._next_command = next_command
        self._listen = listen
        self._client = client
        self._engine_state = engine_state
        self._probe = probe
        self._probe_interval = probe_interval
        self._process: EngineProcess | None = None
        self._restart_reason = ""

    async def run(self) -> None:
        """Keeps the engine running until cancelled, then stops it.

        Before stopping the engine, it waits up to `shutdown_seconds` until no requests are in flight.
        """
        backoff = MIN_BACKOFF_SECONDS
        try:
            while True:
                uptime, reason = await self._run_once()
                backoff = MIN_BACKOFF_SECONDS if uptime > STABLE_SECONDS else min(2 * backoff, MAX_BACKOFF_SECONDS)
                detail = f"{reason}; restarts in {backoff:g} s"
                log.error("the engine is down: %s", detail)
                self._engine_state.update(status=EngineStatus.DOWN, detail=detail)
                await asyncio.sleep(backoff)
        finally:
            self._engine_state.update(status=EngineStatus.DOWN, detail="stopping")
            if self._process:
                await self._wait_for_requests()
                await self._process.stop()
                log.info("the engine has stopped")

    async def _wait_for_requests(self) -> None:
        """Waits until no request is in flight, the engine does not answer, or the shutdown time limit has passed."""
        try:
            async with asyncio.timeout(self._shutdown_seconds):
                while await self._client.count_in_flight():  # noqa: ASYNC110  # another process
                    await asyncio.sleep(START_POLL_SECONDS)
        except TimeoutError:
            log.warning(
                "the engine is stopped although requests are in flight: %g s were not enough", self._shutdown_seconds
            )
        except Unavailable as error:
            log.info("the engine is stopped without waiting for requests; it does not answer: %s", error.message)

    def restart(self, reason: str) -> None:
        """Kills the engine now, and publishes it as DOWN with `reason` as the status text; `run` then starts it
        again.
        """
        self._restart_reason = reason
        # Published at once, not when the exit is noticed: nothing more must be loaded into this process.
        self._engine_state.update(status=EngineStatus.DOWN, detail=reason)
        if self._process:
            self._process.kill()

    async def _run_once(self) -> tuple[float, str]:
        """Starts the engine and waits until it ends; kills it if it hangs. Returns the number of seconds for which it
        was ready, and why it ended. If another process uses the engine's address, the engine is not started.
        """
        life = self._engine_state.state.life + 1
        self._engine_state.update(status=EngineStatus.STARTING, life=life, detail="vLLM is starting")
        if _is_in_use(self._listen):
            # Another server at this address would answer in place of the engine.
            return 0.0, f"{self._listen} is in use by another process"
        self._restart_reason = ""
        self._process = process = await EngineProcess.start(self._next_command())
        # Never cancelled: it reads the engine's last log lines when the process has ended.
        ended = asyncio.create_task(process.wait(), name="end of the engine")
        probe_task: asyncio.Task[None] | None = None
        up_since, last_answer = None, time.monotonic()
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=START_POLL_SECONDS if up_since is None else HEALTH_CHECK_SECONDS)
                healthy, now = await self._client.is_healthy(), time.monotonic()
                if ended.done():
                    break
                if healthy:
                    last_answer = now
                    if up_since is None and await self._start_probe():
                        up_since = now
                        log.info("the engine is ready")
                        self._engine_state.update(status=EngineStatus.READY, detail="ready")
                        probe_task = asyncio.create_task(self._probe_periodically(), name="probe")
                elif up_since is None:
                    self._engine_state.update(detail=f"vLLM is starting, {int(now - last_answer) // 5 * 5} s")
                if now - last_answer > (self._max_start_seconds if up_since is None else MAX_SILENT_SECONDS):
                    process.kill()
                    await ended
                    return 0.0 if up_since is None else now - up_since, f"no answer for {now - last_answer:.0f} s"
        finally:
            if probe_task:
                probe_task.cancel()
        uptime = 0.0 if up_since is None else time.monotonic() - up_since
        exit_reason = f"it ended with exit code {ended.result()}: {process.last_error_line()}"
        return uptime, self._restart_reason or exit_reason

    async def _start_probe(self) -> bool:
        """Returns whether the base model answers as expected and no restart was requested meanwhile. If the base model
        gives a wrong answer, the engine is restarted.
        """
        try:
            await self._probe.start()
        except EngineCorrupted as error:
            self.restart(error.message)
            return False
        except Unavailable:
            return False
        return not self._restart_reason

    async def _probe_periodically(self) -> None:
        """Probes the base model at regular intervals, until a restart of this run of the engine was requested."""
        while not self._restart_reason:
            await asyncio.sleep(self._probe_interval)
            try:
                await self._probe.check()
            except EngineCorrupted as error:
                log.error("the engine is corrupted: %s", error.message)
                self.restart(error.message)
            except Unavailable as error:
                log.warning("the base model cannot be probed: %s", error.message)


def _is_in_use(listen: str) -> bool:
    host, _, port = listen.rpartition(":")
    with socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError:
            return True
    return False
