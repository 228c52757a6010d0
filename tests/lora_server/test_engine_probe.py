"""An engine with corrupted answers is distinguished from a busy engine and from small numerical differences."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from pointsman_lora_server.engine.completion import PROMPTS, EngineCorrupted, GreedyAnswer, Probe
from pointsman_servicekit.errors import InvalidArgument, Unavailable

RIGHT = GreedyAnswer((1, 2, 3, 4, 5), "9, 10", (-0.1,) * 5, "length")
WRONG = GreedyAnswer((1, 2, 9, 4, 5), "9, ho", (-0.1,) * 5, "length")
SILENT = InvalidArgument("no tokens that can be scored", code="cannot_answer")
BUSY = Unavailable("nothing within 120 s", code="engine_unavailable")


@dataclass
class Engine:
    """An engine that gives the answers in turn, and then repeats the last one."""

    answers: list[GreedyAnswer | Exception]
    asked: list[str | Sequence[int]] = field(default_factory=list)
    nans: int = 0
    at_once: int = 0
    most_at_once: int = 0

    async def complete(self, model: str, prompt: str | Sequence[int], tokens: int) -> GreedyAnswer:
        self.asked.append(prompt)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def count_corrupted(self) -> int:
        return self.nans


@dataclass
class Meter:
    failed: int = 0

    def count_probe_failure(self) -> None:
        self.failed += 1


async def begun(first: GreedyAnswer = RIGHT) -> tuple[Probe, Engine, Meter]:
    engine, meter = Engine([first]), Meter()
    probe = Probe(engine, "tiny-base", meter.count_probe_failure)
    await probe.start()
    return probe, engine, meter


async def test_an_engine_with_unchanged_answers_passes() -> None:
    probe, _, meter = await begun()

    await probe.check()

    assert meter.failed == 0


@pytest.mark.parametrize("spoilt", [WRONG, SILENT])
async def test_three_wrong_answers_mean_a_corrupted_engine(spoilt: GreedyAnswer | Exception) -> None:
    probe, engine, meter = await begun()
    engine.answers = [spoilt]
    asked = len(engine.asked)

    with pytest.raises(EngineCorrupted):
        await probe.check()

    assert (len(engine.asked) - asked, meter.failed) == (3, 1)


async def test_non_finite_logits_mean_a_corrupted_engine() -> None:
    probe, engine, meter = await begun()
    engine.nans = 1

    with pytest.raises(EngineCorrupted, match="1 requests"):
        await probe.check()

    assert meter.failed == 1


async def test_one_wrong_answer_is_verified_again() -> None:
    probe, engine, meter = await begun()
    engine.answers = [WRONG, SILENT, RIGHT]

    await probe.check()

    assert meter.failed == 0


async def test_a_busy_engine_is_not_corrupted() -> None:
    probe, engine, meter = await begun()
    engine.answers = [BUSY]

    with pytest.raises(Unavailable) as caught:
        await probe.check()

    assert not isinstance(caught.value, EngineCorrupted)
    assert meter.failed == 0


async def test_near_ties_may_change() -> None:
    unsure = GreedyAnswer((1, 2, 3, 4, 5), "9, 10", (-0.1, -0.1, -0.1, -0.6, -0.1), "length")
    probe, engine, meter = await begun(unsure)
    engine.answers = [GreedyAnswer((1, 2, 3, 9, 5), "9, ho", (-0.1,) * 5, "length")]

    await probe.check()

    assert meter.failed == 0


async def test_the_prompt_with_the_largest_margin_is_used() -> None:
    unsure = GreedyAnswer((1, 2, 3), "", (-0.1, -2.0, -0.1), "length")
    engine = Engine([unsure, RIGHT, unsure, RIGHT])
    probe = Probe(engine, "tiny-base", Meter().count_probe_failure)

    await probe.start()

    assert engine.asked == [*PROMPTS, PROMPTS[1]]


async def test_a_model_without_clear_margins_must_still_answer() -> None:
    probe, engine, _ = await begun(GreedyAnswer((1, 2, 3), "", (-2.0,) * 3, "length"))
    engine.answers = [WRONG]
    await probe.check()
    engine.answers = [SILENT]

    with pytest.raises(EngineCorrupted):
        await probe.check()


async def test_the_first_start_needs_two_equal_answers() -> None:
    engine = Engine([*([RIGHT] * len(PROMPTS)), WRONG])

    with pytest.raises(EngineCorrupted):
        await Probe(engine, "tiny-base", Meter().count_probe_failure).start()


async def test_a_start_without_scorable_answers_is_corrupted() -> None:
    with pytest.raises(EngineCorrupted):
        await Probe(Engine([SILENT]), "tiny-base", Meter().count_probe_failure).start()


async def test_later_starts_must_answer_like_the_first() -> None:
    probe, engine, _ = await begun()
    await probe.start()
    engine.answers = [WRONG]

    with pytest.raises(EngineCorrupted):
        await probe.start()


async def test_without_a_reference_there_is_no_verdict() -> None:
    with pytest.raises(Unavailable) as caught:
        await Probe(Engine([RIGHT]), "tiny-base", Meter().count_probe_failure).check()

    assert not isinstance(caught.value, EngineCorrupted)


async def test_probes_do_not_accumulate() -> None:
    probe, engine, _ = await begun()

    await asyncio.gather(*(probe.check() for _ in range(8)))

    assert engine.most_at_once == 1
