"""The queue for slots: who gets the next slot, and who has to leave a full queue."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from pointsman_gateway.domain import Caller, Message, Request
from pointsman_gateway.pipeline.admission import Admission, QueueLimits
from pointsman_gateway.pipeline.fair_queue import FairQueue, Waiter
from pointsman_servicekit.errors import Unavailable
from prometheus_client import Gauge

from tests.gateway.doubles.waiting import until


def waiter(tenant: str, priority: int = 0) -> Waiter:
    return Waiter(priority, tenant, asyncio.get_running_loop().create_future())


def slots(held: Mapping[str, int]) -> Callable[[str], int]:
    return lambda tenant: held.get(tenant, 0)


def anyone(tenant: str) -> bool:
    return True


def order_of(queue: FairQueue, held: dict[str, int]) -> list[str]:
    """Empties the queue and returns the tenants in the order in which they get slots; each keeps its slots."""
    order = []
    while (following := queue.next(slots(held), anyone)) is not None:
        order.append(following.tenant)
        held[following.tenant] = held.get(following.tenant, 0) + 1
    return order


async def test_the_tenant_with_the_fewest_slots_is_next() -> None:
    queue = FairQueue(10)
    for tenant in ("large", "large", "large", "small", "small"):
        queue.add(waiter(tenant))
    assert order_of(queue, {"large": 3, "small": 1}) == ["small", "small", "large", "large", "large"]


async def test_tenants_with_equal_slots_take_turns() -> None:
    queue = FairQueue(10)
    for tenant in ("a", "a", "a", "b", "b", "b"):
        queue.add(waiter(tenant))
    assert order_of(queue, {}) == ["a", "b", "a", "b", "a", "b"]


async def test_one_tenants_requests_leave_in_order_of_arrival() -> None:
    queue, waiters = FairQueue(10), [waiter("a") for _ in range(3)]
    for one in waiters:
        queue.add(one)
    assert [queue.next(slots({}), anyone) for _ in range(3)] == waiters


async def test_a_higher_priority_goes_before_a_fairer_share() -> None:
    queue = FairQueue(10)
    queue.add(waiter("small"))
    queue.add(waiter("large", priority=1))
    assert order_of(queue, {"large": 100}) == ["large", "small"]


async def test_a_tenant_that_may_not_take_a_slot_is_passed_over() -> None:
    queue = FairQueue(10)
    queue.add(waiter("large", priority=1))
    queue.add(waiter("small"))
    following = queue.next(slots({}), lambda tenant: tenant != "large")
    assert following is not None
    assert (following.tenant, len(queue)) == ("small", 1)
    assert queue.next(slots({}), lambda tenant: False) is None


async def test_a_full_queue_drops_the_newest_request_of_the_tenant_with_most() -> None:
    queue, flood, polite = FairQueue(3), [waiter("flood") for _ in range(3)], waiter("polite")
    assert [queue.add(one) for one in flood] == [None, None, None]
    assert queue.add(polite) is flood[-1]
    assert len(queue) == 3


async def test_equal_tenants_do_not_drop_each_others_requests() -> None:
    queue, late = FairQueue(2), waiter("b")
    queue.add(waiter("a"))
    queue.add(waiter("b"))
    assert queue.add(late) is late


async def test_a_low_priority_never_drops_a_higher_one() -> None:
    queue, low = FairQueue(2), waiter("polite")
    queue.add(waiter("flood", priority=1))
    queue.add(waiter("flood", priority=1))
    assert queue.add(low) is low


async def test_a_removed_request_gets_no_slot() -> None:
    queue, gone, stays = FairQueue(3), waiter("a"), waiter("a")
    queue.add(gone)
    queue.add(stays)
    assert queue.remove(gone)
    assert not queue.remove(gone)
    assert (queue.next(slots({}), anyone), len(queue)) == (stays, 0)


def request(tenant: str) -> Request:
    return Request("auto", (Message("user", "Hello"),), caller=Caller(tenant=tenant))


async def test_one_tenant_alone_gets_nearly_all_slots_and_others_find_room() -> None:
    admission = Admission(32, Gauge("in_flight", ".", registry=None), QueueLimits(0), tenant_share=0.9375)
    assert [admission.enter(request("alone")) for _ in range(32)].count(True) == 30
    with pytest.raises(Unavailable, match="30 requests of this tenant, its share of 32"):
        await admission.wait(request("alone"))
    assert admission.enter(request("other"))


async def test_a_freed_slot_goes_to_the_other_tenant_before_the_one_that_fills_the_gateway() -> None:
    admission = Admission(4, Gauge("in_flight", ".", registry=None), QueueLimits(10, 30.0))
    for _ in range(4):
        assert admission.enter(request("flood"))
    order: list[str] = []

    async def wait(tenant: str) -> None:
        await admission.wait(request(tenant))
        order.append(tenant)

    waiting = [asyncio.create_task(wait(tenant)) for tenant in ("flood", "flood", "polite")]
    await until(lambda: admission.waiting == 3)
    for _ in waiting:
        admission.leave(request("flood"))
    await asyncio.gather(*waiting)
    assert order == ["polite", "flood", "flood"]
