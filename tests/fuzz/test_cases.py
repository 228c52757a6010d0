"""Cases depend on their seed only, and the gateway's answers are judged correctly."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from tests.fuzz.__main__ import FUZZERS
from tests.fuzz.json_routes import JsonRoutes
from tests.fuzz.problems import Answer, Problem, problem_of
from tests.fuzz.rig import Hung, Rig
from tests.fuzz.runner import Phase, Report, run_phase
from tests.fuzz.watch import Watch

NO_RIG = cast(Rig, None)
JSON = "application/json"


@pytest.mark.parametrize("name", FUZZERS)
def test_the_same_seed_gives_the_same_cases(name: str) -> None:
    fuzzer = FUZZERS[name](NO_RIG)

    def cases(seed: int) -> Iterator[str]:
        return (repr(fuzzer.make(Random(f"{seed} {number}"), "case-1")) for number in range(50))

    # What an engine waits for is an object of its own.
    once, again = (one.partition("<")[0] for one in cases(7)), (one.partition("<")[0] for one in cases(7))
    assert list(once) == list(again)
    assert list(cases(7)) != list(cases(8))


def test_every_route_of_the_gateway_gets_cases() -> None:
    fuzzer = JsonRoutes(NO_RIG)
    paths = {fuzzer.make(Random(number), "").path.partition("?")[0] for number in range(3000)}
    assert {
        "/v1/chat/completions",
        "/v1/messages",
        "/admin/v1/usage",
        "/console/api/adapters/canary",
        "/metrics",
    } <= paths


@pytest.mark.parametrize("model", [b"auto", b"claude"])
def test_engines_of_both_dialects_get_chats_with_tools(model: bytes) -> None:
    fuzzer = JsonRoutes(NO_RIG)
    cases = [fuzzer.make(Random(number), "") for number in range(3000)]
    chats = [case.body for case in cases if case.path.startswith("/v1/chat/completions")]
    assert any(b'"model": "%b"' % model in chat and b'"tool_choice"' in chat for chat in chats)


def stream(*events: bytes) -> Answer:
    return Answer(200, "text/event-stream", b"".join(b"data: %b\n\n" % event for event in events), is_stream=True)


@pytest.mark.parametrize(
    ("answer", "may_fail", "is_right"),
    [
        (Answer(400, JSON, b'{"error": {"code": "bad_json"}}'), False, True),
        (Answer(503, JSON, b'{"error": {"code": "engine_unavailable"}}'), True, True),
        (Answer(503, JSON, b'{"error": {"code": "engine_unavailable"}}'), False, False),
        (Answer(503, JSON, b'{"error": {"code": "overloaded"}}'), True, False),
        (Answer(500, JSON, b'{"error": {"code": "internal"}}'), True, False),
        (Answer(503, "text/plain", b"Service Unavailable"), True, False),
        (Answer(200, JSON, b"{}", is_complete=False), True, False),
        (stream(b'{"choices": []}', b"[DONE]"), False, True),
        (stream(b'{"error": {"code": "engine_error"}}'), False, True),
        (stream(b'{"error": {"code": "internal"}}', b"[DONE]"), True, False),
        (stream(b'{"type": "response.failed", "response": {"error": {"code": "internal"}}}'), True, False),
        (stream(b'{"choices": []}'), True, False),
    ],
)
def test_answers_are_judged(answer: Answer, may_fail: bool, is_right: bool) -> None:
    assert (problem_of("here", answer, may_fail) is None) == is_right


LOG = """2026-11-30 ERROR gateway [-] pointsman_gateway.x: internal error
  File "/x/site-packages/starlette/app.py", line 5, in call
    await self.app()
    ^^^^^^^^^^^^^^^^
  File "/x/pointsman_gateway/http/app.py", line 132, in check
    urlsplit(origin)
ValueError
2026-11-30 INFO gateway [-] all is well
"""


def test_a_traceback_in_the_log_is_found_once(tmp_path: Path) -> None:
    watch = Watch(cast(Any, None), tmp_path / "gateway.log")
    watch.log.write_text(LOG)
    assert [problem.sign for problem in watch.tracebacks()] == ["traceback: ValueError in http/app.py:132 check"]
    assert list(watch.tracebacks()) == []


class Failing:
    name, share, lanes = "failing", 1.0, 1

    def make(self, random: Random, marker: str) -> str:
        return marker

    async def carry_out(self, case: str) -> Problem | None:
        if case.endswith("-1"):
            raise Hung
        if case.endswith("-2"):
            raise ConnectionResetError
        return Problem("bad", case) if case.endswith("-3") else None


async def test_each_problem_is_reported_with_the_number_of_its_case() -> None:
    phase = Phase(Failing(), 7, Report())
    for number in (0, 1, 2, 3, 3):
        await phase.run_case(number)
    found = {sign: (one.number, one.count) for (_, sign), one in phase.report.found.items()}
    assert found == {
        "a request hangs beyond its deadline": (1, 1),
        "ConnectionResetError instead of an answer": (2, 1),
        "bad": (3, 2),
    }


class MemoryWatch(Watch):
    """A gateway whose memory after each pause, in MiB, is given by the test."""

    def __init__(self, log: Path, memory: Sequence[float]) -> None:
        log.touch()
        super().__init__(cast(Any, None), log)
        self._memory = list(memory)

    async def _settled_mib(self, seconds: float, most: float) -> float:
        return self._memory.pop(0) if len(self._memory) > 1 else self._memory[0]

    async def in_flight(self) -> Iterator[Problem]:
        return iter(())

    def is_alive(self) -> bool:
        return True

    def is_too_large(self) -> bool:
        return False

    @contextmanager
    def probing(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    ("memory", "is_leak"),
    [
        ((200, 230), False),
        ((200, 233, 245), False),
        ((200, 233, 250), True),
    ],
)
async def test_growth_over_32_mib_that_comes_again_is_reported(
    tmp_path: Path, memory: Sequence[float], is_leak: bool
) -> None:
    phase, watch = Phase(Failing(), 7, Report()), MemoryWatch(tmp_path / "gateway.log", memory)
    await watch.set_base()
    await run_phase(phase, watch, 0.0)
    signs = {problem.problem.sign for problem in phase.report.found.values()}
    assert ("the gateway's memory grows" in signs) == is_leak
