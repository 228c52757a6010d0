"""Reads how much memory this process may use, and raises its limit of open files and sockets."""

import resource
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def memory_limit(root: Path = _ROOT) -> int | None:
    """Returns the bytes of memory that this process may use: the machine's, or less if a control group limits it.

    Returns None if `proc/meminfo` does not give the machine's memory, as on macOS. `root` is the folder that contains
    `proc` and `sys`.
    """
    machine = _machine_memory(root)
    return min([*_control_group_limits(root), machine]) if machine is not None else None


def raise_open_files_limit() -> int:
    """Raises this process's soft limit of open files to the hard limit, and returns the soft limit that then applies.

    If the system refuses the new limit, the old one is returned. By default the soft limit is low for programs that use
    `select`; this project's servers do not use it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS refuses what it has announced
            return soft
    return hard


def _machine_memory(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        name, _, amount = line.partition(":")
        if name == "MemTotal":
            return int(amount.split()[0]) * 1024
    return None


def _control_group_limits(root: Path) -> Iterator[int]:
    """Yields the memory limits in bytes of this process's control group and of all groups around it (cgroup v1, v2)."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if not controllers:
            mount, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        inner = mount / group.strip("/")
        # Inside a container the group's path may be the host's, and then does not exist: the mount is the group.
        for folder in (inner, *inner.parents):
            for limit in _lines(folder / file):
                if limit.isdecimal():  # "max" is none
                    yield int(limit)
            if folder == mount:
                break


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("ascii", "replace").splitlines()
    except OSError:
        return []
