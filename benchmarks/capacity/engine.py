"""A simulated engine: continuous batching with a bounded batch, and adapters in a limited number of slots."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from benchmarks.capacity.inputs import EngineFigures


@dataclass(slots=True)
class Job:
    """One request at an engine. Times are seconds of the simulated clock."""

    path: str
    arrived: float
    unread: int
    """Number of prompt tokens that are not read yet; tokens in the prefix cache are not counted."""
    unwritten: int
    adapter: int = -1
    """The adapter's number; -1 without an adapter."""
    written: int = 0
    first_token: float = -1.0
    ended: float = -1.0


@dataclass(slots=True)
class Engine:
    """A simulated engine that advances one step at a time; `step` must be called only while there are jobs."""

    figures: EngineFigures
    now: float = 0.0
    busy: float = 0.0
    """Seconds spent in steps so far."""
    hits: int = 0
    loads: int = 0
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    _slots: "OrderedDict[int, float]" = field(default_factory=OrderedDict)
    """By adapter, the time at which it is loaded; the least recently used adapter comes first."""
    _loading_until: float = 0.0
    """When the last load ends. Adapters are loaded one after the other."""

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.running)

    def holds(self, adapter: int) -> bool:
        """Returns whether the adapter is resident or being loaded."""
        return adapter in self._slots

    def add(self, job: Job) -> None:
        self.now = max(self.now, job.arrived) if not self.load else self.now
        if job.adapter >= 0:
            self._ensure_loaded(job.adapter, max(self.now, job.arrived))
        self.waiting.append(job)

    def step(self) -> list[Job]:
        """Runs one step and returns the jobs that it finished.

        If all jobs wait for adapters, the clock first advances until one adapter is loaded.
        """
        self._admit()
        if not self.running:
            self.now = max(self.now, min(self._ready_at(job) for job in self.waiting))
            self._admit()
        seconds, reading = self._schedule()
        self.now += seconds
        self.busy += seconds
        return self._advance(reading)

    def _admit(self) -> None:
        """Moves jobs from the queue into the batch, first come first served; a job whose adapter loads is skipped."""
        skipped: deque[Job] = deque()
        while self.waiting and len(self.running) < self.figures.max_num_seqs:
            job = self.waiting.popleft()
            if self._ready_at(job) <= self.now:
                self.running.append(job)
            else:
                skipped.append(job)
        self.waiting.extendleft(reversed(skipped))

    def _schedule(self) -> tuple[float, list[tuple[Job, int]]]:
        """Returns the seconds of the next step, and for each job how many tokens of its prompt the step reads.

        Decoding comes first; prompts get the rest of the token budget.
        """
        f, seconds = self.figures, self.figures.step_seconds
        budget = f.max_num_batched_tokens
        for job in self.running:
            if not job.unread:
                seconds += f.adapter_row_seconds if job.adapter >= 0 else f.row_seconds
                budget -= 1
        reading: list[tuple[Job, int]] = []
        for job in self.running:
            tokens = min(job.unread, budget)
            if tokens > 0:
                seconds += tokens * (f.adapter_prompt_token_seconds if job.adapter >= 0 else f.prompt_token_seconds)
                budget -= tokens
                reading.append((job, tokens))
        return seconds, reading

    def _advance(self, reading: list[tuple[Job, int]]) -> list[Job]:
        writing = [job for job in self.running if not job.unread]
        for job, tokens in reading:
            job.unread -= tokens
            if not job.unread:
                writing.append(job)  # the step that reads the end of a prompt produces the first token
        ended = []
        for job in writing:
            if job.first_token < 0:
                job.first_token = self.now
            job.unwritten -= 1
            job.written += 1
            if job.unwritten <= 0:
                job.ended = self.now
                ended.append(job)
        if ended:
            self.running = [job for job in self.running if job.ended < 0]
        return ended

    def _ensure_loaded(self, adapter: int, at: float) -> None:
        if adapter in self._slots:
            self._slots.move_to_end(adapter)
            self.hits += 1
            return
        self.loads += 1
        self._loading_until = max(self._loading_until, at) + self.figures.adapter_load_seconds
        self._evict()
        self._slots[adapter] = self._loading_until

    def _evict(self) -> None:
        """Evicts the least recently used idle adapter; if all are in use, the least recently used one."""
        in_use = {job.adapter for job in (*self.running, *self.waiting)}
        while len(self._slots) >= self.figures.max_loras:
            idle = next((adapter for adapter in self._slots if adapter not in in_use), next(iter(self._slots)))
            del self._slots[idle]

    def _ready_at(self, job: Job) -> float:
        return self._slots.get(job.adapter, 0.0) if job.adapter >= 0 else 0.0
