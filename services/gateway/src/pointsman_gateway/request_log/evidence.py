"""Evidence on each path for each task: the ratings, costs and latencies of its answers, by which policies choose a
path.

Each gateway process counts its own answers. Redis adds up the counts of all processes, and each process reads the
sums.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from pointsman_servicekit.statistics import PATH_LATENCY_BUCKETS

from pointsman_gateway.domain import PICODOLLARS, Path, PathEvidence, Receipt
from pointsman_gateway.request_log.redis_schema import last_days, today

ANSWERS, COST, RATED, RATING, BUCKET = "answers", "cost", "rated", "rating", "b"
EVALUATED, SCORE = "evaluated", "score"
"""The last two of seven names of counts: ANSWERS, COST, RATED, RATING, BUCKET, EVALUATED and SCORE. A bucket's number
in `PATH_LATENCY_BUCKETS` follows the name BUCKET."""

UNITS_PER_RATING = 10**6
"""Number of units that a rating or score of 1 is counted as. Counts are whole numbers, which give the same sum in any
order and can be subtracted exactly; costs are counted in picodollars for this reason."""

MAX_UNCOUNTED = 256
"""Number of collected answers at which they are added to the sums, all together."""

NO_EVIDENCE = PathEvidence()


class EvidenceKey(NamedTuple):
    """Identifies the answers whose ratings, costs and latencies ("evidence") are counted together.

    They are the answers for one task, on one path with one configuration (`fingerprint`, a hash), by one adapter
    version. If one of these changes, the path starts without evidence.
    """

    task: str
    path: str
    fingerprint: str
    version: str
    """The adapter version that answered; empty for a path without an adapter."""

    def __str__(self) -> str:
        return _to_json(self)


@lru_cache(maxsize=4096)
def _to_json(key: EvidenceKey) -> str:
    return json.dumps(key, separators=(",", ":"))


Counts = dict[EvidenceKey, dict[str, int]]
"""Whole numbers by evidence key, and then by the name of the count, such as "answers" or "cost". Counts of 0 are left
out."""


def evidence_key(receipt: Receipt) -> EvidenceKey:
    path = receipt.decision.path  # not by `path_key`: a call less for each request
    return EvidenceKey(receipt.decision.task, path.name, path.fingerprint, receipt.model if path.adapter else "")


def path_key(task: str, path: Path, model: str) -> EvidenceKey:
    """Returns the key of the evidence (ratings, costs, latencies) to which an answer on `path` is added. `model` is
    the base model or adapter version that answered.
    """
    return EvidenceKey(task, path.name, path.fingerprint, model if path.adapter else "")


class AnswerCounts(NamedTuple):
    """The amounts that one answer adds to the evidence (ratings, costs, latencies) on its path, on `day` (YYYYMMDD,
    UTC).
    """

    key: EvidenceKey
    day: str
    counts: Sequence[tuple[str, int]]
    """Pairs of a count's name, such as "answers" or "cost", and the amount to add."""


def answer_counts(receipt: Receipt, day: str) -> AnswerCounts | None:
    """Returns the numbers that a receipt adds to the evidence (ratings, costs, latencies) on its path for `day`
    (YYYYMMDD, UTC).

    Returns None if the request did not end with "ok", was answered from the cache, or was escalated to a second
    path.
    """
    if not _is_evidence(receipt):
        return None
    bucket = BUCKET + str(PATH_LATENCY_BUCKETS.index(receipt.seconds["total"]))
    cost = sum(receipt.picodollars.values())
    return AnswerCounts(evidence_key(receipt), day, ((ANSWERS, 1), (bucket, 1), (COST, cost)))


def _is_evidence(receipt: Receipt) -> bool:
    """Returns whether the path itself gave a complete answer. Answers from the cache do not count, nor do answers after
    an escalation, whose receipts include the cost of two paths.
    """
    return receipt.outcome == "ok" and not receipt.escalated_from and not receipt.cached


def sum_by_day(answers: Iterable[AnswerCounts]) -> dict[str, Counts]:
    days: dict[str, Counts] = {}
    for key, day, counts in answers:
        sums = days.setdefault(day, {}).setdefault(key, {})
        for name, number in counts:
            if number:
                sums[name] = sums.get(name, 0) + number
    return days


