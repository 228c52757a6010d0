"""Builds the images without a container engine: the base image with mmdebstrap, the Dockerfiles with buildah."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.rendering import PROJECT

BASE = PROJECT / ".pointsman" / "images" / "base.tar"
"""The base image, built once; it has Debian's Python instead of the Dockerfiles' default."""

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Built:
    """An image that was built and unpacked into a folder."""

    name: str
    """The name with which other images can use it as their base."""
    root: Path
    arguments: Sequence[str]
    environment: Sequence[str]
    user: str
    labels: Mapping[str, str]

    @property
    def leftovers(self) -> list[str]:
        """The build dependencies that are in the image although they must not be."""
        return [path for path in ("src", "etc/pip.conf", "opt/build", "root/.cache") if (self.root / path).exists()]


class Workshop:
    """A buildah with a temporary store of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = ["--root", str(folder / "store"), "--runroot", str(folder / "run"), "--storage-driver", "overlay"]

    def take_base(self, tar: Path) -> str:
        """Imports a tar file as an image with this name."""
        container = self._say("from", "scratch")
        self._say("add", "--quiet", container, str(tar), "/")
        self._say("commit", "--quiet", container, "localhost/base")
        self._say("rm", container)
        return "localhost/base"

    def build(self, name: str, base: str) -> Built:
        """Builds `deploy/docker/NAME.Dockerfile`, and unpacks the image into a folder that can be a container's
        root.
        """
        dockerfile, tag = PROJECT / "deploy" / "docker" / f"{name}.Dockerfile", f"localhost/{name}"
        options = ["--isolation", "chroot", "--network", "host", "--layers=false", "--quiet"]
        for of, limit in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
            _, most = resource.getrlimit(limit)
            options += ["--ulimit", f"{of}={most}:{most}"]  # buildah's defaults may be above this machine's limits
        argument = "ENGINE_IMAGE" if name == "lora-server" else "BASE_IMAGE"
        options += ["--build-arg", f"{argument}={base}", "--secret", f"id=pip,src={self._pip_configuration()}"]
        if CERTIFICATES.exists():
            options += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        self._say("bud", *options, "-f", str(dockerfile), "-t", tag, str(PROJECT))
        container = self._say("from", "--pull-never", tag)
        about: dict[str, Any] = json.loads(self._say("inspect", "--type", "image", tag))["OCIv1"]["config"]
        arguments = [*about.get("Entrypoint", []), *about.get("Cmd", [])]
        root = Path(self._say("mount", container))
        return Built(tag, root, arguments, about["Env"], about["User"], about.get("Labels", {}))

    def throw_away(self) -> None:
        self._say("rm", "--all")
        self._say("rmi", "--all", "--force")

    def _say(self, *words: str) -> str:
        done = subprocess.run(["buildah", *self._store, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"buildah {' '.join(words)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    def _pip_configuration(self) -> Path:
        """Writes this machine's pip configuration to a file; its values (an index, a certificate) must not enter an
        image.
        """
        file = self._folder / "pip.conf"
        listed = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=True).stdout
        settings = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
        kept = ("index-url", "extra-index-url", "trusted-host", "cert", "default-timeout", "proxy")
        lines = [
            f"{key} = {settings[name].strip(chr(39))}" for key in kept for name in settings if name.endswith(f".{key}")
        ]
        file.write_text("\n".join(["[global]", *dict.fromkeys(lines)]) + "\n")
        return file


@contextmanager
def workshop(folder: Path) -> Iterator[Workshop]:
    """Yields a workshop. Skips the test without root privileges or without the tools."""
    missing = [program for program in ("buildah", "runc", "mmdebstrap") if not shutil.which(program)]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root, and {', '.join(missing) or 'nothing else'}: make images-tools")
    folder.mkdir(parents=True, exist_ok=True)
    made = Workshop(folder)
    try:
        yield made
    finally:
        made.throw_away()


def base_tar() -> Path:
    """Returns the base image: a minimal Debian with Python, from this machine's package sources."""
    if not BASE.exists():
        BASE.parent.mkdir(parents=True, exist_ok=True)
        half = BASE.with_suffix(".half.tar")
        include = "--include=python3,python3-venv,ca-certificates"
        without = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")]
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", include, *without, "trixie", str(half)], check=True
        )
        half.rename(BASE)
    return BASE
