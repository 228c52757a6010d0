"""Every outcome of a request is in one closed vocabulary, with whose fault it is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from pointsman_gateway.domain.outcome import OUTCOMES, UNFORESEEN, Fault, fault_of, is_failure, outcome_of
from pointsman_servicekit.errors import InvalidArgument, PointsmanError, Unavailable

ROOT = Path(__file__).parents[2]
SOURCES = [
    ROOT / "libs/servicekit/src",
    *(ROOT / "services" / service / "src" for service in ("gateway", "retriever", "lora-server")),
]
MADE_UP = {
    "bad_{}": ("bad_limit", "bad_age", "bad_priority"),
    "invalid_{}": ("invalid_top_k", "invalid_neighbours", "invalid_least_dense"),
    "too_many_{}": ("too_many_messages", "too_many_tools", "too_many_functions"),
    "unknown_{}": ("unknown_task", "unknown_path"),
    "{}_unavailable": ("retriever_unavailable", "lora_server_unavailable", "gateway_unavailable"),
}
"""Error codes that are composed, and their outcomes."""


def codes() -> Iterator[tuple[str, str]]:
    """Yields each code that is passed to a service's error in the source, with its place."""
    trees = {file: ast.parse(file.read_text()) for folder in SOURCES for file in folder.rglob("*.py")}
    for file, tree in trees.items():
        positions = code_positions(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                values += node.args[positions[name] :][:1] if name in positions else []
                yield from ((code, f"{file.name}:{node.lineno}") for value in values for code in codes_in(value))
            elif isinstance(node, ast.FunctionDef):
                yield from ((code, f"{file.name}:{node.lineno}") for code in default_codes(node))


def code_positions(tree: ast.Module) -> dict[str, int]:
    """Returns the functions of a module that take a `code` by position, and where they take it."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
            if "code" in names:
                found[node.name] = names.index("code")
    return found


def default_codes(function: ast.FunctionDef) -> Iterator[str]:
    """Yields the code that a function has as the default of its parameter `code`; an empty text is none."""
    arguments = function.args
    pairs = [*zip(reversed(arguments.args), reversed(arguments.defaults), strict=False)]
    pairs += [(one, value) for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    for argument, default in pairs:
        if argument.arg == "code":
            yield from filter(None, codes_in(default))


def codes_in(value: ast.expr) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(code)):
            yield code
        case ast.JoinedStr():
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in value.values)
        case ast.IfExp():
            yield from codes_in(value.body)
            yield from codes_in(value.orelse)


def test_every_code_of_every_service_is_in_the_vocabulary() -> None:
    found = dict(codes())
    assert len(found) > 100
    missing = {}
    for code, where in found.items():
        for possible in MADE_UP.get(code, (code,)):
            if possible not in OUTCOMES:
                missing[possible] = where
    assert missing == {}
    assert {code for code in found if "{}" in code} == set(MADE_UP)


def test_codes_are_seen_however_they_are_passed() -> None:
    found = dict(codes())
    assert {"unsupported_feature", "rank_too_high", "unknown_module", "dora_not_exact", "unsafe_file"} <= found.keys()


def test_every_fault_has_its_outcomes() -> None:
    assert set(OUTCOMES.values()) == {fault.value for fault in Fault}


def test_an_unknown_code_has_a_general_outcome() -> None:
    assert outcome_of("a_code_of_tomorrow") == UNFORESEEN
    assert fault_of("a_code_of_tomorrow", Unavailable("x", code="a_code_of_tomorrow")) == Fault.GATEWAY


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (Unavailable("x", code="unknown_collection"), Fault.RETRIEVER),
        (Unavailable("x", code="no_slot"), Fault.ADAPTER),
        # A code for a caller's mistake in an error of another kind: the gateway's own call was invalid.
        (Unavailable("x", code="bad_parameter"), Fault.GATEWAY),
        (InvalidArgument("x", code="unknown_collection"), Fault.CALLER),
    ],
)
def test_errors_of_other_services_are_their_fault_or_the_gateways(error: PointsmanError, fault: Fault) -> None:
    assert fault_of(error.code, error) == fault


def test_a_retriever_timeout_is_the_retrievers_fault() -> None:
    late = Unavailable("x", code="deadline_exceeded")
    late.fault = "retriever"
    assert fault_of("deadline_exceeded", late) == Fault.RETRIEVER


def test_a_route_request_is_not_a_failure() -> None:
    assert [outcome for outcome in ("ok", "routed", "cancelled", "internal") if is_failure(outcome)] == ["internal"]
