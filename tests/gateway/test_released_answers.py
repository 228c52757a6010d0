"""An answer that a slow guardrail has held back is passed on in steps, so that other requests are not delayed."""

import asyncio
from collections.abc import Sequence

import pytest
from pointsman_gateway.config.tasks_file import GuardrailConfig
from pointsman_gateway.domain import Chunk, Chunks, Message, Prompt
from pointsman_gateway.extensions import Finding, GuardedText, Hook
from pointsman_gateway.pipeline.answer_window import MAX_RELEASED_CHUNKS, AnswerWindow
from pointsman_gateway.pipeline.guarded_answer import MAX_HELD_CHARACTERS, GuardedSource
from pointsman_gateway.pipeline.guardrails import (
    ActiveGuardrail,
    GuardrailMetrics,
    Guardrails,
    Verdicts,
    current_verdicts,
)
from pointsman_gateway.ports import ChunkSink
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.waiting import until

LETTERS = [chr(ord("a") + number % 26) for number in range(5_000)]
CONFIG = GuardrailConfig.model_validate({"name": "slow", "check": {"regex": {"A": "never"}}, "action": "redact"})


class SlowGuardrail:
    """A guardrail that waits until it is `open`, and then finds nothing."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked = 0

    async def find(self, hook: Hook, texts: Sequence[GuardedText]) -> Sequence[Finding]:
        self.asked += 1
        await self.open.wait()
        return ()


class Source:
    """Implements `AnswerSource` with chunks that a test sends."""

    sink: ChunkSink
    is_paused = False

    def attach(self, sink: ChunkSink) -> None:
        self.sink = sink

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        pass


class Client:
    """Implements `ChunkSink`. Records the chunks by the iteration of the event loop in which they arrived."""

    def __init__(self) -> None:
        self.by_iteration: dict[int, list[str]] = {}
        self.ends: list[Exception | None] = []
        self._iteration = 0
        self._count()

    def _count(self) -> None:
        self._iteration += 1
        if not self.ends:
            asyncio.get_running_loop().call_soon(self._count)

    @property
    def letters(self) -> list[str]:
        return [letter for letters in self.by_iteration.values() for letter in letters]

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self.by_iteration.setdefault(self._iteration, []).extend(chunk.content for chunk in chunks)

    def ended(self, error: Exception | None) -> None:
        self.ends.append(error)


class Setting:
    def __init__(self) -> None:
        current_verdicts.set(Verdicts())
        self.guardrail, self.source, self.client = SlowGuardrail(), Source(), Client()
        active = ActiveGuardrail(CONFIG, self.guardrail)  # type: ignore[arg-type]  # it is not made from options
        guardrails = Guardrails([active], GuardrailMetrics(CollectorRegistry()))
        prompt = Prompt((Message("user", "x"),))
        self.guarded = GuardedSource(self.source, guardrails, AnswerWindow(overlap=8, every=4), prompt)
        self.guarded.attach(self.client)


@pytest.fixture
async def setting() -> Setting:
    return Setting()


async def test_what_a_slow_check_has_cleared_is_passed_on_in_steps(setting: Setting) -> None:
    setting.source.sink.chunks(tuple([Chunk(content=letter) for letter in LETTERS]), False)
    await until(lambda: setting.guardrail.asked == 1)
    setting.source.sink.ended(None)
    assert setting.client.letters == []
    setting.guardrail.open.set()
    await until(lambda: bool(setting.client.ends))
    assert setting.client.letters == LETTERS
    assert setting.client.ends == [None]
    assert max(map(len, setting.client.by_iteration.values())) <= MAX_RELEASED_CHUNKS


async def test_a_client_that_pauses_gets_the_rest_once_it_resumes(setting: Setting) -> None:
    setting.source.sink.chunks(tuple([Chunk(content=letter) for letter in LETTERS]), False)
    setting.source.sink.ended(None)
    setting.guardrail.open.set()
    await until(lambda: bool(setting.client.letters))
    setting.guarded.pause()
    before = setting.client.letters
    for _ in range(50):
        await asyncio.sleep(0)
    assert setting.client.letters == before
    assert len(before) < len(LETTERS)
    setting.guarded.resume()
    await until(lambda: bool(setting.client.ends))
    assert (setting.client.letters, setting.client.ends) == (LETTERS, [None])


async def test_an_engine_that_waited_for_the_check_goes_on_after_a_pause_of_the_client(setting: Setting) -> None:
    held, rest = Chunk(content="a" * MAX_HELD_CHARACTERS), Chunk(content="b" * 8)
    setting.source.sink.chunks((held, rest), False)
    assert setting.source.is_paused
    setting.guarded.pause()
    setting.guardrail.open.set()
    for _ in range(50):
        await asyncio.sleep(0)
    assert (setting.guardrail.asked, setting.client.letters) == (1, [])
    setting.guarded.resume()
    assert setting.client.letters == [held.content]
    assert not setting.source.is_paused


async def test_nothing_is_passed_on_after_the_client_has_left(setting: Setting) -> None:
    setting.source.sink.chunks(tuple([Chunk(content=letter) for letter in LETTERS]), False)
    setting.source.sink.ended(None)
    setting.guardrail.open.set()
    await until(lambda: bool(setting.client.letters))
    setting.guarded.close()
    before = [letter for letter in setting.client.letters if letter]
    for _ in range(50):
        await asyncio.sleep(0)
    assert [letter for letter in setting.client.letters if letter] == before
    assert setting.client.ends == []
