"""The JSON Schemas of clients: ordinary ones are checked, and none takes much time or memory."""

import json
import subprocess
import sys
import tracemalloc
import weakref
from functools import cache
from typing import Any

import pytest
from pointsman_gateway.extensions import Choice, Validator
from pointsman_gateway.validation.answer_budget import MAX_ANSWER_CHARACTERS, NotJudged
from pointsman_gateway.validation.client_schemas import CACHED_SCHEMAS, MAX_SCHEMA_CHARACTERS, ClientSchemas
from pointsman_gateway.validation.pattern_states import UNICODE_STATES, pattern_states
from pointsman_gateway.validation.stage import Validation
from pointsman_gateway.validation.validators import Complete
from pydantic import BaseModel, Field

from tests.cpu_time import cpu_seconds
from tests.gateway.doubles.api_clients import ApiClient
from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.engine import ScriptedEngine, answer
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.schema_attacks import ATTACKS, ruling_of

MAX_SECONDS = 0.05
"""Maximum CPU seconds. The limits should keep it under 0.01 s; the rest is for a busy machine."""
MAX_MEBIBYTES = 8
"""Maximum memory in MiB. The limits should keep it under 4."""


@cache
def measured() -> dict[str, tuple[float, float, str]]:
    """Runs each attack in a process of its own; returns CPU seconds, memory and ruling by name."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.gateway.schema_attacks"], capture_output=True, text=True, timeout=120, check=True
    )
    return {
        name: (seconds, mebibytes, ruling)
        for name, seconds, mebibytes, ruling in map(json.loads, ended.stdout.splitlines())
    }


@pytest.mark.parametrize("name", ATTACKS)
def test_no_schema_of_a_client_takes_much_time_or_memory(name: str) -> None:
    seconds, mebibytes, ruling = measured()[name]

    assert seconds < MAX_SECONDS, ruling
    assert mebibytes < MAX_MEBIBYTES, ruling


UNJUDGED = [
    ("50 repeated Unicode classes", "its patterns are too complex: over 1,500 states with repetitions written out"),
    ("a chain of allOf that doubles", "it has over 1,000 subschemas, counting each $ref's"),
    ("a chain of unevaluatedProperties", "it uses one of unevaluatedProperties, "),
    ("a long chain of $refs", "it is over 100 levels deep, counting each $ref's"),
    ("a $ref to itself", "a $ref refers to itself for the same value"),
    ("a pattern that is slow for each character", "the patterns of the client's schema take too long"),
    ("1,000 alternatives of a large value", "needs over 50,000 steps to check the answer"),
    ("brackets only", "the answer has over 5,000 values"),
    ("128 choices of many values", "the answer has over 5,000 values"),
    ("128 choices with few values and many steps", "needs over 50,000 steps to check the answer"),
    ("128 choices that are searched", "the patterns of the client's schema take too long"),
    ("8 choices of one large text", f"the answer has over {MAX_ANSWER_CHARACTERS:,} characters"),
    ("a large schema", f"the client's schema has over {MAX_SCHEMA_CHARACTERS:,} characters"),
]


@pytest.mark.parametrize(("name", "reason"), UNJUDGED)
def test_a_verdict_names_the_limit_that_a_schema_exceeds(name: str, reason: str) -> None:
    ruling = ruling_of(validation(), *ATTACKS[name])

    assert ruling.startswith("unjudged: ")
    assert reason in ruling


def validation() -> Validation:
    return Validation({"t": [("complete", Complete(True))]})


# -- ordinary schemas


class Address(BaseModel):
    street: str
    country: str = Field(pattern="^[A-Z]{2}$")


class Contact(BaseModel):
    name: str = Field(min_length=1, max_length=100)
    email: str = Field(pattern=r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$")
    born: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    price: float | None = Field(default=None, ge=0, multiple_of=0.01)
    addresses: dict[str, Address] = Field(default_factory=dict)
    friends: list["Contact"] = Field(default_factory=list)
    tags: set[str] = Field(default_factory=set)


class Number(BaseModel):
    value: float


class Sum(BaseModel):
    left: "Number | Sum | Product"
    right: "Number | Sum | Product"


class Product(BaseModel):
    factors: "list[Number | Sum | Product]"


LINKED_LIST = {
    "type": "object",
    "properties": {"linked_list": {"$ref": "#/$defs/linked_list_node"}},
    "$defs": {
        "linked_list_node": {
            "type": "object",
            "properties": {
                "value": {"type": "number"},
                "next": {"anyOf": [{"$ref": "#/$defs/linked_list_node"}, {"type": "null"}]},
            },
            "additionalProperties": False,
            "required": ["next", "value"],
        }
    },
    "additionalProperties": False,
    "required": ["linked_list"],
}
USER_INTERFACE = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["div", "button", "header", "section", "field", "form"]},
        "label": {"type": "string"},
        "children": {"type": "array", "items": {"$ref": "#"}},
        "attributes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
                "additionalProperties": False,
                "required": ["name", "value"],
            },
        },
    },
    "required": ["type", "label", "children", "attributes"],
    "additionalProperties": False,
}
INVOICE = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
        "lines": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "sku": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4,6}$"},
                    "count": {"type": "integer", "minimum": 1, "maximum": 1000},
                    "unit": {"enum": ["piece", "kg", "m"]},
                },
                "required": ["sku", "count"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["id", "lines"],
}


def linked(length: int) -> dict[str, Any]:
    node: dict[str, Any] | None = None
    for number in range(length):
        node = {"value": number, "next": node}
    return {"linked_list": node}


def interface(levels: int, width: int, **leaf: Any) -> dict[str, Any]:
    children = [interface(levels - 1, width, **leaf) for _ in range(width)] if levels else []
    attributes = [{"name": "class", "value": "wide"}]
    node = {"type": "div", "label": "A part of the page.", "children": children, "attributes": attributes}
    return node if levels else node | leaf


def contact(name: str, *friends: dict[str, Any], **changed: Any) -> dict[str, Any]:
    known = {"name": name, "email": f"{name}@example.org", "born": "1990-12-24", "price": 10, "tags": ["a", "b"]}
    return {**known, "addresses": {"home": {"street": "Main St", "country": "DE"}}, "friends": list(friends), **changed}


def invoice(lines: int, **changed: Any) -> dict[str, Any]:
    line = {"sku": "AB-12345", "count": 3, "unit": "kg"} | changed
    return {"id": "0a1b2c3d-0000-4000-8000-0123456789ab", "lines": [line] * lines}


SUMS = {"left": {"value": 1}, "right": {"factors": [{"value": 2}, {"left": {"value": 3}, "right": {"value": 4}}]}}

ORDINARY = [
    (LINKED_LIST, linked(30), {"linked_list": {"value": "one", "next": None}}),
    (USER_INTERFACE, interface(4, 3), interface(4, 3, type="marquee")),
    (INVOICE, invoice(100), invoice(1, sku="12345")),
    (INVOICE, invoice(1), invoice(1, count=0)),
    (
        Contact.model_json_schema(),
        contact("ann", contact("bob"), contact("eve")),
        contact("ann", contact("", born="1")),
    ),
    (Contact.model_json_schema(), contact("ann"), contact("ann", addresses={"home": {"street": "x", "country": "de"}})),
    (Sum.model_json_schema(), SUMS, {"left": SUMS, "right": {"value": "x"}}),
]


@pytest.mark.parametrize(("schema", "good", "bad"), ORDINARY)
def test_an_ordinary_schema_is_checked(schema: dict[str, Any], good: Any, bad: Any) -> None:
    assert ruling_of(validation(), schema, json.dumps(good)) == "accepted: "
    assert ruling_of(validation(), schema, json.dumps(bad)).startswith("refused: ")


def test_a_refusal_says_what_is_wrong_if_that_is_cheap() -> None:
    assert ruling_of(validation(), USER_INTERFACE, json.dumps(interface(3, 1, type="marquee"))) == (
        'refused: the value is not one of "div", "button" or 4 other candidates '
        "at 'children.0.children.0.children.0.type'"
    )
    assert (
        ruling_of(validation(), *ATTACKS["a tree of 3 alternatives, 9 levels"])
        == "refused: the schema is not satisfied"
    )


def test_a_long_answer_is_not_checked() -> None:
    ruling = ruling_of(validation(), {"type": "string"}, json.dumps("x" * MAX_ANSWER_CHARACTERS))

    assert ruling == f"unjudged: the answer has over {MAX_ANSWER_CHARACTERS:,} characters"


def test_a_schema_is_compiled_once() -> None:
    schemas = ClientSchemas()
    first, again, other = (
        schemas.validators({"json_schema": {"schema": {"type": kind}}})[0] for kind in ("object", "object", "array")
    )

    assert first is again
    assert first is not other


@pytest.mark.parametrize("schema", [{"enum": ["x" * 1_000] * 7_900}, {"x" * 7_900_000: 1}, {"enum": ["x"] * 31_000}])
def test_a_schema_that_is_too_long_is_not_even_written(schema: dict[str, Any]) -> None:
    schemas, response_format = ClientSchemas(), {"json_schema": {"schema": schema}}
    tracemalloc.start()
    (validator,) = schemas.validators(response_format)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1024 * 1024
    assert cpu_seconds(lambda: schemas.validators(response_format)) < 0.02
    with pytest.raises(NotJudged, match=f"has over {MAX_SCHEMA_CHARACTERS:,} characters"):
        validator.objection(Choice("1"))


def test_schemas_that_are_kept_have_a_limit_together() -> None:
    schemas = ClientSchemas()

    def compiled(number: int) -> weakref.ref[Validator]:
        schema = {"description": f"{number}" + "x" * (MAX_SCHEMA_CHARACTERS - 100)}
        return weakref.ref(schemas.validators({"json_schema": {"schema": schema}})[0])

    kept = [compiled(number) for number in range(20)]

    assert [reference() is not None for reference in kept] == [False] * 12 + [True] * 8
    assert compiled(19)() is kept[19]()
    small = [
        weakref.ref(schemas.validators({"json_schema": {"schema": {"title": f"{number}"}}})[0])
        for number in range(CACHED_SCHEMAS)
    ]
    assert kept[19]() is None
    assert None not in [reference() for reference in small]


@pytest.mark.parametrize(
    ("pattern", "states"),
    [
        ("a", 2),
        (r"^\d{4}-\d{2}-\d{2}$", 13),
        ("((a{50}){50}){20}", 50_001),
        ("x{2,5}y{3,}", 10),
        (r"\p{L}\pN[\p{L}a]", 3 * UNICODE_STATES + 1),
        ("(ab|c)", 5),
        ("[]a{3}]", 2),
        ("(", 1),
        ("a)b", 3),
    ],
)
def test_the_states_of_a_pattern_count_each_repetition(pattern: str, states: int) -> None:
    assert pattern_states(pattern) == states


# -- through the APIs


@pytest.fixture(autouse=True)
def a_task_with_validators(neighbours: Neighbours) -> None:
    neighbours.config.tasks["triage"] |= {
        "policy": {"escalate": {"paths": ["triage_adapter", "triage_few_shot"]}},
        "validators": [{"complete": True}],
        "fallback": [],
    }


async def test_a_request_whose_schema_is_not_checked_is_answered(
    api: ApiClient, engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.says(*answer('{"name": "Ann"}'))
    schema, *_ = ATTACKS["50 repeated Unicode classes"]

    got = await api.ask(
        IN_TRIAGE, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    )

    assert (got.text, got.path) == ('{"name": "Ann"}', "triage_adapter")
    assert gateway.metric("pointsman_validations_total", validator="json_schema", ruling="unjudged") == 1
