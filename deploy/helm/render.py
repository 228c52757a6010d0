"""Renders the chart into the committed manifests of deploy/k8s: `python -m deploy.helm.render`.

`package REGISTRY FOLDER [DIGESTS IMAGES]` packages the chart for a release, with digests as JSON. Needs only Python's
standard library.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
CHART = PROJECT / "deploy" / "helm" / "pointsman"
K8S = PROJECT / "deploy" / "k8s"
OVERLAYS = ("dev", "cpu", "gpu")

_PINNED = PROJECT / ".pointsman" / "tools" / "helm"
_TIMEOUT = 60


class HelmError(Exception):
    """Helm is missing, or rejected the chart or its values; the message is Helm's."""


@dataclass(frozen=True)
class Pins:
    """The digests with which a release packages its chart."""

    digests: Mapping[str, str]
    """Digests of our images, by name."""
    images: Mapping[str, str]
    """By name (`valkey`, `haproxy`), the reference with its digest."""

    def applied(self, values: str) -> str:
        """Returns the text of values.yaml with the digests."""
        values = values.replace("  digests: {}", f"  digests: {json.dumps(dict(self.digests))}", 1)
        for key, name in (("image", "valkey"), ("proxyImage", "haproxy")):
            values = re.sub(rf"(?m)^(  {key}: )(?=docker\.io/)\S+", rf"\g<1>{self.images[name]}", values, count=1)
        return values


def helm_program() -> str | None:
    """Returns the program that `make helm-tools` installed, or one from the PATH; None if there is none."""
    return str(_PINNED) if _PINNED.exists() else shutil.which("helm")


def helm(*arguments: str) -> str:
    """Runs Helm with these arguments and returns its standard output; raises HelmError."""
    program = helm_program()
    if program is None:
        raise HelmError("helm is not installed: make helm-tools")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if done.returncode:
        lines = done.stderr.splitlines()  # of which some name the chart's symbolic links
        raise HelmError("\n".join(line for line in lines if not line.startswith("level=INFO")))
    return done.stdout


def template(*arguments: str, namespace: str = "pointsman") -> str:
    """Returns the Kubernetes objects of an installation in `namespace`, without the Namespace; raises HelmError."""
    return helm("template", "pointsman", str(CHART), "--namespace", namespace, *arguments)


def package(registry: str, destination: Path, pins: Pins | None = None) -> None:
    """Packages the chart with `images.registry` set, because it is published beside its images, and with the images of
    `pins` by their digests. Raises HelmError.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.:/_-]*[a-z0-9]", registry):
        raise HelmError(f"'{registry}' is no registry of images; write one such as REGISTRY=registry.example/team")
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(CHART, Path(folder, CHART.name))
        values = (copy / "values.yaml").read_text().replace('registry: ""', f'registry: "{registry}"', 1)
        (copy / "values.yaml").write_text(pins.applied(values) if pins else values)
        helm("package", str(copy), "--destination", str(destination))


def rendered_files() -> Iterator[tuple[Path, str]]:
    """Yields the committed files, each with the text that it should have. Raises HelmError."""
    for name in OVERLAYS:
        values = CHART / "ci" / f"{name}.yaml"
        namespace = "pointsman-dev" if name == "dev" else "pointsman"
        yield K8S / "overlays" / name / "pointsman.yaml", _head(template("-f", str(values), namespace=namespace))
    rules = template("--show-only", "templates/rules.yaml", "--set", "monitoring.rules=true")
    yield K8S / "monitoring" / "rules.yaml", _head(rules)


def _head(text: str) -> str:
    return f"# Rendered from deploy/helm/pointsman by `make manifests`: change it there.\n{text}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["package"]:
        try:
            package(sys.argv[2], Path(sys.argv[3]), Pins(*map(json.loads, sys.argv[4:6])) if sys.argv[4:] else None)
        except HelmError as error:
            sys.exit(str(error))
        sys.exit()
    for file, text in rendered_files():
        file.write_text(text)
