"""Draws random values for the chart from its schema. Each key is left out, or drawn from its examples, enum or
range."""

import json
import random
from typing import Any

from deploy.helm.render import CHART

Schema = dict[str, Any]

SCHEMA: Schema = json.loads((CHART / "values.schema.json").read_text())
POOLS = ("inferencePool", "inferencePools", "publishAdapters")
NOT_DRAWN = ("global", "resources", "extraObjects", "training", "updateStrategy", *POOLS)
"""Keys that are not drawn: free-form objects, values that only other templates use, and what ci/llm-d.yaml has."""


def random_values(seed: int) -> dict[str, Any]:
    values: dict[str, Any] = _draw(SCHEMA, random.Random(seed))
    _agree_on_gpus(values)
    _agree_on_sources(values)
    return values


def _agree_on_gpus(values: dict[str, Any]) -> None:
    """Gives a GPU to engines of the kind cuda and to no others, since the chart rejects anything else."""
    defaults = values.setdefault("engineDefaults", {})
    for engine in [defaults, *values.setdefault("engines", [{"name": "local"}])]:
        kind = engine.setdefault("kind", defaults.get("kind", "cpu"))
        gpu = engine.setdefault("gpu", {})
        gpu["count"] = 0 if kind == "cpu" else max(1, gpu.get("count", 1))
        model = engine.setdefault("model", {})
        if kind == "cuda" and model.get("source", "image") == "image":
            model["source"] = "pvc:existing"  # the image for GPUs has no model


def _agree_on_sources(values: dict[str, Any]) -> None:
    """Removes values that the chart rejects because nothing would use them."""
    policy, seed, retriever = (values.get(key, {}) for key in ("policy", "seed", "retriever"))
    if policy.get("files") or not policy.get("configMaps", {}).get("policy"):
        policy.pop("configMaps", None)
    if not retriever.get("enabled", True):
        seed.pop("documents", None)
    if not values["engines"]:
        seed.pop("adapters", None)
    if not retriever.get("milvus", {}).get("url"):
        retriever.get("milvus", {}).pop("secret", None)
    elif retriever.get("gpu"):
        retriever["gpu"]["count"] = 0
    files = policy.get("files") or {"models.yaml": "", "paths.yaml": "", "tasks.yaml": ""}
    if not policy.get("configMaps", {}).get("policy"):
        for value in ("embeddingConfig", "collections"):
            if retriever.get(value) not in files:
                retriever.pop(value, None)


def _draw(schema: Schema, chance: random.Random, *, has_defaults: bool = True) -> Any:
    """Draws a value for a schema. `has_defaults` says that an object's required keys are in the chart's own values, so
    they may be left out.
    """
    schema = _resolved(schema)
    if "enum" in schema:
        return chance.choice(schema["enum"])
    if "examples" in schema:
        return chance.choice(schema["examples"])
    match schema["type"]:
        case "object":
            required = () if has_defaults else schema.get("required", ())
            properties = {key: value for key, value in schema.get("properties", {}).items() if key not in NOT_DRAWN}
            return {
                key: _draw(value, chance, has_defaults=has_defaults)
                for key, value in properties.items()
                if key in required or chance.random() < 0.75
            }
        case "array":
            items = [
                _draw(schema["items"], chance, has_defaults=False)
                for _ in range(chance.randint(schema.get("minItems", 0), 2))
            ]
            return list({item["name"] if "name" in item else str(item): item for item in items}.values())
        case "boolean":
            return chance.random() < 0.5
        case "integer":
            return chance.randint(schema["minimum"], min(schema["maximum"], schema["minimum"] + 9))
        case "number":
            return round(chance.uniform(schema["minimum"], min(schema["maximum"], 10)), 2)
    raise AssertionError(f"a string without examples or an enum: {schema}")


def _resolved(schema: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    referred = SCHEMA
    for key in schema["$ref"].removeprefix("#/").split("/"):
        referred = referred[key]
    return {**_resolved(referred), **{key: value for key, value in schema.items() if key != "$ref"}}
