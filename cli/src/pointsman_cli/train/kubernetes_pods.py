"""Reads the pods of a training's Job: shows their logs, and why the pods wait."""

import asyncio
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pointsman_cli.train.kubernetes_manifest import TRAIN_JOB_API, Object
from pointsman_cli.train.kubernetes_reasons import container_of, end_of, why_stopped, why_waiting
from pointsman_cli.train.progress import Message, TrainingProgress, parse_event

if TYPE_CHECKING:  # the extra `kubernetes`
    from lightkube import AsyncClient

LOG_SECONDS = 300.0
"""Seconds after which a pod's log is requested anew, since a connection that is broken silently would never end."""
LOG_MARGIN_SECONDS = 10
"""How many seconds of the log before the last line that was read are requested again; known lines are left out."""
STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?")
"""Matches the time before each line of a pod's log: seconds, their fraction, and the zone of the node's clock."""
NANOSECONDS = 9
NEVER = (0.0, "")
REFUSALS = (401, 403)
"""HTTP statuses with which the Kubernetes API refuses a call for lack of permission."""
Run = tuple[str, int]
"""A pod's name and the number of restarts of its container; each restart begins a new log."""


@dataclass(slots=True)
class Log:
    """Shows the logs of a training's pods, each line once, and keeps the error that the last pod printed."""

    screen: TrainingProgress
    error: str = ""
    reason: str = ""
    """Why no pod is training now; empty if a container runs or no reason is known."""
    read: set[Run] = field(default_factory=set)
    """The containers (pod and number of restarts) whose logs were read to the end."""
    _run: Run | None = None
    _newest: tuple[float, str] = NEVER
    """The time of the pod's last line: Unix seconds, and nine digits of nanoseconds."""
    _is_new: bool = False
    """Whether the last line was not read before."""
    _read_at: float = 0.0
    _remarks: set[str] = field(default_factory=set)

    def begin(self, run: Run) -> int | None:
        """Begins or continues a container's log; returns how many of its last seconds to request, None for all."""
        if run != self._run:
            self._run, self._newest, self.error = run, NEVER, ""
            return None
        return math.ceil(time.monotonic() - self._read_at) + LOG_MARGIN_SECONDS if self._newest > NEVER else None

    def add(self, line: str) -> None:
        """Takes a line "TIME TEXT" of the log; shows it unless it was read before.

        The first line that begins with "error: " and the plain lines after it are not shown, but stored as the error. A
        line without a time continues the last one, which contains a character that lightkube takes for a line's end,
        such as the carriage returns of a progress bar.
        """
        text = line
        if found := STAMP.match(line):
            at = (datetime.fromisoformat(found[1] + found[3]).timestamp(), (found[2] or "").ljust(NANOSECONDS, "0"))
            self._is_new = at > self._newest
            text = line[found.end() :]
            if self._is_new:
                self._newest, self._read_at = at, time.monotonic()
        if not self._is_new or not text.strip():
            return
        event = parse_event(text)
        if isinstance(event, Message) and (self.error or text.startswith("error: ")):
            self.error = f"{self.error}\n{text.removeprefix('error: ')}".strip()
        else:
            self.screen.show(event)

    def explain(self, reason: str) -> None:
        """Shows `reason`, why no pod is training now; the reason is also part of the error if the Job fails."""
        self.reason, self.error = reason, ""
        self.remark(reason)

    def remark(self, line: str) -> None:
        """Shows a line about the Job or a pod, unless it was shown before."""
        if line not in self._remarks:
            self._remarks.add(line)
            self.screen.remark(line)


async def list_pods(api: "AsyncClient", job: Object) -> Sequence[Any]:
    """Returns the pods of a Job or TrainJob, the oldest first."""
    from lightkube.resources.core_v1 import Pod

    label = "jobset.sigs.k8s.io/jobset-name" if job["apiVersion"] == TRAIN_JOB_API else "batch.kubernetes.io/job-name"
    found = [pod async for pod in api.list(Pod, labels={label: job["metadata"]["name"]})]
    return sorted(found, key=lambda pod: str(pod.metadata.creationTimestamp))


async def read_pod(api: "AsyncClient", pod: Any, log: Log) -> bool:
    """Shows what a pod has logged since the last call and, while the pod runs, each line that it logs.

    Returns False if the log may have lines that were not read yet.
    """
    container = container_of(pod)
    run, end = (pod.metadata.name, container.restartCount if container else 0), end_of(container)
    if run in log.read:
        return True
    if not end and not (container and container.state and container.state.running):
        if waiting := why_waiting(pod):
            log.explain(f"waiting: {waiting}")
        if why := why_stopped(pod):  # before it began
            log.read.add(run)
            log.explain(f"{run[0]} stopped: {why}")
        return True
    log.reason = ""
    if not await _read_log(api, run, container.name, log):
        return False
    if end:
        log.read.add(run)
        if not log.error and (why := why_stopped(pod)):
            log.explain(f"{run[0]} stopped: {why}")
    return True


async def _read_log(api: "AsyncClient", run: Run, container: str, log: Log) -> bool:
    """Passes on the new lines of a log until the container or the connection ends; returns whether there are no more.

    Raises HTTPStatusError if the user may not read logs.
    """
    from httpx2 import HTTPError, HTTPStatusError

    request: Any = {"container": container, "since": log.begin(run), "timestamps": True, "newlines": False}
    try:
        async with asyncio.timeout(LOG_SECONDS):
            try:
                async for line in api.log(run[0], follow=True, **request):
                    log.add(line)
            except RuntimeError:  # lightkube 1 cannot read the body of a refusal while it follows
                async for line in api.log(run[0], **request):
                    log.add(line)
    except TimeoutError:
        return False
    except HTTPStatusError as error:
        if error.response.status_code in REFUSALS:
            raise
        return False  # such as 404: the pod was deleted since it was listed
    except HTTPError:
        return False  # the connection broke
    return True
