"""What is known of each path on each task: counted here, added up in Redis over all gateways, read back from there."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from pointsman_servicekit.statistics import PATH_LATENCY_BUCKETS

from pointsman_gateway.domain import PICODOLLARS, Path, PathEvidence, Receipt
from pointsman_gateway.request_log.redis_schema import last_days, today

ANSWERS, COST, RATED, RATING, BUCKET = "answers", "cost", "rated", "rating", "b"
"""The names of the counts; BUCKET has its number behind it."""

PER_RATING = 10**6
"""Costs (in picodollars) and ratings are counted in whole numbers: they add up alike in any order, and can be taken
off again."""

MAX_UNCOUNTED = 256
"""Answers."""

NOTHING = PathEvidence()


class EvidenceKey(NamedTuple):
    """What evidence is of."""

    task: str
    path: str
    fingerprint: str
    version: str
    """The adapter's; empty for a path without one."""

    def __str__(self) -> str:
        return _written(self)


@lru_cache(maxsize=4096)
def _written(cell: EvidenceKey) -> str:
    return json.dumps(cell, separators=(",", ":"))


Counts = dict[EvidenceKey, dict[str, int]]
"""Whole numbers by cell and name; none is 0."""


def evidence_key(receipt: Receipt) -> EvidenceKey:
    path = receipt.decision.path
    return EvidenceKey(receipt.decision.task, path.name, path.fingerprint, receipt.model if path.adapter else "")


class AnswerCounts(NamedTuple):
    """What one answer counts for."""

    cell: EvidenceKey
    day: str
    counts: Sequence[tuple[str, int]]


def answer_counts(receipt: Receipt, day: str) -> AnswerCounts | None:
    """None where nothing counts."""
    if not _counts(receipt):
        return None
    bucket, cost = BUCKET + str(PATH_LATENCY_BUCKETS.index(receipt.seconds["total"])), sum(receipt.picodollars.values())
    return AnswerCounts(evidence_key(receipt), day, ((ANSWERS, 1), (bucket, 1), (COST, cost)))


def _counts(receipt: Receipt) -> bool:
    """Whether it is of an answer that the path has made now; not one in place of a refused one: that receipt is of
    both."""
    return receipt.outcome == "ok" and not receipt.escalated_from and not receipt.cached


def sum_by_day(tallies: Iterable[AnswerCounts]) -> dict[str, Counts]:
    """By day."""
    days: dict[str, Counts] = {}
    for cell, day, counts in tallies:
        named = days.setdefault(day, {}).setdefault(cell, {})
        for name, number in counts:
            if number:
                named[name] = named.get(name, 0) + number
    return days


def to_fields(counts: Counts) -> dict[str, int]:
    """As a hash in Redis has it: a field is a cell, in JSON, and a name."""
    return {str(cell) + name: number for cell, named in counts.items() for name, number in named.items()}


def from_fields(fields: Mapping[str, str]) -> Counts:
    counts: Counts = {}
    for field, number in fields.items():
        cell, bracket, name = field.rpartition("]")
        if int(number):
            counts.setdefault(_read(cell + bracket), {})[name] = int(number)
    return counts


@lru_cache(maxsize=4096)
def _read(written: str) -> EvidenceKey:
    return EvidenceKey(*json.loads(written))


