"""Under random actions of gateways, requests, time and Redis, spending stays within the bounds of docs/keys.md, and
limits reject only for a reason."""

import asyncio
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pointsman_gateway.domain import Caller, Usage
from pointsman_gateway.tenancy.lease_store import LeaseStore
from pointsman_gateway.tenancy.reservation import LeasedReservation
from pointsman_servicekit.errors import ResourceExhausted, Unavailable
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.key_store import IssuedKey
from pointsman_servicekit.keys.records import Limits
from pointsman_servicekit.keys.redis_layout import WHOLE_TENANT, WINDOWS, Window
from redis.asyncio import Redis

from tests.gateway.doubles.tenancy import Counter, Times, accounts_in, counter_at, issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

NANO = 10**9
MARGIN = 5.0
"""Seconds at the end of each minute in which nothing starts, so that each step lies in one window."""

ANY = st.integers(0, 59)
"""Draws the index of an existing object. Hypothesis's draws must not depend on which requests were admitted, since that
depends on real time."""

ACTS = st.one_of(
    st.tuples(st.just("requests_come"), ANY, st.integers(0, 1), st.lists(st.integers(1, 120), min_size=1, max_size=6)),
    st.tuples(st.just("one_is_priced"), ANY, st.integers(0, 60)),
    st.tuples(st.just("some_end"), ANY, st.integers(1, 3), st.sampled_from([0.0, 0.5, 1.0, 1.7]), st.integers(0, 90)),
)
"""The actions with their weights."""
PROMPT = 0.15
"""Timeout of Redis in seconds: longer than in production, so that a busy machine does not cause timeouts."""
SILENT = 9.0
"""Seconds of silence after which others may take a gateway's leases."""

Cell = tuple[str, str, int]
"""The owner of a limit (tenant or key), the limit, and the number of its window."""


@dataclass(eq=False)
class Member:
    """A gateway, and what the test's model knows about it."""

    counter: Counter
    life: AsyncExitStack
    callers: dict[str, Caller]
    cut: bool = False
    """Whether Redis may lack something that the gateway did during an outage."""

    spoken: float = 0.0
    """The time of the gateway's last exchange with Redis, in the model's Unix seconds."""

    @property
    def ledger(self) -> LeaseStore:
        return self.counter.tenancy.tasks.leases

    @property
    def alone(self) -> float:
        """How often the gateway has continued without Redis."""
        return self.counter.metric("pointsman_ratelimit_local_fallback_total")


@dataclass(eq=False)
class Asked:
    """A request in progress."""

    member: Member
    key: str
    hold: LeasedReservation
    tokens: int
    windows: dict[str, int]
    """By limit, the window in which the request was admitted."""
    nano: int = 0


@dataclass
class Spent:
    """What each gateway has spent in one window of one limit."""

    charged: dict[Member, int] = field(default_factory=lambda: defaultdict(int))
    beyond: dict[Member, int] = field(default_factory=lambda: defaultdict(int))
    """By gateway, what was spent beyond the estimates since it admitted its last request."""
    cut: dict[Member, int] = field(default_factory=dict)
    """By gateway that lost Redis or was killed, the larger of its lease and its share."""


