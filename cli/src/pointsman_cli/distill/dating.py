"""How the collections of a task's topic stand, noted in the manifest of what is trained now."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pointsman_servicekit.document_sketches import MANIFEST_KEY_PREFIX

from pointsman_cli.retriever import calls

DATED = "data_unix"
"""The fact of a manifest that says when its data was taken, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class Dating:
    """Implements the training step's `Dates`."""

    retriever: str
    tenant: str
    collections: Sequence[str]

    async def __call__(self) -> Mapping[str, str]:
        """Raises PointsmanError where a collection is not there."""
        sketches = {name: await calls.sketch(self.retriever, self.tenant, name) for name in self.collections}
        return {
            DATED: str(round(time.time())),
            **{MANIFEST_KEY_PREFIX + name: str(sketch) for name, sketch in sketches.items()},
        }
