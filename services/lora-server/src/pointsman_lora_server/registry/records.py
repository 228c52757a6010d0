"""The domain's nouns as they are written in Redis, and back; a field that a newer lora-server wrote is passed over."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from pointsman_lora_server.domain import AdapterVersion, Alias, Canary, CanaryTerms, Phase, PhaseRecord, Placement

_OF_A_VERSION = frozenset(each.name for each in fields(AdapterVersion))
_OF_TERMS = frozenset(each.name for each in fields(CanaryTerms))


def version_to_json(version: AdapterVersion) -> str:
    return json.dumps(asdict(version))


def version_from_json(raw: str) -> AdapterVersion:
    values = json.loads(raw)
    known = {name: value for name, value in values.items() if name in _OF_A_VERSION}
    return AdapterVersion(**(known | {"target_modules": tuple(values["target_modules"])}))


def alias_from_json(name: str, raw: str) -> Alias:
    return _alias(name, json.loads(raw))


def canary_to_texts(canary: Canary | None) -> tuple[str, str, str]:
    """Its version, weight and terms; the scripts compare these texts, and so round no number."""
    if canary is None:
        return "", "", ""
    return canary.version, repr(float(canary.weight)), json.dumps(asdict(canary.terms), sort_keys=True)


def standings_from_json(raw: str) -> tuple[dict[str, PhaseRecord], dict[str, str]]:
    """By version; and which making of its record each belongs to."""
    values = json.loads(raw)
    made = {version: str(each["made"]) for version, each in values.items()}
    return {version: _standing(each) for version, each in values.items()}, made


def aliases_from_json(raw: str) -> tuple[Alias, ...]:
    return tuple(_alias(name, values) for name, values in sorted(json.loads(raw).items()))


def placement_to_text(placement: Placement | None) -> str:
    """Empty for None."""
    return "" if placement is None else str(placement)


def placements_from_pairs(raw: Sequence[str]) -> dict[str, Placement]:
    return {name: _placement(text) for name, text in zip(raw[::2], raw[1::2], strict=True)}


def coming_from_pairs(raw: Sequence[str]) -> dict[str, int]:
    return {version: int(until) for version, until in zip(raw[::2], raw[1::2], strict=True)}


def plain(text: str, most: int = 2000) -> str:
    """What UTF-8 can carry of it: a file's name may hold what it cannot."""
    return text[:most].encode(errors="replace").decode()


def _placement(text: str) -> Placement:
    return Placement(0 if text == "on-demand" else int(text))


def _standing(values: Mapping[str, Any]) -> PhaseRecord:
    return PhaseRecord(Phase(values["phase"]), values["error_code"], values["error"], values["word"], values["force"])


def _alias(name: str, values: Mapping[str, Any]) -> Alias:
    canary = None
    if values["canary"]:
        terms = {name: value for name, value in json.loads(values["terms"]).items() if name in _OF_TERMS}
        canary = Canary(values["canary"], float(values["weight"]), CanaryTerms(**terms))
    return Alias(name, values["version"], values["revision"], canary, values["previous"])
