"""Keeps the engine alive: starts it, waits until it answers rightly, and starts it again when it has died or hangs."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_lora_server.board import EngineStateStore
from pointsman_lora_server.domain import EngineStatus
from pointsman_lora_server.engine.command import EngineCommand
from pointsman_lora_server.engine.probe import Poisoned
from pointsman_lora_server.engine.process import EngineProcess

log = logging.getLogger(__name__)

LOOK = 0.25  # seconds between two looks at an engine that starts
CARE = 5.0  # and at one that is up
PROBING = 30.0  # seconds between two questions to its base model
PATIENCE_AT_START = 900.0  # seconds until a start counts as hanging: a large model takes minutes to load
PATIENCE = 60.0  # seconds of silence until an engine that was up counts as hanging; on a busy CPU a look can take long
DRAIN = 20.0  # seconds that answers in flight get before the engine is told to stop
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 60.0
LONG_ENOUGH = 60.0  # seconds up after which a death is a new one, not the last one again


class Health(Protocol):
    async def is_healthy(self) -> bool: ...
    async def in_flight(self) -> int: ...


class BaseModel(Protocol):
    """`Probe` says what each raises."""

    async def begin(self) -> None: ...
    async def check(self) -> None: ...


class Supervisor:
    """Writes the engine's part of the board; `run` is its whole life."""

    def __init__(
        self,
        next_life: Callable[[], EngineCommand],
        listen: str,
        health: Health,
        board: EngineStateStore,
        base_model: BaseModel,
        probing: float = PROBING,
        drain: float = DRAIN,
    ) -> None:
        """`next_life` makes the command of each; `probing` is the time between two probes, in seconds.

        `drain`: seconds that answers in flight get to finish before the engine is told to stop.
        """
        self._drain = drain
        self._next_life = next_life
        self._listen = listen
        self._health = health
        self._board = board
        self._base_model = base_model
        self._probing = probing
        self._process: EngineProcess | None = None
        self._wish = ""  # why we ended this life ourselves

    async def run(self) -> None:
        """Until cancelled; then the engine is stopped gracefully."""
        backoff = FIRST_BACKOFF
        try:
            while True:
                up_for, why = await self._one_life()
                backoff = FIRST_BACKOFF if up_for > LONG_ENOUGH else min(2 * backoff, LONGEST_BACKOFF)
                detail = f"{why}; starts again in {backoff:g} s"
                log.error("the engine is down: %s", detail)
                self._board.update(status=EngineStatus.DOWN, detail=detail)
                await asyncio.sleep(backoff)
        finally:
            self._board.update(status=EngineStatus.DOWN, detail="stops")
            if self._process:
                await self._emptied()
                await self._process.stop()
                log.info("the engine has stopped")

    async def _emptied(self) -> None:
        """Returns once the engine has ended what it had begun, or cannot be asked, or the time for that is over."""
        try:
            async with asyncio.timeout(self._drain):
                while await self._health.in_flight():  # noqa: ASYNC110  # another process
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            log.warning("the engine is stopped in the middle of answers: %g s were not enough", self._drain)
        except Unavailable as error:
            log.info("the engine is stopped; it was not heard: %s", error.message)

    def restart(self, why: str) -> None:
        """Ends this life of the engine now; the next begins by itself."""
        self._wish = why
        # At once, and not when the end is noticed: nothing more must be loaded into this life.
        self._board.update(status=EngineStatus.DOWN, detail=why)
        if self._process:
            self._process.kill()

    async def _one_life(self) -> tuple[float, str]:
        """Returns how long it was up, in seconds, and why it ended."""
        life = self._board.state.life + 1
        self._board.update(status=EngineStatus.STARTING, life=life, detail="vLLM is starting")
        if _is_taken(self._listen):
            # Another server there would answer our questions in the engine's place.
            return 0.0, f"{self._listen} is taken by another process"
        self._wish = ""
        self._process = process = await EngineProcess.start(self._next_life())
        # Never cancelled: its end is sure to come, and with it the reading of what the engine last said.
        ended = asyncio.create_task(process.wait(), name="engine's end")
        probing: asyncio.Task[None] | None = None
        up_since, silent_since = None, time.monotonic()
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=LOOK if up_since is None else CARE)
                healthy, now = await self._health.is_healthy(), time.monotonic()
                if ended.done():
                    break
                if healthy:
                    silent_since = now
                    if up_since is None and await self._answers_rightly():
                        up_since = now
                        log.info("the engine is ready")
                        self._board.update(status=EngineStatus.READY, detail="ready")
                        probing = asyncio.create_task(self._probe(), name="probe")
                elif up_since is None:
                    self._board.update(detail=f"vLLM is starting, {int(now - silent_since) // 5 * 5} s")
                if now - silent_since > (PATIENCE_AT_START if up_since is None else PATIENCE):
                    process.kill()
                    await ended
                    return 0.0 if up_since is None else now - up_since, f"no answer for {now - silent_since:.0f} s"
        finally:
            if probing:
                probing.cancel()
        up_for = 0.0 if up_since is None else time.monotonic() - up_since
        return up_for, self._wish or f"it ended with exit code {ended.result()}: {process.last_words()}"

    async def _answers_rightly(self) -> bool:
        try:
            await self._base_model.begin()
        except Poisoned as error:
            self.restart(error.message)
            return False
        except Unavailable:
            return False
        return not self._wish

    async def _probe(self) -> None:
        """Ends with the life of the engine that it is for."""
        while not self._wish:
            await asyncio.sleep(self._probing)
            try:
                await self._base_model.check()
            except Poisoned as error:
                log.error("the engine is poisoned: %s", error.message)
                self.restart(error.message)
            except Unavailable as error:
                log.warning("the base model was not heard: %s", error.message)


def _is_taken(listen: str) -> bool:
    host, _, port = listen.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return True
    return False
