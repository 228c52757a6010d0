"""Keeps a conversation on its path: while it calls tools, whatever the policy chooses, and otherwise unless a change is
necessary or pays.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from pointsman_gateway.conversations.price import Change
from pointsman_gateway.domain import Path, Request
from pointsman_gateway.domain.conversation import ConversationStep, Step
from pointsman_gateway.extensions.policy import TRIAL, Plan, Policy
from pointsman_gateway.routing.path_state import Availability

KEPT = "conversation"
"""The reason of a decision that keeps the conversation's path, against the policy's choice."""


class ChangePrices(Protocol):
    """Interface that estimates what it costs a conversation to change its path, since the new path must read the
    context again; `metering/context_prices.py` implements it.
    """

    def change(self, kept: Path, other: Path, request: Request, step: ConversationStep) -> Change | None:
        """Returns the dollars that a change from `kept` to `other` costs and gains; None if a price is unknown."""
        ...


class UnknownPrices:
    """Implements `ChangePrices` without any prices, so that no conversation changes its path to save dollars."""

    def change(self, kept: Path, other: Path, request: Request, step: ConversationStep) -> Change | None:
        return None


class PathKeeper:
    """Changes a policy's plan so that a conversation keeps its path, unless a change is necessary or pays."""

    def __init__(
        self,
        paths: Mapping[str, Path],
        policies: Mapping[str, Policy],
        availability: Availability,
        prices: ChangePrices,
    ) -> None:
        self._paths = paths
        self._policies = policies
        self._availability = availability
        self._prices = prices

    def continue_with(self, plan: Plan, step: ConversationStep, request: Request, task: str) -> tuple[Plan, str]:
        """Returns (plan, note) for a further request of a conversation. The argument `plan` is the policy's plan for
        the request, regardless of its conversation, and `task` is the request's task.

        If the conversation keeps its path although the policy has chosen another one, its path is first in the new
        plan, with the reason `KEPT`. Otherwise the plan is unchanged. The note says why the conversation stays on its
        path or leaves it; it may be empty, for example if the policy has chosen the same path.
        """
        kept = step.kept.path
        if plan.paths[0] == kept:
            return plan, ""
        path = self._paths.get(kept)
        if path is None:
            return plan, f"left {kept}: the configuration does not have it any more"
        if step.kind is Step.TOOL_LOOP:
            return _keeping(plan, kept), f"stayed on {kept}: results of tools that it called follow"
        policy = self._policies.get(task)
        if policy is None or task != step.kept.task:
            return plan, ""
        why = self._why_leave(path, policy, plan, step)
        if why:
            return plan, f"left {kept}: {why}"
        if step.mode == "sticky":
            return _keeping(plan, kept), f"stayed on {kept}"
        if step.kind is Step.LIKE_ANOTHER:
            return _keeping(plan, kept), f"stayed on {kept}: a conversation that began like this one is under way"
        if plan.reason == TRIAL:
            return _keeping(plan, kept), f"stayed on {kept}: exploration chooses once for a conversation"
        change = self._prices.change(path, self._paths[plan.paths[0]], request, step)
        if change is None:
            return _keeping(plan, kept), f"stayed on {kept}: the price of a change is unknown"
        change = _with_worth(change, plan, kept, step.requests_left)
        if change.pays:
            return plan, f"left {kept}: the change costs {change}"
        return _keeping(plan, kept), f"stayed on {kept}: a change would cost {change}"

    def _why_leave(self, path: Path, policy: Policy, plan: Plan, step: ConversationStep) -> str:
        """Returns the reason to leave the path, such as an outage, whatever a change costs; empty if there is none."""
        if policy.is_constant or path.name not in policy.paths:
            return f"the policy chooses {plan.paths[0]}"
        why = self._availability.why_not(path)
        if why:
            return why
        if step.mode == "priced" and plan.as_good is not None and path.name not in plan.as_good:
            return plan.explanations.get(path.name, "it is not good enough")
        return ""


def _with_worth(change: Change, plan: Plan, kept: str, requests_left: float) -> Change:
    """Returns the change with the worth of better answers added to its gain: what the policy would pay more for
    `requests_left` answers of the plan's first path than for those of the path `kept`, which may be negative.
    """
    worth = plan.worth_usd
    if not worth:
        return change
    gain = worth.get(plan.paths[0], 0.0) - worth.get(kept, 0.0)
    return replace(change, gain_usd=change.gain_usd + gain * requests_left)


def _keeping(plan: Plan, path: str) -> Plan:
    explanations = {**plan.explanations, path: "the conversation keeps it"}
    return replace(plan, paths=tuple(dict.fromkeys((path, *plan.paths))), reason=KEPT, explanations=explanations)
