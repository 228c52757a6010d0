"""Queries that may be empty after one minute of load and one fault, with reasons. Unused entries fail the tests."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"

EMPTY: dict[str, str] = {
    r"pointsman_lora_validation_duration_seconds": "versions are tested when they are registered, before the minute",
    r"pointsman_rerank_": "the help desk has no reranker",
}
"""By PromQL pattern, the reason why its queries may be empty."""


def reason(expr: str) -> str:
    """Returns the reason for a pattern of EMPTY that is in `expr` or in a recording rule that it uses; empty if there
    is none.
    """
    text = "\n".join(_with_its_rules(expr, _recorded(), set()))
    return next((pattern for pattern in EMPTY if re.search(pattern, text)), "")


def _with_its_rules(expr: str, recorded: Mapping[str, list[str]], seen: set[str]) -> list[str]:
    found = [expr]
    for name in sorted(set(re.findall(r"[a-z_]+:[\w:]+", expr)) & recorded.keys() - seen):
        seen.add(name)
        for inner in recorded[name]:
            found += _with_its_rules(inner, recorded, seen)
    return found


def _recorded() -> dict[str, list[str]]:
    """Returns the expressions of recording rules by the rule's name; a name has several if their labels differ."""
    recorded: dict[str, list[str]] = {}
    for path in RULES.glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    recorded.setdefault(rule["record"], []).append(rule["expr"])
    return recorded
