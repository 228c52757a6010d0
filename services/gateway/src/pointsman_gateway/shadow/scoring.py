"""How good both answers of a pair are: by the validators at once, by the right answer once somebody says it."""

from collections.abc import Callable, Mapping
from typing import Protocol

from pointsman_gateway.config.schema import ShadowConfig
from pointsman_gateway.domain import Receipt
from pointsman_gateway.request_log.evidence import EvidenceStore
from pointsman_gateway.shadow.metrics import ShadowMetrics
from pointsman_gateway.shadow.pairs import Pair, regret_of

Score = Callable[[str, str], float]
"""From an answer and the right one to 0 (bad) to 1 (good). Raises ValueError where the right one is none."""


class Keeps(Protocol):
    """Holds pairs until somebody says what the right answer was."""

    def keep(self, pair: Pair) -> None:
        """Never waits, never fails."""
        ...


class Scoring:
    """Implements the stage's `Takes`: what a pair shows goes to the evidence of its paths, and is counted."""

    def __init__(
        self,
        board: EvidenceStore,
        metrics: ShadowMetrics,
        pairs: Keeps | None,
        scores: Callable[[], Mapping[str, Score]],
    ) -> None:
        """`scores` by task, of the configuration that serves; `pairs`: None where no text is kept."""
        self._board = board
        self._metrics = metrics
        self._pairs = pairs
        self._scores = scores

    def take(self, pair: Pair, receipt: Receipt, terms: ShadowConfig) -> None:
        self._board.answered(receipt)
        self._metrics.paired(pair)
        if terms.rate_by == "validators":
            self._by_validators(pair)
        elif self._pairs is not None and pair.chosen.text and pair.other.text and pair.task in self._scores():
            self._pairs.keep(pair)

    def mark(self, pair: Pair, right_answer: str, rated: bool) -> None:
        """`rated`: the caller's answer has a rating of its own, which stands. Raises ValueError."""
        score = self._scores().get(pair.task)
        if score is None:
            return  # the task has another metric by now
        chosen, other = score(pair.chosen.text, right_answer), score(pair.other.text, right_answer)
        if not rated:
            self._board.rated(pair.chosen.cell, pair.day, chosen)
        self._board.rated(pair.other.cell, pair.day, other)
        self._metrics.scored(pair, chosen, other, regret_of(pair, chosen, other))

    def _by_validators(self, pair: Pair) -> None:
        chosen, other = pair.chosen.quality, pair.other.quality
        if chosen is None or other is None:
            return
        self._board.rated(pair.chosen.cell, pair.day, chosen)
        self._board.rated(pair.other.cell, pair.day, other)
        self._metrics.scored(pair, chosen, other, regret_of(pair, chosen, other))
