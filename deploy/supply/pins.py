"""Write registry locations and digests of pushed images into the manifests: `python -m deploy.supply.pins IMAGE...`.

IMAGE is a reference as `docker inspect` prints it after a push: registry.example/team/pointsman-gateway@sha256:...
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.supply.images import PROJECT

K8S = PROJECT / "deploy" / "k8s"
_LINE = re.compile(
    r"\{name: (?P<name>[\w.-]+)(?:, newName: (?P<place>[^\s,}]+))?"
    r"(?:, digest: sha256:\w+)?, newTag: (?P<tag>[^\s,}]+)\}"
)
_REFERENCE = re.compile(r"(?P<place>[\w.:/-]*?(?P<name>[\w.-]+))(?::[\w.-]+)?@(?P<digest>sha256:[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image in a registry."""

    name: str  # "pointsman-gateway"
    place: str  # "registry.example/team/pointsman-gateway"
    digest: str  # "sha256:..."


def pushed(reference: str) -> Pushed:
    """Parse an image reference. Raises ValueError if it has no digest."""
    found = _REFERENCE.fullmatch(reference)
    if not found:
        raise ValueError(f"'{reference}' names no digest; write registry.example/team/pointsman-gateway@sha256:...")
    return Pushed(found["name"], found["place"], found["digest"])


def pin(images: Sequence[Pushed], k8s: Path = K8S) -> list[Path]:
    """Update the manifests and return the changed files. Raises ValueError, and writes nothing, if no image is given or
    no manifest uses one of them."""
    if not images:
        raise ValueError("no image is named; write IMAGES=registry.example/team/pointsman-gateway@sha256:...")
    by_name = {image.name: image for image in images}
    texts = {file: file.read_text() for file in sorted(k8s.glob("*/*/kustomization.yaml"))}
    used = {_image(line) for text in texts.values() for line in _LINE.finditer(text)}
    unknown = sorted(by_name.keys() - used)
    if unknown:
        raise ValueError(f"no manifest uses {', '.join(unknown)}; there are {', '.join(sorted(used))}")
    changed = {file: _LINE.sub(lambda line: _pinned(line, by_name), text) for file, text in texts.items()}
    for file, text in changed.items():
        file.write_text(text)
    return [file for file in texts if changed[file] != texts[file]]


def _image(line: re.Match[str]) -> str:
    return str(line["place"] or line["name"]).rpartition("/")[2]


def _pinned(line: re.Match[str], images: dict[str, Pushed]) -> str:
    image = images.get(_image(line))
    if not image:
        return line[0]
    return f"{{name: {line['name']}, newName: {image.place}, digest: {image.digest}, newTag: {line['tag']}}}"


def main(references: Sequence[str]) -> int:
    try:
        files = pin([pushed(reference) for reference in references])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*files, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
