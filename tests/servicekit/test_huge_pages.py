"""Large pages for memory that is in use. Each test runs a process of its own, whose memory is not yet in such pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pointsman_servicekit import huge_pages

PROGRAM = """
import mmap, re, sys
from pathlib import Path
from pointsman_servicekit.huge_pages import use_huge_pages

def megabytes(name):
    return int(re.search(rf"{name}: +([0-9]+)", Path("/proc/self/smaps_rollup").read_text())[1]) / 1024

area = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
used = int(sys.argv[1]) << 20
area[:used] = bytes(range(256)) * (used // 256)
area.madvise(mmap.MADV_HUGEPAGE)
large, resident = megabytes("AnonHugePages"), megabytes("Rss")
count = use_huge_pages()
assert area[:used] == bytes(range(256)) * (used // 256)
print(count, megabytes("AnonHugePages") - large, megabytes("Rss") - resident)
"""


def _is_supported() -> bool:
    version = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    enabled = huge_pages.TRANSPARENT / "enabled"
    return version >= (6, 1) and enabled.is_file() and "[never]" not in enabled.read_text()


needs_large_pages = pytest.mark.skipif(not _is_supported(), reason="no transparent huge pages, or Linux before 6.1")


def _run(used_megabytes: int) -> tuple[int, float, float]:
    """Returns the number of large pages, and by how many megabytes those in use and the whole memory grew."""
    command = [sys.executable, "-c", PROGRAM, str(used_megabytes)]
    count, large, resident = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(count), float(large), float(resident)


@needs_large_pages
def test_memory_in_use_moves_into_large_pages() -> None:
    count, large, resident = _run(64)
    assert count >= 31  # the area need not begin at a whole page
    assert large >= 62
    assert resident < 8


@needs_large_pages
def test_memory_that_is_hardly_used_takes_no_more_room() -> None:
    _, _, resident = _run(8)
    assert resident < 8


@pytest.mark.parametrize("setting", [None, "always madvise [never]\n"])
def test_nothing_happens_where_large_pages_are_turned_off(
    setting: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting:
        (tmp_path / "enabled").write_text(setting)
        (tmp_path / "hpage_pmd_size").write_text("2097152\n")
    monkeypatch.setattr(huge_pages, "TRANSPARENT", tmp_path)
    assert huge_pages.use_huge_pages() == 0


def test_nothing_happens_where_the_kernel_does_not_tell_which_memory_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "MEMORY", tmp_path / "smaps")
    assert huge_pages.use_huge_pages() == 0
