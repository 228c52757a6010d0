"""Resolves the digests of images that others publish: `python -m deploy.supply.pins` prints pinned references as JSON.

A release runs it once, so that all its images have the same bases and its chart names Valkey and HAProxy by digest. It
asks the registries by `docker buildx`. The keys are the names of Dockerfiles, `valkey` and `haproxy`.
"""

import json
import re
import subprocess
from collections.abc import Mapping

import yaml

from deploy.helm.render import CHART, PROJECT

_BASE = re.compile(r"(?m)^ARG BASE_IMAGE=(\S+)$")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TIMEOUT = 120


class PinError(Exception):
    """An image's digest cannot be read; the message names the image."""


def references() -> dict[str, str]:
    """Returns the images of other publishers, by the name of what uses them."""
    files = sorted((PROJECT / "deploy" / "docker").glob("*.Dockerfile"))
    bases = {file.stem: found[1] for file in files if (found := _BASE.search(file.read_text()))}
    redis = yaml.safe_load((CHART / "values.yaml").read_text())["redis"]
    return {**bases, "valkey": redis["image"], "haproxy": redis["proxyImage"]}


def pinned(of: Mapping[str, str]) -> dict[str, str]:
    """Returns the references with their digests; raises PinError."""
    digests = {reference: _digest(reference) for reference in sorted(set(of.values()))}
    return {name: f"{reference}@{digests[reference]}" for name, reference in of.items()}


def _digest(reference: str) -> str:
    command = ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", reference]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except FileNotFoundError:
        raise PinError(f"{reference}: docker is not installed") from None
    except subprocess.CalledProcessError as error:
        raise PinError(f"{reference}: {error.stderr.strip()}") from None
    digest = done.stdout.strip()
    if not _DIGEST.fullmatch(digest):
        raise PinError(f"{reference}: '{digest}' is no digest")
    return digest


if __name__ == "__main__":
    print(json.dumps(pinned(references())))
