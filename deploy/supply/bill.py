"""Writes each image's software bill of materials (CycloneDX 1.6) from its lock file: `python -m deploy.supply.bill
[FOLDER]`."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from deploy.supply.images import IMAGES, PROJECT, Image, locked
from deploy.supply.licences import listed
from deploy.supply.versions import version

FOLDER = PROJECT / "build" / "sbom"


def bill(image: Image) -> dict[str, Any]:
    """Returns the bill: packages locked for Linux with hashes and licences, plus our own distributions. Raises
    ValueError if it violates the schema.
    """
    made = json.loads(_of_lock(image.lock))
    for_linux = {(each.name, each.version) for each in locked(image.lock) if each.is_for_linux}
    licences, components = listed(), []
    for component in made.get("components", []):
        name = canonicalize_name(component["name"])
        if (name, component["version"]) in for_linux:
            component.pop("description", None)  # it contains the complete line of the lock file
            components.append(component | {"licenses": [_licence(licences[name])]})
    made["components"] = [*components, *(_own(folder) for folder in image.distributions)]
    made["metadata"]["component"] = {
        "type": "container",
        "bom-ref": f"pointsman-{image.name}",
        "name": f"pointsman-{image.name}",
        "version": version(),
    }
    kept = {component["bom-ref"] for component in (*made["components"], made["metadata"]["component"])}
    made["dependencies"] = [each for each in made.get("dependencies", []) if each["ref"] in kept]
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(made))
    if problem:
        raise ValueError(f"the bill of {image.name} is not valid: {problem}")
    return dict(made)


def _of_lock(lock: Path) -> str:
    program = str(Path(sys.executable).parent / "cyclonedx-py")
    command = [program, "requirements", str(lock), "--spec-version", "1.6", "--output-reproducible"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _licence(expression: str) -> dict[str, Any]:
    """Returns the licence entry. A bare "BSD", which some packages declare, is not an SPDX identifier."""
    if re.search(r"\bBSD(?!-)", expression):
        return {"license": {"name": expression}}
    compound = " AND " in expression or " OR " in expression
    return {"expression": expression} if compound else {"license": {"id": expression}}


def _own(folder: str) -> dict[str, Any]:
    name = f"pointsman-{Path(folder).name}"
    reference = f"{name}=={version()}"
    licence = {"license": {"id": "Apache-2.0"}}
    return {"type": "library", "bom-ref": reference, "name": name, "version": version(), "licenses": [licence]}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in IMAGES:
        made = bill(image)
        file = folder / f"{image.name}.cdx.json"
        file.write_text(json.dumps(made, indent=2) + "\n")
        print(f"{file}: {len(made['components'])} components")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
