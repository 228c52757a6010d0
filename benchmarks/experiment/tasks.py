"""The experiment's tasks, and which of its paths are of each."""

import yaml

from benchmarks.experiment.folder import HERE

PREFIXES = {"triage": "triage_", "policy_question": "policy_", "branded_reply": "letter_", "fare_sum": "fare_"}
TASKS = tuple(PREFIXES)
OWN_ADAPTERS = {"policy_question": "policy", "fare_sum": "fares"}
"""Which the experiment trains; the other tasks have the example's."""


def paths_of(task: str) -> list[str]:
    """By the beginning of their names, in the order of paths.yaml."""
    paths = yaml.safe_load((HERE / "paths.yaml").read_text("utf-8"))["paths"]
    return [path for path in paths if path.startswith(PREFIXES[task])]


def short(path: str, task: str) -> str:
    """Its name without the task's: "adapter, few shot"."""
    return path.removeprefix(PREFIXES[task]).replace("_", " ")
