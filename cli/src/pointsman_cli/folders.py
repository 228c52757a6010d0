"""What lies in a folder, and what of it cannot be read: that must not be taken for gone."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Inside:
    files: tuple[Path, ...]
    problems: tuple[str, ...]
    """Each names a folder that cannot be read."""


def look_into(folder: Path) -> Inside:
    """At any depth; hidden files and folders are left out, links to folders are not followed."""
    files: list[Path] = []
    problems: list[str] = []

    def note(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be read: {error.strerror}")

    for where, folders, names in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(where, name) for name in names if not name.startswith(".")]
    return Inside(tuple(sorted(filter(_may_be_read, files))), tuple(problems))


def _may_be_read(file: Path) -> bool:
    """Also what cannot be looked at: it is named by whoever reads it."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:  # a link to nothing
        return False
    except OSError:
        return True
