"""A scripted classifier that records the texts it gets."""

from collections.abc import Mapping

from pointsman_gateway.domain import UNKNOWN, Labels

TASKS = ("booking", "policy", "chat")


def labels(task: str, margin: float = 0.9, in_distribution_score: float = 1.0) -> Labels:
    """Returns the labels of a text. They abstain if the in-distribution score is below 0, as the real classifier
    does.
    """
    abstained = in_distribution_score < 0
    others = [other for other in TASKS if other != task]
    probabilities = ((task, (1 + margin) / 2), *((other, (1 - margin) / 2 / len(others)) for other in others))
    return Labels(
        task=UNKNOWN if abstained else task,
        confidence=probabilities[0][1],
        probabilities=probabilities,
        abstained=abstained,
        stage="encoder",
        margin=margin,
        in_distribution_score=in_distribution_score,
    )


class ScriptedClassifier:
    def __init__(self, says: Mapping[str, Labels]) -> None:
        """Takes the labels of each text; other texts are out of distribution."""
        self._says = says
        self.read: list[str] = []
        self.foreign: list[str] = []

    def glance(self, text: str) -> tuple[str, float] | None:
        return None

    async def classify(self, text: str, *, is_foreign: bool = False) -> Labels:
        self.read.append(text)
        if is_foreign:
            self.foreign.append(text)
        return self._says.get(text, labels("chat", 0.1, -3.0))
