"""Explores paths: lets a share of the users try paths that have too few ratings to judge them."""

from collections.abc import Mapping
from dataclasses import replace

from pointsman_gateway.extensions import Plan
from pointsman_gateway.extensions.policy import TRIAL


def explore(plan: Plan, unexplored: Mapping[str, str], rate: float, position: float) -> Plan:
    """Returns the plan with an unexplored path put first, for a share `rate` (0 to 1) of the users.

    `unexplored` maps the name of each path with too few ratings to an explanation; users are distributed evenly over
    these paths. `position` is the user's fixed number from 0 to 1: the plan is unchanged if it is `rate` or more, or if
    no path but the plan's first is unexplored.
    """
    paths = [path for path in unexplored if path != plan.paths[0]]
    if position >= rate or not paths:
        return plan
    path = paths[int(position / rate * len(paths))]
    explanations = {**plan.explanations, path: f"on trial; {unexplored[path]}"}
    return replace(plan, paths=(path, *plan.paths), reason=TRIAL, explanations=explanations)
