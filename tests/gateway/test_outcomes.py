"""Every outcome of a request is in one closed vocabulary, or has the service at fault."""

import ast
import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pointsman_gateway.domain.outcome
import pytest
from pointsman_gateway.domain.outcome import OUTCOMES, ROUTED, UNFORESEEN, Fault, fault_of, is_failure, outcome_of
from pointsman_gateway.prompts.retriever import LATE, MAX_CODES, RetrieverClient
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, PointsmanError, Unavailable
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.gateway import Gateway
from tests.gateway.doubles.retriever import ScriptedRetriever

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "libs/servicekit/src", ROOT / "services/gateway/src")
VOCABULARY = Path(pointsman_gateway.domain.outcome.__file__)
MADE_UP = {
    "too_many_{}": ("too_many_messages", "too_many_tools", "too_many_functions"),
    "unknown_{}": ("unknown_task", "unknown_path"),
    "{}_unavailable": ("retriever_unavailable", "lora_server_unavailable", "gateway_unavailable"),
}
"""Error codes that are composed from a pattern, and the codes that result."""


def trees() -> dict[Path, ast.Module]:
    """Returns the parsed sources of code that may raise an error in the gateway's process, except for the vocabulary
    itself.
    """
    files = [file for folder in SOURCES for file in folder.rglob("*.py") if file != VOCABULARY]
    return {file: ast.parse(file.read_text()) for file in files}


def codes(trees: Mapping[Path, ast.Module]) -> Iterator[tuple[str, str]]:
    """Yields each code that is passed to a service's error in the source, with its place."""
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
    """Returns the functions of a module that take a `code` by position, and the position."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
            if "code" in names:
                found[node.name] = names.index("code")
    return found


def default_codes(function: ast.FunctionDef) -> Iterator[str]:
    """Yields the default of a function's parameter `code`, unless there is none or it is empty."""
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


def test_every_code_of_the_gateway_is_in_the_vocabulary() -> None:
    found = dict(codes(trees()))
    assert len(found) > 80
    missing = {}
    for code, where in found.items():
        for possible in MADE_UP.get(code, (code,)):
            if possible not in OUTCOMES:
                missing[possible] = where
    assert missing == {}
    assert {code for code in found if "{}" in code} == set(MADE_UP)


def test_the_vocabulary_has_no_codes_of_other_services() -> None:
    constants = {node.value for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    composed = {code for possible in MADE_UP.values() for code in possible}
    assert OUTCOMES.keys() - constants - composed == {ROUTED, UNFORESEEN}  # names of constants are used for these


def test_codes_are_seen_however_they_are_passed() -> None:
    source = """
def rejected(message, code="by_default"):
    return InvalidArgument(message, code=code)

raise rejected("x", "by_position")
raise NotFound("x", code="by_name" if given else f"composed_{of}")
"""
    found = dict(codes({Path("example.py"): ast.parse(source)}))
    assert found.keys() == {"by_default", "by_position", "by_name", "composed_{}"}


def test_every_fault_has_its_outcomes() -> None:
    assert set(OUTCOMES.values()) == {fault.value for fault in Fault}


def test_an_unknown_code_has_a_general_outcome() -> None:
    error = Unavailable("x", code="a_code_of_tomorrow")
    assert outcome_of("a_code_of_tomorrow", error) == UNFORESEEN
    assert fault_of("a_code_of_tomorrow", error) == Fault.GATEWAY


@pytest.mark.parametrize("family", [Unavailable, InvalidArgument])
@pytest.mark.parametrize("code", ["a_code_of_tomorrow", "deadline_exceeded", "bad_parameter"])
def test_an_error_that_states_the_component_at_fault_keeps_its_code(family: type[PointsmanError], code: str) -> None:
    error = family("x", code=code)
    error.fault = "retriever"
    assert (outcome_of(code, error), fault_of(code, error)) == (code, Fault.RETRIEVER)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (Unavailable("x", code="lora_server_unavailable"), Fault.ADAPTER),
        # A code for a caller's mistake in an error of another kind: the gateway's own call was invalid.
        (Unavailable("x", code="bad_parameter"), Fault.GATEWAY),
        (InvalidArgument("x", code="lora_server_unavailable"), Fault.CALLER),
    ],
)
def test_an_errors_status_decides_whether_the_caller_is_at_fault(error: PointsmanError, fault: Fault) -> None:
    assert fault_of(error.code, error) == fault


async def test_a_new_code_of_the_retriever_is_counted_as_its_fault(
    gateway: Gateway, http: httpx.AsyncClient, retriever: ScriptedRetriever
) -> None:
    retriever.error = FailedPrecondition("the index is being moved", code="a_code_of_tomorrow")
    body = {"model": "path:handbook", "messages": [{"role": "user", "content": "Are bikes free?"}]}
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 503
    outcome = {"outcome": "a_code_of_tomorrow", "fault": "retriever"}
    assert gateway.metric("pointsman_requests_total", path="handbook", **outcome) == 1


async def test_a_retriever_that_makes_up_codes_makes_no_endless_series(retriever: ScriptedRetriever) -> None:
    async with open_channel(retriever.address) as channel:
        client = RetrieverClient(channel, lambda: "minilm-abc")
        found = [await failed_search(client, retriever, f"code_{number}") for number in range(2 * MAX_CODES)]
        assert found[0] == "code_0"
        assert len(set(found)) == MAX_CODES - 1  # two are reserved, and one is UNFORESEEN
        assert found[-1] == UNFORESEEN
        assert await failed_search(client, retriever, LATE) == LATE
        assert await failed_search(client, retriever, "code_0") == "code_0"


async def failed_search(client: RetrieverClient, retriever: ScriptedRetriever, code: str) -> str:
    retriever.error = FailedPrecondition("no", code=code)
    with pytest.raises(Unavailable) as failed:
        await client.search("handbook", "bikes?", None, 3, asyncio.get_running_loop().time() + 5)
    return failed.value.code


def test_a_route_request_is_not_a_failure() -> None:
    assert [outcome for outcome in ("ok", "routed", "cancelled", "internal") if is_failure(outcome)] == ["internal"]
