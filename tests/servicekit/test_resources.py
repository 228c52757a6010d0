"""The memory and open files that the system allows a process."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from pointsman_servicekit.resources import memory_limit

MACHINE = 8_000_000 * 1024


def system(root: Path, cgroup: str, limits: dict[str, str]) -> Path:
    """Writes the files of a Linux system below `root`: the process's control group, and its limits by the file's
    name.
    """
    files = {"proc/meminfo": "MemTotal:        8000000 kB\nMemFree: 1 kB\n", "proc/self/cgroup": cgroup, **limits}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("0::/\n", {"sys/fs/cgroup/memory.max": "1073741824\n"}, 1 << 30),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max\n"}, MACHINE),
        ("0::/a/b\n", {"sys/fs/cgroup/a/memory.max": "1000\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 1000),
        ("0::/kubepods/pod1\n", {"sys/fs/cgroup/memory.max": "2000\n"}, 2000),
        ("4:cpu:/x\n3:memory:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "3000\n"}, 3000),
        ("3:memory:/\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{1 << 63}\n"}, MACHINE),
        ("", {}, MACHINE),
    ],
    ids=["container", "no limit", "of a parent", "path of the host", "version 1", "version 1 without", "none"],
)
def test_the_memory_limit_is_the_smallest_around_the_process(
    tmp_path: Path, cgroup: str, limits: dict[str, str], expected: int
) -> None:
    assert memory_limit(system(tmp_path, cgroup, limits)) == expected


def test_the_memory_is_unknown_on_other_systems(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None


def test_this_machine_tells_its_memory() -> None:
    limit = memory_limit()
    assert limit is not None
    assert limit > 1 << 28


def test_the_limit_of_open_files_is_raised_to_the_hard_one() -> None:
    program = (
        "import resource; from pointsman_servicekit.resources import raise_open_files_limit\n"
        "print(raise_open_files_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = min(hard, 1024) if hard != resource.RLIM_INFINITY else 1024
    run = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [str(hard)] * 3
