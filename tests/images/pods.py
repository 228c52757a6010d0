"""Network namespaces that act as pods: each has its own address, and all have the names that a headless Service
provides."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

BRIDGE = "pointsman0"
NETWORK = "10.91.7"
"""The first three numbers of addresses in a network that exists on this machine only."""


class Pods:
    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """Takes the names of the pods, which are also their host names."""
        self._folder = folder
        self._names = names
        self.addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, start=10)}
        self._running: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    @property
    def outside(self) -> str:
        """The address at which pods reach this machine."""
        return f"{NETWORK}.1"

    def make(self) -> None:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{self.outside}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        hosts = "".join(f"{address} {name}\n" for name, address in self.addresses.items())
        for number, name in enumerate(self._names):
            space, outer, inner = self.space(name), f"pm{number}a", f"pm{number}b"
            Path("/etc/netns", space).mkdir(parents=True, exist_ok=True)
            Path("/etc/netns", space, "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
            _ip("netns", "add", space)
            _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
            _ip("link", "set", outer, "master", BRIDGE, "up")
            _ip("-n", space, "address", "add", f"{self.addresses[name]}/24", "dev", inner)
            for device in (inner, "lo"):
                _ip("-n", space, "link", "set", device, "up")

    def unmake(self) -> None:
        for pod, _ in list(self._running):
            self.kill(pod)
        for number, name in enumerate(self._names):
            # Otherwise the kernel removes it some time after the end of its namespace.
            _ip("link", "delete", f"pm{number}a", check=False)
            _ip("netns", "delete", self.space(name), check=False)
            shutil.rmtree(Path("/etc/netns", self.space(name)), ignore_errors=True)
        _ip("link", "delete", BRIDGE, check=False)

    def start(self, pod: str, container: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with (self._folder / f"{pod}-{container}.log").open("ab") as log:
            self._running[pod, container] = subprocess.Popen(
                ["ip", "netns", "exec", self.space(pod), *command],
                env=os.environ | dict(environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, pod: str) -> None:
        """Kills all containers of a pod at once."""
        for key in [key for key in self._running if key[0] == pod]:
            process = self._running.pop(key)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def words(self) -> str:
        return "\n".join(f"{file.name}:\n{file.read_text()[-2000:]}" for file in sorted(self._folder.glob("*.log")))

    def space(self, pod: str) -> str:
        """Returns the name of the Linux network namespace in which the containers of a pod run."""
        return f"pointsman-{pod.partition('.')[0]}"


@contextmanager
def pods(folder: Path, names: Sequence[str], programs: Sequence[str]) -> Iterator[Pods]:
    """Yields pods with these names. Skips the test if `programs` are missing or namespaces cannot be created."""
    missing = [program for program in ("ip", *programs) if not shutil.which(program)]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root, and {', '.join(missing) or 'nothing else'}: make images-tools")
    folder.mkdir(parents=True, exist_ok=True)
    made = Pods(folder, names)
    try:
        made.make()
        yield made
    finally:
        made.unmake()


def _ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"ip {' '.join(words)}: {done.stderr}"
