"""Hostile and mutated JSON Schemas, sent by clients for answers of a task with validators."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.fuzz.dialects import streamed
from tests.fuzz.mutations import change_json, deep
from tests.fuzz.problems import Problem, problem_of
from tests.fuzz.rig import HttpCase, Rig
from tests.fuzz.valid_bodies import SCHEMA
from tests.gateway.doubles.engine import chunk, usage
from tests.gateway.doubles.raw_engine import HEAD, LAST, in_chunks

PATTERNS = (
    r"[\p{L}\p{N}]{120}",
    r"((a{50}){50}){20}",
    r"(a+)+$",
    r"(?:(?:a?){30}a{30})+",
    r"\w{1,1000}",
    r"(?i)[^\P{L}]{80}",
    "(",
    r"(?=(a))\1",
)
KEYWORDS = (
    "pattern",
    "patternProperties",
    "items",
    "allOf",
    "anyOf",
    "enum",
    "minLength",
    "multipleOf",
    "format",
    "required",
    "$ref",
    "unevaluatedProperties",
    "dependentSchemas",
    "not",
    "if",
    "contains",
    "uniqueItems",
    "propertyNames",
    "$dynamicRef",
    "$id",
)
MAX_PATTERNS, MAX_DEPTH, MAX_DOUBLINGS = 40, 8, 24
"""Limits of hostile schemas: enough to block an unprotected gateway's event loop for some seconds, and not enough to
exhaust the machine."""


class Schemas:
    name, share, lanes = "schemas", 0.1, 2

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def make(self, random: Random, marker: str) -> HttpCase:
        schema, answer = hostile_schema(random)
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": f"I left my umbrella on the train {marker}"}],
            "metadata": {"source": "inbox"},
            "stream": random.random() < 0.3,
            "max_tokens": 60,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
        }
        events = [chunk(json.dumps(answer)), chunk("", finish="stop"), usage()]
        steps = HEAD, in_chunks([streamed(events)]), LAST
        return HttpCase("POST", "/v1/chat/completions", body=json.dumps(body).encode(), marker=marker, steps=steps)

    async def carry_out(self, case: HttpCase) -> Problem | None:
        return problem_of("a client's schema", await self._rig.ask(case), may_fail=False)


Made = tuple[Any, Any]
"""A schema, and the answer that is checked against it."""


def hostile_schema(random: Random) -> Made:
    """Returns a schema that is costly to compile or to check, or one that no client should send."""
    kinds = (_patterns, _tree, _doubling, _chain, _mutated, _mutated, _keywords, _keywords)
    return random.choice(kinds)(random)


def _patterns(random: Random) -> Made:
    count, pattern = random.choice((1, 5, 20, MAX_PATTERNS)), random.choice(PATTERNS)
    names = [f"p{number}" for number in range(count)]
    if random.random() < 0.3:
        return {"patternProperties": {f"{pattern}{number}": {} for number in range(count)}}, {"a" * 60: 1}
    return {"properties": {name: {"pattern": f"{pattern}{name}"} for name in names}}, dict.fromkeys(
        names, "a" * 60 + "!"
    )


def _tree(random: Random) -> Made:
    branches, depth = random.choice((2, 3)), random.choice((4, 6, MAX_DEPTH))
    branch = {"type": "array", "items": {"$ref": "#/$defs/n"}}
    keyword = random.choice(("anyOf", "oneOf", "allOf"))
    answer: Any = 1
    for _ in range(depth):
        answer = [answer]
    return {"$ref": "#/$defs/n", "$defs": {"n": {keyword: [branch] * branches}}}, answer


def _doubling(random: Random) -> Made:
    levels = random.choice((5, 15, 20, MAX_DOUBLINGS))
    keyword = random.choice(("allOf", "anyOf", "oneOf"))
    named = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**named, f"d{levels}": {"type": "string"}}}, 1


def _chain(random: Random) -> Made:
    schema: Any = {"type": "string"}
    for _ in range(random.choice((5, 9))):
        schema = {"properties": {"a": schema}} if random.random() < 0.5 else {"items": schema}
    return schema, deep(random, 9)


def _mutated(random: Random) -> Made:
    return change_json(random, SCHEMA), change_json(random, {"intent": "refund"})


def _keywords(random: Random) -> Made:
    values: Sequence[Any] = (
        SCHEMA,
        [SCHEMA],
        {"a": SCHEMA},
        "#",
        "#/properties/a",
        "http://127.0.0.1:1/x",
        "file:///etc/passwd",
        0,
        1e-300,
        10**30,
        True,
        [1, "a"],
        random.choice(PATTERNS),
    )
    schema = {random.choice(KEYWORDS): random.choice(values) for _ in range(random.randint(1, 4))}
    return {"properties": {"intent": schema}, **schema}, {"intent": "a" * 200}
