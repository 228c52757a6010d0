"""Moves an alias to a version that this engine holds; a guarded one only to what has earned it."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from pointsman_servicekit.errors import FailedPrecondition

from pointsman_lora_server.domain import AdapterVersion, Alias

log = logging.getLogger(__name__)

MEASURES = ("exact", "json_f1", "word_f1")
"""Of held-out rows: the share answered exactly, the mean F1 of JSON fields or of words; the stricter first."""


class PromotionGate:
    """Fine-tuning must earn its place: where both were measured, a guarded alias takes no version that is no better
    than the prompt path. Where either was not, nobody knows, and it passes."""

    def __init__(self, guarded: frozenset[str]) -> None:
        """`guarded`: words of aliases, the part after the "@"."""
        self._guarded = guarded

    def check(self, version: AdapterVersion, word: str, force: bool) -> None:
        """Raises FailedPrecondition ("not_better")."""
        if force or word not in self._guarded:
            return
        measure, ours, prompting = _measured(version.metrics)
        if ours > prompting or not measure:
            return
        raise FailedPrecondition(
            f"{version.version} reached {ours:.3g} on the held-out rows ({measure}), and prompting the base model "
            f"{prompting:.3g}: it is registered, and '{version.name}@{word}' is not moved to it; force it if it earns "
            "its place otherwise (a shorter prompt, a lower price)",
            code="not_better",
            param="alias",
        )


def _measured(metrics: Mapping[str, float]) -> tuple[str, float, float]:
    """The strictest measure that tells anything of either, and what adapter and prompting reached by it.

    Free text is hardly ever answered exactly: where neither side was right once, the next measure is asked.
    """
    told = "", 0.0, 0.0
    for measure in MEASURES:
        ours, prompting = metrics.get(f"heldout_{measure}"), metrics.get(f"prompt_path_{measure}")
        if ours is None or prompting is None:
            continue
        told = measure, ours, prompting
        if ours > 0 or prompting > 0:
            break
    return told


class Aliases(Protocol):
    async def move(self, alias: str, version: str, expected: str = "", author: str = "", reason: str = "") -> Alias: ...
    async def settle_word(self, version: str, word: str = "") -> None: ...


class Promoter:
    def __init__(
        self, aliases: Aliases, gate: PromotionGate, ensure: Callable[[AdapterVersion], Awaitable[None]]
    ) -> None:
        """`ensure` returns once the version is resident here."""
        self._aliases = aliases
        self._gate = gate
        self._ensure = ensure

    async def publish(self, version: AdapterVersion, word: str, force: bool) -> None:
        """The alias that was wished when the version was registered. Raises what keeps it for now.

        What keeps it for ever, the gate, settles the wish.
        """
        try:
            self._gate.check(version, word, force)
        except FailedPrecondition as error:
            log.warning("%s", error.message)
            await self._aliases.settle_word(version.version, word)
            return
        await self._ensure(version)
        alias = await self._aliases.move(
            f"{version.name}@{word}", version.version, author=version.author, reason="registered for it"
        )
        await self._aliases.settle_word(version.version, word)
        log.info("%s points to %s (revision %d)", alias.alias, alias.version, alias.revision)
