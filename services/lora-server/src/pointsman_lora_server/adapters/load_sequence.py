"""The steps of one load: into the engine, the first answers, the comparison with PEFT, the health of the base model."""

import asyncio
import logging
from pathlib import Path

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.adapters.trials import Trials
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.engine.vllm_client import CompletionClient, VllmClient
from pointsman_lora_server.metrics import LoraServerMetrics
from pointsman_lora_server.smoke.reference import Reference, compare

log = logging.getLogger(__name__)

PROMPT = (
    "You answer the customers of a bank. Say what the message is about, in one short sentence, and name what has to be "
    "done next. Message: I was charged twice for the same train ticket last Friday and the shop tells me to ask you. "
    "Answer:"
)
"""Of typical length: the engine's first prefill and its first decoding steps with an adapter are slow."""

MAX_TOKENS = 4
"""Length of the answer, so that decoding is warmed up as well."""

MAX_REFERENCES = 64
"""References, some kilobytes each, that are kept until their version is loaded."""


class WarmUp:
    """Requests the first answers of a version and compares them with the reference of the smoke test."""

    def __init__(self, engine: CompletionClient) -> None:
        self._engine = engine
        self._references: dict[str, Reference] = {}
        self._verified: set[str] = set()

    def set_reference(self, version: str, reference: Reference) -> None:
        """Stores the answers that the next load of the version is compared with."""
        self._verified.discard(version)
        while len(self._references) >= MAX_REFERENCES:
            del self._references[next(iter(self._references))]
        self._references[version] = reference

    def needs_reference(self, version: str) -> bool:
        """Whether the version has been neither compared nor given a reference in this process."""
        return version not in self._verified and version not in self._references

    def has_reference(self, version: str) -> bool:
        """Whether the next load of the version is compared with a reference."""
        return version in self._references

    async def warm(self, version: AdapterVersion) -> None:
        """Raises InvalidArgument if the version cannot answer."""
        await self._engine.complete(version.version, PROMPT, MAX_TOKENS)

    async def verify(self, version: str) -> None:
        """Compares the engine's answers with the reference, once, if there is one.

        Raises InvalidArgument if they differ, NotFound if the version was evicted meanwhile.
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


class LoadSequence:
    """The steps of one load, in their order: `load`, a trial if it is needed, `verify`."""

    def __init__(self, engine: VllmClient, warm_up: WarmUp, trials: Trials, metrics: LoraServerMetrics) -> None:
        self.trials = trials
        self._engine = engine
        self._warm_up = warm_up
        self._metrics = metrics

    async def load(self, version: str, folder: Path) -> None:
        """Has the engine read the weights. Raises InvalidArgument if it rejects them, Unavailable if it is gone."""
        try:
            with self._metrics.time_load_step("engine"):
                await self._engine.load(version, folder)
        except InvalidArgument:
            await self.trials.check_engine(version)
            raise

    async def verify(self, version: str) -> None:
        """See `WarmUp.verify`."""
        if self._warm_up.has_reference(version):
            with self._metrics.time_load_step("comparison"):
                await self._warm_up.verify(version)
