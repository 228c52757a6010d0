"""Runs an unpacked image with runc as its manifest says: user, read-only root, no capabilities, and the default seccomp
profile."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.manifest_lint.cluster import Cluster, Workload
from tests.images.building import Built
from tests.images.seccomp import default_profile

NAMESPACES = ("pid", "ipc", "uts", "mount")
CAPABILITIES = ("bounding", "effective", "inheritable", "permitted", "ambient")
SYSTEM = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "mode=1777"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
]


TOKENS = {"gateway": "g" * 64, "operator": "o" * 64}
SECRETS = {
    "pointsman-tokens": {
        "gateway": TOKENS["gateway"],
        "retriever": f"gateway read {TOKENS['gateway']}\noperator admin {TOKENS['operator']}\n",
        "lora-server": f"gateway write {TOKENS['gateway']}\noperator admin {TOKENS['operator']}\n",
    }
}
"""By name, the Secrets that docs/kubernetes.md tells operators to create."""


class Container:
    """A container in the host's network, so that it reaches the test's servers, or in a network namespace of its
    own.
    """

    def __init__(
        self,
        folder: Path,
        image: Built,
        cluster: Cluster,
        workload: Workload,
        settings: Mapping[str, str],
        network: str = "",
    ) -> None:
        """Takes the image and the manifests. `settings` replace those of the manifest, mainly addresses. `network` is
        the name of a network namespace; the container gets the namespace's host names from `/etc/netns`.
        """
        folder.mkdir(parents=True)
        self._folder = folder
        self._name = f"pointsman-{workload.name}-{os.getpid()}"
        self._runc = ["runc", "--root", str(folder / "runc")]
        self._workload = workload
        container = workload.pod["containers"][0]
        environment = dict(line.split("=", 1) for line in image.environment)
        environment |= cluster.environment(workload, container) | dict(settings)
        bundle: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "process": self._process(workload, image, environment),
            "root": {"path": str(image.root), "readonly": container["securityContext"]["readOnlyRootFilesystem"]},
            "hostname": workload.name,
            "mounts": [*SYSTEM, *_volumes(folder, cluster, workload)],
            "linux": {"namespaces": [{"type": kind} for kind in NAMESPACES], "seccomp": default_profile()},
        }
        if network:
            bundle["mounts"].append(_bound(Path("/etc/netns", network, "hosts"), "/etc/hosts", read_only=True))
            bundle["linux"]["namespaces"].append({"type": "network", "path": f"/run/netns/{network}"})
        (folder / "config.json").write_text(json.dumps(bundle))
        self._process_of: asyncio.subprocess.Process | None = None

    @property
    def limits(self) -> dict[str, int]:
        """Returns the limits in bytes: of "memory", and of each limited volume by its mount path."""
        return _limits(self._workload)

    @property
    def words(self) -> str:
        return (self._folder / "log").read_text("utf-8", "replace")

    @property
    def runs(self) -> bool:
        return self._process_of is not None and self._process_of.returncode is None

    async def is_ready(self, url: str) -> bool:
        """Whether the container reports that it is ready. Raises AssertionError with its output if it has exited."""
        assert self.runs, self.words
        try:
            async with httpx.AsyncClient(trust_env=False) as http:
                return (await http.get(url)).status_code == 200
        except httpx.TransportError:
            return False

    async def start(self) -> None:
        with (self._folder / "log").open("wb") as log:
            command = [*self._runc, "run", "--bundle", str(self._folder), self._name]
            self._process_of = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)

    async def stop(self, within: float) -> int:
        """Sends SIGTERM, and returns the exit code. Raises TimeoutError after `within` seconds."""
        assert self._process_of
        self._process_of.send_signal(signal.SIGTERM)
        return await self.ended(within)

    async def ended(self, within: float) -> int:
        """Waits until the container exits, and returns its exit code. Raises TimeoutError after `within` seconds."""
        assert self._process_of
        async with asyncio.timeout(within):
            return await self._process_of.wait()

    async def kill(self) -> None:
        if self._process_of and self._process_of.returncode is None:
            subprocess.run([*self._runc, "kill", self._name, "KILL"], check=False, capture_output=True)  # noqa: ASYNC221
            await self._process_of.wait()
        subprocess.run([*self._runc, "delete", "--force", self._name], check=False, capture_output=True)  # noqa: ASYNC221

    def volume(self, name: str) -> Path:
        """Returns the folder of a volume claim."""
        return self._folder / "volumes" / name

    def inside(self, program: str) -> str:
        """Returns the output of a Python program that runs inside the container as its user."""
        done = self._execute("/opt/pointsman/venv/bin/python", "-c", program)
        done.check_returncode()
        return done.stdout.strip()

    def is_healthy(self, check: Sequence[str]) -> bool:
        """Whether a command succeeds inside the container. Raises AssertionError if the container has exited."""
        assert self.runs, self.words
        return self._execute(*check).returncode == 0

    def _execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._runc, "exec", self._name, *command], capture_output=True, text=True, check=False)

    def _process(self, workload: Workload, image: Built, environment: Mapping[str, str]) -> dict[str, Any]:
        container, pod = workload.pod["containers"][0], workload.pod["securityContext"]
        own = container["securityContext"]
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        return {
            "user": {"uid": pod["runAsUser"], "gid": pod["runAsGroup"], "additionalGids": [pod["fsGroup"]]},
            "args": [*container.get("command", image.arguments), *container.get("args", [])],
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": "/",
            "capabilities": {kind: [] for kind in CAPABILITIES},
            "noNewPrivileges": not own["allowPrivilegeEscalation"],
        }


@asynccontextmanager
async def running(container: Container) -> AsyncIterator[Container]:
    await container.start()
    try:
        yield container
    finally:
        await container.kill()


def _volumes(folder: Path, cluster: Cluster, workload: Workload) -> list[dict[str, Any]]:
    """Returns the mounts of the container's volumes, outer folders before those inside them, as a kubelet mounts
    them.
    """
    pod = workload.pod
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    mounts = sorted(pod["containers"][0]["volumeMounts"], key=lambda mount: str(mount["mountPath"]))
    within = [mount["mountPath"] for mount in mounts]
    made = []
    for mount in mounts:
        path, volume = mount["mountPath"], volumes.get(mount["name"], {})
        if "emptyDir" in volume:
            options = ["nosuid", "mode=0777", *_size(volume["emptyDir"])]
            made.append({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options})
            continue
        if "hostPath" in volume:
            made.append(_bound(volume["hostPath"]["path"], path, bool(mount.get("readOnly"))))
            continue
        source = folder / "volumes" / mount["name"]
        source.mkdir(parents=True)
        if "projected" in volume:
            for part in volume["projected"]["sources"]:
                found = cluster.get("ConfigMap", part["configMap"]["name"])
                assert found
                for name, text in found["data"].items():
                    (source / name).write_text(text)
            for inner in within:  # a kubelet creates the mount points inside
                if inner.startswith(f"{path}/"):
                    (source / inner.removeprefix(f"{path}/")).mkdir()
        else:
            for item in volume.get("secret", {}).get("items", ()):
                (source / item["path"]).write_text(SECRETS[volume["secret"]["secretName"]][item["key"]])
            os.chown(source, pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"])
        made.append(_bound(source, path, bool(mount.get("readOnly"))))
    return made


def _bound(source: Path, path: str, read_only: bool) -> dict[str, Any]:
    options = ["rbind", "ro" if read_only else "rw"]
    return {"destination": path, "type": "bind", "source": str(source), "options": options}


def _limits(workload: Workload) -> dict[str, int]:
    container = workload.pod["containers"][0]
    empty = {volume["name"]: volume.get("emptyDir", {}) for volume in workload.pod.get("volumes", [])}
    mounted = {mount["mountPath"]: empty.get(mount["name"], {}).get("sizeLimit") for mount in container["volumeMounts"]}
    limits = {"memory": container["resources"]["limits"]["memory"], **mounted}
    return {name: _bytes(limit) for name, limit in limits.items() if limit}


def _bytes(quantity: str) -> int:
    """Parses "512Mi" or "2Gi"."""
    return int(quantity[:-2]) * {"Mi": 1 << 20, "Gi": 1 << 30}[quantity[-2:]]


def _size(empty: Mapping[str, str]) -> list[str]:
    """Returns the option that limits the size of a volume in memory. Volumes on disk get none, since a kubelet checks
    those periodically.
    """
    return [f"size={_bytes(empty['sizeLimit'])}"] if empty.get("medium") == "Memory" else []
