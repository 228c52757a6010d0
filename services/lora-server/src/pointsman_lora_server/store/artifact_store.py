"""The artifact store: imports adapters from untrusted folders, and returns or deletes the stored versions."""

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks import untrusted_input
from pointsman_lora_server.checks.attachments import (
    SAMPLES,
    Sample,
    TrainingReport,
    read_report,
    read_samples,
    write_samples,
)
from pointsman_lora_server.checks.base_layers import BaseModelSpec
from pointsman_lora_server.checks.config import AdapterConfig, canonical_config, read_config
from pointsman_lora_server.checks.untrusted_input import CONFIG, REPORT, WEIGHTS, SourceFolder
from pointsman_lora_server.checks.weights import check_values, convert_dora, read_layout, weights_error
from pointsman_lora_server.domain import AdapterVersion, check_name, check_version
from pointsman_lora_server.store.folder_backend import FolderBackend
from pointsman_lora_server.store.layout import MANIFEST, content_hash, translating_disk_errors
from pointsman_lora_server.store.remote_backend import RemoteBackend
from pointsman_lora_server.store.sources import download, is_url

MAX_CACHE_BYTES = 8 << 30
MAX_FACTS, MAX_FACT_CHARACTERS = 64, 1024


class StoreBackend(Protocol):
    """Interface of the storage for adapter versions. FolderBackend stores them in a folder, RemoteBackend at an fsspec
    URL.

    `scratch` yields a temporary folder. `put` stores the files in `copy`, a folder in the temporary one, and may move
    them. `fetch` returns a local folder with the files of a version, and `samples` the content of its samples.jsonl
    (empty if there is none). `delete` deletes a version's files; it does nothing if the version is not stored.

    Methods raise ResourceExhausted ("store_full") if the storage is full, and Unavailable ("store_unavailable") if it
    cannot be used for another reason. `fetch` and `samples` also raise NotFound ("unknown_version") if the version is
    not stored, and FailedPrecondition ("hash_mismatch") if they find that its files were changed.
    """

    def scratch(self) -> AbstractContextManager[Path]: ...
    def put(self, copy: Path, version: AdapterVersion) -> None: ...
    def fetch(self, version: AdapterVersion) -> Path: ...
    def samples(self, version: AdapterVersion) -> bytes: ...
    def delete(self, version: AdapterVersion) -> None: ...


@dataclass(frozen=True, slots=True)
class ImportedAdapter:
    """The properties of an adapter that was copied and has passed all checks."""

    rank: int
    target_modules: tuple[str, ...]
    report: TrainingReport
    facts: Mapping[str, str]
    """Name -> value of notes on changes that the import has made, such as a conversion from DoRA; empty if it made
    none."""


