"""How many of a JSON answer's fields are right."""

from typing import Any

from pointsman_scoring.json_values import NOTHING, leaves, parsed, structure
from pointsman_scoring.metric import MetricError


class JsonFields:
    """F1 over the flattened fields: one that is missing costs as much as one that is invented. No JSON is 0."""

    def score(self, answer: str, expected: Any) -> float:
        structured = structure(expected)
        if structured is NOTHING:
            raise MetricError(f"json_fields compares with an object or an array; the label is {expected!r}")
        got, wanted = parsed(answer), leaves(structured)
        if got is NOTHING:
            return 0.0
        found = leaves(got)
        right = sum(where in found and found[where] == leaf for where, leaf in wanted.items())
        return 2 * right / (len(found) + len(wanted))
