"""Explores paths: sends a share of the users along paths that are not known well enough."""

from collections.abc import Mapping
from dataclasses import replace

from pointsman_gateway.extensions import Plan
from pointsman_gateway.extensions.policy import TRIAL


def explore(plan: Plan, unexplored: Mapping[str, str], rate: float, position: float) -> Plan:
    """Returns the plan with a path of `unexplored` in front, for the share `rate` of users, evenly among these paths.

    `unexplored` has an explanation for each such path. `position` is a number from 0 to 1 that belongs to the request's
    user; if it is `rate` or more, or `unexplored` has only the plan's first path, the plan is unchanged.
    """
    paths = [path for path in unexplored if path != plan.paths[0]]
    if position >= rate or not paths:
        return plan
    path = paths[int(position / rate * len(paths))]
    explanations = {**plan.explanations, path: f"on trial; {unexplored[path]}"}
    return replace(plan, paths=(path, *plan.paths), reason=TRIAL, explanations=explanations)