class ArtifactStore:
    """Imports adapters, and returns or deletes stored versions. Methods block, and may be called from several threads.

    An adapter is copied first, and then the copy is checked, so that later changes of the source have no effect.
    """

    def __init__(
        self,
        root: str | Path,
        base: BaseModelSpec,
        max_rank: int,
        *,
        cache_folder: Path | None = None,
        max_cache_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        """`root` is the location of the store: a folder, or an fsspec URL such as "s3://bucket/adapters".

        Adapters must be made for the base model `base`, with at most the rank `max_rank`. Versions stored at a URL are
        cached in `cache_folder`, up to about `max_cache_bytes`. Raises ValueError if the URL is of an unknown kind, the
        package for it is not installed, or there is a URL but no `cache_folder`.
        """
        self._root = str(root)
        self._base = base
        self.max_rank = max_rank
        self._backend = _backend_for(self._root, cache_folder, max_cache_bytes)

    def add(
        self, name: str, source: str | Path, facts: Mapping[str, str], parent: str = "", author: str = ""
    ) -> AdapterVersion:
        """Imports an adapter from a folder or URL, and returns the record of its version.

        The version is determined by the configuration and the weights. If it is already stored, only its samples are
        replaced (at a URL also its training report). The record gets `facts`, `author` and `parent`, the version from
        which training started. If `parent` is empty, it is read from the adapter's training.json. If `source` is a URL,
        the record also gets the fact "source".

        Raises InvalidArgument if the adapter or an argument is not valid, NotFound if there is no such folder or
        repository, ResourceExhausted ("store_full") if the store is full, and Unavailable if the store
        ("store_unavailable") or the source cannot be reached.
        """
        check_name(name)
        _check_manifest_texts(facts, parent, author)
        check_digest(facts.get("base_model_digest", ""), "the fact base_model_digest", self._base)
        with translating_disk_errors(self._root), self._backend.scratch() as scratch:
            copy, folder = scratch / "adapter", Path(source)
            copy.mkdir()
            if is_url(source):
                folder = scratch.resolve() / "downloaded"
                folder.mkdir()
                download(str(source), folder, self._base.max_adapter_bytes(self.max_rank))
                facts = {**facts, "source": str(source)}
            imported = import_adapter(folder, copy, self._base, self.max_rank)
            version = self._version(name, copy, imported, facts, parent, author)
            (copy / MANIFEST).write_text(json.dumps(asdict(version), indent=2) + "\n", "utf-8")
            self._backend.put(copy, version)
        return version

    def fetch(self, version: AdapterVersion) -> Path:
        """Returns a local folder with the version's files.

        Raises InvalidArgument if the version's name is not valid, NotFound ("unknown_version") if the version is not
        stored, FailedPrecondition ("hash_mismatch") if its files were changed, ResourceExhausted ("store_full") if the
        disk is full, and Unavailable ("store_unavailable") if the store cannot be used.
        """
        check_version(version.version)
        return self._backend.fetch(version)

    def samples(self, version: AdapterVersion) -> tuple[Sample, ...]:
        """Returns the held-out rows that were registered with the version; empty if there were none.

        Raises InvalidArgument if the version's name is not valid or the stored rows are damaged ("bad_samples"),
        NotFound ("unknown_version") if the version is not stored, FailedPrecondition ("hash_mismatch") if its files
        were changed, and Unavailable ("store_unavailable") if the store cannot be used.
        """
        check_version(version.version)
        return read_samples(self._backend.samples(version))

    def delete(self, version: AdapterVersion) -> None:
        """Deletes a version's files. The method is idempotent, so an interrupted deletion can be repeated.

        Raises InvalidArgument if the version's name is not valid, and Unavailable ("store_unavailable") or
        ResourceExhausted ("store_full") if the store cannot be changed.
        """
        check_version(version.version)
        self._backend.delete(version)

    def _version(
        self,
        name: str,
        copy: Path,
        imported: ImportedAdapter,
        facts: Mapping[str, str],
        parent: str,
        author: str,
    ) -> AdapterVersion:
        return AdapterVersion(
            name=name,
            sha256=content_hash(copy),
            base_model=self._base.served_name,
            rank=imported.rank,
            target_modules=imported.target_modules,
            bytes=(copy / WEIGHTS).stat().st_size,
            created_unix_ms=time.time_ns() // 1_000_000,
            facts={**facts, **imported.facts},
            base_digest=self._base.digest,
            chat_template_sha256=self._base.chat_template_sha256,
            training_data_sha256=imported.report.data_sha256,
            metrics=imported.report.metrics,
            parent=parent or imported.report.parent,
            author=author,
        )


def import_adapter(folder: Path, copy: Path, base: BaseModelSpec, max_rank: int) -> ImportedAdapter:
    """Copies the adapter in `folder` into the folder `copy`, and checks that the copy fits the base model `base` and
    the rank `max_rank`.

    A DoRA is converted in the copy to a plain LoRA if the result is exact. Raises InvalidArgument if the adapter is
    damaged, unsafe, not supported, or made for another model, and NotFound if `folder` does not exist.
    """
    with untrusted_input.open_folder(folder) as source:
        config = read_config(source.read(CONFIG, "bad_config"), base, max_rank)
        _copy_weights(source, copy / WEIGHTS, base, config)
        samples = source.read_if_exists(SAMPLES, "bad_samples")
        raw_report = source.read_if_exists(REPORT, "bad_report")
    if samples is not None:
        (copy / SAMPLES).write_bytes(write_samples(read_samples(samples)))
    report = TrainingReport() if raw_report is None else read_report(raw_report)
    if raw_report is not None:
        (copy / REPORT).write_bytes(raw_report)
    check_digest(report.base_digest, "training.json", base)
    layout = read_layout(copy / WEIGHTS, config, base)
    check_values(copy / WEIGHTS, layout, config)
    facts = {}
    if config.is_dora:
        deviation = convert_dora(copy / WEIGHTS, layout, config, base)
        facts = {"converted_from": "DoRA", "converted_deviation": f"{deviation:.2g}"}
    (copy / CONFIG).write_bytes(canonical_config(config, list(layout.pairs)))
    targets = tuple(sorted(layout.pairs)) if config.targets.by_pattern else config.targets.names
    return ImportedAdapter(config.rank, targets, report, facts)


def check_digest(digest: str, source: str, base: BaseModelSpec) -> None:
    """Raises InvalidArgument ("wrong_base_model") if an adapter was trained on another base model than `base`.

    `digest` is the SHA-256 of the weights of the model on which it was trained; an empty digest is not compared.
    `source` names the place where the digest is stated, for the message.
    """
    if digest and base.digest and digest != base.digest:
        raise InvalidArgument(
            f"{source} says that the adapter was trained on a base model with the digest {digest[:12]}..., but this "
            f"engine serves '{base.served_name}' with {base.digest[:12]}...: another model, or another version of it. "
            "Train on the base model that the engine serves",
            code="wrong_base_model",
            param="folder",
        )


def _backend_for(root: str, cache_folder: Path | None, max_cache_bytes: int) -> StoreBackend:
    if "://" not in root:
        return FolderBackend(Path(root))
    if cache_folder is None:
        raise ValueError(f"the store {root} needs a local folder for its cache")
    return RemoteBackend(root, cache_folder, max_cache_bytes)


def _check_manifest_texts(facts: Mapping[str, str], parent: str, author: str) -> None:
    texts = [*facts.keys(), *facts.values(), author]
    if len(facts) > MAX_FACTS or any(len(text) > MAX_FACT_CHARACTERS for text in texts):
        raise InvalidArgument(
            f"there may be up to {MAX_FACTS} facts; each of them, and the author, up to {MAX_FACT_CHARACTERS} "
            "characters",
            code="bad_facts",
            param="facts",
        )
    if parent:
        check_version(parent)


def _copy_weights(source: SourceFolder, target: Path, base: BaseModelSpec, config: AdapterConfig) -> None:
    left = limit = base.max_adapter_bytes(config.rank)
    with source.open(WEIGHTS, "bad_weights") as read, target.open("xb") as written:
        if read.seek(0, 2) > limit:
            raise _too_large(base, config, limit)
        read.seek(0)
        while chunk := read.read(min(untrusted_input.CHUNK_BYTES, left + 1)):
            left -= len(chunk)
            if left < 0:  # it grows while it is read
                raise _too_large(base, config, limit)
            written.write(chunk)


def _too_large(base: BaseModelSpec, config: AdapterConfig, limit: int) -> InvalidArgument:
    return weights_error(
        f"is larger than an adapter of rank {config.rank} for '{base.served_name}' can be: {limit} bytes", "too_large"
    )
