"""Admission control: slots, the queue in front of them, priorities, and rejections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pointsman_gateway.domain import Caller, Message, Request
from pointsman_gateway.pipeline.admission import Admission, QueueLimits
from pointsman_servicekit.errors import InvalidArgument, Unavailable
from prometheus_client import CollectorRegistry, Gauge

from tests.gateway.doubles.slots import slot
from tests.gateway.doubles.waiting import until

PATIENT = 30.0


def request(priority: int = 0, deadline: float = float("inf")) -> Request:
    return Request("auto", (Message("user", "Hello"),), deadline=deadline, caller=Caller(priority=priority))


class AdmissionHarness:
    """An `Admission`, and requests that keep their slots until they are released."""

    def __init__(self, places: int, most: int = 2, patience: float = PATIENT) -> None:
        self.registry = CollectorRegistry()
        in_flight = Gauge("in_flight", "Inside.", registry=self.registry)
        waiting = Gauge("waiting", "Outside.", registry=self.registry)
        self.admission = Admission(places, in_flight, QueueLimits(most, patience), waiting)
        self.entered: list[str] = []
        self._go: dict[str, asyncio.Event] = {}

    def comes(self, name: str, priority: int = 0) -> "asyncio.Task[None]":
        self._go[name] = asyncio.Event()
        return asyncio.create_task(self._stay(name, priority))

    def goes(self, name: str) -> None:
        self._go[name].set()

    async def _stay(self, name: str, priority: int) -> None:
        async with slot(self.admission, request(priority)):
            self.entered.append(name)
            await self._go[name].wait()

    def gauges(self) -> tuple[float, float]:
        return tuple(self.registry.get_sample_value(name) or 0.0 for name in ("in_flight", "waiting"))  # type: ignore[return-value]  # two


@asynccontextmanager
async def queue_of(places: int, most: int = 2, patience: float = PATIENT) -> AsyncIterator[AdmissionHarness]:
    components = AdmissionHarness(places, most, patience)
    before = asyncio.all_tasks()
    yield components
    left = asyncio.all_tasks() - before
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    assert (components.admission.in_flight, components.admission.waiting) == (0, 0)


async def full(components: AdmissionHarness, *names: str) -> None:
    for name in names:
        components.comes(name)
    await until(lambda: set(names) <= set(components.entered))


async def stands(components: AdmissionHarness, count: int) -> None:
    await until(lambda: components.admission.waiting == count)


async def test_a_free_slot_is_taken_at_once_and_released_afterwards() -> None:
    async with queue_of(1) as h:
        for name in "abc":
            staying = h.comes(name)
            h.goes(name)
            await staying
        assert h.entered == ["a", "b", "c"]


async def test_gauges_count_running_and_queued_requests() -> None:
    async with queue_of(2) as h:
        await full(h, "a", "b")
        h.comes("c")
        await stands(h, 1)
        assert h.gauges() == (2, 1)


async def test_the_queue_is_first_in_first_out() -> None:
    async with queue_of(1, most=3) as h:
        await full(h, "a")
        for number, name in enumerate("bcd", 1):
            h.comes(name)
            await stands(h, number)
        for name in "abc":
            h.goes(name)
        await until(lambda: len(h.entered) == 4)
        assert h.entered == ["a", "b", "c", "d"]


async def test_a_higher_priority_goes_first() -> None:
    async with queue_of(1, most=4) as h:
        await full(h, "a")
        for number, (name, priority) in enumerate([("low", 0), ("high", 2), ("middle", 1), ("high too", 2)], 1):
            h.comes(name, priority)
            await stands(h, number)
        for name in ("a", "high", "high too", "middle"):
            h.goes(name)
        await until(lambda: len(h.entered) == 5)
        assert h.entered == ["a", "high", "high too", "middle", "low"]


async def test_queued_requests_go_before_new_ones() -> None:
    async with queue_of(1) as h:
        await full(h, "a")
        h.comes("b")
        await stands(h, 1)
        h.goes("a")
        late = h.comes("late")
        await until(lambda: "b" in h.entered)
        await stands(h, 1)
        h.goes("b")
        h.goes("late")
        await late
        assert h.entered == ["a", "b", "late"]


async def test_a_full_queue_rejects_at_once_with_a_retry_time() -> None:
    async with queue_of(1, most=1) as h:
        await full(h, "a")
        h.comes("b")
        await stands(h, 1)
        with pytest.raises(Unavailable, match="1 requests are being answered already, and 1 wait") as raised:
            await h.comes("c")
        assert raised.value.code == "overloaded"
        assert raised.value.retry_after is not None
        assert 1 <= raised.value.retry_after <= 30


async def test_without_a_queue_requests_are_rejected_at_once() -> None:
    async with queue_of(1, most=0) as h:
        await full(h, "a")
        with pytest.raises(Unavailable) as raised:
            await h.comes("b", priority=9)
        assert raised.value.code == "overloaded"


async def test_in_a_full_queue_a_higher_priority_replaces_the_last_request() -> None:
    async with queue_of(1, most=2) as h:
        await full(h, "a")
        h.comes("first")
        await stands(h, 1)
        last = h.comes("last")
        await stands(h, 2)
        h.comes("high", 1)
        with pytest.raises(Unavailable) as raised:
            await last
        assert raised.value.code == "overloaded"
        h.goes("a")
        h.goes("high")
        await until(lambda: len(h.entered) == 3)
        assert h.entered == ["a", "high", "first"]


async def test_a_request_queued_too_long_is_rejected_with_a_retry_time() -> None:
    async with queue_of(1, patience=0.02) as h:
        await full(h, "a")
        with pytest.raises(Unavailable) as raised:
            await h.comes("b")
        assert raised.value.code == "overloaded"
        assert h.admission.waiting == 0


async def test_a_disconnect_leaves_the_queue() -> None:
    async with queue_of(1) as h:
        await full(h, "a")
        gone = h.comes("gone")
        await stands(h, 1)
        gone.cancel()
        await asyncio.wait([gone])
        assert h.admission.waiting == 0
        h.comes("b")
        await stands(h, 1)
        h.goes("a")
        await until(lambda: "b" in h.entered)


async def test_a_disconnect_at_the_moment_of_admission_releases_the_slot() -> None:
    async with queue_of(1) as h:
        await full(h, "a")
        gone, following = h.comes("gone"), None
        await stands(h, 1)
        following = h.comes("following")
        await stands(h, 2)
        h.admission.leave(request())  # at the same turn of the event loop as the disconnection
        gone.cancel()
        await until(lambda: "following" in h.entered)
        assert "gone" not in h.entered
        h.goes("following")
        await following
        h.admission._free -= 1  # "a" will be released once more


async def test_slots_never_leak() -> None:
    async with queue_of(3, most=5, patience=0.01) as h:
        tasks = []
        for number in range(300):
            task = h.comes(str(number), number % 3)
            h.goes(str(number))
            tasks.append(task)
            if number % 7 == 0:
                task.cancel()
            if number % 5 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert h.admission.in_flight == 0
        assert h.admission.waiting == 0
        assert len(h.entered) > 10


async def test_the_retry_time_follows_the_rate_of_released_slots() -> None:
    async with queue_of(1, most=1) as h:
        await full(h, "a")
        h.comes("b")
        await stands(h, 1)
        h.admission._pace.seconds = 6.0
        with pytest.raises(Unavailable) as raised:
            await h.comes("c")
        assert raised.value.retry_after == pytest.approx(12.0)


async def test_a_closing_gateway_admits_requests_that_are_queued_already() -> None:
    async with queue_of(1) as h:
        await full(h, "a")
        waiting = h.comes("b")
        await stands(h, 1)
        h.admission.is_closed = True
        with pytest.raises(Unavailable) as raised:
            await h.comes("c")
        assert (raised.value.code, raised.value.retry_after) == ("shutting_down", 1.0)
        h.goes("a")
        h.goes("b")
        await waiting
        assert h.entered == ["a", "b"]


async def test_the_end_of_the_last_request_is_signalled() -> None:
    async with queue_of(2) as h:
        assert await h.admission.wait_until_empty(within=PATIENT)
        await full(h, "a", "b")
        assert not await h.admission.wait_until_empty(within=0.01)
        emptied = asyncio.create_task(h.admission.wait_until_empty(within=PATIENT))
        h.goes("a")
        await until(lambda: h.admission.in_flight == 1)
        assert not emptied.done()
        h.goes("b")
        assert await emptied


async def test_an_unanswerable_request_takes_no_slot() -> None:
    async with queue_of(1) as h:
        await full(h, "a")
        with pytest.raises(InvalidArgument):
            async with slot(h.admission, Request("auto", ())):
                pass
        assert h.admission.waiting == 0


async def test_a_request_that_waits_for_an_adapter_lends_its_slot_to_another() -> None:
    async with queue_of(1) as h:
        await full(h, "waits")
        with h.admission.lend():
            await full(h, "other")
            assert h.gauges() == (2, 0)
            queued = h.comes("queued")
            await stands(h, 1)
        assert h.gauges() == (2, 1)  # the first one continues immediately

        h.goes("waits")
        await until(lambda: h.admission.in_flight == 1)
        assert h.entered == ["waits", "other"]  # that only reduced their number to the limit

        h.goes("other")
        await until(lambda: "queued" in h.entered)
        h.goes("queued")
        await queued


async def test_a_lent_slot_goes_to_a_queued_request() -> None:
    async with queue_of(1) as h:
        await full(h, "waits")
        h.comes("queued")
        await stands(h, 1)
        with h.admission.lend():
            await until(lambda: "queued" in h.entered)
            h.goes("queued")
            await until(lambda: h.admission.in_flight == 1)
            assert not await h.admission.wait_until_empty(0.01)
        h.goes("waits")
        assert await h.admission.wait_until_empty(5)


async def test_no_more_slots_are_lent_than_there_are() -> None:
    async with queue_of(1, most=0) as h:
        await full(h, "waits")
        with h.admission.lend():
            await full(h, "also waits")
            with h.admission.lend(), pytest.raises(Unavailable):
                await h.comes("third")
        h.goes("waits")
        h.goes("also waits")
        await until(lambda: h.admission.in_flight == 0)
