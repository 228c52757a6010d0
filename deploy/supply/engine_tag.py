"""Prints the tag of an engine's image: `python -m deploy.supply.engine_tag engine-cuda BASE_IMAGE`.

The tag is a hash of everything that is in the image. A release builds an engine only if the registry lacks its tag;
otherwise machines need not download the engine's layers again.
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def engine_tag(name: str, base: str, project: Path = PROJECT) -> str:
    """Returns the tag of the engine image `name` on the image `base`."""
    dockerfile = project / "deploy" / "docker" / f"{name}.Dockerfile"
    whole = hashlib.sha256(base.encode())
    for file in (dockerfile, *_copied(dockerfile, project)):
        whole.update(f"\n{file.relative_to(project)}\n".encode())
        whole.update(file.read_bytes())
    return f"inputs-{whole.hexdigest()[:16]}"


def _copied(dockerfile: Path, project: Path) -> Iterator[Path]:
    """Yields the files of the repository that the Dockerfile copies."""
    for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", dockerfile.read_text()):
        for named in line.split()[:-1]:
            place = project / named
            files = sorted(place.rglob("*")) if place.is_dir() else [place]
            yield from (each for each in files if each.is_file() and not _is_built(each))


def _is_built(file: Path) -> bool:
    return any(part == "__pycache__" or part.endswith(".egg-info") for part in file.parts)


if __name__ == "__main__":
    print(engine_tag(sys.argv[1], sys.argv[2]))