class EvidenceStore:
    """Reading it costs microseconds. Only answers that came to their end count, for the path that gave them."""

    def __init__(self, window: int = 14) -> None:
        """`window` is in days. It and `versions` are what the generation that serves says."""
        self.window = window
        self.versions: Callable[[Path], str] = lambda path: ""
        """Names the adapter's version that would answer along a path now."""
        self._sum: Counts = {}
        self._made: dict[EvidenceKey, PathEvidence] = {}
        """From `_sum`, until it changes."""
        self._days: dict[str, Counts] = {}
        """What `_sum` adds up: as Redis told it, and what Redis has not been told yet."""
        self._untold: dict[str, Counts] = {}
        self._tied: dict[str, Counts] = {}
        """Untold too, until their entries are written."""
        self._new: tuple[list[AnswerCounts], list[AnswerCounts]] = ([], [])
        """Of answers that have not been counted yet; the second ones are tied."""

    def of(self, task: str, path: Path) -> PathEvidence:
        """What is known now, over the days of the window. Zeros where nothing is."""
        self._count_new()
        cell = EvidenceKey(task, path.name, path.fingerprint, self.versions(path))
        made = self._made.get(cell)
        if made is None:
            counts = self._sum.get(cell)
            made = self._made[cell] = _evidence(counts) if counts else NOTHING
        return made

    def answered(self, receipt: Receipt) -> None:
        """Counts an answer, if it is one that counts."""
        tally = answer_counts(receipt, today())
        if tally is not None:
            self._answered(tally, tied=False)

    def noted(self, tally: AnswerCounts) -> None:
        """The same where its entry waits to be written: Redis is told of both as one, after `let_go`."""
        self._answered(tally, tied=True)

    def let_go(self, tallies: Iterable[AnswerCounts]) -> None:
        """What waited with their entries is handed over with all else from now on."""
        self._count_new()
        for day, counts in sum_by_day(tallies).items():
            _add(self._tied.get(day, {}), counts, -1)
            _add(self._untold.setdefault(day, {}), counts)

    def _answered(self, tally: AnswerCounts, *, tied: bool) -> None:
        new = self._new[tied]
        new.append(tally)
        if len(new) >= MAX_UNCOUNTED:
            self._count_new()

    def _count_new(self) -> None:
        """All answers since the last time; together that takes a tenth of what one by one does."""
        untied, tied = self._new
        if untied or tied:
            self._new = ([], [])
            for tallies, for_redis in ((untied, self._untold), (tied, self._tied)):
                for day, counts in sum_by_day(tallies).items():
                    for cell, named in counts.items():
                        self._count(for_redis, cell, day, named.items())

    def rated(self, cell: EvidenceKey, day: str, rating: float) -> None:
        """Counts a rating that nobody gave by feedback, 0 to 1, for an answer of that day."""
        self._count(self._untold, cell, day, ((RATED, 1), (RATING, round(rating * PER_RATING))))

    def _count(
        self, for_redis: dict[str, Counts], cell: EvidenceKey, day: str, more: Iterable[tuple[str, int]]
    ) -> None:
        """What is of a day outside the window is for Redis alone."""
        if day not in self._days:
            self._keep_window()
        inside = day in self._days or day in last_days(self.window)
        here = (self._days.setdefault(day, {}), self._sum) if inside else ()
        for counts in (for_redis.setdefault(day, {}), *here):
            named = counts.get(cell)
            if named is None:
                named = counts[cell] = {}
            for name, number in more:
                if number:
                    named[name] = named.get(name, 0) + number
        self._made.pop(cell, None)

    def hand_over(self) -> dict[str, Counts]:
        """What Redis has not been told, by day. Whoever takes it tells Redis, for certain and once."""
        self._count_new()
        handed, self._untold = self._untold, {}
        return handed

    def read(self, day: str, told: Counts) -> None:
        """Takes what Redis says of a day, which must hold all that was handed over."""
        self._count_new()
        if day not in self._days:
            self._keep_window()
        counts = {cell: dict(named) for cell, named in told.items()}
        _add(counts, self._untold.get(day, {}))
        _add(counts, self._tied.get(day, {}))
        before = self._days.get(day, {})
        if counts != before:
            self._days[day] = counts
            self._sum_up(before, -1)
            self._sum_up(counts)

    def _keep_window(self) -> None:
        days = last_days(self.window)
        for day in self._days.keys() - set(days):
            self._sum_up(self._days.pop(day), -1)
            self._untold.pop(day, None)
            if not self._tied.get(day):
                self._tied.pop(day, None)

    def _sum_up(self, more: Counts, sign: int = 1) -> None:
        _add(self._sum, more, sign)
        for cell in more:
            self._made.pop(cell, None)


def _add(into: Counts, more: Counts, sign: int = 1) -> None:
    for cell, named in more.items():
        counts = into.setdefault(cell, {})
        for name, number in named.items():
            total = counts.get(name, 0) + sign * number
            if total:
                counts[name] = total
            else:
                counts.pop(name, None)
        if not counts:
            del into[cell]


def _evidence(counts: Mapping[str, int]) -> PathEvidence:
    rated, answers = counts.get(RATED, 0), counts.get(ANSWERS, 0)
    buckets = {int(name[1:]): number for name, number in counts.items() if name[0] == BUCKET}
    return PathEvidence(
        ratings=rated,
        quality=counts.get(RATING, 0) / PER_RATING / rated if rated > 0 else 0.0,
        answers=answers,
        p95_seconds=PATH_LATENCY_BUCKETS.quantile(buckets, 0.95),
        mean_cost_usd=counts.get(COST, 0) / PICODOLLARS / answers if answers > 0 else 0.0,
    )
