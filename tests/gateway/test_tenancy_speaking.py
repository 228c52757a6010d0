"""Who speaks to Redis of a tenant's slices does so alone, and holds nobody up for longer than that takes."""

import asyncio

from pointsman_gateway.tenancy.leases import ExchangeLock

TURNS = 3
"""Of the event loop: to be woken, and to go on."""


async def test_all_who_wait_for_a_slice_go_on_at_once() -> None:
    exchange, went_on = ExchangeLock(), 0

    async def wait() -> None:
        nonlocal went_on
        await exchange.wait()
        went_on += 1

    async with asyncio.TaskGroup() as waiting:
        async with exchange:
            for _ in range(100):
                waiting.create_task(wait())
            await asyncio.sleep(0)
            assert went_on == 0
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert went_on == 100


async def test_one_speaks_at_a_time() -> None:
    exchange, at_once, most = ExchangeLock(), 0, 0

    async def exchange_leases() -> None:
        nonlocal at_once, most
        async with exchange:
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= 1

    await asyncio.gather(*(exchange_leases() for _ in range(20)))
    assert most == 1
    assert not exchange.is_locked


async def test_who_fails_or_gives_up_while_speaking_lets_the_next_one_speak() -> None:
    exchange = ExchangeLock()

    async def fail() -> None:
        async with exchange:
            await asyncio.sleep(0)
            raise ConnectionError

    async def give_up() -> None:
        async with exchange:
            await asyncio.get_running_loop().create_future()

    giving_up = asyncio.create_task(give_up())
    await asyncio.sleep(0)
    failing = asyncio.create_task(fail())
    giving_up.cancel()
    results = await asyncio.gather(giving_up, failing, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, ConnectionError]
    assert not exchange.is_locked
