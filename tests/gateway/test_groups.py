"""A group of engines behind a DNS name: members that appear and disappear, and the state of those that stay."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as FilePath

import pytest
from pointsman_gateway.config.engine_config import BreakerConfig, Timeouts
from pointsman_gateway.config.engine_groups import DnsName, PoolName
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.config.providers import DEFAULT_API
from pointsman_gateway.domain import Path
from pointsman_gateway.engines.aliases import Aliases
from pointsman_gateway.engines.balancing import NO_KEY, PromptKey, TargetQueue
from pointsman_gateway.engines.dns_groups import look_up
from pointsman_gateway.engines.engine_group import EngineGroup
from pointsman_gateway.engines.engine_settings import EngineSettings
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_servicekit.errors import Unavailable
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.config_folder import ConfigFolder

PLAIN = Path("plain", "tiny")
WHERE = DnsName("engines.pointsman.svc", 8000, "/base")


class Scripted:
    """Implements the groups' `Resolver` with scripted answers."""

    def __init__(self) -> None:
        self.leads_to: frozenset[str] | None = None

    async def addresses(self, host: str) -> frozenset[str]:
        if self.leads_to is None:
            raise Unavailable(f"DNS, asked for {host}: there is no such name", code="dns_failed")
        return self.leads_to


class Seat:
    def __init__(self, engine: Engine) -> None:
        self.state = EngineState(engine)
        self.followed = True

    def stop(self) -> None:
        self.followed = False


class Hall:
    """A group of engines, and the engines of the active configuration."""

    def __init__(self, most: int = 4) -> None:
        self.registry = CollectorRegistry()
        self.resolver = Scripted()
        self.seats: list[Seat] = []
        empty = Engine(
            "fleet",
            "tiny",
            "dns+http://engines.pointsman.svc:8000/base",
            api=replace(DEFAULT_API, auth_header="authorization: Bearer sk-1\r\n"),
        )
        self.group = EngineGroup(empty, most, self._seat, self._changed, EngineMetrics(self.registry), WHERE.path)
        self.engines = Engines(self.group.states, {"fleet": EngineSettings(Timeouts(stream_idle_seconds=9))}, Aliases())

    def _seat(self, engine: Engine) -> Seat:
        seat = Seat(engine)
        self.seats.append(seat)
        return seat

    def _changed(self) -> None:
        self.engines.set_states(self.group.states)

    async def leads_to(self, *addresses: str) -> None:
        self.resolver.leads_to = frozenset(addresses)
        await self.look_up()

    async def look_up(self) -> None:
        await look_up(self.group, WHERE, self.resolver)

    @property
    def places(self) -> Mapping[str, str]:
        """Returns the engines that may get a request now: their URLs by name."""
        targets = [target for target in self.engines.targets(PLAIN) if target.state.is_available]
        return {target.engine.name: target.engine.url for target in targets}

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"pointsman_engine_group_{name}", {"group": "fleet"} | labels) or 0.0


@pytest.fixture
def hall() -> Hall:
    return Hall()


async def test_each_address_is_a_numbered_engine_with_the_groups_settings(hall: Hall) -> None:
    await hall.leads_to("10.0.0.2", "10.0.0.1")
    assert hall.places == {"fleet/0": "http://10.0.0.1:8000/base", "fleet/1": "http://10.0.0.2:8000/base"}
    assert [target.settings.timeouts.stream_idle_seconds for target in hall.engines.targets(PLAIN)] == [9, 9]
    assert {target.engine.api.auth_header for target in hall.engines.targets(PLAIN)} == {
        "authorization: Bearer sk-1\r\n"
    }
    assert hall.metric("members") == 2


async def test_an_ipv6_address_is_bracketed_in_urls(hall: Hall) -> None:
    await hall.leads_to("fd00::1")
    assert hall.places == {"fleet/0": "http://[fd00::1]:8000/base"}


async def test_a_group_without_members_reports_the_reason(hall: Hall) -> None:
    await hall.look_up()
    assert "fleet: DNS, asked for engines.pointsman.svc: there is no such name" in (hall.engines.why_not(PLAIN) or "")
    assert not hall.engines.any_ready
    await hall.leads_to("10.0.0.1")
    assert hall.engines.why_not(PLAIN) is None


