"""The store: takes adapters in, hands them out whole, and removes them; where they lie is its shelf's business."""

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks.base import BaseModelSpec
from pointsman_lora_server.checks.files import WEIGHTS
from pointsman_lora_server.checks.samples import Sample, read_samples
from pointsman_lora_server.domain import AdapterVersion, check_name, check_version
from pointsman_lora_server.store.content import MANIFEST, content_hash
from pointsman_lora_server.store.failures import telling
from pointsman_lora_server.store.folder import FolderBackend
from pointsman_lora_server.store.receiving import ImportedAdapter, check_digest, import_adapter
from pointsman_lora_server.store.remote import RemoteBackend

MOST_FETCHED_BYTES = 8 << 30
MOST_FACTS, MOST_FACT_LENGTH = 64, 1024


class StoreBackend(Protocol):
    def scratch(self) -> AbstractContextManager[Path]: ...
    def put(self, copy: Path, version: AdapterVersion) -> None: ...
    def fetch(self, version: AdapterVersion) -> Path: ...
    def samples(self, version: AdapterVersion) -> bytes: ...
    def delete(self, version: AdapterVersion) -> None: ...


class ArtifactStore:
    """Copies first and checks the copy, so that what was checked is what is kept, whatever happens to the source.

    Its methods block, and may be called from several threads at once.
    """

    def __init__(
        self,
        root: str | Path,
        base: BaseModelSpec,
        max_rank: int,
        *,
        kept_here: Path | None = None,
        most_fetched_bytes: int = MOST_FETCHED_BYTES,
    ) -> None:
        """`root` is a folder, or an fsspec URL ("s3://bucket/adapters"); what is fetched from a URL is kept in the
        folder `kept_here`, up to about `most_fetched_bytes`. Raises ValueError for a URL that cannot be one."""
        self._root = str(root)
        self._base = base
        self._max_rank = max_rank
        self._shelf = _shelf(self._root, kept_here, most_fetched_bytes)

    def add(
        self, name: str, folder: Path, facts: Mapping[str, str], parent: str = "", author: str = ""
    ) -> AdapterVersion:
        """The version that `folder` holds; the same content again is the same version.

        Raises InvalidArgument with the reason of the refusal, NotFound where there is no folder, ResourceExhausted
        ("store_full"), Unavailable ("store_unavailable").
        """
        check_name(name)
        _check_words(facts, parent, author)
        check_digest(facts.get("base_model_digest", ""), "the fact base_model_digest", self._base)
        with telling(self._root), self._shelf.scratch() as scratch:
            copy = scratch / "adapter"
            copy.mkdir()
            received = import_adapter(folder, copy, self._base, self._max_rank)
            version = self._version(name, copy, received, facts, parent, author)
            (copy / MANIFEST).write_text(json.dumps(asdict(version), indent=2) + "\n", "utf-8")
            self._shelf.put(copy, version)
        return version

    def fetch(self, version: AdapterVersion) -> Path:
        """A folder of this machine where the version lies, whole.

        Raises NotFound (not in this store), FailedPrecondition (changed) or Unavailable.
        """
        check_version(version.version)
        return self._shelf.fetch(version)

    def samples(self, version: AdapterVersion) -> tuple[Sample, ...]:
        """Held-out rows that came with it; often none. Raises as `fetch` does."""
        check_version(version.version)
        return read_samples(self._shelf.samples(version))

    def delete(self, version: AdapterVersion) -> None:
        """An unknown one is no error, so that what was interrupted can be done again."""
        check_version(version.version)
        self._shelf.delete(version)

    def _version(
        self, name: str, copy: Path, received: ImportedAdapter, facts: Mapping[str, str], parent: str, author: str
    ) -> AdapterVersion:
        return AdapterVersion(
            name=name,
            sha256=content_hash(copy),
            base_model=self._base.served_name,
            rank=received.rank,
            target_modules=received.target_modules,
            bytes=(copy / WEIGHTS).stat().st_size,
            created_unix_ms=time.time_ns() // 1_000_000,
            facts={**facts, **received.facts},
            base_digest=self._base.digest,
            chat_template_sha256=self._base.chat_template_sha256,
            training_data_sha256=received.report.data_sha256,
            metrics=received.report.metrics,
            parent=parent or received.report.parent,
            author=author,
        )


def _shelf(root: str, kept_here: Path | None, most_fetched_bytes: int) -> StoreBackend:
    if "://" not in root:
        return FolderBackend(Path(root))
    if kept_here is None:
        raise ValueError(f"the store {root} needs a folder here for what is fetched from it")
    return RemoteBackend(root, kept_here, most_fetched_bytes)


def _check_words(facts: Mapping[str, str], parent: str, author: str) -> None:
    words = [*facts.keys(), *facts.values(), author]
    if len(facts) > MOST_FACTS or any(len(word) > MOST_FACT_LENGTH for word in words):
        raise InvalidArgument(
            f"facts are up to {MOST_FACTS}, each, as the author, of up to {MOST_FACT_LENGTH} characters",
            code="bad_facts",
            param="facts",
        )
    if parent:
        check_version(parent)
