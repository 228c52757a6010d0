"""How the collections of a teacher stand, noted in the manifest of what it taught."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pointsman_cli.errors import CommandError
from pointsman_cli.retriever import calls

COLLECTIONS, DATED = "collections", "data_unix"
"""Facts of a manifest: "NAME=VERSION NAME=VERSION", as the retriever counts changes; and when that was."""


@dataclass(frozen=True, slots=True)
class Dating:
    """Implements the training step's `Dates`."""

    retriever: str
    tenant: str
    collections: Sequence[str]

    async def __call__(self) -> Mapping[str, str]:
        """Raises CommandError where a collection is not there."""
        dated = {DATED: str(round(time.time()))}
        if not self.collections:
            return dated
        versions = {one.name: one.version for one in await calls.list_collections(self.retriever, self.tenant)}
        missing = [name for name in self.collections if name not in versions]
        if missing:
            raise CommandError(f"the retriever has no collection '{missing[0]}'; known: {', '.join(sorted(versions))}")
        return {**dated, COLLECTIONS: " ".join(f"{name}={versions[name]}" for name in self.collections)}
