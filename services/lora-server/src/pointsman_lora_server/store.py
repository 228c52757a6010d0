"""The adapter store: STORE/NAME/HASH12/ holds an adapter that never changes, named by its content."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound

from pointsman_lora_server.checks.base import Base
from pointsman_lora_server.checks.config import read_config
from pointsman_lora_server.checks.files import CONFIG, WEIGHTS, check_files
from pointsman_lora_server.checks.weights import check_weights
from pointsman_lora_server.domain import AdapterVersion, check_name, check_version

MANIFEST = "manifest.json"
INCOMING = ".incoming"  # no adapter can be called that: names have no dot


class Store:
    """Copies first and checks the copy, so that what was checked is what is kept, whatever happens to the source."""

    def __init__(self, root: Path, base: Base, max_rank: int) -> None:
        self._root = root.absolute()
        self._base = base
        self._max_rank = max_rank

    def add(self, name: str, folder: Path, facts: Mapping[str, str]) -> AdapterVersion:
        """The version that `folder` holds; the same content again is the same version.

        Raises InvalidArgument with the reason of the refusal, NotFound where there is no folder.
        """
        check_name(name)
        check_files(folder)
        config = read_config((folder / CONFIG).read_bytes(), self._base, self._max_rank)
        self._check_size(folder / WEIGHTS, config.rank)
        incoming = self._root / INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=incoming) as scratch:
            copy = Path(scratch) / "adapter"
            copy.mkdir()
            (copy / CONFIG).write_bytes(config.canonical)
            shutil.copyfile(folder / WEIGHTS, copy / WEIGHTS, follow_symlinks=False)
            check_weights(copy / WEIGHTS, config, self._base)
            version = AdapterVersion(
                name=name,
                sha256=content_hash(copy),
                base_model=self._base.served_name,
                rank=config.rank,
                target_modules=config.target_modules,
                bytes=(copy / WEIGHTS).stat().st_size,
                created_unix_ms=time.time_ns() // 1_000_000,
                facts=dict(facts),
            )
            (copy / MANIFEST).write_text(json.dumps(asdict(version), indent=2) + "\n", "utf-8")
            self._keep(copy, version, Path(scratch) / "damaged")
        return version

    def folder(self, version: str, sha256: str) -> Path:
        """Where the version lies, whole. Raises NotFound (not in this store) or FailedPrecondition (changed)."""
        check_version(version)
        name, _, digits = version.partition("@")
        folder = self._root / name / digits
        if not folder.is_dir():
            raise NotFound(f"{version} is not in the store {self._root}; register it here", code="unknown_version")
        if _hash_or_none(folder) != sha256:
            raise FailedPrecondition(
                f"{folder} was changed since it was stored; register {version} again", code="hash_mismatch"
            )
        return folder

    def _check_size(self, weights: Path, rank: int) -> None:
        size, most = weights.stat().st_size, self._base.most_bytes(rank)
        if size > most:
            raise InvalidArgument(
                f"{WEIGHTS} has {size} bytes; one of rank {rank} for '{self._base.served_name}' has {most} at most",
                code="bad_weights",
                param="folder",
            )

    def _keep(self, copy: Path, version: AdapterVersion, damaged: Path) -> None:
        for file in (CONFIG, WEIGHTS, MANIFEST):
            _settle(copy / file)
        target = self._root / version.name / version.version.partition("@")[2]
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            if _hash_or_none(target) == version.sha256:
                return
            target.rename(damaged)  # changed since it was stored: the same content, whole again, takes its place
        copy.rename(target)
        _sync_folder(target.parent)


def content_hash(folder: Path) -> str:
    """SHA-256 over both files, each preceded by its name and its length, so that no byte can change sides."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as file:
            digest.update(f"{name}\n{os.fstat(file.fileno()).st_size}\n".encode())
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _hash_or_none(folder: Path) -> str | None:
    try:
        return content_hash(folder)
    except OSError:
        return None


def _settle(path: Path) -> None:
    """On the disk, and not to be changed by mistake."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.chmod(0o444)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
