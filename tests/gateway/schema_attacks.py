"""Schemas and answers that would take much time or memory. Run as a program, it prints what each of them took."""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from pointsman_gateway.domain import Chunk, Decision, Message, Path, Request, Sampling
from pointsman_gateway.validation.stage import Transcript, Validation
from pointsman_gateway.validation.validators import Complete

from tests.security.measuring import cost_of


def _properties(count: int, schema: Callable[[int], Any]) -> dict[str, Any]:
    return {"properties": {f"p{number}": schema(number) for number in range(count)}}


def _patterns(count: int, pattern: str) -> dict[str, Any]:
    return _properties(count, lambda number: {"pattern": f"{pattern}{number}"})


def _defs(count: int, schema: Callable[[int], Any]) -> dict[str, Any]:
    last = {f"d{count}": {"type": "string"}}
    return {"$ref": "#/$defs/d0", "$defs": {f"d{number}": schema(number) for number in range(count)} | last}


def _ref(number: int) -> dict[str, Any]:
    return {"$ref": f"#/$defs/d{number}"}


def _tree(keyword: str, branches: int) -> dict[str, Any]:
    return {
        "$ref": "#/$defs/n",
        "$defs": {"n": {keyword: [{"type": "array", "items": {"$ref": "#/$defs/n"}}] * branches}},
    }


def _nested(levels: int) -> str:
    return "[" * levels + "1" + "]" * levels


GRAPH = {f"d{i}": {"properties": {f"p{j}": {"$ref": f"#/$defs/d{j}"} for j in range(9)}} for i in range(9)}
ITSELF = {"allOf": [{"$ref": "#/$defs/n"}, {"$ref": "#"}] * 9}
LONG_INTEGERS = json.dumps([int("3" * 4_000)] * 15)
HARD_TEXT = json.dumps(["ab" * 10_000])

SLOW_ITEMS = {"items": {"allOf": [{"type": "integer"}] * 10}}
SLOW_VALUE = {"allOf": [{"type": "array"}] * 900}

ATTACKS: dict[str, tuple[Any, ...]] = {
    "a repeated Unicode class": (_patterns(1, r"[\p{L}\p{N}]{120}"), "{}"),
    "50 repeated Unicode classes": (_patterns(50, r"[\p{L}\p{N}]{120}"), "{}"),
    "900 repeated Unicode classes": (_patterns(900, r"[\p{L}\p{N}]{120}"), "{}"),
    "nested repetitions": (_patterns(100, "((a{50}){50}){20}"), "{}"),
    "20 Unicode classes": (_patterns(20, r"\p{L}"), "{}"),
    "20 patterns as large as the limits allow": (_patterns(20, "[ab]*a[ab]{60}"), "{}"),
    "a pattern that is slow for each character": ({"items": {"pattern": "[ab]*a[ab]{600}c"}}, HARD_TEXT),
    "a pattern of names": ({"patternProperties": {"[ab]*a[ab]{200}c": {}}}, json.dumps({"ab" * 20_000: 1})),
    "a tree of 3 alternatives, 8 levels": (_tree("anyOf", 3), _nested(8)),
    "a tree of 3 alternatives, 9 levels": (_tree("anyOf", 3), _nested(9)),
    "a tree of 4 alternatives, 12 levels": (_tree("anyOf", 4), _nested(12)),
    "a tree of oneOf": (_tree("oneOf", 4), _nested(12)),
    "a tree of allOf": (_tree("allOf", 4), _nested(200)),
    "a chain of allOf that doubles": (_defs(26, lambda number: {"allOf": [_ref(number + 1)] * 2}), '"x"'),
    "a chain of properties that doubles": (
        _defs(26, lambda number: {"properties": {"a": _ref(number + 1), "b": _ref(number + 1)}}),
        "{}",
    ),
    "a chain of unevaluatedProperties": (
        _defs(16, lambda number: {"allOf": [_ref(number + 1)] * 2, "unevaluatedProperties": False}),
        "{}",
    ),
    "a complete graph of $refs": ({"$ref": "#/$defs/d0", "$defs": GRAPH}, "{}"),
    "a long chain of $refs": (_defs(1_500, lambda number: _ref(number + 1)), '"x"'),
    "a $ref to itself": ({"$ref": "#/$defs/n", "$defs": {"n": ITSELF}}, "1"),
    "a deep schema": (json.loads('{"items":' * 90 + "{}" + "}" * 90), _nested(90)),
    "1,000 alternatives of a large value": ({"anyOf": [{"type": "string"}] * 900}, json.dumps([1] * 4_500)),
    "many wrong items": ({"items": {"type": "string"}}, json.dumps([1] * 30_000)),
    "many wrong items within the limits": ({"items": {"type": "string"}}, json.dumps([1] * 4_500)),
    "long integers": ({"items": {"minimum": 5.5, "multipleOf": 0.01}}, LONG_INTEGERS),
    "uniqueItems on each level": (
        {"uniqueItems": True, "items": {"$ref": "#"}},
        "[" * 60 + ",".join(map(str, range(4_500))) + ",1]" * 60,
    ),
    "brackets only": (_tree("anyOf", 3), "[" * 30_000),
    "as many properties as fit": (_properties(950, lambda number: {"type": "string"}), json.dumps({"p0": "x"})),
    "a large schema": ({"enum": ["x" * 1_000] * 1_000}, '"x"'),
    "128 choices of many values": (SLOW_ITEMS, *[json.dumps([1] * 1_900)] * 128),
    "128 choices with few values and many steps": (SLOW_VALUE, *["[1]"] * 128),
    "128 choices that are searched": ({"not": {"pattern": "[ab]*a[ab]{600}c"}}, *[json.dumps("ab" * 150)] * 128),
    "8 choices of one large text": ({"type": "string"}, *[json.dumps("x" * 60_000)] * 8),
}  # fmt: skip
"""By name, a schema and the texts of an answer's choices."""


def ruling_of(validation: Validation, schema: dict[str, Any], *choices: str) -> str:
    """Returns whether the choices of an answer satisfy a client's schema, and the reason if not."""
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    request = Request("auto", (Message("user", "x"),), Sampling(extra={"response_format": response_format}))
    transcript = Transcript()
    for index, choice in enumerate(choices):
        transcript.add(Chunk(index, choice, "stop"))
    decision = Decision("d", "t", 1.0, Path("p", "tiny"), "r", "s", (), ())
    verdict = validation.checks(request, decision).verdicts(transcript)[-1]
    return f"{verdict.ruling}: {verdict.reason}"


def measure(name: str) -> None:
    """Prints the CPU seconds, the memory and the result of an attack. Each attack is measured in a new process."""
    validation = Validation({"t": [("complete", Complete(True))]})
    ruling_of(
        validation, {"type": "object", "properties": {"a": {"pattern": "^a"}}}, '{"a": "b"}'
    )  # touches the library
    with cost_of(os.getpid()) as cost:
        began = time.process_time()
        ruling = ruling_of(validation, *ATTACKS[name])
        seconds = time.process_time() - began
    sys.stdout.write(json.dumps([name, seconds, cost.peak_mib, ruling]) + "\n")
    sys.stdout.flush()


def main() -> None:
    ruling_of(Validation({}), {}, "1")  # loads the library
    for name in ATTACKS:
        child = os.fork()
        if not child:
            measure(name)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
