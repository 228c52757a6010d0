"""The queue of training jobs. One job runs at a time. If the trainer or this server is killed, the job is resumed, up
to `MAX_RESUMES` times.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, PointsmanError, ResourceExhausted

from pointsman_lora_server.jobs.execution import (
    TrainerExit,
    TrainerProcess,
    describe_error,
    register_result,
    start_trainer,
    wait_for_trainer,
)
from pointsman_lora_server.jobs.folder import Inputs, JobFolder, open_inputs
from pointsman_lora_server.jobs.job import (
    FindVersion,
    Job,
    JobEnvironment,
    JobRequest,
    JobState,
    RegisterAdapter,
    check_request,
)
from pointsman_lora_server.jobs.method import MethodFacts, describe_method

log = logging.getLogger(__name__)

MAX_QUEUED = 16
MAX_FINISHED = 50
"""The number of finished jobs that are kept; if there are more, the oldest are removed."""
RETRY_SECONDS = 5.0
MAX_RESUMES = 3
"""How often a job is resumed after its trainer was killed. If the trainer is killed once more, the job fails."""


class JobQueue:
    """Runs training jobs one after the other. The state of each job is stored in its folder on disk, so a later process
    can continue it.
    """

    def __init__(self, environment: JobEnvironment, register: RegisterAdapter, find_version: FindVersion) -> None:
        self._environment = environment
        self._register = register
        self._find_version = find_version
        self._jobs: dict[str, Job] = {}  # in the order in which they were created
        self._jobs_being_created = 0
        self._changed = asyncio.Event()  # replaced after each change
        self._trainer: tuple[str, TrainerProcess] | None = None
        self._registering = ""
        self._cancelled: set[str] = set()
        self._closed = False
        self._methods: dict[str, MethodFacts] = {}  # by name, those that were asked for
        self._load()

    async def run(self) -> None:
        """Runs the queued jobs one by one until cancelled.

        When cancelled, it stops the running job. The next process resumes the job, unless a client has cancelled it.
        """
        while True:
            await self._wait_for(lambda: self._next() is not None)
            if job := self._next():
                try:
                    await self._run(job)
                except Exception as error:  # for example a full disk, which may have room again later
                    log.exception("cannot run %s now", job.id, exc_info=error)
                    await asyncio.sleep(RETRY_SECONDS)

    async def create(self, request: JobRequest) -> Job:
        """Checks a request, copies its input files, and returns a new queued job.

        Raises InvalidArgument if the request or one of its files is not valid, or a file cannot be copied ("bad_path");
        ValueError if the value of an option is not a number; ResourceExhausted if `MAX_QUEUED` jobs are queued; and the
        errors of `find_version` for the parent.
        """
        check_request(request, self._environment.methods)
        with self._reserve_place(), ExitStack() as files:
            if request.parent:
                await self._find_version(request.parent)
            inputs = await asyncio.to_thread(open_inputs, request, self._environment.data_roots, files)
            job = await self._create_folder(request, inputs)
            self._put(job)
        return job

    def get(self, job_id: str) -> Job:
        """Returns a job; raises NotFound if there is no job with this id. Only the last `MAX_FINISHED` finished jobs
        are kept.
        """
        if job_id not in self._jobs:
            raise NotFound(f"there is no training job '{job_id}' here", code="unknown_job", param="id")
        return self._jobs[job_id]

    def list(self, name: str) -> list[Job]:
        """Returns the jobs of the adapter `name`, or all jobs if `name` is empty, newest first."""
        return [job for job in reversed(self._jobs.values()) if name in ("", job.request.name)]

    async def describe_method(self, name: str) -> MethodFacts:
        """Returns the properties of the training method `name`.

        Raises InvalidArgument ("bad_method") if the method is unknown, and FailedPrecondition ("bad_method") if it
        cannot be loaded.
        """
        if name not in self._methods:
            self._methods[name] = await describe_method(self._environment, name)
        return self._methods[name]

    async def cancel(self, job_id: str) -> Job:
        """Cancels a job and returns it. A job that has ended is not changed.

        A running job is stopped; the call returns when the job has ended, or `close` is called. Raises NotFound if
        there is no such job, and FailedPrecondition ("too_late") while the job's result is being registered.
        """
        job = self.get(job_id)
        if self._registering == job_id:
            raise FailedPrecondition(
                f"'{job_id}' is trained, and its adapter is being registered", code="too_late", param="id"
            )
        if job.state is JobState.QUEUED:
            self._finish(job, JobState.CANCELLED)
        elif job.state is JobState.RUNNING:
            self._cancelled.add(job_id)
            if self._trainer and self._trainer[0] == job_id:
                self._trainer[1].stop()
            await self._wait_for(lambda: self._closed or self._is_finished(job_id))
        return self.get(job_id)

    async def watch(self, job_id: str, first: int) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """Yields (number, event) for each event of the job from number `first` on, until the job has ended or `close`
        is called.

        Events are numbered from 0. The key "event" of an event is its kind. Raises NotFound if there is no such job.
        """
        self.get(job_id)
        folder, offset, number = self._folder(job_id), 0, 0
        while True:
            is_finished, changed = self._closed or self._is_finished(job_id), self._changed
            for next_offset, event in folder.events(offset):
                if number >= first:
                    yield number, event
                number, offset = number + 1, next_offset
            if is_finished:
                return
            await changed.wait()

    def close(self) -> None:
        """Ends all calls of `watch`, and the waiting in calls of `cancel`."""
        self._closed = True
        self._notify()

    @contextmanager
    def _reserve_place(self) -> Iterator[None]:
        """Reserves a place in the queue during the block, in which the caller adds a job. Raises ResourceExhausted if
        all `MAX_QUEUED` places are taken.
        """
        waiting = self._jobs_being_created + sum(job.state is JobState.QUEUED for job in self._jobs.values())
        if waiting >= MAX_QUEUED:
            raise ResourceExhausted(
                f"{waiting} training jobs are queued already; cancel one, or try again later", code="too_many_jobs"
            )
        self._jobs_being_created += 1
        try:
            yield
        finally:
            self._jobs_being_created -= 1

    async def _create_folder(self, request: JobRequest, inputs: Inputs) -> Job:
        """Creates a job, and its folder with copies of the inputs. Raises InvalidArgument if they cannot be copied."""
        now = time.time()
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dt%H%M%S")
        job_id = f"{request.name}-{stamp}-{secrets.token_hex(3)}"
        job = Job(job_id, request, JobState.QUEUED, int(now * 1000))
        folder = self._folder(job.id)
        try:
            return await asyncio.to_thread(folder.create, job, inputs)
        except OSError as error:
            folder.remove()
            raise InvalidArgument(
                f"the job's files cannot be copied: {error.strerror or error}", code="bad_path", param="data"
            ) from error

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if not job.state.is_final), None)

    async def _run(self, job: Job) -> None:
        folder = self._folder(job.id)
        job = replace(job, state=JobState.RUNNING, started_unix_ms=job.started_unix_ms or _now_ms())
        self._put(job)
        try:
            while folder.last("done") is None:
                result = await self._train(job, folder)
                if job.id in self._cancelled:
                    return self._finish(job, JobState.CANCELLED)
                if result.was_killed:
                    job = replace(job, resumed=job.resumed + 1)
                    if job.resumed > MAX_RESUMES:
                        return self._finish(job, JobState.FAILED, error=_killed_too_often(job))
                    self._put(job)
                elif result.code != 0:
                    return self._finish(job, JobState.FAILED, error=result.error)
            await self._register_result(job, folder)
        except asyncio.CancelledError:
            try:
                if job.id in self._cancelled:
                    self._finish(job, JobState.CANCELLED)
                else:
                    self._save(replace(job, state=JobState.QUEUED))
            except OSError as error:  # such as a full disk; raised, it would take the place of the cancellation
                log.error("the state of %s is not saved: %s", job.id, error)
            raise
        except PointsmanError as error:
            self._finish(job, JobState.FAILED, error=describe_error(error, folder))
        except Exception as error:  # one job must not stop the queue
            log.exception("%s failed", job.id, exc_info=error)
            self._finish(job, JobState.FAILED, error=f"internal error: {error}")
        return None

    async def _train(self, job: Job, folder: JobFolder) -> TrainerExit:
        parent = await self._find_version(job.request.parent) if job.request.parent else None
        trainer = await start_trainer(self._environment, folder, job, parent)
        self._trainer = (job.id, trainer)
        if job.id in self._cancelled:  # it was cancelled while the trainer was being started
            trainer.stop()
        try:
            return await wait_for_trainer(trainer, folder, lambda event: self._add_event(job.id, event), self._notify)
        finally:
            self._trainer = None

    async def _register_result(self, job: Job, folder: JobFolder) -> None:
        done = folder.last("done") or {}
        if done.get("merged"):
            return self._finish(job, JobState.SUCCEEDED, merged=str(done["merged"]))
        self._registering = job.id
        try:
            version = await register_result(job, folder, self._register)
        finally:
            self._registering = ""
        return self._finish(job, JobState.SUCCEEDED, version=version)

    def _finish(self, job: Job, state: JobState, **fields: Any) -> None:
        self._cancelled.discard(job.id)
        self._folder(job.id).remove_checkpoint()
        self._put(replace(job, state=state, ended_unix_ms=_now_ms(), **fields))
        finished = sorted(
            (each for each in self._jobs.values() if each.state.is_final), key=lambda each: each.ended_unix_ms
        )
        for old in finished[: max(0, len(finished) - MAX_FINISHED)]:
            del self._jobs[old.id]
            self._folder(old.id).remove()

    def _put(self, job: Job) -> None:
        self._save(job)
        self._notify()

    def _save(self, job: Job) -> None:
        self._jobs[job.id] = job
        folder = self._folder(job.id)
        fields = {"error": job.error, "resumed": job.resumed, "version": job.version, "merged": job.merged}
        folder.append(
            {"event": "state", "state": job.state.value} | {key: value for key, value in fields.items() if value}
        )
        folder.write(job)

    def _add_event(self, job_id: str, event: Any) -> None:
        self._folder(job_id).append(event)
        self._notify()

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _is_finished(self, job_id: str) -> bool:
        """Returns whether the job has ended; also True if it has been removed."""
        return job_id not in self._jobs or self._jobs[job_id].state.is_final

    def _folder(self, job_id: str) -> JobFolder:
        return JobFolder(self._environment.folder.absolute() / job_id)

    def _load(self) -> None:
        """Reads the jobs that an earlier process left; a job that cannot be read is ignored and logged.

        A job in state RUNNING was killed with the earlier process. It is queued again, or fails after `MAX_RESUMES`
        resumes.
        """
        jobs: list[Job] = []
        for path in sorted(self._environment.folder.glob("*/job.json")):
            folder = JobFolder(path.parent.absolute())
            try:
                job = folder.read()
            except (OSError, ValueError) as error:
                log.error("%s is ignored: %s", path, error)
                continue
            folder.remove_incomplete_event()
            jobs.append(job)
        for job in sorted(jobs, key=lambda job: job.created_unix_ms):
            self._jobs[job.id] = job
            if job.state is JobState.RUNNING:
                self._requeue(replace(job, resumed=job.resumed + 1))

    def _requeue(self, job: Job) -> None:
        if job.resumed > MAX_RESUMES:
            self._finish(job, JobState.FAILED, error=_killed_too_often(job))
        else:
            self._save(replace(job, state=JobState.QUEUED))


@asynccontextmanager
async def running_queue(
    environment: JobEnvironment, register: RegisterAdapter, find_version: FindVersion
) -> AsyncIterator[JobQueue]:
    """Returns a context manager that runs a queue during its block, including jobs that an earlier process left. After
    the block, it stops the running job.

    Raises OSError if the folder of the jobs cannot be created.
    """
    environment.folder.mkdir(parents=True, exist_ok=True)
    queue = JobQueue(environment, register, find_version)
    task = asyncio.create_task(queue.run(), name="training jobs")
    try:
        yield queue
    finally:
        queue.close()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _killed_too_often(job: Job) -> str:
    return f"the trainer was killed {job.resumed} times; too little memory is the usual cause"


def _now_ms() -> int:
    return int(time.time() * 1000)
