"""What may be empty after one minute of load and one fault, and why. An entry that nothing needs fails the tests."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"

EMPTY: dict[str, str] = {
    r"pointsman_lora_validation_duration_seconds": "versions are tested when they are registered, before the minute",
}
"""Patterns of PromQL to reasons."""


def reason(expr: str) -> str:
    """The pattern in EMPTY that `expr` has in it, or any rule that it asks for; empty where there is none."""
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
    """Names to their expressions; there are several where the labels differ."""
    recorded: dict[str, list[str]] = {}
    for path in RULES.glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    recorded.setdefault(rule["record"], []).append(rule["expr"])
    return recorded
