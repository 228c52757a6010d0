"""The versions of vLLM that the guard was tested with, and the check whether it may run with the installed version."""

import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

log = logging.getLogger(__name__)

UNKNOWN_VARIABLE = "POINTSMAN_ENGINE_UNKNOWN_VERSION"
"""The environment variable that says how the guard treats an untested version of vLLM: "refuse" (the default) does not
let vLLM start, "warn" only logs a warning."""
TESTED_FILE = "tested_versions.json"
"""The file with the results of `make test-engines`: for each version of vLLM, check name -> "passed" or the reason for
the failure."""

PASSED = "passed"


class UnknownVersion(RuntimeError):
    """The guard was not tested with this version of vLLM, or failed a test with it; the message says what to do."""


def vllm_version() -> str:
    """Returns the version of the vLLM in whose process the guard runs, such as "0.32.0+cpu"."""
    return str(sys.modules["vllm"].__version__)


def read_tested() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath(TESTED_FILE).read_text("utf-8"))
    return content


def series_of(version: str) -> str:
    """Returns the release series of a version, such as "0.32" for "0.32.0+cpu"."""
    return ".".join(version.split("+")[0].split(".")[:2])


def passed_series(tested: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """Returns the release series that have a version for which all checks passed, the newest first. `tested` has the
    content of `TESTED_FILE`.
    """
    passed = {series_of(version) for version, row in tested.items() if set(row["checks"].values()) == {PASSED}}
    return sorted(passed, key=numbers_in, reverse=True)


def numbers_in(version: str) -> tuple[int, ...]:
    """Returns the first three numbers in a version, as a key for sorting; empty for a development build such as
    "dev".
    """
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def check_version(
    version: str, environment: Mapping[str, str], tested: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Raises UnknownVersion if the guard failed a check with this version of vLLM, or if no version of its release
    series passed all checks.

    It only logs a warning instead if `environment` sets `UNKNOWN_VARIABLE` to "warn", or if no version in `tested` (by
    default the content of `TESTED_FILE`) passed. Raises ValueError if the variable has an unknown value.

    An untested patch release of a tested series is accepted: such a release repairs faults, and the guard checks the
    objects of vLLM that it uses.
    """
    reaction = environment.get(UNKNOWN_VARIABLE) or "refuse"
    if reaction not in ("refuse", "warn"):
        raise ValueError(f"{UNKNOWN_VARIABLE} is {reaction!r}; use refuse or warn")
    tested = read_tested() if tested is None else tested
    known = passed_series(tested)
    row = tested.get(version.partition("+")[0], {"checks": {}})
    failed = ", ".join(name for name, verdict in row["checks"].items() if verdict != PASSED)
    if series_of(version) in known and not failed:
        return
    versions = f"vLLM {', '.join(f'{each}.x' for each in known)}" if known else "no vLLM"
    failure = f" (with {version} it failed: {failed})" if failed else ""
    reason = f"the guard was tested with {versions}{failure}, and this is {version}"
    if known and reaction == "refuse":
        raise UnknownVersion(
            f"{reason}: install one of those, or the release of pointsman-engine-guard for this one. To try it, set "
            f"{UNKNOWN_VARIABLE}=warn, and run `pointsman conformance swap --control guard` before it gets requests"
        )
    log.warning("%s: adapters may get wrong answers", reason)
