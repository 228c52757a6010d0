"""A request ends at its deadline even if its engine client neither answers nor checks the deadline."""

import asyncio

import pytest
from pointsman_gateway.pipeline.active_runs import ActiveRuns
from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError, Unavailable

from tests.gateway.doubles.api_clients import ApiClient
from tests.gateway.doubles.broken_clients import Bug, SilentClient, events_of, use_client
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import DONE, ScriptedEngine, chunk
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.waiting import until


@pytest.fixture
def neighbours(neighbours: Neighbours) -> Neighbours:
    neighbours.settings["request_timeout"] = 0.3
    return neighbours


@pytest.mark.parametrize("pieces", [(), ("Hel",)])
async def test_a_request_ends_at_its_deadline_over_every_api(
    api: ApiClient, gateway: Gateway, pieces: tuple[str, ...]
) -> None:
    client = SilentClient(*pieces)
    use_client(gateway, client)
    with pytest.raises(PointsmanError) as raised:
        await asyncio.wait_for(api.ask(IN_CHAT, "tiny"), 5)
    assert raised.value.code == "deadline_exceeded"
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="deadline_exceeded") == 1)
    await until(lambda: client.running == 0)
    assert gateway.metric("pointsman_in_flight") == gateway.metric("pointsman_engine_in_flight") == 0


async def test_a_buffered_answer_ends_at_its_deadline(neighbours: Neighbours) -> None:
    neighbours.config.tasks["chat"] |= {
        "policy": {"escalate": {"paths": ["small_talk", "safe_start"]}}, "validators": [{"complete": True}],
    }  # fmt: skip
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        use_client(gateway, client := SilentClient("Hel"))
        with pytest.raises(DeadlineExceeded):
            await events_of(gateway, "auto", 0.3)
        assert (client.running, gateway.metric("pointsman_in_flight")) == (0, 0)


async def test_a_run_that_has_ended_is_not_watched_any_more(gateway: Gateway, engine: ScriptedEngine) -> None:
    engine.says(chunk("Hello"), DONE)
    await events_of(gateway, "tiny")
    assert gateway.components.pipeline.active_runs.count == 0


async def test_a_run_whose_end_raises_keeps_no_other_from_ending() -> None:
    class Stubborn:
        def cancel(self, reason: PointsmanError | None = None) -> None:
            raise Bug

    class Obedient:
        ended: PointsmanError | None = None

        def cancel(self, reason: PointsmanError | None = None) -> None:
            self.ended = reason
            runs.remove(self)

    runs, loop, obedient = ActiveRuns(), asyncio.get_running_loop(), [Obedient(), Obedient()]
    unhandled: list[object] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context["exception"]))
    runs.add(stubborn := Stubborn(), loop.time() - 1)
    runs.add(obedient[0], loop.time() - 1)
    runs.add(obedient[1], loop.time() + 60)
    await until(lambda: obedient[0].ended)
    runs.remove(stubborn)
    assert isinstance(obedient[0].ended, DeadlineExceeded)
    assert type(unhandled[0]) is Bug
    assert obedient[1].ended is None


async def test_a_block_raises_the_error_with_which_it_is_ended_once() -> None:
    runs, reached = ActiveRuns(), asyncio.Event()

    async def block() -> str:
        try:
            with runs.running(float("inf")):
                reached.set()
                await asyncio.Event().wait()
        except Unavailable as error:
            await asyncio.sleep(0)  # not cancelled again
            return error.code
        return ""

    task = asyncio.create_task(block())
    await reached.wait()
    runs.shut_down()
    runs.shut_down()
    assert await task == "shutting_down"
    assert (runs.count, task.cancelling()) == (0, 0)


async def test_a_block_whose_task_is_cancelled_is_cancelled() -> None:
    runs, reached = ActiveRuns(), asyncio.Event()

    async def block() -> None:
        with runs.running(float("inf")):
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runs.count == 0
