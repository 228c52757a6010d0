"""The interfaces of extensions: policies, prompt strategies, validators and guardrails.

Users add extensions of their own without changes to Pointsman's code (docs/extending.md).
"""

from pointsman_servicekit.extensions import Registry

from pointsman_gateway.extensions.guardrail import GUARDRAILS, Finding, GuardedText, Guardrail, GuardrailContext, Hook
from pointsman_gateway.extensions.policy import POLICIES, Candidate, Plan, Policy, PolicyContext, Requirements
from pointsman_gateway.extensions.strategy import (
    STRATEGIES,
    Draft,
    Embed,
    Example,
    Found,
    NothingRelevant,
    Resources,
    Search,
    Strategy,
    StrategyContext,
    Templates,
)
from pointsman_gateway.extensions.validator import VALIDATORS, Choice, Validator

__all__ = [
    "GUARDRAILS",
    "POLICIES",
    "STRATEGIES",
    "VALIDATORS",
    "Candidate",
    "Choice",
    "Draft",
    "Embed",
    "Example",
    "Finding",
    "Found",
    "GuardedText",
    "Guardrail",
    "GuardrailContext",
    "Hook",
    "NothingRelevant",
    "Plan",
    "Policy",
    "PolicyContext",
    "Registry",
    "Requirements",
    "Resources",
    "Search",
    "Strategy",
    "StrategyContext",
    "Templates",
    "Validator",
]
