"""Moves an alias to a version that this engine holds. A protected alias accepts only a version that beats prompting."""

import logging
from collections.abc import Awaitable, Callable, Mapping

from pointsman_servicekit.errors import FailedPrecondition

from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.registry import AdapterRegistry

log = logging.getLogger(__name__)

METRICS = ("exact", "json_f1", "word_f1")
"""Measured on held-out rows, strictest first: the share answered exactly, and the mean F1 of JSON fields or of
words."""


class PromotionGate:
    """Compares a version with the prompt path before a protected alias is moved to it.

    A version passes if its score is higher, or if either score is missing, since then nothing is known.
    """

    def __init__(self, protected: frozenset[str]) -> None:
        """`protected`: alias suffixes, the part after the "@"."""
        self._protected = protected

    def check(self, version: AdapterVersion, alias_suffix: str, force: bool) -> None:
        """Raises FailedPrecondition ("not_better")."""
        if force or alias_suffix not in self._protected:
            return
        metric, adapter, prompting = _strictest_scores(version.metrics)
        if adapter > prompting or not metric:
            return
        raise FailedPrecondition(
            f"{version.version} reached {adapter:.3g} on the held-out rows ({metric}), and prompting the base model "
            f"{prompting:.3g}: it is registered, and '{version.name}@{alias_suffix}' is not moved to it; force it if "
            "it is better in another way (a shorter prompt, a lower price)",
            code="not_better",
            param="alias",
        )


def _strictest_scores(metrics: Mapping[str, float]) -> tuple[str, float, float]:
    """The strictest metric with a score above 0 on either side, then the adapter's and the prompt path's score.

    Free text is rarely answered exactly, so a metric on which both sides score 0 gives way to the next one. The name is
    empty if no metric was measured for both.
    """
    scores = "", 0.0, 0.0
    for metric in METRICS:
        adapter, prompting = metrics.get(f"heldout_{metric}"), metrics.get(f"prompt_path_{metric}")
        if adapter is None or prompting is None:
            continue
        scores = metric, adapter, prompting
        if adapter > 0 or prompting > 0:
            break
    return scores


class Promoter:
    """Carries out the move of an alias that was requested when a version was registered."""

    def __init__(
        self,
        registry: AdapterRegistry,
        gate: PromotionGate,
        ensure_loaded: Callable[[AdapterVersion], Awaitable[None]],
    ) -> None:
        """`ensure_loaded` returns when the version is resident here."""
        self._registry = registry
        self._gate = gate
        self._ensure_loaded = ensure_loaded

    async def promote(self, version: AdapterVersion, alias_suffix: str, force: bool) -> None:
        """Moves the alias and clears the request. Raises the error if the move can be retried.

        A rejection by the gate is final: it is logged and the request is cleared.
        """
        try:
            self._gate.check(version, alias_suffix, force)
        except FailedPrecondition as error:
            log.warning("%s", error.message)
            await self._registry.clear_alias_request(version.version, alias_suffix)
            return
        await self._ensure_loaded(version)
        alias = await self._registry.move_alias(
            f"{version.name}@{alias_suffix}", version.version, author=version.author, reason="registered for it"
        )
        await self._registry.clear_alias_request(version.version, alias_suffix)
        log.info("%s points to %s (revision %d)", alias.alias, alias.version, alias.revision)
