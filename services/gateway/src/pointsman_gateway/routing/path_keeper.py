"""Decides whether a conversation stays on the path that answered it before, or changes to the policy's choice.

The conversation stays while it calls tools. Otherwise it changes only if that is necessary, or worth its price.
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
    """Interface that estimates the cost of a conversation's change to another path, whose model must read all earlier
    messages.

    `metering/context_prices.py` implements it.
    """

    def change(self, kept: Path, other: Path, request: Request, step: ConversationStep) -> Change | None:
        """Returns the dollars that the conversation's change from the path `kept` to the path `other` costs and gains.

        `request` is the conversation's next request, and `step` that request's place in the conversation. Returns None
        if a price is unknown.
        """
        ...


class UnknownPrices:
    """Implements `ChangePrices` where no prices are known: conversations never change their path to save dollars."""

    def change(self, kept: Path, other: Path, request: Request, step: ConversationStep) -> Change | None:
        return None


class PathKeeper:
    """Decides whether a conversation stays on its path although the policy prefers another one for its next request."""

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
        """Returns (plan, note) for a later request of a conversation: the plan to follow, and why the path stays or
        changes.

        The argument `plan` is the policy's choice without regard to the conversation; `task` is the request's task. If
        the conversation stays on a path that the policy has not chosen, the returned plan has that path first, with the
        reason `KEPT`. If it does not, the argument `plan` is returned. The note is empty if there is nothing to
        explain.
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
