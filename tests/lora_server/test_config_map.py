"""The ConfigMap that names the adapters for llm-d's payload processor, against a double of the Kubernetes API."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from pointsman_lora_server import config_map
from pointsman_lora_server.config_map import ConfigMapPublisher, published_names
from pointsman_lora_server.domain import Alias, Canary
from pointsman_servicekit.kubernetes import ApiFailed

from tests.gateway.doubles.waiting import until
from tests.kubernetes_api import KubernetesDouble, running_kubernetes
from tests.lora_server.server_process import MakeAdapter, RunLoraServer

NAME, NAMESPACE = "adapters-tiny", "pointsman"
TRIAGE, OTHER, VOICE = "triage@3f9a1c0b77de", "triage@0123456789ab", "voice@0123456789ab"
PROD = Alias("triage@prod", TRIAGE, 1)


@dataclass
class Published:
    """A lora-server's publisher, its aliases, and the API."""

    api: KubernetesDouble
    aliases: tuple[Alias, ...] | None = None
    publisher: ConfigMapPublisher = field(init=False)

    def __post_init__(self) -> None:
        self.publisher = ConfigMapPublisher(NAME, "tiny", self.api.service_account, lambda: self.aliases)

    @property
    def config_map(self) -> Any:
        return self.api.objects.get(f"api/v1/namespaces/{NAMESPACE}/configmaps", {}).get(NAME)

    @property
    def names(self) -> list[str] | None:
        """Returns the names as the processor reads them; None if there is no ConfigMap."""
        return yaml.safe_load(self.config_map["data"]["adapters"]) if self.config_map else None

    def edit(self, **data: str) -> None:
        metadata = {"name": NAME, "labels": {config_map.MANAGED_LABEL: "true"}}
        self.api.put("api/v1", "configmaps", NAMESPACE, {"metadata": metadata, "data": data})


@pytest.fixture
async def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Published]:
    monkeypatch.setattr(config_map, "CHECK_SECONDS", 0.02)
    async with running_kubernetes(tmp_path) as api:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", api.host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        yield Published(api)


@pytest.fixture
async def running(published: Published) -> AsyncIterator[Published]:
    """Yields the publisher while it runs; it does not know the aliases yet."""
    task = asyncio.create_task(published.publisher.run())
    yield published
    task.cancel()
    await asyncio.wait({task})


def test_versions_and_canaries_are_named_and_aliases_that_engines_do_not_know_are_not() -> None:
    canary = Alias("triage@prod", TRIAGE, 2, Canary(OTHER, 0.1), previous="triage@111111111111")
    assert published_names([canary, Alias("voice@prod", VOICE, 1), Alias("triage@next", TRIAGE, 1)]) == [
        *(OTHER, TRIAGE, VOICE),
    ]


async def test_the_config_map_has_what_the_processor_reads(published: Published) -> None:
    await published.publisher.publish([TRIAGE, "triage@prod"])
    assert published.config_map["metadata"]["labels"] == {"inference.llm-d.ai/ipp-managed": "true"}
    assert published.config_map["data"]["baseModel"] == "tiny"
    assert published.names == [TRIAGE, "triage@prod"]
    ((query, _),) = published.api.writes
    assert query == {"fieldManager": "pointsman-lora-server", "force": "true"}


async def test_no_adapters_are_an_empty_list(published: Published) -> None:
    await published.publisher.publish([])
    assert not published.names


async def test_nothing_is_written_while_the_aliases_are_unknown_and_only_changes_afterwards(
    running: Published,
) -> None:
    await asyncio.sleep(0.2)
    assert running.api.requests == []
    running.aliases = (PROD,)
    await until(lambda: running.names == [TRIAGE])
    await asyncio.sleep(0.2)
    assert len(running.api.writes) == 1
    running.aliases = (Alias("triage@prod", OTHER, 2),)
    await until(lambda: running.names == [OTHER])
    assert len(running.api.writes) == 2


async def test_lora_servers_of_one_base_model_write_it_once(published: Published) -> None:
    second = Published(published.api)
    await published.publisher.publish([TRIAGE])
    await second.publisher.publish([TRIAGE])
    assert len(published.api.writes) == 1


async def test_a_write_that_another_has_overtaken_is_repeated_with_the_newest_version(published: Published) -> None:
    published.edit(baseModel="tiny", adapters="")
    published.api.conflicts = 2
    await published.publisher.publish([TRIAGE])
    assert published.names == [TRIAGE]
    assert published.api.requests.count("get configmaps") == 3
    published.api.conflicts = 100
    with pytest.raises(ApiFailed, match="the object has been modified"):
        await published.publisher.publish([OTHER])
    assert published.api.conflicts == 95


async def test_what_somebody_has_changed_is_repaired(running: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_map, "REPAIR_SECONDS", 0.1)
    running.aliases = (PROD,)
    await until(lambda: running.names)
    running.edit(baseModel="tiny", adapters="- mine", note="kept")
    await until(lambda: running.names == [TRIAGE])
    assert running.config_map["data"]["note"] == "kept"


async def test_names_are_not_removed_because_redis_has_lost_them(published: Published) -> None:
    await published.publisher.publish([TRIAGE])
    with pytest.raises(ApiFailed, match="Redis has no aliases, but the ConfigMap adapters-tiny names adapters"):
        await published.publisher.publish([])
    assert published.names == [TRIAGE]


async def test_aliases_that_are_no_longer_fresh_are_not_written(
    running: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_map, "REPAIR_SECONDS", 0.05)
    running.aliases = (PROD,)
    await until(lambda: running.names)
    running.aliases = None
    await asyncio.sleep(0.2)  # a write that was in progress
    running.edit(baseModel="tiny", adapters="- newer")
    await asyncio.sleep(0.3)
    assert running.names == ["newer"]


async def test_the_config_map_of_another_base_model_is_left_alone(published: Published) -> None:
    published.edit(baseModel="big", adapters="- x")
    with pytest.raises(ApiFailed, match="is of the base model big, not tiny: give each base model's lora-servers"):
        await published.publisher.publish([TRIAGE])
    assert published.names == ["x"]


async def test_a_missing_permission_names_the_role_once_and_is_tried_again(
    running: Published, caplog: pytest.LogCaptureFixture
) -> None:
    running.api.forbidden.add(("patch", "configmaps"))
    running.aliases = (PROD,)
    await until(lambda: running.api.requests.count("patch configmaps") >= 3)
    assert caplog.text.count("bind it to a Role with get, create and patch of configmaps") == 1
    running.api.forbidden.clear()
    await until(lambda: running.names == [TRIAGE])


async def test_names_that_do_not_fit_are_refused(published: Published) -> None:
    with pytest.raises(ApiFailed, match="50000 names do not fit in the ConfigMap adapters-tiny: unset POINTSMAN"):
        await published.publisher.publish([f"adapter-{number:06}@prod" for number in range(50_000)])
    assert published.api.requests == []


async def test_a_lora_server_publishes_its_versions(
    published: Published, run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server(config_map=NAME, service_account=published.api.service_account) as lora:
        await lora.until_ready()
        version = await lora.register("triage", make_adapter(), "prod")
        await until(lambda: published.names == [version.version])
        assert published.config_map["data"]["baseModel"] == "tiny-base"
