"""Writes the images' lock files, with hashes for every supported Python: `python -m deploy.supply.lock`.

Locked versions are kept as long as they satisfy the requirements; `--upgrade` takes the newest of everything.
"""

import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.supply.images import (
    BUILD,
    BUILD_REQUIREMENTS,
    CUDA_ENGINE,
    ENGINE,
    ENGINE_REQUIREMENTS,
    GATEWAY_LITELLM,
    IMAGES,
    PROJECT,
    RETRIEVER_GPU,
    TRAINING,
    TRAINING_REQUIREMENTS,
    Image,
)

PYTHON = "3.11"  # the oldest supported version; the locks are valid for all later ones
CUDA_PYTHON = "3.12"  # of vLLM's own image
HEAD = "# Made by `make locks`: change the distributions' pyproject.toml.\n"
ENGINE_HEAD = "# Made by `make locks`: change services/lora-server/engine/requirements-cpu.txt. torch comes apart.\n"
TRAINING_HEAD = f"# Made by `make locks`: what training needs beside {CUDA_ENGINE}; change requirements-cpu.txt.\n"
ENGINE_OVERRIDES = ("--override", "deploy/supply/engine-overrides.txt")
TORCHS_OWN = ("torch=", "torchaudio=", "torchcodec=", "torchvision=", "cuda-", "nvidia-")
OURS = (
    *("pointsman", "pointsman-proto", "pointsman-servicekit", "pointsman-embedding", "pointsman-scoring"),
    *("pointsman-gateway", "pointsman-lab", "pointsman-retriever", "pointsman-lora-server"),
)


def lock(image: Image, requirements: Sequence[str], more: Sequence[str]) -> None:
    """Resolves `requirements` and writes the image's lock. Raises CalledProcessError if no set of versions satisfies
    them.
    """
    beside = PROJECT / f".lock-{image.name}.in"  # relative paths in this file are resolved from its folder
    beside.write_text("\n".join(requirements) + "\n")
    try:
        with restored_on_failure(image.lock):
            subprocess.run([*_uv(image), *more, beside.name], cwd=PROJECT, check=True)
    finally:
        beside.unlink()
    image.lock.write_text(HEAD + _without_comments(image.lock.read_text()))


def lock_engine(more: Sequence[str]) -> None:
    """Resolves what the engine for CPUs requires, and writes its lock file. torch is left out: it is installed apart.

    `more` are further options of uv. Raises CalledProcessError if no set of versions satisfies the requirements.
    """
    lock(ENGINE, ENGINE_REQUIREMENTS, (*ENGINE_OVERRIDES, *more))
    ENGINE.lock.write_text(ENGINE_HEAD + without_torch(ENGINE.lock.read_text().removeprefix(HEAD)))


def lock_training(more: Sequence[str]) -> None:
    """Writes the lock of what engine-cuda adds to vLLM's own image: everything that training requires and vLLM itself
    does not, in versions that fit vLLM. Raises CalledProcessError, as `lock` does.
    """
    with restored_on_failure(TRAINING.lock):
        TRAINING.lock.write_text(ENGINE.lock.read_text())  # uv prefers the versions in its output file
        lock(TRAINING, (*TRAINING_REQUIREMENTS, CUDA_ENGINE), more)
        whole = TRAINING.lock.read_text()
        lock(TRAINING, (CUDA_ENGINE,), more)
        TRAINING.lock.write_text(TRAINING_HEAD + without(names(TRAINING.lock.read_text()), whole.removeprefix(HEAD)))


@contextmanager
def restored_on_failure(file: Path) -> Iterator[None]:
    """Gives the file its old content, or removes it if there was none, if the block raises an exception."""
    written = file.read_text() if file.exists() else None
    try:
        yield
    except BaseException:
        if written is None:
            file.unlink(missing_ok=True)
        else:
            file.write_text(written)
        raise


def names(text: str) -> set[str]:
    """Returns the names of the packages in the text of a lock file."""
    return set(re.findall(r"(?m)^([A-Za-z0-9_.-]+)==", text))


def without(known: Collection[str], text: str) -> str:
    """Removes the packages with these names from the text of a lock file."""
    pins = re.split(r"(?m)^(?=\S)", text)
    return "".join(pin for pin in pins if not names(pin) & {*known})


def without_torch(text: str) -> str:
    """Removes torch, and the packages that only torch needs, from the text of a lock file."""
    pins = re.split(r"(?m)^(?=\S)", text)
    return "".join(pin for pin in pins if not pin.startswith(TORCHS_OWN))


def _uv(image: Image) -> list[str]:
    uv = str(Path(sys.executable).parent / "uv")
    # Keep package indexes and local paths out of the file.
    python = CUDA_PYTHON if image == TRAINING else PYTHON
    options = ["--universal", "--python-version", python, "--generate-hashes", "--no-header", "--no-annotate"]
    options += ["--no-emit-index-url", "--no-config", "--native-tls", "--quiet", "--output-file", str(image.lock)]
    for name in OURS:
        options += ["--no-emit-package", name]
    return [uv, "pip", "compile", *options]


def _without_comments(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def main(arguments: Sequence[str]) -> None:
    for image in (*IMAGES, RETRIEVER_GPU, GATEWAY_LITELLM):
        lock(image, image.requirements, arguments)
    lock(BUILD, BUILD_REQUIREMENTS, arguments)
    lock_engine(arguments)
    lock_training(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
