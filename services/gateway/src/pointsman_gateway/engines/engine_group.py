"""A group of engines whose members are discovered by a lookup, of a DNS name or of a Kubernetes InferencePool.

An engine at a new endpoint joins the group. An engine whose endpoint has disappeared finishes its requests, and gets no
new ones.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pointsman_gateway.engines.engine_state import NOT_REPORTED, Engine, EngineState
from pointsman_gateway.engines.metrics import EngineMetrics

log = logging.getLogger(__name__)


class TrackedMember(Protocol):
    """Interface of one engine of a group, with its state. If the engine has a lora-server, the gateway watches it."""

    @property
    def state(self) -> EngineState: ...

    def stop(self) -> None:
        """Stops watching the engine's lora-server; called when a lookup no longer finds the engine."""
        ...


@dataclass(frozen=True, slots=True)
class _NumberedMember:
    number: int
    tracked: TrackedMember


class EngineGroup:
    """A group of engines: one member for each endpoint that the last successful lookup found, up to `max_members`.

    A failed lookup removes no member; the circuit breaker detects engines that are really gone.
    """

    def __init__(
        self,
        template: Engine,
        max_members: int,
        track: Callable[[Engine], TrackedMember],
        on_change: Callable[[], None],
        metrics: EngineMetrics,
        path: str = "",
    ) -> None:
        """Takes `template`, the settings from which each member's `Engine` is copied. While the group has no members,
        an engine that is never ready represents it. `path` stands between the endpoint and the API's paths in a
        member's URL.

        `track` makes a member's state and starts to watch the member's lora-server. `on_change` is called after
        `states` has changed.
        """
        self._placeholder = EngineState(template)
        self._path = path
        self._max_members = max_members
        self._track = track
        self._on_change = on_change
        self._metrics = metrics
        self._members: dict[str, _NumberedMember] = {}
        """By endpoint, the member."""
        self._logged_problem = self._logged_failure = ""
        metrics.group_has(template.name, 0, 0)

    @property
    def states(self) -> Sequence[EngineState]:
        """Returns the states of the group's engines, ordered by the members' numbers.

        If the group has no members, returns one placeholder state, which is never ready, with the reason why there are
        no members.
        """
        members = sorted(self._members.values(), key=lambda member: member.number)
        return [member.tracked.state for member in members] or [self._placeholder]

    def set_endpoints(self, endpoints: Collection[str], why_none: str = "") -> None:
        """Adds and removes members, so that there is one for each endpoint (HOST:PORT), up to `max_members`.

        Calls `on_change` if any was added or removed. Removed members finish their requests. `why_none` is the reason
        in the error that clients get if there are no endpoints.
        """
        removed = [endpoint for endpoint in self._members if endpoint not in endpoints]
        new = sorted(endpoint for endpoint in endpoints if endpoint not in self._members)
        free = self._max_members - len(self._members) + len(removed)
        for endpoint in removed:
            self._remove(endpoint)
        for endpoint in new[:free]:
            self._add(endpoint)
        if not self._members:
            self._explain(why_none)
        excess = len(new) - free
        self._log_once(
            f"{excess} endpoints are ignored, max_endpoints is {self._max_members}" if excess > 0 else why_none
        )
        if removed or new[:free]:
            self._on_change()
        self._metrics.group_has(self.name, len(self._members), max(0, excess))

    def lookup_succeeded(self, endpoints: Collection[str], why_none: str = "", *, ends_failure: bool = True) -> None:
        """Counts a successful lookup in the metrics, and passes `endpoints` and `why_none` to `set_endpoints`.

        With `ends_failure=False`, the lookup has a second part that may still fail; call `end_failure` once that has
        succeeded.
        """
        self._metrics.looked_up(self.name, "answered")
        if ends_failure:
            self.end_failure()
        self.set_endpoints(endpoints, why_none)

    def lookup_failed(self, reason: str) -> None:
        """Counts a failed lookup, logs `reason` if it is new, and keeps the members. If there are no members, clients
        get `reason` in their error.
        """
        self._metrics.looked_up(self.name, "failed")
        if reason != self._logged_failure:
            self._logged_failure = reason
            self._warn(reason)
        if not self._members:
            self._explain(reason)

    def end_failure(self) -> None:
        """Records that lookups succeed again, so that the next failure is logged even if its reason is the same as
        before.
        """
        self._logged_failure = ""

    def stop(self) -> None:
        """Stops watching the group's engines, and removes the group's gauges. Requests in progress may go on."""
        for member in self._members.values():
            member.tracked.stop()
        self._metrics.remove_group(self.name)

    def _explain(self, why_none: str) -> None:
        self._placeholder.update(replace(self._placeholder.engine, detail=why_none))

    def _add(self, endpoint: str) -> None:
        used = {member.number for member in self._members.values()}
        number = next(number for number in range(self._max_members) if number not in used)
        engine = self._new_member(number, endpoint)
        self._members[endpoint] = _NumberedMember(number, self._track(engine))
        self._metrics.group_changed(self.name, "came")
        log.info("engine %s: %s has joined", engine.name, endpoint)

    def _new_member(self, number: int, endpoint: str) -> Engine:
        group, has_url = self._placeholder.engine, bool(self._placeholder.engine.url)
        return replace(
            group,
            name=f"{group.name}/{number}",
            group=group.name,
            endpoint=endpoint,
            url=f"http://{endpoint}{self._path}" if has_url else "",
            ready=has_url,
            detail=NOT_REPORTED,
        )

    def _remove(self, endpoint: str) -> None:
        tracked = self._members.pop(endpoint).tracked
        tracked.state.retire()
        tracked.stop()
        self._metrics.group_changed(self.name, "went")
        engine, in_flight = tracked.state.engine, tracked.state.in_flight
        log.info("engine %s: %s has left, %d answers are in flight", engine.name, engine.endpoint, in_flight)

    def _log_once(self, problem: str) -> None:
        """Logs a problem when it begins or changes; an empty text ends it."""
        if problem and problem != self._logged_problem:
            self._warn(problem)
        self._logged_problem = problem

    def _warn(self, problem: str) -> None:
        log.warning("engines %s: %s; %d members", self.name, problem, len(self._members))

    @property
    def name(self) -> str:
        return self._placeholder.engine.name
