"""A program that prints the privileges and limits of the container in which it runs."""

import json
from typing import Any

from tests.images.running import Container

CONFINED = {
    "uid": 10001,
    "capabilities": 0,
    "no_new_privileges": "1",
    "system_calls": "filtered",
    "root": "read-only",
    "tmp": "written",
}

_LOOK = """
import json, os
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines() if ":\\t" in line)
try:
    open("/opt/pointsman/x", "w")
    root = "written"
except OSError as error:
    root = "read-only" if error.errno == 30 else str(error)
open("/tmp/x", "w").write("x")
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"],
    "system_calls": {"2": "filtered"}.get(status["Seccomp"], "all"),
    "root": root,
    "tmp": "written",
}))
"""


def confinement(container: Container) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(container.inside(_LOOK))
    return found
