"""One engine, step by step: continuous batching, a bounded batch, adapters in slots."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from pointsman_cli.capacity.figures import EngineFigures


@dataclass(slots=True)
class Job:
    """One request at an engine. Times are seconds of the simulation."""

    path: str
    begun: float
    unread: int
    """Tokens of its prompt that are still to be read; those in the prefix cache are not among them."""
    unwritten: int
    adapter: int = -1
    """Its number; -1 for none."""
    written: int = 0
    first_token: float = -1.0
    ended: float = -1.0


@dataclass(slots=True)
class Engine:
    """Advances from step to step; whoever holds it says when there is work."""

    figures: EngineFigures
    now: float = 0.0
    busy: float = 0.0
    """Seconds of steps."""
    hits: int = 0
    loads: int = 0
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    _slots: "OrderedDict[int, float]" = field(default_factory=OrderedDict)
    """Adapters, least lately used first, and when each is loaded."""
    _loading_until: float = 0.0
    """One adapter is loaded at a time."""

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.running)

    def holds(self, adapter: int) -> bool:
        """Or is loading it."""
        return adapter in self._slots

    def take(self, job: Job) -> None:
        self.now = max(self.now, job.begun) if not self.load else self.now
        if job.adapter >= 0:
            self._want(job.adapter, max(self.now, job.begun))
        self.waiting.append(job)

    def step(self) -> list[Job]:
        """One step; the answers that ended with it. Where all wait for adapters, time passes until one is there."""
        self._admit()
        if not self.running:
            self.now = max(self.now, min(self._ready_at(job) for job in self.waiting))
            self._admit()
        seconds, reading = self._plan()
        self.now += seconds
        self.busy += seconds
        return self._advance(reading)

    def _admit(self) -> None:
        """From the line into the batch, in turn; who waits for an adapter lets others pass."""
        held: deque[Job] = deque()
        while self.waiting and len(self.running) < self.figures.most_rows:
            job = self.waiting.popleft()
            if self._ready_at(job) <= self.now:
                self.running.append(job)
            else:
                held.append(job)
        self.waiting.extendleft(reversed(held))

    def _plan(self) -> tuple[float, list[tuple[Job, int]]]:
        """Seconds of the next step, and how much it reads of which prompt: every answer first, then prompts as fit."""
        f, seconds = self.figures, self.figures.step
        left = f.most_tokens
        for job in self.running:
            if not job.unread:
                seconds += f.adapter_row if job.adapter >= 0 else f.row
                left -= 1
        reading: list[tuple[Job, int]] = []
        for job in self.running:
            tokens = min(job.unread, left)
            if tokens > 0:
                seconds += tokens * (f.adapter_prompt_token if job.adapter >= 0 else f.prompt_token)
                left -= tokens
                reading.append((job, tokens))
        return seconds, reading

    def _advance(self, reading: list[tuple[Job, int]]) -> list[Job]:
        writing = [job for job in self.running if not job.unread]
        for job, tokens in reading:
            job.unread -= tokens
            if not job.unread:
                writing.append(job)  # the step that reads the last of a prompt gives the first token
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

    def _want(self, adapter: int, at: float) -> None:
        if adapter in self._slots:
            self._slots.move_to_end(adapter)
            self.hits += 1
            return
        self.loads += 1
        self._loading_until = max(self._loading_until, at) + self.figures.load
        self._make_room()
        self._slots[adapter] = self._loading_until

    def _make_room(self) -> None:
        """The one that was idle longest goes; where all are in use, the longest unused waits for its answers."""
        in_use = {job.adapter for job in (*self.running, *self.waiting)}
        while len(self._slots) >= self.figures.slots:
            idle = next((adapter for adapter in self._slots if adapter not in in_use), next(iter(self._slots)))
            del self._slots[idle]

    def _ready_at(self, job: Job) -> float:
        return self._slots.get(job.adapter, 0.0) if job.adapter >= 0 else 0.0
