"""Compares the lock files with known vulnerabilities, offline: `python -m deploy.supply.audit ADVISORIES`.

ADVISORIES is a folder or a zip file of OSV records in JSON (osv.dev exports all PyPI records as one file). The result
is as recent as that export.
"""

import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from deploy.supply.images import BUILD, ENGINE, GATEWAY_LITELLM, IMAGES, RETRIEVER_GPU, TRAINING, Locked, locked


@dataclass(frozen=True, slots=True)
class Finding:
    image: str
    package: str
    version: str
    advisory: str
    fixed_in: str
    summary: str

    def __str__(self) -> str:
        mended = f"fixed in {self.fixed_in}" if self.fixed_in else "not fixed"
        return f"{self.image}: {self.package} {self.version}: {self.advisory} ({mended}) {self.summary}".rstrip()


def records(advisories: Path) -> Iterator[Mapping[str, Any]]:
    """Yields all advisories that are not withdrawn. Raises FileNotFoundError, and ValueError for invalid JSON."""
    if not advisories.exists():
        raise FileNotFoundError(f"there is no {advisories}; name a folder or a zip file of OSV records")
    if advisories.is_dir():
        texts: Iterator[str | bytes] = (file.read_text() for file in sorted(advisories.rglob("*.json")))
    else:
        texts = _zipped(advisories)
    yield from (record for record in map(json.loads, texts) if not record.get("withdrawn"))


def findings(advisories: Path) -> Iterator[Finding]:
    """Yields each advisory that affects a locked version. Raises ValueError if the export contains no advisories for
    PyPI.
    """
    by_name: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for record in records(advisories):
        for affected in record.get("affected", ()):
            package = affected.get("package", {})
            if package.get("ecosystem") == "PyPI":
                by_name.setdefault(canonicalize_name(package["name"]), []).append((record, affected))
    if not by_name:
        raise ValueError(f"{advisories} holds no records of PyPI's packages: nothing would be found")
    for image in (*IMAGES, RETRIEVER_GPU, GATEWAY_LITELLM, BUILD, ENGINE, TRAINING):
        for each in locked(image.lock):
            for record, affected in by_name.get(each.name, ()):
                if is_affected(each.version, affected):
                    yield _finding(image.name, each, record, affected)


def is_affected(version: str, affected: Mapping[str, Any]) -> bool:
    """Applies OSV's rule: the version is listed, or lies in a range from `introduced` to before `fixed` or through
    `last_affected`.
    """
    if version in affected.get("versions", ()):
        return True
    ranges = [each["events"] for each in affected.get("ranges", ()) if each.get("type") == "ECOSYSTEM"]
    return any(_within(Version(version), events) for events in ranges)


def _within(version: Version, events: list[Mapping[str, str]]) -> bool:
    inside = False
    for kind, at in sorted(_events(events), key=lambda event: event[1]):
        if kind == "introduced" and version >= at:
            inside = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            inside = False
    return inside


def _events(events: list[Mapping[str, str]]) -> Iterator[tuple[str, Version]]:
    for event in events:
        for kind, at in event.items():
            try:
                yield kind, Version(at)
            except InvalidVersion:
                continue  # skip a bound that is not a valid Python version


def _finding(image: str, each: Locked, record: Mapping[str, Any], affected: Mapping[str, Any]) -> Finding:
    events = [event for each in affected.get("ranges", ()) for event in each["events"]]
    fixed = ", ".join(dict.fromkeys(event["fixed"] for event in events if "fixed" in event))
    return Finding(image, each.name, each.version, record["id"], fixed, record.get("summary", ""))


def _zipped(file: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".json"):
                yield archive.read(name)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m deploy.supply.audit ADVISORIES", file=sys.stderr)
        return 2
    try:
        found = sorted(set(map(str, findings(Path(arguments[0])))))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(found) or "nothing known of what is locked")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
