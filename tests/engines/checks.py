"""The checks of one engine: tests that run elsewhere with the pinned vLLM, run here with another one."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

from tests.engines.engine_releases import ROOT

TESTS: Mapping[str, tuple[str, ...]] = {
    "guard": ("tests/together/test_engine_guard.py", "-k", "not corrupted"),
    "probe": ("tests/together/test_engine_guard.py", "-k", "corrupted"),
    "bad adapters": ("tests/together/test_bad_adapters.py",),
    "swaps": ("tests/swaps",),
}
"""The arguments of pytest for each check."""
PASSED = "passed"
MAX_REASON_CHARACTERS = 300
SECONDS = 3600


def run_check(name: str, python: Path) -> str:
    """Returns `PASSED`, or what failed first. `python` is that of the engine's environment."""
    environment = os.environ | {"POINTSMAN_ENGINE_PYTHON": str(python), "POINTSMAN_ENGINE_UNKNOWN_VERSION": "warn"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *TESTS[name]]
        try:
            subprocess.run(command, cwd=ROOT, env=environment, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return f"not done after {SECONDS} s"
        return read_report(report.read_text() if report.exists() else "")


def read_report(report: str) -> str:
    """Returns the verdict of pytest's report in JUnit's format. Skipped tests, or none, are no pass."""
    if not report:
        return "pytest did not start"
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    for case in cases:
        for problem in case:
            if problem.tag in ("failure", "error", "skipped"):
                reason = f"{case.get('name')}: {problem.get('message', '')}"
                return reason.splitlines()[0][:MAX_REASON_CHARACTERS]
    return PASSED if cases else "no test ran"
