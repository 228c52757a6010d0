"""The versions of vLLM that the guard was tested with, and what happens with another one."""

import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

log = logging.getLogger(__name__)

UNKNOWN_VARIABLE = "POINTSMAN_ENGINE_UNKNOWN_VERSION"
"""The environment variable that says what happens with an unknown version: "refuse" (the default) or "warn"."""
TESTED_FILE = "tested_versions.json"
"""The results of `make test-engines`: for each version the checks, each with "passed" or the reason why not."""

PASSED = "passed"


class UnknownVersion(RuntimeError):
    """The guard was not tested with this vLLM, or failed there; the message says what to do."""


def vllm_version() -> str:
    """Returns the version of the vLLM in whose process the guard runs, such as "0.32.0+cpu"."""
    return str(sys.modules["vllm"].__version__)


def read_tested() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath(TESTED_FILE).read_text("utf-8"))
    return content


def series_of(version: str) -> str:
    """Returns the release series, such as "0.32" of "0.32.0+cpu"."""
    return ".".join(version.split("+")[0].split(".")[:2])


def passed_series(tested: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """Returns the series of all versions whose checks all passed, the newest first."""
    passed = {series_of(version) for version, row in tested.items() if set(row["checks"].values()) == {PASSED}}
    return sorted(passed, key=numbers_in, reverse=True)


def numbers_in(version: str) -> tuple[int, ...]:
    """Returns the first three numbers in a version, by which versions are sorted; none in "dev", as a build may say."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def check_version(
    version: str, environment: Mapping[str, str], tested: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Raises UnknownVersion if the guard failed a check with this version, or no version of its series passed all.

    It only logs that if `environment` says "warn", or if `tested` (by default `read_tested`) has no version that
    passed. Raises ValueError for another value of the variable.

    An untested patch release of a tested series is accepted: it repairs faults, and the guard checks the objects that
    it uses.
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
