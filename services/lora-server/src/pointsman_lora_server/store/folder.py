"""Versions in a folder of this machine, or of a volume that is mounted here."""

import os
import shutil
import threading
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from pointsman_servicekit.errors import FailedPrecondition, NotFound

from pointsman_lora_server.checks.samples import SAMPLES
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.store.content import BESIDE, HASHED, MANIFEST, hash_or_none, place
from pointsman_lora_server.store.failures import telling
from pointsman_lora_server.store.scratch import scratch_folder, sweep

Stamp = tuple[tuple[int, int, int, int], ...]


class FolderBackend:
    """A version appears whole, by a rename, and goes the same way."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._hashed: dict[Path, tuple[str, Stamp]] = {}
        self._lock = threading.Lock()
        sweep(self.root)

    def scratch(self) -> AbstractContextManager[Path]:
        return scratch_folder(self.root)

    def put(self, copy: Path, version: AdapterVersion) -> None:
        """`copy` is below a scratch folder of this shelf, and is moved. The same content twice stays the first."""
        with telling(str(self.root)):
            for name in (*HASHED, *BESIDE, MANIFEST):
                with suppress(FileNotFoundError):
                    _settle(copy / name)
            target = self._target(version)
            if (target / MANIFEST).is_file() and self._is_whole(target, version):
                self._put_samples(copy, target)
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                # Changed since it was stored: the same content, whole again, takes its place.
                target.rename(copy.with_name(f"{copy.name}.damaged"))
            try:
                copy.rename(target)
            except OSError:
                if not self._is_whole(target, version):  # another process may have been faster
                    raise
            _sync_folder(target.parent)
            _sync_folder(self.root)

    def fetch(self, version: AdapterVersion) -> Path:
        """Where it lies, whole. Raises NotFound (it is not here) or FailedPrecondition (it was changed)."""
        target = self._target(version)
        if not (target / MANIFEST).is_file():
            raise NotFound(
                f"{version.version} is not in the store {self.root}; register it here", code="unknown_version"
            )
        with telling(str(self.root)):
            whole = self._is_whole(target, version)
        if not whole:
            raise FailedPrecondition(
                f"{target} was changed since it was stored; register {version.version} again", code="hash_mismatch"
            )
        return target

    def samples(self, version: AdapterVersion) -> bytes:
        """Empty where none were given. Raises NotFound."""
        with telling(str(self.root)), suppress(FileNotFoundError):
            return (self.fetch(version) / SAMPLES).read_bytes()
        return b""

    def delete(self, version: AdapterVersion) -> None:
        """Gone at once for all who look; an unknown one is no error. A death in between leaves what is swept later."""
        target = self._target(version)
        with telling(str(self.root)), suppress(FileNotFoundError):
            with self.scratch() as scratch:
                target.rename(scratch / "deleted")
                _sync_folder(target.parent)
                shutil.rmtree(scratch / "deleted")
            with suppress(OSError):
                target.parent.rmdir()  # stays where other versions of the adapter are left
        with self._lock:
            self._hashed.pop(target, None)

    def _target(self, version: AdapterVersion) -> Path:
        return self.root.joinpath(*place(version))

    def _is_whole(self, target: Path, version: AdapterVersion) -> bool:
        """Reads and hashes once a process; then only looks whether the files are the ones that were hashed."""
        stamp = _stamp(target)
        if stamp is None:
            return False
        with self._lock:
            known = self._hashed.get(target)
        if known is None or known[1] != stamp:
            digest = hash_or_none(target)
            if digest is None:
                return False
            known = (digest, stamp)
            with self._lock:
                self._hashed[target] = known
        return known[0] == version.sha256

    def _put_samples(self, copy: Path, target: Path) -> None:
        """The newest are kept: they try a version, and may be what was wrong with its first trial."""
        new = copy / SAMPLES
        with suppress(FileNotFoundError):
            if new.read_bytes() != (target / SAMPLES).read_bytes():
                new.replace(target / SAMPLES)
            return
        with suppress(FileNotFoundError):
            new.replace(target / SAMPLES)


def _stamp(folder: Path) -> Stamp | None:
    """What changes whenever one of the files does; the time of change (ctime) cannot be set back."""
    try:
        found = [(folder / name).stat() for name in HASHED]
    except OSError:
        return None
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found)


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
