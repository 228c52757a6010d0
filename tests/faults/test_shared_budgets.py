"""The budgets of a tenant hold within the bound of docs/keys.md while Valkey fails over, with Sentinels and in a
cluster: whatever four gateway processes are sent, and whenever the primary is killed or suspended."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pointsman_servicekit.keys.records import NANO

from tests.faults.shared_budget import DOLLARS, GATEWAYS, SharedBudget, Tenant, shared_budget
from tests.gateway.doubles.valkey_groups import running_cluster, running_sentinel
from tests.gateway.doubles.waiting import found

GROUPS: dict[str, Any] = {"sentinel": running_sentinel, "cluster": running_cluster}


class World:
    """The event loop and the group of Valkeys, with four gateways, that all tests with this kind of Valkey share."""

    def __init__(self, runner: asyncio.Runner, budget: SharedBudget) -> None:
        self.run, self.budget = runner.run, budget


@pytest.fixture(scope="module", params=list(GROUPS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def start() -> SharedBudget:
            group = await stack.enter_async_context(GROUPS[request.param](folder))
            return await stack.enter_async_context(shared_budget(folder, group))

        try:
            yield World(runner, runner.run(start()))
        finally:
            runner.run(stack.aclose())


def assert_within_bounds(budget: SharedBudget, tenant: Tenant) -> None:
    spent, most = tenant.nanodollars(), tenant.max_nanodollars()
    assert spent <= most, f"{spent} nanodollars were spent; {most} is the most"
    for minute, admitted in tenant.admitted_by_minute().items():
        most = tenant.max_in(minute, budget.away)
        assert admitted <= most, f"{admitted} requests in minute {minute}; {most} is the most"


@pytest.mark.parametrize("hangs", [False, True])
def test_a_failover_costs_no_more_than_the_leases(world: World, hangs: bool) -> None:
    """Sends requests before, during and after the failover; afterwards Redis has the exact sum that was spent."""
    budget = world.budget

    async def fail_over() -> Tenant:
        tenant = await budget.new_tenant()
        assert {answer.status for answer in await budget.send(tenant, 5)} == {200}
        await budget.fail_primary(tenant, hangs=hangs)
        during = await budget.send(tenant, 10)
        assert 200 in {answer.status for answer in during}
        await budget.fail_over(tenant)
        after = [await budget.ask(tenant, gateway) for gateway in budget.gateways]
        assert {answer.status for answer in after} <= {200, 429}
        await budget.repair()

        async def is_exact() -> bool:
            return await budget.used_nanodollars(tenant) == tenant.nanodollars()

        await found(is_exact, within=20)
        return tenant

    assert_within_bounds(budget, world.run(fail_over()))


def test_a_budget_is_spent_exactly_while_nothing_fails(world: World) -> None:
    """Sends more requests than the budget pays for, over as many minutes as the limit of requests needs."""
    budget = world.budget

    async def spend() -> Tenant:
        tenant = await budget.new_tenant()
        for _ in range(4):
            await budget.send(tenant, 10)
        return tenant

    tenant = world.run(spend())
    assert tenant.nanodollars() <= round(DOLLARS * NANO)
    assert_within_bounds(budget, tenant)


class Spending(RuleBasedStateMachine):
    """Random actions of one tenant, which has a new budget in each example; the processes keep running."""

    world: World

    @initialize()
    def a_tenant_has_a_budget(self) -> None:
        self.run, self.budget = self.world.run, self.world.budget
        self.tenant = self.run(self.budget.new_tenant())
        self.has_failed_over = False

    @rule(count=st.integers(1, 20), gateways=st.sets(st.integers(0, GATEWAYS - 1), min_size=1))
    def requests_arrive(self, count: int, gateways: set[int]) -> None:
        self.run(self.budget.send(self.tenant, count, sorted(gateways)))

    @precondition(lambda self: self.budget.failed is None)
    @rule(hangs=st.booleans())
    def the_primary_fails(self, hangs: bool) -> None:
        self.has_failed_over = False
        self.run(self.budget.fail_primary(self.tenant, hangs=hangs))

    @precondition(lambda self: self.budget.failed is not None and not self.has_failed_over)
    @rule()
    def a_replica_takes_over(self) -> None:
        self.run(self.budget.fail_over(self.tenant))
        self.has_failed_over = True

    @precondition(lambda self: self.has_failed_over and self.budget.failed is not None)
    @rule()
    def the_failed_server_returns(self) -> None:
        self.run(self.budget.repair())

    @invariant()
    def the_bound_holds(self) -> None:
        if hasattr(self, "tenant"):
            assert_within_bounds(self.budget, self.tenant)

    def teardown(self) -> None:
        if self.budget.failed is not None:
            if not self.has_failed_over:
                self.run(self.budget.fail_over(self.tenant))
            self.run(self.budget.repair())


def test_whatever_happens_spending_stays_within_the_bound(world: World) -> None:
    machine = type("Machine", (Spending,), {"world": world})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=4, stateful_step_count=8, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
