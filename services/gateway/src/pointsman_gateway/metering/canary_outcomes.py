"""Counts how requests to aliases with a canary (a new adapter version that gets a part of the traffic) ended.

The counts are kept by version until they are reported to a lora-server.
"""

from collections.abc import Callable, Sequence

from pointsman_servicekit.canary_reports import CanaryReport, RequestCounts
from pointsman_servicekit.statistics import CANARY_LATENCY_BUCKETS

from pointsman_gateway.domain import Alias, Path, ResolvedAdapter

ERRORS = frozenset(
    {
        "engine_error",
        "engine_unavailable",
        "connect_timeout",
        "first_token_timeout",
        "stream_idle_timeout",
        "deadline_exceeded",
    }
)
"""Outcomes that count against the version: its engine failed and no other took over, or the request timed out."""

MAX_VERSIONS = 256
"""Maximum number of combinations of model, alias, revision and version that are counted between two reports."""

_Key = tuple[str, str, int, str]
"""Base model, alias, revision, version."""


def _ignore() -> None:
    pass


class CanaryOutcomes:
    """Counts in memory how requests to aliases with a canary (a new adapter version on trial) ended, by version."""

    def __init__(self, dropped: Callable[[], None] = _ignore) -> None:
        """Takes `dropped`, a function that is called for each request that is not counted.

        A request is not counted if `MAX_VERSIONS` versions have counts already, and the request's version has none.
        """
        self._dropped = dropped
        self._counts: dict[_Key, RequestCounts] = {}

    def add(self, path: Path, adapter: ResolvedAdapter, outcome: str, refused: bool, seconds: float) -> None:
        """Counts how a request ended that used the adapter version in `adapter`.

        `outcome` is "ok", "cancelled" or an error's code. Only "ok" and the codes in `ERRORS` are counted, because
        other ends are not the version's fault. `refused` says whether a validator rejected the answer, and `seconds`
        is how long a complete answer took.
        """
        failed = outcome in ERRORS
        if not failed and outcome != "ok":
            return
        counts = self._counts_of((path.model, path.adapter, adapter.revision, adapter.version))
        if counts is None:
            self._dropped()
            return
        counts.requests += 1
        if failed:
            counts.errors += 1
            return
        counts.invalid += refused
        bucket = CANARY_LATENCY_BUCKETS.index(seconds)
        counts.milliseconds[bucket] = counts.milliseconds.get(bucket, 0) + 1

    def rate(self, path: Path, alias: Alias, version: str, rating: float) -> None:
        """Counts a caller's rating (0 to 1) of an answer by `version`, one of the alias's two versions.

        The rating is dropped if counts of `MAX_VERSIONS` versions are kept already and `version` is not one of them.
        """
        counts = self._counts_of((path.model, alias.alias, alias.revision, version))
        if counts is not None:
            counts.rated += 1
            counts.rating += round(1000 * rating)

    def take(self) -> dict[str, list[CanaryReport]]:
        """Returns the counts as a list of reports for each base model's name, and resets all counts to zero. The caller
        must either report the counts to the lora-servers, or return them with `give_back`.
        """
        taken, self._counts = self._counts, {}
        reports: dict[str, list[CanaryReport]] = {}
        for (model, alias, revision, version), counts in taken.items():
            reports.setdefault(model, []).append(CanaryReport(alias, revision, version, counts))
        return reports

    def give_back(self, model: str, unreported: Sequence[CanaryReport]) -> None:
        """Adds the counts of reports for the base model `model` that could not be sent to the counts kept here.

        Counts of a version beyond `MAX_VERSIONS` are dropped, and `dropped` is called for each of their requests.
        """
        for one in unreported:
            counts = self._counts_of((model, one.alias, one.revision, one.version))
            if counts is not None:
                counts.add(one.counts)
                continue
            for _ in range(one.counts.requests):
                self._dropped()

    def _counts_of(self, key: _Key) -> RequestCounts | None:
        counts = self._counts.get(key)
        if counts is None and len(self._counts) < MAX_VERSIONS:
            counts = self._counts[key] = RequestCounts()
        return counts
