"""Lists the licences of all packages in the images, as deploy/supply/licences.md.

Run `python -m deploy.supply.licences` in the services' environment.
"""

import re
from collections import defaultdict
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import cast

from deploy.supply.images import GATEWAY_LITELLM, IMAGES, locked

PAGE = Path(__file__).with_name("licences.md")

ACCEPTED = {
    "0BSD",
    "Apache-2.0",
    "BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CNRI-Python",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "PSF-2.0",
    "Unlicense",
    "Zlib",
}
"""Licences that only require their text to be distributed; MPL-2.0 also covers changes to its own files."""

_SAME = {
    "MIT License": "MIT",
    "MIT, BSD": "MIT AND BSD",
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache2": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "3-Clause BSD License": "BSD-3-Clause",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}

_HEAD = """# Licences

Licences of the packages in the images of the gateway, the retriever and the lora-server, from their metadata
(gateway-litellm has the gateway's, and those that name it).
The project's own code is under Apache-2.0. Versions are in `deploy/docker/locks`. `make licences` writes this page. A
test fails if a licence is missing, unknown, or requires more than including its text. Not listed: the base images, and
the contents of the engine image (vLLM: Apache-2.0; torch: BSD-3-Clause; CUDA libraries: NVIDIA's own terms).

| package | licence | images |
|---|---|---|
"""


def packages() -> dict[str, list[str]]:
    """Returns the images that contain each package, by package name."""
    found: dict[str, list[str]] = defaultdict(list)
    for image in (*IMAGES, GATEWAY_LITELLM):
        for name in sorted({each.name for each in locked(image.lock) if each.is_for_linux}):
            if image != GATEWAY_LITELLM or IMAGES[0].name not in found[name]:  # it has all of the gateway's, too
                found[name].append(image.name)
    return dict(sorted(found.items()))


def licence_of(name: str) -> str:
    """Returns an installed package's licence, as an SPDX expression if possible. Raises PackageNotFoundError."""
    about = cast(Message, metadata.metadata(name))  # its protocol lacks `get`
    expression = about.get("License-Expression")
    if expression:
        return str(expression)
    written = (about.get("License") or "").strip().partition("\n")[0]  # some packages put the whole text there
    known = _SAME.get(written, written)
    if is_accepted(known):
        return known
    classified = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    return " OR ".join(_SAME.get(each, each) for each in classified) or "unknown"


def is_accepted(expression: str) -> bool:
    """Returns whether a licence is accepted: of "A OR B" one must be, of "A AND B" both."""
    inner = expression.replace("(", " ").replace(")", " ")
    if (
        "(" in expression
    ):  # require every licence in "A AND (B OR C)": a false rejection is safer than a false acceptance
        return all(name in ACCEPTED for name in re.split(r"\s+(?:AND|OR)\s+", inner.strip()))
    return any(all(name.strip() in ACCEPTED for name in part.split(" AND ")) for part in inner.split(" OR "))


def page() -> str:
    """Returns the page; a package that is not installed keeps its listed licence or is "unknown"."""
    known = listed() if PAGE.exists() else {}
    rows = []
    for name, images in packages().items():
        try:
            licence = licence_of(name)
        except metadata.PackageNotFoundError:
            licence = known.get(name, "unknown")
        rows.append(f"| {name} | {licence} | {', '.join(images)} |")
    return _HEAD + "\n".join(rows) + "\n"


def listed(page: Path = PAGE) -> dict[str, str]:
    """Returns the licence of each package as the page lists it."""
    rows = re.findall(r"(?m)^\| ([a-z0-9-]+) \| (.+?) \| [a-z, -]+ \|$", page.read_text())
    return {name: licence for name, licence in rows if name != "package"}


if __name__ == "__main__":
    PAGE.write_text(page())
