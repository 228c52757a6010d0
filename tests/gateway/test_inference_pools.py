"""Groups of engines by InferencePool: pods that come, go and become ready, and an API that refuses or goes away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.config.engine_groups import PoolName
from pointsman_gateway.engines import inference_pools
from pointsman_gateway.engines.engine_group import EngineGroup
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.inference_pools import watch_pool
from pointsman_gateway.engines.metrics import EngineMetrics
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.engine import answer, running_engine
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.waiting import until
from tests.kubernetes_api import POOLS, KubernetesDouble, running_kubernetes

NAMESPACE = "models"
LLAMA = {"app": "llama"}


def pod(name: str, ip: str = "", *, ready: bool = True, labels: dict[str, str] = LLAMA, **metadata: str) -> Any:
    status: dict[str, Any] = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    if ip:
        status["podIP"] = ip
    return {"metadata": {"name": name, "labels": labels, **metadata}, "spec": {"containers": []}, "status": status}


def pool(*ports: int, labels: dict[str, str] = LLAMA, **spec: Any) -> Any:
    selector = {"matchLabels": labels}
    spec = {"selector": selector, "targetPorts": [{"number": port} for port in ports], **spec}
    return {"metadata": {"name": "llama"}, "spec": spec}


@dataclass
class Cluster:
    """An API server with a pool of two ready pods, and a group that follows it."""

    api: KubernetesDouble
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    group: EngineGroup = field(init=False)

    def __post_init__(self) -> None:
        template = Engine("fleet", "tiny", "inferencepool://models/llama", detail="not reported")
        self.group = EngineGroup(template, 8, Followed, lambda: None, EngineMetrics(self.registry))
        self.api.put(POOLS, "inferencepools", NAMESPACE, pool(8000))
        self.run(pod("llama-0", "10.0.0.1"))
        self.run(pod("llama-1", "10.0.0.2"))
        self.run(pod("other-0", "10.0.0.9", labels={"app": "other"}))

    def run(self, pod: Any) -> None:
        self.api.put("api/v1", "pods", NAMESPACE, pod)

    @property
    def endpoints(self) -> set[str]:
        return {state.engine.endpoint for state in self.group.states} - {""}

    @property
    def reason(self) -> str:
        """Returns what callers are told while the group has no member."""
        (state,) = self.group.states
        return state.engine.detail

    def lookups(self, outcome: str) -> float:
        labels = {"group": "fleet", "outcome": outcome}
        return self.registry.get_sample_value("pointsman_engine_group_lookups_total", labels) or 0.0

    @asynccontextmanager
    async def followed(self, port: int | None = None) -> AsyncIterator[None]:
        task = asyncio.create_task(watch_pool(self.group, PoolName(NAMESPACE, "llama", port), self.api.service_account))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def until_watched(self) -> None:
        await until(lambda: self.api.watchers)


class Followed:
    def __init__(self, engine: Engine) -> None:
        self.state = EngineState(engine)

    def stop(self) -> None:
        pass


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    async with running_kubernetes(tmp_path) as api:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", api.host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        monkeypatch.setattr(inference_pools, "RETRY_SECONDS", 0.02)
        yield Cluster(api)


async def test_each_ready_pod_that_the_pool_selects_is_an_engine(cluster: Cluster) -> None:
    cluster.run(pod("llama-2", "10.0.0.3", ready=False))
    cluster.run(pod("llama-3", "10.0.0.4", deletionTimestamp="2026-12-01T10:00:00Z"))
    cluster.run(pod("llama-4"))
    async with cluster.followed():
        await until(lambda: cluster.endpoints == {"10.0.0.1:8000", "10.0.0.2:8000"})
    assert {state.engine.url for state in cluster.group.states} == {"http://10.0.0.1:8000", "http://10.0.0.2:8000"}
    assert cluster.lookups("answered") == 1


async def test_each_target_port_is_an_engine_of_its_own(cluster: Cluster) -> None:
    cluster.api.put(POOLS, "inferencepools", NAMESPACE, pool(8000, 8001))
    cluster.run(pod("llama-1", "fd00::2"))
    async with cluster.followed():
        await until(lambda: cluster.endpoints == {"10.0.0.1:8000", "10.0.0.1:8001", "[fd00::2]:8000", "[fd00::2]:8001"})


async def test_lora_servers_are_at_the_port_of_the_configuration(cluster: Cluster) -> None:
    cluster.api.put(POOLS, "inferencepools", NAMESPACE, pool(8000, 8001, appProtocol="kubernetes.io/h2c"))
    async with cluster.followed(port=8083):
        await until(lambda: cluster.endpoints == {"10.0.0.1:8083", "10.0.0.2:8083"})


async def test_a_watch_reports_each_change_of_the_pods(cluster: Cluster) -> None:
    async with cluster.followed():
        await cluster.until_watched()
        cluster.run(pod("llama-2", "10.0.0.3", ready=False))
        cluster.run(pod("llama-1", "10.0.0.2", ready=False))
        await until(lambda: cluster.endpoints == {"10.0.0.1:8000"})
        cluster.run(pod("llama-2", "10.0.0.3"))
        await until(lambda: cluster.endpoints == {"10.0.0.1:8000", "10.0.0.3:8000"})
        cluster.api.delete("api/v1", "pods", NAMESPACE, "llama-0")
        cluster.run(pod("llama-2", "10.0.0.3", labels={"app": "other"}))  # it leaves the selection
        cluster.run(pod("llama-1", "10.0.0.5"))
        await until(lambda: cluster.endpoints == {"10.0.0.5:8000"})
    assert cluster.api.requests == ["get inferencepools", "list pods", "watch pods"]


async def test_a_group_is_empty_if_no_pod_is_ready_and_says_so(cluster: Cluster) -> None:
    async with cluster.followed():
        await until(lambda: len(cluster.endpoints) == 2)
        cluster.run(pod("llama-0", "10.0.0.1", ready=False))
        cluster.run(pod("llama-1", "10.0.0.2", ready=False))
        await until(lambda: not cluster.endpoints)
        assert cluster.reason == "InferencePool models/llama: none of its 2 pods is ready"
        cluster.api.delete("api/v1", "pods", NAMESPACE, "llama-0")
        cluster.api.delete("api/v1", "pods", NAMESPACE, "llama-1")
        await until(lambda: cluster.reason == "InferencePool models/llama: it selects no pod")


async def test_an_expired_version_is_read_anew_and_is_no_failure(cluster: Cluster) -> None:
    async with cluster.followed():
        await cluster.until_watched()
        cluster.api.compact()
        cluster.run(pod("llama-2", "10.0.0.3"))
        await until(lambda: "10.0.0.3:8000" in cluster.endpoints)
    assert cluster.api.requests.count("list pods") == 2
    assert cluster.lookups("failed") == 0


async def test_a_broken_watch_is_opened_again_and_nothing_is_missed(cluster: Cluster) -> None:
    async with cluster.followed():
        await cluster.until_watched()
        cluster.api.disconnect()
        cluster.run(pod("llama-0", "10.0.0.1", ready=False))
        await until(lambda: cluster.endpoints == {"10.0.0.2:8000"})
        await cluster.until_watched()
        cluster.run(pod("llama-0", "10.0.0.1"))
        await until(lambda: len(cluster.endpoints) == 2)


async def test_a_changed_pool_is_noticed_by_the_next_reading(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_pools, "WATCH_SECONDS", 0.1)
    async with cluster.followed():
        await until(lambda: len(cluster.endpoints) == 2)
        cluster.api.put(POOLS, "inferencepools", NAMESPACE, pool(9000, labels={"app": "other"}))
        await until(lambda: cluster.endpoints == {"10.0.0.9:9000"})
    assert cluster.lookups("failed") == 0


async def test_pods_stay_while_the_api_does_not_answer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inference_pools, "WATCH_SECONDS", 0.1)
    async with cluster.followed():
        await until(lambda: len(cluster.endpoints) == 2)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")  # nobody listens there
        await until(lambda: cluster.lookups("failed") >= 3)
        assert cluster.endpoints == {"10.0.0.1:8000", "10.0.0.2:8000"}
        assert caplog.text.count("the Kubernetes API does not answer: ConnectError") == 1
        cluster.api.delete("api/v1", "pods", NAMESPACE, "llama-1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.api.port))
        await until(lambda: cluster.endpoints == {"10.0.0.1:8000"})


async def test_a_silent_api_is_given_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman_servicekit.kubernetes.TIMEOUT_SECONDS", 0.1)
    cluster.api.is_silent = True
    async with cluster.followed():
        await until(lambda: "the Kubernetes API does not answer: ReadTimeout" in cluster.reason)
        cluster.api.is_silent = False
        await until(lambda: len(cluster.endpoints) == 2)


async def test_a_replaced_token_is_read_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_pools, "WATCH_SECONDS", 0.1)
    async with cluster.followed():
        await until(lambda: len(cluster.endpoints) == 2)
        (cluster.api.service_account / "token").write_text("token-2")
        cluster.run(pod("llama-2", "10.0.0.3"))
        await until(lambda: cluster.lookups("answered") >= 3)
    assert len(cluster.endpoints) == 3
    assert cluster.lookups("failed") == 0


@pytest.mark.parametrize("refused", [("get", "inferencepools"), ("list", "pods"), ("watch", "pods")])
async def test_a_missing_permission_names_the_role(
    cluster: Cluster, refused: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    cluster.api.forbidden.add(refused)
    async with cluster.followed():
        await until(lambda: cluster.lookups("failed") >= 2)
        role = "get of inferencepools.inference.networking.k8s.io, and list and watch of pods"
        assert f"bind it to a Role in namespace models with {role}" in caplog.text
        cluster.api.forbidden.clear()
        await cluster.until_watched()


async def test_a_watch_that_always_fails_is_logged_once_although_the_pods_are_listed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inference_pools, "RETRY_SECONDS", 0.01)
    cluster.api.forbidden.add(("watch", "pods"))
    async with cluster.followed():
        await until(lambda: cluster.lookups("failed") >= 4)
    assert caplog.text.count("may not read InferencePool models/llama") == 1
    assert cluster.lookups("answered") >= 4


async def test_failures_are_repeated_less_and_less_often(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_pools, "RETRY_SECONDS", 0.05)
    cluster.api.forbidden.add(("get", "inferencepools"))
    async with cluster.followed():
        await asyncio.sleep(1.0)
    assert 3 <= cluster.lookups("failed") <= 7


async def test_a_watch_that_the_server_ends_at_once_is_not_repeated_without_a_pause(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference_pools, "RETRY_SECONDS", 0.2)
    cluster.api.ends_watches = True
    async with cluster.followed():
        await asyncio.sleep(0.8)
    assert 1 <= cluster.api.requests.count("watch pods") <= 5
    assert cluster.lookups("failed") == 0


async def test_a_token_may_be_replaced_between_the_pool_and_its_pods(cluster: Cluster) -> None:
    cluster.api.replaces_token_after = "get inferencepools"
    async with cluster.followed():
        await until(lambda: len(cluster.endpoints) == 2)
        await cluster.until_watched()
    assert cluster.api.requests == ["get inferencepools", "list pods", "list pods", "watch pods"]
    assert cluster.lookups("failed") == 0


async def test_a_watch_is_sent_again_with_a_replaced_token(cluster: Cluster) -> None:
    cluster.api.replaces_token_after = "list pods"
    async with cluster.followed():
        await cluster.until_watched()
    assert cluster.api.requests == ["get inferencepools", "list pods", "watch pods", "watch pods"]


async def test_a_deleted_pool_has_no_engines(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_pools, "WATCH_SECONDS", 0.1)
    async with cluster.followed():
        await until(lambda: len(cluster.endpoints) == 2)
        cluster.api.delete(POOLS, "inferencepools", NAMESPACE, "llama")
        await until(lambda: not cluster.endpoints)
        assert cluster.reason == "there is no InferencePool models/llama"
        assert cluster.lookups("failed") == 0
        cluster.api.put(POOLS, "inferencepools", NAMESPACE, pool(8000))
        await until(lambda: len(cluster.endpoints) == 2)


async def test_pods_stay_if_the_cluster_does_not_know_pools(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_pools, "WATCH_SECONDS", 0.1)
    async with cluster.followed():
        await until(lambda: len(cluster.endpoints) == 2)
        cluster.api.kinds.remove("inferencepools")
        await until(lambda: cluster.lookups("failed") >= 1)
        assert len(cluster.endpoints) == 2


async def test_a_missing_definition_of_pools_is_named(cluster: Cluster) -> None:
    cluster.api.kinds.remove("inferencepools")
    async with cluster.followed():
        await until(lambda: "the cluster does not know inference.networking.k8s.io/v1; install" in cluster.reason)
        assert cluster.lookups("failed") >= 1


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (pool(8000, appProtocol="kubernetes.io/h2c"), "has the appProtocol kubernetes.io/h2c, and engines are called"),
        (pool(8000, labels={}), "has no selector.matchLabels or no targetPorts"),
        (pool(), "has no selector.matchLabels or no targetPorts"),
    ],
)
async def test_a_pool_that_cannot_be_used_is_explained(cluster: Cluster, spec: Any, reason: str) -> None:
    cluster.api.put(POOLS, "inferencepools", NAMESPACE, spec)
    async with cluster.followed():
        await until(lambda: reason in cluster.reason)


async def test_outside_a_pod_the_missing_service_account_is_named(cluster: Cluster, tmp_path: Path) -> None:
    cluster.api.service_account = tmp_path / "nowhere"
    async with cluster.followed():
        await until(lambda: f"there is no service account in {tmp_path}/nowhere" in cluster.reason)


async def test_requests_are_answered_by_the_ranks_of_a_pod(cluster: Cluster, neighbours: Neighbours) -> None:
    async with AsyncExitStack() as stack:
        ranks = [await stack.enter_async_context(running_engine()) for _ in range(2)]
        for number, rank in enumerate(ranks):
            rank.script = lambda body, number=number: answer(f"rank {number}")  # type: ignore[misc]  # a default
        ports = [int(rank.url.rpartition(":")[2]) for rank in ranks]
        cluster.api.put(POOLS, "inferencepools", NAMESPACE, pool(*ports))
        cluster.run(pod("llama-0", "127.0.0.1"))
        cluster.api.delete("api/v1", "pods", NAMESPACE, "llama-1")
        models = neighbours.config.models
        models["models"]["big"] = models["models"]["tiny"]
        models["engines"]["fleet"] = {"model": "big", "url": f"inferencepool://{NAMESPACE}/llama"}
        neighbours.settings["service_account"] = cluster.api.service_account
        async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
            await until(lambda: gateway.metric("pointsman_engine_group_members", group="fleet") == 2)
            answers = set()
            for number in range(20):
                body = {"model": "big", "messages": [{"role": "user", "content": f"Hello {number}"}]}
                answered = (await http.post("/v1/chat/completions", json=body)).json()
                answers.add(answered["choices"][0]["message"]["content"])
            assert answers == {"rank 0", "rank 1"}
