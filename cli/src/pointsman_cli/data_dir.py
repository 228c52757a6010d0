"""The folder where one machine's models, state and logs are kept (`.pointsman`)."""

import os
from dataclasses import dataclass
from pathlib import Path

EMBEDDING_MODEL = "minilm"
PRIVATE = 0o077
"""The umask under which files are 0600 and folders 0700."""


@dataclass(frozen=True, slots=True)
class DataDir:
    folder: Path

    @classmethod
    def at(cls, folder: Path) -> "DataDir":
        return cls(folder.absolute())

    def model(self, name: str) -> Path:
        return self.folder / "models" / name

    @property
    def embedding_model(self) -> Path:
        return self.model(EMBEDDING_MODEL)

    @property
    def adapters(self) -> Path:
        return self.folder / "adapters"

    @property
    def fetched_adapters(self) -> Path:
        """From a store elsewhere."""
        return self.folder / "adapters-fetched"

    @property
    def jobs(self) -> Path:
        """Of training."""
        return self.folder / "jobs"

    @property
    def retriever(self) -> Path:
        return self.folder / "retriever"

    @property
    def valkey(self) -> Path:
        return self.folder / "valkey"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    @property
    def run_file(self) -> Path:
        return self.folder / "run.json"

    @property
    def lock_file(self) -> Path:
        return self.folder / "up.lock"


def make_private(folder: Path) -> None:
    """Makes `folder` unreadable to other users, as is all that this process and its children write from now on.

    Prompts, answers and keys are in there. Raises OSError.
    """
    os.umask(PRIVATE)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # it may be an older one
