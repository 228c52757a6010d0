"""Reads or sets the project's version, which is that of CHANGELOG.md's top entry: `python -m deploy.supply.versions
[NEW]`.

`check [TAG]` fails if a file states another version, or if the entry lacks the version of the tag `vX.Y.Z` or a date;
`notes` prints the entry.

A test checks that every distribution, image label and manifest tag has the same version.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.supply.images import PROJECT

CHANGELOG = PROJECT / "CHANGELOG.md"
_VERSION = r"\d+\.\d+\.\d+"

PLACES = (
    ("*/pyproject.toml", rf'(?m)^(version = "){_VERSION}(")'),
    ("*/*/pyproject.toml", rf'(?m)^(version = "){_VERSION}(")'),
    ("services/lora-server/vllm_cpu_lora/pyproject.toml", rf'(?m)^(version = "){_VERSION}(")'),
    ("services/lora-server/src/*/engine/guard/pyproject.toml", rf'(?m)^(version = "){_VERSION}(")'),
    ("*/pyproject.toml", rf'(["\']pointsman(?:-[a-z-]+)?(?:\[[a-z,-]+\])?==){_VERSION}(["\'])'),
    ("*/*/pyproject.toml", rf'(["\']pointsman(?:-[a-z-]+)?(?:\[[a-z,-]+\])?==){_VERSION}(["\'])'),
    ("compose.yaml", rf"(POINTSMAN_VERSION:-){_VERSION}(\}})"),
    ("deploy/docker/*.Dockerfile", rf"(pointsman-[a-z-]+:){_VERSION}()"),
    ("deploy/docker/*.Dockerfile", rf"(?m)^(ARG VERSION=){_VERSION}()"),
    ("deploy/helm/*/Chart.yaml", rf"(?m)^((?:appV|v)ersion: ){_VERSION}()$"),
    ("deploy/k8s/*/*/pointsman.yaml", rf"(pointsman-[a-z-]+:|version\W+){_VERSION}()"),
    ("deploy/k8s/monitoring/rules.yaml", rf"(version\W+){_VERSION}()"),
)
"""File patterns, each with a regular expression whose groups surround the version."""


def version() -> str:
    """Returns the current version. Raises ValueError if CHANGELOG.md does not start with an entry."""
    found = re.search(rf"(?m)^## ({_VERSION}) \((?:not released|\d{{4}}-\d\d-\d\d)\)$", CHANGELOG.read_text())
    if not found:
        raise ValueError("CHANGELOG.md has no entry such as '## 1.2.3 (not released)' or '## 1.2.3 (2030-01-31)'")
    return found[1]


def written() -> Iterator[tuple[Path, str]]:
    """Yields every file that states the project's version, with the version that it states."""
    for pattern, around in PLACES:
        for file in sorted(PROJECT.glob(pattern)):
            for found in re.finditer(around, file.read_text()):
                yield file, found[0][len(found[1]) : len(found[0]) - len(found[2])]


def write(new: str) -> None:
    """Sets the version everywhere except in CHANGELOG.md, which is edited by hand. Raises ValueError for an invalid
    version.
    """
    if not re.fullmatch(_VERSION, new):
        raise ValueError(f"'{new}' is no version; write one such as 1.2.3")
    for pattern, around in PLACES:
        for file in PROJECT.glob(pattern):
            text = file.read_text()
            changed = renewed(text, around, new)
            if changed != text:
                file.write_text(changed)


def renewed(text: str, around: str, new: str) -> str:
    return re.sub(around, lambda found: f"{found[1]}{new}{found[2]}", text)


def notes() -> str:
    """Returns CHANGELOG.md's top entry without its heading."""
    return re.split(r"(?m)^## .*\n", CHANGELOG.read_text())[1].strip() + "\n"


def problems(tag: str = "") -> list[str]:
    """Returns what prevents a release; with a tag, CHANGELOG.md's top entry must have its version and a date."""
    now = version()
    found = [f"{file.relative_to(PROJECT)} says {said}, CHANGELOG.md {now}" for file, said in written() if said != now]
    if tag and tag != f"v{now}":
        found.append(f"the tag is {tag}, CHANGELOG.md says {now}")
    if tag and f"## {now} (not released)" in CHANGELOG.read_text():
        found.append(f"CHANGELOG.md has no date for {now}")
    return found


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case []:
            print(version())
        case ["notes"]:
            print(notes(), end="")
        case ["check", *tag]:
            for problem in (found := problems(*tag)):
                print(problem, file=sys.stderr)
            return 1 if found else 0
        case [new, *_]:
            write(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
