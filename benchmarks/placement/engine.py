"""A simulated engine: continuous batching, adapters in slots of the host memory, and a few of them in one batch."""

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

from benchmarks.placement.cases import Arrival

PROMPT_WEIGHT = 0.25
"""How many generated tokens a prompt token counts for, as in the guard's counters."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in seconds, and sizes. The defaults are measured on two cores with SmolLM2-135M: steps and rows are those
    of `benchmarks/capacity/two_cores.yaml`, loads those of "Hundreds of adapters" in RESULTS.md.
    """

    step: float = 0.034606
    row: float = 0.003141
    prompt_token: float = 0.001589
    load: float = 0.21
    """Time in which an adapter is loaded; loads of one engine follow each other."""
    load_stall: float = 0.097
    """The part of it in which the engine generates nothing."""
    max_rows: int = 64
    held: int = 8
    """Adapters in host memory."""
    in_batch: int = 4
    """Different adapters in one batch."""
    request: float = 0.0
    """What a request takes besides its steps, until the first token has arrived."""
    stated_tokens_per_second: float | None = None
    """What placement by demand takes for the tokens per second of a busy engine; None: what it generates at most."""

    @property
    def tokens_per_second(self) -> float:
        """What the engine generates at most, with 16 answers at once."""
        return self.stated_tokens_per_second or 16 / (self.step + 16 * self.row)


@dataclass(slots=True)
class Job:
    request: Arrival
    version: str
    unread: int
    unwritten: int
    first_token: float = -1.0
    ended: float = -1.0


@dataclass(slots=True)
class SimulatedEngine:
    """An engine that advances one step at a time; `step` must be called only while there are jobs."""

    name: str
    figures: Figures
    now: float = 0.0
    loads: int = 0
    held: dict[str, float] = field(default_factory=dict)
    """Version -> when it is loaded; the least recently used one is first."""
    placed: frozenset[str] = frozenset()
    """Versions that are evicted last."""
    tokens: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By version, tokens generated so far; those of prompts count `PROMPT_WEIGHT`."""
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    jobs: Counter[str] = field(default_factory=Counter)
    """By version, its jobs."""
    loading_until: float = 0.0
    """When the last load ends that has begun."""
    slowdown: float = 1.0
    """How many times as long as on an idle machine a load takes that begins now."""
    _stalls: list[float] = field(default_factory=list)

    @property
    def in_flight(self) -> int:
        return len(self.waiting) + len(self.running)

    def is_ready(self, version: str, now: float) -> bool:
        return self.held.get(version, float("inf")) <= now

    def load(self, version: str, now: float, may_displace_placed: bool = True) -> bool:
        """Starts to load a version, unless it is held. Evicts an idle version for it: first one that is not placed,
        then the least recently used one; if none is idle, the one with the fewest jobs. Returns False if only placed
        versions could be evicted, and they may not.
        """
        if version in self.held:
            return True
        if len(self.held) >= self.figures.held:
            order = {name: number for number, name in enumerate(self.held)}
            victims = [name for name in self.held if may_displace_placed or name not in self.placed]
            if not victims:
                return False

            def order_of(name: str) -> tuple[bool, bool, int, int]:
                return self.jobs[name] > 0, name in self.placed, self.jobs[name], order[name]

            del self.held[min(victims, key=order_of)]
        self.loading_until = max(self.loading_until, now) + self.figures.load * self.slowdown
        self.held[version] = self.loading_until
        self._stalls.append(self.loading_until - self.figures.load_stall * self.slowdown)
        self.loads += 1
        return True

    def add(self, request: Arrival, version: str) -> None:
        if not self.in_flight:
            self.now = max(self.now, request.at)
        self.load(version, request.at)
        self.held[version] = self.held.pop(version)  # the most recently used one
        self.jobs[version] += 1
        self.waiting.append(Job(request, version, request.prompt_tokens, request.completion_tokens))

    def step(self) -> list[Job]:
        """Runs one step on a machine of its own; returns the jobs that it finished."""
        self.admit()
        if not self.running:
            self.now = max(self.now, self.ready_at)
            self.admit()
        return self.finish(self.now + self.begin())

    @property
    def ready_at(self) -> float:
        """Returns when the adapter of one of the waiting jobs is loaded; there must be one."""
        return min(self.held.get(job.version, 0.0) for job in self.waiting)

    def skip_stalls(self) -> None:
        """Forgets the stalls that have begun by now; they cost nothing if there was nothing to generate."""
        self._stalls = [at for at in self._stalls if at > self.now]

    def begin(self) -> float:
        """Returns the seconds that the next step takes on a machine of its own. There must be running jobs."""
        figures, seconds = self.figures, self.figures.step
        while self._stalls and self._stalls[0] <= self.now:
            self._stalls.pop(0)
            seconds += figures.load_stall
        for job in self.running:
            seconds += job.unread * figures.prompt_token if job.unread else figures.row
        return seconds

    def finish(self, now: float) -> list[Job]:
        """Ends the step at the time `now`; returns the jobs that it finished."""
        self.now = now
        ended = []
        for job in self.running:
            if job.unread:
                self.tokens[job.version] += job.unread * PROMPT_WEIGHT
                job.unread = 0
            if job.first_token < 0:
                job.first_token = now
            job.unwritten -= 1
            self.tokens[job.version] += 1
            if job.unwritten <= 0:
                job.ended = now
                ended.append(job)
                self.jobs[job.version] -= 1
        if ended:
            self.running = [job for job in self.running if job.unwritten > 0]
        return ended

    def admit(self) -> None:
        """Moves jobs into the batch, first come first served; skips those whose adapter is not loaded, or for which the
        batch has no place."""
        batch = {job.version for job in self.running}
        skipped: deque[Job] = deque()
        while self.waiting and len(self.running) < self.figures.max_rows:
            job = self.waiting.popleft()
            fits = job.version in batch or len(batch) < self.figures.in_batch
            if fits and self.held.get(job.version, 0.0) <= self.now:
                self.running.append(job)
                batch.add(job.version)
            else:
                skipped.append(job)
        self.waiting.extendleft(reversed(skipped))
