"""The jobs in line: one runs, the others wait; what was begun goes on after a kill, of the trainer or of us."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, PointsmanError, ResourceExhausted

from pointsman_lora_server.jobs import orders, registering, running
from pointsman_lora_server.jobs.folder import JobFolder
from pointsman_lora_server.jobs.job import Find, Job, JobEnvironment, JobRequest, JobState, Register
from pointsman_lora_server.jobs.running import TrainerExit
from pointsman_lora_server.jobs.trainer import Trainer

log = logging.getLogger(__name__)

MOST_WAITING = 16
MOST_ENDED = 50
"""Jobs that have ended and are kept; the oldest go first."""
PAUSE = 5.0
"""Seconds."""
MOST_RESUMED = 3
"""Kills that a job may survive: what is killed each time is too big for the machine."""


class JobQueue:
    def __init__(self, place: JobEnvironment, register: Register, find: Find) -> None:
        self._place = place
        self._register = register
        self._find = find
        self._jobs: dict[str, Job] = {}  # in the order they were started
        self._arrivals = 0  # jobs that are being made
        self._changed = asyncio.Event()  # another one after each change
        self._trainer: tuple[str, Trainer] | None = None
        self._registering = ""
        self._cancelled: set[str] = set()
        self._closed = False
        self._read()

    async def run(self) -> None:
        """Until cancelled; then the running job is stopped, and goes on at the next start."""
        while True:
            await self._wait_for(lambda: self._first() is not None)
            if job := self._first():
                try:
                    await self._run(job)
                except Exception as error:  # such as a full disk: it may have room again
                    log.exception("%s cannot be dealt with now", job.id, exc_info=error)
                    await asyncio.sleep(PAUSE)

    async def start(self, order: JobRequest) -> Job:
        """Raises InvalidArgument; ResourceExhausted where too many wait."""
        await asyncio.to_thread(orders.check, order, self._place.roots)
        with self._arriving():
            if order.parent:
                await self._find(order.parent)
            job = await self._made(order)
            self._put(job)
        return job

    def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        if job_id not in self._jobs:
            raise NotFound(f"there is no training job '{job_id}' here", code="unknown_job", param="id")
        return self._jobs[job_id]

    def list(self, name: str) -> list[Job]:
        """Of one adapter's name, or all; the newest first."""
        return [job for job in reversed(self._jobs.values()) if name in ("", job.order.name)]

    async def cancel(self, job_id: str) -> Job:
        """Returns once it has ended. Raises NotFound; FailedPrecondition while it is being registered."""
        job = self.get(job_id)
        if self._registering == job_id:
            raise FailedPrecondition(f"'{job_id}' is trained, and is being registered", code="too_late", param="id")
        if job.state is JobState.QUEUED:
            self._end(job, JobState.CANCELLED)
        elif job.state is JobState.RUNNING:
            self._cancelled.add(job_id)
            if self._trainer and self._trainer[0] == job_id:
                self._trainer[1].stop()
            await self._wait_for(lambda: self._closed or self._has_ended(job_id))
        return self.get(job_id)

    async def watch(self, job_id: str, first: int) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """Its events from number `first` on, with their numbers; ends with the job, or when this server stops."""
        self.get(job_id)
        folder, offset, number = self._folder(job_id), 0, 0
        while True:
            ended, changed = self._closed or self._has_ended(job_id), self._changed
            for behind, event in folder.events(offset):
                if number >= first:
                    yield number, event
                number, offset = number + 1, behind
            if ended:
                return
            await changed.wait()

    def close(self) -> None:
        """Ends the watches."""
        self._closed = True
        self._wake()

    @contextmanager
    def _arriving(self) -> Iterator[None]:
        """Holds a place in line for a job that is being made. Raises ResourceExhausted where none is free."""
        waiting = self._arrivals + sum(job.state is JobState.QUEUED for job in self._jobs.values())
        if waiting >= MOST_WAITING:
            raise ResourceExhausted(
                f"{waiting} training jobs wait in line already; cancel one, or try again later", code="too_many_jobs"
            )
        self._arrivals += 1
        try:
            yield
        finally:
            self._arrivals -= 1

    async def _made(self, order: JobRequest) -> Job:
        """With its folder. Raises InvalidArgument."""
        now = time.time()
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dt%H%M%S")
        job = Job(f"{order.name}-{stamp}-{secrets.token_hex(3)}", order, JobState.QUEUED, int(now * 1000))
        folder = self._folder(job.id)
        try:
            return await asyncio.to_thread(folder.make, job)
        except OSError as error:
            folder.remove()
            raise InvalidArgument(
                f"the job's files cannot be copied: {error}", code="bad_path", param="data"
            ) from error

    def _first(self) -> Job | None:
        return next((job for job in self._jobs.values() if not job.state.has_ended), None)

    async def _run(self, job: Job) -> None:
        folder = self._folder(job.id)
        job = replace(job, state=JobState.RUNNING, started_unix_ms=job.started_unix_ms or _now())
        self._put(job)
        try:
            while folder.last("done") is None:
                ended = await self._train(job, folder)
                if job.id in self._cancelled:
                    return self._end(job, JobState.CANCELLED)
                if ended.was_killed:
                    job = replace(job, resumed=job.resumed + 1)
                    if job.resumed > MOST_RESUMED:
                        return self._end(job, JobState.FAILED, error=_killed_too_often(job))
                    self._put(job)
                elif ended.code != 0:
                    return self._end(job, JobState.FAILED, error=ended.error)
            await self._hand_over(job, folder)
        except asyncio.CancelledError:
            self._save(replace(job, state=JobState.QUEUED))
            raise
        except PointsmanError as error:
            self._end(job, JobState.FAILED, error=registering.in_words(error, folder))
        except Exception as error:  # of one job: the others shall have their turn
            log.exception("%s failed", job.id, exc_info=error)
            self._end(job, JobState.FAILED, error=f"internal error: {error}")
        return None

    async def _train(self, job: Job, folder: JobFolder) -> TrainerExit:
        parent = await self._find(job.order.parent) if job.order.parent else None
        process = await running.start(self._place, folder, job, parent)
        self._trainer = (job.id, process)
        if job.id in self._cancelled:  # while it was being started
            process.stop()
        try:
            return await running.to_end(process, folder, lambda event: self._tell(job.id, event), self._wake)
        finally:
            self._trainer = None

    async def _hand_over(self, job: Job, folder: JobFolder) -> None:
        done = folder.last("done") or {}
        if done.get("merged"):
            return self._end(job, JobState.SUCCEEDED, merged=str(done["merged"]))
        self._registering = job.id
        try:
            version = await registering.register(job, folder, self._register)
        finally:
            self._registering = ""
        return self._end(job, JobState.SUCCEEDED, version=version)

    def _end(self, job: Job, state: JobState, **facts: Any) -> None:
        self._cancelled.discard(job.id)
        self._folder(job.id).drop_checkpoint()
        self._put(replace(job, state=state, ended_unix_ms=_now(), **facts))
        ended = sorted(
            (found for found in self._jobs.values() if found.state.has_ended), key=lambda found: found.ended_unix_ms
        )
        for old in ended[: max(0, len(ended) - MOST_ENDED)]:
            del self._jobs[old.id]
            self._folder(old.id).remove()

    def _put(self, job: Job) -> None:
        self._save(job)
        self._wake()

    def _save(self, job: Job) -> None:
        self._jobs[job.id] = job
        folder = self._folder(job.id)
        facts = {"error": job.error, "resumed": job.resumed, "version": job.version, "merged": job.merged}
        folder.append(
            {"event": "state", "state": job.state.value} | {key: value for key, value in facts.items() if value}
        )
        folder.write(job)

    def _tell(self, job_id: str, event: Any) -> None:
        self._folder(job_id).append(event)
        self._wake()

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _has_ended(self, job_id: str) -> bool:
        """Or is no more."""
        return job_id not in self._jobs or self._jobs[job_id].state.has_ended

    def _folder(self, job_id: str) -> JobFolder:
        return JobFolder(self._place.folder.absolute() / job_id)

    def _read(self) -> None:
        """What an earlier life left: a job that was running then was killed, and goes on."""
        found: list[Job] = []
        for path in sorted(self._place.folder.glob("*/job.json")):
            folder = JobFolder(path.parent.absolute())
            try:
                job = folder.read()
            except (OSError, ValueError) as error:
                log.error("%s is left alone: %s", path, error)
                continue
            folder.mend()
            found.append(job)
        for job in sorted(found, key=lambda job: job.created_unix_ms):
            self._jobs[job.id] = job
            if job.state is JobState.RUNNING:
                self._revive(replace(job, resumed=job.resumed + 1))

    def _revive(self, job: Job) -> None:
        if job.resumed > MOST_RESUMED:
            self._save(replace(job, state=JobState.FAILED, ended_unix_ms=_now(), error=_killed_too_often(job)))
        else:
            self._save(replace(job, state=JobState.QUEUED))


def _killed_too_often(job: Job) -> str:
    return f"it was killed {job.resumed} times, the last time for good; too little memory is the usual cause"


def _now() -> int:
    return int(time.time() * 1000)
