"""The first answers of a version that the engine has just loaded: they warm it, and are compared with PEFT's."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.smoke.agreement import Answer, compare
from pointsman_lora_server.smoke.reference import Reference

log = logging.getLogger(__name__)

PROMPT = (
    "You answer the customers of a bank. Say what the message is about, in one short sentence, and name what has to be "
    "done next. Message: I was charged twice for the same train ticket last Friday and the shop tells me to ask you. "
    "Answer:"
)
"""As long as usual: the engine's first prefill and its first decoding steps with an adapter are slow."""

TOKENS = 4
"""Of the answer to it: decoding is warmed, too."""

MAX_REFERENCES = 64
"""References, some kilobytes each, that wait for their version to be loaded."""


class CompletionEngine(Protocol):
    """`VllmApi` says what it raises."""

    async def complete(self, model: str, prompt: str | Sequence[int], tokens: int) -> Answer: ...


class WarmUp:
    def __init__(self, engine: CompletionEngine) -> None:
        self._engine = engine
        self._references: dict[str, Reference] = {}
        self._agreed: set[str] = set()

    def expect(self, version: str, reference: Reference) -> None:
        """How PEFT answers with the version: its next load is compared with that."""
        self._agreed.discard(version)
        while len(self._references) >= MAX_REFERENCES:
            del self._references[next(iter(self._references))]
        self._references[version] = reference

    def needs_reference(self, version: str) -> bool:
        """Whether nothing here says how PEFT answers with the version."""
        return version not in self._agreed and version not in self._references

    async def warm(self, version: AdapterVersion) -> None:
        """Raises InvalidArgument where it cannot answer."""
        await self._engine.complete(version.version, PROMPT, TOKENS)

    async def agree(self, version: str) -> None:
        """Compares once, where PEFT's answers are at hand. Raises InvalidArgument where the engine's are others."""
        reference = self._references.get(version)
        if reference is None:
            return
        answers = await asyncio.gather(
            *(self._engine.complete(version, row.prompt_ids, len(row.token_ids)) for row in reference.rows)
        )
        agreement = compare(reference, answers)
        log.info("%s answers as in PEFT: %s", version, agreement)
        self._references.pop(version, None)
        self._agreed.add(version)
