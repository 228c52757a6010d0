"""`make test-engines`: which releases of vLLM pass the tests of the guard, the probe, bad adapters and swaps.

It writes the results to the guard's `tested_versions.json`, by which the guard knows a version, and to the table in its
README. `VERSIONS="0.32.0 0.31.0"` names releases; by default the newest of each of the three newest series is tested.
`ENGINE=PYTHON` tests the vLLM of one existing environment.
"""

import argparse
import json
import subprocess
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from pointsman_lora_server.engine.guard.pointsman_engine_guard.versions import numbers_in

from tests.engines.checks import TESTS, run_check
from tests.engines.engine_releases import PACKAGE, ROOT, listed_releases, make_environment, newest_of_each_series

GUARD = ROOT / "services/lora-server/src/pointsman_lora_server/engine/guard"
RESULTS = GUARD / "pointsman_engine_guard/tested_versions.json"
README = GUARD / "README.md"
SERIES = 3
BEGIN, END = "<!-- table: written by `make test-engines` -->\n", "<!-- end of table -->\n"


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.engines", description="Test releases of vLLM.")
    options.add_argument("versions", nargs="*", help=f"releases of {PACKAGE}")
    options.add_argument("--engine", type=Path, help="the Python of an environment that has vLLM")
    given = options.parse_args()
    if given.engine:
        store(version_in(given.engine), run_checks(given.engine))
        return
    for release in given.versions or newest_of_each_series(listed_releases(), SERIES):
        try:
            python = make_environment(release)
        except subprocess.CalledProcessError as error:
            store(release, dict.fromkeys(TESTS, f"cannot be installed: {error}"))
            continue
        store(release, run_checks(python))


def version_in(python: Path) -> str:
    asked = [str(python), "-c", "import vllm; print(vllm.__version__)"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=300).stdout
    return answer.split()[-1].partition("+")[0]  # lines before it are warnings


def run_checks(python: Path) -> dict[str, str]:
    return {name: run_check(name, python) for name in TESTS}


def store(version: str, checks: Mapping[str, str]) -> None:
    """Replaces the results of one version in the file and in the table."""
    results = json.loads(RESULTS.read_text())
    results[version] = {"package": PACKAGE, "date": date.today().isoformat(), "checks": dict(checks)}
    RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    README.write_text(with_table(README.read_text(), results))
    print(version, *(f"{name}: {verdict}" for name, verdict in checks.items()), sep="\n  ", flush=True)


def with_table(page: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the page with its table replaced by one of these results, the newest version first."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows: list[tuple[str, ...]] = [("vLLM", *TESTS, "date", "package"), ("---",) * (3 + len(TESTS))]
    newest_first = sorted(results, key=numbers_in, reverse=True)
    for version in newest_first:
        row = results[version]
        rows.append((version, *(row["checks"][name] for name in TESTS), row["date"], row["package"]))
    table = "" if not results else "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{before}{BEGIN}{table}{END}{after}"


if __name__ == "__main__":
    main()
