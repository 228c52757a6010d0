"""Properties of this machine: its free memory, the number of adapter versions that fit into it, its processor and its
GPU.
"""

import os
from pathlib import Path

HELD_MEMORY_SHARE = 0.25
"""The fraction of the free memory that adapters in the engine may use. The rest is for the base model, the KV cache,
smoke tests and training."""
MAX_DEFAULT_HELD = 512
"""The largest default for the number of adapter versions that an engine holds. It is limited because the engine loads
the version of each alias when it starts."""


def free_memory() -> int:
    """Returns the free memory of the machine in bytes, or that of the container if it is less."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) << 10
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, int(limit) - used)


def default_held(adapter_bytes: int, max_loras: int, free_bytes: int) -> int:
    """Returns the number of adapter versions that the engine holds if the settings do not name a number.

    It is the number of versions of `adapter_bytes` bytes that fit into the fraction `HELD_MEMORY_SHARE` of
    `free_bytes`, at most `MAX_DEFAULT_HELD`. It is at least `max_loras`, the number of adapters in one batch, because
    the engine must hold these too.
    """
    fitting = int(HELD_MEMORY_SHARE * free_bytes) // adapter_bytes
    return max(max_loras, min(fitting, MAX_DEFAULT_HELD))


def cpu_flags() -> frozenset[str]:
    """Returns the flags that /proc/cpuinfo lists for the first core, such as "avx2"; empty on systems without this
    file.
    """
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(flags.split())
    return frozenset()


def has_gpu() -> bool:
    """Returns whether the driver of an NVIDIA or AMD GPU is loaded and visible to this process."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))
