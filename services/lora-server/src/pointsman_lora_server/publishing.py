"""Moves an alias to a version that this engine holds; a guarded one only to what has earned it."""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from pointsman_servicekit.errors import FailedPrecondition

from pointsman_lora_server.domain import AdapterVersion, Alias

log = logging.getLogger(__name__)

MEASURED, PROMPTING = "heldout_exact", "prompt_path_exact"
"""Metrics of the manifest: shares of held-out rows answered exactly, by the adapter and by prompting alone."""


class Gate:
    """Fine-tuning must earn its place: where both were measured, a guarded alias takes no version that is no better
    than the prompt path. Where either was not, nobody knows, and it passes."""

    def __init__(self, guarded: frozenset[str]) -> None:
        """`guarded`: words of aliases, the part after the "@"."""
        self._guarded = guarded

    def check(self, version: AdapterVersion, word: str, force: bool) -> None:
        """Raises FailedPrecondition ("not_better")."""
        ours, prompting = version.metrics.get(MEASURED), version.metrics.get(PROMPTING)
        if force or word not in self._guarded or ours is None or prompting is None or ours > prompting:
            return
        raise FailedPrecondition(
            f"{version.version} answered {ours:.3g} of the held-out rows exactly, and prompting the base model "
            f"{prompting:.3g}: it is registered, and '{version.name}@{word}' is not moved to it; force it if it earns "
            "its place otherwise (a shorter prompt, a lower price)",
            code="not_better",
            param="alias",
        )


class Aliases(Protocol):
    async def move(self, alias: str, version: str, expected: str = "", author: str = "", reason: str = "") -> Alias: ...
    async def settle_word(self, version: str, word: str = "") -> None: ...


class Publishing:
    def __init__(self, aliases: Aliases, gate: Gate, ensure: Callable[[AdapterVersion], Awaitable[None]]) -> None:
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
