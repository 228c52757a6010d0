"""The steps of loading an adapter version in which the engine is called: reading the weights, a trial, and comparing
the answers with those of PEFT.
"""

from pathlib import Path

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.adapters.trials import Trials
from pointsman_lora_server.adapters.warm_up import WarmUp
from pointsman_lora_server.engine.vllm_client import VllmClient
from pointsman_lora_server.metrics import LoraServerMetrics


class LoadSequence:
    """The steps of loading an adapter version in which the engine is called.

    The caller runs `load`, then a trial with `trials`, then `verify`.
    """

    def __init__(self, engine: VllmClient, warm_up: WarmUp, trials: Trials, metrics: LoraServerMetrics) -> None:
        self.trials = trials
        self._engine = engine
        self._warm_up = warm_up
        self._metrics = metrics

    async def load(self, version: str, folder: Path) -> None:
        """Makes the engine read a version's weights from `folder`.

        Raises InvalidArgument ("engine_refused") if the engine rejects the weights, FailedPrecondition ("engine_store")
        if the engine does not find `folder` on its disk, ResourceExhausted ("no_slot") if the engine's memory for
        adapters is full, and Unavailable if the engine does not answer. If the engine rejects the weights, the base
        model is probed, and the engine is restarted if the base model's answers have changed.
        """
        try:
            with self._metrics.time_load_step("engine"):
                await self._engine.load(version, folder)
        except InvalidArgument:
            await self.trials.check_engine(version)
            raise

    async def verify(self, version: str) -> None:
        """Compares the version's answers in the engine with its reference answers (computed with PEFT), if there are
        any.

        Raises InvalidArgument if they differ or the version cannot answer, NotFound if the version was evicted
        meanwhile, and Unavailable if the engine does not answer.
        """
        if self._warm_up.has_reference(version):
            with self._metrics.time_load_step("comparison"):
                await self._warm_up.verify(version)
