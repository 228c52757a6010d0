"""A guardrail that finds words of a list."""

import re
from collections.abc import Sequence

from pointsman_gateway.extensions import Finding, GuardedText, Guardrail, GuardrailContext, Hook


class ForbiddenWords(Guardrail):
    Options = tuple[str, ...]

    def __init__(self, options: tuple[str, ...], context: GuardrailContext) -> None:
        self._words = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in options), re.IGNORECASE)

    async def find(self, hook: Hook, texts: Sequence[GuardedText]) -> list[Finding]:
        return [
            Finding("FORBIDDEN_WORD", number, match.start(), match.end())
            for number, text in enumerate(texts)
            for match in self._words.finditer(text.text)
        ]