def to_fields(counts: Counts) -> dict[str, int]:
    """Converts counts to the fields of a Redis hash: each field's name is the key as JSON, followed by the name of
    the count.
    """
    return {str(key) + name: number for key, sums in counts.items() for name, number in sums.items()}


def from_fields(fields: Mapping[str, str]) -> tuple[Counts, list[str]]:
    """Parses the fields of a Redis hash. Returns the counts that are not 0, and the names of fields that cannot be
    parsed.
    """
    counts: Counts = {}
    unreadable = []
    for field, text in fields.items():
        key, bracket, name = field.rpartition("]")
        try:
            number = int(text)
            sums = counts.setdefault(_from_json(key + bracket), {}) if number else {}
            if name[:1] == BUCKET:
                int(name[1:])
        except (ValueError, TypeError, RecursionError):
            unreadable.append(field)
            continue
        if number:
            sums[name] = number
    return counts, unreadable


@lru_cache(maxsize=4096)
def _from_json(text: str) -> EvidenceKey:
    """Parses an evidence key; raises ValueError, TypeError or RecursionError if the text is none."""
    key = EvidenceKey(*json.loads(text))
    if not all(isinstance(part, str) for part in key):
        raise TypeError("an evidence key has texts only")
    return key


class EvidenceStore:
    """Holds the evidence on paths (ratings, costs and latencies of answers) of the last days in memory, for fast
    lookups.

    The evidence is the sum of the counts that Redis held at the last read and the counts that this process has added
    since. A pending count belongs to an answer whose log entry is not in Redis yet. The count and the entry go to Redis
    in the same batch, so that a lost or repeated batch cannot make log and evidence differ.
    """

    def __init__(self, window: int = 14) -> None:
        """Takes the number of days (UTC), today included, whose evidence counts.

        The attributes `window` and `versions` are set anew with each configuration.
        """
        self.window = window
        self.versions: Callable[[Path], str] = lambda path: ""
        """Returns the adapter version that a path uses now."""
        self._sum: Counts = {}
        self._computed: dict[EvidenceKey, PathEvidence] = {}
        """A cache of the results of `of`, by key."""
        self._days: dict[str, Counts] = {}
        """The parts of `_sum` by day: the counts in Redis, as last read, and the counts that Redis has not received."""
        self._unsent: dict[str, Counts] = {}
        """By day, the counts that the next batch may include."""
        self._pending: dict[str, Counts] = {}
        """By day, the counts of answers whose entries are not in a batch yet."""
        self._uncounted: tuple[list[AnswerCounts], list[AnswerCounts]] = ([], [])
        """Answers that are not added up yet: unsent ones in the first list, pending ones in the second."""

    def of(self, task: str, path: Path) -> PathEvidence:
        """Returns the ratings, costs and latencies of answers on a path for a task in the last days, with the
        adapter version that the path uses now; `NO_EVIDENCE` if there were none.
        """
        self._add_uncounted()
        key = EvidenceKey(task, path.name, path.fingerprint, self.versions(path))
        computed = self._computed.get(key)
        if computed is None:
            counts = self._sum.get(key)
            computed = self._computed[key] = evidence_of(counts) if counts else NO_EVIDENCE
        return computed

    def count_answer(self, receipt: Receipt) -> None:
        """Counts an answer that gets no log entry; the next `take_unsent` includes it. Does nothing for answers
        that are not evidence, such as cached ones.
        """
        answer = answer_counts(receipt, today())
        if answer is not None:
            self._collect(answer, pending=False)

    def count_pending(self, answer: AnswerCounts) -> None:
        """Counts an answer whose log entry is not in Redis yet; `take_unsent` leaves it out until `release` is
        called for it.
        """
        self._collect(answer, pending=True)

    def release(self, answers: Iterable[AnswerCounts]) -> None:
        """Makes the counts of pending answers available to `take_unsent`. Call it when the log entries of these
        answers join a batch or are dropped.
        """
        self._add_uncounted()
        for day, counts in sum_by_day(answers).items():
            _add(self._pending.get(day, {}), counts, -1)
            _add(self._unsent.setdefault(day, {}), counts)

    def _collect(self, answer: AnswerCounts, *, pending: bool) -> None:
        collected = self._uncounted[pending]
        collected.append(answer)
        if len(collected) >= MAX_UNCOUNTED:
            self._add_uncounted()

    def _add_uncounted(self) -> None:
        """Adds all collected answers together, which takes a tenth of the time of adding each by itself."""
        unsent, pending = self._uncounted
        if unsent or pending:
            self._uncounted = ([], [])
            for answers, for_redis in ((unsent, self._unsent), (pending, self._pending)):
                for day, counts in sum_by_day(answers).items():
                    for key, sums in counts.items():
                        self._count(for_redis, key, day, sums.items())

    def count_rating(self, key: EvidenceKey, day: str, rating: float) -> None:
        """Counts a rating (0 to 1) that the gateway itself has given to an answer of `day` (YYYYMMDD, UTC). Users'
        ratings must not be counted here: Redis counts them when it stores the feedback.
        """
        self._count(self._unsent, key, day, ((RATED, 1), (RATING, round(rating * UNITS_PER_RATING))))

    def _count(self, for_redis: dict[str, Counts], key: EvidenceKey, day: str, more: Iterable[tuple[str, int]]) -> None:
        """Adds counts to a day in `for_redis`, and if the day is within the window also to the evidence in memory."""
        if day not in self._days:
            self._drop_old_days()
        inside = day in self._days or day in last_days(self.window)
        here = (self._days.setdefault(day, {}), self._sum) if inside else ()
        for counts in (for_redis.setdefault(day, {}), *here):
            sums = counts.get(key)
            if sums is None:
                sums = counts[key] = {}
            for name, number in more:
                if number:
                    sums[name] = sums.get(name, 0) + number
        self._computed.pop(key, None)

    def take_unsent(self) -> dict[str, Counts]:
        """Removes and returns, by day, the counts that are not in Redis yet. Counts of answers that are still
        pending stay. The caller must add the result to Redis exactly once.
        """
        self._add_uncounted()
        unsent, self._unsent = self._unsent, {}
        return unsent

    def read(self, day: str, in_redis: Counts) -> None:
        """Replaces the evidence of `day` by the sum of the counts in Redis, `in_redis`, and the counts of this
        process that are not in Redis yet.

        `in_redis` must include all counts that `take_unsent` has returned.
        """
        self._add_uncounted()
        if day not in self._days:
            self._drop_old_days()
        counts = {key: dict(sums) for key, sums in in_redis.items()}
        _add(counts, self._unsent.get(day, {}))
        _add(counts, self._pending.get(day, {}))
        before = self._days.get(day, {})
        if counts != before:
            self._days[day] = counts
            self._add_to_sum(before, -1)
            self._add_to_sum(counts)

    def _drop_old_days(self) -> None:
        days = last_days(self.window)
        for day in self._days.keys() - set(days):
            self._add_to_sum(self._days.pop(day), -1)
            self._unsent.pop(day, None)
            if not self._pending.get(day):
                self._pending.pop(day, None)

    def _add_to_sum(self, more: Counts, sign: int = 1) -> None:
        _add(self._sum, more, sign)
        for key in more:
            self._computed.pop(key, None)


def _add(into: Counts, more: Counts, sign: int = 1) -> None:
    for key, sums in more.items():
        counts = into.setdefault(key, {})
        for name, number in sums.items():
            total = counts.get(name, 0) + sign * number
            if total:
                counts[name] = total
            else:
                counts.pop(name, None)
        if not counts:
            del into[key]


def evidence_of(counts: Mapping[str, int]) -> PathEvidence:
    rated, answers, evaluated = counts.get(RATED, 0), counts.get(ANSWERS, 0), max(0, counts.get(EVALUATED, 0))
    buckets = {int(name[1:]): number for name, number in counts.items() if name[0] == BUCKET}
    return PathEvidence(
        ratings=rated,
        quality=counts.get(RATING, 0) / UNITS_PER_RATING / rated if rated > 0 else 0.0,
        answers=answers,
        p95_seconds=PATH_LATENCY_BUCKETS.quantile(buckets, 0.95),
        mean_cost_usd=counts.get(COST, 0) / PICODOLLARS / answers if answers > 0 else 0.0,
        evaluated=evaluated,
        score=counts.get(SCORE, 0) / UNITS_PER_RATING / evaluated if evaluated else 0.0,
    )