async def test_the_state_of_remaining_members_is_kept(hall: Hall) -> None:
    await hall.leads_to("10.0.0.1", "10.0.0.2")
    first, second = hall.group.states
    second.in_flight = 3
    first.breaker.failed(first.breaker.enter(), BreakerConfig(consecutive_failures=1))
    await hall.leads_to("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert list(hall.group.states[:2]) == [first, second]
    assert set(hall.places) == {"fleet/1", "fleet/2"}  # the first one is still in its cooldown
    assert hall.group.states[1].in_flight == 3


async def test_a_removed_member_gets_no_new_requests(hall: Hall) -> None:
    await hall.leads_to("10.0.0.1", "10.0.0.2")
    chosen = TargetQueue(hall.engines.targets(PLAIN), NO_KEY, 1.25)
    await hall.leads_to("10.0.0.2")
    assert hall.places == {"fleet/1": "http://10.0.0.2:8000/base"}
    taken = chosen.take()
    assert taken
    assert taken.engine.endpoint == "10.0.0.2:8000"
    assert chosen.take() is None
    assert [seat.followed for seat in hall.seats] == [False, True]
    gone = hall.seats[0].state
    gone.cool_down(1)  # a late answer that requests a cooldown
    assert not gone.is_available
    with pytest.raises(Unavailable) as refused:  # of a request that knows no other member
        Engines([gone]).targets(PLAIN)
    assert (refused.value.message, refused.value.retry_after) == ("path 'plain': fleet/0 has left its group", 5)


async def test_a_group_removed_from_the_configuration_serves_earlier_requests(hall: Hall) -> None:
    await hall.leads_to("10.0.0.1")
    begun = hall.engines.targets(PLAIN)
    hall.group.stop()
    assert not hall.seats[0].followed
    assert TargetQueue(begun, NO_KEY, 1.25).take()
    assert hall.registry.get_sample_value("pointsman_engine_group_members", {"group": "fleet"}) is None


async def test_free_member_numbers_are_reused(hall: Hall) -> None:
    await hall.leads_to("10.0.0.1", "10.0.0.2")
    for last in range(3, 30):
        await hall.leads_to("10.0.0.2", f"10.0.0.{last}")
        assert sorted(hall.places) == ["fleet/0", "fleet/1"]
    assert hall.metric("changes_total", change="came") == 29
    assert hall.metric("changes_total", change="went") == 27


async def test_at_most_max_endpoints_are_used_and_existing_members_stay(hall: Hall) -> None:
    await hall.leads_to("10.0.1.1", "10.0.1.2")
    await hall.leads_to("10.0.1.1", "10.0.1.2", *(f"10.0.0.{last}" for last in range(1, 100)))
    assert len(hall.places) == 4
    assert {"http://10.0.1.1:8000/base", "http://10.0.1.2:8000/base"} < set(hall.places.values())
    assert (hall.metric("members"), hall.metric("left_out")) == (4, 97)


async def test_members_stay_if_dns_fails(hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    await hall.leads_to("10.0.0.1", "10.0.0.2")
    before = hall.places
    hall.resolver.leads_to = None
    for _ in range(3):
        await hall.look_up()
    assert hall.places == before
    assert hall.metric("lookups_total", outcome="failed") == 3
    assert caplog.text.count("there is no such name; 2 members") == 1


async def test_balancing_does_not_depend_on_member_numbers() -> None:
    one, other = Hall(), Hall()
    await one.leads_to("10.0.0.1", "10.0.0.2", "10.0.0.3")
    for address in ("10.0.0.3", "10.0.0.2", "10.0.0.1"):
        await other.leads_to(*(set(other.resolver.leads_to or ()) | {address}))
    assert one.places != other.places

    def choice(hall: Hall, key: int) -> str:
        target = TargetQueue(hall.engines.targets(PLAIN), PromptKey(key, key), 1.25).take()
        assert target
        return target.engine.endpoint

    assert all(choice(one, key) == choice(other, key) for key in range(0, 1 << 32, 97_000_003))


def _engines(folder: FilePath, **engine: object) -> Mapping[str, object]:
    config = ConfigFolder(folder)
    config.models["engines"] = {"local": {"model": "tiny"} | engine}
    config.paths = {name: path for name, path in config.paths.items() if "adapter" not in path}
    config.tasks["triage"]["policy"] = {"fixed": "triage_few_shot"}
    return load_config(config.write()).models.engines


def test_a_group_is_written_by_its_name_in_dns(tmp_path: FilePath) -> None:
    group = _engines(tmp_path, lora_server="dns:///lora-server.pointsman.svc:8083", max_endpoints=3)["local"]
    assert (group.group, group.endpoint_limit) == (DnsName("lora-server.pointsman.svc", 8083), 3)  # type: ignore[attr-defined]  # an engine's
    plain = _engines(tmp_path, url="dns+http://engines:8000/v2/")["local"]
    assert (plain.group, plain.endpoint_limit) == (DnsName("engines", 8000, "/v2"), 64)  # type: ignore[attr-defined]  # an engine's
    pods = _engines(tmp_path, url="inferencepool://models/llama")["local"]
    assert pods.group == PoolName("models", "llama")  # type: ignore[attr-defined]  # an engine's
    servers = _engines(tmp_path, lora_server="inferencepool://models/llama:8083")["local"]
    assert servers.group == PoolName("models", "llama", 8083)  # type: ignore[attr-defined]  # an engine's
    assert _engines(tmp_path, url="http://engines:8000")["local"].group is None  # type: ignore[attr-defined]  # an engine's


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"lora_server": "dns:///lora-server"}, "'dns:///lora-server' is no group of engines; write dns:///NAME:PORT"),
        ({"lora_server": "dns://10.0.0.1/x:1"}, "'dns://10.0.0.1/x:1' is no group of engines; write dns:///NAME:PORT"),
        ({"url": "dns+https://engines:8000"}, "is no group of engines; write dns+http://NAME:PORT"),
        ({"url": "dns+http://engines:port"}, "is no group of engines; write dns+http://NAME:PORT"),
        ({"url": "dns+http://10.0.0.1:80"}, "'dns+http://10.0.0.1:80' is one address and no name"),
        ({"url": "inferencepool://llama"}, "write inferencepool://NAMESPACE/NAME; the pool has the engines' ports"),
        ({"url": "inferencepool://models/llama:8000"}, "; the pool has the engines' ports"),
        ({"lora_server": "inferencepool://models/llama"}, "write inferencepool://NAMESPACE/NAME:PORT, with the lora"),
        ({"lora_server": "inferencepool:/models/llama:8083"}, "is no group of engines; write inferencepool://NAMES"),
        ({"lora_server": "inferencepool://models/llama:80830"}, "is no group of engines; write inferencepool://NAMES"),
        ({"url": "http://engines:8000", "max_endpoints": 3}, "'max_endpoints' is for groups of engines"),
    ],
)
def test_an_invalid_group_is_rejected(tmp_path: FilePath, engine: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        _engines(tmp_path, **engine)
    assert message in str(refused.value)
