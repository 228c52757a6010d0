"""The validator `complete`: neither empty nor cut off."""

from pointsman_gateway.validation.transcript import Choice

CUT_OFF = {
    "length": "cut off at its longest",
    "content_filter": "cut off by a filter",
    "abort": "broken off",
    "error": "broken off",
}
"""By the engine's finish reason."""


class Complete:
    name = "complete"

    def objection(self, choice: Choice) -> str | None:
        if choice.finish_reason in CUT_OFF:
            return CUT_OFF[choice.finish_reason]
        return None if choice.text.strip() or choice.calls_tools else "empty"
