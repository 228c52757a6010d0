"""Steps of one load that call the engine: reading the weights, the trial, the comparison with PEFT."""

from pathlib import Path

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.adapters.trials import Trials
from pointsman_lora_server.adapters.warm_up import WarmUp
from pointsman_lora_server.engine.vllm_client import VllmClient
from pointsman_lora_server.metrics import LoraServerMetrics


class LoadSequence:
    """The steps of one load that call the engine. The caller runs `load`, a trial by `trials`, then `verify`."""

    def __init__(self, engine: VllmClient, warm_up: WarmUp, trials: Trials, metrics: LoraServerMetrics) -> None:
        self.trials = trials
        self._engine = engine
        self._warm_up = warm_up
        self._metrics = metrics

    async def load(self, version: str, folder: Path) -> None:
        """Makes the engine read a version's weights from `folder`.

        Raises as `VllmClient.load` does. If the engine rejects the weights, `Trials.check_engine` is called first, and
        its Unavailable is raised instead if the engine does not answer.
        """
        try:
            with self._metrics.time_load_step("engine"):
                await self._engine.load(version, folder)
        except InvalidArgument:
            await self.trials.check_engine(version)
            raise

    async def verify(self, version: str) -> None:
        """Compares the version's answers with its reference, if there is one. Raises as `WarmUp.verify` does."""
        if self._warm_up.has_reference(version):
            with self._metrics.time_load_step("comparison"):
                await self._warm_up.verify(version)
