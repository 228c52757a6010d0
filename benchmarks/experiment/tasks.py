"""The experiment's tasks and the paths of each."""

import yaml

from benchmarks.experiment.folder import HERE

PREFIXES = {"triage": "triage_", "policy_question": "policy_", "branded_reply": "letter_", "fare_sum": "fare_"}
TASKS = tuple(PREFIXES)
OWN_ADAPTERS = {"policy_question": "policy_alone", "fare_sum": "fares"}
"""By task, the adapter that the experiment trains; the other tasks use the example's adapters."""


def paths_of(task: str) -> list[str]:
    """Returns the paths with the task's prefix, in the order of paths.yaml."""
    paths = yaml.safe_load((HERE / "paths.yaml").read_text("utf-8"))["paths"]
    return [path for path in paths if path.startswith(PREFIXES[task])]


def short(path: str, task: str) -> str:
    """Returns the path's name without its task, for example "adapter few shot"."""
    return path.removeprefix(PREFIXES[task]).replace("_", " ")
