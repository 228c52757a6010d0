"""The classifier's labels of a request, and the decision on the path that answers it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pointsman_gateway.domain.path import Path
from pointsman_gateway.domain.value import Vector, value

UNKNOWN = "unknown"
"""The task of requests that fit no configured task."""

DECISION_ID_PREFIX = "dec_"
"""The prefix of a decision's id. Ids of answers have a further prefix, by their API, before it."""


@value
class Labels:
    """The classifier's result for a request: task, confidence, and whether it abstained."""

    task: str
    confidence: float
    probabilities: tuple[tuple[str, float], ...]
    """All tasks, most likely first; they add up to 1."""
    abstained: bool
    stage: str
    """The stage that decided: "forced", "rule:NAME", "static", "encoder", "conversation", "parts" (contradictory parts
    of a text), "language" or "no_tasks".
    """
    vector: Vector | None = None
    """The query's embedding, unit length; passed on so that it is computed only once."""
    margin: float = 0.0
    """The difference between the first and the second probability."""
    in_distribution_score: float = 0.0
    """The in-distribution score minus its threshold, or the log-odds of a conversation's task against none; below 0 the
    classifier abstains."""
    notes: tuple[str, ...] = ()
    """Other remarks, such as that only a part of the text was read, or that it is in another language."""
    user_words: str = ""
    """The part of the last turn that was classified; empty if that was all of it."""


@dataclass(frozen=True, slots=True)
class Considered:
    """One path in a decision: whether it was chosen, kept as a fallback or skipped, and why."""

    path: str
    outcome: str
    """ "chosen", "skipped", "fallback" or "escalation"."""
    reason: str


@value
class Decision:
    """The path that answers a request, why it was chosen, and where to go if it fails."""

    id: str
    task: str
    confidence: float
    path: Path
    reason: str
    stage: str
    considered: tuple[Considered, ...]
    alternatives: tuple[Path, ...]
    """The fallbacks if `path` fails before its first token, in order."""
    probabilities: tuple[tuple[str, float], ...] = ()
    expected_cost_usd: float | None = 0.0
    """None if the price of the path's model is unknown."""
    vector: Vector | None = None
    margin: float = 0.0
    in_distribution_score: float = 0.0
    notes: tuple[str, ...] = ()
    revision: str = ""
    """The revision of the configuration that decided."""
    escalation: tuple[Path, ...] = ()
    """If a validator rejects the answer of `path`, the first of these answers instead; at most once."""
    stream_unvalidated: frozenset[str] = frozenset()
    """Paths whose answers are streamed before they are validated, and so cannot be escalated."""
    random_key: str = ""
    """The key of the decision's random choices: its conversation's; empty if it is the user or the decision's id."""

    @property
    def is_buffered(self) -> bool:
        """Returns whether the whole answer of `path` is validated before any of it is sent."""
        return _is_buffered(self.path, self.escalation, self.stream_unvalidated)

    def with_fallback(self, reason: str) -> "Decision":
        """Returns the decision after `path` failed for `reason`: the first alternative takes its place.

        There must be one.
        """
        following, *rest = self.alternatives
        names = [path.name for path in self.escalation]
        further = self.escalation[names.index(following.name) + 1 :] if following.name in names else ()
        decision = replace(
            self,
            path=following,
            reason="fallback",
            alternatives=tuple(rest),
            escalation=further,
            notes=self._notes_with(following),
        )
        return decision._with_considered(
            Considered(self.path.name, "skipped", reason),
            *planned_escalation(following, further, self.stream_unvalidated),
            last=Considered(following.name, "fallback", f"after {self.path.name}: {reason}"),
        )

    def with_escalation(self, validator: str, reason: str) -> "Decision":
        """Returns the decision after `validator` rejected the answer of `path` for `reason`: the first path of
        `escalation`, which must have one, takes its place, and is not escalated again.
        """
        following = self.escalation[0]
        others = tuple(path for path in self.alternatives if path.name != following.name)
        decision = replace(
            self,
            path=following,
            reason=f"escalated:{validator}",
            alternatives=others,
            escalation=(),
            notes=self._notes_with(following),
        )
        return decision._with_considered(
            Considered(self.path.name, "skipped", f"refused: {reason}"),
            last=Considered(following.name, "escalation", f"after {self.path.name}: {validator}"),
        )

    def with_note(self, note: str) -> "Decision":
        return replace(self, notes=(*self.notes, note))

    def with_failed_escalation(self, reason: str, following: "Decision", failure: str) -> "Decision":
        """Returns the decision to send the answer of `path`, although it was rejected for `reason`.

        `following` is the decision that escalated; `failure` is why neither its path nor its alternatives could answer.
        """
        failed = (following.path, *following.alternatives)
        return replace(self, alternatives=(), escalation=())._with_considered(
            *(Considered(path.name, "skipped", failure) for path in failed),
            last=Considered(self.path.name, "chosen", f"refused: {reason}; but {following.path.name}: {failure}"),
        )

    def _notes_with(self, following: Path) -> tuple[str, ...]:
        """Returns the decision's notes joined with those of the path that takes over."""
        return tuple(dict.fromkeys((*self.notes, *following.notes)))

    def _with_considered(self, *updates: Considered, last: Considered) -> "Decision":
        """Replaces the entries of the paths in `updates`, and puts `last` at the end."""
        by_path = {considered.path: considered for considered in updates}
        others = (by_path.get(c.path, c) for c in self.considered if c.path != last.path)
        return replace(self, considered=(*others, last))


def planned_escalation(
    path: Path, escalation: Sequence[Path], stream_unvalidated: frozenset[str]
) -> tuple[Considered, ...]:
    """Returns the entry of the path that answers if the answer of `path` is rejected; empty if there is none."""
    if not _is_buffered(path, escalation, stream_unvalidated):
        return ()
    return (Considered(escalation[0].name, "escalation", f"if the answer of {path.name} is not accepted"),)


def _is_buffered(path: Path, escalation: Sequence[Path], stream_unvalidated: frozenset[str]) -> bool:
    return bool(escalation) and path.name not in stream_unvalidated
