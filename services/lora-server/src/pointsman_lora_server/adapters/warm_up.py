"""Requests an adapter version's first answer, which warms the engine up, and compares its answers with those of the
base model and with reference answers computed by PEFT.
"""

import asyncio
import logging

from pointsman_lora_server.adapters.effect import EffectCheck
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.engine.completion import CompletionClient
from pointsman_lora_server.smoke.reference import Reference, compare

log = logging.getLogger(__name__)

PROMPT = (
    "You answer the customers of a bank. Say what the message is about, in one short sentence, and name what has to be "
    "done next. Message: I was charged twice for the same train ticket last Friday and the shop tells me to ask you. "
    "Answer:"
)
"""The prompt of the first request to a version. It has a typical length, because the engine's first prefill with an
adapter is slow."""

MAX_TOKENS = 4
"""Number of tokens of a version's first answer. More than one token is requested, so that decoding is warmed up as
well."""

MAX_REFERENCES = 64
"""The largest number of versions (some kilobytes each) whose reference answers are stored until they are compared."""


class WarmUp:
    """Requests the first answers of an adapter version from the engine.

    Compares them with the base model's answers, and with the reference answers that the smoke test computed with PEFT.
    """

    def __init__(self, engine: CompletionClient, base_model: str) -> None:
        """Takes the engine's client, and the name under which the engine serves the base model."""
        self._engine = engine
        self._effect = EffectCheck(engine, base_model)
        self._references: dict[str, Reference] = {}
        self._verified: set[str] = set()

    def set_reference(self, version: str, reference: Reference) -> None:
        """Stores the version's reference answers, with which `verify` compares the engine's answers.

        If there are already `MAX_REFERENCES` references, the oldest one is dropped.
        """
        self._verified.discard(version)
        while len(self._references) >= MAX_REFERENCES:
            del self._references[next(iter(self._references))]
        self._references[version] = reference

    def needs_reference(self, version: str) -> bool:
        """Returns whether a smoke test has to compute reference answers for the version.

        It does not have to while some are stored, nor after `verify` has found that the engine's answers agree with the
        last ones.
        """
        return version not in self._verified and version not in self._references

    def has_reference(self, version: str) -> bool:
        """Returns whether reference answers of the version are stored with which `verify` has yet to compare the
        engine's answers.
        """
        return version in self._references

    async def warm(self, version: AdapterVersion) -> None:
        """Requests a first answer of the version, and checks that the version changes the base model's answers.

        Raises InvalidArgument if the version cannot answer or answers as the base model does ("no_effect"), NotFound if
        the engine does not hold it, and Unavailable if the engine does not answer.
        """
        answer = await self._engine.complete(version.version, PROMPT, MAX_TOKENS)
        await self._effect.check(version.version, PROMPT, answer)

    async def verify(self, version: str) -> None:
        """Compares the engine's answers with the version's reference answers, and drops these if they agree. Does
        nothing if there are none.

        Raises InvalidArgument if the answers differ (see `reference.compare`) or the version cannot answer, NotFound if
        the version was evicted meanwhile, and Unavailable if the engine does not answer.
        """
        reference = self._references.get(version)
        if reference is None:
            return
        answers = await asyncio.gather(
            *(self._engine.complete(version, row.prompt_ids, len(row.token_ids)) for row in reference.rows)
        )
        agreement = compare(reference, answers)
        log.info("%s answers as it does in PEFT: %s", version, agreement)
        self._references.pop(version, None)
        self._verified.add(version)
