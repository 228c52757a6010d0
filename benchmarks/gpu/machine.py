"""The GPUs of this machine, and the versions of what is measured."""

import subprocess
from dataclasses import dataclass

from benchmarks.adapters.services import BASE_FOLDER, ENGINE_PYTHON
from benchmarks.gateway_load.machine import ROOT, describe_machine

VERSION_OF_VLLM = """
from importlib.metadata import packages_distributions, version
print(version(packages_distributions()["vllm"][0]))
"""
"""The package for CPUs has another name than `vllm`."""


@dataclass(frozen=True, slots=True)
class Machine:
    gpus: tuple[str, ...]
    """Their names; empty if there is none."""
    cpu: str
    model: str
    """The name of the base model's folder."""
    vllm: str
    commit: str

    @property
    def device(self) -> str:
        return f"{len(self.gpus)} x {self.gpus[0]}" if self.gpus else self.cpu


def find_machine() -> Machine:
    """Returns what can be found out; a text is empty if it cannot."""
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return Machine(
        gpus=tuple(line.strip() for line in gpus.splitlines() if line.strip()),
        cpu=describe_machine().splitlines()[0].partition("; ")[2],
        model=BASE_FOLDER.name,
        vllm=_output(str(ENGINE_PYTHON), "-c", VERSION_OF_VLLM).strip(),
        commit=_output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD").strip(),
    )


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