class Tenants(RuleBasedStateMachine):
    valkey: Valkey
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.times = Times()
        self.times.enter_the_next(Window.MONTH)
        self.times.pass_by(-100)
        self.members: list[Member] = []
        self.asked: list[Asked] = []
        self.spent: dict[Cell, Spent] = defaultdict(Spent)
        self.issued: list[IssuedKey] = []
        self.limits: dict[str, Limits] = {}
        self.up = True
        self.outages = 0
        self.hangs = False
        self.killed = False
        self.alone = 0.0
        self.slices: dict[tuple[Member, str, str], int] = {}

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    @initialize(
        requests=st.integers(1, 30), tokens=st.integers(20, 300), streams=st.integers(1, 6),
        dollars=st.integers(20, 400), gateways=st.integers(2, 3), shared=st.integers(1, 3),
    )  # fmt: skip
    def begin(self, requests: int, tokens: int, streams: int, dollars: int, gateways: int, shared: int) -> None:
        async def make() -> None:
            async with Redis.from_url(self.valkey.url) as redis:
                await redis.flushall()
            own = Limits(requests, tokens, streams, dollars / NANO, 2 * dollars / NANO)
            both = Limits(
                shared * requests, shared * tokens, shared * streams, shared * dollars / NANO, shared * dollars / NANO
            )
            self.issued = [await issue(self.valkey.url, own, both) for _ in range(2)]
            self.limits = {WHOLE_TENANT: both} | {one.record.id: own for one in self.issued}

        self.run(make())
        self.keep_clear()
        for _ in range(gateways):
            self.start()

    # -- what gateways do

    @precondition(lambda self: self.up and len(self.members) < 3)
    @rule()
    def a_gateway_starts(self) -> None:
        self.start()

    def start(self) -> None:
        async def make() -> Member:
            life = AsyncExitStack()
            counter = await life.enter_async_context(
                counter_at(self.valkey.url, self.times, running=False, deadline=PROMPT)
            )
            await counter.tenancy.tasks.poll()
            callers = {one.record.id: await counter.caller(one) for one in self.issued}
            return Member(counter, life, callers, spoken=self.times.wall())

        self.members.append(self.run(make()))

    @rule(acts=st.lists(ACTS, min_size=6, max_size=24))
    def they_are_busy(self, acts: list[tuple[Any, ...]]) -> None:
        for name, *drawn in acts:
            getattr(self, name)(*drawn)
            self.no_more_is_spent_than_is_said()

    def requests_come(self, which: int, number: int, tokens: list[int]) -> None:
        """Several concurrent requests arrive at one gateway."""
        member, key = self.members[which % len(self.members)], self.issued[number].record.id
        now = self.begin_step()

        async def come() -> list[LeasedReservation | None]:
            caller = member.callers[key]
            return await asyncio.gather(*(member.counter.let_in(caller, one) for one in tokens))

        holds = self.run(come())
        self.end_step(now)
        for hold, wanted in zip(holds, tokens, strict=True):
            if hold is not None:
                self.asked.append(Asked(member, key, hold, wanted, now))
                for limit, amount in (
                    ("requests_per_minute", 1),
                    ("concurrent_streams", 1),
                    ("tokens_per_minute", wanted),
                ):
                    self.let_in(member, key, limit, now, amount)
        if self.up and None in holds:
            self.refused_for_a_reason(member, key, tokens[holds.index(None)])

    def one_is_priced(self, which: int, nano: int) -> None:
        if not self.asked:
            return
        asked = self.asked[which % len(self.asked)]
        now = self.begin_step()
        try:
            self.run(asked.hold.afford(nano / NANO))
        except ResourceExhausted:
            return
        finally:
            self.end_step(now)
        for limit in ("dollars_per_day", "dollars_per_month"):
            asked.windows.setdefault(limit, now[limit])
            if not asked.nano:
                asked.windows[limit] = now[limit]
            self.let_in(asked.member, asked.key, limit, now, nano)
        asked.nano += nano

    def some_end(self, which: int, count: int, share: float, nano: int) -> None:
        for _ in range(min(count, len(self.asked))):
            asked = self.asked.pop(which % len(self.asked))
            now = self.begin_step()
            used = round(asked.tokens * share)
            for _ in range(2):  # repeating it has no effect
                asked.hold.settle(Usage(used // 2, used - used // 2), nano / NANO, "ok")
            self.end_step(now)
            for whose in (asked.key, WHOLE_TENANT):
                self.spent[whose, "concurrent_streams", 0].charged[asked.member] -= 1
            self.settled(asked, "tokens_per_minute", used - asked.tokens, now)
            for limit in ("dollars_per_day", "dollars_per_month"):
                self.settled(asked, limit, nano - asked.nano, now)

    @rule(which=ANY)
    def a_gateway_speaks(self, which: int) -> None:
        member = self.members[which % len(self.members)]
        self.times.pass_by(0.6)
        now = self.begin_step()
        self.run(self.speak(member))
        self.end_step(now)

    @precondition(lambda self: len(self.members) > 1 and not self.killed)
    @rule(which=ANY)
    def a_gateway_is_killed(self, which: int) -> None:
        """A gateway is killed; its leases and unsent data are lost."""
        member = self.members[which % len(self.members)]
        self.begin_step()
        if self.up:
            self.run(self.note_slices([member]))
        self.members.remove(member)
        self.killed = True
        self.alone -= member.alone
        for asked in [one for one in self.asked if one.member is member]:
            self.asked.remove(asked)
            for whose in (asked.key, WHOLE_TENANT):
                self.spent[whose, "concurrent_streams", 0].charged[member] -= 1
        self.run(member.life.aclose())

    # -- what befalls them

    @rule(seconds=st.sampled_from([0.2, 1.5, 6.0, 15.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.live_on(seconds))

    def a_minute_begins(self) -> None:
        """A new minute begins; the second one also starts a new day and a new month."""
        self.run(self.live_on(60.05 - self.times.wall() % 60))

    @precondition(lambda self: self.outages < 1)
    @rule(hangs=st.booleans(), first=st.lists(ACTS, max_size=8), then=st.lists(ACTS, min_size=4, max_size=24))
    def redis_is_away(self, hangs: bool, first: list[tuple[Any, ...]], then: list[tuple[Any, ...]]) -> None:
        """Makes Redis unavailable for the rest of this minute and in the next one."""
        self.begin_step()
        self.run(self.note_slices(self.members))
        for member in self.members:
            member.cut = True
        self.up, self.hangs, self.outages = False, hangs, self.outages + 1
        if hangs:
            self.valkey.hang()
        else:
            self.valkey.kill()
        self.they_are_busy(first)
        self.a_minute_begins()
        self.they_are_busy(then)
        self.run(self.come_back())

    async def come_back(self) -> None:
        if self.hangs:
            self.valkey.go_on()
        else:
            await self.valkey.start()
        for member in self.members:
            await found(partial(self.reaches, member), within=30)
        self.up = True

    # -- what must hold

    @invariant()
    def no_more_is_spent_than_is_said(self) -> None:
        for (whose, limit, window), spent in self.spent.items():
            total = sum(spent.charged.values())
            bound = self.most(whose, limit) + sum(spent.beyond.values()) + sum(spent.cut.values())
            assert total <= bound, f"{total} of {limit} of {whose} in window {window}; {bound} was to be the most"

    def refused_for_a_reason(self, member: Member, key: str, tokens: int) -> None:
        """Asserts that while Redis is available, a request is rejected only if others hold or have used the quota that
        it needs.
        """
        self.times.pass_by(0.2)  # so that nothing is refused from a local cache
        now = self.begin_step()

        async def again() -> tuple[LeasedReservation | None, list[str]]:
            caller = member.callers[key]
            try:
                return await member.counter.tenancy.enter(caller, tokens), []
            except ResourceExhausted as error:
                lacking = []
                for whose in (key, WHOLE_TENANT):
                    found = await accounts_in(self.valkey.url, "acme", whose, error.code)
                    need = tokens if error.code == "tokens_per_minute" else 1
                    held = int(found["held"]) if found.get("window") == str(now[error.code]) else 0
                    lacking.append(f"{whose}: {held}" * (held + need > self.most(whose, error.code)))
                return None, lacking

        hold, lacking = self.run(again())
        self.end_step(now)
        if hold is None:
            assert any(lacking), "refused, though nobody had it"
            return
        self.asked.append(Asked(member, key, hold, tokens, now))
        self.entered(member, key, tokens, now)

    # -- the model

    def most(self, whose: str, limit: str) -> int:
        most = getattr(self.limits[whose], limit)
        return round(most * NANO) if limit.startswith("dollars") else int(most)

    def entered(self, member: Member, key: str, tokens: int, now: dict[str, int]) -> None:
        for limit, amount in (("requests_per_minute", 1), ("concurrent_streams", 1), ("tokens_per_minute", tokens)):
            self.let_in(member, key, limit, now, amount)

    def let_in(self, member: Member, key: str, limit: str, now: dict[str, int], amount: int) -> None:
        for whose in (key, WHOLE_TENANT):
            spent = self.spent[whose, limit, now[limit]]
            spent.charged[member] += amount
            if amount:  # a free request is admitted whatever was spent
                spent.beyond[member] = 0

    def settled(self, asked: Asked, limit: str, over: int, now: dict[str, int]) -> None:
        for whose in (asked.key, WHOLE_TENANT):
            spent = self.spent[whose, limit, now[limit]]
            if over > 0:
                spent.charged[asked.member] += over
                spent.beyond[asked.member] += over
            elif asked.windows.get(limit) == now[limit]:
                spent.charged[asked.member] += over

    async def note_slices(self, members: list[Member]) -> None:
        for whose in self.limits:
            for limit in WINDOWS:
                found = await accounts_in(self.valkey.url, "acme", whose, limit)
                for member in members:
                    held = sum(
                        int(text.split()[0])
                        for holder, text in found.items()
                        if holder.startswith(member.ledger.gateway) and found["window"] == str(self.windows()[limit])
                    )
                    self.note_cut(member, whose, limit, held)

    def note_cut(self, member: Member, whose: str, limit: str, held: int) -> None:
        share = 0 if limit.startswith("dollars") else self.most(whose, limit) // member.ledger.gateways
        cell = self.spent[whose, limit, self.windows()[limit]]
        cell.cut[member] = max(held, share, cell.cut.get(member, 0))
        self.slices[member, whose, limit] = held

    async def live_on(self, seconds: float) -> None:
        """Lets time pass, during which gateways renew their leases."""
        while seconds > 0:
            step = min(seconds, 3.0) if self.up else seconds
            self.times.pass_by(step)
            seconds -= step
            for member in self.members:
                await self.speak(member)

    async def speak(self, member: Member) -> None:
        with suppress(Unavailable):
            await member.counter.tenancy.tasks.renew(self.times.clock.monotonic())
            member.spoken = self.times.wall()
            if self.up:
                member.cut = False

    async def reaches(self, member: Member) -> bool:
        try:
            await member.counter.tenancy.tasks.poll()
        except Unavailable:
            return False
        return True

    def windows(self) -> dict[str, int]:
        now = int(self.times.wall() * 1000)
        return {limit: redis_layout.window_at(window, now)[0] for limit, window in WINDOWS.items()}

    def keep_clear(self) -> None:
        left = 60 - self.times.wall() % 60
        if left < MARGIN:
            self.run(self.live_on(left + 0.05))
        elif any(self.is_silent(member, SILENT / 2) for member in self.members):
            self.run(self.live_on(0.01))

    def begin_step(self) -> dict[str, int]:
        self.keep_clear()
        for member in self.members:
            if member.cut:
                for whose in self.limits:
                    for limit in WINDOWS:
                        self.note_cut(member, whose, limit, self.slices.get((member, whose, limit), 0))
        return self.windows()

    def end_step(self, now: dict[str, int]) -> None:
        """Ends a step; abandons the example if the machine was too slow for the model."""
        assume(now == self.windows())
        if self.up:
            assume(self.alone == sum(member.alone for member in self.members))
            assume(not any(self.is_silent(member, SILENT) for member in self.members))
        self.alone = sum(member.alone for member in self.members)

    def is_silent(self, member: Member, seconds: float) -> bool:
        return not member.cut and self.times.wall() > member.spoken + seconds

    def teardown(self) -> None:
        async def end() -> None:
            if not self.up:
                await self.come_back()
            for member in self.members:
                await member.life.aclose()

        self.run(end())


@pytest.fixture
def machine() -> Iterator[type[Tenants]]:
    folder = Path(tempfile.mkdtemp())
    with asyncio.Runner() as runner:
        valkey = Valkey(folder)
        runner.run(valkey.start())
        try:
            yield type("Machine", (Tenants,), {"valkey": valkey, "runner": runner})
        finally:
            valkey.kill()
            shutil.rmtree(folder)


def test_spending_stays_within_the_documented_bounds(machine: type[Tenants]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15, stateful_step_count=12, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
